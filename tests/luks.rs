//! LUKS: volumes that cryptsetup and QEMU made, volumes that they read, and headers that lie.

mod common;
#[path = "common/images.rs"]
mod images;

use common::guest::{Workspace, guestctl, output, run};
use guestctl::block::{MemoryDevice, RawDevice, SharedDevice};
use guestctl::fs::FileType;
use guestctl::fs::write::Credentials;
use guestctl::volume::luks::{self, Luks};
use images::Random;
use sha2::Digest;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const WHO: Credentials = Credentials { uid: 0, gid: 0, umask: 0o022 };

const GOLDEN: [&str; 10] = [
    "luks1-aes-xts",
    "luks1-twofish-cbc-plain",
    "luks1-serpent-cbc-essiv",
    "luks1-aes-cbc-benbi",
    "luks1-aes-lrw-benbi",
    "luks2-argon2id-4096",
    "luks2-argon2i-essiv",
    "luks2-serpent-xts",
    "luks2-camellia-xts",
    "luks2-twofish-xts-plain64be",
];

fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/volumes/{name}.img.zst"));
    zstd::decode_all(fs::File::open(path).expect("it is in the repository")).expect("it is whole")
}

fn golden_file(space: &Workspace, name: &str) -> PathBuf {
    let path = space.path(name);
    fs::write(&path, golden(name)).expect("there is room");
    path
}

fn memory(bytes: Vec<u8>) -> SharedDevice {
    Arc::new(MemoryDevice::new(bytes))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain name")
}

fn key(space: &Workspace, key: &str) -> String {
    fs::write(space.path("key"), key).expect("there is room");
    format!("all:file:{}", text(&space.path("key")))
}

/// What the script that made the images wrote into them.
fn assert_contents(name: &str, image: &Path, more: &[&str]) {
    let cat = |path: &str| {
        let arguments: Vec<&str> = [&["cat", text(image), path], more].concat();
        let (code, out, err) = guestctl(&arguments);
        assert_eq!(code, 0, "{name}: {err}");
        out
    };
    assert_eq!(cat("/hello"), format!("hello from {name}").into_bytes());
    let pattern: Vec<u8> = format!("{name}-").bytes().cycle().take(20000).collect();
    assert_eq!(cat("/pattern"), pattern, "{name}");
}

#[test]
fn volumes_made_by_cryptsetup_are_read() {
    let space = Workspace::new();
    let key = key(&space, "secret");
    for name in GOLDEN {
        assert_contents(name, &golden_file(&space, name), &["--key", &key]);
    }
}

#[test]
fn a_header_that_lies_apart_is_read() {
    let space = Workspace::new();
    let key = key(&space, "secret");
    let header = format!("/dev/sda:{}", text(&golden_file(&space, "luks2-detached.header")));
    let image = golden_file(&space, "luks2-detached");
    assert_contents("luks2-detached", &image, &["--key", &key, "--header", &header]);
    let (code, _, error) = guestctl(&["ls", text(&space.path("luks2-detached.header")), "/", "--key", &key]);
    assert_ne!(code, 0);
    assert!(error.contains("header of another device"), "{error}");
}

#[test]
fn keys_come_from_a_file_or_the_environment_and_wrong_ones_are_told_of() {
    let space = Workspace::new();
    let image = golden_file(&space, "luks2-argon2id-4096");
    let run = |more: &[&str]| guestctl(&[&["ls", text(&image), "/"], more].concat());
    // A line's end is no part of a passphrase; the second slot and a key for this device alone work too.
    for secret in ["secret\n", "secret", "another", "another\r\n"] {
        let (code, out, error) = run(&["--key", &key(&space, secret)]);
        assert_eq!(code, 0, "{secret:?}: {error}");
        assert!(String::from_utf8_lossy(&out).contains("hello"));
    }
    let file = text(&space.path("key")).to_owned();
    let uuid =
        Luks::read(memory(golden("luks2-argon2id-4096")).as_ref()).expect("whole").expect("LUKS").uuid().to_owned();
    for device in ["/dev/sda", "sda", &uuid, &format!("UUID={uuid}")] {
        assert_eq!(run(&["--key", &format!("{device}:file:{file}")]).0, 0, "{device}");
    }
    // From standard input, too.
    let line = format!("printf secret | {} ls {} / --key all:file:-", common::guest::GUESTCTL, text(&image));
    let told = output("sh", &["-c", &line]);
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let (code, _, error) = run(&["--key", &key(&space, "wrong")]);
    assert_ne!(code, 0);
    assert!(error.contains("no key slot opens with the given key"), "{error}");
    let (code, _, error) = run(&[]);
    assert_ne!(code, 0);
    assert!(error.contains("locked") && error.contains("--key /dev/sda:file:FILE"), "{error}");
    assert!(error.contains("luks2-keyring"), "its token is named: {error}");
    let (code, _, error) = run(&["--key", "all:env:GUESTCTL_TEST_NO_SUCH_VARIABLE"]);
    assert_eq!(code, 2, "{error}");
    let (code, _, error) = run(&["--key", "hunter2"]);
    assert_eq!(code, 2, "{error}");
    assert!(!error.contains("write hunter2"), "{error}");
}

