//! Attributes in memory, changed at random and compared with a map.

use super::acl::{Acl, inherit};
use super::*;
use crate::bytes::le16;
use crate::fs::ext4::write::dir::tests::Random;
use crate::fs::ext4::xattr::{BLOCK_HASH, BLOCK_HEADER, Value, entry_hash};
use std::collections::BTreeMap;

type Model = BTreeMap<(u8, Vec<u8>), Vec<u8>>;

/// An inode's areas.
struct Inode {
    tail: Vec<u8>,
    block: Option<Vec<u8>>,
    block_size: usize,
}

impl Inode {
    fn new(space: usize, block_size: usize) -> Self {
        Self { tail: vec![0xaa; space], block: None, block_size }
    }

    fn areas(&self) -> XattrAreas<'_> {
        let block = self.block.as_deref().map(|block| (77, block));
        XattrAreas { ino: 12, in_inode: &self.tail, block, block_size: self.block_size }
    }

    fn edit(&mut self, edit: &Edit<'_>) -> Result<()> {
        let edited = apply(&self.areas(), edit, None)?;
        assert_eq!((edited.gone_from_inode, edited.gone_from_block), (None, None));
        if let Some(tail) = edited.in_inode {
            assert_eq!(tail.len(), self.tail.len());
            self.tail = tail;
        }
        match edited.block {
            BlockEdit::Keep => {}
            BlockEdit::Write(block) => self.block = Some(block),
            BlockEdit::Drop => assert!(self.block.take().is_some(), "there was one"),
        }
        Ok(())
    }

    fn set(&mut self, name: &[u8], value: &[u8]) -> Result<()> {
        self.edit(&Edit::Set { index: index::USER, name, value, mode: XattrMode::Set })
    }

    fn remove(&mut self, name: &[u8]) -> Result<()> {
        self.edit(&Edit::Remove { index: index::USER, name })
    }

    fn check(&self, model: &Model) {
        let mut found = Model::new();
        let mut note = |index: u8, name: &[u8], value: Value<'_>| {
            let Value::Here(value) = value else { panic!("no value is elsewhere") };
            assert_eq!(found.insert((index, name.to_vec()), value.to_vec()), None, "an attribute twice");
        };
        for entry in Entries::in_inode(12, &self.tail) {
            let entry = entry.expect("sound");
            assert_eq!(entry.hash, 0);
            note(entry.index, entry.name, entry.value);
        }
        if let Some(block) = &self.block {
            let mut last = (0, 0, Vec::new());
            let mut hash = 0_u32;
            for entry in Entries::in_block(12, 77, block, None).expect("a sound header") {
                let entry = entry.expect("sound");
                let order = (entry.index, entry.name.len(), entry.name.to_vec());
                assert!(last < order, "sorted");
                last = order;
                note(entry.index, entry.name, entry.value);
                let Value::Here(value) = entry.value else { panic!("no value is elsewhere") };
                assert_eq!(entry.hash, entry_hash(entry.name, value));
                hash = hash.rotate_left(16) ^ entry.hash;
            }
            assert_ne!(last.0, 0, "no block is empty");
            assert_eq!((refcount(block), le32(block, BLOCK_HASH)), (1, hash));
        }
        assert_eq!(&found, model);
    }
}

