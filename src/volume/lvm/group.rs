//! A volume group, as its metadata describe it.

use super::text::{Section, Value};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, HashMap};

/// A volume group.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its UUID, with its hyphens.
    pub id: String,
    /// Counts the changes of the metadata.
    pub seqno: u64,
    /// The size of an extent, in bytes.
    pub extent: u64,
    /// The physical volumes, by their names in the metadata.
    pub physical: BTreeMap<String, Physical>,
    /// The logical volumes, by their names.
    pub logical: BTreeMap<String, Volume>,
}

/// A physical volume.
#[derive(Clone, Debug)]
pub struct Physical {
    /// Its UUID, with its hyphens.
    pub id: String,
    /// Where its first extent begins, in bytes.
    pub start: u64,
    /// How many extents it has.
    pub count: u64,
}

/// A logical volume.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Its UUID, with its hyphens.
    pub id: String,
    /// Whether it is for use, and no part of another.
    pub visible: bool,
    /// Whether it may be written.
    pub writable: bool,
    /// Whether all copies of it agree; said of mirrors.
    pub not_synced: bool,
    /// Its segments, in their order.
    pub segments: Vec<Segment>,
}

/// A segment of a logical volume.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Its first extent in the volume.
    pub start: u64,
    /// How many extents it has.
    pub count: u64,
    /// Its type: `striped`, `raid5_ls`, `thin`.
    pub kind: String,
    /// Everything that the metadata say of it.
    pub section: Section,
}

/// A range of another volume or of a physical one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Area {
    /// The name of the volume.
    pub name: String,
    /// Its first extent there.
    pub start: u64,
}

impl Segment {
    /// Returns the areas of a key: names, each followed by an extent.
    pub fn areas(&self, key: &str) -> Vec<Area> {
        let pairs = self.section.list(key).chunks_exact(2);
        let area = |pair: &[Value]| match pair {
            [Value::Text(name), Value::Number(start)] => {
                Some(Area { name: name.clone(), start: u64::try_from(*start).ok()? })
            }
            _ => None,
        };
        pairs.filter_map(area).collect()
    }
}

impl Group {
    /// Reads a group from its metadata.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when they make no sense.
    pub fn read(root: &Section) -> Result<Self> {
        let wrong = |detail: &str| Error::corrupt("LVM metadata text", detail.to_owned());
        let (name, group) = root.sections.iter().next().ok_or_else(|| wrong("it tells of no group"))?;
        let id = |section: &Section| section.text("id").map(str::to_owned).ok_or_else(|| wrong("an id is missing"));
        let extent = group.number("extent_size").and_then(|sectors| sectors.checked_mul(512));
        let extent =
            extent.filter(|&size| size > 0 && size <= 1 << 40).ok_or_else(|| wrong("the size of extents is wrong"))?;
        if !is_name(name) {
            return Err(wrong("the name of the group is wrong"));
        }
        let empty = Section::default();
        let sections = |name: &str| &group.sections.get(name).unwrap_or(&empty).sections;
        let mut physical = BTreeMap::new();
        for (name, section) in sections("physical_volumes") {
            let start = section.number("pe_start").and_then(|sectors| sectors.checked_mul(512));
            let start = start.ok_or_else(|| wrong("a physical volume has no beginning"))?;
            let count = section.number("pe_count").unwrap_or(0);
            physical.insert(name.clone(), Physical { id: id(section)?, start, count });
        }
        let mut logical = BTreeMap::new();
        for (name, section) in sections("logical_volumes") {
            if !is_name(name) {
                return Err(wrong("the name of a volume is wrong"));
            }
            logical.insert(name.clone(), Volume::read(section, id(section)?)?);
        }
        let seqno = group.number("seqno").unwrap_or(0);
        Ok(Self { name: name.clone(), id: id(group)?, seqno, extent, physical, logical })
    }

    /// Returns the segment that makes a snapshot of the old kind of its store `name`.
    pub fn snapshot_of(&self, name: &str) -> Option<&Segment> {
        self.snapshots().find(|segment| segment.section.text("cow_store") == Some(name))
    }

    /// Returns the segment that merges a snapshot into its origin `name`.
    pub fn merge_into(&self, name: &str) -> Option<&Segment> {
        self.snapshots().find(|segment| {
            segment.section.text("origin") == Some(name) && segment.section.text("merging_store").is_some()
        })
    }

