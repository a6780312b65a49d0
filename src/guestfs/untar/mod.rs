//! Reading a tar archive: the members and what is said of each, from a stream.
//!
//! The forms are those of POSIX (`ustar` and PAX), of GNU tar (long names, sparse files, numbers in base 256) and of tar
//! before both. See pax(1) of POSIX, and "Basic Tar Format" and "Storing Sparse Files" of the manual of GNU tar. Nothing of
//! an archive is trusted: what it makes this program keep is limited, and numbers are checked.
//!
//! The reader of the crate `tar`, which writes archives here, does not do for this: it keeps extensions of any length, splits
//! them at line feeds (which values of extended attributes hold), passes over global ones, does not know the sparse files of
//! PAX archives, and gives holes as zeroes.

mod compressed;
mod extensions;
mod header;
mod sparse;

pub(super) use compressed::decompress;

use super::put::{ACL_ACCESS, ACL_DEFAULT, Xattrs};
use crate::error::{Error, Result};
use crate::fs::{FileType, Timestamp};
use extensions::{Extensions, xattrs};
use header::{check_sum, number, text, time, unsigned};
use sparse::check_map;
use std::io::Read;

/// The size of the blocks that an archive is made of, in bytes.
const BLOCK: usize = 512;

/// The longest extension of a header that is kept, in bytes.
const LONGEST_EXTENSION: u64 = 4 << 20;

/// The most records and bytes of extensions that count for all members. Each member looks at them.
const MOST_GLOBAL: usize = 256;
const LONGEST_GLOBAL: usize = 64 << 10;

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file of its own.
    File(FileType),
    /// Another name of a member before it.
    HardLink,
}

/// A member of an archive.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) kind: Kind,
    pub(super) path: Vec<u8>,
    /// The text of a symbolic link, or the path of the member that a hard link names.
    pub(super) link: Vec<u8>,
    pub(super) permissions: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) uname: Vec<u8>,
    pub(super) gname: Vec<u8>,
    pub(super) rdev: (u32, u32),
    pub(super) mtime: Timestamp,
    pub(super) atime: Option<Timestamp>,
    pub(super) xattrs: Xattrs,
    /// Access control lists in the text form, with the names of their attributes.
    pub(super) acls: Xattrs,
    /// The size that the file is to have, in bytes.
    pub(super) size: u64,
    /// Where there is data, as offset and length; `None` for a file without holes.
    pub(super) map: Option<Vec<(u64, u64)>>,
}

fn damaged(detail: impl Into<String>) -> Error {
    Error::corrupt("tar archive", detail.into())
}

/// The members of an archive, one after the other.
pub(super) struct Members<R> {
    from: R,
    /// Extensions that count for all members from there on.
    global: Extensions,
    /// How much of the last member's data is unread, and how much padding follows.
    left: u64,
    padding: usize,
}

