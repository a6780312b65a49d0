//! The NBD protocol's numbers, the request's header and the replies' headers.
//!
//! Every field is big-endian. The format is specified in `doc/proto.md` of the NetworkBlockDevice/nbd repository.

use crate::bytes::{be16, be32, be64};

/// "NBDMAGIC": what every server says first.
pub(super) const GREETING: u64 = 0x4e42_444d_4147_4943;
/// "IHAVEOPT": the server negotiates options (newstyle); and the beginning of each option sent.
pub(super) const OPTION: u64 = 0x4948_4156_454f_5054;
/// The second number of a server that negotiates nothing (oldstyle).
pub(super) const OLDSTYLE: u64 = 0x0000_4202_8186_1253;
/// The beginning of each reply to an option.
pub(super) const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;

/// Handshake flag, of both sides: options are answered as the fixed newstyle says.
pub(super) const FIXED_NEWSTYLE: u16 = 1 << 0;
/// Handshake flag, of both sides: no 124 zeroes follow the answer to `EXPORT_NAME`.
pub(super) const NO_ZEROES: u16 = 1 << 1;

/// Options of the handshake.
pub(super) mod option {
    pub const EXPORT_NAME: u32 = 1;
    pub const STARTTLS: u32 = 5;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const SET_META_CONTEXT: u32 = 10;
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Replies to options.
pub(super) mod reply {
    pub const ACK: u32 = 1;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    /// The bit that makes a reply an error.
    pub const ERROR: u32 = 1 << 31;
    pub const ERR_UNSUPPORTED: u32 = ERROR | 1;
    pub const ERR_POLICY: u32 = ERROR | 2;
    pub const ERR_INVALID: u32 = ERROR | 3;
    pub const ERR_PLATFORM: u32 = ERROR | 4;
    pub const ERR_TLS_REQUIRED: u32 = ERROR | 5;
    pub const ERR_UNKNOWN: u32 = ERROR | 6;
    pub const ERR_SHUTDOWN: u32 = ERROR | 7;
    pub const ERR_BLOCK_SIZE_REQUIRED: u32 = ERROR | 8;
}

/// Pieces of information about an export.
pub(super) mod info {
    pub const EXPORT: u16 = 0;
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags: what an export is and which commands it knows.
pub(super) mod transmission {
    pub const HAS_FLAGS: u16 = 1 << 0;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const FLUSH: u16 = 1 << 2;
    pub const FUA: u16 = 1 << 3;
    pub const TRIM: u16 = 1 << 5;
    pub const WRITE_ZEROES: u16 = 1 << 6;
    pub const MULTI_CONN: u16 = 1 << 8;
    pub const CACHE: u16 = 1 << 10;
}

/// Commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Command {
    Read = 0,
    Write = 1,
    Disconnect = 2,
    Flush = 3,
    Trim = 4,
    Cache = 5,
    WriteZeroes = 6,
    BlockStatus = 7,
}

impl Command {
    /// Returns what it does, as messages say it.
    pub fn doing(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Disconnect => "disconnect",
            Self::Flush => "flush",
            Self::Trim => "discard",
            Self::Cache => "prefetch",
            Self::WriteZeroes => "zero",
            Self::BlockStatus => "map",
        }
    }
}

/// Command flag: durable before the reply.
pub(super) const FLAG_FUA: u16 = 1 << 0;
/// Command flag of `WriteZeroes`: the range keeps its space.
pub(super) const FLAG_NO_HOLE: u16 = 1 << 1;

/// The state bit of `base:allocation`: the range has no space of its own.
pub(super) const STATE_HOLE: u64 = 1 << 0;
/// The state bit of `base:allocation`: the range reads as zeroes.
pub(super) const STATE_ZERO: u64 = 1 << 1;

/// Types of structured reply chunks.
pub(super) mod chunk {
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const OFFSET_HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    pub const BLOCK_STATUS_EXT: u16 = 6;
    /// The bit that makes a chunk an error.
    pub const ERROR: u16 = 1 << 15;
    /// The flag of the last chunk of a reply.
    pub const DONE: u16 = 1 << 0;
}

/// How requests and replies look, as negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// 32-bit lengths, one simple reply for each request.
    Simple,
    /// 32-bit lengths, replies in chunks.
    Structured,
    /// 64-bit lengths, replies in chunks.
    Extended,
}

const REQUEST: u32 = 0x2560_9513;
const REQUEST_EXTENDED: u32 = 0x21e4_1c71;
const REPLY_SIMPLE: u32 = 0x6744_6698;
const REPLY_STRUCTURED: u32 = 0x668e_33ef;
const REPLY_EXTENDED: u32 = 0x6e8a_278c;

/// A request without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub command: Command,
    pub flags: u16,
    /// Bytes from the export's beginning.
    pub offset: u64,
    /// Bytes. At most `u32::MAX` unless the style is extended.
    pub len: u64,
}

