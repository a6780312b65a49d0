//! Reading ahead across small files.
//!
//! The kernel reads ahead within a file, never from one file to the next, so a program that reads a folder of small files
//! waits for each of them. Here the server notices: when a file is read that was just listed, its neighbours in the listing
//! come next, and their contents are stored in the kernel's page cache (`FUSE_NOTIFY_STORE`) before anybody asks. On a
//! mount that nothing writes to, stored pages are never stale.
//!
//! One thread does this. It holds no lock while it reads or stores, and gives up on a file at the first error: whoever
//! wants it reads it in the ordinary way and is told.

use super::attr::NodeIds;
use crate::tree::{Node, Tree};
use fuser::Notifier;
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Weak, mpsc};

/// The largest file that is stored ahead, in bytes.
const MAX_FILE: u64 = 128 << 10;

/// How many files one step stores, at first and at most.
const FIRST_STEP: usize = 16;
const LARGEST_STEP: usize = 256;

/// The most bytes that one step stores.
const STEP_BYTES: u64 = 2 << 20;

/// How many listings are remembered, and how many files of each.
const LISTINGS: usize = 64;
const LISTED_FILES: usize = 1 << 14;

/// The files of one folder, in the order in which they were listed.
struct Listing {
    files: Vec<(Node, u64)>,
    /// Where files are in the list, the first `indexed` of them: nothing is looked up while folders are only listed.
    places: HashMap<Node, usize>,
    indexed: usize,
    /// Files before this place have been stored or read.
    reached: usize,
    step: usize,
}

struct State {
    listings: LruCache<Node, Listing>,
    /// The folder whose listing holds a file.
    folders: LruCache<Node, Node>,
}

/// What has been listed, and the thread that stores.
pub(super) struct Ahead {
    state: Mutex<State>,
    steps: mpsc::SyncSender<Vec<(Node, u64)>>,
}

impl Ahead {
    /// Starts the thread. It ends when the last reference to what is returned goes.
    pub(super) fn start(tree: &Arc<Tree>, ids: NodeIds) -> (Arc<Self>, AheadThread) {
        let (steps, todo) = mpsc::sync_channel(4);
        let listings = NonZeroUsize::new(LISTINGS).expect("a constant above 0");
        let folders = NonZeroUsize::new(LISTINGS * 1024).expect("a constant above 0");
        let state = State { listings: LruCache::new(listings), folders: LruCache::new(folders) };
        let ahead = Arc::new(Self { state: Mutex::new(state), steps });
        (ahead, AheadThread { tree: Arc::downgrade(tree), ids, todo })
    }

    /// Notes the regular files of a folder that a reply listed from `cookie` on.
    pub(super) fn listed(&self, dir: Node, cookie: u64, files: Vec<(Node, u64)>) {
        let mut state = self.state.lock();
        let listings = &mut state.listings;
        if cookie == 0 || !listings.contains(&dir) {
            let listing =
                Listing { files: Vec::new(), places: HashMap::new(), indexed: 0, reached: 0, step: FIRST_STEP };
            listings.put(dir, listing);
        }
        let Some(listing) = listings.get_mut(&dir) else { return };
        let room = LISTED_FILES - listing.files.len();
        listing.files.extend(files.into_iter().filter(|&(_, size)| size > 0 && size <= MAX_FILE).take(room));
    }

    /// Notes that a file was read from its beginning, which the kernel had to ask for; its neighbours come next.
    pub(super) fn missed(&self, node: Node) {
        let mut state = self.state.lock();
        let State { listings, folders } = &mut *state;
        for (&dir, listing) in listings.iter_mut() {
            for (place, &(node, _)) in listing.files.iter().enumerate().skip(listing.indexed) {
                listing.places.insert(node, place);
                folders.put(node, dir);
            }
            listing.indexed = listing.files.len();
        }
        let Some(listing) = folders.get(&node).and_then(|dir| listings.get_mut(dir)) else { return };
        let Some(&place) = listing.places.get(&node) else { return };
        let follows = place >= listing.reached && place <= listing.reached + 8;
        listing.step = if follows { (listing.step * 2).min(LARGEST_STEP) } else { FIRST_STEP };
        if !follows && place != 0 && listing.reached == 0 {
            // The first read of a folder, in its middle: one file was wanted, perhaps. The next one tells.
            listing.reached = place + 1;
            return;
        }
        let from = place + 1;
        let mut bytes = 0;
        let step: Vec<(Node, u64)> = listing.files[from..]
            .iter()
            .take(listing.step)
            .take_while(|(_, size)| {
                bytes += size;
                bytes <= STEP_BYTES
            })
            .copied()
            .collect();
        listing.reached = from + step.len();
        drop(state);
        if !step.is_empty() {
            // When the thread is behind, reading ahead would only come late.
            let _ = self.steps.try_send(step);
        }
    }
}

/// What the thread works on.
pub(super) struct AheadThread {
    tree: Weak<Tree>,
    ids: NodeIds,
    todo: mpsc::Receiver<Vec<(Node, u64)>>,
}

impl AheadThread {
    /// Stores what is asked for until the mount ends.
    pub(super) fn run(self, notifier: &Notifier) {
        let mut buffer = vec![0; MAX_FILE as usize];
        while let Ok(step) = self.todo.recv() {
            let Some(tree) = self.tree.upgrade() else { return };
            for (node, size) in step {
                let contents = &mut buffer[..size as usize];
                let whole = tree.read(node, 0, contents).is_ok_and(|count| count == contents.len());
                if !whole || notifier.store(self.ids.id(node), 0, contents).is_err() {
                    break;
                }
            }
        }
    }
}
