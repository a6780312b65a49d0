//! Changes a guest's files: its name, a key for its root, and whatever an archive holds.
//!
//!     cargo run --example modify -- disk.img new-name key.pub overlay.tar.gz

use guestctl::Guestfs;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [image, name, key, archive] = arguments.as_slice() else {
        return Err("usage: modify IMAGE NAME KEY ARCHIVE".into());
    };
    let mut guest = Guestfs::new()?;
    guest.add_drive(image)?;
    guest.launch()?;
    guest.mount("/dev/sda", "/")?;

    guest.write("/etc/hostname", format!("{name}\n"))?;
    guest.mkdir_p("/root/.ssh")?;
    guest.chmod(0o700, "/root/.ssh")?;
    guest.upload(key, "/root/.ssh/authorized_keys")?;
    guest.chmod(0o600, "/root/.ssh/authorized_keys")?;
    guest.tar_in(archive, "/")?;

    guest.shutdown()?;
    Ok(())
}