impl Request {
    /// Appends the header to `out`.
    pub fn encode(&self, style: Style, cookie: u64, out: &mut Vec<u8>) {
        let extended = style == Style::Extended;
        // A request with a payload says so in an extended header.
        const PAYLOAD_LEN: u16 = 1 << 5;
        let payload = if extended && self.command == Command::Write { PAYLOAD_LEN } else { 0 };
        out.extend_from_slice(&(if extended { REQUEST_EXTENDED } else { REQUEST }).to_be_bytes());
        out.extend_from_slice(&(self.flags | payload).to_be_bytes());
        out.extend_from_slice(&(self.command as u16).to_be_bytes());
        out.extend_from_slice(&cookie.to_be_bytes());
        out.extend_from_slice(&self.offset.to_be_bytes());
        if extended {
            out.extend_from_slice(&self.len.to_be_bytes());
        } else {
            debug_assert!(u32::try_from(self.len).is_ok(), "a compact request is shorter than 4 GiB");
            out.extend_from_slice(&(self.len as u32).to_be_bytes());
        }
    }
}

/// The size of the shortest header of a reply, in bytes.
pub(super) const REPLY_MIN: usize = 16;
/// The size of the longest header of a reply, in bytes.
pub(super) const REPLY_MAX: usize = 32;

/// The header of a reply, or of one chunk of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Simple { error: u32, cookie: u64 },
    Chunk { flags: u16, kind: u16, cookie: u64, len: u64 },
}

impl Reply {
    /// Returns the size of the header that begins with these bytes.
    ///
    /// # Errors
    /// What is wrong, when no such reply belongs to the style that was negotiated.
    pub fn header_len(start: &[u8; REPLY_MIN], style: Style) -> Result<usize, String> {
        match (be32(start, 0), style) {
            (REPLY_SIMPLE, Style::Simple | Style::Structured) => Ok(16),
            (REPLY_STRUCTURED, Style::Structured) => Ok(20),
            (REPLY_EXTENDED, Style::Extended) => Ok(32),
            (magic, _) => Err(format!("a reply begins with {magic:#010x}")),
        }
    }

    /// Reads a header of the length that [`header_len`](Self::header_len) gave.
    pub fn parse(header: &[u8]) -> Self {
        match header.len() {
            16 => Self::Simple { error: be32(header, 4), cookie: be64(header, 8) },
            20 => Self::Chunk {
                flags: be16(header, 4),
                kind: be16(header, 6),
                cookie: be64(header, 8),
                len: u64::from(be32(header, 16)),
            },
            // The offset at 16 repeats the request's and says nothing more.
            _ => Self::Chunk {
                flags: be16(header, 4),
                kind: be16(header, 6),
                cookie: be64(header, 8),
                len: be64(header, 24),
            },
        }
    }

    /// Returns the number of the request that it answers.
    pub fn cookie(&self) -> u64 {
        match self {
            Self::Simple { cookie, .. } | Self::Chunk { cookie, .. } => *cookie,
        }
    }
}

/// Returns the errno of Linux for an error number of the protocol. Unknown ones are `EIO`.
pub(super) fn errno(error: u32) -> i32 {
    match error {
        1 => libc::EPERM,
        12 => libc::ENOMEM,
        22 => libc::EINVAL,
        28 => libc::ENOSPC,
        75 => libc::EOVERFLOW,
        95 => libc::EOPNOTSUPP,
        108 => libc::ESHUTDOWN,
        _ => libc::EIO,
    }
}

/// Makes a server's text fit for a message: one line, no control characters, not long.
pub(super) fn printable(text: &[u8]) -> String {
    const LONGEST: usize = 300;
    let text = String::from_utf8_lossy(&text[..text.len().min(4096)]).replace(char::is_control, " ");
    let mut clean: String = text.trim().chars().take(LONGEST).collect();
    if text.trim().chars().count() > LONGEST {
        clean.push('…');
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_as_long_as_its_style_says() {
        let request = Request { command: Command::Write, flags: FLAG_FUA, offset: 0x0102, len: 0x300 };
        let mut bytes = Vec::new();
        request.encode(Style::Structured, 7, &mut bytes);
        assert_eq!(bytes.len(), 28);
        assert_eq!(bytes[..8], [0x25, 0x60, 0x95, 0x13, 0, 1, 0, 1]);
        assert_eq!(bytes[24..], [0, 0, 3, 0]);
        bytes.clear();
        request.encode(Style::Extended, 7, &mut bytes);
        assert_eq!(bytes.len(), 32);
        assert_eq!(bytes[..8], [0x21, 0xe4, 0x1c, 0x71, 0, 0x21, 0, 1], "it says that a payload follows");
        assert_eq!(bytes[24..], [0, 0, 0, 0, 0, 0, 3, 0]);
    }

    #[test]
    fn a_reply_of_another_style_is_refused() {
        let mut bytes = [0; REPLY_MIN];
        bytes[..4].copy_from_slice(&REPLY_SIMPLE.to_be_bytes());
        assert_eq!(Reply::header_len(&bytes, Style::Simple), Ok(16));
        assert!(Reply::header_len(&bytes, Style::Extended).is_err());
        bytes[..4].copy_from_slice(&REPLY_STRUCTURED.to_be_bytes());
        assert_eq!(Reply::header_len(&bytes, Style::Structured), Ok(20));
        assert!(Reply::header_len(&bytes, Style::Simple).is_err());
    }

    #[test]
    fn a_servers_text_is_one_short_line() {
        assert_eq!(printable(b" no\x1b[31m\nsuch\0 "), "no [31m such");
        assert!(printable(&[b'x'; 9000]).chars().count() <= 301);
    }
}
