//! The commands that work without a mount, held against what the host's own tools give for the same tree.

mod common;

use common::guest::{GUESTCTL, Workspace, guestctl, output, run, small_guest};
use common::{has_tool, is_root, is_there, skip};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

/// A tree on the host, and an image that holds it.
struct Guest {
    workspace: Workspace,
    tree: PathBuf,
    image: PathBuf,
}

impl Guest {
    fn new() -> Option<Self> {
        let (workspace, tree, image) = small_guest()?;
        Some(Self { workspace, tree, image })
    }

    /// Runs a command on the image; it must succeed.
    fn run(&self, command: &[&str], paths: &[&str]) -> Vec<u8> {
        let (code, printed, said) = self.try_run(command, paths);
        assert_eq!(code, 0, "{command:?} {paths:?}: {said}");
        printed
    }

    fn try_run(&self, command: &[&str], paths: &[&str]) -> (i32, Vec<u8>, String) {
        let mut arguments: Vec<&OsStr> = command.iter().map(OsStr::new).collect();
        arguments.push(self.image.as_ref());
        arguments.extend(paths.iter().map(OsStr::new));
        guestctl(&arguments)
    }

    fn text(&self, command: &[&str], paths: &[&str]) -> String {
        String::from_utf8(self.run(command, paths)).expect("text")
    }

    /// Runs a shell script in the tree.
    fn host(&self, script: &str) -> Vec<u8> {
        run("sh", &["-c", &format!("cd '{}' && {script}", self.tree.display())])
    }

    fn inside(&self, path: &str) -> String {
        format!("{}:{path}", self.image.display())
    }
}

fn lines(bytes: &[u8], end: u8) -> BTreeSet<Vec<u8>> {
    bytes.split(|&byte| byte == end).filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect()
}

#[test]
fn stat_shows_what_stat_shows() {
    let Some(guest) = Guest::new() else { return };
    for name in ["etc/hostname", "usr/bin/large", "bin", "var", "var/file-007"] {
        let text = guest.text(&["stat", "--json"], &[&format!("/{name}")]);
        let row: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let theirs = fs::symlink_metadata(guest.tree.join(name)).expect("exists");
        assert_eq!(row["mode"], format!("{:04o}", theirs.mode() & 0o7777), "{name}");
        assert_eq!((row["uid"].as_u64(), row["gid"].as_u64()), (Some(theirs.uid().into()), Some(theirs.gid().into())));
        assert_eq!(row["nlink"].as_u64(), Some(theirs.nlink()), "{name}");
        assert_eq!(row["mtime"]["seconds"].as_i64(), Some(theirs.mtime()), "{name}");
        if !theirs.is_dir() {
            assert_eq!(row["size"].as_u64(), Some(theirs.size()), "{name}");
        }
    }
    let text = guest.text(&["stat"], &["/usr/bin/large"]);
    assert!(text.contains("Size: 3000000") && text.contains("(4755/-rwsr-xr-x)"), "{text}");
    let text = guest.text(&["stat", "-L"], &["/absolute"]);
    assert!(text.contains("/etc/hostname") && text.contains("file"), "{text}");
    let (code, _, said) = guest.try_run(&["stat"], &["/none"]);
    assert!(code == 7 && said.contains("/none"), "{code} {said}");
    assert_eq!(guest.try_run(&["stat"], &[]).0, 2);
}

#[test]
fn find_finds_what_find_finds() {
    let Some(guest) = Guest::new() else { return };
    for (ours, theirs) in [
        (&["find", "-0", "--type", "f"][..], "find . -type f -print0"),
        (&["find", "-0", "--name", "file-1?[0-5]"], "find . -name 'file-1?[0-5]' -print0"),
        (&["find", "-0", "--size", "+1K", "-t", "f"], "find . -type f -size +1023c -print0"),
        (
            &["find", "-0", "--max-depth", "1", "--min-depth", "1", "--type", "dl"],
            "find . -mindepth 1 -maxdepth 1 '(' -type d -o -type l ')' -print0; printf './lost+found\\0'",
        ),
        (&["find", "-0", "--perm", "4000"], "find . -perm -4000 -print0"),
        (&["find", "-0", "--path", "*/bin/*"], "find . -path '*/bin/*' -print0"),
    ] {
        let expected: BTreeSet<Vec<u8>> = lines(&guest.host(theirs), 0).iter().map(|path| path[1..].to_vec()).collect();
        assert_eq!(lines(&guest.run(ours, &["/"]), 0), expected, "{ours:?}");
    }
    assert_eq!(guest.text(&["find"], &["etc/hostname"]), "etc/hostname\n");
    let json = guest.text(&["find", "--json", "--type", "l"], &[]);
    let rows: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().any(|row| row["path"] == "/absolute" && row["target"] == "/etc/hostname"), "{json}");
    assert_eq!(guest.try_run(&["find"], &["/none"]).0, 7);
    assert_eq!(guest.try_run(&["find", "--type", "x"], &[]).0, 2);
}

