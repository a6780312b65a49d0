//! Checksums of files, of whole folders, and of devices.

use super::files::PIECE;
use super::ordered::in_order;
use super::progress::Meter;
use super::{Guestfs, replace};
use crate::bytes::hex;
use crate::error::{Error, ErrorContext, IoContext, Result};
use crate::fs::FileType;
use crate::tree::{Node, Tree, Visit};
use sha2::Digest;
use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

/// A checksum's algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// CRC as POSIX `cksum` has it.
    Crc,
    /// MD5.
    Md5,
    /// SHA-1.
    Sha1,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
    /// BLAKE3, 256 bits.
    Blake3,
    /// XXH3, 64 bits, as `xxhsum -H3`.
    Xxh3,
}

impl FromStr for Algorithm {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "crc" => Self::Crc,
            "md5" => Self::Md5,
            "sha1" => Self::Sha1,
            "sha224" => Self::Sha224,
            "sha256" => Self::Sha256,
            "sha384" => Self::Sha384,
            "sha512" => Self::Sha512,
            "blake3" => Self::Blake3,
            "xxh3" => Self::Xxh3,
            _ => {
                let known = "crc, md5, sha1, sha224, sha256, sha384, sha512, blake3, xxh3";
                return Err(Error::Usage(format!("unknown checksum {name}; there are {known}").into()));
            }
        })
    }
}

/// CRC-32 of POSIX: the length follows the contents.
static POSIX_CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_CKSUM);

enum State {
    Crc(crc::Digest<'static, u32>, u64),
    Md5(md5::Md5),
    Sha1(sha1::Sha1),
    Sha224(sha2::Sha224),
    Sha256(sha2::Sha256),
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
    Blake3(Box<blake3::Hasher>),
    Xxh3(Box<xxhash_rust::xxh3::Xxh3>),
}

impl State {
    fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Crc => Self::Crc(POSIX_CRC.digest(), 0),
            Algorithm::Md5 => Self::Md5(md5::Md5::new()),
            Algorithm::Sha1 => Self::Sha1(sha1::Sha1::new()),
            Algorithm::Sha224 => Self::Sha224(sha2::Sha224::new()),
            Algorithm::Sha256 => Self::Sha256(sha2::Sha256::new()),
            Algorithm::Sha384 => Self::Sha384(sha2::Sha384::new()),
            Algorithm::Sha512 => Self::Sha512(sha2::Sha512::new()),
            Algorithm::Blake3 => Self::Blake3(Box::new(blake3::Hasher::new())),
            Algorithm::Xxh3 => Self::Xxh3(Box::new(xxhash_rust::xxh3::Xxh3::new())),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc(digest, length) => {
                digest.update(bytes);
                *length += bytes.len() as u64;
            }
            Self::Md5(digest) => digest.update(bytes),
            Self::Sha1(digest) => digest.update(bytes),
            Self::Sha224(digest) => digest.update(bytes),
            Self::Sha256(digest) => digest.update(bytes),
            Self::Sha384(digest) => digest.update(bytes),
            Self::Sha512(digest) => digest.update(bytes),
            Self::Blake3(digest) => {
                digest.update(bytes);
            }
            Self::Xxh3(digest) => digest.update(bytes),
        }
    }

    fn finish(self) -> String {
        match self {
            Self::Crc(mut digest, length) => {
                let bytes = length.to_le_bytes();
                let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
                digest.update(&bytes[..used]);
                digest.finalize().to_string()
            }
            Self::Md5(digest) => hex(&digest.finalize()),
            Self::Sha1(digest) => hex(&digest.finalize()),
            Self::Sha224(digest) => hex(&digest.finalize()),
            Self::Sha256(digest) => hex(&digest.finalize()),
            Self::Sha384(digest) => hex(&digest.finalize()),
            Self::Sha512(digest) => hex(&digest.finalize()),
            Self::Blake3(digest) => digest.finalize().to_hex().to_string(),
            Self::Xxh3(digest) => format!("{:016x}", digest.digest()),
        }
    }
}

