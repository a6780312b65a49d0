//! The header of a member: its fields, and how numbers, texts and times are written.

use super::{BLOCK, damaged};
use crate::error::Result;
use crate::fs::Timestamp;
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

/// Returns a text that ends at its first NUL.
pub(super) fn text(field: &[u8]) -> Vec<u8> {
    field.split(|&byte| byte == 0).next().unwrap_or_default().to_vec()
}

/// Reads a number: octal digits, or base 256 where the highest bit is set.
pub(super) fn number(field: &[u8]) -> Option<i64> {
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

/// Reads a number that is not below zero.
pub(super) fn unsigned(field: &[u8], what: &str) -> Result<u64> {
    number(field).and_then(|value| u64::try_from(value).ok()).ok_or_else(|| damaged(format!("its {what} is no number")))
}

/// Reads seconds since 1970 as a decimal.
pub(super) fn time(text: &[u8]) -> Option<Timestamp> {
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

/// Checks the checksum of a header.
pub(super) fn check_sum(header: &[u8; BLOCK]) -> Result<()> {
    let wanted = number(&header[CHECKSUM]);
    let of = |byte: &dyn Fn(u8) -> i64| -> i64 {
        let shown = |(place, &value): (usize, &u8)| if CHECKSUM.contains(&place) { b' ' } else { value };
        header.iter().enumerate().map(|entry| byte(shown(entry))).sum()
    };
    // Some programs of old took bytes for signed numbers.
    if wanted == Some(of(&|byte| byte.into())) || wanted == Some(of(&|byte| byte.cast_signed().into())) {
        return Ok(());
    }
    Err(damaged("the checksum of a header is wrong; is this a tar archive?"))
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
}
