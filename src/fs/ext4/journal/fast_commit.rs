//! Fast commits: small changes of inodes and names, written after the log instead of whole blocks.
//!
//! Each is a sequence of tags with little-endian values, ended by one with a checksum. Replaying them on a device would
//! insert extents and directory entries; here the changed inodes and names are kept in memory and laid over what is stored.
//! Specified in the kernel's `Documentation/filesystems/ext4/journal.rst` and `fs/ext4/fast_commit.h`.

use super::Journal;
use crate::bytes::{le16, le32};
use crate::error::{Error, Result};
use crate::fs::ext4::checksum::crc32c;
use crate::fs::ext4::dir;
use crate::fs::ext4::directory::Wanted;
use crate::fs::ext4::extent::{Extent, Node};
use crate::fs::ext4::inode::{self, Inode, flag};
use crate::fs::ext4::mapping::Place;
use crate::fs::ext4::volume::Volume;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

const TAG_ADD_RANGE: u16 = 1;
const TAG_DEL_RANGE: u16 = 2;
const TAG_CREAT: u16 = 3;
const TAG_LINK: u16 = 4;
const TAG_UNLINK: u16 = 5;
const TAG_INODE: u16 = 6;
const TAG_PAD: u16 = 7;
const TAG_TAIL: u16 = 8;
const TAG_HEAD: u16 = 9;

/// The size of a tag without its value, in bytes.
const TAG_HEADER: usize = 4;

/// The most records that are replayed; the largest area that mke2fs makes by itself holds a third of that.
const MOST_TAGS: usize = 1 << 18;

/// A tag's number and value.
#[derive(Clone, Debug)]
struct Tag {
    number: u16,
    value: Vec<u8>,
}

/// A name that fast commits gave.
#[derive(Clone, Debug)]
pub(crate) struct Added {
    /// The name.
    pub(crate) name: Vec<u8>,
    /// The inode it leads to.
    pub(crate) ino: u32,
}

/// What fast commits changed of a directory's names.
#[derive(Debug, Default)]
pub(crate) struct DirChanges {
    /// The parent of a directory that fast commits made, of which nothing is stored yet.
    pub(crate) made_in: Option<u32>,
    removed: HashSet<Vec<u8>>,
    added: Vec<Option<Added>>,
    by_name: HashMap<Vec<u8>, usize>,
}

impl DirChanges {
    /// Says whether a stored name was removed.
    pub(crate) fn hides(&self, name: &[u8]) -> bool {
        self.removed.contains(name)
    }

    /// Returns the stored names that were removed.
    pub(crate) fn removed(&self) -> impl Iterator<Item = &[u8]> {
        self.removed.iter().map(Vec::as_slice)
    }

    /// Returns the names that were added and not removed again, from position `from` on, with their positions.
    pub(crate) fn added(&self, from: usize) -> impl Iterator<Item = (usize, &Added)> {
        self.added.iter().enumerate().skip(from).filter_map(|(at, added)| Some((at, added.as_ref()?)))
    }

    /// Returns the inode of an added name by its bytes.
    pub(crate) fn find(&self, name: &[u8]) -> Option<u32> {
        self.added[*self.by_name.get(name)?].as_ref().map(|added| added.ino)
    }
}

/// What fast commits changed.
#[derive(Default)]
pub(crate) struct FastCommits {
    /// Changed inodes; `None` for one whose last name went.
    inodes: HashMap<u32, Option<Arc<Inode>>>,
    dirs: HashMap<u32, DirChanges>,
    /// How many tags were replayed.
    pub(crate) tags: usize,
}

impl FastCommits {
    /// Returns an inode that fast commits changed; `ENOENT` for one that they took away.
    #[inline]
    pub(crate) fn inode(&self, ino: u32) -> Option<Result<Arc<Inode>>> {
        if self.inodes.is_empty() {
            return None;
        }
        self.inodes.get(&ino).map(|inode| inode.clone().ok_or(Error::Errno(libc::ENOENT)))
    }

    /// Returns what fast commits changed of a directory's names.
    #[inline]
    pub(crate) fn dir(&self, ino: u32) -> Option<&DirChanges> {
        if self.dirs.is_empty() { None } else { self.dirs.get(&ino) }
    }
}

/// Says whether a value has a length that its tag may have.
fn is_length_valid(volume: &Volume, number: u16, len: usize) -> bool {
    match number {
        TAG_ADD_RANGE => len == 16,
        TAG_DEL_RANGE => len == 12,
        TAG_CREAT | TAG_LINK | TAG_UNLINK => (9..=8 + dir::NAME_MAX).contains(&len),
        TAG_INODE => (4 + inode::OLD_SIZE..=4 + volume.superblock.inode_size as usize).contains(&len),
        TAG_TAIL => len >= 8,
        TAG_HEAD => len == 8,
        TAG_PAD => true,
        _ => false,
    }
}

