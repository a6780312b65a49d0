//! Makes devices of the volumes of a group.
//!
//! Volumes are made of each other; each is built once, to a bounded depth, so that metadata that lead back to themselves end in
//! an error. So do volumes that share an extent, and copies within copies, of which one read could make any number.

use super::cache;
use super::group::{Area, Group, Segment};
use super::patched::Patched;
use super::raid::Leg;
use super::snapshot::Snapshot;
use super::thin::{Pool, ThinDevice};
use crate::block::{BlockDevice, Extent, SharedDevice, SliceDevice};
use crate::error::{Error, ErrorContext, Result};
use crate::volume::raid::{Array, Members, concat, mirror, parity, raid10, stripes};
use std::collections::HashMap;
use std::sync::Arc;

/// The deepest that volumes are made of each other: a thin volume on a pool on RAID on a cache is about six.
const MAX_DEPTH: usize = 16;

/// The most segments of a volume.
const MAX_SEGMENTS: usize = 1 << 20;

/// The most areas of a segment.
const MAX_AREAS: usize = 1024;

/// Builds the volumes of one group.
pub struct Builder<'a> {
    group: &'a Group,
    /// The devices of the physical volumes that are there, by their names in the metadata.
    physical: &'a HashMap<String, SharedDevice>,
    built: HashMap<String, SharedDevice>,
    /// Volumes that are being built, in their order: one that comes again is made of itself.
    building: Vec<String>,
    /// Why volumes could not be built.
    failed: HashMap<String, String>,
    /// Volumes that share an extent, and with what.
    shared: HashMap<String, String>,
    /// Whether volumes are made of copies at some depth, as far as that was asked.
    copied: HashMap<String, bool>,
    pools: HashMap<String, Arc<Pool>>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

impl<'a> Builder<'a> {
    /// Makes a builder.
    pub fn new(group: &'a Group, physical: &'a HashMap<String, SharedDevice>) -> Self {
        Self {
            group,
            physical,
            built: HashMap::new(),
            building: Vec::new(),
            failed: HashMap::new(),
            shared: group.shared_extents(),
            copied: HashMap::new(),
            pools: HashMap::new(),
            warnings: Vec::new(),
        }
    }

    /// Returns the device of a volume as the guest sees it.
    ///
    /// # Errors
    /// Those of its segments, each with its name.
    pub fn visible(&mut self, name: &str) -> Result<SharedDevice> {
        let group = self.group;
        let device = self.volume(name, 0)?;
        let device = if let Some(segment) = group.snapshot_of(name) {
            let origin = segment.section.text("origin").ok_or_else(|| corrupt("a snapshot has no origin".into()))?;
            let origin = self.volume(origin, 1)?;
            Arc::new(Patched(Snapshot::open(origin, device)?))
        } else if group.merge_into(name).is_some() {
            return Err(Error::unsupported("a volume that a snapshot is being merged into; let LVM finish first"));
        } else {
            device
        };
        // The origin of a snapshot is not written: its old bytes would have to go to the snapshot first.
        let is_origin = group.logical.values().flat_map(|volume| &volume.segments).any(|segment| {
            segment.kind == "snapshot" && segment.section.text("origin") == Some(name)
                || segment.section.text("external_origin") == Some(name)
        });
        let writable = group.logical.get(name).is_some_and(|volume| volume.writable);
        Ok(if is_origin || !writable { Arc::new(ReadOnly(device)) } else { device })
    }