#[test]
fn du_counts_the_space_of_every_folder() {
    let Some(guest) = Guest::new() else { return };
    // The image's own blocks are not the host's, so the sums are checked against stat's.
    let rows = guest.text(&["find", "--json"], &["/usr"]);
    let mut seen = BTreeSet::new();
    let blocks: u64 = rows
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
        .filter(|row| seen.insert(row["inode"].as_u64()))
        .map(|row| row["blocks"].as_u64().expect("a number"))
        .sum();
    assert_eq!(guest.text(&["du", "-s"], &["/usr"]), format!("{}\t/usr\n", blocks.div_ceil(2)));
    let text = guest.text(&["du", "-b"], &["/usr"]);
    assert_eq!(text, "3000000\t/usr/bin\n3000000\t/usr\n", "a file with two names counts once");
    let all = guest.text(&["du", "-ab", "--depth", "1"], &["/etc"]);
    assert_eq!(all.lines().last(), Some("6\t/etc"));
    assert_eq!(all.lines().count(), 3);
    assert!(guest.text(&["du", "-sh"], &["/usr"]).starts_with("2.9M"), "human sizes");
}

#[test]
fn df_shows_what_the_superblock_says() {
    let Some(guest) = Guest::new() else { return };
    let rows: serde_json::Value = serde_json::from_slice(&guest.run(&["df", "--json"], &[])).expect("JSON");
    assert_eq!(rows.as_array().map(Vec::len), Some(1));
    let (row, dump) = (&rows[0], run("dumpe2fs", &[OsStr::new("-h"), guest.image.as_ref()]));
    let dump = String::from_utf8_lossy(&dump);
    let field = |name: &str| -> u64 {
        let line = dump.lines().find(|line| line.starts_with(name)).expect("dumpe2fs shows it");
        line.split_whitespace().last().and_then(|number| number.parse().ok()).expect("a number")
    };
    assert_eq!(row["inodes"].as_u64(), Some(field("Inode count:")));
    assert_eq!(row["inodes_free"].as_u64(), Some(field("Free inodes:")));
    let block = field("Block size:");
    // The kernel keeps some blocks to itself, beside those that are root's.
    let kept = field("Reserved block count:") + (field("Block count:") / 50).min(4096);
    assert_eq!(row["available"].as_u64(), Some((field("Free blocks:") - kept) * block));
    let text = guest.text(&["df", "-h"], &[]);
    assert!(text.starts_with("FILESYSTEM") && text.contains("/dev/sda") && text.contains('%'), "{text}");
}

#[test]
fn checksums_are_what_sha256sum_prints_and_accepts() {
    let Some(guest) = Guest::new() else { return };
    let sums = guest.run(&["checksum", "-r"], &["/"]);
    let expected = guest.host("find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum");
    assert_eq!(lines(&sums, b'\n'), lines(&expected, b'\n'));
    fs::write(guest.workspace.path("sums"), &sums).expect("a new file");
    guest.host(&format!("sha256sum --quiet -c {}", guest.workspace.path("sums").display()));
    for (algorithm, tool) in [("md5", "md5sum"), ("sha1", "sha1sum"), ("sha512", "sha512sum"), ("sha384", "sha384sum")]
    {
        let expected = String::from_utf8(guest.host(&format!("{tool} usr/bin/large"))).expect("text");
        let ours = guest.text(&["checksum", "-a", algorithm], &["usr/bin/large"]);
        assert_eq!(ours, expected, "{algorithm}");
    }
    let crc = String::from_utf8(guest.host("cksum <usr/bin/large")).expect("text");
    assert_eq!(guest.text(&["checksum", "-a", "crc"], &["/usr/bin/large"]).split(' ').next(), crc.split(' ').next());
    let whole = String::from_utf8(run("sha256sum", &[&guest.image])).expect("text");
    assert_eq!(guest.text(&["checksum"], &[]), whole, "without a path it is the disk");
    for (path, code) in [("/etc", 1), ("/none", 7)] {
        assert_eq!(guest.try_run(&["checksum"], &[path]).0, code);
    }
    let (code, _, said) = guest.try_run(&["checksum", "-a", "sha3"], &["/etc/hostname"]);
    assert!(code == 2 && said.contains("blake3"), "{said}");
}

