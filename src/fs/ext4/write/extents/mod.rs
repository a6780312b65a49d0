//! Extent trees while they change: extents put in and taken out, nodes split and freed, the root moved down and up.
//!
//! Every node's key in the node above is the first block of the file that it holds, as `e2fsck` expects.

pub(super) mod clusters;
mod insert;
mod path;
mod remove;

pub(super) use insert::insert;
pub(super) use remove::remove_some;

use super::super::extent::Extent;

/// The longest extent of each kind, in blocks.
fn longest(unwritten: bool) -> u32 {
    if unwritten { 0x7fff } else { 0x8000 }
}

/// Says whether two extents, the second after the first, may be one.
fn is_one(first: &Extent, second: &Extent) -> bool {
    first.unwritten == second.unwritten
        && first.end() == u64::from(second.logical)
        && first.physical + u64::from(first.len) == second.physical
        && first.len + second.len <= longest(first.unwritten)
}