    fn volume(&mut self, name: &str, depth: usize) -> Result<SharedDevice> {
        if let Some(device) = self.built.get(name) {
            return Ok(device.clone());
        }
        if let Some(why) = self.failed.get(name) {
            return Err(corrupt(why.clone()));
        }
        if self.building.iter().any(|other| other == name) {
            return Err(corrupt(format!("{name} is made of itself")));
        }
        if depth > MAX_DEPTH {
            return Err(corrupt(format!("{name} is made of too many volumes")));
        }
        self.building.push(name.to_owned());
        let device = self.build(name, depth);
        self.building.pop();
        match &device {
            Ok(device) => {
                self.built.insert(name.to_owned(), device.clone());
            }
            // One cause is told once, and not again for each volume on the way to it.
            Err(error) => {
                self.failed.insert(name.to_owned(), format!("{name} cannot be opened: {}", error.root()));
            }
        }
        device
    }

    fn build(&mut self, name: &str, depth: usize) -> Result<SharedDevice> {
        let group = self.group;
        if let Some(why) = self.shared.get(name) {
            return Err(corrupt(why.clone()));
        }
        let volume = group.logical.get(name).ok_or_else(|| corrupt(format!("there is no volume {name}")))?;
        if volume.segments.is_empty() || volume.segments.len() > MAX_SEGMENTS {
            return Err(corrupt(format!("{name} has {} segments", volume.segments.len())));
        }
        let mut members: Vec<SharedDevice> = Vec::new();
        let mut parts = Vec::new();
        let mut end = 0_u64;
        for segment in &volume.segments {
            let len = self.bytes(segment.count)?;
            end = end.checked_add(len).ok_or_else(|| corrupt(format!("{name} is too large")))?;
            match self.linear(segment)? {
                // A segment of one area is a part of its volume, and needs no device between.
                Some((device, offset)) => {
                    let at = members.iter().position(|other| Arc::ptr_eq(other, &device)).unwrap_or_else(|| {
                        members.push(device);
                        members.len() - 1
                    });
                    parts.push(concat::Part { end, member: at, offset });
                }
                None => {
                    let device =
                        self.segment(name, segment, len, volume.not_synced, depth).at(|| segment.kind.clone())?;
                    if device.size() < len {
                        return Err(corrupt(format!("a segment of {name} has {} bytes, not {len}", device.size())));
                    }
                    members.push(device);
                    parts.push(concat::Part { end, member: members.len() - 1, offset: 0 });
                }
            }
        }
        Ok(match (members.as_slice(), parts.as_slice()) {
            ([only], [part]) if part.offset == 0 && only.size() == part.end => only.clone(),
            _ => {
                let layout = concat::Concat::new(parts);
                let size = layout.size();
                Arc::new(Array::new(members.into_iter().map(Some).collect(), layout, size))
            }
        })
    }

    /// Returns a leg of a volume of several copies, which has no copies itself: each read of a leg that is missing reads all the
    /// others, so copies of copies of copies would be read without end.
    fn leg(&mut self, area: &Area, len: u64, depth: usize) -> Result<SharedDevice> {
        if self.has_copies(&area.name, depth) {
            return Err(Error::unsupported(format!("copies of {}, which has copies itself", area.name)));
        }
        self.area(area, len, depth)
    }

    /// Says whether a volume is made of copies at some depth.
    fn has_copies(&mut self, name: &str, depth: usize) -> bool {
        if let Some(&known) = self.copied.get(name) {
            return known;
        }
        let group = self.group;
        let Some(volume) = group.logical.get(name) else { return false };
        // What goes round in a circle is none, and has been told of where it is built.
        self.copied.insert(name.to_owned(), false);
        let is_copy = |segment: &Segment| segment.kind == "mirror" || segment.kind.starts_with("raid");
        let found = depth > MAX_DEPTH
            || volume.segments.iter().any(|segment| {
                is_copy(segment) || segment.section.all_texts().any(|below| self.has_copies(below, depth + 1))
            });
        self.copied.insert(name.to_owned(), found);
        found
    }

    fn bytes(&self, extents: u64) -> Result<u64> {
        let bytes = extents.checked_mul(self.group.extent).filter(|&bytes| bytes <= i64::MAX as u64);
        bytes.ok_or_else(|| corrupt(format!("{extents} extents of {} bytes", self.group.extent)))
    }