/// Reads the tags of all fast commits that are whole and follow the transaction before `sequence`.
fn read_tags(volume: &Volume, journal: &Journal, sequence: u32) -> Result<Vec<Tag>> {
    let mut tags = Vec::new();
    let mut whole = 0;
    let mut crc = 0;
    let mut is_first = true;
    'blocks: for number in journal.superblock.fast_commits() {
        let block = journal.block(volume, number)?;
        if is_first && le16(&block, 0) != TAG_HEAD {
            break;
        }
        is_first = false;
        let mut at = 0;
        while at + TAG_HEADER <= block.len() {
            let (tag, len) = (le16(&block, at), usize::from(le16(&block, at + 2)));
            let end = at + TAG_HEADER + len;
            if end > block.len() || !is_length_valid(volume, tag, len) {
                break 'blocks;
            }
            let value = &block[at + TAG_HEADER..end];
            match tag {
                TAG_TAIL => {
                    crc = crc32c(crc, &block[at..at + TAG_HEADER + 4]);
                    if le32(value, 0) != sequence || le32(value, 4) != crc {
                        break 'blocks;
                    }
                    crc = 0;
                    whole = tags.len();
                }
                TAG_HEAD if le32(value, 0) != 0 => {
                    return Err(Error::unsupported(format!("fast commits with features {:#x}", le32(value, 0))));
                }
                TAG_HEAD if le32(value, 4) != sequence => break 'blocks,
                _ => {
                    crc = crc32c(crc, &block[at..end]);
                    if !matches!(tag, TAG_PAD | TAG_HEAD) {
                        if tags.len() == MOST_TAGS {
                            return Err(Error::unsupported(format!("more than {MOST_TAGS} records of fast commits")));
                        }
                        tags.push(Tag { number: tag, value: value.to_vec() });
                    }
                }
            }
            at = end;
        }
    }
    tags.truncate(whole);
    Ok(tags)
}

/// What fast commits ask for, in the form in which inodes are stored.
pub(crate) struct Changes {
    pub(crate) inodes: HashMap<u32, State>,
    pub(crate) dirs: HashMap<u32, DirChanges>,
    /// How many tags there were.
    pub(crate) tags: usize,
}

/// An inode as replaying goes on.
pub(crate) struct State {
    /// Its bytes. Where `extents` are given, they lie there and not in the block area.
    pub(crate) raw: Vec<u8>,
    /// Its extents by their first block; `None` where they are what is stored.
    pub(crate) extents: Option<BTreeMap<u32, Extent>>,
}

impl State {
    fn links(&self) -> u16 {
        le16(&self.raw, inode::field::LINKS)
    }

    fn set_links(&mut self, links: u16) {
        crate::bytes::set_le16(&mut self.raw, inode::field::LINKS, links);
    }

    fn is_dir(&self) -> bool {
        u32::from(le16(&self.raw, inode::field::MODE)) & libc::S_IFMT == libc::S_IFDIR
    }
}

struct Replay<'a> {
    volume: &'a Volume,
    inodes: HashMap<u32, State>,
    dirs: HashMap<u32, DirChanges>,
}

/// Reads the fast commits after the transaction before `sequence`.
///
/// # Errors
/// [`Error::Unsupported`] for fast commits of a newer kind, [`Error::Corrupt`] for a change that cannot be; those of reading.
pub(crate) fn collect(volume: &Volume, journal: &Journal, sequence: u32) -> Result<Changes> {
    let tags = read_tags(volume, journal, sequence)?;
    let mut replay = Replay { volume, inodes: HashMap::new(), dirs: HashMap::new() };
    for tag in &tags {
        replay.apply(tag)?;
    }
    Ok(Changes { inodes: replay.inodes, dirs: replay.dirs, tags: tags.len() })
}

/// Replays the fast commits after the transaction before `sequence` in memory.
///
/// # Errors
/// As [`collect`].
pub(crate) fn replay(volume: &Volume, journal: &Journal, sequence: u32) -> Result<FastCommits> {
    let changes = collect(volume, journal, sequence)?;
    let mut commits = FastCommits { inodes: HashMap::new(), dirs: changes.dirs, tags: changes.tags };
    for (ino, state) in changes.inodes {
        let inode = match Inode::decode(&volume.superblock, ino, &state.raw) {
            Ok(mut inode) => {
                if let Some(extents) = state.extents
                    && inode.uses_extents()
                {
                    inode.root = Some(Node::Leaf(extents.into_values().collect()));
                }
                Some(Arc::new(inode))
            }
            Err(error) if error.is_errno(libc::ENOENT) => None,
            Err(error) => return Err(error),
        };
        commits.inodes.insert(ino, inode);
    }
    Ok(commits)
}

