//! Reading a tar archive: the members and what is said of each, from a stream.
//!
//! The forms are those of POSIX (`ustar` and PAX), of GNU tar (long names, sparse files, numbers in base 256) and of tar
//! before both. See pax(1) of POSIX, and "Basic Tar Format" and "Storing Sparse Files" of the manual of GNU tar. Nothing of
//! an archive is trusted: what it makes this program keep is limited, and numbers are checked.
//!
//! The reader of the crate `tar`, which writes archives here, does not do for this: it keeps extensions of any length, splits
//! them at line feeds (which values of extended attributes hold), passes over global ones, does not know the sparse files of
//! PAX archives, and gives holes as zeroes.

use super::put::{ACL_ACCESS, ACL_DEFAULT, Xattrs};
use crate::error::{Error, IoContext, Result};
use crate::fs::{FileType, Timestamp};
use std::io::Read;

/// The size of the blocks that an archive is made of, in bytes.
const BLOCK: usize = 512;

/// The longest extension of a header that is kept, in bytes.
const LONGEST_EXTENSION: u64 = 4 << 20;

/// The most records and bytes of extensions that count for all members. Each member looks at them.
const MOST_GLOBAL: usize = 256;
const LONGEST_GLOBAL: usize = 64 << 10;

/// The most extended attributes that a member has.
const MOST_XATTRS: usize = 4096;

/// The most stretches of data that a sparse file has.
const MOST_STRETCHES: usize = 1 << 20;

/// Fields of the header.
mod field {
    use std::ops::Range;

    pub(super) const NAME: Range<usize> = 0..100;
    pub(super) const MODE: Range<usize> = 100..108;
    pub(super) const UID: Range<usize> = 108..116;
    pub(super) const GID: Range<usize> = 116..124;
    pub(super) const SIZE: Range<usize> = 124..136;
    pub(super) const MTIME: Range<usize> = 136..148;
    pub(super) const CHECKSUM: Range<usize> = 148..156;
    pub(super) const TYPE: usize = 156;
    pub(super) const LINK: Range<usize> = 157..257;
    pub(super) const MAGIC: Range<usize> = 257..263;
    pub(super) const UNAME: Range<usize> = 265..297;
    pub(super) const GNAME: Range<usize> = 297..329;
    pub(super) const MAJOR: Range<usize> = 329..337;
    pub(super) const MINOR: Range<usize> = 337..345;
    pub(super) const PREFIX: Range<usize> = 345..500;
    /// Of GNU tar's sparse files: four stretches, whether more blocks of them follow, and the size.
    pub(super) const SPARSE: Range<usize> = 386..482;
    pub(super) const IS_EXTENDED: usize = 482;
    pub(super) const REAL_SIZE: Range<usize> = 483..495;
    /// In a block of more stretches: 21 of them.
    pub(super) const MORE: Range<usize> = 0..504;
    pub(super) const MORE_IS_EXTENDED: usize = 504;
}

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

/// The extensions of one header.
#[derive(Clone, Debug, Default)]
struct Extensions {
    records: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Extensions {
    fn get(&self, key: &str) -> Option<&[u8]> {
        let last = self.records.iter().rev().find(|(name, _)| name == key.as_bytes())?;
        Some(last.1.as_slice()).filter(|value| !value.is_empty())
    }

    fn number(&self, key: &str) -> Result<Option<u64>> {
        let Some(text) = self.get(key) else { return Ok(None) };
        let number = std::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok());
        number.map(Some).ok_or_else(|| damaged(format!("{key} is no number")))
    }

    /// Reads records of `length key=value`, each with a line feed at its end.
    fn parse(mut bytes: &[u8]) -> Result<Self> {
        let mut records = Vec::new();
        while !bytes.is_empty() && bytes[0] != 0 {
            let record =
                Self::record(bytes).ok_or_else(|| damaged("a record of an extended header has a wrong length"))?;
            let (length, key, value) = record;
            records.push((key.to_vec(), value.to_vec()));
            bytes = &bytes[length..];
        }
        Ok(Self { records })
    }

    fn record(bytes: &[u8]) -> Option<(usize, &[u8], &[u8])> {
        let space = bytes.iter().take(20).position(|&byte| byte == b' ')?;
        let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
        let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|&byte| byte == b'=')?;
        Some((length, &record[..equals], &record[equals + 1..]))
    }
}

