//! Downloads a file of an image and tells how far it is; it gives up after a number of bytes where one is given.
//!
//!     cargo run --example progress -- debian.qcow2 /var/lib/large.db large.db [LIMIT]

use guestctl::Guestfs;
use guestctl::guestfs::Layout;
use std::ops::ControlFlow;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [image, path, to, limit @ ..] = arguments.as_slice() else {
        return Err("usage: progress IMAGE PATH FILE [LIMIT]".into());
    };
    let limit: u64 = limit.first().map_or(Ok(u64::MAX), |number| number.parse())?;
    let mut guest = Guestfs::new()?;
    guest.add_drive_ro(image)?;
    guest.launch()?;
    guest.mount_layout(Layout::Auto, false)?;
    guest.set_progress_callback(move |progress| {
        println!("{} of {} bytes", progress.done, progress.total);
        if progress.done > limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    // Where it is ended half-way, the file is not there.
    let size = guest.download(path, to)?;
    println!("{to}: {size} bytes");
    guest.shutdown()?;
    Ok(())
}