#[test]
fn the_memory_that_a_key_takes_is_told_before_it_is_taken() {
    if !common::has_tool("cryptsetup") {
        return common::skip("cryptsetup is not installed");
    }
    let space = Workspace::new();
    let key = key(&space, "secret");
    let (image, file) = (space.path("disk"), space.path("key"));
    fs::File::create(&image).and_then(|file| file.set_len(20 << 20)).expect("there is room");
    let options = "luksFormat -q --type luks2 --pbkdf-memory 524288 --pbkdf-force-iterations 4 --key-file";
    let arguments: Vec<&str> = options.split(' ').chain([text(&file), text(&image)]).collect();
    run("cryptsetup", &arguments);
    let program = common::guest::GUESTCTL;
    let line = format!("ulimit -v 524288; exec {program} ls {} / --key {key}", text(&image));
    let output = output("sh", &["-c", &line]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("it takes 544 MiB") && error.contains("ulimit -v"), "{error}");
}

#[test]
fn volumes_with_every_hash_that_cryptsetup_knows_open() {
    if !common::has_tool("cryptsetup") {
        return common::skip("cryptsetup is not installed");
    }
    let space = Workspace::new();
    let (image, file) = (space.path("disk"), space.path("key"));
    fs::write(&file, "secret").expect("there is room");
    let format = |kind: &str, hash: &str| {
        fs::File::create(&image).and_then(|file| file.set_len(4 << 20)).expect("there is room");
        let small = "--luks2-metadata-size 16k --luks2-keyslots-size 256k --pbkdf pbkdf2";
        let small = if kind == "luks2" { small } else { "" };
        let options =
            format!("luksFormat -q --type {kind} {small} --key-size 256 --pbkdf-force-iterations 1000 --hash {hash}");
        let arguments: Vec<&str> =
            options.split_whitespace().chain(["--key-file", text(&file), text(&image)]).collect();
        output("cryptsetup", &arguments)
    };
    let mut opened = Vec::new();
    let hashes = "sha1 sha224 sha256 sha384 sha512 ripemd160 whirlpool sha3-256 sha3-512 blake2b-512 blake2s-256";
    for hash in hashes.split(' ') {
        for kind in ["luks1", "luks2"] {
            let made = format(kind, hash);
            if !made.status.success() {
                // What the library of this cryptsetup lacks is no hash of its own.
                assert!(matches!(hash, "ripemd160" | "whirlpool" | "blake2b-512" | "blake2s-256"), "{hash}: {made:?}");
                continue;
            }
            let bytes = memory(fs::read(&image).expect("it is there"));
            // The key's digest is of the same hash, so that a key that opens is the right one.
            luks::open(&bytes, None, b"secret").unwrap_or_else(|error| panic!("{kind} {hash}: {error}"));
            let Err(error) = luks::open(&bytes, None, b"wrong") else { panic!("{kind} {hash}: a wrong key opens it") };
            assert!(error.to_string().contains("no key slot opens"), "{kind} {hash}: {error}");
            opened.push(hash);
        }
    }
    assert!(opened.len() >= 14, "{opened:?}");
}