#[test]
fn random_changes_match_a_map() {
    for (seed, (space, block_size)) in
        [(96, 4096), (0, 1024), (96, 1024), (352, 4096), (1888, 65536)].into_iter().enumerate()
    {
        let mut random = Random(seed as u64 + 1);
        let mut inode = Inode::new(space, block_size);
        let mut model = Model::new();
        let mut full = 0;
        for _ in 0..4000 {
            let index = [index::USER, index::TRUSTED, index::SECURITY][random.next(3) as usize];
            let name = vec![b'a' + random.next(3) as u8; 1 + random.next(12) as usize];
            let key = (index, name.clone());
            if random.next(3) == 0 {
                match inode.edit(&Edit::Remove { index, name: &name }) {
                    Ok(()) => assert!(model.remove(&key).is_some()),
                    Err(error) => assert!(error.is_errno(libc::ENODATA) && !model.contains_key(&key)),
                }
            } else {
                let longest = if random.next(5) == 0 { 900 } else { 60 };
                let value = vec![random.next(256) as u8; random.next(longest) as usize];
                let mode = [XattrMode::Set, XattrMode::Create, XattrMode::Replace][random.next(3) as usize];
                match inode.edit(&Edit::Set { index, name: &name, value: &value, mode }) {
                    Ok(()) => {
                        model.insert(key, value);
                    }
                    Err(error) if error.is_errno(libc::EEXIST) => {
                        assert!(mode == XattrMode::Create && model.contains_key(&key));
                    }
                    Err(error) if error.is_errno(libc::ENODATA) => {
                        assert!(mode == XattrMode::Replace && !model.contains_key(&key));
                    }
                    Err(error) => {
                        assert!(error.is_errno(libc::ENOSPC), "{error}");
                        full += 1;
                    }
                }
            }
            inode.check(&model);
        }
        assert!(full > 0 || block_size == 65536);
    }
}

#[test]
fn an_attribute_moves_between_the_inode_and_the_block() {
    let mut inode = Inode::new(96, 1024);
    inode.set(b"a", &[1; 40]).expect("fits the inode");
    assert!(inode.block.is_none());
    inode.set(b"a", &[2; 400]).expect("fits the block");
    assert!(inode.block.is_some() && inode.tail.iter().all(|&byte| byte == 0));
    inode.set(b"b", &[3; 40]).expect("fits the inode");
    inode.set(b"a", &[4; 12]).expect("fits the block only");
    assert!(inode.block.is_some());
    inode.remove(b"b").expect("there");
    inode.set(b"a", &[5; 8]).expect("fits the inode");
    assert!(inode.block.is_none());
}

#[test]
fn an_attribute_fills_an_area_to_its_last_byte() {
    // Header 4, entry 16 and name 4, end 4: 68 of 96 are left for the value.
    let mut inode = Inode::new(96, 1024);
    inode.set(b"name", &[1; 68]).expect("fits");
    assert!(inode.block.is_none());
    inode.set(b"name", &[1; 69]).expect("fits the block");
    assert!(inode.block.is_some());
    // Header 32, entry 16 and name 4, end 4: 968 of 1024.
    inode.set(b"name", &[1; 968]).expect("fits");
    assert!(inode.set(b"name", &[1; 969]).expect_err("too long").is_errno(libc::ENOSPC));
    assert!(inode.set(&[b'n'; 256], b"").expect_err("too long").is_errno(libc::ERANGE));
    assert!(inode.set(b"name", &[0; 65537]).expect_err("too long").is_errno(libc::E2BIG));
    assert_eq!(le16(inode.block.as_ref().expect("one"), BLOCK_HEADER + 2), 1024 - 968);
}

#[test]
fn inline_data_stays_in_the_inode_and_has_the_room_that_is_said() {
    let set = |value: &[u8]| {
        let mut inode = Inode::new(96, 4096);
        inode.tail.fill(0);
        inode.set(b"a", b"text").expect("fits");
        let done = inode.edit(&Edit::Set { index: index::SYSTEM, name: INLINE_DATA, value, mode: XattrMode::Set });
        (inode, done)
    };
    let (inode, done) = set(&[]);
    done.expect("an empty value fits");
    let room = inline_room(12, &inode.tail).expect("sound").expect("fits");
    assert_eq!(room, 96 - 4 - (20 + 4) - 20 - 4);
    set(&vec![1; room]).1.expect("fits");
    assert!(set(&vec![1; room + 1]).1.expect_err("too long").is_errno(libc::ENOSPC));
    assert_eq!(inline_room(12, &[]).expect("sound"), None);
    assert_eq!(inline_room(12, &[0; 28]).expect("sound"), Some(0));
}

