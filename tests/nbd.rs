//! The NBD client against real servers: qemu-nbd, nbdkit and nbd-server.

mod common;
#[path = "common/nbd.rs"]
mod servers;

use guestctl::block::nbd::qemu::{self, QemuOptions};
use guestctl::block::nbd::{NbdDevice, Options, open_uri};
use guestctl::block::{BlockDevice, ExtentKind, SharedDevice};
use guestctl::error::Error;
use servers::{Server, nbdkit, text, unix_uri};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};
use tempfile::TempDir;

/// Says whether all programs are here; a test that lacks one is skipped.
fn have(tools: &[&str]) -> bool {
    for tool in tools {
        if !common::has_tool(tool) {
            common::skip(&format!("{tool} is not installed"));
            return false;
        }
    }
    true
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new("timeout").arg("60").arg(program).args(arguments).output().expect("runs");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A small generator of numbers, the same at each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

/// Checks that what a device maps as zeroes reads as zeroes, and that the map goes from end to end.
fn check_map(device: &dyn BlockDevice, model: &[u8]) {
    let size = model.len() as u64;
    let mut at = 0;
    while at < size {
        let extent = device.map(at, size - at).expect("maps");
        assert!(extent.end > at && extent.end <= size, "{extent:?} at {at}");
        if extent.kind != ExtentKind::Data {
            assert!(model[at as usize..extent.end as usize].iter().all(|&byte| byte == 0), "{extent:?} at {at}");
        }
        at = extent.end;
    }
}

/// Does random things to a device and to its model, and compares them.
fn exercise(device: &dyn BlockDevice, model: &mut [u8], seed: u64, steps: usize) {
    let mut random = Random(seed | 1);
    let size = model.len() as u64;
    assert_eq!(device.size(), size);
    let mut buf = vec![0; model.len()];
    for step in 0..steps {
        let longest = [600, 9000, 300_000, 3_000_000][random.below(4) as usize];
        let offset = random.below(size);
        let len = (1 + random.below(longest)).min(size - offset);
        let (start, end) = (offset as usize, (offset + len) as usize);
        match random.below(10) {
            0..3 => {
                let bytes = random.bytes(len as usize);
                device.write_at(&bytes, offset).unwrap_or_else(|error| panic!("step {step}: {error}"));
                model[start..end].copy_from_slice(&bytes);
            }
            3 => {
                let keep = random.below(2) == 0;
                device.write_zeroes(offset, len, keep).unwrap_or_else(|error| panic!("step {step}: {error}"));
                model[start..end].fill(0);
            }
            4 => {
                device.discard(offset, len).unwrap_or_else(|error| panic!("step {step}: {error}"));
                // Nothing says what is there now, except that it stays so.
                device.read_at(&mut model[start..end], offset).expect("reads");
            }
            5 => {
                let extent = device.map(offset, len).unwrap_or_else(|error| panic!("step {step}: {error}"));
                assert!(extent.end > offset && extent.end <= offset + len, "{extent:?} for {offset}+{len}");
                if extent.kind != ExtentKind::Data {
                    assert!(model[start..extent.end as usize].iter().all(|&byte| byte == 0), "step {step}");
                }
            }
            6 => device.flush().unwrap_or_else(|error| panic!("step {step}: {error}")),
            _ => {
                device.prefetch(offset, len);
                device.read_at(&mut buf[start..end], offset).unwrap_or_else(|error| panic!("step {step}: {error}"));
                assert!(buf[start..end] == model[start..end], "step {step}: {len} bytes at {offset} differ");
            }
        }
    }
    device.flush().expect("flushes");
    device.read_at(&mut buf, 0).expect("reads all");
    assert!(buf == model, "the whole device differs");
    check_map(device, model);
    device.read_at(&mut buf[..2], size - 1).expect_err("past the end");
    device.write_at(&[0, 0], size - 1).expect_err("past the end");
    device.read_at(&mut [], size).expect("nothing at the end");
}

const SIZE: u64 = 6 << 20;

fn exercise_nbdkit(name: &str, arguments: &[&str]) {
    let folder = TempDir::new().expect("a folder");
    let (_server, socket) = nbdkit(folder.path(), arguments);
    println!("{name}");
    let device = open_uri(&unix_uri(&socket, ""), true).unwrap_or_else(|error| panic!("{name}: {error}"));
    exercise(&*device, &mut vec![0; SIZE as usize], 0x9e37_79b9, 120);
}

#[test]
fn every_kind_of_server_stores_what_is_written() {
    if !have(&["nbdkit"]) {
        return;
    }
    let memory: &[&str] = &["memory", "6M"];
    let with = |arguments: &[&'static str]| [arguments, memory].concat();
    for (name, arguments) in [
        ("structured replies", with(&[])),
        ("simple replies", with(&["--no-sr"])),
        ("the newstyle with zeroes", with(&["--mask-handshake=1"])),
        ("the first newstyle", with(&["--mask-handshake=0"])),
        ("no zeroing", with(&["--filter=nozero"])),
        ("no extents", with(&["--filter=noextents"])),
        ("writing through instead of flushing", vec!["--filter=fua", "memory", "6M", "fuamode=force"]),
        ("one connection", vec!["--filter=multi-conn", "memory", "6M", "multi-conn-mode=disable"]),
        ("nothing in parallel", with(&["--filter=noparallel"])),
        (
            "blocks of 512 bytes",
            vec![
                "--filter=blocksize-policy",
                "memory",
                "6M",
                "blocksize-error-policy=error",
                "blocksize-minimum=512",
                "blocksize-preferred=4096",
                "blocksize-maximum=65536",
            ],
        ),
        (
            "blocks of 64 KiB and short payloads",
            vec![
                "--filter=blocksize-policy",
                "memory",
                "6M",
                "blocksize-error-policy=error",
                "blocksize-minimum=65536",
                "blocksize-preferred=65536",
                "blocksize-maximum=131072",
            ],
        ),
    ] {
        exercise_nbdkit(name, &arguments);
    }
}

fn qemu_img(arguments: &[&str]) -> String {
    run("qemu-img", arguments)
}

#[test]
fn a_server_with_extended_headers_stores_what_is_written() {
    if !have(&["qemu-nbd", "qemu-img"]) {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    for format in ["raw", "qcow2", "vmdk"] {
        let image = folder.path().join(format!("disk.{format}"));
        qemu_img(&["create", "-q", "-f", format, &text(&image), "6M"]);
        let options = QemuOptions { format: Some(format), writable: true, discard: true, ..QemuOptions::default() };
        let mut model = vec![0; SIZE as usize];
        let device = qemu::open(&image, &options).expect("opens");
        exercise(&*device, &mut model, 77, 150);
        drop(device);
        // What another reader finds in the file is what was written.
        let raw = folder.path().join("out.raw");
        qemu_img(&["convert", "-f", format, "-O", "raw", &text(&image), &text(&raw)]);
        assert!(fs::read(&raw).expect("reads") == model, "{format}");
        let device = qemu::open(&image, &QemuOptions { format: Some(format), ..options }).expect("opens again");
        exercise(&*device, &mut model, 78, 40);
    }
}

/// A server in the background, which ends with this.
struct Daemon(PathBuf);

impl Drop for Daemon {
    fn drop(&mut self) {
        let text = fs::read_to_string(&self.0).expect("its process id");
        let pid = nix::unistd::Pid::from_raw(text.trim().parse().expect("a number"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it lives");
    }
}

#[test]
fn a_server_of_the_nbd_project_stores_what_is_written() {
    if !have(&["nbd-server"]) {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let (file, config) = (folder.path().join("disk.raw"), folder.path().join("nbd.conf"));
    let port = free_port();
    fs::File::create(&file).expect("a file").set_len(SIZE).expect("its size");
    let user = if common::is_root() { "user = root\ngroup = root\n" } else { "" };
    let conf = format!(
        "[generic]\n{user}port = {port}\nlistenaddr = 127.0.0.1\n\n[disk]\nexportname = {}\nflush = true\nfua = true\ntrim = true\n",
        text(&file)
    );
    fs::write(&config, conf).expect("a configuration");
    // With `-d` it would end after its first connection.
    let pid_file = folder.path().join("pid");
    let starter = Server::start("nbd-server", &["-C", &text(&config), "-p", &text(&pid_file)]);
    wait_for("nbd-server does not start", || pid_file.exists());
    drop(starter);
    let _daemon = Daemon(pid_file);
    let device = patiently(|| open_uri(&format!("nbd://127.0.0.1:{port}/disk"), true));
    let mut model = vec![0; SIZE as usize];
    exercise(&*device, &mut model, 5, 100);
    drop(device);
    assert!(fs::read(&file).expect("reads") == model);
    let error = open_uri(&format!("nbd://127.0.0.1:{port}/other"), false).err().expect("no such export");
    assert!(matches!(error.root(), Error::NotFound(_)), "{error}");
}

#[test]
fn a_read_only_export_refuses_to_be_written() {
    if !have(&["nbdkit"]) {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let (_server, socket) = nbdkit(folder.path(), &["-r", "data", "(0x55*4096)"]);
    let uri = unix_uri(&socket, "");
    let error = open_uri(&uri, true).err().expect("refused");
    assert_eq!(error.errno(), libc::EROFS, "{error}");
    let device = open_uri(&uri, false).expect("opens");
    assert!(device.is_read_only());
    assert!(device.write_at(&[0], 0).expect_err("refused").is_errno(libc::EROFS));
    assert!(device.write_zeroes(0, 1, false).expect_err("refused").is_errno(libc::EROFS));
    let mut buf = [0; 4096];
    device.read_at(&mut buf, 0).expect("reads");
    assert!(buf == [0x55; 4096]);
}

#[test]
fn a_server_that_negotiates_nothing_can_be_read() {
    if !have(&["nbdkit"]) {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let (_server, socket) = nbdkit(folder.path(), &["-o", "pattern", "6M"]);
    let device = open_uri(&unix_uri(&socket, ""), false).expect("opens");
    let mut buf = vec![0; 6 << 20];
    device.read_at(&mut buf, 0).expect("reads");
    check_pattern(&buf, 0);
}

#[test]
fn what_cannot_be_reached_is_said_clearly() {
    let error = open_uri("nbd+unix:///x?socket=/nonexistent/socket", false).err().expect("no socket");
    assert!(matches!(error.root(), Error::Io { .. }), "{error}");
    assert!(error.to_string().contains("/nonexistent/socket"), "{error}");
    let error = open_uri("nbd://127.0.0.1:1/x", false).err().expect("nobody listens");
    assert!(error.to_string().contains("refused"), "{error}");
    let error = open_uri("nbd+unix:///x", false).err().expect("no path");
    assert!(matches!(error.root(), Error::Usage(_)), "{error}");
    if have(&["qemu-nbd"]) {
        let folder = TempDir::new().expect("a folder");
        let (socket, file) = (folder.path().join("s"), folder.path().join("f"));
        fs::write(&file, [0; 4096]).expect("a file");
        let arguments = ["-f", "raw", "-t", "-r", "-x", "one", "-k", &text(&socket), &text(&file)].map(str::to_owned);
        let _server = Server::at_socket("qemu-nbd", &arguments, &socket);
        let error = open_uri(&unix_uri(&socket, "two"), false).err().expect("no such export");
        assert!(matches!(error.root(), Error::NotFound(_)), "{error}");
        open_uri(&unix_uri(&socket, "one"), false).expect("this one is there");
    }
}

#[test]
fn tcp_serves_as_well() {
    if !have(&["nbdkit"]) {
        return;
    }
    let port = free_port();
    let _server = Server::start("nbdkit", &["-f", "-i", "127.0.0.1", "-p", &port.to_string(), "memory", "6M"]);
    let uri = format!("nbd://127.0.0.1:{port}/");
    let device = patiently(|| open_uri(&uri, true));
    exercise(&*device, &mut vec![0; SIZE as usize], 11, 60);
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its number").port()
}

fn patiently(open: impl Fn() -> guestctl::Result<SharedDevice>) -> SharedDevice {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match open() {
            Ok(device) => return device,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn errors_of_the_server_are_told_and_pass() {
    if !have(&["nbdkit"]) {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let trigger = folder.path().join("fail");
    let file = format!("error-file={}", text(&trigger));
    let arguments =
        ["--filter=error", "memory", "1M", "error=ENOSPC", "error-pwrite-rate=100%", "error-pread-rate=0", &file];
    for extra in [None, Some("--no-sr")] {
        let arguments: Vec<_> = extra.into_iter().chain(arguments).collect();
        let _ = fs::remove_file(&trigger);
        let (_server, socket) = nbdkit(folder.path(), &arguments);
        let device = open_uri(&unix_uri(&socket, ""), true).expect("opens");
        device.write_at(&[1; 512], 0).expect("writes");
        fs::write(&trigger, []).expect("the trigger");
        let error = device.write_at(&[2; 5000], 0).expect_err("fails");
        assert_eq!(error.errno(), libc::ENOSPC, "{error}");
        fs::remove_file(&trigger).expect("the trigger");
        let mut buf = [0; 512];
        device.read_at(&mut buf, 0).expect("the connection lives");
        assert_eq!(buf, [1; 512]);
    }
}

#[test]
fn some_reads_fail_and_the_others_are_right() {
    if !have(&["nbdkit"]) {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let arguments = ["--filter=error", "pattern", "64M", "error=EIO", "error-pread-rate=20%"];
    let (_server, socket) = nbdkit(folder.path(), &arguments);
    let device = open_uri(&unix_uri(&socket, ""), false).expect("opens");
    let failed = AtomicU64::new(0);
    let good = AtomicU64::new(0);
    thread::scope(|scope| {
        for seed in 1..9 {
            let (device, failed, good) = (&device, &failed, &good);
            scope.spawn(move || {
                let mut random = Random(seed * 7919);
                let mut buf = vec![0; 300_000];
                for _ in 0..60 {
                    let len = 1 + random.below(300_000) as usize;
                    let offset = random.below((64 << 20) - len as u64);
                    match device.read_at(&mut buf[..len], offset) {
                        Ok(()) => {
                            check_pattern(&buf[..len], offset);
                            good.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => {
                            assert_eq!(error.errno(), libc::EIO, "{error}");
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    assert!(failed.load(Ordering::Relaxed) > 10 && good.load(Ordering::Relaxed) > 100, "{failed:?} {good:?}");
}

/// Checks bytes of nbdkit's pattern: each eight are their own offset, big-endian.
fn check_pattern(bytes: &[u8], offset: u64) {
    for (at, &byte) in bytes.iter().enumerate() {
        let place = offset + at as u64;
        assert_eq!(byte, (place & !7).to_be_bytes()[(place & 7) as usize], "at {place}");
    }
}

#[test]
fn many_callers_read_at_once_and_each_gets_its_own() {
    if !have(&["nbdkit"]) {
        return;
    }
    let delay = ["--filter=delay", "pattern", "1G", "delay-read=1ms"];
    let one = ["--filter=multi-conn", "--filter=delay", "pattern", "1G", "delay-read=1ms", "multi-conn-mode=disable"];
    let simple = ["--no-sr", "--filter=multi-conn", "pattern", "1G", "multi-conn-mode=disable"];
    for arguments in [&delay[..], &one, &simple] {
        let folder = TempDir::new().expect("a folder");
        let (_server, socket) = nbdkit(folder.path(), arguments);
        let device = open_uri(&unix_uri(&socket, ""), false).expect("opens");
        thread::scope(|scope| {
            for seed in 1..17 {
                let device = &device;
                scope.spawn(move || {
                    let mut random = Random(seed * 104_729);
                    let mut buf = vec![0; 2 << 20];
                    for _ in 0..40 {
                        let longest = [64, 4096, 70_000, 2 << 20][random.below(4) as usize];
                        let len = 1 + random.below(longest) as usize;
                        let offset = random.below((1 << 30) - len as u64);
                        device.read_at(&mut buf[..len], offset).expect("reads");
                        check_pattern(&buf[..len], offset);
                    }
                });
            }
        });
    }
}

#[test]
fn many_callers_write_and_read_at_once() {
    if !have(&["nbdkit"]) {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let filter = [
        "--filter=blocksize-policy",
        "memory",
        "16M",
        "blocksize-error-policy=error",
        "blocksize-minimum=4096",
        "blocksize-preferred=4096",
        "blocksize-maximum=262144",
    ];
    let plain = ["memory", "16M"];
    let simple = ["--no-sr", "--filter=multi-conn", "memory", "16M", "multi-conn-mode=disable"];
    for arguments in [&filter[..], &plain, &simple] {
        let (_server, socket) = nbdkit(folder.path(), arguments);
        let device = open_uri(&unix_uri(&socket, ""), true).expect("opens");
        const EACH: u64 = (2 << 20) - 100;
        thread::scope(|scope| {
            for number in 0..8_u64 {
                let device = &device;
                // Neighbours share a block, and must not undo one another.
                scope.spawn(move || {
                    let base = number * EACH;
                    let mut random = Random(number + 1);
                    let mut model = vec![0; EACH as usize];
                    let mut buf = model.clone();
                    for _ in 0..40 {
                        let offset = random.below(EACH);
                        let len = (1 + random.below(400_000)).min(EACH - offset) as usize;
                        let start = offset as usize;
                        if random.below(3) == 0 {
                            device.read_at(&mut buf[..len], base + offset).expect("reads");
                            assert!(buf[..len] == model[start..start + len]);
                        } else {
                            let bytes = random.bytes(len);
                            device.write_at(&bytes, base + offset).expect("writes");
                            model[start..start + len].copy_from_slice(&bytes);
                        }
                    }
                    device.flush().expect("flushes");
                    device.read_at(&mut buf, base).expect("reads");
                    assert!(buf == model);
                });
            }
        });
    }
}

#[test]
fn a_slow_server_is_given_up_after_its_time() {
    if !have(&["nbdkit"]) {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let (_server, socket) = nbdkit(folder.path(), &["--filter=delay", "memory", "1M", "delay-read=20"]);
    let options = Options { reply_timeout: Duration::from_millis(400), ..Options::default() };
    let device = NbdDevice::open(&unix_uri(&socket, ""), true, &options).expect("opens");
    let began = Instant::now();
    let error = device.read_at(&mut [0; 512], 0).expect_err("too slow");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert!(error.to_string().contains("in time"), "{error}");
    device.write_at(&[1; 512], 0).expect("a new connection serves");
}

/// A server that a test stops and starts again, at the same socket, with the same file.
struct Restarted {
    folder: TempDir,
    server: Option<Server>,
}

impl Restarted {
    fn new(size: u64) -> Self {
        let folder = TempDir::new().expect("a folder");
        fs::File::create(folder.path().join("disk")).expect("a file").set_len(size).expect("its size");
        let mut this = Self { folder, server: None };
        this.start();
        this
    }

    fn start(&mut self) {
        let disk = text(&self.folder.path().join("disk"));
        self.server = Some(nbdkit(self.folder.path(), &["file", &disk]).0);
    }

    fn stop(&mut self) {
        self.server = None;
    }

    fn uri(&self) -> String {
        unix_uri(&self.folder.path().join("nbdkit.sock"), "")
    }
}

#[test]
fn reads_go_on_after_the_server_was_started_again() {
    if !have(&["nbdkit"]) {
        return;
    }
    let mut server = Restarted::new(8 << 20);
    let device = open_uri(&server.uri(), false).expect("opens");
    let stop = AtomicBool::new(false);
    let count = AtomicU64::new(0);
    thread::scope(|scope| {
        for seed in 1..7 {
            let (device, stop, count) = (&device, &stop, &count);
            scope.spawn(move || {
                let mut random = Random(seed * 31);
                let mut buf = vec![1; 1 << 20];
                while !stop.load(Ordering::Relaxed) {
                    let len = 1 + random.below(1 << 20) as usize;
                    device.read_at(&mut buf[..len], random.below((8 << 20) - len as u64)).expect("reads");
                    assert!(buf[..len].iter().all(|&byte| byte == 0));
                    buf.fill(1);
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(200));
            server.stop();
            thread::sleep(Duration::from_millis(150));
            let before = count.load(Ordering::Relaxed);
            server.start();
            let deadline = Instant::now() + Duration::from_secs(10);
            while count.load(Ordering::Relaxed) < before + 12 {
                assert!(Instant::now() < deadline, "no read goes on");
                thread::sleep(Duration::from_millis(10));
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_flush_fails_when_the_server_was_lost_with_writes() {
    if !have(&["nbdkit"]) {
        return;
    }
    let mut server = Restarted::new(1 << 20);
    let device = open_uri(&server.uri(), true).expect("opens");
    device.write_at(&[1; 4096], 0).expect("writes");
    device.flush().expect("flushes");
    server.stop();
    server.start();
    device.read_at(&mut [0; 512], 0).expect("reads");
    device.flush().expect("nothing was lost");
    device.write_at(&[2; 4096], 0).expect("writes");
    server.stop();
    server.start();
    let error = device.flush().expect_err("the write may be lost");
    assert!(matches!(error.root(), Error::Io { .. }), "{error}");
    assert_eq!(error.errno(), libc::EIO);
    device.flush().expect_err("it stays lost");
    device.write_at(&[3; 4096], 0).expect("writes go on");
}

#[test]
fn an_export_that_came_back_with_another_size_is_refused() {
    if !have(&["nbdkit"]) {
        return;
    }
    let mut server = Restarted::new(1 << 20);
    let device = open_uri(&server.uri(), false).expect("opens");
    server.stop();
    fs::File::create(server.folder.path().join("disk")).expect("a file").set_len(2 << 20).expect("its size");
    server.start();
    let error = device.read_at(&mut [0; 512], 0).expect_err("another disk");
    assert!(error.to_string().contains("size changed"), "{error}");
}

#[test]
fn a_server_that_stays_away_is_given_up() {
    if !have(&["nbdkit"]) {
        return;
    }
    let mut server = Restarted::new(1 << 20);
    let options = Options { reconnect_time: Duration::from_millis(300), ..Options::default() };
    let device = NbdDevice::open(&server.uri(), false, &options).expect("opens");
    server.stop();
    let began = Instant::now();
    let device = &device;
    thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(move || device.read_at(&mut [0; 512], 0).expect_err("gone"));
        }
    });
    let error = device.read_at(&mut [0; 512], 0).expect_err("gone");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(error.to_string().contains("lost"), "{error}");
    server.start();
    device.read_at(&mut [0; 512], 0).expect("it came back");
}

/// Makes a root, a server's and a client's certificate in `folder`, as nbdkit and the URI want them named.
fn certificates(folder: &Path, name: &str) {
    let file = |name: &str| text(&folder.join(name));
    let new_key = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-batch"];
    let ca = ["-x509", "-days", "2", "-subj", "/CN=test root", "-addext", "keyUsage=critical,keyCertSign"];
    run("openssl", &[&new_key[..], &ca, &["-keyout", &file("ca-key.pem"), "-out", &file("ca-cert.pem")]].concat());
    let client = "subjectAltName=DNS:client".to_owned();
    for (who, names) in [("server", format!("subjectAltName={name}")), ("client", client)] {
        let (key, request, certificate) =
            (file(&format!("{who}-key.pem")), file(&format!("{who}.csr")), file(&format!("{who}-cert.pem")));
        let subject = format!("/CN={who}");
        run("openssl", &[&new_key[..], &["-subj", &subject, "-keyout", &key, "-out", &request]].concat());
        let extensions = file(&format!("{who}.ext"));
        fs::write(&extensions, names).expect("extensions");
        let (ca, ca_key) = (file("ca-cert.pem"), file("ca-key.pem"));
        let sign = ["x509", "-req", "-days", "2", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial"];
        run("openssl", &[&sign[..], &["-extfile", &extensions, "-out", &certificate]].concat());
    }
}

#[test]
fn tls_proves_the_server_and_carries_everything() {
    if !have(&["nbdkit", "openssl"]) {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let pki = folder.path().join("pki");
    fs::create_dir(&pki).expect("a folder");
    certificates(&pki, "DNS:localhost,IP:127.0.0.1");
    let port = free_port().to_string();
    let certs = format!("--tls-certificates={}", text(&pki));
    let tcp = ["-f", "-i", "127.0.0.1", "-p", &port, "--tls=require", "--tls-verify-peer", &certs, "memory", "6M"];
    let _server = Server::start("nbdkit", &tcp);
    let uri = format!("nbds://127.0.0.1:{port}/?tls-certificates={}", text(&pki));
    let device = patiently(|| open_uri(&uri, true));
    exercise(&*device, &mut vec![0; SIZE as usize], 21, 60);
    thread::scope(|scope| {
        for number in 0..6_u64 {
            let device = &device;
            scope.spawn(move || {
                let bytes = Random(number + 1).bytes(700_000);
                device.write_at(&bytes, number << 20).expect("writes");
                let mut buf = vec![0; bytes.len()];
                for _ in 0..5 {
                    device.read_at(&mut buf, number << 20).expect("reads");
                    assert!(buf == bytes);
                }
            });
        }
    });

    let error = open_uri(&format!("nbd://127.0.0.1:{port}/"), true).err().expect("it requires TLS");
    assert!(matches!(error.root(), Error::Unsupported(_)) && error.to_string().contains("nbds://"), "{error}");
    let error = open_uri(&format!("{uri}&tls-hostname=elsewhere"), true).err().expect("another name");
    println!("{error}");
    assert!(error.to_string().to_lowercase().contains("certificate"), "{error}");
    let error = open_uri(&format!("nbds://127.0.0.1:{port}/"), true).err().expect("an unknown root");
    println!("{error}");
    let error = open_uri(&format!("nbds://127.0.0.1:{port}/?tls-certificates=/nonexistent"), true).err();
    println!("{}", error.expect("no such folder"));
    // Another root, so the certificate is not proved; unless nobody asks.
    let other = folder.path().join("other");
    fs::create_dir(&other).expect("a folder");
    certificates(&other, "DNS:localhost");
    let stranger = format!("nbds://127.0.0.1:{port}/?tls-certificates={}", text(&other));
    open_uri(&stranger, true).err().expect("an unknown root");
    for name in ["client-cert.pem", "client-key.pem"] {
        fs::copy(pki.join(name), other.join(name)).expect("the client's certificate");
    }
    open_uri(&stranger, true).err().expect("an unknown root");
    open_uri(&format!("{stranger}&tls-verify-peer=false"), true).expect("unproved, as asked");

    let (_plain, socket) = nbdkit(folder.path(), &["memory", "1M"]);
    let plain = format!("nbds+unix:///?socket={}&tls-certificates={}", text(&socket), text(&pki));
    let error = open_uri(&plain, true).err().expect("it has no TLS");
    assert!(matches!(error.root(), Error::Unsupported(_)), "{error}");
}

/// Returns the ids of the processes named `qemu-nbd` whose parent is `parent`.
fn qemu_children(parent: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("proc").flatten() {
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((head, tail)) = stat.rsplit_once(')') else { continue };
        let parent_of: Vec<&str> = tail.split_whitespace().collect();
        if head.contains("(qemu-nbd") && parent_of.get(1) == Some(&parent.to_string().as_str()) {
            found.extend(entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
        }
    }
    found
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The variable by which a copy of this program knows which image to hold.
const HOLD: &str = "GUESTCTL_TEST_HOLD";

#[test]
fn hold_an_image_for_another_test() {
    let Some(image) = env::var_os(HOLD) else { return };
    let options = QemuOptions { format: Some("qcow2"), writable: true, ..QemuOptions::default() };
    let device = qemu::open(Path::new(&image), &options).expect("opens");
    device.write_at(&[7; 4096], 0).expect("writes");
    fs::write(PathBuf::from(image).with_extension("held"), []).expect("a sign");
    thread::sleep(Duration::from_secs(30));
}

#[test]
fn a_killed_process_takes_its_qemu_nbd_with_it() {
    if !have(&["qemu-nbd", "qemu-img"]) {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let image = folder.path().join("disk.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", &text(&image), "6M"]);
    let mut holder = Command::new(env::current_exe().expect("this program"))
        .args(["--exact", "hold_an_image_for_another_test", "--nocapture"])
        .env(HOLD, &image)
        .env("TMPDIR", folder.path())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("starts");
    wait_for("the image is not held", || folder.path().join("disk.held").exists());
    let children = qemu_children(holder.id());
    assert_eq!(children.len(), 1);
    let busy = qemu::open(&image, &QemuOptions { format: Some("qcow2"), ..QemuOptions::default() });
    let error = busy.err().expect("another process writes it");
    assert!(matches!(error.root(), Error::InUse(_)), "{error}");
    let forced = QemuOptions { format: Some("qcow2"), force: true, ..QemuOptions::default() };
    drop(qemu::open(&image, &forced).expect("forced"));
    holder.kill().expect("kill -9");
    holder.wait().expect("ends");
    wait_for("qemu-nbd lives", || !Path::new(&format!("/proc/{}", children[0])).exists());
    let left: Vec<_> = fs::read_dir(folder.path()).expect("lists").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn a_child_that_dies_is_an_error_and_not_a_hang() {
    if !have(&["qemu-nbd", "qemu-img"]) {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let image = folder.path().join("dying.raw");
    fs::write(&image, vec![3; 1 << 20]).expect("an image");
    let device = qemu::open(&image, &QemuOptions { format: Some("raw"), ..QemuOptions::default() }).expect("opens");
    let own = |pid: &u32| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains("dying.raw"))
    };
    let child = qemu_children(std::process::id()).into_iter().find(own).expect("a child");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.cast_signed()), nix::sys::signal::Signal::SIGKILL)
        .expect("kills");
    let began = Instant::now();
    let error = device.read_at(&mut [0; 512], 0).expect_err("gone");
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(error.to_string().contains("qemu-nbd ended"), "{error}");
    drop(device);
    assert!(!Path::new(&format!("/proc/{child}")).exists(), "it was reaped");
}

#[test]
fn an_image_that_qemu_cannot_open_is_told_at_once() {
    if !have(&["qemu-nbd", "qemu-img"]) {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let image = folder.path().join("disk.vmdk");
    fs::write(&image, b"this is no image at all").expect("a file");
    let began = Instant::now();
    let error = qemu::open(&image, &QemuOptions { format: Some("vmdk"), ..QemuOptions::default() }).err();
    let error = error.expect("refused");
    assert!(matches!(error.root(), Error::NotAnImage(_)), "{error}");
    println!("{error}");
    let error = qemu::open(&folder.path().join("none"), &QemuOptions::default()).err().expect("missing");
    assert!(error.to_string().contains("No such file"), "{error}");
    let error = qemu::open(&image, &QemuOptions { format: Some("nonsense"), ..QemuOptions::default() }).err();
    println!("{}", error.expect("no such format"));
    let snapshot = QemuOptions { format: Some("raw"), snapshot: Some("none"), ..QemuOptions::default() };
    let error = qemu::open(&image, &snapshot).err().expect("no such snapshot");
    println!("{error}");
    let both = QemuOptions { writable: true, snapshot: Some("s"), ..QemuOptions::default() };
    assert!(matches!(qemu::open(&image, &both).err().expect("refused").root(), Error::Usage(_)));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn an_internal_snapshot_shows_what_was() {
    if !have(&["qemu-nbd", "qemu-img"]) {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let image = folder.path().join("disk.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", &text(&image), "1M"]);
    let names = ["first", "snapshot.odd,name"];
    for (value, name) in (1..).zip(names) {
        let writable = QemuOptions { format: Some("qcow2"), writable: true, ..QemuOptions::default() };
        let device = qemu::open(&image, &writable).expect("opens");
        device.write_at(&[value; 512], 0).expect("writes");
        device.flush().expect("flushes");
        drop(device);
        qemu_img(&["snapshot", "-c", name, &text(&image)]);
    }
    for (value, name) in (1..).zip(names) {
        let options = QemuOptions { format: Some("qcow2"), snapshot: Some(name), ..QemuOptions::default() };
        let device = qemu::open(&image, &options).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut buf = [0; 512];
        device.read_at(&mut buf, 0).expect("reads");
        assert_eq!(buf, [value; 512], "{name}");
    }
    let none = QemuOptions { format: Some("qcow2"), snapshot: Some("none"), ..QemuOptions::default() };
    let error = qemu::open(&image, &none).err().expect("no such snapshot");
    assert!(matches!(error.root(), Error::NotFound(_)), "{error}");
}

#[test]
fn a_strange_name_is_only_a_name() {
    if !have(&["qemu-nbd"]) {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    for (value, name) in (1..).zip(["-f", "a,b=c", "nbd:localhost:1", "json:{\"driver\":\"x\"}", "file:x y", "ü\n%41"])
    {
        let image = folder.path().join(name);
        fs::write(&image, [value; 4096]).expect("an image");
        let device = qemu::open(&image, &QemuOptions { format: Some("raw"), ..QemuOptions::default() });
        let device = device.unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut buf = [0; 512];
        device.read_at(&mut buf, 512).expect("reads");
        assert_eq!(buf, [value; 512], "{name}");
    }
    // The format is found out where it is not given.
    let image = folder.path().join("probed,image");
    if have(&["qemu-img"]) {
        qemu_img(&["create", "-q", "-f", "qcow2", &text(&image), "1M"]);
        let device = qemu::open(&image, &QemuOptions::default()).expect("opens");
        assert_eq!(device.size(), 1 << 20);
    }
}

#[test]
fn discarding_gives_space_back() {
    if !have(&["qemu-nbd"]) {
        return;
    }
    use std::os::unix::fs::MetadataExt;
    let folder = TempDir::new().expect("a folder");
    let image = folder.path().join("disk.raw");
    fs::write(&image, vec![1; 4 << 20]).expect("an image");
    let options = QemuOptions { format: Some("raw"), writable: true, discard: true, ..QemuOptions::default() };
    let device = qemu::open(&image, &options).expect("opens");
    device.discard(1 << 20, 2 << 20).expect("discards");
    device.flush().expect("flushes");
    let extent = device.map(1 << 20, 2 << 20).expect("maps");
    assert_eq!((extent.kind, extent.end), (ExtentKind::Hole, 3 << 20));
    drop(device);
    assert!(fs::metadata(&image).expect("metadata").blocks() <= 2 << 11);
    let file = fs::File::open(&image).expect("opens");
    let mut buf = [0; 1];
    file.read_exact_at(&mut buf, 3 << 20).expect("reads");
    assert_eq!(buf, [1]);
}

#[test]
fn a_long_map_takes_few_questions_and_is_right() {
    if !have(&["nbdkit"]) {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let disk = folder.path().join("disk");
    let file = fs::File::create(&disk).expect("a file");
    file.set_len(20 << 30).expect("its size");
    for number in [0, 5, 6, 19_u64] {
        file.write_all_at(&[1; 65536], number << 30).expect("writes");
    }
    for program in ["nbdkit", "qemu-nbd"] {
        if !have(&[program]) {
            continue;
        }
        let kept;
        let device = if program == "nbdkit" {
            let (server, socket) = nbdkit(folder.path(), &["file", &text(&disk)]);
            kept = Some(server);
            open_uri(&unix_uri(&socket, ""), false).expect("opens")
        } else {
            kept = None;
            qemu::open(&disk, &QemuOptions { format: Some("raw"), ..QemuOptions::default() }).expect("opens")
        };
        let mut data = Vec::new();
        let mut at = 0;
        while at < device.size() {
            let extent = device.map(at, device.size() - at).expect("maps");
            if extent.kind == ExtentKind::Data {
                data.push((at >> 30, extent.end - at));
            }
            at = extent.end;
        }
        assert_eq!(data, [(0, 65536), (5, 65536), (6, 65536), (19, 65536)], "{program}");
        drop(kept);
    }
}

#[test]
fn reading_is_fast_enough_to_be_useful() {
    if !have(&["qemu-nbd"]) {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let image = folder.path().join("disk.raw");
    fs::write(&image, vec![1; 64 << 20]).expect("an image");
    let began = Instant::now();
    let device = qemu::open(&image, &QemuOptions { format: Some("raw"), ..QemuOptions::default() }).expect("opens");
    println!("open: {:?}", began.elapsed());
    let device = Arc::new(device);
    let mut buf = vec![0; 4 << 20];
    let began = Instant::now();
    let mut total = 0;
    while began.elapsed() < Duration::from_millis(700) {
        device.read_at(&mut buf, total % (64 << 20)).expect("reads");
        total += buf.len() as u64;
    }
    let rate = total as f64 / began.elapsed().as_secs_f64() / f64::from(1 << 20);
    println!("in order, 4 MiB: {rate:.0} MiB/s");
    assert!(rate > 100.0);
    for threads in [1_u64, 4, 16] {
        let count = AtomicU64::new(0);
        let began = Instant::now();
        thread::scope(|scope| {
            for seed in 0..threads {
                let (device, count) = (&device, &count);
                scope.spawn(move || {
                    let mut random = Random(seed + 1);
                    let mut buf = [0; 4096];
                    while began.elapsed() < Duration::from_millis(700) {
                        device.read_at(&mut buf, random.below((64 << 20) - 4096) & !4095).expect("reads");
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        let rate = count.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
        println!("anywhere, 4 KiB, {threads} callers: {rate:.0}/s");
        assert!(rate > 1000.0);
    }
}