fn damaged(detail: impl Into<String>) -> Error {
    Error::corrupt("tar archive", detail.into())
}

/// Returns a text that ends at its first NUL.
fn text(field: &[u8]) -> Vec<u8> {
    field.split(|&byte| byte == 0).next().unwrap_or_default().to_vec()
}

/// Reads a number: octal digits, or base 256 where the highest bit is set.
fn number(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 != 0 {
        // The bit itself does not count; the next one is the sign.
        let mut value: i128 = if field[0] & 0x40 != 0 { -1 } else { 0 };
        for (place, &byte) in field.iter().enumerate() {
            let byte = if place == 0 { byte & 0x7f | if value < 0 { 0x80 } else { 0 } } else { byte };
            value = value.checked_mul(256)? | i128::from(byte);
        }
        return i64::try_from(value).ok();
    }
    let digits: Vec<u8> =
        field.iter().copied().skip_while(|&byte| byte == b' ').take_while(|&byte| !matches!(byte, 0 | b' ')).collect();
    if digits.is_empty() {
        return Some(0);
    }
    i64::from_str_radix(std::str::from_utf8(&digits).ok()?, 8).ok().filter(|&value| value >= 0)
}

fn unsigned(field: &[u8], what: &str) -> Result<u64> {
    number(field).and_then(|value| u64::try_from(value).ok()).ok_or_else(|| damaged(format!("its {what} is no number")))
}

