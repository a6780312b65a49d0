//! Transactions: operations of one number, from records that may hold several transactions at once, put together to items.
//!
//! A transaction begins with a start operation and a header; then come the regions of its items, each of which an operation
//! boundary may split; then its commit. The first region of an item says how many there are. A transaction without a commit
//! never happened.

use super::corrupt;
use super::record::{Lsn, Operation, flags};
use crate::bytes::{le16, le32};
use crate::error::Result;
use std::collections::HashMap;

/// The magic number of a transaction's header.
const HEADER_MAGIC: u32 = 0x5452_414e;
/// The size of a transaction's header, in bytes.
const HEADER_SIZE: usize = 16;
/// The most regions that an item has.
const MAX_REGIONS: usize = 257;

/// An item: a format that says what is changed, and regions of new bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Item {
    /// The regions, the format first.
    pub regions: Vec<Vec<u8>>,
    total: usize,
}

impl Item {
    /// Returns the type of the item.
    pub fn kind(&self) -> u16 {
        self.regions.first().filter(|format| format.len() >= 4).map_or(0, |format| le16(format, 0))
    }

    /// Returns the format; it has at least `size` bytes.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt) when it is shorter.
    pub fn format(&self, size: usize) -> Result<&[u8]> {
        let format = self.regions.first().filter(|format| format.len() >= size);
        Ok(format.ok_or_else(|| corrupt("an item is too short"))?)
    }
}

/// A transaction that is being put together.
#[derive(Default)]
struct Open {
    /// The record in which it began.
    lsn: Lsn,
    header: usize,
    items: Vec<Item>,
}

/// A transaction that is whole.
pub struct Transaction {
    /// The record in which it began.
    pub lsn: Lsn,
    /// Its items in the order in which they were logged.
    pub items: Vec<Item>,
}

/// The transactions that are under way at a point in the log.
#[derive(Default)]
pub struct Transactions {
    open: HashMap<u32, Open>,
}

impl Transactions {
    /// Takes the next operation, from the record at `lsn`; returns the transaction that it makes whole.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt) for what cannot be.
    pub fn take(&mut self, lsn: Lsn, operation: &Operation<'_>) -> Result<Option<Transaction>> {
        if operation.flags & flags::START != 0 {
            if !operation.data.is_empty() {
                return Err(corrupt("the start of a transaction carries data"));
            }
            self.open.insert(operation.transaction, Open { lsn, ..Open::default() });
            return Ok(None);
        }
        // Its start lies before the tail.
        let Some(open) = self.open.get_mut(&operation.transaction) else { return Ok(None) };
        let mut bits = operation.flags & !flags::END;
        if bits & flags::WAS_CONTINUED != 0 {
            bits &= !flags::CONTINUE;
        }
        match bits {
            0 | flags::CONTINUE => open.add(operation.data)?,
            flags::WAS_CONTINUED => open.go_on(operation.data)?,
            flags::COMMIT => {
                let whole = self.open.remove(&operation.transaction);
                return Ok(whole.map(|open| Transaction { lsn: open.lsn, items: open.items }));
            }
            flags::UNMOUNT => {
                self.open.remove(&operation.transaction);
            }
            other => return Err(corrupt(format!("an operation has flags {other:#x}"))),
        }
        Ok(None)
    }
}

impl Open {
    fn add(&mut self, data: &[u8]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        if self.header < HEADER_SIZE {
            let known = self.header > 0 || data.len() < 4 || le32(data, 0) == HEADER_MAGIC;
            if !known || self.header + data.len() > HEADER_SIZE {
                return Err(corrupt("a transaction's header is damaged"));
            }
            self.header += data.len();
            return Ok(());
        }
        if self.items.last().is_none_or(|item| item.regions.len() == item.total) {
            let total = if data.len() >= 4 { usize::from(le16(data, 2)) } else { 0 };
            if total == 0 || total > MAX_REGIONS {
                return Err(corrupt("an item has an impossible count of regions"));
            }
            self.items.push(Item { regions: Vec::new(), total });
        }
        if let Some(item) = self.items.last_mut() {
            item.regions.push(data.to_vec());
        }
        Ok(())
    }

    fn go_on(&mut self, data: &[u8]) -> Result<()> {
        if self.header < HEADER_SIZE {
            if self.header + data.len() > HEADER_SIZE {
                return Err(corrupt("a transaction's header is damaged"));
            }
            self.header += data.len();
            return Ok(());
        }
        let region = self.items.last_mut().and_then(|item| item.regions.last_mut());
        region.ok_or_else(|| corrupt("a region goes on that never began"))?.extend_from_slice(data);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_put_together_from_operations_that_others_interrupt() {
        let mut all = Transactions::default();
        let mut header = HEADER_MAGIC.to_le_bytes().to_vec();
        header.resize(HEADER_SIZE, 0);
        let format = [0x3c, 0x12, 2, 0, 9, 9];
        let mut take = |lsn, transaction, flags, data: &[u8]| {
            all.take(lsn, &Operation { transaction, flags, data }).expect("is whole")
        };
        assert!(take(5, 1, flags::START, b"").is_none());
        assert!(take(5, 1, 0, &header).is_none());
        assert!(take(5, 2, flags::START, b"").is_none());
        assert!(take(5, 1, 0, &format).is_none());
        assert!(take(5, 1, flags::CONTINUE, b"one").is_none());
        assert!(take(6, 2, flags::COMMIT, b"").is_some_and(|whole| whole.items.is_empty()));
        assert!(take(6, 1, flags::WAS_CONTINUED | flags::END, b" more").is_none());
        assert!(take(6, 3, 0, b"of a transaction from before").is_none());
        let whole = take(6, 1, flags::COMMIT, b"").expect("is whole");
        assert_eq!(whole.lsn, 5);
        assert_eq!(whole.items[0].regions, [&format[..], b"one more"]);
        assert_eq!(whole.items[0].kind(), 0x123c);
    }
}
