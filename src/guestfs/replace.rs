//! Files of the host that appear complete or not at all.

use crate::error::{Error, IoContext, Result};
use std::fs::{File, Permissions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Writes a file: beside it first, and under its name when `fill` is done. A device or a pipe is written in place, and a
/// link is followed.
///
/// # Errors
/// Those of `fill`, and [`Error::Io`] of the host; the file that was there before then stays.
pub(crate) fn write_file<T>(to: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<T>) -> Result<T> {
    let place = || format!("cannot write {}", to.display());
    if is_special(to) {
        let mut file = File::options().write(true).open(to).doing(place)?;
        return fill(&mut file);
    }
    replace_file(to, |file| {
        let mut out = BufWriter::with_capacity(1 << 18, file);
        let value = fill(&mut out)?;
        out.flush().doing(place)?;
        Ok(value)
    })
}

/// Says whether a name is that of a device or a pipe.
pub(crate) fn is_special(to: &Path) -> bool {
    std::fs::metadata(to).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir())
}

/// Makes a new file beside `to`, which takes its name when `fill` is done.
///
/// # Errors
/// Those of `fill`, `EISDIR`, and [`Error::Io`] of the host; the file that was there before then stays.
pub(crate) fn replace_file<T>(to: &Path, fill: impl FnOnce(&File) -> Result<T>) -> Result<T> {
    let place = || format!("cannot write {}", to.display());
    if to.is_dir() {
        return Err(Error::Errno(libc::EISDIR).at(to.display().to_string()));
    }
    // The file that a link leads to is written, not the link.
    let real: PathBuf = std::fs::canonicalize(to).unwrap_or_else(|_| to.to_owned());
    let folder = real.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::Builder::new()
        .prefix(".guestctl-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .doing(place)?;
    let value = fill(file.as_file())?;
    file.persist(&real).map_err(|failed| Error::io(place(), failed.error))?;
    Ok(value)
}
