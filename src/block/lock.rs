//! QEMU's locks on images, so that no image has two writers, whichever programs they are.
//!
//! QEMU takes byte-range locks of the open file description (`F_OFD_SETLK`), all of them shared: on byte 100 + N for a
//! permission N that it holds, on byte 200 + N for a permission that it lets nobody else have. Then it looks whether
//! somebody else holds the opposite byte of one of its own. The bytes need not exist, and nothing is written. A lock
//! lives as long as the open file. Where the host's filesystem knows no such locks, there are none.

use crate::error::{Error, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use std::fs::File;
use std::path::Path;
use std::time::Duration;

const PERMISSIONS_BASE: i64 = 100;
const UNSHARED_BASE: i64 = 200;

/// Permissions, by QEMU's numbers for them.
const CONSISTENT_READ: i64 = 0;
const WRITE: i64 = 1;
const RESIZE: i64 = 3;

/// How often a lock that stands in the way is looked at again, and how long after.
const RETRIES: u32 = 8;
const PAUSE: Duration = Duration::from_millis(10);

/// Locks a file for reading, or for writing too.
///
/// # Errors
/// [`Error::InUse`] when somebody writes it; for writing, also when somebody reads it and relies on it to stay.
pub fn lock(file: &File, path: &Path, writable: bool) -> Result<()> {
    let held: &[i64] = if writable { &[CONSISTENT_READ, WRITE, RESIZE] } else { &[CONSISTENT_READ] };
    let unshared = [WRITE, RESIZE];
    let mine = held.iter().map(|bit| PERMISSIONS_BASE + bit).chain(unshared.map(|bit| UNSHARED_BASE + bit));
    for byte in mine {
        let lock = range(byte, libc::F_RDLCK);
        match fcntl(file, FcntlArg::F_OFD_SETLK(&lock)) {
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => return Err(in_use(path, writable)),
            Err(errno) => {
                log::debug!("{} cannot be locked: {errno}", path.display());
                return Ok(());
            }
        }
    }
    let opposite = held.iter().map(|bit| UNSHARED_BASE + bit).chain(unshared.map(|bit| PERMISSIONS_BASE + bit));
    for byte in opposite {
        let mut tries = 0;
        while is_held(file, byte) {
            // A process that somebody starts holds all that its parent has open until it becomes another program. So a
            // lock that was just given up may still be seen for a moment.
            tries += 1;
            if tries > RETRIES {
                return Err(in_use(path, writable));
            }
            std::thread::sleep(PAUSE);
        }
    }
    Ok(())
}

/// Says whether somebody else holds a byte: whether an exclusive lock of it could not be had.
fn is_held(file: &File, byte: i64) -> bool {
    let mut lock = range(byte, libc::F_WRLCK);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)).is_ok() && i32::from(lock.l_type) != libc::F_UNLCK
}

fn range(byte: i64, kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}

fn in_use(path: &Path, writable: bool) -> Error {
    let path = path.display();
    Error::InUse(
        match writable {
            true => format!("{path} is in use by another program (a running virtual machine?), so it cannot be written"),
            false => format!(
                "{path} is being written by another program (a running virtual machine?); --force (--unlocked for convert, \
                 info and compact) reads it all the same, but what it shows may be torn"
            ),
        }
        .into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_share_and_a_writer_is_alone() {
        let path = tempfile::NamedTempFile::new().expect("a temporary file").into_temp_path();
        let open = || File::options().read(true).write(true).open(&path).expect("opens");
        let (first, second, third) = (open(), open(), open());
        lock(&first, &path, false).expect("one reader");
        lock(&second, &path, false).expect("two readers");
        assert!(matches!(lock(&third, &path, true), Err(Error::InUse(_))));
        drop((first, second, third));
        let (first, second) = (open(), open());
        lock(&first, &path, true).expect("one writer");
        assert!(matches!(lock(&second, &path, true), Err(Error::InUse(_))));
        let error = lock(&second, &path, false).expect_err("no reader beside a writer");
        assert!(error.to_string().contains("--force"));
    }
}
