//! Archives of a folder in the newc form of cpio, the one that an initramfs has.
//!
//! Each file is a header of ASCII hexadecimal numbers, its name and its contents, both padded to four bytes. A file with
//! several names has its contents at the last of them. The form holds neither files of 4 GiB and more nor attributes; it
//! is specified in `Documentation/driver-api/early-userspace/buffer-format.rst` of Linux.

use super::files::PIECE;
use super::{Guestfs, replace};
use crate::error::{Error, ErrorContext, IoContext, Result};
use crate::fs::{Attr, FileType};
use crate::tree::{Node, Tree, Visit};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;

struct Item {
    name: Vec<u8>,
    node: Node,
    attr: Attr,
}

/// A number of its own for each file: those of several filesystems may be the same, and newc has 32 bits.
type Numbers = HashMap<Node, (u32, usize)>;

fn header(number: u32, attr: &Attr, nlink: u32, size: u32, name: &[u8]) -> String {
    // Times before 1970 and after 2106 do not fit.
    let mtime = attr.mtime.seconds.clamp(0, u32::MAX.into()) as u32;
    let fields = [
        number,
        attr.mode(),
        attr.uid,
        attr.gid,
        nlink,
        mtime,
        size,
        0,
        0,
        attr.rdev.0,
        attr.rdev.1,
        name.len() as u32 + 1,
        0,
    ];
    fields.iter().fold(String::from("070701"), |text, field| text + &format!("{field:08X}"))
}

fn pad(out: &mut dyn Write, written: usize) -> std::io::Result<()> {
    out.write_all(&[0; 3][..written.next_multiple_of(4) - written])
}

fn write_entry(out: &mut dyn Write, header: &str, name: &[u8]) -> std::io::Result<()> {
    out.write_all(header.as_bytes())?;
    out.write_all(name)?;
    out.write_all(b"\0")?;
    pad(out, header.len() + name.len() + 1)
}

fn write_contents(tree: &Tree, item: &Item, out: &mut dyn Write) -> Result<()> {
    let doing = || "cannot write the archive";
    let size = item.attr.size;
    let mut buffer = vec![0; PIECE.min(size.max(1) as usize)];
    let mut offset = 0;
    while offset < size {
        let wanted = (size - offset).min(buffer.len() as u64) as usize;
        let mut count = tree.read(item.node, offset, &mut buffer[..wanted])?;
        if count == 0 {
            // The size was promised in the header.
            buffer[..wanted].fill(0);
            count = wanted;
        }
        out.write_all(&buffer[..count]).doing(doing)?;
        offset += count as u64;
    }
    pad(out, size as usize).doing(doing)
}

fn write_cpio(tree: &Tree, top: Node, out: &mut dyn Write) -> Result<()> {
    let doing = || "cannot write the archive";
    let mut items = Vec::new();
    let mut numbers: Numbers = HashMap::new();
    tree.visit(
        top,
        true,
        &mut |file| {
            let name = if file.depth == 0 { b".".to_vec() } else { file.path.to_vec() };
            let next = numbers.len() as u32 + 1;
            numbers.entry(file.node).or_insert((next, 0)).1 += 1;
            items.push(Item { name, node: file.node, attr: file.attr.clone() });
            Ok(Visit::Enter)
        },
        &mut |path, error| Err(error.at(path.escape_ascii().to_string())),
    )?;
    let mut left: HashMap<Node, usize> = numbers.iter().map(|(node, (_, names))| (*node, *names)).collect();
    for item in &items {
        let place = || item.name.escape_ascii().to_string();
        let (number, names) = numbers[&item.node];
        let remaining = left.entry(item.node).or_insert(1);
        *remaining -= 1;
        let is_last = *remaining == 0;
        let nlink = if item.attr.is_dir() { 2 } else { names as u32 };
        match item.attr.file_type {
            FileType::Symlink => {
                let target = tree.read_link(item.node).at(place)?;
                let header = header(number, &item.attr, nlink, target.len() as u32, &item.name);
                write_entry(out, &header, &item.name).doing(doing)?;
                out.write_all(&target).and_then(|()| pad(out, target.len())).doing(doing)?;
            }
            FileType::Regular if is_last => {
                let size = u32::try_from(item.attr.size)
                    .map_err(|_| Error::unsupported("a file of 4 GiB or more in a cpio archive; write a tar archive"))
                    .at(place)?;
                let header = header(number, &item.attr, nlink, size, &item.name);
                write_entry(out, &header, &item.name).doing(doing)?;
                write_contents(tree, item, out).at(place)?;
            }
            _ => {
                let header = header(number, &item.attr, nlink, 0, &item.name);
                write_entry(out, &header, &item.name).doing(doing)?;
            }
        }
    }
    let name = b"TRAILER!!!";
    let trailer = format!("070701{}{:08X}{:08X}", "00000000".repeat(11), name.len() + 1, 0);
    write_entry(out, &trailer, name).doing(doing)
}

impl Guestfs {
    /// Writes a folder as a cpio archive (newc) to a file of the host.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, [`Error::Unsupported`] for a file of 4 GiB or more, those of reading, and those of the host.
    pub fn cpio_out(&self, path: impl AsRef<OsStr>, to: impl AsRef<Path>) -> Result<()> {
        let (tree, found) = self.find_folder(path.as_ref())?;
        replace::write_file(to.as_ref(), |out| write_cpio(tree, found.node, out))
    }
}
