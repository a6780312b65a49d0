//! When a system last booted, was shut down and wrote to its logs: from wtmp, and from the header of systemd's journal.
//!
//! The forms are specified in utmp(5) and in systemd's "Journal File Format".

use super::linux::machine_id_text;
use super::read::{Guest, join};
use crate::bytes::{le16, le32, le64, until_nul};

/// How much of wtmp's end is read, in bytes.
const WTMP_TAIL: u64 = 384 << 10;

/// The length of a record of wtmp on nearly every architecture.
const RECORD: usize = 384;

const RUN_LEVEL: u16 = 1;
const BOOT_TIME: u16 = 2;

/// Returns the last boot, the last orderly shutdown, and the last entry of the logs, in seconds since 1970.
pub(super) fn times(guest: &Guest<'_>) -> (Option<i64>, Option<i64>, Option<i64>) {
    let (mut boot, shutdown, mut last) = wtmp(guest);
    for path in journals(guest) {
        let Some((booted, written)) = journal(guest, &path) else { continue };
        boot = boot.max(booted);
        last = last.max(Some(written));
    }
    (boot, shutdown, last)
}

fn wtmp(guest: &Guest<'_>) -> (Option<i64>, Option<i64>, Option<i64>) {
    if !guest.is_file("/var/log/wtmp") {
        return (None, None, None);
    }
    let records = guest.tail("/var/log/wtmp", WTMP_TAIL, RECORD as u64).unwrap_or_default();
    let (mut boot, mut shutdown, mut last) = (None, None, None);
    for record in records.chunks_exact(RECORD) {
        let time = Some(i64::from(le32(record, 340))).filter(|&time| time > 0);
        match le16(record, 0) {
            BOOT_TIME => boot = boot.max(time),
            RUN_LEVEL if until_nul(&record[44..76]) == b"shutdown" => shutdown = shutdown.max(time),
            3..=9 => {}
            _ => continue,
        }
        last = last.max(time);
    }
    (boot, shutdown, last)
}

/// Returns the paths of the journals that are written to now.
fn journals(guest: &Guest<'_>) -> Vec<Vec<u8>> {
    const FOLDER: &str = "/var/log/journal";
    let machines = guest.list(FOLDER).into_iter().filter(|name| name.len() == 32).take(16);
    machines.map(|machine| join(join(FOLDER, machine), "system.journal")).filter(|path| guest.has(path)).collect()
}

/// Returns when the boot of a journal's last entry began, and when that entry was written.
fn journal(guest: &Guest<'_>, path: &[u8]) -> Option<(Option<i64>, i64)> {
    const SIGNATURE: &[u8] = b"LPKSHHRH";
    let (node, _) = guest.file(path)?;
    let mut head = [0; 208];
    match guest.tree().read(node, 0, &mut head) {
        Ok(read) if read == head.len() && head.starts_with(SIGNATURE) => {}
        Ok(_) => {
            guest.warn(format!("{}: it is no journal", super::read::tidy(path)));
            return None;
        }
        Err(error) => {
            guest.warn_of(path, &error);
            return None;
        }
    }
    // A journal that was copied from another machine says nothing of this one.
    let own: [u8; 16] = head[40..56].try_into().ok()?;
    if !path.windows(32).any(|part| part == machine_id_text(&own).as_bytes()) {
        return None;
    }
    let seconds = |micros: u64| i64::try_from(micros / 1_000_000).ok();
    let (written, running) = (le64(&head, 192), le64(&head, 200));
    let written_at = seconds(written).filter(|&time| time > 0)?;
    Some((written.checked_sub(running).and_then(seconds), written_at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::{set_le16, set_le32, set_le64};
    use crate::inspect::fixture::Fixture;

    fn record(kind: u16, user: &str, time: u32) -> Vec<u8> {
        let mut record = vec![0; RECORD];
        set_le16(&mut record, 0, kind);
        record[44..44 + user.len()].copy_from_slice(user.as_bytes());
        set_le32(&mut record, 340, time);
        record
    }

    #[test]
    fn boots_and_shutdowns_are_the_last_ones() {
        let wtmp = [
            record(BOOT_TIME, "reboot", 1000),
            record(RUN_LEVEL, "shutdown", 2000),
            record(BOOT_TIME, "reboot", 3000),
            record(7, "ann", 3500),
            vec![1; 100],
        ];
        let mut journal = vec![0; 256];
        journal[..8].copy_from_slice(b"LPKSHHRH");
        journal[40..56].copy_from_slice(&[0xab; 16]);
        set_le64(&mut journal, 192, 9_000_000_000);
        set_le64(&mut journal, 200, 1_000_000_000);
        let machine = format!("var/log/journal/{}/system.journal", "ab".repeat(16));
        let other = format!("var/log/journal/{}/system.journal", "cd".repeat(16));
        let tree = Fixture::new().file("var/log/wtmp", wtmp.concat()).tree();
        assert_eq!(times(&Guest::new(&tree)), (Some(3000), Some(2000), Some(3500)));
        let tree = Fixture::new()
            .file("var/log/wtmp", wtmp.concat())
            .file(&machine, journal.clone())
            .file(&other, journal)
            .tree();
        assert_eq!(times(&Guest::new(&tree)), (Some(8000), Some(2000), Some(9000)));
        let tree = Fixture::new().file("var/log/wtmp", "").file(&machine, "LPKS").tree();
        let guest = Guest::new(&tree);
        assert_eq!(times(&guest), (None, None, None));
        assert_eq!(guest.into_warnings().len(), 1);
    }
}