/// Returns the checksum of a regular file's contents.
pub(crate) fn of_file(
    tree: &Tree,
    node: Node,
    algorithm: Algorithm,
    buffer: &mut Vec<u8>,
    meter: &Meter,
) -> Result<String> {
    buffer.resize(PIECE, 0);
    let mut state = State::new(algorithm);
    let mut offset = 0;
    loop {
        let count = tree.read(node, offset, buffer)?;
        if count == 0 {
            return Ok(state.finish());
        }
        state.update(&buffer[..count]);
        offset += count as u64;
        meter.add(count as u64)?;
    }
}

/// Writes a line as `sha256sum` does: a name with a line feed, a carriage return or a backslash is escaped, and the line
/// then begins with a backslash.
pub(crate) fn write_line(out: &mut dyn Write, sum: &str, name: &[u8]) -> std::io::Result<()> {
    let mut escaped = Vec::with_capacity(name.len());
    for &byte in name {
        match byte {
            b'\n' => escaped.extend(b"\\n"),
            b'\r' => escaped.extend(b"\\r"),
            b'\\' => escaped.extend(b"\\\\"),
            byte => escaped.push(byte),
        }
    }
    if escaped.len() > name.len() {
        out.write_all(b"\\")?;
    }
    out.write_all(sum.as_bytes())?;
    out.write_all(b"  ")?;
    out.write_all(&escaped)?;
    out.write_all(b"\n")
}

/// One file of a folder and its checksum, or why it has none.
#[derive(Debug)]
pub struct Summed {
    /// The path, relative to the folder.
    pub path: Vec<u8>,
    /// The checksum in hexadecimal digits.
    pub sum: Result<String>,
}

/// Computes the checksums of all regular files below a folder on all cores and gives them to `take` in the order of their
/// paths.
///
/// # Errors
/// Those of listing the folders, and those of `take`.
pub(crate) fn of_tree(
    tree: &Tree,
    top: Node,
    algorithm: Algorithm,
    meter: &dyn Fn(u64) -> Meter,
    mut take: impl FnMut(Summed) -> Result<()>,
) -> Result<()> {
    let mut files = Vec::new();
    let mut total = 0;
    tree.visit(
        top,
        true,
        &mut |file| {
            if file.attr.file_type == FileType::Regular {
                total += file.attr.size;
                files.push((file.path.to_vec(), file.node));
            }
            Ok(Visit::Enter)
        },
        &mut |path, error| Err(error.at(path.escape_ascii().to_string())),
    )?;
    let meter = meter(total);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let sum = |(path, node): (Vec<u8>, Node)| {
        thread_local! {
            static BUFFER: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
        }
        let sum = BUFFER.with_borrow_mut(|buffer| of_file(tree, node, algorithm, buffer, &meter));
        Summed { path, sum }
    };
    in_order(files.into_iter(), threads, 256, sum, |summed| match summed.sum {
        Err(error) if error.is_errno(libc::EINTR) => Err(error),
        _ => take(summed),
    })
}

impl Guestfs {
    /// Computes the checksums of all regular files below a folder on all cores and gives them to `take` in the order of
    /// their paths. A file that cannot be read is given with its error.
    ///
    /// # Errors
    /// [`Error::Usage`] for an unknown algorithm, `ENOENT`, `ENOTDIR`, those of listing the folders, those of `take`.
    pub fn checksums(
        &self,
        algorithm: &str,
        path: impl AsRef<OsStr>,
        take: impl FnMut(Summed) -> Result<()>,
    ) -> Result<()> {
        let algorithm = algorithm.parse()?;
        let (tree, found) = self.find_folder(path.as_ref())?;
        of_tree(tree, found.node, algorithm, &|total| self.meter(total), take)
    }