#[test]
fn several_images_are_summed_and_one_that_fails_does_not_stop_the_rest() {
    let Some(guest) = Guest::new() else { return };
    let copy = guest.workspace.path("copy.img");
    fs::copy(&guest.image, &copy).expect("room");
    let (one, other) = (guest.inside("/etc/hostname"), format!("{}:/etc/hostname", copy.display()));
    let (code, printed, said) = guestctl(&["checksum", "--jobs", "2", &one, &other]);
    assert_eq!(code, 0, "{said}");
    let sum = String::from_utf8(guest.host("sha256sum <etc/hostname | cut -d' ' -f1")).expect("text");
    let expected = format!("{sum}  {one}\n{sum}  {other}\n", sum = sum.trim());
    assert_eq!(String::from_utf8_lossy(&printed), expected);
    let missing = guest.inside("/none");
    let (code, printed, said) = guestctl(&["checksum", "--jobs", "2", &one, &missing, &other]);
    assert_eq!(code, 7, "{said}");
    assert_eq!(String::from_utf8_lossy(&printed), expected, "the others are there");
    assert!(said.contains("1 of 3 images failed"), "{said}");
}

#[test]
fn archives_unpack_to_the_same_tree() {
    let Some(guest) = Guest::new() else { return };
    let sparse = fs::File::create(guest.tree.join("sparse")).expect("a new file");
    sparse.set_len(20 << 20).expect("a hole");
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"in the middle", 10 << 20).expect("room");
    let image = guest.workspace.ext4_image("sparse.img", &guest.tree);
    let guest = Guest { image, ..guest };
    for (name, compression) in [("a.tar", "none"), ("a.tar.gz", "gzip"), ("a.tar.zst", "zstd"), ("a.tar.xz", "xz")] {
        if matches!(name, "a.tar.zst") && !has_tool("zstd") {
            skip("there is no zstd");
            continue;
        }
        let (archive, to) = (guest.workspace.path(name), guest.workspace.folder(&format!("out-{name}")));
        guest.run(&["tar-out"], &["/", archive.to_str().expect("text")]);
        run("tar", &[OsStr::new("-xf"), archive.as_ref(), "-C".as_ref(), to.as_ref()]);
        fs::remove_dir_all(to.join("lost+found")).expect("mke2fs made it");
        run("diff", &[OsStr::new("-r"), "--no-dereference".as_ref(), guest.tree.as_ref(), to.as_ref()]);
        let list = |folder: &Path| {
            let script = "find . -mindepth 1 -printf '%P %y %m %n %l ' -type f -printf '%s' -o -printf '\\n' | sort; \
                          find . -mindepth 1 -printf '%P %T@\\n' | cut -d. -f1 | sort";
            run("sh", &["-c", &format!("cd {} && {script}", folder.display())])
        };
        assert_eq!(String::from_utf8_lossy(&list(&to)), String::from_utf8_lossy(&list(&guest.tree)), "{compression}");
        let blocks = to.join("sparse").metadata().expect("it is there").blocks();
        assert!(blocks < 1000, "the hole is kept: {blocks}");
    }
    // Streamed, and with something left out.
    let script = format!("'{GUESTCTL}' tar-out --exclude 'file-*' '{}' /var - | tar -t", guest.image.display());
    let listed = String::from_utf8(run("sh", &["-c", &script])).expect("text");
    assert_eq!(listed, "./\n./empty/\n");
    let target = guest.workspace.path("no.tar");
    for (path, code) in [("/none", 7), ("/etc/hostname", 7)] {
        assert_eq!(guest.try_run(&["tar-out"], &[path, target.to_str().expect("text")]).0, code);
        assert!(!target.exists(), "nothing is left");
    }
    assert_eq!(guest.try_run(&["tar-out", "-z", "rar"], &["/", "-"]).0, 2);
}

