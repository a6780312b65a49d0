//! The errors of every floor.
//!
//! Three roots ask different things of a person: [`Error::Io`] (the host failed), [`Error::Corrupt`] (the image is
//! damaged, here) and [`Error::Unsupported`] (a feature, by its name). The others are the plain answers of an
//! ordinary filesystem ([`Error::Errno`]) and of opening an image. [`Error::In`] adds where: the image, the device.

use std::borrow::Cow;
use std::io;

/// The result of anything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The host failed: a read, a write, a socket, a process.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done, with the name of the file or host: "read disk.img at 4096".
        doing: String,
        /// What the system said.
        source: io::Error,
    },
    /// The image is damaged at the structure named.
    #[error("damaged {structure}: {detail}")]
    Corrupt {
        /// The on-disk structure and which one it is: "inode 12", "group descriptor 3".
        structure: Cow<'static, str>,
        /// What is wrong with it.
        detail: Cow<'static, str>,
    },
    /// The image uses a feature that is not supported, by its name.
    #[error("not supported: {0}")]
    Unsupported(Cow<'static, str>),
    /// This is no image, or no filesystem, that can be opened.
    #[error("{0}")]
    NotAnImage(Cow<'static, str>),
    /// Somebody else uses the image or the mount point.
    #[error("{0}")]
    InUse(Cow<'static, str>),
    /// What was named does not exist: an image, a device, a snapshot. (A path in a guest is `Errno(ENOENT)`.)
    #[error("{0}")]
    NotFound(Cow<'static, str>),
    /// The call or its arguments make no sense, or come out of order.
    #[error("{0}")]
    Usage(Cow<'static, str>),
    /// The plain answer of a filesystem, as an errno of Linux.
    #[error("{}", io::Error::from_raw_os_error(*.0))]
    Errno(i32),
    /// Another error, and where it happened: an image, a device of it, a path.
    #[error("{place}: {source}")]
    In {
        /// The image, the device or the path.
        place: String,
        /// What happened there.
        source: Box<Error>,
    },
}

impl Error {
    /// Returns an [`Error::Io`] for what was being done.
    pub fn io(doing: impl Into<String>, source: io::Error) -> Self {
        Self::Io { doing: doing.into(), source }
    }

    /// Returns an [`Error::Corrupt`] for a structure and what is wrong with it.
    pub fn corrupt(structure: impl Into<Cow<'static, str>>, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::Corrupt { structure: structure.into(), detail: detail.into() }
    }

    /// Returns an [`Error::Unsupported`] for a feature.
    pub fn unsupported(feature: impl Into<Cow<'static, str>>) -> Self {
        Self::Unsupported(feature.into())
    }

    /// Returns this error with the place where it happened put before it.
    #[must_use]
    pub fn at(self, place: impl Into<String>) -> Self {
        Self::In { place: place.into(), source: Box::new(self) }
    }

    /// Returns the error without the places that were put before it.
    pub fn root(&self) -> &Error {
        match self {
            Self::In { source, .. } => source.root(),
            other => other,
        }
    }

    /// Returns the errno of Linux that a system call would give for this.
    pub fn errno(&self) -> i32 {
        match self.root() {
            Self::Errno(errno) => *errno,
            Self::Io { source, .. } => match source.raw_os_error() {
                Some(errno @ (libc::ENOSPC | libc::EROFS | libc::EDQUOT | libc::EINTR | libc::ENOMEM)) => errno,
                _ => libc::EIO,
            },
            Self::Corrupt { .. } => libc::EIO,
            Self::Unsupported(_) => libc::EOPNOTSUPP,
            Self::NotAnImage(_) | Self::Usage(_) => libc::EINVAL,
            Self::InUse(_) => libc::EBUSY,
            Self::NotFound(_) | Self::In { .. } => libc::ENOENT,
        }
    }

    /// Says whether this is the plain errno given.
    pub fn is_errno(&self, errno: i32) -> bool {
        matches!(self.root(), Self::Errno(number) if *number == errno)
    }
}

/// Puts a place before the error of a result.
pub trait ErrorContext<T> {
    /// Returns the same result; an error carries the place that `place` gives.
    fn at<S: Into<String>>(self, place: impl FnOnce() -> S) -> Result<T>;
}

impl<T> ErrorContext<T> for Result<T> {
    fn at<S: Into<String>>(self, place: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| error.at(place()))
    }
}

/// Puts what was being done before an I/O error.
pub trait IoContext<T> {
    /// Returns the same result; an error becomes an [`Error::Io`] with what was being done.
    fn doing<S: Into<String>>(self, doing: impl FnOnce() -> S) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn doing<S: Into<String>>(self, doing: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| Error::io(doing(), error))
    }
}

impl<T> IoContext<T> for nix::Result<T> {
    fn doing<S: Into<String>>(self, doing: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|errno| Error::io(doing(), io::Error::from_raw_os_error(errno as i32)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_its_places_from_the_outside_in() {
        let error = Error::corrupt("inode 12", "its size is negative").at("/dev/sda1").at("disk.img");
        assert_eq!(error.to_string(), "disk.img: /dev/sda1: damaged inode 12: its size is negative");
        assert_eq!(error.errno(), libc::EIO);
        assert!(matches!(error.root(), Error::Corrupt { .. }));
    }
}
