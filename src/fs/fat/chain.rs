//! Chains of clusters, as runs of clusters that lie one after another.
//!
//! A chain is kept in segments of bounded length, so that neither a long file nor a hostile chain costs more than the
//! part of it that is read. A chain that is longer than the filesystem has clusters is a loop.

use super::boot::Boot;
use super::table::{Cursor, Link, Table};
use crate::cache::{Cache, CachePool};
use crate::error::{Error, Result};
use std::sync::Arc;

/// How many runs a segment has at most.
const MAX_RUNS: usize = 1024;

/// How many clusters a segment has at most.
const MAX_CLUSTERS: u32 = 1 << 16;

/// Clusters that lie one after another, on the disk and in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Which cluster of the file the first one is, from 0.
    pub index: u32,
    /// The number of the first cluster.
    pub cluster: u32,
    /// How many there are.
    pub count: u32,
}

/// How a segment goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tail {
    Next(u32),
    End,
    Damaged { cluster: u32, link: Link },
}

/// A part of a chain.
#[derive(Debug)]
struct Segment {
    runs: Box<[Run]>,
    /// Which cluster of the file would be the next, from 0.
    end: u32,
    tail: Tail,
}

/// The chains of a filesystem.
pub struct Chains {
    boot: Arc<Boot>,
    table: Table,
    /// Segments by the first cluster of their chain and their number.
    segments: Cache<(u32, u32), Arc<Segment>>,
}

impl Chains {
    /// Makes the chains of a filesystem.
    pub fn new(boot: Arc<Boot>, table: Table, pool: &Arc<CachePool>) -> Self {
        Self { boot, table, segments: Cache::new(pool) }
    }

    /// Returns the table that chains are made of.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Shows the runs of the chain that begins with `first`, from the one that holds the file's cluster `index` on, until
    /// `visit` says that it has enough by returning false. Returns whether it had; otherwise the chain has ended.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where the chain is damaged, after what comes before that was shown; and those of reading and of
    /// `visit`.
    pub fn runs(&self, first: u32, index: u32, mut visit: impl FnMut(Run) -> Result<bool>) -> Result<bool> {
        let (mut cluster, mut at) = (first, 0);
        for number in 0.. {
            let segment = self.segments.get_or_insert((first, number), || {
                let segment = self.segment(cluster, at)?;
                let bytes = size_of::<Segment>() + segment.runs.len() * size_of::<Run>();
                Ok::<_, Error>((Arc::new(segment), bytes))
            })?;
            if segment.end > index {
                let from = segment.runs.partition_point(|run| run.index + run.count <= index);
                for &run in &segment.runs[from..] {
                    if !visit(run)? {
                        return Ok(true);
                    }
                }
            }
            match segment.tail {
                Tail::Next(next) => (cluster, at) = (next, segment.end),
                Tail::End => break,
                Tail::Damaged { cluster, link } => return Err(damaged(cluster, link)),
            }
        }
        Ok(false)
    }

    /// Follows a chain from `cluster`, which is the file's cluster `at`, as far as a segment goes.
    fn segment(&self, mut cluster: u32, at: u32) -> Result<Segment> {
        if !self.boot.has_cluster(cluster) {
            return Err(Error::corrupt(
                "directory entry",
                format!("its first cluster is {cluster}, which is none of the filesystem's"),
            ));
        }
        let mut cursor = Cursor::default();
        let mut runs = vec![Run { index: at, cluster, count: 0 }];
        let mut end = at;
        let tail = loop {
            if end >= self.boot.clusters {
                return Err(Error::corrupt(
                    "cluster chain",
                    format!("at cluster {cluster} it is longer than the filesystem: it has a loop"),
                ));
            }
            if end - at == MAX_CLUSTERS {
                break Tail::Next(cluster);
            }
            let held = runs.len();
            match runs.last_mut() {
                Some(run) if cluster == run.cluster + run.count => run.count += 1,
                _ if held == MAX_RUNS => break Tail::Next(cluster),
                _ => runs.push(Run { index: end, cluster, count: 1 }),
            }
            end += 1;
            match self.table.link(cluster, &mut cursor)? {
                Link::Next(next) => cluster = next,
                Link::End => break Tail::End,
                link => break Tail::Damaged { cluster, link },
            }
        };
        Ok(Segment { runs: runs.into(), end, tail })
    }
}

fn damaged(cluster: u32, link: Link) -> Error {
    let detail = match link {
        Link::Damaged(raw) => format!("after cluster {cluster} comes {raw:#x}, which is none of the filesystem's"),
        _ => format!("cluster {cluster} is part of it and marked as free"),
    };
    Error::corrupt("cluster chain", detail)
}