impl<R: Read> Members<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, global: Extensions::default(), left: 0, padding: 0 }
    }

    fn exact(&mut self, buffer: &mut [u8]) -> Result<()> {
        self.from.read_exact(buffer).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => damaged("it ends in the middle"),
            _ => from_stream(error),
        })
    }

    /// Reads the next block; `None` at the end of the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.from.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(damaged("it ends in the middle")),
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(from_stream(error)),
            }
        }
        Ok(Some(block))
    }

    fn begin_data(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK - (size % BLOCK as u64) as usize) % BLOCK;
    }

    /// Reads data of the member; 0 at its end.
    pub(super) fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let wanted = self.left.min(buffer.len() as u64) as usize;
        self.exact(&mut buffer[..wanted])?;
        self.left -= wanted as u64;
        Ok(wanted)
    }

    /// Passes over what is left of the member.
    fn skip(&mut self) -> Result<()> {
        let mut left = self.left + self.padding as u64;
        let mut buffer = [0; 8192];
        while left > 0 {
            let wanted = left.min(buffer.len() as u64) as usize;
            self.exact(&mut buffer[..wanted])?;
            left -= wanted as u64;
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    /// Reads an extension of a header as a whole.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > LONGEST_EXTENSION {
            return Err(damaged(format!("an extension of {size} bytes is too long")));
        }
        let mut bytes = vec![0; size as usize];
        self.begin_data(size);
        self.read_data(&mut bytes)?;
        self.skip()?;
        Ok(bytes)
    }

    /// Returns the next member; what was not read of the one before is passed over.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where the archive is damaged, [`Error::Unsupported`] for a part of one, those of the stream.
    pub(super) fn next(&mut self) -> Result<Option<Member>> {
        self.skip()?;
        let mut local = Extensions::default();
        let (mut long_name, mut long_link) = (None, None);
        loop {
            let Some(header) = self.block()? else { return Ok(None) };
            if header.iter().all(|&byte| byte == 0) {
                return Ok(None);
            }
            check_sum(&header)?;
            let size = unsigned(&header[header::SIZE], "size")?;
            match header[header::TYPE] {
                b'x' => local = Extensions::parse(&self.extension(size)?)?,
                b'g' => {
                    let more = Extensions::parse(&self.extension(size)?)?;
                    for (key, value) in more.records {
                        self.global.records.retain(|(known, _)| *known != key);
                        self.global.records.push((key, value));
                        if self.global.records.len() > MOST_GLOBAL {
                            return Err(damaged("it has too many global extensions"));
                        }
                    }
                    let len = |(key, value): &(Vec<u8>, Vec<u8>)| key.len() + value.len();
                    if self.global.records.iter().map(len).sum::<usize>() > LONGEST_GLOBAL {
                        return Err(damaged("its global extensions are too long"));
                    }
                }
                b'L' => long_name = Some(text(&self.extension(size)?)),
                b'K' => long_link = Some(text(&self.extension(size)?)),
                // A label of the volume, and names of an old form.
                b'V' | b'N' => {
                    self.begin_data(size);
                    self.skip()?;
                }
                b'M' => return Err(Error::unsupported("an archive that goes on in another volume")),
                _ => return self.member(&header, size, &local, long_name, long_link).map(Some),
            }
        }
    }

    fn member(
        &mut self,
        header: &[u8; BLOCK],
        size: u64,
        local: &Extensions,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Member> {
        let mut all = self.global.clone();
        all.records.extend_from_slice(&local.records);
        let mut path = text(&header[header::NAME]);
        if &header[header::MAGIC] == b"ustar\0" && header[header::PREFIX.start] != 0 {
            path = [text(&header[header::PREFIX]), path].join(&b'/');
        }
        let path = long_name.unwrap_or(path);
        let path = all.get("GNU.sparse.name").or(all.get("path")).map_or(path, <[u8]>::to_vec);
        let link = long_link.unwrap_or_else(|| text(&header[header::LINK]));
        let link = all.get("linkpath").map_or(link, <[u8]>::to_vec);
        let kind = match header[header::TYPE] {
            b'1' => Kind::HardLink,
            b'2' => Kind::File(FileType::Symlink),
            b'3' => Kind::File(FileType::CharDevice),
            b'4' => Kind::File(FileType::BlockDevice),
            b'5' | b'D' => Kind::File(FileType::Directory),
            b'6' => Kind::File(FileType::Fifo),
            // Before POSIX a slash at the end was all that told a folder.
            0 | b'0' if path.ends_with(b"/") => Kind::File(FileType::Directory),
            _ => Kind::File(FileType::Regular),
        };
        // A link has no data, whatever size it has.
        let size = if kind == Kind::HardLink { 0 } else { all.number("size")?.unwrap_or(size) };
        if size > i64::MAX.cast_unsigned() {
            return Err(damaged("a size is too large"));
        }
        let owner = |key: &str, field: &[u8]| -> Result<u32> {
            let number = match all.number(key)? {
                Some(number) => number,
                None => unsigned(field, "owner")?,
            };
            u32::try_from(number).map_err(|_| damaged("an owner is too large"))
        };
        let mtime = match all.get("mtime").and_then(time) {
            Some(time) => time,
            None => {
                let seconds = number(&header[header::MTIME]).ok_or_else(|| damaged("its time is no number"))?;
                Timestamp { seconds, nanoseconds: 0 }
            }
        };
        let name_of = |key: &str, field: &[u8]| all.get(key).map_or_else(|| text(field), <[u8]>::to_vec);
        let mut rdev = (0, 0);
        if let Kind::File(FileType::CharDevice | FileType::BlockDevice) = kind {
            rdev.0 = unsigned(&header[header::MAJOR], "device")? as u32;
            rdev.1 = unsigned(&header[header::MINOR], "device")? as u32;
        }
        let mut member = Member {
            kind,
            path,
            link,
            permissions: (unsigned(&header[header::MODE], "mode")? & 0o7777) as u16,
            uid: owner("uid", &header[header::UID])?,
            gid: owner("gid", &header[header::GID])?,
            uname: name_of("uname", &header[header::UNAME]),
            gname: name_of("gname", &header[header::GNAME]),
            rdev,
            mtime,
            atime: all.get("atime").and_then(time),
            xattrs: xattrs(&all)?,
            acls: [("SCHILY.acl.access", ACL_ACCESS), ("SCHILY.acl.default", ACL_DEFAULT)]
                .into_iter()
                .filter_map(|(key, name)| Some((name.to_vec(), all.get(key)?.to_vec())))
                .collect(),
            size,
            map: None,
        };
        let old_map = if header[header::TYPE] == b'S' { Some(self.old_map(header, &mut member)?) } else { None };
        self.begin_data(size);
        if kind != Kind::File(FileType::Regular) {
            self.skip()?;
            return Ok(member);
        }
        member.map = match old_map {
            Some(map) => Some(map),
            None => self.sparse_map(&all, &mut member)?,
        };
        if let Some(map) = &member.map {
            check_map(map, member.size, self.left)?;
        }
        Ok(member)
    }
}

