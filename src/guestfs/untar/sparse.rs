//! Where the data of sparse files lies, in the forms of GNU tar and of PAX archives.

use super::extensions::Extensions;
use super::header::{self, unsigned};
use super::{BLOCK, Member, Members, damaged};
use crate::error::Result;
use std::io::Read;

/// The most stretches of data that a sparse file has.
const MOST_STRETCHES: usize = 1 << 20;

impl<R: Read> Members<R> {
    /// Reads the stretches of GNU tar's own sparse files, which follow the header.
    pub(super) fn old_map(&mut self, first: &[u8; BLOCK], member: &mut Member) -> Result<Vec<(u64, u64)>> {
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
        add(&first[header::SPARSE])?;
        let mut is_extended = first[header::IS_EXTENDED] != 0;
        while is_extended {
            let mut more = [0; BLOCK];
            self.exact(&mut more)?;
            add(&more[header::MORE])?;
            is_extended = more[header::MORE_IS_EXTENDED] != 0;
        }
        member.size = unsigned(&first[header::REAL_SIZE], "size")?;
        Ok(map)
    }

    /// Returns the stretches of a sparse file of PAX archives, in one of three forms.
    pub(super) fn sparse_map(&mut self, all: &Extensions, member: &mut Member) -> Result<Option<Vec<(u64, u64)>>> {
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

/// Checks that the stretches of a sparse file follow each other, lie within it and are what the data holds.
pub(super) fn check_map(map: &[(u64, u64)], size: u64, data: u64) -> Result<()> {
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
