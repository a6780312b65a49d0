//! Builds a disk from nothing: an image, a partition table, an EFI partition and a root filesystem.
//!
//!     cargo run --example build_disk -- disk.qcow2

use guestctl::Guestfs;
use guestctl::guestfs::MkfsOptions;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: build_disk FILE")?;
    let mut guest = Guestfs::new()?;
    guest.disk_create(&path, "qcow2", 1 << 30)?;
    guest.add_drive_opts(&path, Some("qcow2"), false)?;
    guest.launch()?;

    guest.part_init("/dev/sda", "gpt")?;
    let esp = guest.part_add_size("/dev/sda", Some(64 << 20))?;
    guest.part_set_name("/dev/sda", 1, "ESP")?;
    guest.part_set_gpt_type("/dev/sda", 1, "c12a7328-f81f-11d2-ba4b-00a0c93ec93b")?;
    let root = guest.part_add_size("/dev/sda", None)?;
    guest.part_set_name("/dev/sda", 2, "root")?;

    let label = |text: &str| MkfsOptions { label: Some(text.to_owned()), ..MkfsOptions::default() };
    guest.mkfs_opts("vfat", &esp, &label("ESP"))?;
    guest.mkfs_opts("ext4", &root, &label("root"))?;
    for (device, kind) in guest.list_filesystems()? {
        println!("{device}: {kind}");
    }
    guest.shutdown()?;
    Ok(())
}