#[test]
fn key_slots_are_tried_in_the_order_of_their_priorities_and_those_that_are_to_be_ignored_are_not() {
    let slots = |image: &Path| {
        let header = Luks::read(memory(fs::read(image).expect("reads")).as_ref()).expect("whole").expect("LUKS");
        (header.slots(), header.tokens().map(|(_, kind)| kind.to_owned()).collect::<Vec<_>>())
    };
    if !common::has_tool("cryptsetup") {
        return common::skip("cryptsetup is not installed");
    }
    let space = Workspace::new();
    let image = golden_file(&space, "luks2-argon2id-4096");
    let set = |slot: &str, priority: &str| {
        run("cryptsetup", &["config", "--key-slot", slot, "--priority", priority, text(&image)]);
    };
    assert_eq!(slots(&image), (vec![0, 1], vec!["luks2-keyring".to_owned()]));
    set("1", "prefer");
    assert_eq!(slots(&image).0, [1, 0]);
    set("0", "ignore");
    assert_eq!(slots(&image).0, [1]);
    let bytes = memory(fs::read(&image).expect("reads"));
    luks::open(&bytes, None, b"another").expect("the second slot's key");
    let Err(error) = luks::open(&bytes, None, b"secret") else { panic!("an ignored slot is tried") };
    assert!(error.to_string().contains("no key slot opens"), "{error}");
}

/// Says whether bytes stand anywhere in what a process may write.
fn is_in_memory(process: u32, bytes: &[u8]) -> bool {
    use std::os::unix::fs::FileExt;
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).expect("it runs");
    let memory = fs::File::open(format!("/proc/{process}/mem")).expect("it is ours");
    maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|rights| rights.starts_with("rw"))).any(|line| {
        let (start, end) = line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
        let number = |text: &str| u64::from_str_radix(text, 16).expect("a number");
        let (start, end) = (number(start), number(end));
        // Piece by piece, each with a little of the one before; what is not there yet is not readable.
        (start..end).step_by(1 << 20).any(|at| {
            let from = at.saturating_sub(64).max(start);
            let mut piece = vec![0; (end - from).min((1 << 20) + 64) as usize];
            memory.read_exact_at(&mut piece, from).is_ok() && piece.windows(bytes.len()).any(|window| window == bytes)
        })
    })
}

