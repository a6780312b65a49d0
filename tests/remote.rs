//! Images on other hosts: a web server, and NBD servers that are far away, that fail for a while, and that are gone for good.

mod common;
#[path = "common/nbd.rs"]
mod nbd;

use common::guest::{self, Workspace, cannot_mount, guestctl, is_mounted, run};
use common::{has_tool, skip};
use guestctl::block::OpenOptions;
use nbd::{nbdkit, unix_uri};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// A web server in this process that knows one file and answers requests for ranges.
struct Web {
    address: String,
    down: Arc<AtomicBool>,
    ranges: Arc<AtomicUsize>,
    asked: Arc<Asked>,
}

/// What was asked of a web server, and how long it takes for an answer.
#[derive(Default)]
struct Asked {
    delay: Duration,
    /// The ranges, with their ends.
    log: Mutex<Vec<(u64, u64)>>,
    busy: AtomicUsize,
    /// How many requests were under way at once.
    most_busy: AtomicUsize,
}

impl Web {
    fn new(file: &Path) -> Self {
        Self::far(file, Duration::ZERO)
    }

    /// A server each of whose answers takes so long.
    fn far(file: &Path, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let file = Arc::new((
            file.file_name().expect("a name").to_str().expect("plain").to_owned(),
            File::open(file).expect("opens"),
        ));
        let down = Arc::new(AtomicBool::new(false));
        let ranges = Arc::new(AtomicUsize::new(0));
        let (is_down, counter) = (Arc::clone(&down), Arc::clone(&ranges));
        let asked = Arc::new(Asked { delay, ..Asked::default() });
        let noted = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.expect("a connection");
                let (file, is_down, counter) = (Arc::clone(&file), Arc::clone(&is_down), Arc::clone(&counter));
                let noted = Arc::clone(&noted);
                // What a test looks at is what the client makes of it.
                thread::spawn(move || serve(&stream, &file, &is_down, &counter, &noted));
            }
        });
        Self { address, down, ranges, asked }
    }

    /// Waits until so many ranges were asked for.
    fn wait_for(&self, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.ranges.load(Ordering::Relaxed) < count {
            assert!(Instant::now() < deadline, "nobody asks");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }
}

