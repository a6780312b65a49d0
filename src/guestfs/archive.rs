//! Archives of a folder: tar in the POSIX (PAX) form.
//!
//! Names are written as bytes. Hard links stay links, holes stay holes (the GNU sparse form 1.0, which tar, bsdtar and
//! Python read), times have nanoseconds, extended attributes are `SCHILY.xattr.*`, access control lists
//! `SCHILY.acl.*`, and SELinux labels `RHT.security.selinux`.

use super::files::PIECE;
use super::glob::matches;
use super::ordered::in_order;
use super::progress::Meter;
use super::{Guestfs, acl, replace};
use crate::error::{Error, ErrorContext, IoContext, Result};
use crate::fs::{Attr, FileType, Timestamp};
use crate::tree::{Node, Tree, Visit};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::str::FromStr;

/// Contents up to this size are read ahead by several threads, in bytes.
const READ_AHEAD: u64 = 256 << 10;

/// How a tar archive is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip.
    Gzip,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
    /// Zstandard.
    Zstd,
    /// LZ4.
    Lz4,
}

impl FromStr for Compression {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "none" => Self::None,
            "gzip" => Self::Gzip,
            "bzip2" => Self::Bzip2,
            "xz" => Self::Xz,
            "zstd" => Self::Zstd,
            "lz4" => Self::Lz4,
            _ => {
                let known = "none, gzip, bzip2, xz, zstd, lz4";
                return Err(Error::Usage(format!("unknown compression {name}; there are {known}").into()));
            }
        })
    }
}

/// What goes into a tar archive.
#[derive(Clone, Debug)]
pub struct TarOptions {
    /// How it is compressed.
    pub compression: Compression,
    /// Writes extended attributes, those of SELinux and access control lists apart.
    pub xattrs: bool,
    /// Writes access control lists.
    pub acls: bool,
    /// Writes SELinux labels.
    pub selinux: bool,
    /// Leaves out what matches one of these: a path below the folder, or a name; the patterns are those of
    /// [`glob`](super::glob), and `*` stands for slashes too.
    pub excludes: Vec<Vec<u8>>,
}

impl Default for TarOptions {
    fn default() -> Self {
        Self { compression: Compression::None, xattrs: true, acls: true, selinux: true, excludes: Vec::new() }
    }
}

/// A file on its way into the archive.
struct Item {
    path: Vec<u8>,
    node: Node,
    attr: Attr,
    /// The first name of the same file.
    link: Option<Vec<u8>>,
}

/// What was read of a file before its turn.
struct Ready {
    item: Item,
    target: Option<Vec<u8>>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where there is data, as offset and length; `None` for a file without holes.
    map: Option<Vec<(u64, u64)>>,
    contents: Option<Vec<u8>>,
}

/// Writes a folder of a tree as a tar archive.
///
/// # Errors
/// Those of reading, with the path; and [`Error::Io`] for `out`.
pub(crate) fn write_tar(
    tree: &Tree,
    top: Node,
    out: &mut dyn Write,
    options: &TarOptions,
    meter: &dyn Fn(u64) -> Meter,
) -> Result<()> {
    let place = || "cannot write the archive";
    let out = BufWriter::with_capacity(1 << 18, out);
    match options.compression {
        Compression::None => write_plain(tree, top, out, options, meter)?.flush().doing(place),
        Compression::Gzip => {
            let out = flate2::write::GzEncoder::new(out, flate2::Compression::default());
            write_plain(tree, top, out, options, meter)?.finish().and_then(|mut out| out.flush()).doing(place)
        }
        Compression::Bzip2 => {
            let out = bzip2::write::BzEncoder::new(out, bzip2::Compression::default());
            write_plain(tree, top, out, options, meter)?.finish().and_then(|mut out| out.flush()).doing(place)
        }
        Compression::Xz => {
            let out = liblzma::write::XzEncoder::new(out, 6);
            write_plain(tree, top, out, options, meter)?.finish().and_then(|mut out| out.flush()).doing(place)
        }
        Compression::Zstd => {
            let out = zstd::Encoder::new(out, 3).doing(place)?;
            write_plain(tree, top, out, options, meter)?.finish().and_then(|mut out| out.flush()).doing(place)
        }
        Compression::Lz4 => {
            let out = lz4_flex::frame::FrameEncoder::new(out);
            let out = write_plain(tree, top, out, options, meter)?;
            out.finish().map_err(std::io::Error::other).and_then(|mut out| out.flush()).doing(place)
        }
    }
}