    /// Returns the device and the offset of a segment that is one area of a physical volume.
    fn linear(&self, segment: &Segment) -> Result<Option<(SharedDevice, u64)>> {
        if segment.kind != "striped" && segment.kind != "linear" {
            return Ok(None);
        }
        let areas = segment.areas("stripes");
        let [area] = areas.as_slice() else { return Ok(None) };
        if !self.group.physical.contains_key(&area.name) {
            return Ok(None);
        }
        self.place(area, self.bytes(segment.count)?).map(Some)
    }

    /// Returns where an area of a physical volume lies.
    fn place(&self, area: &Area, len: u64) -> Result<(SharedDevice, u64)> {
        let physical = self.group.physical.get(&area.name);
        let physical = physical.ok_or_else(|| corrupt(format!("there is no physical volume {}", area.name)))?;
        let device = self.physical.get(&area.name).ok_or_else(|| {
            Error::corrupt("LVM group", format!("the physical volume {} ({}) is missing", area.name, physical.id))
        })?;
        let room = self.bytes(physical.count)?;
        let end = self.bytes(area.start)?.checked_add(len).filter(|&end| end <= room);
        end.ok_or_else(|| corrupt(format!("{len} bytes from extent {} pass the end of {}", area.start, area.name)))?;
        let offset = self.bytes(area.start)?.checked_add(physical.start);
        let inside = offset.and_then(|offset| offset.checked_add(len)).is_some_and(|end| end <= device.size());
        match offset {
            Some(offset) if inside => Ok((device.clone(), offset)),
            _ => Err(corrupt(format!(
                "{len} bytes from extent {} pass the end of {}, which has {} bytes",
                area.start,
                area.name,
                device.size()
            ))),
        }
    }

    /// Returns an area of a physical or a logical volume as a device.
    fn area(&mut self, area: &Area, len: u64, depth: usize) -> Result<SharedDevice> {
        if self.group.physical.contains_key(&area.name) {
            let (device, offset) = self.place(area, len)?;
            return Ok(Arc::new(SliceDevice::new(device, offset, len)?));
        }
        let device = self.volume(&area.name, depth + 1)?;
        let start = self.bytes(area.start)?;
        Ok(if start == 0 && device.size() == len { device } else { Arc::new(SliceDevice::new(device, start, len)?) })
    }

    fn named(&mut self, segment: &Segment, key: &str, depth: usize) -> Result<SharedDevice> {
        let name = segment.section.text(key).ok_or_else(|| corrupt(format!("a segment does not name its {key}")))?;
        self.volume(name, depth + 1)
    }

    fn segment(
        &mut self,
        name: &str,
        segment: &Segment,
        len: u64,
        not_synced: bool,
        depth: usize,
    ) -> Result<SharedDevice> {
        match segment.kind.as_str() {
            "striped" | "linear" => self.striped(segment, len, depth),
            "mirror" => self.mirror(segment, len, not_synced, depth),
            "zero" => Ok(Arc::new(Zeroes(len))),
            "error" => Err(corrupt("it has a segment of errors".into())),
            "thin" => self.thin(name, segment, len, depth),
            "cache" => {
                let origin = self.named(segment, "origin", depth)?;
                let group = self.group;
                let pool = segment.section.text("cache_pool").and_then(|pool| group.logical.get(pool));
                let pool_segment = pool.and_then(|pool| pool.segments.first());
                let metadata = match pool_segment {
                    Some(pool) if pool.kind == "cache-pool" => {
                        Some((self.named(pool, "metadata", depth)?, self.named(pool, "data", depth)?))
                    }
                    // A cache volume holds both, and the segment says where.
                    _ => self.cache_volume(segment, depth)?,
                };
                let mode = |segment: &Segment| segment.section.text("cache_mode").map(str::to_owned);
                let mode = mode(segment).or_else(|| pool_segment.and_then(mode)).unwrap_or_default();
                cache::open(origin, metadata, &mode)
            }
            "writecache" => {
                let origin = self.named(segment, "origin", depth)?;
                let fast = segment.section.text("writecache").or_else(|| segment.section.text("fast"));
                let fast = fast.ok_or_else(|| corrupt("a writecache does not name its volume".into()))?.to_owned();
                let fast = self.volume(&fast, depth + 1)?;
                cache::check_writecache(&*fast)?;
                Ok(Arc::new(ReadOnly(origin)))
            }
            kind if kind.starts_with("raid") => self.raid(name, segment, len, depth),
            "vdo" | "vdo-pool" => {
                Err(Error::unsupported("volumes of VDO, which holds its data deduplicated and compressed"))
            }
            kind => Err(Error::unsupported(format!("LVM segments of type {kind}"))),
        }
    }

