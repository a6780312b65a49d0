//! The filesystems of optical discs: ISO 9660, UDF. Their descriptors begin at 32 KiB.

use super::Identity;
use super::reader::{Reader, utf16_be};
use crate::bytes::{hex, le16, le32};

/// Where the descriptors begin, in bytes.
const DESCRIPTORS_OFFSET: u64 = 32768;

/// The size of a descriptor, in bytes.
const DESCRIPTOR_SIZE: u64 = 2048;

/// How many descriptors are looked at.
const MAX_DESCRIPTORS: u64 = 64;

fn descriptor(reader: &Reader<'_>, index: u64) -> Option<Vec<u8>> {
    reader.read(DESCRIPTORS_OFFSET + index * DESCRIPTOR_SIZE, DESCRIPTOR_SIZE as usize)
}

/// ISO 9660, with the label of Joliet where there is one, and High Sierra before it.
pub fn iso9660(reader: &Reader<'_>) -> Option<Identity> {
    let primary = descriptor(reader, 0)?;
    if primary[9..14] == *b"CDROM" {
        return Some(Identity::filesystem("iso9660").label(&primary[48..80]).version("High Sierra"));
    }
    if primary[1..6] != *b"CD001" {
        return None;
    }
    let mut identity = Identity::filesystem("iso9660").label(&primary[40..72]);
    // When it was modified, or else made: 16 digits and a time zone.
    let moment = [&primary[830..846], &primary[813..829]]
        .into_iter()
        .find(|moment| moment.iter().all(u8::is_ascii_digit) && moment.iter().any(|&digit| digit != b'0'));
    if let Some(moment) = moment {
        let text = String::from_utf8_lossy(moment);
        let parts = [0..4, 4..6, 6..8, 8..10, 10..12, 12..14, 14..16];
        identity = identity.serial(parts.map(|part| &text[part]).join("-"));
    }
    for index in 1..MAX_DESCRIPTORS {
        let Some(bytes) = descriptor(reader, index) else { break };
        if bytes[1..6] != *b"CD001" || bytes[0] == 0xff {
            break;
        }
        if bytes[0] == 2 && matches!(&bytes[88..91], b"%/@" | b"%/C" | b"%/E") {
            let label = utf16_be(&bytes[40..72]);
            let label = label.trim_ascii_end();
            // Joliet holds 16 characters; the other label may go on.
            let plain = identity.label.as_deref().unwrap_or_default();
            if !label.is_empty() && plain.len() <= 16 {
                identity = identity.label(label);
            }
            identity = identity.version("Joliet Extension");
            break;
        }
    }
    Some(identity)
}

/// UDF, alone or beside ISO 9660.
pub fn udf(reader: &Reader<'_>) -> Option<Identity> {
    let mut is_udf = false;
    for index in 0..MAX_DESCRIPTORS {
        let Some(bytes) = reader.read(DESCRIPTORS_OFFSET + index * DESCRIPTOR_SIZE, 6) else { break };
        match &bytes[1..6] {
            b"NSR02" | b"NSR03" => {
                is_udf = true;
                break;
            }
            b"BEA01" | b"BOOT2" | b"CD001" | b"CDW02" => {}
            _ => break,
        }
    }
    let identity = is_udf.then(|| Identity::filesystem("udf"))?;
    Some([2048, 512, 4096, 1024].into_iter().find_map(|size| udf_names(reader, size, &identity)).unwrap_or(identity))
}

/// Reads label and identifier, if blocks have `block_size` bytes.
fn udf_names(reader: &Reader<'_>, block_size: u64, identity: &Identity) -> Option<Identity> {
    const ANCHOR: u16 = 2;
    const ANCHOR_BLOCK: u32 = 256;
    const PRIMARY: u16 = 1;
    const LOGICAL: u16 = 6;
    const TERMINATING: u16 = 8;
    let anchor = reader.read(u64::from(ANCHOR_BLOCK) * block_size, 512)?;
    if le16(&anchor, 0) != ANCHOR || le32(&anchor, 12) != ANCHOR_BLOCK {
        return None;
    }
    let (len, first) = (u64::from(le32(&anchor, 16)), u64::from(le32(&anchor, 20)));
    let mut identity = identity.clone();
    for block in 0..(len / block_size).min(MAX_DESCRIPTORS) {
        let Some(bytes) = reader.read((first + block) * block_size, 512) else { break };
        match le16(&bytes, 0) {
            PRIMARY => identity = identity.serial(udf_identifier(&decode(&bytes[72..200]))),
            LOGICAL => {
                // The revision ends the domain's identifier, in decimal digits of 4 bits.
                let revision = le16(&bytes, 240);
                identity = identity.label(&decode(&bytes[84..212]));
                identity = identity.version(format!("{:x}.{:02x}", revision >> 8, revision & 0xff));
            }
            TERMINATING => break,
            _ => {}
        }
    }
    Some(identity)
}

/// Decodes a string in a field: the first byte is the width of characters in bits, the last the length that is used.
fn decode(field: &[u8]) -> Vec<u8> {
    let (last, rest) = field.split_last().unwrap_or((&0, &[]));
    let used = &rest[..usize::from(*last).min(rest.len())];
    match used.split_first() {
        Some((8, text)) => text.iter().map(|&byte| char::from(byte)).collect::<String>().into_bytes(),
        Some((16, text)) => utf16_be(text),
        _ => Vec::new(),
    }
}

/// Makes an identifier of 16 digits from the name of a volume set, which begins with what is unique about it.
fn udf_identifier(name: &[u8]) -> String {
    if name.len() < 8 {
        return String::new();
    }
    let digits = name.iter().take(16).take_while(|byte| byte.is_ascii_hexdigit()).count();
    let text = |len: usize| String::from_utf8_lossy(&name[..len]).to_lowercase();
    match digits {
        16.. => text(16),
        8..16 if name.len() >= 12 => text(8) + &hex(&name[8..12]),
        _ => hex(&name[..8]),
    }
}