/// Answers the requests of one connection; while the server is down, it is closed at once.
fn serve(
    stream: &TcpStream,
    (name, file): &(String, File),
    down: &AtomicBool,
    ranges: &AtomicUsize,
    asked: &Asked,
) -> io::Result<()> {
    let mut lines = BufReader::new(stream);
    let size = file.metadata()?.len();
    loop {
        let (mut first, mut range) = (String::new(), None);
        if lines.read_line(&mut first)? == 0 {
            return Ok(());
        }
        loop {
            let mut line = String::new();
            lines.read_line(&mut line)?;
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(asked) = line.strip_prefix("range: bytes=") {
                let (start, end) = asked.split_once('-').unwrap_or((asked, ""));
                range = Some((start.parse().unwrap_or(0), end.parse().unwrap_or(size - 1).min(size - 1)));
            }
        }
        if down.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut words = first.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut stream = stream;
        if path != format!("/{name}") {
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        }
        let (start, end) = range.unwrap_or((0, size - 1));
        let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
        write!(
            stream,
            "HTTP/1.1 {status}\r\nAccept-Ranges: bytes\r\nContent-Range: bytes {start}-{end}/{size}\r\n\
             Content-Length: {}\r\n\r\n",
            end - start + 1
        )?;
        if method == "GET" {
            ranges.fetch_add(1, Ordering::Relaxed);
            asked.log.lock().expect("nobody panics").push((start, end + 1));
            asked.most_busy.fetch_max(asked.busy.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            thread::sleep(asked.delay);
            asked.busy.fetch_sub(1, Ordering::Relaxed);
            let mut bytes = vec![0; (end - start + 1) as usize];
            file.read_exact_at(&mut bytes, start)?;
            stream.write_all(&bytes)?;
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain name")
}

fn ready() -> Option<Workspace> {
    if !has_tool("nbdkit") || !has_tool("mke2fs") || !has_tool("qemu-img") {
        skip("this needs nbdkit, mke2fs and qemu-img");
        return None;
    }
    Some(Workspace::new())
}

/// Makes an image of many small files and one of some MiB.
fn image(space: &Workspace, files: usize) -> PathBuf {
    let tree = space.small_tree();
    let noise: Vec<u8> = (0..4000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for number in 0..files {
        let folder = tree.join(format!("srv/{}", number % 10));
        fs::create_dir_all(&folder).expect("a new folder");
        fs::write(folder.join(format!("file-{number}")), &noise[..1000 + number * 7 % 3000]).expect("a new file");
    }
    space.ext4_image("disk.img", &tree)
}

fn tar_of(image: &str, more: &[&str]) -> Vec<u8> {
    let (code, printed, said) = guestctl(&[&["tar-out", image, "/", "-"], more].concat());
    assert_eq!(code, 0, "{said}");
    printed
}

#[test]
fn an_image_on_a_web_server_is_read_whatever_its_format() {
    let Some(space) = ready() else { return };
    let raw = image(&space, 20);
    let qcow2 = space.path("disk.qcow2");
    run("qemu-img", &["convert", "-c", "-O", "qcow2", text(&raw), text(&qcow2)]);
    let expected = tar_of(text(&raw), &[]);
    let vhdx = space.path("disk.vhdx");
    run("qemu-img", &["convert", "-O", "vhdx", text(&raw), text(&vhdx)]);
    for file in [&raw, &qcow2, &vhdx] {
        let web = Web::new(file);
        let url = web.url(text(file.file_name().expect("a name").as_ref()));
        assert!(tar_of(&url, &[]) == expected, "{url}");
        assert!(web.ranges.load(Ordering::Relaxed) > 3);
        let (code, printed, said) = guestctl(&["ls", &url, "/etc"]);
        assert_eq!((code, printed.as_slice()), (0, &b"empty\nhostname\n"[..]), "{said}");
    }
    let web = Web::new(&raw);
    let url = web.url("disk.img");
    // Nothing is written to a web server, and an overlay takes what is.
    let (code, _, said) = guestctl(&["rm", "--rw", &url, "/etc/empty"]);
    assert!(code != 0 && said.contains("--overlay"), "{said}");
    let overlay = format!("--overlay={}", text(&space.path("over.qcow2")));
    let (code, _, said) = guestctl(&["rm", &overlay, &url, "/etc/empty"]);
    assert_eq!(code, 0, "{said}");
}

#[test]
fn windows_grow_with_reading_in_sequence_and_requests_are_under_way_at_once() {
    const PIECE: usize = 64 << 10;
    let Some(space) = ready() else { return };
    let path = space.path("disk.img");
    File::create(&path).and_then(|file| file.set_len(48 << 20)).expect("there is room");
    let web = Web::far(&path, Duration::from_millis(10));
    let device = guestctl::block::open(web.url("disk.img"), &OpenOptions::default()).expect("opens").device;
    let log = || web.asked.log.lock().expect("nobody panics").clone();
    let mut piece = vec![0; PIECE];
    let mut read = |at: u64| device.read_at(&mut piece, at).expect("reads");
    // Here and there: what is asked for is a little around it, and nothing ahead.
    let before = log().len();
    (0..6).for_each(|number| read((47 - 7 * number) << 20));
    let asked: u64 = log()[before..].iter().map(|(start, end)| end - start).sum();
    assert!(asked <= 6 * (512 << 10), "{asked} bytes");
    // In sequence: how far ahead of the reader the server has been asked.
    let before = log().len();
    let start = 1_u64 << 20;
    let mut ahead = Vec::new();
    for number in 0..160 {
        let at = start + number * PIECE as u64;
        read(at);
        // Nothing from before lies in the way.
        let most = log()[before..].iter().map(|&(_, end)| end).max().unwrap_or(at);
        ahead.push(most.saturating_sub(at + PIECE as u64));
    }
    assert!(ahead[0] <= 512 << 10 && ahead[150] >= 4 << 20, "{ahead:?}");
    assert!(web.asked.most_busy.load(Ordering::Relaxed) >= 4, "{:?}", web.asked.most_busy);
    // A hint is followed at once, and what it named needs no further request.
    let hinted = 40_u64 << 20;
    let deadline = Instant::now() + Duration::from_secs(10);
    let is_asked = || log().iter().any(|&(from, to)| (from..to).contains(&(hinted + (1 << 20))));
    while !is_asked() {
        assert!(Instant::now() < deadline, "nobody asks for what a hint named");
        device.prefetch(hinted, 2 << 20);
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_is_wrong_with_a_remote_image_is_one_line_that_says_what_to_do() {
    let Some(space) = ready() else { return };
    let file = space.path("disk.vmdk");
    run("qemu-img", &["create", "-q", "-f", "vmdk", text(&file), "8M"]);
    let web = Web::new(&file);
    let gone = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    for (url, expected) in [
        (web.url("other"), "404"),
        (web.url("disk.vmdk"), "convert it to qcow2 or raw"),
        (format!("http://{gone}/disk"), "onnect"),
        (format!("ssh://{gone}/disk"), "onnect"),
        ("ssh://ann:secret@host/disk".to_owned(), "no password"),
        ("s3://bucket".to_owned(), "write s3://BUCKET/KEY"),
        ("https:///disk".to_owned(), "write https://HOST/PATH"),
    ] {
        let (code, _, said) = guestctl(&["ls", "--timeout", "3", &url, "/"]);
        assert!(code != 0 && said.contains(expected) && said.trim_end().lines().count() == 1, "{url}: {said}");
        assert!(said.contains(&url), "{url} is not named: {said}");
    }
    // Without the program, the package is named.
    let output = Command::new(guest::GUESTCTL)
        .args(["ls", "https://host/disk", "/"])
        .env("PATH", space.folder("empty"))
        .output()
        .expect("starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("of the package nbdkit"), "{said}");
    // Without the plugin, too.
    if !Command::new("nbdkit").args(["S3", "--dump-plugin"]).output().expect("starts").status.success() {
        let (_, _, said) = guestctl(&["ls", "s3://bucket/disk", "/"]);
        assert!(said.contains("plugin S3, of the package nbdkit-plugin-python"), "{said}");
    }
}

#[test]
fn an_archive_over_a_long_way_takes_a_fifth_of_the_time_of_one_request_after_another() {
    let Some(space) = ready() else { return };
    let disk = image(&space, 20);
    let expected = tar_of(text(&disk), &[]);
    let timed = |more: &[&str]| {
        // One of its own for each run: nbdkit may end when a client leaves while reads are delayed.
        let folder = space.folder(&format!("server{}", more.len()));
        let (_server, socket) = nbdkit(&folder, &["--filter=delay", "file", text(&disk), "rdelay=20ms"]);
        let uri = unix_uri(&socket, "");
        let began = Instant::now();
        assert!(tar_of(&uri, more) == expected);
        began.elapsed()
    };
    let (naive, ahead) = (timed(&["--no-read-ahead"]), timed(&[]));
    assert!(naive > ahead * 5, "{naive:?} against {ahead:?}");
    // A cache that holds next to nothing costs time, and nothing else.
    timed(&["--cache-size", "4"]);
}

/// Starts the program; it is ended when the value goes.
struct Running(Child);

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let child = Command::new(guest::GUESTCTL)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Self(child.expect("starts"))
    }

    /// Waits for its end; returns whether it succeeded, what it printed, and what it said.
    fn end(mut self) -> (bool, Vec<u8>, String) {
        let mut printed = Vec::new();
        self.0.stdout.take().expect("a pipe").read_to_end(&mut printed).expect("reads");
        let mut said = String::new();
        self.0.stderr.take().expect("a pipe").read_to_string(&mut said).expect("reads");
        (self.0.wait().expect("waits").success(), printed, said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_server_that_is_lost_in_the_middle_of_an_archive_is_waited_for() {
    let Some(space) = ready() else { return };
    let disk = image(&space, 100);
    let expected = tar_of(text(&disk), &[]);
    let folder = space.folder("s");
    let arguments = ["--filter=delay", "file", text(&disk), "rdelay=8ms"];
    let (server, socket) = nbdkit(&folder, &arguments);
    let uri = unix_uri(&socket, "");
    // One request after another takes some seconds, so that the loss comes in their middle.
    let running = Running::start(&["tar-out", "--no-read-ahead", &uri, "/", "-"]);
    thread::sleep(Duration::from_millis(800));
    server.stop();
    thread::sleep(Duration::from_millis(700));
    let (_server, _) = nbdkit(&folder, &arguments);
    let (succeeded, printed, said) = running.end();
    assert!(succeeded && printed == expected, "{said}");

    let web = Web::new(&disk);
    let url = web.url("disk.img");
    let running = Running::start(&["tar-out", "--no-read-ahead", &url, "/", "-"]);
    web.wait_for(50);
    web.down.store(true, Ordering::Release);
    thread::sleep(Duration::from_millis(700));
    web.down.store(false, Ordering::Release);
    let (succeeded, printed, said) = running.end();
    assert!(succeeded && printed == expected, "{said}");
}

#[test]
fn a_server_that_is_gone_for_good_ends_in_an_error_within_its_time() {
    let Some(space) = ready() else { return };
    let disk = image(&space, 300);
    let (server, socket) = nbdkit(&space.folder("s"), &["--filter=delay", "file", text(&disk), "rdelay=20ms"]);
    let web = Web::new(&disk);
    let check = |place: &str, running: Running| {
        let began = Instant::now();
        let (succeeded, _, said) = running.end();
        // Where the loss comes while the volumes are looked for, a line tells of these too.
        let lines: Vec<&str> = said.trim_end().lines().collect();
        assert!(!succeeded && lines.len() <= 2 && lines.iter().all(|line| line.contains(place)), "{place}: {said}");
        assert!(began.elapsed() < Duration::from_secs(12), "{place}: {:?}", began.elapsed());
    };
    let uri = unix_uri(&socket, "");
    let running = ["--no-read-ahead", "--cache-size=8"]
        .map(|more| Running::start(&["tar-out", "--timeout", "2", more, &uri, "/", "-"]));
    thread::sleep(Duration::from_millis(150));
    server.stop();
    running.into_iter().for_each(|running| check(&uri, running));
    for more in ["--no-read-ahead", "--cache-size=8"] {
        web.down.store(false, Ordering::Release);
        let before = web.ranges.load(Ordering::Relaxed);
        let url = web.url("disk.img");
        let running = Running::start(&["tar-out", "--timeout", "2", more, &url, "/", "-"]);
        web.wait_for(before + 3);
        web.down.store(true, Ordering::Release);
        check(&url, running);
    }
}

#[test]
fn a_mount_whose_server_is_gone_gives_errors_and_is_unmounted() {
    let Some(space) = ready() else { return };
    if let Some(why) = cannot_mount() {
        return skip(why);
    }
    let disk = image(&space, 300);
    let (server, socket) = nbdkit(&space.folder("s"), &["--filter=delay", "file", text(&disk), "rdelay=5ms"]);
    let uri = unix_uri(&socket, "");
    let mounted = space.mount("mnt", uri.as_ref(), &["--timeout", "2", "--no-read-ahead"]);
    assert_eq!(fs::read_to_string(mounted.folder.join("etc/hostname")).expect("reads"), "guest\n");
    server.stop();
    let began = Instant::now();
    let errors: Vec<io::Error> = (0..300)
        .filter_map(|number| fs::read(mounted.folder.join(format!("srv/{}/file-{number}", number % 10))).err())
        .collect();
    assert!(!errors.is_empty() && errors.iter().all(|error| error.raw_os_error() == Some(5)), "{errors:?}");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let folder = mounted.folder.clone();
    mounted.umount();
    assert!(!is_mounted(&folder));
}

#[test]
fn nothing_is_left_running_when_a_remote_image_is_closed() {
    let Some(space) = ready() else { return };
    let disk = image(&space, 5);
    let web = Web::new(&disk);
    let url = web.url("disk.img");
    assert_eq!(guestctl(&["ls", &url, "/"]).0, 0);
    let children = || {
        let folders = fs::read_dir("/proc").expect("every Linux has it").flatten();
        folders
            .filter(|folder| {
                fs::read(folder.path().join("cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(&url))
            })
            .count()
    };
    let deadline = Instant::now() + Duration::from_secs(5);
    while children() > 0 {
        assert!(Instant::now() < deadline, "nbdkit still runs");
        thread::sleep(Duration::from_millis(20));
    }
}
