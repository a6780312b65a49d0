//! Extended attributes that lie in the inode: a header with their count, then for each the lengths of name and value, its
//! flags, and both.

use super::{Stored, Value, flags};

/// Returns the attributes; `None` among them stands for damage, after which there are no more.
pub fn entries(bytes: &[u8]) -> impl Iterator<Item = Option<Stored<'_>>> {
    // The header: total size, count, padding. A fork too short for one holds none.
    let mut left = bytes.get(2).copied().unwrap_or(0);
    let mut rest = bytes.get(4..);
    std::iter::from_fn(move || {
        left = left.checked_sub(1)?;
        let entry = rest.and_then(parse);
        rest = entry.map(|(_, rest)| rest);
        if rest.is_none() {
            left = 0;
        }
        Some(entry.map(|(stored, _)| stored))
    })
}

fn parse(bytes: &[u8]) -> Option<(Stored<'_>, &[u8])> {
    let (name_len, value_len, bits) = (*bytes.first()?, *bytes.get(1)?, *bytes.get(2)?);
    let (name, rest) = bytes[3..].split_at_checked(usize::from(name_len))?;
    let (value, rest) = rest.split_at_checked(usize::from(value_len))?;
    let stored = Stored { name, flags: bits & !flags::LOCAL, value: Value::Local(value) };
    (name_len > 0).then_some((stored, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_that_does_not_fit_ends_the_list() {
        let bytes = [0, 0, 2, 0, 1, 2, 2, b'n', b'v', b'w', 9, 0, 0, b'x'];
        let found: Vec<_> = entries(&bytes).collect();
        let first = Stored { name: b"n", flags: flags::ROOT, value: Value::Local(b"vw") };
        assert_eq!(found, [Some(first), None]);
        assert_eq!(entries(&[]).count(), 0);
    }
}
