//! An rpm header: an index of tags and a store of their values, all big-endian.
//!
//! The form is specified in rpm's documentation ("RPM V4 header format", and the list of tags).

use crate::bytes::{be32, be64, until_nul};
use crate::error::{Error, Result};
use crate::inspect::packages::{prose, text};
use crate::inspect::types::Package;

/// The most tags of a header, as rpm has it.
const MAX_TAGS: usize = 0xffff;

const TAG_NAME: u32 = 1000;
const TAG_VERSION: u32 = 1001;
const TAG_RELEASE: u32 = 1002;
const TAG_EPOCH: u32 = 1003;
const TAG_SUMMARY: u32 = 1004;
const TAG_DESCRIPTION: u32 = 1005;
const TAG_INSTALL_TIME: u32 = 1008;
const TAG_SIZE: u32 = 1009;
const TAG_VENDOR: u32 = 1011;
const TAG_URL: u32 = 1020;
const TAG_ARCH: u32 = 1022;
const TAG_SOURCE_RPM: u32 = 1044;
const TAG_LONG_SIZE: u32 = 5009;

const TYPE_INT32: u32 = 4;
const TYPE_INT64: u32 = 5;
const TYPE_STRING: u32 = 6;
const TYPE_STRING_ARRAY: u32 = 8;
const TYPE_I18N_STRING: u32 = 9;

/// The length of an entry of the index.
const ENTRY: usize = 16;

/// A value, as its type says; of an array the first.
enum Value<'a> {
    Number(u64),
    Text(&'a [u8]),
}

/// Describes the package of a header, as a database holds it: without the magic number and the padding of a package file.
///
/// # Errors
/// [`Error::Corrupt`] where the index does not lie within, or names no package.
pub(super) fn package(blob: &[u8]) -> Result<Package> {
    let bad = |detail: &'static str| Error::corrupt("rpm header", detail);
    if blob.len() < 8 {
        return Err(bad("it is too short"));
    }
    let tags = be32(blob, 0) as usize;
    if tags > MAX_TAGS || 8 + tags * ENTRY > blob.len() {
        return Err(bad("its index is longer than the header"));
    }
    let (index, store) = blob[8..].split_at(tags * ENTRY);
    let store = store.get(..be32(blob, 4) as usize).ok_or_else(|| bad("its store is longer than the header"))?;
    let mut package = Package::default();
    for entry in index.chunks_exact(ENTRY) {
        let tag = be32(entry, 0);
        // Tags of file lists are long; only what is shown is looked at.
        if !(TAG_NAME..=TAG_SOURCE_RPM).contains(&tag) && tag != TAG_LONG_SIZE {
            continue;
        }
        let Some(value) = value(entry, store) else { continue };
        match (tag, value) {
            (TAG_NAME, Value::Text(value)) => package.name = text(value),
            (TAG_VERSION, Value::Text(value)) => package.version = text(value),
            (TAG_RELEASE, Value::Text(value)) => package.release = text(value),
            (TAG_EPOCH, Value::Number(value)) => package.epoch = value as u32,
            (TAG_SUMMARY, Value::Text(value)) => package.summary = text(value),
            (TAG_DESCRIPTION, Value::Text(value)) => package.description = prose(value),
            (TAG_INSTALL_TIME, Value::Number(value)) => package.install_time = i64::try_from(value).ok(),
            (TAG_SIZE, Value::Number(value)) => package.size = package.size.or(Some(value)),
            (TAG_LONG_SIZE, Value::Number(value)) => package.size = Some(value),
            (TAG_VENDOR, Value::Text(value)) => package.publisher = text(value),
            (TAG_URL, Value::Text(value)) => package.url = text(value),
            (TAG_ARCH, Value::Text(value)) => package.arch = text(value),
            (TAG_SOURCE_RPM, Value::Text(value)) => package.source = text(value),
            _ => {}
        }
    }
    if package.name.is_empty() { Err(bad("it names no package")) } else { Ok(package) }
}

fn value<'a>(entry: &[u8], store: &'a [u8]) -> Option<Value<'a>> {
    let bytes = store.get(be32(entry, 8) as usize..)?;
    match be32(entry, 4) {
        TYPE_INT32 => bytes.get(..4).map(|bytes| Value::Number(u64::from(be32(bytes, 0)))),
        TYPE_INT64 => bytes.get(..8).map(|bytes| Value::Number(be64(bytes, 0))),
        TYPE_STRING | TYPE_STRING_ARRAY | TYPE_I18N_STRING => Some(Value::Text(until_nul(bytes))),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Makes a header of texts and 32-bit numbers.
    pub(in crate::inspect::packages::rpm) fn blob(texts: &[(u32, &str)], numbers: &[(u32, u32)]) -> Vec<u8> {
        let (mut index, mut store) = (Vec::new(), Vec::new());
        for (tag, number) in numbers {
            index.extend([*tag, TYPE_INT32, store.len() as u32, 1].iter().flat_map(|word| word.to_be_bytes()));
            store.extend(number.to_be_bytes());
        }
        for (tag, text) in texts {
            index.extend([*tag, TYPE_STRING, store.len() as u32, 1].iter().flat_map(|word| word.to_be_bytes()));
            store.extend(text.bytes().chain([0]));
        }
        let counts = [(index.len() / ENTRY) as u32, store.len() as u32];
        [counts.iter().flat_map(|word| word.to_be_bytes()).collect(), index, store].concat()
    }

    #[test]
    fn a_header_tells_its_package() {
        let texts = [(TAG_NAME, "bash"), (TAG_VERSION, "5.2.15"), (TAG_RELEASE, "3.fc39"), (TAG_ARCH, "x86_64")];
        let package = package(&blob(&texts, &[(TAG_EPOCH, 2), (TAG_SIZE, 4711)])).expect("whole");
        assert_eq!((package.name.as_str(), package.full_version().as_str()), ("bash", "2:5.2.15-3.fc39"));
        assert_eq!(package.size, Some(4711));
    }

    #[test]
    fn a_header_cut_anywhere_is_no_panic() {
        let whole = blob(&[(TAG_NAME, "bash"), (TAG_SUMMARY, "shell")], &[(TAG_SIZE, 1)]);
        for end in 0..whole.len() {
            package(&whole[..end]).expect_err("cut off");
        }
        for place in 0..whole.len() {
            let mut bad = whole.clone();
            bad[place] = 0xff;
            let _ = package(&bad);
        }
    }
}
