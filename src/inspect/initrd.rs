//! What an initial RAM disk holds: a chain of cpio archives, each compressed or not.
//!
//! Reading one means decompressing it, which takes longer than all other inspection, so nothing else here does. The form is
//! specified in the kernel's "initramfs buffer format".

use super::kernels::driver_of;
use crate::error::{Error, ErrorContext, Result};
use crate::tree::{Node, Tree};
use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read};

/// The most that is decompressed, in bytes.
const MAX_CONTENT: u64 = 2 << 30;

/// The most names that are listed.
const MAX_NAMES: usize = 1 << 18;

/// The longest name, in bytes.
const MAX_NAME: usize = 4096;

/// The length of the header of an entry: a magic number and 13 fields of 8 digits.
const HEADER: usize = 110;

/// Lists the paths of the files in an initial RAM disk.
///
/// # Errors
/// Those of finding the file; [`Error::Corrupt`] where no archive can be read; `EINVAL` where it is no regular file.
pub fn list(tree: &Tree, path: &[u8]) -> Result<Vec<Vec<u8>>> {
    let found = tree.resolve(path, true)?;
    if found.attr.file_type != crate::fs::FileType::Regular {
        return Err(Error::Errno(libc::EINVAL));
    }
    let file = Content { tree, node: found.node, at: 0 };
    names(BufReader::with_capacity(256 << 10, file)).at(|| String::from_utf8_lossy(path).into_owned())
}

/// Lists the virtio drivers in an initial RAM disk.
///
/// # Errors
/// As [`list`].
pub fn virtio(tree: &Tree, path: &[u8]) -> Result<Vec<String>> {
    let drivers: BTreeSet<String> = list(tree, path)?.iter().filter_map(|path| driver_of(path)).collect();
    Ok(drivers.into_iter().collect())
}

/// A file of the guest as a stream.
struct Content<'a> {
    tree: &'a Tree,
    node: Node,
    at: u64,
}

impl Read for Content<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read =
            self.tree.read(self.node, self.at, buf).map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
        self.at += read as u64;
        Ok(read)
    }
}

fn names(mut input: impl BufRead) -> Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    loop {
        // Archives are padded with zeros up to where the next one begins.
        let head = match skip_zeros(&mut input) {
            Ok(head) if head.is_empty() => break,
            Ok(head) => head,
            Err(error) if names.is_empty() => return Err(damaged(&error)),
            Err(_) => break,
        };
        let archive = match Compression::of(&head) {
            None if head.starts_with(b"07070") => archive(&mut input, &mut names),
            None => Err(io::Error::other("it is no cpio archive, and not compressed in a known way")),
            Some(compression) => {
                // What is compressed is the last of the chain: nobody puts more behind it.
                let result = compression.open(&mut input).and_then(|inner| chain(inner, &mut names));
                return finish(result, names);
            }
        };
        if archive.is_err() {
            return finish(archive, names);
        }
    }
    Ok(names)
}

/// A stream that is cut off still tells what came before.
fn finish(result: io::Result<()>, names: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
    match result {
        Err(error) if names.is_empty() => Err(damaged(&error)),
        _ => Ok(names),
    }
}

fn damaged(error: &io::Error) -> Error {
    Error::corrupt("initial RAM disk", error.to_string())
}

fn chain(inner: Box<dyn Read + '_>, names: &mut Vec<Vec<u8>>) -> io::Result<()> {
    let mut inner = BufReader::with_capacity(256 << 10, inner.take(MAX_CONTENT));
    while !skip_zeros(&mut inner)?.is_empty() {
        archive(&mut inner, names)?;
    }
    Ok(())
}

/// Goes past zeros; returns the first bytes behind them without taking them, none at the end.
fn skip_zeros(input: &mut impl BufRead) -> io::Result<Vec<u8>> {
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(Vec::new());
        }
        let zeros = buffer.iter().take_while(|&&byte| byte == 0).count();
        if zeros < buffer.len() {
            let head = buffer[zeros..].iter().take(8).copied().collect();
            input.consume(zeros);
            return Ok(head);
        }
        input.consume(zeros);
    }
}

enum Compression {
    Gzip,
    Bzip2,
    Xz,
    Lzma,
    Zstd,
    Lz4Legacy,
}

impl Compression {
    fn of(head: &[u8]) -> Option<Self> {
        let known: [(&[u8], Self); 6] = [
            (b"\x1f\x8b", Self::Gzip),
            (b"BZh", Self::Bzip2),
            (b"\xfd7zXZ", Self::Xz),
            (b"\x5d\0\0", Self::Lzma),
            (b"\x28\xb5\x2f\xfd", Self::Zstd),
            (b"\x02\x21\x4c\x18", Self::Lz4Legacy),
        ];
        known.into_iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, compression)| compression)
    }

    fn open<'r>(&self, input: &'r mut (impl BufRead + 'r)) -> io::Result<Box<dyn Read + 'r>> {
        /// The most memory that a decompressor may take, in bytes.
        const MEMORY: u64 = 128 << 20;
        Ok(match self {
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
            Self::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
            Self::Xz | Self::Lzma => {
                let stream = liblzma::stream::Stream::new_auto_decoder(MEMORY, 0).map_err(io::Error::other)?;
                Box::new(liblzma::bufread::XzDecoder::new_stream(input, stream))
            }
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
                decoder.window_log_max(27)?;
                Box::new(decoder)
            }
            Self::Lz4Legacy => Box::new(Lz4 { input, block: Vec::new(), at: 0, begun: false }),
        })
    }
}

