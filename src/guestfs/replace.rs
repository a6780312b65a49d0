//! Files of the host that appear complete or not at all.

use crate::error::{Error, IoContext, Result};
use std::fs::Permissions;
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Writes a file: beside it first, and under its name when `fill` is done. A device or a pipe is written in place.
///
/// # Errors
/// Those of `fill`, and [`Error::Io`] of the host; the file that was there before then stays.
pub(super) fn write_file<T>(to: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<T>) -> Result<T> {
    let place = || format!("cannot write {}", to.display());
    let special = std::fs::metadata(to).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir());
    if special {
        let mut file = std::fs::File::options().write(true).open(to).doing(place)?;
        return fill(&mut file);
    }
    if to.is_dir() {
        return Err(Error::Errno(libc::EISDIR).at(to.display().to_string()));
    }
    let folder = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::Builder::new()
        .prefix(".guestctl-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .doing(place)?;
    let mut out = BufWriter::with_capacity(1 << 18, file);
    let value = fill(&mut out)?;
    let file = out.into_inner().map_err(std::io::IntoInnerError::into_error).doing(place)?;
    file.persist(to).map_err(|failed| Error::io(place(), failed.error))?;
    Ok(value)
}
