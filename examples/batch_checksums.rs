//! Prints the checksum of one file of many images, several images at a time.
//!
//!     cargo run --example batch_checksums -- /etc/os-release a.qcow2 b.qcow2 c.qcow2

use guestctl::Guestfs;
use guestctl::guestfs::Layout;
use rayon::prelude::*;

fn checksum(image: &str, path: &str) -> guestctl::Result<String> {
    // Many handles share a machine: each gets a small budget for its caches.
    let mut guest = Guestfs::with_cache(16 << 20);
    guest.add_drive_ro(image)?;
    guest.launch()?;
    guest.mount_layout(Layout::Auto, false)?;
    let sum = guest.checksum("sha256", path)?;
    guest.shutdown()?;
    Ok(sum)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, images @ ..] = arguments.as_slice() else {
        return Err("usage: batch_checksums PATH IMAGE...".into());
    };
    let results: Vec<_> = images.par_iter().map(|image| (image, checksum(image, path))).collect();
    let mut failed = 0;
    for (image, result) in results {
        match result {
            Ok(sum) => println!("{sum}  {image}:{path}"),
            Err(error) => {
                eprintln!("{image}: {error}");
                failed += 1;
            }
        }
    }
    if failed > 0 { Err(format!("{failed} of {} images failed", images.len()).into()) } else { Ok(()) }
}
