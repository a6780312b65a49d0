//! The clusters that hold metadata, so that no write of the guest ever lands there, whatever the tables say.

use parking_lot::RwLock;
use std::collections::HashSet;

/// A set of clusters, by their numbers in the file.
#[derive(Default)]
pub(in super::super) struct Protected {
    clusters: RwLock<HashSet<u64>>,
}

impl Protected {
    /// Adds `count` clusters.
    pub fn add(&self, first: u64, count: u64) {
        self.clusters.write().extend(first..first.saturating_add(count));
    }

    /// Takes a cluster out.
    pub fn remove(&self, cluster: u64) {
        self.clusters.write().remove(&cluster);
    }

    /// Returns a cluster of the set among `count` clusters, if there is one.
    pub fn first_of(&self, first: u64, count: u64) -> Option<u64> {
        let clusters = self.clusters.read();
        (first..first.saturating_add(count)).find(|cluster| clusters.contains(cluster))
    }
}
