//! Tells what operating systems a disk holds, and what they mount.
//!
//!     cargo run --example inspect -- disk.qcow2

use guestctl::Guestfs;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: inspect IMAGE")?;
    let mut guest = Guestfs::new()?;
    guest.add_drive_ro(&path)?;
    guest.launch()?;

    for (device, kind) in guest.list_filesystems()? {
        println!("{device}: {kind} {}", guest.vfs_label(&device)?);
    }
    for root in guest.inspect_os()? {
        let (major, minor) = (guest.inspect_get_major_version(&root)?, guest.inspect_get_minor_version(&root)?);
        println!("{root}: version {major}.{minor}");
        for (folder, device) in guest.inspect_get_mountpoints(&root)? {
            println!("  {folder} is {device}");
        }
    }
    guest.shutdown()?;
    Ok(())
}