/// LZ4's legacy frame, which the kernel uses: a magic number, and blocks of up to 8 MiB with their compressed lengths.
struct Lz4<R> {
    input: R,
    block: Vec<u8>,
    at: usize,
    begun: bool,
}

impl<R: BufRead> Read for Lz4<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        const BLOCK: usize = 8 << 20;
        const MAGIC: u32 = 0x184c_2102;
        while self.at == self.block.len() {
            if self.input.fill_buf()?.is_empty() {
                return Ok(0);
            }
            let mut word = [0; 4];
            self.input.read_exact(&mut word)?;
            let len = u32::from_le_bytes(word);
            if len == MAGIC {
                self.begun = true;
                continue;
            }
            if !self.begun || len == 0 || len as usize > BLOCK + BLOCK / 128 {
                return Ok(0);
            }
            let mut packed = vec![0; len as usize];
            self.input.read_exact(&mut packed)?;
            self.block = lz4_flex::block::decompress(&packed, BLOCK).map_err(io::Error::other)?;
            self.at = 0;
        }
        let step = buf.len().min(self.block.len() - self.at);
        buf[..step].copy_from_slice(&self.block[self.at..self.at + step]);
        self.at += step;
        Ok(step)
    }
}

/// Lists one archive of the `newc` form, up to its trailer.
fn archive(input: &mut impl BufRead, names: &mut Vec<Vec<u8>>) -> io::Result<()> {
    let mut header = [0; HEADER];
    loop {
        input.read_exact(&mut header)?;
        if !header.starts_with(b"070701") && !header.starts_with(b"070702") {
            return Err(io::Error::other("an entry of the archive has not its magic number"));
        }
        let field = |place: usize| {
            let digits = std::str::from_utf8(&header[6 + place * 8..14 + place * 8]).ok()?;
            u32::from_str_radix(digits, 16).ok()
        };
        let (Some(size), Some(name_size)) = (field(6), field(11).map(|size| size as usize)) else {
            return Err(io::Error::other("a field of the archive is no number"));
        };
        if name_size == 0 || name_size > MAX_NAME {
            return Err(io::Error::other("a name in the archive is too long"));
        }
        // Header with name, and content, are each padded to a multiple of 4.
        let mut name = vec![0; (HEADER + name_size).next_multiple_of(4) - HEADER];
        input.read_exact(&mut name)?;
        name.truncate(name_size - 1);
        let padded = u64::from(size).next_multiple_of(4);
        if io::copy(&mut input.by_ref().take(padded), &mut io::sink())? < padded {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if name == b"TRAILER!!!" {
            return Ok(());
        }
        if names.len() >= MAX_NAMES {
            return Err(io::Error::other("there are too many files in it"));
        }
        names.push(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::fixture::Fixture;
    use std::io::Write;

    fn cpio(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, content) in files.iter().chain([&("TRAILER!!!", &b""[..])]) {
            let fields = [0, 0o100644, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
            out.extend(b"070701");
            fields.iter().for_each(|field| out.extend(format!("{field:08x}").bytes()));
            out.extend(name.bytes().chain([0]));
            out.resize(out.len().next_multiple_of(4), 0);
            out.extend_from_slice(content);
            out.resize(out.len().next_multiple_of(4), 0);
        }
        out
    }

    fn listed(bytes: Vec<u8>) -> Result<Vec<String>> {
        let tree = Fixture::new().file("boot/initrd", bytes).tree();
        let names = list(&tree, b"/boot/initrd")?;
        Ok(names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect())
    }

    #[test]
    fn every_compression_of_the_kernel_is_read_behind_plain_archives() {
        let early = cpio(&[("kernel/x86/microcode/GenuineIntel.bin", &[7; 3000])]);
        let main =
            cpio(&[("init", b"#!/bin/sh\n"), ("usr/lib/modules/6.1/kernel/drivers/block/virtio_blk.ko.zst", b"x")]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&main).expect("in memory");
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&main).expect("in memory");
        let mut bz = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bz.write_all(&main).expect("in memory");
        let block = lz4_flex::block::compress(&main);
        let lz4 = [&b"\x02\x21\x4c\x18"[..], &(block.len() as u32).to_le_bytes(), &block].concat();
        let packed = [
            main.clone(),
            gzip.finish().expect("in memory"),
            xz.finish().expect("in memory"),
            bz.finish().expect("in memory"),
            zstd::encode_all(&main[..], 1).expect("in memory"),
            lz4,
        ];
        for packed in packed {
            let mut bytes = early.clone();
            bytes.resize(bytes.len().next_multiple_of(512), 0);
            bytes.extend(packed);
            let tree = Fixture::new().file("boot/initrd", bytes).tree();
            assert_eq!(list(&tree, b"/boot/initrd").expect("whole").len(), 3);
            assert_eq!(virtio(&tree, b"/boot/initrd").expect("whole"), ["virtio_blk"]);
        }
    }

    #[test]
    fn damage_is_said_or_ends_the_list() {
        listed(b"nonsense".to_vec()).expect_err("no archive");
        listed(b"\x1f\x8bnonsense".to_vec()).expect_err("no archive");
        let whole = cpio(&[("a", b"b"), ("c", b"d")]);
        assert_eq!(listed(whole[..200].to_vec()).expect("the first"), ["a"]);
        assert_eq!(listed(Vec::new()).expect("nothing"), [""; 0]);
        assert!(list(&Fixture::new().fifo("p").tree(), b"p").expect_err("a pipe").is_errno(libc::EINVAL));
    }
}