    fn striped(&mut self, segment: &Segment, len: u64, depth: usize) -> Result<SharedDevice> {
        let areas = segment.areas("stripes");
        let count = areas.len() as u64;
        if count == 0 || areas.len() > MAX_AREAS || !segment.count.is_multiple_of(count) {
            return Err(corrupt(format!("{} extents in {count} stripes", segment.count)));
        }
        let each = len / count;
        let mut members = Vec::new();
        for area in &areas {
            members.push(self.area(area, each, depth)?);
        }
        if let [only] = members.as_slice() {
            return Ok(only.clone());
        }
        striped(segment, members.into_iter().map(Some).collect(), each)
    }

    fn mirror(&mut self, segment: &Segment, len: u64, not_synced: bool, depth: usize) -> Result<SharedDevice> {
        let areas = segment.areas("mirrors");
        if areas.is_empty() || areas.len() > MAX_AREAS {
            return Err(corrupt(format!("a mirror of {} legs", areas.len())));
        }
        let mut legs: Members = Vec::new();
        let mut failed = None;
        for area in &areas {
            match self.leg(area, len, depth) {
                Ok(leg) => legs.push(Some(leg)),
                // The first leg is the one that the others are copied from.
                Err(error) if not_synced && legs.is_empty() => return Err(error),
                Err(error) => {
                    legs.push(None);
                    failed = Some(error);
                }
            }
        }
        if not_synced {
            legs.truncate(1);
        }
        match failed {
            Some(error) if legs.iter().all(Option::is_none) => Err(error),
            _ => Ok(Arc::new(mirror::Mirror::new(legs, len, !not_synced))),
        }
    }

    /// Returns the legs of a RAID volume; one that cannot be had is none.
    fn legs(&mut self, name: &str, segment: &Segment, each: u64, depth: usize) -> Result<Members> {
        let is_raid0 = segment.kind.starts_with("raid0");
        let names: Vec<String> = leg_names(segment).map(str::to_owned).collect();
        let (metas, images): (Vec<_>, Vec<_>) = names.into_iter().partition(|leg| leg.contains("_rmeta_"));
        if images.is_empty() || images.len() > MAX_AREAS {
            return Err(corrupt(format!("{name} has {} legs", images.len())));
        }
        let mut legs = Vec::new();
        for (index, image) in images.iter().enumerate() {
            let device = self.leg(&Area { name: image.clone(), start: 0 }, each, depth);
            let meta = metas.get(index).and_then(|meta| self.volume(meta, depth + 1).ok());
            let is_missing = device.is_err();
            if let Err(error) = &device {
                self.warnings.push(format!("{}/{name}: read without {image}: {error}", self.group.name));
            }
            let leg = Leg::read(meta.as_deref(), device.ok());
            if !is_missing && leg.device.is_none() {
                self.warnings.push(format!("{}/{name}: read without {image}: it cannot be used", self.group.name));
            }
            legs.push(leg);
        }
        if is_raid0 {
            return Ok(legs.into_iter().map(|leg| leg.device).collect());
        }
        let (members, stale) = Leg::usable(legs, each);
        for index in stale {
            let image = &images[index];
            self.warnings.push(format!("{}/{name}: read without {image}: it is out of date", self.group.name));
        }
        Ok(members)
    }

