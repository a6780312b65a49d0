//! Saves the trees of many disks as archives, several at once: each is mounted as its own system has it.
//!
//!     cargo run --example parallel_batch -- OUT one.qcow2 two.qcow2 …

use guestctl::Guestfs;
use rayon::prelude::*;
use std::path::{Path, PathBuf};

fn save(image: &Path, to: &Path) -> guestctl::Result<()> {
    let mut guest = Guestfs::new()?;
    guest.add_drive_ro(image)?;
    guest.launch()?;
    match guest.inspect_os()?.first() {
        Some(root) => {
            for (folder, device) in guest.inspect_get_mountpoints(root)? {
                guest.mount_ro(&device, folder)?;
            }
        }
        // A disk of files alone.
        None => guest.mount_ro("/dev/sda", "/")?,
    }
    guest.tar_out_opts("/", to, Some("gzip"))?;
    guest.shutdown()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let out = arguments.next().ok_or("usage: parallel_batch OUT IMAGE...")?;
    let images: Vec<PathBuf> = arguments.collect();
    let failed: usize = images
        .par_iter()
        .map(|image| {
            let name = image.file_stem().unwrap_or_default();
            let result = save(image, &out.join(name).with_extension("tar.gz"));
            if let Err(error) = &result {
                eprintln!("{}: {error}", image.display());
            }
            usize::from(result.is_err())
        })
        .sum();
    if failed > 0 { Err(format!("{failed} of {} disks failed", images.len()).into()) } else { Ok(()) }
}
