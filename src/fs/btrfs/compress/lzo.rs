//! LZO1X, and the framing that Btrfs puts round it.
//!
//! An extent begins with its length, 4 bytes; then each sector of the file is a segment: its length, 4 bytes, and an LZO1X
//! stream. The length of a segment never crosses the border of a sector: what is left before the border is skipped. All
//! little-endian. Streams are read with every copy checked against both ends.

use crate::bytes::le32;

/// Decompresses an extent; returns how many bytes came out, `None` when it is damaged.
pub fn extent(stored: &[u8], sector_size: usize, out: &mut [u8]) -> Option<usize> {
    let total = le32(stored.get(..4)?, 0) as usize;
    let stored = stored.get(..total)?;
    let (mut at, mut done) = (4, 0);
    while at < stored.len() && done < out.len() {
        if sector_size - at % sector_size < 4 {
            at = at.next_multiple_of(sector_size);
        }
        let len = le32(stored.get(at..at + 4)?, 0) as usize;
        let segment = stored.get(at + 4..)?.get(..len)?;
        let room = (out.len() - done).min(sector_size);
        done += stream(segment, &mut out[done..done + room])?;
        at += 4 + len;
    }
    Some(done)
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Input<'_> {
    fn byte(&mut self) -> Option<usize> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(usize::from(byte))
    }

    fn le16(&mut self) -> Option<usize> {
        Some(self.byte()? | self.byte()? << 8)
    }

    /// A length that did not fit its field: zeroes of 255 each, and a last byte.
    fn long(&mut self, base: usize) -> Option<usize> {
        let mut len = base;
        loop {
            match self.byte()? {
                0 => len += 255,
                last => return Some(len + last),
            }
        }
    }
}

/// Decompresses one stream; returns how many bytes came out, `None` when it is damaged or does not fit.
pub fn stream(bytes: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut input = Input { bytes, at: 0 };
    let mut done = 0;
    // How many literals came just before: 0 to 3 after a match, 4 after a run of them.
    let mut state = 0;
    if *bytes.first()? > 17 {
        let len = input.byte()? - 17;
        literals(&mut input, out, &mut done, len)?;
        state = len.min(4);
    }
    loop {
        let code = input.byte()?;
        let (distance, len, next) = match code {
            0..16 if state == 0 => {
                let len = if code == 0 { input.long(15)? } else { code } + 3;
                literals(&mut input, out, &mut done, len)?;
                state = 4;
                continue;
            }
            0..16 => {
                let near = (input.byte()? << 2) + (code >> 2);
                if state == 4 { (near + 2049, 3, code & 3) } else { (near + 1, 2, code & 3) }
            }
            16..32 => {
                let len = if code & 7 == 0 { input.long(7)? } else { code & 7 } + 2;
                let low = input.le16()?;
                let distance = ((code & 8) << 11) + (low >> 2);
                if distance == 0 {
                    return (input.at == bytes.len()).then_some(done);
                }
                (distance + 16384, len, low & 3)
            }
            32..64 => {
                let len = if code & 31 == 0 { input.long(31)? } else { code & 31 } + 2;
                let low = input.le16()?;
                ((low >> 2) + 1, len, low & 3)
            }
            64..128 => ((input.byte()? << 3) + (code >> 2 & 7) + 1, 3 + (code >> 5 & 1), code & 3),
            _ => ((input.byte()? << 3) + (code >> 2 & 7) + 1, 5 + (code >> 5 & 3), code & 3),
        };
        repeat(out, &mut done, distance, len)?;
        literals(&mut input, out, &mut done, next)?;
        state = next;
    }
}

fn literals(input: &mut Input<'_>, out: &mut [u8], done: &mut usize, len: usize) -> Option<()> {
    let from = input.bytes.get(input.at..input.at.checked_add(len)?)?;
    out.get_mut(*done..*done + len)?.copy_from_slice(from);
    input.at += len;
    *done += len;
    Some(())
}

fn repeat(out: &mut [u8], done: &mut usize, distance: usize, len: usize) -> Option<()> {
    let from = done.checked_sub(distance)?;
    let end = done.checked_add(len).filter(|&end| end <= out.len())?;
    if distance >= len {
        out.copy_within(from..from + len, *done);
    } else {
        for at in *done..end {
            out[at] = out[at - distance];
        }
    }
    *done = end;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: [u8; 3] = [17, 0, 0];

    #[test]
    fn literals_and_matches_come_out() {
        let mut out = [0; 64];
        let mut bytes = vec![17 + 4];
        bytes.extend(b"abcd");
        // Nine bytes from four back, then one literal.
        bytes.extend([32 + 7, (3 << 2) + 1, 0, b'!']);
        bytes.extend(END);
        assert_eq!(stream(&bytes, &mut out), Some(14));
        assert_eq!(&out[..14], b"abcdabcdabcda!");
    }

    #[test]
    fn a_stream_that_reaches_outside_is_damaged() {
        let mut out = [0; 16];
        assert_eq!(stream(&[18, b'a', 32 + 7, 3 << 2, 0, 17, 0, 0], &mut out), None, "before the beginning");
        assert_eq!(stream(&[18, b'a', 32 + 31, 0, 0, 17, 0, 0], &mut out), None, "past the end");
        assert_eq!(stream(&[0, 0, 0, 0], &mut out), None, "no end to a length");
        assert_eq!(stream(&[], &mut out), None);
        assert_eq!(extent(&[255, 255, 255, 255, 1], 4096, &mut out), None);
        for seed in 0..20_000_u32 {
            let bytes: Vec<u8> =
                (0..24).map(|at| (crc32c::crc32c(&[seed.to_le_bytes(), [at; 4]].concat()) >> 7) as u8).collect();
            stream(&bytes, &mut out);
        }
    }
}