fn damaged(detail: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::corrupt("fast commit in the journal", detail)
}

impl Replay<'_> {
    fn apply(&mut self, tag: &Tag) -> Result<()> {
        let value = &tag.value[..];
        match tag.number {
            TAG_ADD_RANGE => {
                let extent = Extent::decode(&value[4..16]);
                let end = extent.physical.checked_add(u64::from(extent.len));
                if extent.len == 0
                    || extent.end() > 1 << 32
                    || extent.physical == 0
                    || end.is_none_or(|end| end > self.volume.superblock.blocks_count)
                {
                    return Err(damaged("an added range that cannot be"));
                }
                self.change_range(le32(value, 0), extent.logical, extent.len, Some(extent))
            }
            TAG_DEL_RANGE => self.change_range(le32(value, 0), le32(value, 4), le32(value, 8), None),
            TAG_INODE => self.change_inode(le32(value, 0), &value[4..]),
            _ => {
                let (parent, ino, name) = (le32(value, 0), le32(value, 4), &value[8..]);
                self.volume.inode_place(parent).and_then(|_| self.volume.inode_place(ino)).map_err(|error| {
                    if error.is_errno(libc::ENOENT) { damaged("a name of an inode that does not exist") } else { error }
                })?;
                if !dir::is_name(name) || dir::is_dot(name) {
                    return Err(damaged("an impossible name"));
                }
                match tag.number {
                    TAG_CREAT => self.create(parent, ino, name),
                    TAG_LINK => self.link(parent, ino, name),
                    _ => self.unlink(parent, ino, name),
                }
            }
        }
    }

    fn state(&mut self, ino: u32) -> Result<&mut State> {
        if !self.inodes.contains_key(&ino) {
            let (block, range) = match self.volume.raw_inode(ino) {
                Err(error) if error.is_errno(libc::ENOENT) => return Err(damaged("an inode that does not exist")),
                other => other?,
            };
            self.inodes.insert(ino, State { raw: block[range].to_vec(), extents: None });
        }
        Ok(self.inodes.get_mut(&ino).expect("it was just put there"))
    }

    fn change_inode(&mut self, ino: u32, raw: &[u8]) -> Result<()> {
        use inode::field::{BLOCK, FLAGS, GENERATION};
        let state = self.state(ino)?;
        state.raw[..BLOCK].copy_from_slice(&raw[..BLOCK]);
        state.raw[GENERATION..raw.len()].copy_from_slice(&raw[GENERATION..]);
        // The extents come as ranges; what else the field may hold (a device's number, a link's text, inline data) comes
        // with the inode.
        if le32(raw, FLAGS) & flag::EXTENTS == 0 {
            state.raw[BLOCK..GENERATION].copy_from_slice(&raw[BLOCK..GENERATION]);
        } else if le16(&state.raw, BLOCK) != crate::fs::ext4::extent::MAGIC && state.extents.is_none() {
            state.extents = Some(BTreeMap::new());
        }
        Ok(())
    }

    /// Loads the extents of an inode as the device has them.
    fn load_extents(&mut self, ino: u32) -> Result<()> {
        let volume = self.volume;
        let state = self.state(ino)?;
        if state.extents.is_some() {
            return Ok(());
        }
        let mut extents = BTreeMap::new();
        let stored = match Inode::decode(&volume.superblock, ino, &state.raw) {
            Ok(inode) if inode.uses_extents() => Some(inode),
            Ok(_) => None,
            Err(error) if error.is_errno(libc::ENOENT) => None,
            Err(error) => return Err(error),
        };
        if let Some(inode) = stored {
            let mut at = 0;
            while at < 1 << 32 {
                let stretch = volume.stretch(&inode, at)?;
                let (physical, unwritten) = match stretch.place {
                    Place::Hole => {
                        at = stretch.end;
                        continue;
                    }
                    Place::Unwritten(block) => (block, true),
                    Place::Block(block) => (block, false),
                };
                let (logical, len) = (at as u32, (stretch.end - at) as u32);
                extents.insert(logical, Extent { logical, len, physical, unwritten });
                at = stretch.end;
            }
        }
        self.state(ino)?.extents = Some(extents);
        Ok(())
    }

    /// Takes a range of blocks from an inode, and puts an extent in its place.
    fn change_range(&mut self, ino: u32, logical: u32, len: u32, new: Option<Extent>) -> Result<()> {
        self.load_extents(ino)?;
        let Some(extents) = &mut self.state(ino)?.extents else { return Ok(()) };
        let (start, end) = (u64::from(logical), u64::from(logical) + u64::from(len));
        let first = extents.range(..=logical).next_back().map_or(logical, |(&first, _)| first);
        let touched: Vec<Extent> =
            extents.range(first..).take_while(|(at, _)| u64::from(**at) < end).map(|(_, extent)| *extent).collect();
        for old in touched.into_iter().filter(|old| old.end() > start) {
            extents.remove(&old.logical);
            if u64::from(old.logical) < start {
                extents.insert(old.logical, Extent { len: logical - old.logical, ..old });
            }
            if old.end() > end {
                let skipped = (end - u64::from(old.logical)) as u32;
                let rest = Extent {
                    logical: end as u32,
                    len: old.len - skipped,
                    physical: old.physical + u64::from(skipped),
                    unwritten: old.unwritten,
                };
                extents.insert(rest.logical, rest);
            }
        }
        if let Some(extent) = new {
            extents.insert(extent.logical, extent);
        }
        Ok(())
    }

    /// Finds a name as it is after the changes so far.
    fn find(&self, parent: u32, name: &[u8]) -> Result<Option<u32>> {
        if let Some(changes) = self.dirs.get(&parent) {
            if let Some(ino) = changes.find(name) {
                return Ok(Some(ino));
            }
            if changes.made_in.is_some() || changes.hides(name) {
                return Ok(None);
            }
        }
        match self.volume.stored_inode(parent) {
            Ok(dir) if dir.is_dir() => Ok(self.volume.find_stored(&dir, &Wanted::Bytes(name))?.map(|(ino, _)| ino)),
            Ok(_) => Ok(None),
            Err(error) if error.is_errno(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives a name; returns whether there was none before.
    fn add_name(&mut self, parent: u32, ino: u32, name: &[u8]) -> Result<bool> {
        if self.find(parent, name)?.is_some() {
            return Ok(false);
        }
        let changes = self.dirs.entry(parent).or_default();
        changes.by_name.insert(name.to_vec(), changes.added.len());
        changes.added.push(Some(Added { name: name.to_vec(), ino }));
        Ok(true)
    }

    fn create(&mut self, parent: u32, ino: u32, name: &[u8]) -> Result<()> {
        let state = self.state(ino)?;
        if state.links() == 0 {
            state.set_links(1);
        }
        // What an earlier inode of this number left behind its fields is not part of the new one.
        if state.raw.len() > inode::OLD_SIZE && le32(&state.raw, inode::field::FLAGS) & flag::INLINE_DATA == 0 {
            let fields_end = inode::OLD_SIZE + usize::from(le16(&state.raw, inode::field::EXTRA_ISIZE));
            if let Some(rest) = state.raw.get_mut(fields_end..) {
                rest.fill(0);
            }
        }
        if state.is_dir() {
            state.extents = Some(BTreeMap::new());
            state.set_links(2);
            self.dirs.insert(ino, DirChanges { made_in: Some(parent), ..DirChanges::default() });
            if self.add_name(parent, ino, name)? {
                self.count_subdirectory(parent, 1)?;
            }
        } else {
            self.add_name(parent, ino, name)?;
        }
        Ok(())
    }

    /// Counts a directory's link from a subdirectory, which its own inode does not tell: directories are not among the
    /// inodes of fast commits. A count of 1 stands for more than can be counted.
    fn count_subdirectory(&mut self, parent: u32, change: i32) -> Result<()> {
        let state = self.state(parent)?;
        if state.links() >= 2 {
            let links = i32::from(state.links()) + change;
            state.set_links(links.clamp(2, i32::from(u16::MAX)) as u16);
        }
        Ok(())
    }

    fn link(&mut self, parent: u32, ino: u32, name: &[u8]) -> Result<()> {
        if self.add_name(parent, ino, name)? {
            let state = self.state(ino)?;
            let links = state.links().saturating_add(1);
            state.set_links(links);
        }
        Ok(())
    }

    fn unlink(&mut self, parent: u32, ino: u32, name: &[u8]) -> Result<()> {
        let Some(found) = self.find(parent, name)? else { return Ok(()) };
        // A name that leads elsewhere by now was renamed over; only the link goes.
        if found == ino {
            let changes = self.dirs.entry(parent).or_default();
            match changes.by_name.remove(name) {
                Some(at) => changes.added[at] = None,
                None => {
                    changes.removed.insert(name.to_vec());
                }
            }
        }
        let state = self.state(ino)?;
        let links = if state.is_dir() { 0 } else { state.links().saturating_sub(1) };
        let is_dir = state.is_dir();
        state.set_links(links);
        if links == 0 {
            // Whoever has the number next begins without blocks.
            state.extents = Some(BTreeMap::new());
        }
        if is_dir {
            self.count_subdirectory(parent, -1)?;
        }
        Ok(())
    }
}