#[test]
fn tar_out_writes_one_archive_for_each_image() {
    let Some(guest) = Guest::new() else { return };
    let copy = guest.workspace.path("copy.img");
    fs::copy(&guest.image, &copy).expect("room");
    let folder = guest.workspace.folder("archives");
    let folder_name = folder.to_str().expect("text");
    let (code, _, said) = guestctl(&[
        "tar-out",
        "--jobs",
        "2",
        "-z",
        "gzip",
        "--output-dir",
        folder_name,
        &guest.inside("/etc"),
        &format!("{}:/etc", copy.display()),
    ]);
    assert_eq!(code, 0, "{said}");
    for name in ["disk.img.tar.gz", "copy.img.tar.gz"] {
        let listed = run("tar", &[OsStr::new("-tzf"), folder.join(name).as_ref()]);
        assert_eq!(lines(&listed, b'\n').len(), 3, "{name}");
    }
}

/// What could be noticed of a tree of the host.
fn everything(folder: &Path) -> String {
    let script = "find . -mindepth 1 -printf '%P %y %m %U %G %n %l %T@\\n' | sort; find . -type f -print0 | sort -z | xargs \
                  -0 sha256sum";
    String::from_utf8_lossy(&run("sh", &["-c", &format!("cd '{}' && {script}", folder.display())])).into_owned()
}

#[test]
fn cp_keeps_everything_with_a() {
    let Some(guest) = Guest::new() else { return };
    if !is_root() {
        return skip("owners are kept by root alone");
    }
    std::os::unix::fs::lchown(guest.tree.join("bin"), Some(12), Some(34)).expect("root may");
    run("chown", &[OsStr::new("1000:100"), guest.tree.join("etc/hostname").as_ref()]);
    run("mkfifo", &[guest.tree.join("var/pipe")]);
    run("touch", &[OsStr::new("-hd"), "2001-02-03 04:05:06.123456789".as_ref(), guest.tree.join("absolute").as_ref()]);
    if is_there("setfattr") {
        let file = guest.tree.join("etc/empty");
        run("setfattr", &[OsStr::new("-n"), "user.colour".as_ref(), "-v".as_ref(), "blue".as_ref(), file.as_ref()]);
    }
    let image = guest.workspace.ext4_image("again.img", &guest.tree);
    let guest = Guest { image, ..guest };
    let to = guest.workspace.folder("copy");
    guest.run(&["cp", "-a"], &["/", to.to_str().expect("text")]);
    fs::remove_dir_all(to.join("lost+found")).expect("mke2fs made it");
    // mke2fs -d keeps whole seconds in old versions; the image is the truth.
    let rows = guest.text(&["find", "--json"], &["/absolute"]);
    let row: serde_json::Value = serde_json::from_str(&rows).expect("JSON");
    let link = fs::symlink_metadata(to.join("absolute")).expect("copied");
    assert_eq!(row["mtime"]["nanoseconds"].as_i64(), Some(link.mtime_nsec()));
    let strip = |text: String| -> Vec<String> {
        let whole = |line: &str| line.rsplit_once('.').map_or(line.to_owned(), |(before, _)| before.to_owned());
        text.lines().map(|line| if line.contains("  ./") { line.to_owned() } else { whole(line) }).collect()
    };
    assert_eq!(strip(everything(&to)), strip(everything(&guest.tree)));
    if is_there("getfattr") {
        let value = run(
            "getfattr",
            &[OsStr::new("--only-values"), "-n".as_ref(), "user.colour".as_ref(), to.join("etc/empty").as_ref()],
        );
        assert_eq!(value, b"blue");
    }
}

