//! Archives that are compressed.

use super::from_stream;
use crate::error::{IoContext, Result};
use crate::guestfs::Compression;
use std::io::Read;

/// Opens a stream of an archive that may be compressed, as its first bytes tell where `compression` does not.
///
/// # Errors
/// Those of the stream.
pub(in crate::guestfs) fn decompress<'a>(
    mut from: Box<dyn Read + Send + 'a>,
    compression: Option<Compression>,
) -> Result<Box<dyn Read + Send + 'a>> {
    let place = || "cannot read the archive";
    let mut start = Vec::new();
    let compression = match compression {
        Some(compression) => compression,
        None => {
            from.by_ref().take(6).read_to_end(&mut start).map_err(from_stream)?;
            match start.as_slice() {
                [0x1f, 0x8b, ..] => Compression::Gzip,
                [b'B', b'Z', b'h', b'1'..=b'9', ..] => Compression::Bzip2,
                [0xfd, b'7', b'z', b'X', b'Z', 0] => Compression::Xz,
                [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
                [0x04, 0x22, 0x4d, 0x18, ..] => Compression::Lz4,
                _ => Compression::None,
            }
        }
    };
    let from = std::io::Cursor::new(start).chain(from);
    Ok(match compression {
        Compression::None => Box::new(from),
        Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(from)),
        Compression::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(from)),
        Compression::Xz => {
            // Enough for the largest preset.
            let decoder = liblzma::stream::Stream::new_stream_decoder(128 << 20, liblzma::stream::CONCATENATED)
                .map_err(std::io::Error::other)
                .doing(place)?;
            Box::new(liblzma::read::XzDecoder::new_stream(from, decoder))
        }
        Compression::Zstd => Box::new(zstd::Decoder::new(from).doing(place)?),
        Compression::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(from)),
    })
}
