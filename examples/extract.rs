//! Copies files and folders of an image to this host.
//!
//!     cargo run --example extract -- debian.qcow2 /etc/os-release /var/log out/

use guestctl::Guestfs;
use guestctl::guestfs::Layout;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [image, paths @ .., folder] = arguments.as_slice() else {
        return Err("usage: extract IMAGE PATH... FOLDER".into());
    };
    std::fs::create_dir_all(folder)?;
    let mut guest = Guestfs::new()?;
    guest.add_drive_ro(image)?;
    guest.launch()?;
    guest.mount_layout(Layout::Auto, false)?;
    for path in paths {
        guest.copy_out(path, folder)?;
        println!("{path}: copied to {folder}");
    }
    guest.shutdown()?;
    Ok(())
}
