//! The writing half of the ext4 driver.

#[allow(dead_code)]
mod dir;
pub mod store;
#[allow(dead_code)]
mod xattr_edit;