    fn raid(&mut self, name: &str, segment: &Segment, len: u64, depth: usize) -> Result<SharedDevice> {
        if ["delta_disks", "data_offset", "reshape_count"]
            .iter()
            .any(|key| segment.section.number(key).is_some_and(|n| n > 0))
        {
            return Err(Error::unsupported("a RAID volume that is being reshaped"));
        }
        let count = leg_names(segment).filter(|leg| !leg.contains("_rmeta_")).count();
        let chunk = segment.section.number("stripe_size").unwrap_or(0).checked_mul(512).unwrap_or(0);
        let (parities, algorithm) = match segment.kind.as_str() {
            "raid4" => (1, parity::PARITY_FIRST),
            "raid5_la" => (1, 0),
            "raid5_ra" => (1, 1),
            "raid5" | "raid5_ls" => (1, 2),
            "raid5_rs" => (1, 3),
            "raid5_n" => (1, parity::PARITY_LAST),
            "raid6" | "raid6_zr" => (2, 8),
            "raid6_nr" => (2, 9),
            "raid6_nc" => (2, 10),
            "raid6_n_6" => (2, parity::PARITY_LAST),
            "raid6_la_6" => (2, 16),
            "raid6_ra_6" => (2, 17),
            "raid6_ls_6" => (2, 18),
            "raid6_rs_6" => (2, 19),
            "raid1" => {
                let legs = self.legs(name, segment, len, depth)?;
                return enough(legs.iter().any(Option::is_some))
                    .map(|()| Arc::new(mirror::Mirror::new(legs, len, false)) as SharedDevice);
            }
            "raid0" | "raid0_meta" => {
                let each = len.checked_div(count as u64).unwrap_or(0);
                let legs = self.legs(name, segment, each, depth)?;
                enough(legs.iter().all(Option::is_some))?;
                let device = striped(segment, legs, each)?;
                return Ok(Arc::new(ReadOnly(device)));
            }
            "raid10" => {
                let copies = segment.section.number("data_copies").unwrap_or(2);
                if copies != 2 {
                    return Err(Error::unsupported(format!("raid10 of {copies} copies")));
                }
                let each = len.checked_mul(copies).map_or(0, |all| all.div_ceil(count.max(1) as u64));
                let legs = self.legs(name, segment, each, depth)?;
                let layout = raid10::Raid10::new(chunk, legs.len(), 1 << 8 | copies as u32, each)
                    .ok_or_else(|| corrupt(format!("raid10 of {count} legs, chunks of {chunk} bytes")))?;
                enough(layout.can_do_without(&legs))?;
                let size = layout.size();
                return Ok(Arc::new(Array::new(legs, layout, size)));
            }
            kind => return Err(Error::unsupported(format!("LVM segments of type {kind}"))),
        };
        let layout = parity::Parity::new(chunk, count, parities, algorithm)
            .ok_or_else(|| corrupt(format!("{} of {count} legs, chunks of {chunk} bytes", segment.kind)))?;
        let each = len / layout.data() as u64;
        let legs = self.legs(name, segment, each, depth)?;
        enough(legs.iter().filter(|leg| leg.is_none()).count() <= parities)?;
        Ok(Arc::new(Array::new(legs, layout, len)))
    }

