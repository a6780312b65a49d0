//! How full the filesystems are, and what a person should know of them.

use super::super::{FilesystemInfo, Guestfs, Held};
use crate::error::Result;
use crate::fs::StatFs;
use crate::fs::probe::Usage;
use serde::Serialize;

/// A volume, and the filesystem on it.
#[derive(Clone, Debug, Serialize)]
pub struct FilesystemState {
    /// What it is.
    #[serde(flatten)]
    pub filesystem: FilesystemInfo,
    /// How full it is; none where no driver reads it, or it cannot be read.
    pub usage: Option<SpaceUsage>,
    /// What a person should know of it: a dirty journal, a missing device, that it is almost full.
    pub warnings: Vec<String>,
}

/// How full a filesystem is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SpaceUsage {
    /// The space in all, in bytes.
    pub size: u64,
    /// The space that is taken, in bytes.
    pub used: u64,
    /// The space that an ordinary user may still take, in bytes.
    pub available: u64,
    /// Inodes in all; 0 where that has no meaning.
    pub inodes: u64,
    /// Inodes that are taken.
    pub inodes_used: u64,
}

/// A filesystem that is fuller than this is said to be almost full, in percent.
const ALMOST_FULL: u64 = 95;

impl SpaceUsage {
    fn new(full: &StatFs) -> Self {
        let bytes = |blocks: u64| blocks.saturating_mul(full.block_size.into());
        Self {
            size: bytes(full.blocks),
            used: bytes(full.blocks.saturating_sub(full.blocks_free)),
            available: bytes(full.blocks_available),
            inodes: full.files,
            inodes_used: full.files.saturating_sub(full.files_free),
        }
    }

    /// Returns the part of the space that is taken, in percent, rounded up as df(1) does.
    pub fn percent(&self) -> u64 {
        percent(self.used, self.used.saturating_add(self.available))
    }

    /// Says what is almost full, if anything is.
    fn warning(&self) -> Option<String> {
        let inodes = percent(self.inodes_used, self.inodes);
        if self.percent() >= ALMOST_FULL {
            Some(format!("almost full: {}% of the space is taken", self.percent()))
        } else if inodes >= ALMOST_FULL {
            Some(format!("almost full: {inodes}% of the inodes are taken"))
        } else {
            None
        }
    }
}

fn percent(part: u64, all: u64) -> u64 {
    if all == 0 { 0 } else { (u128::from(part) * 100).div_ceil(u128::from(all)).try_into().unwrap_or(u64::MAX) }
}

impl Guestfs {
    /// Returns all volumes, how full the filesystems on them are, and what a person should know of them.
    ///
    /// # Errors
    /// [`Usage`](crate::Error::Usage) before launch.
    pub fn inspect_filesystems(&self) -> Result<Vec<FilesystemState>> {
        let options = self.fs_options();
        let launched = self.launched()?;
        let state = |(filesystem, held): (FilesystemInfo, &Held)| {
            let mut state = FilesystemState { filesystem, usage: None, warnings: Vec::new() };
            if !state.filesystem.readable {
                let usage = held.identity.as_ref().map(|identity| identity.usage);
                if usage == Some(Usage::Crypto) && !held.is_used {
                    state.warnings.push(format!("encrypted ({}): what is in it is not read", state.filesystem.kind));
                }
                return state;
            }
            let read = launched.filesystem(held, None, &options, false).and_then(|filesystem| {
                state.warnings.clone_from(&filesystem.info().warnings);
                filesystem.statfs()
            });
            match read {
                Ok(full) => {
                    let usage = SpaceUsage::new(&full);
                    state.warnings.extend(usage.warning());
                    state.usage = Some(usage);
                }
                Err(error) => state.warnings.push(error.to_string()),
            }
            state
        };
        Ok(self.filesystems()?.into_iter().zip(&launched.volumes).map(state).collect())
    }
}
