//! The devices of a filesystem as one space of logical addresses, with every way there is to read an address.
//!
//! A way is a copy, or a rebuilding from parity. [`Volume::read_any`] takes the first that the devices can serve;
//! whoever has checksums goes on with [`Volume::read_way`] when what came is wrong. A device that is missing is a way that
//! fails. Parity of RAID6 is over GF(2^8) with the polynomial 0x11d, as in Linux' MD.

use super::chunk::{Chunk, ChunkMap, Place, Profile};
use crate::block::SharedDevice;
use crate::error::{Error, Result};
use crate::parity::{galois, xor};
use std::borrow::Cow;

/// A device that is there.
pub struct Member {
    /// Its number in the filesystem.
    pub devid: u64,
    /// Its UUID.
    pub uuid: [u8; 16],
    /// Its bytes.
    pub device: SharedDevice,
}

/// The devices and the map of chunks.
pub struct Volume {
    members: Vec<Member>,
    chunks: ChunkMap,
}

/// A part of a range that lies in one piece.
struct Piece<'a> {
    chunk: &'a Chunk,
    place: Place,
    len: usize,
}

impl Volume {
    /// Makes a volume of the devices that are there.
    pub fn new(members: Vec<Member>, chunks: ChunkMap) -> Self {
        Self { members, chunks }
    }

    /// Takes a new map of chunks.
    pub fn set_chunks(&mut self, chunks: ChunkMap) {
        self.chunks = chunks;
    }

    /// Returns the map of chunks.
    pub fn chunks(&self) -> &ChunkMap {
        &self.chunks
    }

    /// Returns the device of a number and UUID, where it is there.
    pub fn member(&self, devid: u64, uuid: &[u8; 16]) -> Option<&Member> {
        self.members.iter().find(|member| member.devid == devid && &member.uuid == uuid)
    }

