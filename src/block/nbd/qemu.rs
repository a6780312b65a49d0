//! Images that `qemu-nbd` reads for us: every format that QEMU knows.
//!
//! The child is started as [`child`] says. Names of images are never read as options, protocols or JSON.
//!
//! Assumes that whoever calls has checked which other files the image refers to (backing files, extents): QEMU opens
//! them.

use super::child::{self, ChildDevice};
use super::client::Options;
use crate::block::SharedDevice;
use crate::error::{Error, ErrorContext, IoContext, Result};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

/// The connections to one child: as many callers as this read straight into their own buffers at once.
const CONNECTIONS: usize = 4;

/// How long the child may take to open an image. One that fails says so at once.
const OPEN_TIMEOUT: Duration = Duration::from_secs(120);

/// How long the child may be silent while it owes a reply: as long as the storage below may hang.
const REPLY_TIMEOUT: Duration = Duration::from_secs(300);

/// How an image is opened by `qemu-nbd`.
#[derive(Clone, Copy, Debug, Default)]
pub struct QemuOptions<'a> {
    /// QEMU's name of the format; found out by QEMU where it is not given.
    pub format: Option<&'a str>,
    /// The internal snapshot to show, by its number or name; for reading only.
    pub snapshot: Option<&'a str>,
    /// Whether it is opened for writing.
    pub writable: bool,
    /// Whether what is discarded or zeroed gives its space back to the host.
    pub discard: bool,
    /// Whether it is opened even where another process, such as a running machine, holds its lock.
    pub force: bool,
    /// Where the image lies in the file and how long it is, in bytes, where it is not all of it.
    pub range: Option<(u64, u64)>,
}

/// Opens an image by a `qemu-nbd` child, which lives as long as the device.
///
/// # Errors
/// [`Error::NotFound`] when `qemu-nbd` is not installed or the image has no such snapshot, [`Error::InUse`] when another
/// process holds the image, [`Error::NotAnImage`] with QEMU's words when it cannot open it.
pub fn open(path: &Path, options: &QemuOptions<'_>) -> Result<SharedDevice> {
    if options.writable && options.snapshot.is_some() {
        return Err(Error::Usage("a snapshot of an image can be read only".into()));
    }
    let place = path.display().to_string();
    let opened = || {
        let program = find_program()?;
        let arguments = arguments(path, options)?;
        let image = arguments.last().cloned().unwrap_or_default();
        let patience = Options {
            connections: CONNECTIONS,
            connect_timeout: OPEN_TIMEOUT,
            reply_timeout: REPLY_TIMEOUT,
            reconnect_time: Duration::ZERO,
        };
        let why_not = |error, status, said: &[u8]| why_not_opened(error, status, said, &image);
        let writable = options.writable;
        ChildDevice::start("qemu-nbd", program, arguments, &place, writable, &patience, why_not)
    };
    Ok(Arc::new(opened().at(|| place.clone())?))
}

fn find_program() -> Result<PathBuf> {
    child::find("qemu-nbd")
        .ok_or_else(|| Error::NotFound("this image needs qemu-nbd, of the package qemu-utils, on the PATH".into()))
}

/// Returns the arguments of `qemu-nbd` for an image.
fn arguments(path: &Path, options: &QemuOptions<'_>) -> Result<Vec<OsString>> {
    // What the system says of a file that is missing or forbidden is clearer than what QEMU says.
    let file = File::options().read(true).write(options.writable).open(path).doing(|| "cannot open it".to_owned())?;
    let kind = file.metadata().doing(|| "cannot look at it")?.file_type();
    let absolute = std::path::absolute(path).doing(|| "cannot tell its absolute path")?;

    let mut image = OsString::new();
    if let Some(format) = options.format {
        push_option(&mut image, "driver", OsStr::new(format));
    }
    let driver = OsStr::new(if kind.is_block_device() { "host_device" } else { "file" });
    match options.range {
        None => {
            push_option(&mut image, "file.driver", driver);
            push_option(&mut image, "file.filename", absolute.as_os_str());
        }
        Some((offset, size)) => {
            push_option(&mut image, "file.driver", OsStr::new("raw"));
            push_option(&mut image, "file.offset", OsStr::new(&offset.to_string()));
            push_option(&mut image, "file.size", OsStr::new(&size.to_string()));
            push_option(&mut image, "file.file.driver", driver);
            push_option(&mut image, "file.file.filename", absolute.as_os_str());
        }
    }
    if options.force {
        // Sharing is for readers only; a writer goes without locks.
        let (name, value) = if options.writable { ("file.locking", "off") } else { ("force-share", "on") };
        push_option(&mut image, name, OsStr::new(value));
    }

    let shared = format!("--shared={CONNECTIONS}");
    let mut list: Vec<OsString> = vec![shared.into(), "--cache=writeback".into(), "--aio=threads".into()];
    if !options.writable {
        list.push("--read-only".into());
    }
    if options.discard {
        list.push("--discard=unmap".into());
        list.push("--detect-zeroes=unmap".into());
    }
    if let Some(snapshot) = options.snapshot {
        // The name of a snapshot that looks like options is told as one.
        list.push(if snapshot.starts_with("snapshot.") {
            format!("--load-snapshot=snapshot.name={}", snapshot.replace(',', ",,")).into()
        } else {
            format!("--load-snapshot={snapshot}").into()
        });
    }
    list.push("--image-opts".into());
    list.push(image);
    Ok(list)
}

/// Appends `name=value`; a comma in the value is doubled, as QEMU reads it.
fn push_option(out: &mut OsString, name: &str, value: &OsStr) {
    if !out.is_empty() {
        out.push(",");
    }
    out.push(name);
    out.push("=");
    let mut bytes = Vec::with_capacity(value.len());
    for &byte in value.as_bytes() {
        bytes.push(byte);
        if byte == b',' {
            bytes.push(byte);
        }
    }
    out.push(OsString::from_vec(bytes));
}

/// Returns why the child did not open its image, given how the connection failed.
fn why_not_opened(error: Error, status: ExitStatus, said: &[u8], image: &OsStr) -> Error {
    // What it says of an image begins with the options that describe it.
    let described = [b"qemu-nbd: Failed to blk_new_open '", image.as_bytes(), b"': "].concat();
    let said = child::reason("qemu-nbd", said.strip_prefix(described.as_slice()).unwrap_or(said));
    if said.contains("another process using") {
        return Error::InUse(format!("another process, such as a running machine, uses it ({said})").into());
    }
    if said.contains("find snapshot") || said.contains("find the snapshot") || said.contains("load snapshot") {
        return Error::NotFound(format!("it has no such snapshot ({said})").into());
    }
    if said.is_empty() {
        return error.at(format!("qemu-nbd ended ({status})"));
    }
    Error::NotAnImage(format!("qemu-nbd cannot open it: {said}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_never_an_option() {
        let mut out = OsString::new();
        push_option(&mut out, "driver", OsStr::new("raw"));
        push_option(&mut out, "file.filename", OsStr::new("/a,b=c,,d"));
        assert_eq!(out, "driver=raw,file.filename=/a,,b=c,,,,d");
    }
}