    /// Returns the checksum of a file: `crc`, `md5`, `sha1`, `sha224`, `sha256`, `sha384`, `sha512`, `blake3` or `xxh3`.
    ///
    /// # Errors
    /// [`Error::Usage`] for another algorithm, `ENOENT`, `EISDIR`, and those of reading.
    pub fn checksum(&self, algorithm: &str, path: impl AsRef<OsStr>) -> Result<String> {
        let algorithm = algorithm.parse()?;
        let path = path.as_ref();
        let (tree, found) = self.find_path(path, true)?;
        if found.attr.file_type != FileType::Regular {
            let errno = if found.attr.is_dir() { libc::EISDIR } else { libc::EINVAL };
            return Err(Error::Errno(errno).at(path.display().to_string()));
        }
        of_file(tree, found.node, algorithm, &mut Vec::new(), &self.meter(found.attr.size))
            .at(|| path.display().to_string())
    }

    /// Writes the checksums of all regular files below a folder to a file of the host, in the form of `sha256sum`.
    ///
    /// # Errors
    /// As [`checksum`](Self::checksum), and those of the host.
    pub fn checksums_out(&self, algorithm: &str, path: impl AsRef<OsStr>, to: impl AsRef<Path>) -> Result<()> {
        let algorithm = algorithm.parse()?;
        let path = path.as_ref();
        let (tree, found) = self.find_folder(path)?;
        replace::write_file(to.as_ref(), |out| {
            of_tree(tree, found.node, algorithm, &|total| self.meter(total), |file| {
                let name = [b"./", file.path.as_slice()].concat();
                let sum = file.sum.at(|| format!("{}/{}", path.display(), file.path.escape_ascii()))?;
                write_line(out, &sum, &name).doing(|| "cannot write")
            })
        })
    }

    /// Returns the checksum of a drive's or a partition's bytes.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a device that there is not, and those of reading.
    pub fn checksum_device(&self, algorithm: &str, device: &str) -> Result<String> {
        let mut state = State::new(algorithm.parse()?);
        let device = self.device(device)?;
        let meter = self.meter(device.size());
        let mut buffer = vec![0; PIECE];
        let mut offset = 0;
        while offset < device.size() {
            let count = (device.size() - offset).min(PIECE as u64) as usize;
            device.read_at(&mut buffer[..count], offset)?;
            state.update(&buffer[..count]);
            offset += count as u64;
            meter.add(count as u64)?;
        }
        Ok(state.finish())
    }

    /// Returns a drive or a partition.
    pub(super) fn device(&self, name: &str) -> Result<Arc<dyn crate::block::BlockDevice>> {
        let launched = self.launched()?;
        if let Ok(index) = self.device_index(name) {
            return Ok(Arc::clone(&launched.disks[index].device));
        }
        Ok(Arc::clone(&launched.held(name)?.volume.device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(algorithm: &str, bytes: &[u8]) -> String {
        let mut state = State::new(algorithm.parse().expect("known"));
        state.update(bytes);
        state.finish()
    }

    #[test]
    fn sums_are_those_that_the_tools_print() {
        assert_eq!(sum("crc", b"hello\n"), "3015617425");
        assert_eq!(sum("crc", b""), "4294967295");
        assert_eq!(sum("md5", b"hello\n"), "b1946ac92492d2347c6235b4d2611184");
        assert_eq!(sum("sha1", b"hello\n"), "f572d396fae9206628714fb2ce00f72e94f2258f");
        assert_eq!(sum("sha256", b"hello\n"), "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
        "sha3".parse::<Algorithm>().expect_err("not known");
    }

    #[test]
    fn a_name_with_a_line_feed_is_escaped_as_coreutils_do() {
        let mut line = Vec::new();
        write_line(&mut line, "00", b"a\nb\\c").expect("memory");
        assert_eq!(line, b"\\00  a\\nb\\\\c\n");
    }
}