#[test]
fn cp_copies_where_cp_would() {
    let Some(guest) = Guest::new() else { return };
    let to = guest.workspace.folder("to");
    let name = |path: &Path| path.to_str().expect("text").to_owned();
    guest.run(&["cp"], &["/absolute", "/etc/empty", &name(&to)]);
    assert_eq!(fs::read(to.join("absolute")).expect("a link is followed"), b"guest\n");
    assert!(to.join("empty").exists());
    let (code, _, said) = guestctl(&["cp", "-r", &guest.inside("/usr"), &name(&to.join("new"))]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(fs::metadata(to.join("new/bin/same")).expect("copied").len(), 3_000_000);
    guest.run(&["cp", "-r"], &["/etc/.", &name(&to)]);
    assert_eq!(fs::read(to.join("hostname")).expect("the contents alone"), b"guest\n");
    guest.run(&["copy-out"], &["/etc", "/bin", &name(&to)]);
    assert_eq!(fs::read_link(to.join("bin")).expect("a link stays one"), Path::new("usr/bin"));
    for (arguments, code) in [
        (vec!["/etc", &*name(&to)], 1),
        (vec!["/none", &*name(&to)], 7),
        (vec!["/etc/hostname", "/etc/empty", "/nowhere-on-this-host"], 7),
    ] {
        let (found, _, said) = guest.try_run(&["cp"], &arguments);
        assert_eq!(found, code, "{arguments:?}: {said}");
    }
    let left = fs::read_dir(&to).expect("reads").flatten();
    assert!(left.into_iter().all(|entry| !entry.file_name().to_string_lossy().starts_with(".guestctl")));
}

#[test]
fn cp_writes_through_no_link_of_the_target() {
    let Some(guest) = Guest::new() else { return };
    let (to, elsewhere) = (guest.workspace.folder("to"), guest.workspace.folder("elsewhere"));
    fs::create_dir(to.join("tree")).expect("a new folder");
    symlink(&elsewhere, to.join("tree/etc")).expect("a new link");
    let (code, _, said) = guest.try_run(&["cp", "-r"], &["/", to.join("tree").to_str().expect("text")]);
    assert_ne!(code, 0);
    assert!(said.contains("/etc"), "{said}");
    assert_eq!(fs::read_dir(&elsewhere).expect("reads").count(), 0, "nothing was written through the link");
    assert!(to.join("tree/usr/bin/large").exists(), "the rest was copied");
}

#[test]
fn grep_finds_what_grep_finds() {
    let Some(guest) = Guest::new() else { return };
    let ours = guest.run(&["grep", "-rn", "^1[0-9]$"], &["/var"]);
    let theirs = guest.host("grep -rnE '^1[0-9]$' var | sed 's,^,/,'");
    assert_eq!(lines(&ours, b'\n'), lines(&theirs, b'\n'));
    let ours = guest.run(&["grep", "-rl0F", "29"], &["/var"]);
    assert_eq!(lines(&ours, 0), lines(&guest.host("grep -rlZF 29 var | sed -z 's,^,/,'"), 0));
    assert_eq!(guest.text(&["grep", "-c", "7"], &["/var/file-017"]), "17\n");
    assert_eq!(guest.try_run(&["grep", "nowhere"], &["/etc/hostname"]).0, 1);
    assert_eq!(guest.try_run(&["grep", "("], &["/etc/hostname"]).0, 2);
    assert_eq!(guest.try_run(&["grep", "x"], &["/etc"]).0, 1);
    let json = guest.text(&["grep", "--json", "-i", "GUEST"], &["/etc/hostname"]);
    let row: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((row["line"].as_u64(), row["text"].as_str()), (Some(1), Some("guest")));
}

#[test]
fn diff_names_each_difference() {
    let Some(guest) = Guest::new() else { return };
    let same = guest.workspace.ext4_image("same.img", &guest.tree);
    let image = guest.image.to_str().expect("text");
    let (code, printed, said) = guestctl(&["diff", image, same.to_str().expect("text")]);
    assert_eq!((code, printed.as_slice()), (0, &b""[..]), "{said}");
    fs::write(guest.tree.join("etc/hostname"), "other\n").expect("ours");
    fs::remove_file(guest.tree.join("var/file-003")).expect("ours");
    fs::write(guest.tree.join("var/new"), "").expect("ours");
    run("chmod", &[OsStr::new("600"), guest.tree.join("etc/empty").as_ref()]);
    fs::remove_file(guest.tree.join("bin")).expect("ours");
    symlink("elsewhere", guest.tree.join("bin")).expect("ours");
    let changed = guest.workspace.ext4_image("changed.img", &guest.tree);
    let (code, printed, said) = guestctl(&["diff", image, changed.to_str().expect("text")]);
    assert_eq!(code, 1, "{said}");
    let expected = "~ bin (target)\n~ etc/empty (mode)\n~ etc/hostname (content)\n- var/file-003\n+ var/new\n";
    assert_eq!(String::from_utf8_lossy(&printed), expected);
    let (_, printed, _) = guestctl(&["diff", "--json", &guest.inside("/etc"), &format!("{}:/etc", changed.display())]);
    let text = String::from_utf8(printed).expect("text");
    let rows: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(rows.len(), 2, "{text}");
    assert_eq!((&rows[0]["what"][0], &rows[0]["after"]["mode"]), (&"mode".into(), &"0600".into()));
    assert_eq!(guestctl(&["diff", image, "/none.img"]).0, 7);
}

#[test]
fn info_says_what_qemu_img_says() {
    let Some(guest) = Guest::new() else { return };
    if !has_tool("qemu-img") {
        return skip("there is no qemu-img");
    }
    let (base, over) = (guest.workspace.path("base.qcow2"), guest.workspace.path("over.qcow2"));
    run("qemu-img", &[OsStr::new("convert"), "-O".as_ref(), "qcow2".as_ref(), guest.image.as_ref(), base.as_ref()]);
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", over.to_str().expect("text")]);
    run("qemu-img", &[OsStr::new("snapshot"), "-c".as_ref(), "before".as_ref(), over.as_ref()]);
    let (code, printed, said) = guestctl(&[OsStr::new("info"), "--json".as_ref(), over.as_ref(), guest.image.as_ref()]);
    assert_eq!(code, 0, "{said}");
    let all: serde_json::Value = serde_json::from_slice(&printed).expect("JSON");
    for (ours, path) in [(&all[0], &over), (&all[1], &guest.image)] {
        let theirs = run("qemu-img", &[OsStr::new("info"), "--output=json".as_ref(), path.as_ref()]);
        let theirs: serde_json::Value = serde_json::from_slice(&theirs).expect("JSON");
        assert_eq!(ours["format"], theirs["format"]);
        assert_eq!(ours["virtual_size"], theirs["virtual-size"]);
        assert_eq!(ours["allocated"], theirs["actual-size"]);
    }
    assert_eq!(all[0]["chain"][0]["name"], "base.qcow2");
    assert_eq!(all[0]["snapshots"][0]["name"], "before");
    assert_eq!(all[0]["cluster_size"], 65536);
    let (_, printed, _) = guestctl(&[OsStr::new("info"), over.as_ref()]);
    let text = String::from_utf8(printed).expect("text");
    assert!(text.contains("lies over:     base.qcow2 (qcow2)") && text.contains("32M"), "{text}");
    fs::remove_file(&base).expect("ours");
    let (code, printed, _) = guestctl(&[OsStr::new("info"), over.as_ref()]);
    let text = String::from_utf8(printed).expect("text");
    assert!(code == 0 && text.contains("does not exist"), "an image that cannot be opened is described: {text}");
    assert_eq!(guestctl(&["info", "/none.img"]).0, 7);
}

#[test]
fn check_finds_damage_in_images_and_filesystems() {
    let Some(guest) = Guest::new() else { return };
    if !has_tool("qemu-img") {
        return skip("there is no qemu-img");
    }
    let text = guest.text(&["check", "--contents"], &[]);
    assert!(text.contains("no damage"), "{text}");
    let qcow2 = guest.workspace.path("disk.qcow2");
    run("qemu-img", &[OsStr::new("convert"), "-O".as_ref(), "qcow2".as_ref(), guest.image.as_ref(), qcow2.as_ref()]);
    let (code, printed, said) = guestctl(&[OsStr::new("check"), "--json".as_ref(), qcow2.as_ref()]);
    assert_eq!(code, 0, "{said}");
    let report: serde_json::Value = serde_json::from_slice(&printed).expect("JSON");
    assert_eq!(report["image"]["corruptions"], 0);
    assert!(report["filesystems"][0]["files"].as_u64() > Some(300));
    // An inode that is no longer what its checksum says.
    let dump = run("debugfs", &[OsStr::new("-R"), "imap /etc/hostname".as_ref(), guest.image.as_ref()]);
    let dump = String::from_utf8_lossy(&dump).into_owned();
    let number = |after: &str, radix| {
        let rest = dump.split(after).nth(1).expect("debugfs shows it").trim_start_matches("0x");
        u64::from_str_radix(rest.split(|letter: char| !letter.is_ascii_hexdigit()).next().unwrap_or_default(), radix)
            .expect("a number")
    };
    let header = run("dumpe2fs", &[OsStr::new("-h"), guest.image.as_ref()]);
    let header = String::from_utf8_lossy(&header).into_owned();
    let block_size = header.lines().find_map(|line| line.strip_prefix("Block size:")?.trim().parse::<u64>().ok());
    let block_size = block_size.expect("dumpe2fs shows it");
    let at = number("located at block ", 10) * block_size + number("offset ", 16);
    let mut bytes = fs::read(&guest.image).expect("reads");
    bytes[at as usize + 4] ^= 0x55;
    fs::write(&guest.image, bytes).expect("ours");
    let (code, printed, _) = guest.try_run(&["check"], &[]);
    let text = String::from_utf8_lossy(&printed);
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("hostname"), "{text}");
}

