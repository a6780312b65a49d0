//! The handshake: from a connected socket to an export that is ready for commands.
//!
//! Spoken are the fixed newstyle with `GO`, the newstyle with `EXPORT_NAME` alone, and the oldstyle. Whatever the server
//! says is bounded: the length and the number of its answers, and the time that it takes.

use super::stream::{Expired, Socket, Stream};
use super::tls::Tls;
use super::wire::{self, Style, info, option, printable, reply, transmission};
use crate::bytes::{be16, be32, be64};
use crate::error::{Error, Result};
use std::io;
use std::sync::Arc;

/// The longest answer to an option that is accepted, in bytes.
const LONGEST_ANSWER: usize = 64 << 10;

/// The most answers to one option that are accepted.
const MOST_ANSWERS: usize = 256;

/// The metadata context that tells holes from data.
const ALLOCATION: &[u8] = b"base:allocation";

/// The largest smallest block that is accepted, in bytes: blocks are buffered.
const LARGEST_BLOCK: u32 = 1 << 20;

/// The longest payload that every server takes, in bytes.
const SAFE_PAYLOAD: u32 = 32 << 20;

/// What a server says of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Export {
    /// Bytes.
    pub size: u64,
    /// Transmission flags.
    pub flags: u16,
    /// Requests are aligned to this many bytes, a power of two.
    pub min_block: u32,
    /// Requests do best when aligned to this many bytes, a power of two.
    pub preferred_block: u32,
    /// The longest payload, in bytes; a multiple of `min_block`.
    pub max_payload: u32,
    pub style: Style,
    /// The number by which replies call `base:allocation`, where the server knows it.
    pub allocation: Option<u32>,
}

impl Export {
    /// Says whether the export has a transmission flag.
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// Negotiates an export; the stream is ready for commands afterwards.
///
/// # Errors
/// [`Error::NotFound`] when the server has no such export, [`Error::Unsupported`] when it asks for what the URI does not
/// give (TLS), [`Error::Io`] when the connection fails, the server is too slow or breaks the protocol.
pub(super) fn negotiate(
    socket: Socket,
    name: &[u8],
    tls: Option<&Tls>,
    expired: Expired<'_>,
) -> Result<(Stream, Export)> {
    let mut talk = Talk { stream: Stream::new(Arc::new(socket), None), expired };
    let mut greeting = [0; 16];
    talk.read(&mut greeting, "its greeting")?;
    if be64(&greeting, 0) != wire::GREETING {
        return Err(broken("this is no NBD server: it does not begin with NBDMAGIC"));
    }
    let export = match be64(&greeting, 8) {
        wire::OPTION => talk.newstyle(name, tls)?,
        wire::OLDSTYLE if tls.is_some() => return Err(no_tls("it is of the oldstyle")),
        wire::OLDSTYLE => talk.oldstyle()?,
        other => return Err(broken(format!("its greeting holds {other:#018x}"))),
    };
    if export.size > i64::MAX.cast_unsigned() {
        return Err(broken(format!("its export has {} bytes", export.size)));
    }
    Ok((talk.stream, export))
}

fn broken(why: impl std::fmt::Display) -> Error {
    Error::io("the server breaks the NBD protocol", io::Error::new(io::ErrorKind::InvalidData, why.to_string()))
}

fn no_tls(why: &str) -> Error {
    Error::unsupported(format!("TLS, which the URI asks for, is not what this server offers ({why})"))
}

/// One answer to an option.
struct Answer {
    kind: u32,
    data: Vec<u8>,
}

impl Answer {
    fn is_error(&self) -> bool {
        self.kind & reply::ERROR != 0
    }

    fn name(&self) -> &'static str {
        match self.kind {
            reply::ERR_UNSUPPORTED => "it does not know the option",
            reply::ERR_POLICY => "its policy forbids it",
            reply::ERR_INVALID => "it calls the request invalid",
            reply::ERR_PLATFORM => "its platform cannot do it",
            reply::ERR_TLS_REQUIRED => "it requires TLS",
            reply::ERR_UNKNOWN => "it does not know the export",
            reply::ERR_SHUTDOWN => "it is shutting down",
            reply::ERR_BLOCK_SIZE_REQUIRED => "it requires block sizes",
            _ => "it gives an unknown error",
        }
    }

    /// Returns the error of an answer that is one.
    fn error(&self, export: &[u8]) -> Error {
        let said = printable(&self.data);
        let said = if said.is_empty() { String::new() } else { format!(": {said}") };
        match self.kind {
            reply::ERR_UNKNOWN => {
                Error::NotFound(format!("the server has no export named \"{}\"{said}", printable(export)).into())
            }
            reply::ERR_TLS_REQUIRED => {
                Error::unsupported(format!("this server without TLS; write nbds:// for nbd://{said}"))
            }
            _ => Error::io(
                format!("the server refuses the export \"{}\"", printable(export)),
                io::Error::other(format!("{}{said}", self.name())),
            ),
        }
    }
}

