//! The records of a database. Fields follow each other without alignment; numbers and texts begin with their lengths.

use crate::bytes::{be64, uuid};
use crate::error::{Error, Result};

/// A record that tells of volumes.
#[derive(Clone, Debug)]
pub(super) enum Record {
    /// A disk, and its number.
    Disk(u64, Disk),
    /// A volume.
    Volume(VolumeRecord),
    /// A part of a volume that holds all its bytes: one of several copies, or the only one.
    Component(Component),
    /// A range of a disk.
    Part(Part),
}

/// A disk of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Disk {
    /// Its name: `Disk1`.
    pub name: String,
    /// Its GUID, in lower case.
    pub guid: String,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VolumeRecord {
    /// Its number.
    pub id: u64,
    /// Its name: `Volume1`.
    pub name: String,
    /// Its GUID.
    pub guid: String,
    /// How many components it has.
    pub components: u64,
    /// Its size, in sectors.
    pub size: u64,
}

/// How the parts of a component make up its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// In chunks that go round.
    Striped,
    /// One after the other.
    Spanned,
    /// In chunks that go round, with parity.
    Raid5,
}

/// A component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Component {
    /// Its number.
    pub id: u64,
    /// The number of its volume.
    pub volume: u64,
    /// How its parts make up its bytes.
    pub layout: Layout,
    /// How many parts it has.
    pub parts: u64,
    /// The size of a chunk, in sectors, where there are chunks.
    pub chunk: u64,
    /// How many columns chunks go round.
    pub columns: u64,
}

/// A range of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// The number of its component.
    pub component: u64,
    /// The number of its disk.
    pub disk: u64,
    /// Where it begins on the disk's data, in sectors.
    pub start: u64,
    /// Where it begins in its component, in sectors.
    pub offset: u64,
    /// Its size, in sectors.
    pub size: u64,
    /// The column that it is.
    pub column: u64,
}

/// What is left of a record.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let short = || Error::corrupt("record of a dynamic disk", "it ends within a field");
        let (field, rest) = self.0.split_at_checked(count).ok_or_else(short)?;
        self.0 = rest;
        Ok(field)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn fixed(&mut self) -> Result<u64> {
        Ok(be64(self.take(8)?, 0))
    }

    /// Takes what begins with its length.
    fn counted(&mut self) -> Result<&'a [u8]> {
        let len = self.byte()?;
        self.take(usize::from(len))
    }

    fn number(&mut self) -> Result<u64> {
        let bytes = self.counted()?;
        if bytes.len() > 8 {
            return Err(Error::corrupt("record of a dynamic disk", format!("a number of {} bytes", bytes.len())));
        }
        Ok(bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn text(&mut self) -> Result<String> {
        Ok(String::from_utf8_lossy(self.counted()?).into_owned())
    }

    fn guid(&mut self) -> Result<String> {
        let mut id = [0; 16];
        id.copy_from_slice(self.take(16)?);
        // The order of the bytes is that of the text.
        Ok(uuid(&id))
    }
}

impl Record {
    /// Reads a record; `None` for one that tells nothing of volumes.
    ///
    /// # Errors
    /// [`Error::Corrupt`], and [`Error::Unsupported`] for a kind that is not known.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        let mut fields = Fields(bytes);
        let head = fields.take(8)?;
        let (flags, kind) = (head[2], head[3]);
        Ok(match kind {
            0x32 => Some(Self::Component(component(&mut fields, flags)?)),
            0x33 => Some(Self::Part(part(&mut fields, flags)?)),
            0x34 => Some(disk(&mut fields, |fields| Ok(fields.text()?.to_ascii_lowercase()))?),
            0x44 => Some(disk(&mut fields, Fields::guid)?),
            0x51 => Some(Self::Volume(volume(&mut fields)?)),
            // The group itself, and records that were removed.
            0 | 0x35 | 0x45 => None,
            other => return Err(Error::unsupported(format!("records of the kind {other:#04x} of dynamic disks"))),
        })
    }
}

fn disk<'a>(fields: &mut Fields<'a>, guid: impl Fn(&mut Fields<'a>) -> Result<String>) -> Result<Record> {
    let (id, name) = (fields.number()?, fields.text()?);
    Ok(Record::Disk(id, Disk { name, guid: guid(fields)? }))
}

fn volume(fields: &mut Fields<'_>) -> Result<VolumeRecord> {
    let (id, name) = (fields.number()?, fields.text()?);
    // The kind in words, and a text that is not known.
    fields.counted()?;
    fields.counted()?;
    // The state, the kind, the volume's number, and flags.
    fields.take(21)?;
    let components = fields.number()?;
    // What the last change was.
    fields.take(16)?;
    let size = fields.number()?;
    // Zeroes, and the type of partition.
    fields.take(5)?;
    Ok(VolumeRecord { id, name, guid: fields.guid()?, components, size })
}

fn component(fields: &mut Fields<'_>, flags: u8) -> Result<Component> {
    const HAS_CHUNKS: u8 = 0x10;
    let id = fields.number()?;
    // The name and the state.
    fields.counted()?;
    fields.counted()?;
    let layout = match fields.byte()? {
        1 => Layout::Striped,
        2 => Layout::Spanned,
        3 => Layout::Raid5,
        other => return Err(Error::unsupported(format!("components of the kind {other} of dynamic disks"))),
    };
    fields.take(4)?;
    let parts = fields.number()?;
    fields.take(16)?;
    let volume = fields.number()?;
    fields.take(1)?;
    let (chunk, columns) = if flags & HAS_CHUNKS != 0 { (fields.number()?, fields.number()?) } else { (0, 0) };
    Ok(Component { id, volume, layout, parts, chunk, columns })
}

fn part(fields: &mut Fields<'_>, flags: u8) -> Result<Part> {
    const HAS_COLUMN: u8 = 0x08;
    // Its number and its name.
    fields.number()?;
    fields.counted()?;
    fields.take(12)?;
    let (start, offset) = (fields.fixed()?, fields.fixed()?);
    let (size, component, disk) = (fields.number()?, fields.number()?, fields.number()?);
    let column = if flags & HAS_COLUMN != 0 { fields.number()? } else { 0 };
    Ok(Part { component, disk, start, offset, size, column })
}