fn write_plain<W: Write>(
    tree: &Tree,
    top: Node,
    out: W,
    options: &TarOptions,
    meter: &dyn Fn(u64) -> Meter,
) -> Result<W> {
    let items = list(tree, top, options)?;
    let meter = meter(items.iter().filter(|item| item.link.is_none()).map(|item| item.attr.size).sum());
    let mut archive = tar::Builder::new(out);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let prepare = |item: Item| {
        let path = item.path.clone();
        prepare(tree, item, options).at(|| path.escape_ascii().to_string())
    };
    in_order(items.into_iter(), threads, 128, prepare, |ready| {
        let ready = ready?;
        append(&mut archive, tree, &ready)?;
        meter.add(if ready.item.link.is_none() { ready.item.attr.size } else { 0 })
    })?;
    archive.into_inner().doing(|| "cannot write the archive")
}

/// Lists what goes into the archive, in the order of the folders.
fn list(tree: &Tree, top: Node, options: &TarOptions) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    let mut first_names: HashMap<Node, Vec<u8>> = HashMap::new();
    tree.visit(
        top,
        false,
        &mut |file| {
            let excluded = |pattern: &Vec<u8>| matches(pattern, file.path) || matches(pattern, file.name);
            if file.depth > 0 && options.excludes.iter().any(excluded) {
                return Ok(Visit::Skip);
            }
            // No archive holds a socket.
            if file.attr.file_type == FileType::Socket {
                return Ok(Visit::Skip);
            }
            let mut path = b"./".to_vec();
            path.extend_from_slice(file.path);
            let mut link = None;
            if file.attr.nlink > 1 && !file.attr.is_dir() {
                link = first_names.get(&file.node).cloned();
                if link.is_none() {
                    first_names.insert(file.node, path.clone());
                }
            }
            items.push(Item { path, node: file.node, attr: file.attr.clone(), link });
            Ok(Visit::Enter)
        },
        &mut |path, error| Err(error.at(path.escape_ascii().to_string())),
    )?;
    Ok(items)
}

fn prepare(tree: &Tree, item: Item, options: &TarOptions) -> Result<Ready> {
    let mut ready = Ready { target: None, xattrs: Vec::new(), map: None, contents: None, item };
    if ready.item.link.is_some() {
        return Ok(ready);
    }
    let Item { node, attr, .. } = &ready.item;
    for name in tree.xattrs(*node)? {
        let wanted = match name.as_slice() {
            b"security.selinux" => options.selinux,
            b"system.posix_acl_access" | b"system.posix_acl_default" => options.acls,
            _ => options.xattrs,
        };
        if wanted {
            let value = tree.xattr(*node, &name)?;
            ready.xattrs.push((name, value));
        }
    }
    match attr.file_type {
        FileType::Symlink => ready.target = Some(tree.read_link(*node)?),
        FileType::Regular => {
            // Blocks of 512 bytes that do not reach the size tell of holes; compression does too, and costs only a look.
            if attr.blocks.saturating_mul(512) < attr.size {
                ready.map = data_map(tree, *node, attr.size)?;
            }
            if ready.map.is_none() && attr.size <= READ_AHEAD {
                let mut contents = vec![0; attr.size as usize];
                let count = tree.read(*node, 0, &mut contents)?;
                contents[count..].fill(0);
                ready.contents = Some(contents);
            } else if ready.map.is_none() {
                let (filesystem, ino) = tree.filesystem(*node)?;
                filesystem.prefetch(ino, 0, attr.size.min(8 << 20));
            }
        }
        _ => {}
    }
    Ok(ready)
}

/// Returns where a file has data, or `None` when it has no hole.
fn data_map(tree: &Tree, node: Node, size: u64) -> Result<Option<Vec<(u64, u64)>>> {
    let (filesystem, ino) = tree.filesystem(node)?;
    let mut map = Vec::new();
    let mut at = 0;
    while at < size {
        let data = match filesystem.next_data(ino, at) {
            Ok(data) => data,
            Err(error) if error.is_errno(libc::ENXIO) => break,
            Err(error) => return Err(error),
        };
        let hole = filesystem.next_hole(ino, data)?.min(size);
        if hole <= data {
            break;
        }
        map.push((data, hole - data));
        at = hole;
    }
    if map.as_slice() == [(0, size)] {
        return Ok(None);
    }
    // An empty stretch at the end says how long the file is.
    map.push((size, 0));
    Ok(Some(map))
}

/// Stretches of a file's contents, one after the other, as a stream.
struct Contents<'a> {
    tree: &'a Tree,
    node: Node,
    /// The stretches still to come.
    stretches: std::slice::Iter<'a, (u64, u64)>,
    offset: u64,
    end: u64,
}

impl<'a> Contents<'a> {
    fn new(tree: &'a Tree, node: Node, stretches: &'a [(u64, u64)]) -> Self {
        Self { tree, node, stretches: stretches.iter(), offset: 0, end: 0 }
    }
}

