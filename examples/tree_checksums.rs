//! Prints the checksums of all files below a folder of an image, as `sha256sum` does.
//!
//!     cargo run --example tree_checksums -- debian.qcow2 /etc

use guestctl::Guestfs;
use guestctl::guestfs::Layout;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [image, folder] = arguments.as_slice() else {
        return Err("usage: tree_checksums IMAGE FOLDER".into());
    };
    let mut guest = Guestfs::new()?;
    guest.add_drive_ro(image)?;
    guest.launch()?;
    guest.mount_layout(Layout::Auto, false)?;
    // The files are hashed on all cores, and come in the order of their paths.
    guest.checksums("sha256", folder, |file| {
        println!("{}  ./{}", file.sum?, String::from_utf8_lossy(&file.path));
        Ok(())
    })?;
    guest.shutdown()?;
    Ok(())
}