    fn snapshots(&self) -> impl Iterator<Item = &Segment> {
        self.logical.values().flat_map(|volume| &volume.segments).filter(|segment| segment.kind == "snapshot")
    }

    /// Finds the volumes of which an extent of a physical volume belongs to another one too, or twice to one, and says what they
    /// share. No group of LVM has such: what is written to one would change the other.
    pub fn shared_extents(&self) -> HashMap<String, String> {
        let mut ranges: Vec<(&str, u64, u64, &str)> = Vec::new();
        for (name, volume) in &self.logical {
            for segment in
                volume.segments.iter().filter(|segment| matches!(segment.kind.as_str(), "striped" | "linear"))
            {
                // Legs that are volumes tell of their own extents.
                let count = segment.section.list("stripes").len() / 2;
                let each = segment.count.checked_div(count as u64).unwrap_or(0);
                for Area { name: area, start } in segment.areas("stripes") {
                    if let Some((area, _)) = self.physical.get_key_value(&area) {
                        ranges.push((area, start, start.saturating_add(each), name));
                    }
                }
            }
        }
        ranges.sort_unstable();
        let mut shared = HashMap::new();
        let mut tell = |own: &str, other: &str, extent: u64, area: &str| {
            let with = if own == other { "it twice" } else { &format!("{other} too") };
            let said = || format!("extent {extent} of {area} belongs to {with}");
            shared.entry(own.to_owned()).or_insert_with(said);
        };
        // Of those that began before, the one that reaches farthest.
        let mut before: Option<(&str, u64, &str)> = None;
        for &(area, start, end, name) in &ranges {
            match before {
                Some((same, reach, other)) if same == area && start < reach => {
                    tell(name, other, start, area);
                    tell(other, name, start, area);
                    if end > reach {
                        before = Some((area, end, name));
                    }
                }
                _ => before = Some((area, end, name)),
            }
        }
        shared
    }
}

impl Volume {
    fn read(section: &Section, id: String) -> Result<Self> {
        let wrong = |detail: &str| Error::corrupt("LVM metadata text", detail.to_owned());
        let mut segments = Vec::new();
        for (name, segment) in &section.sections {
            if !name.starts_with("segment") {
                continue;
            }
            let kind = segment.text("type").ok_or_else(|| wrong("a segment has no type"))?;
            let count = segment.number("extent_count").filter(|&count| count > 0);
            segments.push(Segment {
                start: segment.number("start_extent").ok_or_else(|| wrong("a segment has no beginning"))?,
                count: count.ok_or_else(|| wrong("a segment is empty"))?,
                // What follows a plus sign tells versions of LVM apart, and not what is stored.
                kind: kind.split('+').next().unwrap_or(kind).to_owned(),
                section: segment.clone(),
            });
        }
        segments.sort_by_key(|segment| segment.start);
        let mut end = 0_u64;
        for segment in &segments {
            if segment.start != end {
                return Err(wrong("the segments of a volume overlap or leave a gap"));
            }
            end = end.checked_add(segment.count).ok_or_else(|| wrong("a volume is too large"))?;
        }
        let status: Vec<&str> = section.texts("status").collect();
        let flags: Vec<&str> = section.texts("flags").collect();
        Ok(Self {
            id,
            visible: status.contains(&"VISIBLE"),
            writable: status.contains(&"WRITE"),
            not_synced: flags.contains(&"NOTSYNCED")
                || status.contains(&"NOTSYNCED")
                || status.contains(&"MIRROR_NOTSYNCED"),
            segments,
        })
    }

    /// Returns the name of the way in which the volume is made, as `lvs -o segtype` has it.
    pub fn layout(&self) -> &str {
        let Some(first) = self.segments.first() else { return "empty" };
        match first.kind.as_str() {
            "striped" if first.section.number("stripe_count").unwrap_or(1) <= 1 => "linear",
            kind => kind,
        }
    }
}

/// Says whether a text is a name that LVM would take.
fn is_name(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'+' | b'-');
    !name.is_empty()
        && name.len() <= 127
        && name.bytes().all(is_part)
        && !matches!(name, "." | "..")
        && !name.starts_with('-')
}