struct Talk<'a> {
    stream: Stream,
    expired: Expired<'a>,
}

impl Talk<'_> {
    fn read(&mut self, buf: &mut [u8], what: &str) -> Result<()> {
        self.stream
            .reader
            .exact(buf, self.expired)
            .map_err(|error| Error::io(format!("the NBD handshake failed while waiting for {what}"), error))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream
            .writer
            .send(bytes, &[], self.expired)
            .map_err(|error| Error::io("the NBD handshake failed while sending", error))
    }

    fn oldstyle(&mut self) -> Result<Export> {
        // Size, two bytes of handshake flags, two of transmission flags, 124 zeroes.
        let mut rest = [0; 8 + 4 + 124];
        self.read(&mut rest, "its export")?;
        plain_export(be64(&rest, 0), be16(&rest, 10), Style::Simple, None)
    }

    fn newstyle(&mut self, name: &[u8], tls: Option<&Tls>) -> Result<Export> {
        let mut flags = [0; 2];
        self.read(&mut flags, "its flags")?;
        let flags = be16(&flags, 0) & (wire::FIXED_NEWSTYLE | wire::NO_ZEROES);
        self.write(&u32::from(flags).to_be_bytes())?;
        if flags & wire::FIXED_NEWSTYLE == 0 {
            // Such a server hangs up when it hears any other option.
            if tls.is_some() {
                return Err(no_tls("it is of the first newstyle"));
            }
            return self.export_name(name, flags, Style::Simple, None);
        }
        if let Some(tls) = tls {
            self.start_tls(tls)?;
        }
        let style = self.reply_style(name)?;
        let allocation = if style == Style::Simple { None } else { self.allocation_context(name)? };
        match self.go(name, style, allocation)? {
            Some(export) => Ok(export),
            None => self.export_name(name, flags, style, allocation),
        }
    }

    fn start_tls(&mut self, tls: &Tls) -> Result<()> {
        self.option(option::STARTTLS, &[])?;
        let answer = self.answer(option::STARTTLS)?;
        if answer.kind != reply::ACK {
            return Err(no_tls(answer.name()));
        }
        // Reads take no byte ahead, so nothing that came before TLS can be taken for what came through it.
        let socket = Arc::clone(&self.stream.socket);
        let session =
            tls.handshake(&socket, self.expired).map_err(|error| Error::io("TLS with the server failed", error))?;
        self.stream = Stream::new(socket, Some(session));
        Ok(())
    }

    fn reply_style(&mut self, name: &[u8]) -> Result<Style> {
        for (number, style) in
            [(option::EXTENDED_HEADERS, Style::Extended), (option::STRUCTURED_REPLY, Style::Structured)]
        {
            self.option(number, &[])?;
            let answer = self.answer(number)?;
            match answer.kind {
                reply::ACK => return Ok(style),
                reply::ERR_TLS_REQUIRED | reply::ERR_SHUTDOWN => return Err(answer.error(name)),
                _ if answer.is_error() => {}
                other => return Err(broken(format!("it answers option {number} by {other}"))),
            }
        }
        Ok(Style::Simple)
    }

    /// Asks for `base:allocation`; a server without it is no error.
    fn allocation_context(&mut self, name: &[u8]) -> Result<Option<u32>> {
        let mut data = Vec::with_capacity(12 + name.len() + ALLOCATION.len());
        push_counted(&mut data, name);
        data.extend_from_slice(&1_u32.to_be_bytes());
        push_counted(&mut data, ALLOCATION);
        self.option(option::SET_META_CONTEXT, &data)?;
        let mut found = None;
        for _ in 0..MOST_ANSWERS {
            let answer = self.answer(option::SET_META_CONTEXT)?;
            match answer.kind {
                reply::ACK => return Ok(found),
                reply::META_CONTEXT if answer.data.len() < 4 => {
                    return Err(broken("a metadata context without number"));
                }
                reply::META_CONTEXT if &answer.data[4..] == ALLOCATION => found = Some(be32(&answer.data, 0)),
                reply::META_CONTEXT => {}
                // What is wrong with the export, `GO` tells better.
                _ if answer.is_error() => return Ok(None),
                other => return Err(broken(format!("it answers SET_META_CONTEXT by {other}"))),
            }
        }
        Err(broken("it answers SET_META_CONTEXT without end"))
    }

    /// Asks for the export by `GO`; nothing when the server does not know that option.
    fn go(&mut self, name: &[u8], style: Style, allocation: Option<u32>) -> Result<Option<Export>> {
        let mut data = Vec::with_capacity(8 + name.len());
        push_counted(&mut data, name);
        data.extend_from_slice(&1_u16.to_be_bytes());
        data.extend_from_slice(&info::BLOCK_SIZE.to_be_bytes());
        self.option(option::GO, &data)?;
        let mut export = None;
        let mut blocks = None;
        for _ in 0..MOST_ANSWERS {
            let Answer { kind, data } = self.answer(option::GO)?;
            match kind {
                reply::ACK => {
                    let (size, flags) = export.ok_or_else(|| broken("it tells no size of its export"))?;
                    let plain = plain_export(size, flags, style, allocation)?;
                    return Ok(Some(match blocks {
                        Some((min_block, preferred_block, max_payload)) => {
                            Export { min_block, preferred_block, max_payload, ..plain }
                        }
                        None => plain,
                    }));
                }
                reply::INFO if data.len() < 2 => return Err(broken("a piece of information without type")),
                reply::INFO => match (be16(&data, 0), data.len()) {
                    (info::EXPORT, 12) => export = Some((be64(&data, 2), be16(&data, 10))),
                    (info::BLOCK_SIZE, 14) => {
                        blocks = Some(block_sizes(be32(&data, 2), be32(&data, 6), be32(&data, 10))?);
                    }
                    (kind @ (info::EXPORT | info::BLOCK_SIZE), len) => {
                        return Err(broken(format!("a piece of information {kind} of {len} bytes")));
                    }
                    _ => {}
                },
                reply::ERR_UNSUPPORTED => return Ok(None),
                _ if kind & reply::ERROR != 0 => return Err(Answer { kind, data }.error(name)),
                other => return Err(broken(format!("it answers GO by {other}"))),
            }
        }
        Err(broken("it answers GO without end"))
    }

    fn export_name(&mut self, name: &[u8], flags: u16, style: Style, allocation: Option<u32>) -> Result<Export> {
        self.option(option::EXPORT_NAME, name)?;
        let mut head = [0; 10];
        self.read(&mut head, "its export (a server this old hangs up when it has no export of the name)")?;
        if flags & wire::NO_ZEROES == 0 {
            self.read(&mut [0; 124], "its export")?;
        }
        plain_export(be64(&head, 0), be16(&head, 8), style, allocation)
    }

    fn option(&mut self, number: u32, data: &[u8]) -> Result<()> {
        let mut bytes = Vec::with_capacity(16 + data.len());
        bytes.extend_from_slice(&wire::OPTION.to_be_bytes());
        bytes.extend_from_slice(&number.to_be_bytes());
        push_counted(&mut bytes, data);
        self.write(&bytes)
    }

    fn answer(&mut self, number: u32) -> Result<Answer> {
        let mut head = [0; 20];
        self.read(&mut head, "an answer")?;
        if be64(&head, 0) != wire::OPTION_REPLY {
            return Err(broken("an answer begins with the wrong number"));
        }
        if be32(&head, 8) != number {
            return Err(broken(format!("it answers option {} when asked for {number}", be32(&head, 8))));
        }
        let len = be32(&head, 16) as usize;
        if len > LONGEST_ANSWER {
            return Err(broken(format!("an answer of {len} bytes")));
        }
        let mut data = vec![0; len];
        self.read(&mut data, "an answer")?;
        Ok(Answer { kind: be32(&head, 12), data })
    }
}