impl Read for Contents<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.offset == self.end {
            let Some(&(offset, length)) = self.stretches.next() else { return Ok(0) };
            (self.offset, self.end) = (offset, offset + length);
        }
        let wanted = (self.end - self.offset).min(buffer.len() as u64) as usize;
        if wanted == 0 {
            return Ok(0);
        }
        let mut count = self.tree.read(self.node, self.offset, &mut buffer[..wanted]).map_err(std::io::Error::other)?;
        if count == 0 {
            // The size was promised in the header.
            buffer[..wanted].fill(0);
            count = wanted;
        }
        self.offset += count as u64;
        Ok(count)
    }
}

fn decimal(time: Timestamp) -> String {
    if time.nanoseconds == 0 {
        return time.seconds.to_string();
    }
    if time.seconds >= 0 {
        return format!("{}.{:09}", time.seconds, time.nanoseconds);
    }
    // -1.25 s is -2 s and 0.75 s after that.
    format!("-{}.{:09}", -(time.seconds + 1), 1_000_000_000 - time.nanoseconds)
}

fn append<W: Write>(archive: &mut tar::Builder<W>, tree: &Tree, ready: &Ready) -> Result<()> {
    let Item { path, node, attr, link } = &ready.item;
    let place = || format!("cannot write {} to the archive", path.escape_ascii());
    let mut header = tar::Header::new_ustar();
    let mut pax: Vec<(String, Vec<u8>)> = Vec::new();
    let mut name = path.clone();
    if attr.is_dir() && !name.ends_with(b"/") {
        name.push(b'/');
    }
    let kind = match (link, attr.file_type) {
        (Some(_), _) => tar::EntryType::Link,
        (None, FileType::Regular) => tar::EntryType::Regular,
        (None, FileType::Directory) => tar::EntryType::Directory,
        (None, FileType::Symlink) => tar::EntryType::Symlink,
        (None, FileType::CharDevice) => tar::EntryType::Char,
        (None, FileType::BlockDevice) => tar::EntryType::Block,
        (None, FileType::Fifo | FileType::Socket) => tar::EntryType::Fifo,
    };
    header.set_entry_type(kind);
    header.set_mode(attr.permissions.into());
    if attr.uid > 0o777_7777 {
        pax.push((String::from("uid"), attr.uid.to_string().into()));
    }
    if attr.gid > 0o777_7777 {
        pax.push((String::from("gid"), attr.gid.to_string().into()));
    }
    header.set_uid(attr.uid.min(0o777_7777).into());
    header.set_gid(attr.gid.min(0o777_7777).into());
    header.set_mtime(attr.mtime.seconds.clamp(0, 0o777_7777_7777).cast_unsigned());
    if attr.mtime.nanoseconds != 0 || !(0..=0o777_7777_7777).contains(&attr.mtime.seconds) {
        pax.push((String::from("mtime"), decimal(attr.mtime).into()));
    }
    if matches!(attr.file_type, FileType::CharDevice | FileType::BlockDevice) {
        header.set_device_major(attr.rdev.0).doing(place)?;
        header.set_device_minor(attr.rdev.1).doing(place)?;
    }
    for (key, value) in &ready.xattrs {
        push_xattr(&mut pax, key, value);
    }
    let target = link.as_ref().or(ready.target.as_ref());
    if let Some(target) = target {
        fill(&mut header.as_ustar_mut().expect("made as ustar").linkname, target, "linkpath", &mut pax);
    }
    let has_contents = kind == tar::EntryType::Regular;
    let map = ready.map.as_deref().filter(|_| has_contents).map(|map| (map, sparse_map(map)));
    let size = match &map {
        Some((map, text)) => text.len() as u64 + map.iter().map(|(_, length)| length).sum::<u64>(),
        None if has_contents => attr.size,
        None => 0,
    };
    if map.is_some() {
        for (key, value) in [("major", "1"), ("minor", "0"), ("realsize", attr.size.to_string().as_str())] {
            pax.push((format!("GNU.sparse.{key}"), value.into()));
        }
        pax.push((String::from("GNU.sparse.name"), name.clone()));
    }
    fill(&mut header.as_ustar_mut().expect("made as ustar").name, &name, "path", &mut pax);
    if size > 0o777_7777_7777 {
        pax.push((String::from("size"), size.to_string().into()));
    }
    header.set_size(size);
    if size > 0o777_7777_7777 {
        header.as_ustar_mut().expect("made as ustar").size = *b"00000000000\0";
    }
    header.set_cksum();
    if !pax.is_empty() {
        archive.append_pax_extensions(pax.iter().map(|(key, value)| (key.as_str(), value.as_slice()))).doing(place)?;
    }
    if let (None, Some(contents)) = (&map, &ready.contents) {
        return archive.append(&header, contents.as_slice()).doing(place);
    }
    let whole = [(0, size)];
    let (text, stretches) = match &map {
        Some((map, text)) => (text.as_slice(), *map),
        None => (&[][..], &whole[..]),
    };
    let contents = std::io::BufReader::with_capacity(PIECE, Contents::new(tree, *node, stretches));
    archive.append(&header, text.chain(contents)).doing(place)
}

