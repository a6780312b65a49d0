//! `Packages`: a hash of Berkeley DB.
//!
//! Its pages are read one after the other, without following the hash, so that nothing depends on its function. The form is
//! specified by Berkeley DB's source (`dbinc/db_page.h`, `dbinc/hash.h`). Numbers are in the order of the machine that wrote.

use crate::bytes::{be16, be32, le16, le32};
use crate::error::{Error, Result};
use crate::inspect::read::{Chunks, Guest};

/// The magic number of a hash.
const HASH_MAGIC: u32 = 0x0006_1561;

/// The length of a page's header; items are indexed behind it.
const HEADER: usize = 26;

const PAGE_HASH_UNSORTED: u8 = 2;
const PAGE_OVERFLOW: u8 = 7;
const PAGE_HASH: u8 = 13;

const ITEM_KEY_DATA: u8 = 1;
const ITEM_OFF_PAGE: u8 = 3;

/// The largest header of a package, in bytes.
const MAX_BLOB: u32 = 64 << 20;

struct Database<'a> {
    file: Chunks<'a>,
    page_size: usize,
    pages: u32,
    big: bool,
}

/// Shows the headers, in the order of their pages.
pub(super) fn read(guest: &Guest<'_>, path: &str, visit: &mut dyn FnMut(&[u8]) -> bool) -> Result<()> {
    let Some(file) = guest.chunks(path).filter(|file| file.size() > 0) else { return Ok(()) };
    let meta = file.bytes(0, 72)?;
    let big = match (le32(&meta, 12), be32(&meta, 12)) {
        (HASH_MAGIC, _) => false,
        (_, HASH_MAGIC) => true,
        _ => return Err(Error::corrupt("rpm database", "it is no hash of Berkeley DB")),
    };
    let page_size = if big { be32(&meta, 20) } else { le32(&meta, 20) } as usize;
    if !page_size.is_power_of_two() || !(512..=65536).contains(&page_size) {
        return Err(Error::corrupt("rpm database", format!("its pages are {page_size} bytes long")));
    }
    if meta[24] != 0 {
        return Err(Error::unsupported("encrypted databases of Berkeley DB"));
    }
    let pages = u32::try_from(file.size() / page_size as u64).unwrap_or(u32::MAX);
    let database = Database { file, page_size, pages, big };
    let mut budget = database.file.size().saturating_mul(2);
    for number in 1..pages {
        let page = database.page(number)?;
        if matches!(page[25], PAGE_HASH | PAGE_HASH_UNSORTED)
            && !database.hash_page(number, &page, &mut budget, visit)?
        {
            break;
        }
    }
    Ok(())
}

impl Database<'_> {
    fn number16(&self, page: &[u8], offset: usize) -> usize {
        usize::from(if self.big { be16(page, offset) } else { le16(page, offset) })
    }

    fn number32(&self, page: &[u8], offset: usize) -> u32 {
        if self.big { be32(page, offset) } else { le32(page, offset) }
    }

    fn page(&self, number: u32) -> Result<Vec<u8>> {
        if number >= self.pages {
            return Err(Error::corrupt("rpm database", format!("there is no page {number}")));
        }
        self.file.bytes(u64::from(number) * self.page_size as u64, self.page_size)
    }

    /// Shows the values of a page: items come in pairs of key and value, from the end of the page towards its beginning.
    fn hash_page(
        &self,
        number: u32,
        page: &[u8],
        budget: &mut u64,
        visit: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<bool> {
        let bad = |detail: &'static str| Error::corrupt(format!("page {number} of the rpm database"), detail);
        let items = self.number16(page, 20);
        if HEADER + items * 2 > page.len() {
            return Err(bad("its items lie outside of it"));
        }
        for item in (1..items).step_by(2) {
            let start = self.number16(page, HEADER + item * 2);
            let end = self.number16(page, HEADER + (item - 1) * 2);
            let bytes = page.get(start..end).ok_or_else(|| bad("an item lies outside of it"))?;
            let going = match bytes.first() {
                Some(&ITEM_KEY_DATA) => {
                    let blob = &bytes[1..];
                    // The entry of key 0 is the next number, not a header.
                    blob.len() <= 8 || visit(blob)
                }
                Some(&ITEM_OFF_PAGE) if bytes.len() >= 12 => {
                    let (first, len) = (self.number32(bytes, 4), self.number32(bytes, 8));
                    *budget = budget.checked_sub(u64::from(len)).ok_or_else(|| bad("its items lie upon each other"))?;
                    visit(&self.overflow(first, len)?)
                }
                _ => true,
            };
            if !going {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn overflow(&self, first: u32, len: u32) -> Result<Vec<u8>> {
        let bad = |number: u32| Error::corrupt(format!("page {number} of the rpm database"), "it is no overflow page");
        if len > MAX_BLOB || u64::from(len) > self.file.size() {
            return Err(bad(first));
        }
        let mut blob = Vec::with_capacity(len as usize);
        let mut number = first;
        while blob.len() < len as usize {
            let page = self.page(number)?;
            let used = self.number16(&page, 22);
            let bytes = page.get(HEADER..HEADER + used).filter(|bytes| page[25] == PAGE_OVERFLOW && !bytes.is_empty());
            let bytes = bytes.ok_or_else(|| bad(number))?;
            blob.extend_from_slice(&bytes[..bytes.len().min(len as usize - blob.len())]);
            number = self.number32(&page, 16);
        }
        Ok(blob)
    }
}