/// Appends bytes after their number, 32 bits wide.
fn push_counted(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Makes an export of a server that tells no block sizes.
fn plain_export(size: u64, flags: u16, style: Style, allocation: Option<u32>) -> Result<Export> {
    if flags & transmission::HAS_FLAGS == 0 && flags != 0 {
        return Err(broken(format!("its export has the flags {flags:#06x}")));
    }
    Ok(Export { size, flags, min_block: 1, preferred_block: 4096, max_payload: SAFE_PAYLOAD, style, allocation })
}

/// Checks the block sizes that a server demands.
fn block_sizes(min: u32, preferred: u32, max: u32) -> Result<(u32, u32, u32)> {
    let wrong = || broken(format!("its block sizes are {min}, {preferred} and {max}"));
    if !min.is_power_of_two() || min > LARGEST_BLOCK || !preferred.is_power_of_two() || preferred < min || max < min {
        return Err(wrong());
    }
    // A longer payload gains nothing; a server may demand less.
    let max = max.min(SAFE_PAYLOAD.max(min));
    Ok((min, preferred, max - max % min))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senseless_block_sizes_are_refused() {
        assert_eq!(block_sizes(1, 4096, u32::MAX).expect("good"), (1, 4096, 32 << 20));
        assert_eq!(block_sizes(512, 512, 65536).expect("good"), (512, 512, 65536));
        assert_eq!(block_sizes(4096, 4096, 70000).expect("good").2, 69632);
        for (min, preferred, max) in [(0, 1, 1), (3, 4, 4), (512, 256, 4096), (512, 1000, 4096), (4096, 4096, 512)] {
            block_sizes(min, preferred, max).expect_err("senseless");
        }
        block_sizes(1 << 31, 1 << 31, u32::MAX).expect_err("no request could be buffered");
    }
}
