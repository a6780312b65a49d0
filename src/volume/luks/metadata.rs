//! The JSON of a LUKS2 header.

use super::header::{Digest, Header, MAX_KEY, Segment, Slot};
use super::kdf::Kdf;
use crate::error::{Error, Result};
use crate::volume::hash::Hash;
use crate::volume::sectors::CipherSpec;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// How many key slots, digests, segments and tokens are read, each.
const MAX_OBJECTS: usize = 1024;

#[derive(Deserialize)]
struct Metadata {
    keyslots: BTreeMap<String, Value>,
    digests: BTreeMap<String, JsonDigest>,
    segments: BTreeMap<String, JsonSegment>,
    #[serde(default)]
    tokens: BTreeMap<String, Value>,
    config: Config,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    requirements: Requirements,
}

#[derive(Default, Deserialize)]
struct Requirements {
    #[serde(default)]
    mandatory: Vec<String>,
}

#[derive(Deserialize)]
struct JsonSlot {
    key_size: u32,
    priority: Option<u32>,
    af: JsonAf,
    area: JsonArea,
    kdf: JsonKdf,
}

#[derive(Deserialize)]
struct JsonAf {
    stripes: u32,
    hash: String,
}

#[derive(Deserialize)]
struct JsonArea {
    #[serde(rename = "type")]
    kind: String,
    offset: String,
    encryption: String,
    key_size: u32,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum JsonKdf {
    Pbkdf2 { hash: String, iterations: u32, salt: String },
    Argon2i { time: u32, memory: u32, cpus: u32, salt: String },
    Argon2id { time: u32, memory: u32, cpus: u32, salt: String },
}

#[derive(Deserialize)]
struct JsonDigest {
    #[serde(rename = "type")]
    kind: String,
    keyslots: Vec<String>,
    segments: Vec<String>,
    hash: String,
    iterations: u32,
    salt: String,
    digest: String,
}

#[derive(Deserialize)]
struct JsonSegment {
    #[serde(rename = "type")]
    kind: String,
    offset: String,
    size: String,
    #[serde(default)]
    iv_tweak: String,
    #[serde(default)]
    encryption: String,
    #[serde(default)]
    sector_size: u32,
    integrity: Option<Value>,
    #[serde(default)]
    flags: Vec<String>,
}

fn wrong(detail: impl Into<String>) -> Error {
    Error::corrupt("LUKS2 metadata", detail.into())
}

/// Numbers that need 64 bits are texts.
fn number(text: &str, what: &str) -> Result<u64> {
    text.parse().map_err(|_| wrong(format!("{what} is {text:?}, no number")))
}

/// Identifiers are numbers, and texts as all names in JSON are.
fn id(text: &str) -> Result<u32> {
    text.parse().map_err(|_| wrong(format!("{text:?} is no identifier")))
}

fn ids(texts: &[String]) -> Result<Vec<u32>> {
    if texts.len() > MAX_OBJECTS {
        return Err(wrong("a digest names too many objects"));
    }
    texts.iter().map(|text| id(text)).collect()
}

/// Reads the JSON of a header; the UUID and the label are not in it.
///
/// # Errors
/// [`Error::Corrupt`], and [`Error::Unsupported`], by name, for what is encrypted in a way that is not read.
pub(super) fn parse(json: &[u8]) -> Result<Header> {
    let metadata: Metadata = serde_json::from_slice(json).map_err(|error| wrong(error.to_string()))?;
    let counts = [metadata.keyslots.len(), metadata.digests.len(), metadata.segments.len(), metadata.tokens.len()];
    if counts.iter().any(|&count| count > MAX_OBJECTS) {
        return Err(wrong(format!("it has more than {MAX_OBJECTS} objects of one kind")));
    }
    if let Some(requirement) = metadata.config.requirements.mandatory.first() {
        return Err(Error::unsupported(match requirement.as_str() {
            "online-reencrypt" | "online-reencrypt-v2" | "offline-reencrypt" => {
                format!("a LUKS2 device whose reencryption is in progress ({requirement}); finish it with cryptsetup")
            }
            other => format!("the requirement {other:?} of a LUKS2 header"),
        }));
    }
    let mut slots = Vec::new();
    for (name, value) in metadata.keyslots {
        match value.get("type").and_then(Value::as_str) {
            Some("luks2") => slots.push(slot(id(&name)?, value)?),
            Some("reencrypt") => {
                return Err(Error::unsupported(
                    "a LUKS2 device whose reencryption is in progress; finish it with cryptsetup",
                ));
            }
            other => {
                log::warn!("LUKS key slot {name} is of an unknown type ({}); it is not tried", other.unwrap_or("none"))
            }
        }
    }
    let digests = metadata.digests.into_values().filter(|digest| digest.kind == "pbkdf2").map(digest);
    let digests = digests.collect::<Result<Vec<_>>>()?;
    let mut segments = Vec::new();
    for (name, value) in &metadata.segments {
        segments.push(segment(id(name)?, value)?);
    }
    segments.sort_by_key(|segment: &Segment| segment.id);
    check_places(&segments)?;
    let kind = |token: &Value| token.get("type").and_then(Value::as_str).unwrap_or("unknown").to_owned();
    let tokens = metadata.tokens.iter().map(|(name, token)| (name.clone(), kind(token))).collect();
    Ok(Header { version: 2, uuid: String::new(), label: None, slots, digests, segments, tokens })
}

fn slot(id: u32, value: Value) -> Result<Slot> {
    let slot: JsonSlot = serde_json::from_value(value).map_err(|error| wrong(format!("key slot {id}: {error}")))?;
    if slot.area.kind != "raw" {
        return Err(Error::unsupported(format!("the area {:?} of a LUKS2 key slot", slot.area.kind)));
    }
    if slot.key_size > MAX_KEY {
        return Err(wrong(format!("key slot {id}: its key has {} bytes", slot.key_size)));
    }
    let kdf = match slot.kdf {
        JsonKdf::Pbkdf2 { hash, iterations, salt } => {
            Kdf::Pbkdf2 { hash: Hash::from_name(&hash)?, iterations, salt: base64(&salt)? }
        }
        JsonKdf::Argon2i { time, memory, cpus, salt } => {
            Kdf::Argon2 { mixed: false, passes: time, memory, lanes: cpus, salt: base64(&salt)? }
        }
        JsonKdf::Argon2id { time, memory, cpus, salt } => {
            Kdf::Argon2 { mixed: true, passes: time, memory, lanes: cpus, salt: base64(&salt)? }
        }
    };
    Ok(Slot {
        id,
        priority: slot.priority.unwrap_or(1),
        key_size: slot.key_size,
        kdf,
        stripes: slot.af.stripes,
        af_hash: Hash::from_name(&slot.af.hash)?,
        area: number(&slot.area.offset, "the offset of a key slot")?,
        cipher: CipherSpec::parse(&slot.area.encryption)?,
        area_key_size: slot.area.key_size,
    })
}

fn digest(digest: JsonDigest) -> Result<Digest> {
    Ok(Digest {
        slots: ids(&digest.keyslots)?,
        segments: ids(&digest.segments)?,
        hash: Hash::from_name(&digest.hash)?,
        iterations: digest.iterations,
        salt: base64(&digest.salt)?,
        digest: base64(&digest.digest)?,
    })
}

fn segment(id: u32, segment: &JsonSegment) -> Result<Segment> {
    if let Some(integrity) = &segment.integrity {
        let kind = integrity.get("type").and_then(Value::as_str).unwrap_or("unknown");
        return Err(Error::unsupported(format!("a LUKS2 segment with integrity protection ({kind}, dm-integrity)")));
    }
    if segment.kind != "crypt" {
        return Err(Error::unsupported(format!("a LUKS2 segment of the type {:?}", segment.kind)));
    }
    if let Some(flag) = segment.flags.first() {
        return Err(Error::unsupported(format!("a LUKS2 segment with the flag {flag:?}")));
    }
    let size = match segment.size.as_str() {
        "dynamic" => None,
        text => Some(number(text, "the size of a segment")?),
    };
    Ok(Segment {
        id,
        offset: number(&segment.offset, "the offset of a segment")?,
        size,
        first: number(&segment.iv_tweak, "the iv_tweak of a segment")?,
        cipher: CipherSpec::parse(&segment.encryption)?,
        sector: segment.sector_size,
    })
}

/// Checks that no two segments share a byte, and that only the last has no size.
fn check_places(segments: &[Segment]) -> Result<()> {
    if segments.is_empty() {
        return Err(wrong("it has no segment"));
    }
    let unsized_before_last = segments.iter().rev().skip(1).any(|segment| segment.size.is_none());
    let mut places: Vec<(u64, u64)> = Vec::with_capacity(segments.len());
    for segment in segments {
        let end = segment.offset.checked_add(segment.size.unwrap_or(0)).ok_or_else(|| wrong("a segment has no end"))?;
        places.push((segment.offset, if segment.size.is_none() { u64::MAX } else { end }));
    }
    places.sort_unstable();
    if unsized_before_last || places.windows(2).any(|pair| pair[1].0 < pair[0].1) {
        return Err(wrong("its segments overlap"));
    }
    Ok(())
}

/// Decodes base64 with its padding.
fn base64(text: &str) -> Result<Vec<u8>> {
    let digits = text.trim_end_matches('=').as_bytes();
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    let (mut bits, mut count) = (0_u32, 0);
    for &digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Err(wrong("a salt or digest is no base64")),
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_decoded_with_any_padding() {
        assert_eq!(base64("aGVsbG8=").expect("good"), b"hello");
        assert_eq!(base64("aGVsbA==").expect("good"), b"hell");
        assert_eq!(base64("").expect("good"), b"");
        base64("a*b").expect_err("no digit");
    }
}