    fn piece(&self, logical: u64, len: usize) -> Result<Piece<'_>> {
        let chunk = self.chunks.find(logical)?;
        let place = chunk.place(logical - chunk.logical);
        Ok(Piece { chunk, place, len: place.len.min(len as u64) as usize })
    }

    /// Returns how many ways there are to read the address.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when no chunk holds it.
    pub fn ways(&self, logical: u64) -> Result<usize> {
        Ok(self.chunks.find(logical)?.ways())
    }

    /// Reads a range, each piece of it by the first way that the devices can serve.
    ///
    /// # Errors
    /// The first error of a piece that no way serves.
    pub fn read_any(&self, buf: &mut [u8], logical: u64) -> Result<()> {
        self.each_piece(buf, logical, |piece, buf| {
            let mut first = None;
            for way in 0..piece.chunk.ways() {
                match self.read_piece(piece, way, buf) {
                    Ok(()) => return Ok(()),
                    Err(error) => first = first.or(Some(error)),
                }
            }
            Err(first.unwrap_or_else(|| Error::corrupt("Btrfs chunk", "it has no stripes")))
        })
    }

    /// Reads a range by one way, below the [`ways`](Self::ways) of its beginning.
    ///
    /// # Errors
    /// Those of the devices; [`Error::Corrupt`] for a device that is missing or a way that is not there.
    pub fn read_way(&self, buf: &mut [u8], logical: u64, way: usize) -> Result<()> {
        self.each_piece(buf, logical, |piece, buf| self.read_piece(piece, way, buf))
    }

    fn each_piece(
        &self,
        buf: &mut [u8],
        logical: u64,
        mut read: impl FnMut(&Piece<'_>, &mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let at = logical
                .checked_add(done as u64)
                .ok_or_else(|| Error::corrupt("Btrfs extent", "its address passes the end of all addresses"))?;
            let piece = self.piece(at, buf.len() - done)?;
            read(&piece, &mut buf[done..done + piece.len])?;
            done += piece.len;
        }
        Ok(())
    }

    /// Hints that a range will be read soon.
    pub fn prefetch(&self, logical: u64, len: u64) {
        let mut done = 0;
        while done < len {
            let Ok(piece) = self.piece(logical.saturating_add(done), (len - done).min(1 << 30) as usize) else {
                return;
            };
            let stripe = &piece.chunk.stripes[piece.place.stripe];
            if let Some(member) = self.member(stripe.devid, &stripe.device_uuid) {
                member.device.prefetch(stripe.physical + piece.place.offset, piece.len as u64);
            }
            done += piece.len as u64;
        }
    }

    /// Returns where an address lies on its first device, in bytes.
    pub fn physical(&self, logical: u64) -> Option<u64> {
        let piece = self.piece(logical, 1).ok()?;
        Some(piece.chunk.stripes[piece.place.stripe].physical + piece.place.offset)
    }

    fn read_stripe(&self, chunk: &Chunk, stripe: usize, offset: u64, buf: &mut [u8]) -> Result<()> {
        let stripe = &chunk.stripes[stripe];
        let Some(member) = self.member(stripe.devid, &stripe.device_uuid) else {
            return Err(Error::corrupt(
                format!("Btrfs chunk {}", chunk.logical),
                format!("device {} is missing", stripe.devid),
            ));
        };
        member.device.read_at(buf, stripe.physical + offset)
    }

    fn read_piece(&self, piece: &Piece<'_>, way: usize, buf: &mut [u8]) -> Result<()> {
        let Piece { chunk, place, .. } = piece;
        let no_way = || Error::corrupt(Cow::from(format!("Btrfs chunk {}", chunk.logical)), "there is no other copy");
        if way >= chunk.ways() {
            return Err(no_way());
        }
        match chunk.profile {
            Profile::Copies | Profile::Raid10 => self.read_stripe(chunk, place.stripe + way, place.offset, buf),
            Profile::Raid0 => self.read_stripe(chunk, place.stripe, place.offset, buf),
            Profile::Parity(_) => match way {
                0 => self.read_stripe(chunk, place.stripe, place.offset, buf),
                1 => self.rebuild_from_p(chunk, place, buf),
                2 => self.rebuild_from_q(chunk, place, buf),
                // The other units of data, in order, each doubted in its turn.
                _ => {
                    let other = way - 3;
                    let other = if other >= place.unit { other + 1 } else { other };
                    if other >= chunk.data_units() {
                        return Err(no_way());
                    }
                    self.rebuild_from_both(chunk, place, other, buf)
                }
            },
        }
    }

    /// Calls `add` with every unit of the row but those in `without`, P being `data_units` and Q one more.
    fn each_unit(
        &self,
        chunk: &Chunk,
        place: &Place,
        units: impl Iterator<Item = usize>,
        len: usize,
        mut add: impl FnMut(usize, &[u8]),
    ) -> Result<()> {
        // Rows are whole on every stripe, so a unit's bytes lie as far into each as the address asked for.
        let mut bytes = vec![0; len];
        for unit in units {
            self.read_stripe(chunk, chunk.stripe_of_unit(place.row, unit), place.offset, &mut bytes)?;
            add(unit, &bytes);
        }
        Ok(())
    }

    fn rebuild_from_p(&self, chunk: &Chunk, place: &Place, buf: &mut [u8]) -> Result<()> {
        buf.fill(0);
        let units = (0..=chunk.data_units()).filter(|&unit| unit != place.unit);
        self.each_unit(chunk, place, units, buf.len(), |_, bytes| xor(buf, bytes))
    }

    fn rebuild_from_q(&self, chunk: &Chunk, place: &Place, buf: &mut [u8]) -> Result<()> {
        buf.fill(0);
        let q = chunk.data_units() + 1;
        let units = (0..=q).filter(|&unit| unit != place.unit && unit != q - 1);
        self.each_unit(chunk, place, units, buf.len(), |unit, bytes| {
            if unit == q { xor(buf, bytes) } else { galois::xor_times(buf, bytes, galois::power(unit)) }
        })?;
        galois::scale(buf, galois::inverse(galois::power(place.unit)));
        Ok(())
    }

    fn rebuild_from_both(&self, chunk: &Chunk, place: &Place, other: usize, buf: &mut [u8]) -> Result<()> {
        buf.fill(0);
        let mut p_sum = vec![0; buf.len()];
        let p = chunk.data_units();
        let units = (0..=p + 1).filter(|&unit| unit != place.unit && unit != other);
        self.each_unit(chunk, place, units, buf.len(), |unit, bytes| {
            if unit <= p {
                xor(&mut p_sum, bytes);
            }
            if unit > p {
                xor(buf, bytes);
            } else if unit < p {
                galois::xor_times(buf, bytes, galois::power(unit));
            }
        })?;
        // p_sum = D + X and buf = g^d D + g^x X, so D = (buf + g^x p_sum) / (g^d + g^x).
        galois::xor_times(buf, &p_sum, galois::power(other));
        galois::scale(buf, galois::inverse(galois::power(place.unit) ^ galois::power(other)));
        Ok(())
    }
}