/// Reads seconds since 1970 as a decimal.
fn time(text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_negative = whole.starts_with('-');
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanoseconds: u32 = format!("{fraction:0<9.9}").parse().ok()?;
    if is_negative && nanoseconds > 0 {
        return Some(Timestamp { seconds: seconds.checked_sub(1)?, nanoseconds: 1_000_000_000 - nanoseconds });
    }
    Some(Timestamp { seconds, nanoseconds })
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
            let size = unsigned(&header[field::SIZE], "size")?;
            match header[field::TYPE] {
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
        let mut path = text(&header[field::NAME]);
        if &header[field::MAGIC] == b"ustar\0" && header[field::PREFIX.start] != 0 {
            path = [text(&header[field::PREFIX]), path].join(&b'/');
        }
        let path = long_name.unwrap_or(path);
        let path = all.get("GNU.sparse.name").or(all.get("path")).map_or(path, <[u8]>::to_vec);
        let link = long_link.unwrap_or_else(|| text(&header[field::LINK]));
        let link = all.get("linkpath").map_or(link, <[u8]>::to_vec);
        let kind = match header[field::TYPE] {
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
                let seconds = number(&header[field::MTIME]).ok_or_else(|| damaged("its time is no number"))?;
                Timestamp { seconds, nanoseconds: 0 }
            }
        };
        let name_of = |key: &str, field: &[u8]| all.get(key).map_or_else(|| text(field), <[u8]>::to_vec);
        let mut rdev = (0, 0);
        if let Kind::File(FileType::CharDevice | FileType::BlockDevice) = kind {
            rdev.0 = unsigned(&header[field::MAJOR], "device")? as u32;
            rdev.1 = unsigned(&header[field::MINOR], "device")? as u32;
        }
        let mut member = Member {
            kind,
            path,
            link,
            permissions: (unsigned(&header[field::MODE], "mode")? & 0o7777) as u16,
            uid: owner("uid", &header[field::UID])?,
            gid: owner("gid", &header[field::GID])?,
            uname: name_of("uname", &header[field::UNAME]),
            gname: name_of("gname", &header[field::GNAME]),
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
        let old_map = if header[field::TYPE] == b'S' { Some(self.old_map(header, &mut member)?) } else { None };
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

    /// Reads the stretches of GNU tar's own sparse files, which follow the header.
    fn old_map(&mut self, header: &[u8; BLOCK], member: &mut Member) -> Result<Vec<(u64, u64)>> {
        let mut map = Vec::new();
        let mut add = |bytes: &[u8]| -> Result<()> {
            for entry in bytes.chunks_exact(24) {
                // An empty place ends the list.
                if entry[12] != 0 {
                    map.push((unsigned(&entry[..12], "map")?, unsigned(&entry[12..], "map")?));
                }
            }
            if map.len() > MOST_STRETCHES { Err(damaged("a sparse file has too many stretches")) } else { Ok(()) }
        };
        add(&header[field::SPARSE])?;
        let mut is_extended = header[field::IS_EXTENDED] != 0;
        while is_extended {
            let mut more = [0; BLOCK];
            self.exact(&mut more)?;
            add(&more[field::MORE])?;
            is_extended = more[field::MORE_IS_EXTENDED] != 0;
        }
        member.size = unsigned(&header[field::REAL_SIZE], "size")?;
        Ok(map)
    }

    /// Returns the stretches of a sparse file of PAX archives, in one of three forms.
    fn sparse_map(&mut self, all: &Extensions, member: &mut Member) -> Result<Option<Vec<(u64, u64)>>> {
        if let Some(size) = all.number("GNU.sparse.realsize")?.or(all.number("GNU.sparse.size")?) {
            member.size = size;
        }
        if all.get("GNU.sparse.major") == Some(b"1") {
            return self.map_in_data().map(Some);
        }
        let decimal = |text: &[u8]| -> Result<u64> {
            let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
            number.ok_or_else(|| damaged("the map of a sparse file is no list of numbers"))
        };
        let numbers: Vec<u64> = if let Some(map) = all.get("GNU.sparse.map") {
            map.split(|&byte| byte == b',').map(decimal).collect::<Result<_>>()?
        } else if all.get("GNU.sparse.numblocks").is_some() {
            let wanted = |key: &[u8]| key == b"GNU.sparse.offset" || key == b"GNU.sparse.numbytes";
            all.records.iter().filter(|(key, _)| wanted(key)).map(|(_, value)| decimal(value)).collect::<Result<_>>()?
        } else {
            return Ok(None);
        };
        Ok(Some(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()))
    }

    /// Reads the map that the data begins with: the count, then offset and length of each stretch, a line each, padded.
    fn map_in_data(&mut self) -> Result<Vec<(u64, u64)>> {
        let mut block = [0; BLOCK];
        let mut at = BLOCK;
        let mut line = || -> Result<u64> {
            let mut value: u64 = 0;
            for digits in 0..21 {
                if at == BLOCK {
                    if self.read_data(&mut block)? < BLOCK {
                        return Err(damaged("the map of a sparse file is cut"));
                    }
                    at = 0;
                }
                let byte = block[at];
                at += 1;
                match byte {
                    b'\n' if digits > 0 => return Ok(value),
                    b'0'..=b'9' => {
                        let more = value.checked_mul(10).and_then(|value| value.checked_add(u64::from(byte - b'0')));
                        value = more.ok_or_else(|| damaged("the map of a sparse file has too large a number"))?;
                    }
                    _ => break,
                }
            }
            Err(damaged("the map of a sparse file is no list of numbers"))
        };
        let count = line()?;
        if count > MOST_STRETCHES as u64 {
            return Err(damaged("a sparse file has too many stretches"));
        }
        (0..count).map(|_| Ok((line()?, line()?))).collect()
    }
}

/// Returns the error of a stream, which may carry one of ours.
fn from_stream(error: std::io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        Err(error) => Error::io("cannot read the archive", error),
    }
}

/// Checks that the stretches of a sparse file follow each other, lie within it and are what the data holds.
fn check_map(map: &[(u64, u64)], size: u64, data: u64) -> Result<()> {
    let mut end = 0;
    let mut sum: u64 = 0;
    for &(offset, length) in map {
        let next = offset.checked_add(length).filter(|&next| offset >= end && next <= size);
        end = next.ok_or_else(|| damaged("the stretches of a sparse file overlap or lie past its end"))?;
        sum += length;
    }
    if sum > data || size > i64::MAX.cast_unsigned() {
        return Err(damaged("the stretches of a sparse file are longer than its data"));
    }
    Ok(())
}

