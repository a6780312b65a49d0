//! The journal (JBD2).

pub(crate) mod fast_commit;

/// `h_magic`, big-endian, at the beginning of every block of the journal's own.
pub(crate) const MAGIC: u32 = 0xc03b_3998;