#[test]
fn part_lists_what_sfdisk_lists() {
    let Some(guest) = Guest::new() else { return };
    if !has_tool("sfdisk") || !has_tool("mkfs.vfat") {
        return skip("the disk needs sfdisk and mkfs.vfat");
    }
    let disk = guest.workspace.gpt_disk("gpt.img", &guest.tree);
    let (code, printed, said) = guestctl(&[OsStr::new("part"), "list".as_ref(), "--json".as_ref(), disk.as_ref()]);
    assert_eq!(code, 0, "{said}");
    let ours: serde_json::Value = serde_json::from_slice(&printed).expect("JSON");
    let theirs: serde_json::Value =
        serde_json::from_slice(&run("sfdisk", &[OsStr::new("--json"), disk.as_ref()])).expect("JSON");
    assert_eq!(ours[0]["scheme"], theirs["partitiontable"]["label"]);
    for (one, other) in [(0, 0), (1, 1)] {
        let (one, other) = (&ours[0]["partitions"][one], &theirs["partitiontable"]["partitions"][other]);
        assert_eq!(one["start"].as_u64(), other["start"].as_u64().map(|start| start * 512));
        assert_eq!(one["size"].as_u64(), other["size"].as_u64().map(|size| size * 512));
        assert_eq!(one["label"], other["name"]);
        assert_eq!(one["type_id"].as_str().map(str::to_uppercase).as_deref(), other["type"].as_str());
    }
}