fn check_sum(header: &[u8; BLOCK]) -> Result<()> {
    let wanted = number(&header[field::CHECKSUM]);
    let of = |byte: &dyn Fn(u8) -> i64| -> i64 {
        let shown = |(place, &value): (usize, &u8)| if field::CHECKSUM.contains(&place) { b' ' } else { value };
        header.iter().enumerate().map(|entry| byte(shown(entry))).sum()
    };
    // Some programs of old took bytes for signed numbers.
    if wanted == Some(of(&|byte| byte.into())) || wanted == Some(of(&|byte| byte.cast_signed().into())) {
        return Ok(());
    }
    Err(damaged("the checksum of a header is wrong; is this a tar archive?"))
}

/// Returns the extended attributes that the extensions tell of.
fn xattrs(all: &Extensions) -> Result<Xattrs> {
    let mut found: Xattrs = Vec::new();
    let mut set = |name: &[u8], value: Vec<u8>| {
        found.retain(|(known, _)| known != name);
        found.push((name.to_vec(), value));
        if found.len() > MOST_XATTRS { Err(damaged("a file has too many extended attributes")) } else { Ok(()) }
    };
    for (key, value) in &all.records {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            set(name, value.clone())?;
        }
        if key == b"RHT.security.selinux" {
            // The kernel's programs keep the NUL at its end.
            let mut label = value.clone();
            if label.last() != Some(&0) {
                label.push(0);
            }
            set(b"security.selinux", label)?;
        }
    }
    Ok(found)
}

/// Opens a stream of an archive that may be compressed, as its first bytes tell where `compression` does not.
///
/// # Errors
/// Those of the stream.
pub(super) fn decompress<'a>(
    mut from: Box<dyn Read + Send + 'a>,
    compression: Option<super::Compression>,
) -> Result<Box<dyn Read + Send + 'a>> {
    use super::Compression;
    let place = || "cannot read the archive";
    let mut start = Vec::new();
    let compression = match compression {
        Some(compression) => compression,
        None => {
            from.by_ref().take(6).read_to_end(&mut start).map_err(from_stream)?;
            match start.as_slice() {
                [0x1f, 0x8b, ..] => Compression::Gzip,
                [b'B', b'Z', b'h', b'1'..=b'9', ..] => Compression::Bzip2,
                [0xfd, b'7', b'z', b'X', b'Z', 0] => Compression::Xz,
                [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
                [0x04, 0x22, 0x4d, 0x18, ..] => Compression::Lz4,
                _ => Compression::None,
            }
        }
    };
    let from = std::io::Cursor::new(start).chain(from);
    Ok(match compression {
        Compression::None => Box::new(from),
        Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(from)),
        Compression::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(from)),
        Compression::Xz => {
            // Enough for the largest preset.
            let decoder = liblzma::stream::Stream::new_stream_decoder(128 << 20, liblzma::stream::CONCATENATED)
                .map_err(std::io::Error::other)
                .doing(place)?;
            Box::new(liblzma::read::XzDecoder::new_stream(from, decoder))
        }
        Compression::Zstd => Box::new(zstd::Decoder::new(from).doing(place)?),
        Compression::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(from)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   17 \0\0"), Some(15));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"\x80\0\0\0\0\0\x01\0"), Some(256));
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xfe"), Some(-2));
        assert_eq!(number(b"09\0"), None);
        assert_eq!(number(b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), None);
    }

    #[test]
    fn times_are_decimals_on_both_sides_of_1970() {
        let at = |seconds, nanoseconds| Some(Timestamp { seconds, nanoseconds });
        assert_eq!(time(b"5.000000001"), at(5, 1));
        assert_eq!(time(b"-1.25"), at(-2, 750_000_000));
        assert_eq!(time(b"-0.5"), at(-1, 500_000_000));
        assert_eq!(time(b"7"), at(7, 0));
        assert_eq!(time(b"1.1234567899"), at(1, 123_456_789));
        for text in [&b""[..], b"x", b"1.x", b"-9223372036854775808.5"] {
            assert_eq!(time(text), None);
        }
    }

    #[test]
    fn records_that_lie_about_their_length_are_refused() {
        assert_eq!(Extensions::parse(b"11 path=ab\n").expect("a record").get("path"), Some(&b"ab"[..]));
        for text in [&b"12 path=ab\n"[..], b"99999999999999999999 a=b\n", b"3 \n", b"0 a=b\n", b"path=ab\n"] {
            assert!(Extensions::parse(text).is_err(), "{}", text.escape_ascii());
        }
    }

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
