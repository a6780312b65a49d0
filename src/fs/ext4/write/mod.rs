//! The writing half of the ext4 driver.

pub mod store;
