//! Subvolumes: their table, and the numbers by which the driver knows their inodes.
//!
//! Every subvolume has inode numbers of its own, so the driver's number of an inode is that of its subvolume in the table
//! (16 bits) above that in the subvolume (40 bits). The table is in the order of the subvolumes' identifiers.

use super::inode_ref::RootRef;
use super::key::{Key, kinds, objects};
use super::overlay::Overlay;
use super::root_item::RootItem;
use super::store::Store;
use super::tree::{Root, Tree};
use crate::error::{Error, Result};
use crate::fs::Ino;

const INODE_BITS: u32 = 40;
const TABLE_MAX: usize = 1 << 16;

/// The number that stands for a directory where a subvolume would be, were it in this snapshot.
pub const EMPTY_DIRECTORY: u64 = 2;

/// A subvolume.
pub struct Entry {
    /// Its identifier.
    pub id: u64,
    /// Where its tree begins, and what it is.
    pub item: RootItem,
    /// What its log lays over its tree.
    pub overlay: Option<Overlay>,
    /// Its log, where it has one.
    pub log: Option<Root>,
}

impl Entry {
    /// Returns its tree.
    pub fn tree<'a>(&'a self, store: &'a Store) -> Tree<'a> {
        Tree { store, root: self.item.root, overlay: self.overlay.as_ref() }
    }
}

/// An inode: the number of its subvolume in the table, and its number in the subvolume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The number of the subvolume in the table.
    pub subvolume: usize,
    /// The number of the inode in the subvolume.
    pub number: u64,
}

impl Place {
    /// Takes the driver's number apart.
    pub fn of(ino: Ino) -> Self {
        Self { subvolume: (ino >> INODE_BITS) as usize, number: ino & ((1 << INODE_BITS) - 1) }
    }

    /// Returns the driver's number.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when it does not fit.
    pub fn ino(self) -> Result<Ino> {
        if self.number >> INODE_BITS != 0 || self.subvolume >= TABLE_MAX {
            return Err(Error::unsupported(format!("a Btrfs inode with the number {}", self.number)));
        }
        Ok((self.subvolume as u64) << INODE_BITS | self.number)
    }
}

/// Says whether an identifier is one of a subvolume.
pub fn is_subvolume(id: u64) -> bool {
    id == objects::FS_TREE || (objects::FIRST_FREE..=objects::LAST_FREE).contains(&id)
}

/// All subvolumes that are not deleted.
pub struct Table {
    entries: Vec<Entry>,
}

impl Table {
    /// Reads the table from the root tree.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when there are too many, [`Error::NotAnImage`] when there is not even the top level, and
    /// those of reading.
    pub fn read(root_tree: &Tree<'_>) -> Result<Self> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut from = Key::new(objects::FS_TREE, kinds::ROOT_ITEM, 0);
        loop {
            let mut items = root_tree.range(from, Key::new(objects::LAST_FREE, kinds::ROOT_ITEM, u64::MAX))?;
            let mut skip_to = None;
            while let Some((key, item)) = items.next()? {
                if !is_subvolume(key.object) {
                    // What lies between is free-space caches and other trees.
                    skip_to = Some(Key::new(objects::FIRST_FREE, kinds::ROOT_ITEM, 0));
                    break;
                }
                if key.kind != kinds::ROOT_ITEM {
                    continue;
                }
                let entry =
                    Entry { id: key.object, item: RootItem::parse(&item, key.object)?, overlay: None, log: None };
                match entries.last_mut() {
                    // Of several items of one subvolume the last counts.
                    Some(last) if last.id == entry.id => *last = entry,
                    _ => entries.push(entry),
                }
                if entries.len() > TABLE_MAX {
                    return Err(Error::unsupported(format!("more than {TABLE_MAX} Btrfs subvolumes")));
                }
            }
            match skip_to {
                Some(key) if key > from => from = key,
                _ => break,
            }
        }
        entries.retain(|entry| entry.item.refs > 0 || entry.id == objects::FS_TREE);
        let table = Self { entries };
        if table.find(objects::FS_TREE).is_none() {
            return Err(Error::corrupt("Btrfs root tree", "there is no top-level subvolume"));
        }
        Ok(table)
    }

    /// Returns the number in the table of the subvolume with an identifier.
    pub fn find(&self, id: u64) -> Option<usize> {
        self.entries.binary_search_by_key(&id, |entry| entry.id).ok()
    }

    /// Returns a subvolume by its number in the table.
    pub fn get(&self, number: usize) -> Option<&Entry> {
        self.entries.get(number)
    }

    /// Returns a subvolume by its number in the table, to be changed.
    pub fn get_mut(&mut self, number: usize) -> Option<&mut Entry> {
        self.entries.get_mut(number)
    }

    /// Shows all subvolumes.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }
}

/// Where a subvolume stands in another.
#[derive(Clone, Debug)]
pub struct Parent {
    /// The identifier of the other.
    pub id: u64,
    /// The directory in it.
    pub dir: u64,
    /// The name in the directory.
    pub name: Vec<u8>,
}

/// Returns where a subvolume stands; `None` for the top level.
///
/// # Errors
/// Those of reading.
pub fn parent(root_tree: &Tree<'_>, id: u64) -> Result<Option<Parent>> {
    let Some((key, item)) = root_tree.items(id, kinds::ROOT_BACKREF)?.next()? else { return Ok(None) };
    let found = RootRef::parse(&item)?;
    Ok(Some(Parent { id: key.offset, dir: found.dir, name: found.name.to_vec() }))
}

/// Says whether subvolume `child` stands in subvolume `parent` under this name: a snapshot shows the names of the
/// subvolumes in what it was taken of, but not these themselves.
///
/// # Errors
/// Those of reading.
pub fn stands_in(root_tree: &Tree<'_>, parent: u64, child: u64, dir: u64, name: &[u8]) -> Result<bool> {
    let Some(item) = root_tree.get(&Key::new(parent, kinds::ROOT_REF, child))? else { return Ok(false) };
    let found = RootRef::parse(&item)?;
    Ok(found.dir == dir && found.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_together_and_apart() {
        let place = Place { subvolume: 65535, number: (1 << 40) - 1 };
        assert_eq!(Place::of(place.ino().expect("fits")), place);
        Place { subvolume: 0, number: 1 << 40 }.ino().expect_err("too large");
        assert!(!is_subvolume(7) && is_subvolume(5) && !is_subvolume(objects::TREE_LOG));
    }
}
