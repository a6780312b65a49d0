//! Why a call on a connection failed.

use crate::block::nbd::chunks::Refusal;
use crate::error::Error;
use std::io;

/// Why a call failed.
#[derive(Clone, Debug)]
pub(in crate::block::nbd) enum Failure {
    /// The connection was lost, so the request may be sent again.
    Lost(io::ErrorKind, String),
    /// The server did not answer in time. It may yet act on the request.
    TimedOut,
    /// The server breaks the protocol.
    Broken(String),
    /// The server answered by an error.
    Refused(Refusal),
}

impl Failure {
    pub(super) fn lost(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => Self::TimedOut,
            io::ErrorKind::InvalidData => Self::Broken(error.to_string()),
            kind => Self::Lost(kind, error.to_string()),
        }
    }

    /// Returns the error of what was being done.
    pub fn into_error(self, doing: String) -> Error {
        match self {
            Self::Lost(kind, why) => Error::io(format!("{doing}: the connection is lost"), io::Error::new(kind, why)),
            Self::TimedOut => {
                Error::io(doing, io::Error::new(io::ErrorKind::TimedOut, "the server did not answer in time"))
            }
            Self::Broken(why) => Error::io(
                format!("{doing}: the server breaks the NBD protocol"),
                io::Error::new(io::ErrorKind::InvalidData, why),
            ),
            Self::Refused(Refusal { errno, said }) => {
                let error = io::Error::from_raw_os_error(errno);
                if said.is_empty() {
                    Error::io(doing, error)
                } else {
                    Error::io(format!("{doing}: the server says \"{said}\""), error)
                }
            }
        }
    }
}