#[test]
fn a_passphrase_is_wiped_from_memory_once_the_volume_is_open() {
    if let Some(why) = common::guest::cannot_mount() {
        return common::skip(why);
    }
    if !common::has_tool("cryptsetup") || !common::is_root() {
        return common::skip("this needs cryptsetup, and a look into the memory of another process");
    }
    const PASSPHRASE: &str = "a passphrase that stands nowhere else";
    let space = Workspace::new();
    let image = golden_file(&space, "luks2-argon2id-4096");
    fs::write(space.path("key"), "secret").expect("room");
    let more = ["luksAddKey", "-q", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file"];
    fs::write(space.path("new"), PASSPHRASE).expect("room");
    let (old, new) = (space.path("key"), space.path("new"));
    let added = output("cryptsetup", &[&more[..], &[text(&old), text(&image), text(&new)]].concat());
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    let key = key(&space, PASSPHRASE);
    let mounted = space.mount("mnt", image.as_os_str(), &["--key", &key]);
    assert_eq!(fs::read(mounted.folder.join("hello")).expect("reads"), b"hello from luks2-argon2id-4096");
    let open = common::guest::who_has_open(&image);
    assert!(!open.is_empty());
    for process in open {
        // What surely is there is found.
        assert!(is_in_memory(process, b"luks2-argon2id-4096"), "the image's name is there");
        assert!(!is_in_memory(process, PASSPHRASE.as_bytes()), "the passphrase is still in the memory of {process}");
    }
    mounted.umount();
}

/// Makes a LUKS1 volume by QEMU; returns its image.
fn qemu_volume(space: &Workspace, options: &str) -> PathBuf {
    let (image, file) = (space.path("qemu.luks"), space.path("key"));
    let _ = fs::remove_file(&image);
    fs::write(&file, "secret").expect("there is room");
    let secret = format!("secret,id=s,file={}", text(&file));
    let options = format!("key-secret=s,iter-time=10,{options}");
    run("qemu-img", &["create", "-q", "-f", "luks", "--object", &secret, "-o", &options, text(&image), "3M"]);
    image
}

fn qemu_contents(space: &Workspace, image: &Path) -> Vec<u8> {
    let secret = format!("secret,id=s,file={}", text(&space.path("key")));
    let source = format!("driver=luks,key-secret=s,file.filename={}", text(image));
    let out = space.path("plain");
    run("qemu-img", &["convert", "--object", &secret, "--image-opts", &source, "-O", "raw", text(&out)]);
    fs::read(out).expect("qemu-img wrote it")
}

#[test]
fn volumes_that_qemu_made_are_written_and_qemu_reads_them() {
    if !common::has_tool("qemu-img") {
        return common::skip("qemu-img is not installed");
    }
    let space = Workspace::new();
    for options in [
        "cipher-alg=aes-256,cipher-mode=xts,ivgen-alg=plain64,hash-alg=sha256",
        "cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256,hash-alg=sha1",
        "cipher-alg=serpent-256,cipher-mode=xts,ivgen-alg=plain64,hash-alg=sha512",
        "cipher-alg=twofish-128,cipher-mode=xts,ivgen-alg=plain64,hash-alg=ripemd160",
        "cipher-alg=aes-256,cipher-mode=cbc,ivgen-alg=plain,hash-alg=sha256",
        "cipher-alg=aes-256,cipher-mode=cbc,ivgen-alg=plain64,hash-alg=sha384",
        "cipher-alg=twofish-256,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256,hash-alg=sha224",
        "cipher-alg=serpent-128,cipher-mode=cbc,ivgen-alg=plain64,hash-alg=sha256",
        "cipher-alg=aes-128,cipher-mode=ecb,hash-alg=sha256",
    ] {
        let image = qemu_volume(&space, options);
        let raw: SharedDevice = Arc::new(RawDevice::open(&image, true).expect("ours"));
        let device = luks::open(&raw, None, b"secret").unwrap_or_else(|error| panic!("{options}: {error}"));
        let mut expected = qemu_contents(&space, &image);
        assert_eq!(device.size(), expected.len() as u64);
        let mut random = Random::new(7);
        for _ in 0..60 {
            let limit = if random.below(4) == 0 { 300_000 } else { 1500 };
            let len = 1 + random.below(limit) as usize;
            let at = random.below((expected.len() - len) as u64) as usize;
            let bytes = random.bytes(len);
            device.write_at(&bytes, at as u64).expect("room");
            expected[at..at + len].copy_from_slice(&bytes);
        }
        device.flush().expect("flush");
        let mut found = vec![0; expected.len()];
        device.read_at(&mut found, 0).expect("inside");
        assert!(found == expected, "{options}: read back");
        drop((device, raw));
        assert!(qemu_contents(&space, &image) == expected, "{options}: by QEMU");
    }
}

#[test]
fn neighbours_in_one_sector_do_not_lose_each_others_writes() {
    let device = luks::open(&memory(golden("luks2-argon2id-4096")), None, b"secret").expect("it opens");
    std::thread::scope(|scope| {
        for worker in 0..4_u64 {
            let device = &device;
            scope.spawn(move || {
                // Each worker owns every fourth run of 100 bytes, and checks it while the others write beside it.
                let mut found = [0; 100];
                for round in 0..200_u64 {
                    let at = (round % 20 * 4 + worker) * 100;
                    let bytes = [(worker * 50 + round % 50) as u8; 100];
                    device.write_at(&bytes, at).expect("room");
                    device.read_at(&mut found, at).expect("inside");
                    assert_eq!(found, bytes);
                }
            });
        }
    });
}

const JSON: std::ops::Range<usize> = 4096..16384;

/// Replaces text in the JSON of both headers, and makes their checksums right.
fn with_json(mut image: Vec<u8>, edit: impl Fn(&str) -> String) -> Vec<u8> {
    for start in [0, 16384] {
        let header = &mut image[start..start + 16384];
        let json = &header[JSON];
        let end = json.iter().position(|&byte| byte == 0).expect("padding");
        let text = edit(std::str::from_utf8(&json[..end]).expect("text"));
        assert!(text.len() < JSON.len(), "the test's text is too long");
        header[JSON].fill(0);
        header[JSON.start..JSON.start + text.len()].copy_from_slice(text.as_bytes());
        header[448..512].fill(0);
        let sum = sha2::Sha256::digest(&*header);
        header[448..480].copy_from_slice(&sum);
    }
    image
}

fn refusal(image: Vec<u8>) -> String {
    match luks::open(&memory(image), None, b"secret") {
        Ok(_) => panic!("it was opened"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    let image = golden("luks2-serpent-xts");
    let replaced = |from: &str, to: &str| {
        refusal(with_json(image.clone(), |json| {
            assert!(json.contains(from), "{json} has no {from}");
            json.replace(from, to)
        }))
    };
    for (from, to, said) in [
        (
            r#""sector_size":1024"#,
            r#""sector_size":1024,"integrity":{"type":"hmac(sha256)"}"#,
            "integrity protection (hmac(sha256)",
        ),
        (
            r#""config":{"#,
            r#""config":{"requirements":{"mandatory":["online-reencrypt-v2"]},"#,
            "reencryption is in progress",
        ),
        (r#""config":{"#, r#""config":{"requirements":{"mandatory":["moon"]},"#, r#"the requirement "moon""#),
        (r#""type":"crypt""#, r#""type":"linear""#, r#"a LUKS2 segment of the type "linear""#),
        ("serpent-xts-plain64", "rot13-xts-plain64", "rot13-xts-plain64"),
        (r#""hash":"sha512""#, r#""hash":"crc32""#, r#"the hash "crc32""#),
    ] {
        let error = replaced(from, to);
        assert!(error.contains(said), "{to}: {error}");
    }
}

#[test]
fn a_header_that_lies_costs_an_error_and_little_else() {
    let image = golden("luks2-serpent-xts");
    let began = std::time::Instant::now();
    let edits: [(&str, &str); 16] = [
        (r#""size":"dynamic""#, r#""size":"18446744073709551615""#),
        (r#""size":"dynamic""#, r#""size":"999999999999""#),
        (r#""size":"dynamic""#, r#""size":"1000001""#),
        (r#""size":"dynamic""#, r#""size":"-1""#),
        (r#""sector_size":1024"#, r#""sector_size":0"#),
        (r#""sector_size":1024"#, r#""sector_size":4294967295"#),
        (r#""stripes":4000"#, r#""stripes":4294967295"#),
        (r#""stripes":4000"#, r#""stripes":0"#),
        (r#""iterations":1000"#, r#""iterations":4294967295"#),
        (r#""iterations":1000"#, r#""iterations":0"#),
        (r#""key_size":32"#, r#""key_size":4294967295"#),
        (r#""key_size":32"#, r#""key_size":0"#),
        (r#""offset":"32768""#, r#""offset":"18446744073709551000""#),
        (r#""offset":"32768""#, r#""offset":"99999999999""#),
        (
            r#""segments":{"0":{"#,
            r#""segments":{"1":{"type":"crypt","offset":"0","size":"dynamic","iv_tweak":"0","encryption":"aes-xts-plain64","sector_size":512},"0":{"#,
        ),
        (r#""segments":{"0":{"#, r#""segments":{"zero":{"#),
    ];
    for (from, to) in edits {
        let edited = with_json(image.clone(), |json| {
            let from = if json.contains(from) { from.to_owned() } else { from.replace(':', ": ") };
            assert!(json.contains(&from), "{json} has no {from}");
            json.replace(&from, to)
        });
        let error = refusal(edited);
        assert!(!error.contains('\n'), "{error}");
    }
    refusal(with_json(image.clone(), |_| "[".repeat(12000)));
    refusal(with_json(image.clone(), |_| "{}".to_owned()));
    refusal(with_json(image.clone(), |json| json[..json.len() / 2].to_owned()));
    for length in [0, 6, 591, 592, 4095, 4096, 16384, 32768, 100_000] {
        refusal(image[..length].to_vec());
    }
    assert!(began.elapsed().as_secs() < 20, "it took {:?}", began.elapsed());
}

#[test]
fn any_byte_of_a_header_may_be_wrong() {
    for name in ["luks1-aes-xts", "luks2-serpent-xts"] {
        let image = golden(name);
        let mut random = Random::new(11);
        for _ in 0..25 {
            let mut damaged = image.clone();
            let at = random.below(if name.starts_with("luks1") { 592 } else { 5000 }) as usize;
            damaged[at] ^= 1 << random.below(8);
            // Whatever comes of it, it comes back.
            let _ = luks::open(&memory(damaged), None, b"secret");
        }
    }
}

#[test]
fn the_second_header_stands_in_for_the_first() {
    for damage in [0..6, 4096..4200, 0..16384] {
        let mut image = golden("luks2-serpent-xts");
        image[damage].fill(0xa5);
        let device = luks::open(&memory(image), None, b"secret").expect("the second header is whole");
        let mut magic = [0; 2];
        device.read_at(&mut magic, 1024 + 56).expect("inside");
        assert_eq!(magic, [0x53, 0xef], "the superblock of ext2");
    }
}

#[test]
fn what_a_mount_writes_is_read_back_through_the_cipher() {
    let space = Workspace::new();
    let key = key(&space, "secret");
    let image = golden_file(&space, "luks2-argon2id-4096");
    let mut guest = guestctl::Guestfs::new().expect("a handle");
    let mut keys = guestctl::volume::keys::Keys::new();
    keys.add(guestctl::volume::keys::Selector::All, b"secret".to_vec().into());
    guest.set_unlock(Arc::new(keys));
    guest.add_drive(text(&image)).expect("an image");
    guest.launch().expect("it opens");
    let device = guest.list_filesystems().expect("launched").into_iter().find(|(_, kind)| kind == "ext2");
    guest.mount(&device.expect("an ext2").0, "/").expect("it mounts");
    let tree = Arc::clone(guest.tree().expect("mounted"));
    let (writer, root) = tree.writer(tree.root()).expect("writable");
    let file = writer.create(root, b"new", FileType::Regular, 0o644, (0, 0), &WHO).expect("room").ino;
    writer.write(file, 0, b"written through LUKS", true).expect("room");
    drop(tree);
    guest.shutdown().expect("durable");
    drop(guest);
    let (code, out, error) = guestctl(&["cat", text(&image), "/new", "--key", &key]);
    assert_eq!((code, out.as_slice()), (0, &b"written through LUKS"[..]), "{error}");
    assert_contents("luks2-argon2id-4096", &image, &["--key", &key]);
}

/// Takes minutes on some machines, and guestfish, whose kernel has what this one may lack.
#[test]
fn what_is_written_through_every_cipher_is_read_by_the_kernel() {
    if std::env::var_os("GUESTCTL_LARGE").is_none() || !common::has_tool("guestfish") {
        return;
    }
    let space = Workspace::new();
    let key = key(&space, "secret");
    let mut script = vec!["debug sh \"printf secret >/tmp/key\"".to_owned()];
    let mut drives = String::new();
    let mut sums = Vec::new();
    for (index, name) in GOLDEN.into_iter().enumerate() {
        let (image, new) = (golden_file(&space, name), space.path("new"));
        let lines: String = (0..4000).map(|number| format!("{name} {number}\n")).collect();
        fs::write(&new, &lines).expect("room");
        let (code, _, error) = guestctl(&["cp", "--rw", "--key", &key, text(&new), &format!("{}:/new", text(&image))]);
        assert_eq!(code, 0, "{name}: {error}");
        drives += &format!("add-drive {} format:raw\n", text(&image));
        let drive = char::from(b'a' + index as u8);
        script.push(format!(
            "debug sh \"cryptsetup open --key-file /tmp/key /dev/sd{drive} c{index}; e2fsck -fn /dev/mapper/c{index}\""
        ));
        script.push(format!("mount /dev/mapper/c{index} /\nchecksum sha256 /new\numount-all"));
        sums.push(guestctl::bytes::hex(&sha2::Sha256::digest(lines.as_bytes())));
    }
    fs::write(space.path("script"), format!("{drives}run\n{}\n", script.join("\n"))).expect("room");
    let variables = "LIBGUESTFS_BACKEND=direct LIBGUESTFS_BACKEND_SETTINGS=force_tcg";
    let line = format!("{variables} guestfish <{}", text(&space.path("script")));
    let told = std::process::Command::new("timeout").args(["600", "sh", "-c", &line]).output().expect("starts");
    let printed = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.status.success(), "{printed}{}", String::from_utf8_lossy(&told.stderr));
    let found: Vec<&str> = printed.lines().filter(|line| line.len() == 64).collect();
    assert_eq!(found, sums, "{printed}");
}

/// The program at a terminal of its own.
struct AtTerminal {
    terminal: fs::File,
    other_end: std::os::fd::OwnedFd,
    child: std::process::Child,
    seen: String,
}

impl AtTerminal {
    fn start(arguments: &[&str]) -> Self {
        let pair = nix::pty::openpty(None, None).expect("a terminal");
        let end = || std::process::Stdio::from(pair.slave.try_clone().expect("a descriptor"));
        let child = std::process::Command::new(common::guest::GUESTCTL)
            .args(arguments)
            .stdin(end())
            .stdout(std::process::Stdio::piped())
            .stderr(end())
            .spawn()
            .expect("starts");
        Self { terminal: pair.master.into(), other_end: pair.slave, child, seen: String::new() }
    }

    /// Reads what is shown until `count` prompts are.
    fn wait_for_prompts(&mut self, count: usize) {
        use std::io::Read;
        use std::os::fd::AsFd;
        while self.seen.matches("Key for ").count() < count || !self.seen.ends_with(": ") {
            let mut poll = [nix::poll::PollFd::new(self.terminal.as_fd(), nix::poll::PollFlags::POLLIN)];
            let ready = nix::poll::poll(&mut poll, nix::poll::PollTimeout::from(20_000_u16)).expect("polls");
            assert!(ready > 0, "no prompt comes: {:?}", self.seen);
            let mut bytes = [0; 256];
            let len = self.terminal.read(&mut bytes).expect("reads");
            self.seen.push_str(&String::from_utf8_lossy(&bytes[..len]));
        }
    }

    fn type_in(&mut self, text: &str) {
        use std::io::Write;
        self.terminal.write_all(text.as_bytes()).expect("types");
    }

    /// Waits for the end; returns the exit code, what was printed, and what was seen at the terminal.
    fn end(mut self) -> (i32, Vec<u8>, String) {
        use std::io::Read;
        let mut printed = Vec::new();
        self.child.stdout.take().expect("a pipe").read_to_end(&mut printed).expect("reads");
        let code = self.child.wait().expect("waits").code().unwrap_or(-1);
        let shown = nix::sys::termios::tcgetattr(&self.other_end).expect("a terminal").local_flags;
        assert!(shown.contains(nix::sys::termios::LocalFlags::ECHO), "the terminal shows again what is typed");
        // With the last other end closed, what is left is read to its end, which is an error of a terminal.
        drop(self.other_end);
        let mut rest = Vec::new();
        let _ = self.terminal.read_to_end(&mut rest);
        self.seen.push_str(&String::from_utf8_lossy(&rest));
        (code, printed, self.seen)
    }
}

#[test]
fn a_key_is_asked_for_at_a_terminal_and_not_shown() {
    let space = Workspace::new();
    let image = golden_file(&space, "luks2-serpent-xts");
    let mut guest = AtTerminal::start(&["cat", text(&image), "/hello"]);
    guest.wait_for_prompts(1);
    // At once: what comes right after the prompt counts.
    guest.type_in("wrong\n");
    guest.wait_for_prompts(2);
    guest.type_in("secret\n");
    let (code, printed, seen) = guest.end();
    assert_eq!((code, printed.as_slice()), (0, &b"hello from luks2-serpent-xts"[..]), "{seen}");
    assert!(seen.contains("Key for /dev/sda (LUKS2, "), "{seen}");
    assert!(seen.contains("no key slot opens with the given key"), "{seen}");
    assert!(!seen.contains("secret") && !seen.contains("wrong"), "what is typed is shown: {seen}");
}

#[test]
fn whoever_gives_no_key_at_a_terminal_is_told_and_has_the_terminal_back() {
    let space = Workspace::new();
    let image = golden_file(&space, "luks2-serpent-xts");
    for (typed, said) in [("\x03", "no key was given"), ("\n", "locked"), ("a\nb\nc\n", "no key slot opens")] {
        let mut guest = AtTerminal::start(&["cat", text(&image), "/hello"]);
        for (at, key) in typed.split_inclusive('\n').enumerate() {
            guest.wait_for_prompts(at + 1);
            guest.type_in(key);
        }
        let (code, printed, seen) = guest.end();
        assert!(code != 0 && printed.is_empty() && seen.contains(said), "{typed:?}: {seen}");
    }
}
