//! Archives the whole tree of many guests, several at a time: each as its own system mounts it.
//!
//!     cargo run --example batch_backup -- FOLDER a.qcow2 b.qcow2 c.qcow2

use guestctl::Guestfs;
use rayon::prelude::*;
use std::path::Path;

fn back_up(folder: &Path, image: &str) -> guestctl::Result<Vec<String>> {
    let mut guest = Guestfs::with_cache(16 << 20);
    guest.add_drive_ro(image)?;
    guest.launch()?;
    let roots = guest.inspect_os()?;
    let mut archives = Vec::new();
    for (number, root) in roots.iter().enumerate() {
        let name = guest.inspect_get_product_name(root)?;
        // The shortest mount point comes first, so that each is mounted in what is there.
        for (mountpoint, device) in guest.inspect_get_mountpoints(root)? {
            if let Err(error) = guest.mount_ro(&device, &mountpoint) {
                eprintln!("{image}: {mountpoint} is left out: {error}");
            }
        }
        let stem = Path::new(image).file_stem().unwrap_or_default().to_string_lossy();
        let archive = folder.join(format!("{stem}-{number}.tar.gz"));
        guest.tar_out_opts("/", &archive, Some("gzip"))?;
        archives.push(format!("{}: {name}", archive.display()));
        guest.umount_all()?;
    }
    guest.shutdown()?;
    Ok(archives)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, images @ ..] = arguments.as_slice() else {
        return Err("usage: batch_backup FOLDER IMAGE...".into());
    };
    let results: Vec<_> = images.par_iter().map(|image| (image, back_up(Path::new(folder), image))).collect();
    let mut failed = 0;
    for (image, result) in results {
        match result {
            Ok(archives) => archives.iter().for_each(|archive| println!("{archive}")),
            Err(error) => {
                eprintln!("{image}: {error}");
                failed += 1;
            }
        }
    }
    if failed > 0 { Err(format!("{failed} of {} images failed", images.len()).into()) } else { Ok(()) }
}