    fn thin(&mut self, name: &str, segment: &Segment, len: u64, depth: usize) -> Result<SharedDevice> {
        let pool_name = segment.section.text("thin_pool").ok_or_else(|| corrupt(format!("{name} names no pool")))?;
        let id = segment.section.number("device_id").ok_or_else(|| corrupt(format!("{name} has no device_id")))?;
        let pool = match self.pools.get(pool_name) {
            Some(pool) => pool.clone(),
            None => {
                let group = self.group;
                let volume = group.logical.get(pool_name).ok_or_else(|| corrupt(format!("no pool {pool_name}")))?;
                let segment = volume.segments.first().filter(|segment| segment.kind == "thin-pool");
                let segment = segment.ok_or_else(|| corrupt(format!("{pool_name} is no pool")))?;
                let metadata = self.named(segment, "metadata", depth)?;
                let data = self.named(segment, "pool", depth)?;
                let pool = Arc::new(Pool::open(metadata, data).at(|| pool_name)?);
                self.pools.insert(pool_name.to_owned(), pool.clone());
                pool
            }
        };
        let external = match segment.section.text("external_origin") {
            Some(origin) => Some(self.volume(origin, depth + 1)?),
            None => None,
        };
        Ok(Arc::new(ThinDevice::open(pool, id, len, external)?))
    }

    /// Returns the metadata and the data of a cache that lie on one volume.
    fn cache_volume(&mut self, segment: &Segment, depth: usize) -> Result<Option<(SharedDevice, SharedDevice)>> {
        let Some(name) = segment.section.text("cache_pool").map(str::to_owned) else { return Ok(None) };
        let volume = self.volume(&name, depth + 1)?;
        let range = |key: &str| segment.section.number(key).and_then(|sectors| sectors.checked_mul(512));
        let part = |start: &str, len: &str| -> Result<SharedDevice> {
            let (Some(start), Some(len)) = (range(start), range(len)) else {
                return Err(corrupt("a cache does not say where its data lie".into()));
            };
            Ok(Arc::new(SliceDevice::new(volume.clone(), start, len)?))
        };
        Ok(Some((part("metadata_start", "metadata_len")?, part("data_start", "data_len")?)))
    }
}

/// Returns the names of the legs of a RAID volume and of their metadata; RAID 0 without metadata has a list of its own.
fn leg_names(segment: &Segment) -> impl Iterator<Item = &str> {
    segment.section.texts("raids").chain(segment.section.texts("raid0_lvs"))
}

fn corrupt(detail: String) -> Error {
    Error::corrupt("LVM metadata", detail)
}

fn enough(is_enough: bool) -> Result<()> {
    if is_enough { Ok(()) } else { Err(Error::corrupt("LVM volume", "it cannot do without the legs that are missing")) }
}

fn striped(segment: &Segment, members: Members, each: u64) -> Result<SharedDevice> {
    let chunk = segment.section.number("stripe_size").and_then(|sectors| sectors.checked_mul(512)).unwrap_or(0);
    if chunk == 0 || !each.is_multiple_of(chunk) {
        return Err(corrupt(format!("stripes of {chunk} bytes in legs of {each}")));
    }
    let layout = stripes::Stripes::new(chunk, &vec![each; members.len()], stripes::Rounds::OfZone);
    let size = layout.size();
    Ok(Arc::new(Array::new(members, layout, size)))
}

/// A device that is not written.
pub struct ReadOnly(pub SharedDevice);

impl BlockDevice for ReadOnly {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn sector_size(&self) -> u32 {
        self.0.sector_size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.0.read_at(buf, offset)
    }

    fn map(&self, offset: u64, len: u64) -> Result<Extent> {
        self.0.map(offset, len)
    }

    fn prefetch(&self, offset: u64, len: u64) {
        self.0.prefetch(offset, len);
    }
}

/// A device of zeroes.
struct Zeroes(u64);

impl BlockDevice for Zeroes {
    fn size(&self) -> u64 {
        self.0
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        crate::block::check_range(self.0, offset, buf.len() as u64)?;
        buf.fill(0);
        Ok(())
    }

    fn map(&self, offset: u64, len: u64) -> Result<Extent> {
        Ok(Extent { end: offset + len, kind: crate::block::ExtentKind::Hole })
    }
}