#[test]
fn a_value_in_an_inode_of_its_own_is_kept_or_released() {
    let mut inode = Inode::new(0, 1024);
    inode.set(b"big", b"text").expect("fits");
    inode.set(b"other", b"text").expect("fits");
    let block = inode.block.as_mut().expect("one");
    // The entry of "big" says that inode 99 holds 5000 bytes.
    block[BLOCK_HEADER + 2..BLOCK_HEADER + 4].fill(0);
    set_le32(block, BLOCK_HEADER + 4, 99);
    set_le32(block, BLOCK_HEADER + 8, 5000);
    set_le32(block, BLOCK_HEADER + 12, 0x1234);
    assert_eq!(values_of_block(77, inode.block.as_ref().expect("one")).expect("sound"), [99]);
    let edited = apply(&inode.areas(), &Edit::Remove { index: index::USER, name: b"other" }, None).expect("there");
    let BlockEdit::Write(kept) = edited.block else { panic!("the block stays in use") };
    let entries: Vec<_> = Entries::in_block(12, 77, &kept, None).expect("sound").collect::<Result<_>>().expect("sound");
    assert_eq!((entries.len(), entries[0].value, entries[0].hash), (1, Value::Inode { ino: 99, size: 5000 }, 0x1234));
    assert_eq!((edited.gone_from_block, edited.kept_in_block), (None, vec![99]));
    let edited = apply(&inode.areas(), &Edit::Remove { index: index::USER, name: b"big" }, None).expect("there");
    assert_eq!((edited.gone_from_block, edited.kept_in_block), (Some(Gone { ino: 99, size: 5000 }), vec![]));
    // It is replaced by a value that inode 98 holds.
    let value = vec![7; 6000];
    let set = Edit::Set { index: index::USER, name: b"big", value: &value, mode: XattrMode::Replace };
    let edited = apply(&inode.areas(), &set, Some(Held { ino: 98, hash: 0x5678 })).expect("there");
    assert_eq!((edited.gone_from_block, edited.kept_in_block), (Some(Gone { ino: 99, size: 5000 }), vec![]));
    let BlockEdit::Write(block) = edited.block else { panic!("the block stays in use") };
    let entry = Entries::in_block(12, 77, &block, None).expect("sound").next().expect("one").expect("sound");
    let hash = entry_hash(b"big", &0x5678_u32.to_le_bytes());
    assert_eq!((entry.value, entry.hash), (Value::Inode { ino: 98, size: 6000 }, hash));
}

#[test]
fn damaged_areas_give_errors() {
    let mut random = Random(5);
    for _ in 0..5000 {
        let mut inode = Inode::new(200, 1024);
        for (name, len) in [(&b"a"[..], 20), (b"bc", 30), (b"def", 300), (b"g", 100)] {
            inode.set(name, &vec![1; len]).expect("fits");
        }
        for _ in 0..1 + random.next(8) {
            let (at, value) = (random.next(1224) as usize, random.next(256) as u8);
            match at.checked_sub(200) {
                Some(at) => inode.block.as_mut().expect("one")[at] = value,
                None => inode.tail[at] = value,
            }
        }
        // Whatever these answer, they do not panic, and what they leave is sound.
        if let Ok(edited) = apply(&inode.areas(), &Edit::Remove { index: index::USER, name: b"bc" }, None)
            && let BlockEdit::Write(block) = edited.block
        {
            for entry in Entries::in_block(12, 77, &block, None).expect("sound") {
                entry.expect("sound");
            }
        }
        let _ = inode.set(b"new", &[3; 50]);
        let _ = inline_room(12, &inode.tail);
        let _ = values_of_inode(12, &inode.tail);
        let _ = values_of_block(77, inode.block.as_ref().expect("one"));
    }
}

fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

const NO_ID: u32 = u32::MAX;

