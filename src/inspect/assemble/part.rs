//! Names of partitions, taken apart.

/// A path of a partition, taken apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Part {
    /// The disk's place among the disks, from 0.
    pub(super) disk: usize,
    /// The partition; none for the whole disk.
    pub(super) number: Option<u32>,
}

/// Takes a path such as `/dev/vdb3`, `/dev/nvme0n1p2` or `/dev/ada0p1` apart.
pub(super) fn part_of(path: &str) -> Option<Part> {
    let name = path.strip_prefix("/dev/")?;
    for prefix in ["sd", "vd", "hd", "xvd"] {
        let Some(rest) = name.strip_prefix(prefix) else { continue };
        let end = rest.find(|letter: char| !letter.is_ascii_lowercase()).unwrap_or(rest.len());
        let (letters, number) = rest.split_at(end);
        if letters.is_empty() || letters.len() > 3 {
            return None;
        }
        let disk = letters.bytes().fold(0, |disk, letter| disk * 26 + usize::from(letter - b'a') + 1) - 1;
        return Some(Part { disk, number: number_of(number)? });
    }
    for controllers in ["cciss/c", "ida/c"] {
        // Of the first controller of a Smart Array, disk by disk.
        let Some(rest) = name.strip_prefix(controllers).and_then(|rest| rest.strip_prefix("0d")) else { continue };
        let (disk, number) = rest.split_once('p').unwrap_or((rest, ""));
        return Some(Part { disk: disk.parse().ok()?, number: number_of(number)? });
    }
    for (prefix, separator) in [
        ("nvme", "p"),
        ("mmcblk", "p"),
        ("ada", "p"),
        ("da", "p"),
        ("ad", "p"),
        ("vtbd", "p"),
        ("nvd", "p"),
        ("nda", "p"),
        ("xbd", "p"),
        ("loop", "p"),
        ("ubd", "p"),
    ] {
        let Some(rest) = name.strip_prefix(prefix) else { continue };
        let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
        let (digits, mut rest) = rest.split_at(end);
        let Ok(mut disk) = digits.parse::<usize>() else { continue };
        if prefix == "nvme" {
            // Each namespace of a controller is a disk, counted from 1.
            let namespace = rest.strip_prefix('n')?;
            let end = namespace.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(namespace.len());
            disk = disk.checked_add(namespace[..end].parse::<usize>().ok()?.checked_sub(1)?)?;
            rest = &namespace[end..];
        }
        if rest.is_empty() {
            return Some(Part { disk, number: None });
        }
        let number = rest.strip_prefix(separator).or_else(|| rest.strip_prefix('s'))?;
        return Some(Part { disk, number: Some(number_of(number)??) });
    }
    None
}

/// Takes the name that multipath gives a disk apart: `/dev/mapper/mpatha` is the first, and `mpatha1`, `mpathap1` or
/// `mpatha-part1` its first partition.
pub(super) fn multipath_of(path: &str) -> Option<Part> {
    let rest = path.strip_prefix("/dev/mapper/mpath")?;
    let letter = rest.bytes().next().filter(u8::is_ascii_lowercase)?;
    let rest = &rest[1..];
    let number = rest.strip_prefix("-part").or_else(|| rest.strip_prefix('p')).unwrap_or(rest);
    Some(Part { disk: usize::from(letter - b'a'), number: number_of(number)? })
}

/// Reads a partition's number; the inner none is for no number at all.
pub(super) fn number_of(text: &str) -> Option<Option<u32>> {
    if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) }
}

/// Returns the name of the disk that a partition lies on.
pub(super) fn disk_of(name: &str) -> &str {
    let base = name.trim_end_matches(|letter: char| letter.is_ascii_digit());
    match base.strip_suffix('p') {
        Some(disk) if disk.ends_with(|letter: char| letter.is_ascii_digit()) => disk,
        // A disk such as /dev/nvme0n1 ends in a number of its own.
        _ if name.starts_with("/dev/nvme") || name.starts_with("/dev/mmcblk") => name,
        _ => base,
    }
}