/// Puts a text into a field of the header, or into the extensions where it does not fit or is not plain.
fn fill(field: &mut [u8; 100], text: &[u8], key: &str, pax: &mut Vec<(String, Vec<u8>)>) {
    let fits = text.len() <= field.len() && text.is_ascii();
    let count = text.len().min(field.len());
    field[..count].copy_from_slice(&text[..count]);
    if !fits {
        pax.push((key.to_owned(), text.to_vec()));
    }
}

fn push_xattr(pax: &mut Vec<(String, Vec<u8>)>, name: &[u8], value: &[u8]) {
    let acl = match name {
        b"system.posix_acl_access" => Some("SCHILY.acl.access"),
        b"system.posix_acl_default" => Some("SCHILY.acl.default"),
        _ => None,
    };
    if let Some(key) = acl {
        if let Some(text) = acl::to_text(value) {
            pax.push((key.to_owned(), text.into_bytes()));
        }
        return;
    }
    if name == b"security.selinux" {
        pax.push((String::from("RHT.security.selinux"), value.to_vec()));
        return;
    }
    // A key of the extensions is UTF-8 and holds no equals sign; a name that is not stays out, as in GNU tar.
    if let Ok(name) = std::str::from_utf8(name)
        && !name.contains('=')
    {
        pax.push((format!("SCHILY.xattr.{name}"), value.to_vec()));
    }
}

/// Returns the map of a sparse file as its data begins with: the count, then offset and length of each stretch, in decimal
/// with a line feed after each, padded to 512 bytes.
fn sparse_map(map: &[(u64, u64)]) -> Vec<u8> {
    let mut text = format!("{}\n", map.len());
    for (offset, length) in map {
        text.push_str(&format!("{offset}\n{length}\n"));
    }
    let mut bytes = text.into_bytes();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

impl Guestfs {
    /// Writes a folder as a tar archive to a file of the host.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, those of reading, and those of the host.
    pub fn tar_out(&self, path: impl AsRef<OsStr>, to: impl AsRef<Path>) -> Result<()> {
        self.tar_out_opts(path, to, None)
    }

    /// Writes a folder as a tar archive, compressed by `gzip`, `bzip2`, `xz`, `zstd` or `lz4`.
    ///
    /// # Errors
    /// As [`tar_out`](Self::tar_out); [`Error::Usage`] for another compression.
    pub fn tar_out_opts(&self, path: impl AsRef<OsStr>, to: impl AsRef<Path>, compress: Option<&str>) -> Result<()> {
        let compression = compress.map(str::parse).transpose()?.unwrap_or_default();
        self.tar_out_to(path, to, &TarOptions { compression, ..TarOptions::default() })
    }

    /// Writes a folder as a tar archive to a file of the host, with every option there is.
    ///
    /// # Errors
    /// As [`tar_out`](Self::tar_out).
    pub fn tar_out_to(&self, path: impl AsRef<OsStr>, to: impl AsRef<Path>, options: &TarOptions) -> Result<()> {
        replace::write_file(to.as_ref(), |out| self.tar_out_with(path, out, options))
    }

    /// Writes a folder as a tar archive compressed by gzip.
    ///
    /// # Errors
    /// As [`tar_out`](Self::tar_out).
    pub fn tgz_out(&self, path: impl AsRef<OsStr>, to: impl AsRef<Path>) -> Result<()> {
        self.tar_out_opts(path, to, Some("gzip"))
    }

    /// Writes a folder as a tar archive to a stream, with every option there is.
    ///
    /// # Errors
    /// As [`tar_out`](Self::tar_out).
    pub fn tar_out_with(&self, path: impl AsRef<OsStr>, out: &mut dyn Write, options: &TarOptions) -> Result<()> {
        let path = path.as_ref();
        let (tree, found) = self.find_folder(path)?;
        write_tar(tree, found.node, out, options, &|total| self.meter(total)).at(|| path.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_are_negative_decimals() {
        assert_eq!(decimal(Timestamp { seconds: -2, nanoseconds: 750_000_000 }), "-1.250000000");
        assert_eq!(decimal(Timestamp { seconds: 5, nanoseconds: 1 }), "5.000000001");
    }
}