/// Returns the error of a stream, which may carry one of ours.
fn from_stream(error: std::io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        Err(error) => Error::io("cannot read the archive", error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a member of an archive with its data.
    fn member(kind: tar::EntryType, data: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_ustar();
        header.set_path("name").expect("short");
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(data.len() as u64);
        header.set_cksum();
        let mut bytes = [header.as_bytes().as_slice(), data].concat();
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }

    #[test]
    fn a_flood_of_extensions_is_refused_before_it_costs_much() {
        let flood = |prefix: &str| -> Vec<u8> {
            (100_000..150_000)
                .flat_map(|number| {
                    let record = format!(" {prefix}{number}=\n");
                    format!("{}{record}", record.len() + 2).into_bytes()
                })
                .collect()
        };
        let began = std::time::Instant::now();
        for (kind, prefix) in [(tar::EntryType::XGlobalHeader, ""), (tar::EntryType::XHeader, "SCHILY.xattr.")] {
            let archive = [member(kind, &flood(prefix)), member(tar::EntryType::Regular, b"x")].concat();
            let error = Members::new(archive.as_slice()).next().expect_err("a flood");
            assert!(error.to_string().contains("too many"), "{error}");
        }
        assert!(began.elapsed().as_secs() < 30, "{:?}", began.elapsed());
    }

    #[test]
    fn values_of_extensions_hold_line_feeds() {
        let archive = [
            member(tar::EntryType::XGlobalHeader, b"11 uid=007\n"),
            member(tar::EntryType::XHeader, b"27 SCHILY.xattr.user.a=x\ny\n"),
            member(tar::EntryType::Regular, b"x"),
        ]
        .concat();
        let first = Members::new(archive.as_slice()).next().expect("sound").expect("a member");
        assert_eq!((first.xattrs, first.uid), (vec![(b"user.a".to_vec(), b"x\ny".to_vec())], 7));
    }

    #[test]
    fn what_is_no_archive_is_said_to_be_none() {
        let error = Members::new(&[b'x'; 1024][..]).next().expect_err("no archive");
        assert!(error.to_string().contains("is this a tar archive?"), "{error}");
        assert!(Members::new(&[0; 1024][..]).next().expect("the end").is_none());
        assert!(Members::new(&b""[..]).next().expect("the end").is_none());
        Members::new(&[0; 100][..]).next().expect_err("cut");
    }
}
