//! The extended headers of PAX archives.

use super::damaged;
use crate::error::Result;
use crate::guestfs::put::Xattrs;

/// The most extended attributes that a member has.
const MOST_XATTRS: usize = 4096;

/// The extensions of one header.
#[derive(Clone, Debug, Default)]
pub(super) struct Extensions {
    pub(super) records: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Extensions {
    pub(super) fn get(&self, key: &str) -> Option<&[u8]> {
        let last = self.records.iter().rev().find(|(name, _)| name == key.as_bytes())?;
        Some(last.1.as_slice()).filter(|value| !value.is_empty())
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<u64>> {
        let Some(text) = self.get(key) else { return Ok(None) };
        let number = std::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok());
        number.map(Some).ok_or_else(|| damaged(format!("{key} is no number")))
    }

    /// Reads records of `length key=value`, each with a line feed at its end.
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self> {
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

/// Returns the extended attributes that the extensions tell of.
pub(super) fn xattrs(all: &Extensions) -> Result<Xattrs> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_that_lie_about_their_length_are_refused() {
        assert_eq!(Extensions::parse(b"11 path=ab\n").expect("a record").get("path"), Some(&b"ab"[..]));
        for text in [&b"12 path=ab\n"[..], b"99999999999999999999 a=b\n", b"3 \n", b"0 a=b\n", b"path=ab\n"] {
            assert!(Extensions::parse(text).is_err(), "{}", text.escape_ascii());
        }
    }
}