#[test]
fn a_command_that_takes_long_shows_how_far_it_is_on_a_terminal_alone() {
    let Some(guest) = Guest::new() else { return };
    if !has_tool("nbdkit") || !has_tool("python3") {
        return skip("there is no nbdkit for a slow disk, or no python3 to make a terminal");
    }
    // A terminal on standard error, in which what is shown is kept.
    let python = r#"
import os, pty, subprocess, sys
own, theirs = pty.openpty()
run = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=theirs)
os.close(theirs)
shown = b""
while True:
    try: piece = os.read(own, 65536)
    except OSError: break
    if not piece: break
    shown += piece
sys.stdout.buffer.write(shown)
sys.exit(run.wait())
"#;
    let image = guest.image.to_str().expect("text");
    let to = guest.workspace.path("copy.img");
    let convert = |quiet: &[&str]| {
        let command =
            format!("'{GUESTCTL}' convert --force --format raw {} \"$uri\" --output {}", quiet.join(" "), to.display());
        let script = ["-U", "-", "--filter=delay", "file", image, "rdelay=600ms", "--run", &command];
        let mut arguments = vec!["-c", python, "nbdkit"];
        arguments.extend(script);
        String::from_utf8_lossy(&run("python3", &arguments)).into_owned()
    };
    let shown = convert(&[]);
    assert!(shown.contains("MiB/s") && shown.contains(" left"), "{shown:?}");
    assert_eq!(convert(&["-q"]), "");
    let (code, _, said) =
        guestctl(&["convert", "--force", "--format", "raw", image, "--output", to.to_str().expect("text")]);
    assert_eq!((code, said.as_str()), (0, ""), "no terminal, no bar");
}

#[test]
fn an_interrupted_archive_leaves_nothing() {
    let Some(guest) = Guest::new() else { return };
    let folder = guest.workspace.folder("archives");
    // A pipe that nobody reads holds the program up while it is interrupted.
    let script = format!(
        "mkfifo {folder}/pipe; '{GUESTCTL}' tar-out '{image}' / - >{folder}/pipe & sleep 0.2; exec 3<{folder}/pipe; sleep 0.3; \
         kill -INT $!; cat <&3 >/dev/null; wait $!; echo $?",
        folder = folder.display(),
        image = guest.image.display()
    );
    let output = output("bash", &["-c", &script]);
    let code = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(code == "1" || code == "130" || code == "0", "{code}");
    let left: Vec<_> = fs::read_dir(&folder).expect("reads").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["pipe"]);
}