#[test]
fn lists_that_contradict_themselves_are_refused() {
    let sound = [(1, 7, NO_ID), (2, 5, 1000), (4, 5, NO_ID), (16, 5, NO_ID), (32, 0, NO_ID)];
    let list = Acl::from_xattr(&acl(&sound)).expect("valid").expect("not empty");
    assert_eq!(list.to_xattr(), acl(&sound));
    assert_eq!(Acl::from_disk(12, &list.to_disk()).expect("sound"), Some(list));
    assert_eq!(Acl::from_xattr(&acl(&[])).expect("valid"), None);
    for broken in [
        &[(1, 7, NO_ID), (2, 5, 1000), (4, 5, NO_ID), (32, 0, NO_ID)][..],
        &[(1, 7, NO_ID), (4, 5, NO_ID)],
        &[(4, 7, NO_ID), (1, 5, NO_ID), (32, 0, NO_ID)],
        &[(1, 7, NO_ID), (1, 7, NO_ID), (4, 5, NO_ID), (32, 0, NO_ID)],
        &[(1, 8, NO_ID), (4, 5, NO_ID), (32, 0, NO_ID)],
        &[(1, 7, NO_ID), (2, 7, NO_ID), (4, 5, NO_ID), (16, 7, NO_ID), (32, 0, NO_ID)],
        &[(3, 7, NO_ID), (4, 5, NO_ID), (32, 0, NO_ID)],
    ] {
        assert!(Acl::from_xattr(&acl(broken)).expect_err("refused").is_errno(libc::EINVAL));
    }
    assert!(Acl::from_xattr(&[1, 0, 0, 0]).expect_err("refused").is_errno(libc::EOPNOTSUPP));
    assert!(Acl::from_xattr(&[2, 0, 0]).expect_err("refused").is_errno(libc::EINVAL));
}

#[test]
fn a_default_list_is_inherited_and_takes_the_place_of_the_umask() {
    assert_eq!(inherit(None, 0o100_666, 0o022, false).mode, 0o100_644);
    let full = acl(&[(1, 7, NO_ID), (2, 7, 1000), (4, 5, NO_ID), (16, 7, NO_ID), (32, 5, NO_ID)]);
    let full = Acl::from_xattr(&full).expect("valid").expect("not empty");
    let file = inherit(Some(&full), 0o100_640, 0o077, false);
    assert_eq!((file.mode, file.default), (0o100_640, None));
    let access = acl(&[(1, 6, NO_ID), (2, 7, 1000), (4, 5, NO_ID), (16, 4, NO_ID), (32, 0, NO_ID)]);
    assert_eq!(file.access.expect("one").to_xattr(), access);
    let dir = inherit(Some(&full), 0o40_777, 0o077, true);
    assert_eq!((dir.mode, dir.default.as_ref()), (0o40_775, Some(&full)));
    let plain = acl(&[(1, 7, NO_ID), (4, 5, NO_ID), (32, 1, NO_ID)]);
    let plain = Acl::from_xattr(&plain).expect("valid").expect("not empty");
    let file = inherit(Some(&plain), 0o102_666, 0o022, false);
    assert_eq!((file.mode, file.access), (0o102_640, None));
}

#[test]
fn chmod_changes_the_mask_where_there_is_one() {
    let list = acl(&[(1, 7, NO_ID), (4, 5, NO_ID), (8, 7, 5), (16, 7, NO_ID), (32, 5, NO_ID)]);
    let mut list = Acl::from_xattr(&list).expect("valid").expect("not empty");
    assert_eq!(list.equiv_mode(), (0o775, false));
    list.chmod(0o100_640);
    assert_eq!(list.to_xattr(), acl(&[(1, 6, NO_ID), (4, 5, NO_ID), (8, 7, 5), (16, 4, NO_ID), (32, 0, NO_ID)]));
    let mut plain =
        Acl::from_xattr(&acl(&[(1, 7, NO_ID), (4, 5, NO_ID), (32, 5, NO_ID)])).expect("valid").expect("one");
    plain.chmod(0o711);
    assert_eq!(plain.equiv_mode(), (0o711, true));
}
