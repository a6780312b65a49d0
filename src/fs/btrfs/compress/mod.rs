//! Decompression of extents.
//!
//! What comes out is never longer than the extent says; what a stream leaves out reads as zeroes, as in the kernel.

mod lzo;

use super::file_extent::Compression;
use crate::error::{Error, Result};
use flate2::{Decompress, FlushDecompress, Status};
use std::cell::RefCell;
use zstd::zstd_safe;

/// Decompresses an extent into `out`.
///
/// # Errors
/// [`Error::Corrupt`] when the stream is damaged.
pub fn decompress(compression: Compression, stored: &[u8], sector_size: u32, out: &mut [u8]) -> Result<()> {
    let (name, done) = match compression {
        Compression::Zlib => ("zlib", zlib(stored, out)),
        Compression::Lzo => ("LZO", lzo::extent(stored, sector_size as usize, out)),
        Compression::Zstd => ("Zstandard", zstandard(stored, out)),
    };
    match done {
        Some(len) => {
            out[len..].fill(0);
            Ok(())
        }
        None => Err(Error::corrupt("compressed Btrfs extent", format!("its {name} stream is damaged"))),
    }
}

fn zlib(stored: &[u8], out: &mut [u8]) -> Option<usize> {
    thread_local! {
        static STATE: RefCell<Decompress> = RefCell::new(Decompress::new(true));
    }
    STATE.with_borrow_mut(|state| {
        state.reset(true);
        let status = state.decompress(stored, out, FlushDecompress::Finish).ok()?;
        // A stream that is cut short is damaged, one that goes on past the extent's end is not.
        let len = usize::try_from(state.total_out()).ok()?;
        (len == out.len() || status == Status::StreamEnd).then_some(len)
    })
}

fn zstandard(stored: &[u8], out: &mut [u8]) -> Option<usize> {
    thread_local! {
        static STATE: RefCell<zstd_safe::DCtx<'static>> = RefCell::new(zstd_safe::DCtx::create());
    }
    // The frame ends before the last sector does.
    let frame = zstd_safe::find_frame_compressed_size(stored).ok()?;
    STATE.with_borrow_mut(|state| state.decompress(out, &stored[..frame]).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_stream_that_is_damaged_or_short_is_an_error() {
        let text = b"the same again, ".repeat(1000);
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        zlib.write_all(&text).expect("in memory");
        for (compression, mut stored) in [
            (Compression::Zlib, zlib.finish().expect("in memory")),
            (Compression::Zstd, zstd::encode_all(&text[..], 3).expect("in memory")),
        ] {
            let mut out = vec![1; text.len() + 100];
            stored.extend([0; 100]);
            decompress(compression, &stored, 4096, &mut out).expect("whole");
            assert!(out[..text.len()] == text && out[text.len()..].iter().all(|&byte| byte == 0));
            decompress(compression, &stored[..20], 4096, &mut out).expect_err("short");
            decompress(compression, &[7; 4096], 4096, &mut out).expect_err("damaged");
        }
    }
}
