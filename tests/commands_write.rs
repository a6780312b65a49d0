//! The commands that write to an image, held against what the host's tools do to the same tree on a loop mount or make of
//! what was written; after every test, e2fsck finds no fault.

mod common;

use common::guest::{GUESTCTL, Workspace, guestctl, output, run, small_guest};
use common::{has_tool, is_root, skip};
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An image that is written to. It must be sound when it goes.
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

    fn name(&self) -> &str {
        self.image.to_str().expect("text")
    }

    fn inside(&self, path: &str) -> String {
        format!("{}:{path}", self.name())
    }

    /// Runs a command line, in which `{}` is the image; returns its exit code, what it printed and what it said.
    fn try_line(&self, line: &str, input: &[u8]) -> (i32, Vec<u8>, String) {
        let arguments: Vec<String> = line.split(' ').map(|word| word.replace("{}", self.name())).collect();
        let mut child = Command::new("timeout")
            .args(["-k", "5", "60", GUESTCTL])
            .args(&arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("timeout(1) is part of every system");
        // A command that reads nothing may end before.
        let _ = child.stdin.take().expect("piped").write_all(input);
        let output = child.wait_with_output().expect("it ends");
        (output.status.code().unwrap_or(-1), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn line(&self, line: &str) -> Vec<u8> {
        let (code, printed, said) = self.try_line(line, b"");
        assert_eq!(code, 0, "{line}: {said}");
        printed
    }

    fn cat(&self, path: &str) -> Vec<u8> {
        self.line(&format!("cat {{}} {path}"))
    }

    fn row(&self, path: &str) -> serde_json::Value {
        serde_json::from_slice(&self.line(&format!("stat --json {{}} {path}"))).expect("JSON")
    }

    /// Copies a folder of the guest to this host.
    fn copy_out(&self, path: &str) -> PathBuf {
        let to = self.workspace.folder("copied-out");
        self.line(&format!("cp -a {{}} {path} {}", to.display()));
        to.join(Path::new(path).file_name().unwrap_or_default())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let found = output("e2fsck", &[OsStr::new("-fn"), self.image.as_ref()]);
        assert!(found.status.success(), "e2fsck finds fault: {}", String::from_utf8_lossy(&found.stdout));
    }
}

/// What could be noticed of a tree of the host.
fn everything(folder: &Path) -> String {
    let script = "find . -printf '%P %y %m %U %G %n %l ' '(' -type d -printf '\\n' -o -printf '%s %T@\\n' ')' | sort; \
                  find . -type f -print0 | sort -z | xargs -0 sha256sum";
    String::from_utf8_lossy(&run("sh", &["-c", &format!("cd '{}' && {script}", folder.display())])).into_owned()
}

#[test]
fn every_writing_command_refuses_without_rw_and_leaves_the_image_alone() {
    let Some(guest) = Guest::new() else { return };
    let before = fs::read(&guest.image).expect("reads");
    for line in [
        "rm {} /etc/hostname",
        "mkdir {} /new",
        "rmdir {} /var/empty",
        "mv {} /etc/hostname /moved",
        "ln -s {} target /link",
        "touch {} /etc/hostname",
        "truncate -s 0 {} /etc/hostname",
        "chmod 600 {} /etc/hostname",
        "chown 1:1 {} /etc/hostname",
        "xattr --set user.a=b {} /etc/hostname",
        "write {} /etc/hostname",
        "edit {} /etc/hostname",
        "copy-in {} /etc/passwd /etc",
        "tar-in {} - /etc",
        "cp /etc/passwd {}:/etc",
        "cp {}:/etc/hostname {}:/etc/copy",
    ] {
        let (code, _, said) = guest.try_line(line, b"");
        assert!(code == 2 && said.contains("--rw") && said.lines().count() == 1, "{line}: {code} {said}");
    }
    assert!(fs::read(&guest.image).expect("reads") == before, "not one byte changed");
}

#[test]
fn files_and_folders_are_made_moved_and_removed() {
    let Some(guest) = Guest::new() else { return };
    guest.line("mkdir -p --rw {} /srv/a/b /srv/c");
    guest.line("mkdir --mode 2750 --rw {} /srv/d");
    assert_eq!(guest.row("/srv/d")["mode"], "2750");
    guest.line("touch --rw {} /srv/a/empty");
    guest.line("mv --rw {} /etc/hostname /srv/a/empty /srv/c");
    assert_eq!(guest.cat("/srv/c/hostname"), b"guest\n");
    guest.line("mv --rw {} /srv/c/hostname /srv/c/renamed");
    guest.line("ln --rw {} /srv/c/renamed /srv/second");
    guest.line("ln -s --rw {} c/renamed /srv/link");
    assert_eq!(guest.row("/srv/second")["nlink"], 2);
    assert_eq!(guest.row("/srv/link")["target"], "c/renamed");
    let (code, _, said) = guest.try_line("ln -s --rw {} x /srv/link", b"");
    assert!(code == 1 && said.contains("exists"), "{code} {said}");
    guest.line("ln -s -f --rw {} /srv/second /srv/link");
    assert_eq!(guest.cat("/srv/link"), b"guest\n");
    guest.line("truncate -s 1M --rw {} /srv/second");
    assert_eq!(guest.row("/srv/second")["size"], 1 << 20);
    guest.line("rmdir --rw {} /srv/a/b");
    guest.line("rm --rw {} /srv/link /srv/second");
    assert_eq!(guest.row("/srv/c/renamed")["nlink"], 1);
    guest.line("rm -r --rw {} /srv /var");
    assert_eq!(guest.try_line("stat {} /srv", b"").0, 7);
    // One that fails does not stop the others.
    let (code, _, said) = guest.try_line("rm --rw {} /none /etc/empty", b"");
    assert!(code == 7 && said.contains("/none"), "{code} {said}");
    assert_eq!(guest.try_line("stat {} /etc/empty", b"").0, 7);
    guest.line("rm -f --rw {} /none");
}

#[test]
fn modes_owners_and_attributes_become_what_the_tools_make_of_them() {
    let Some(guest) = Guest::new() else { return };
    for (mode, expected) in
        [("600", "0600"), ("u+x,g+rX", "0750"), ("a=r", "0444"), ("ug+w,o-r", "0660"), ("u+s", "4660")]
    {
        guest.line(&format!("chmod --rw {mode} {{}} /etc/hostname"));
        // chmod(1) agrees.
        let file = guest.tree.join("etc/hostname");
        run("chmod", &[OsStr::new(mode), file.as_ref()]);
        assert_eq!(format!("{:04o}", file.metadata().expect("exists").mode() & 0o7777), expected, "{mode}");
        assert_eq!(guest.row("/etc/hostname")["mode"], expected, "{mode}");
    }
    guest.line("chmod -R --rw go-rwx,a+X {} /usr");
    run("chmod", &["-R", "go-rwx,a+X", guest.tree.join("usr").to_str().expect("text")]);
    for path in ["usr", "usr/bin", "usr/bin/large"] {
        let mode = guest.tree.join(path).metadata().expect("exists").mode() & 0o7777;
        assert_eq!(guest.row(&format!("/{path}"))["mode"], format!("{mode:04o}"), "{path}");
    }
    let (code, _, said) = guest.try_line("chown --rw alice {} /etc/empty", b"");
    assert!(code == 7 && said.contains("/etc/passwd"), "{code} {said}");
    let (code, _, said) =
        guest.try_line("write --rw {} /etc/passwd", b"root:x:0:0::/:/bin/sh\nalice:x:1007:1008::/:/bin/sh\n");
    assert_eq!(code, 0, "{said}");
    guest.line("chown -R --rw alice:55 {} /usr");
    let row = guest.row("/usr/bin/large");
    assert_eq!((row["uid"].as_u64(), row["gid"].as_u64()), (Some(1007), Some(55)));
    guest.line("chown --rw :77 {} /absolute");
    assert_eq!(guest.row("/etc/hostname")["gid"], 77, "a link is followed");
    guest.line("chown -P --rw 5 {} /absolute");
    assert_eq!((&guest.row("/absolute")["uid"], &guest.row("/etc/hostname")["uid"]), (&5.into(), &0.into()));
    guest.line("xattr --rw --set user.colour=blue --set user.other=x {} /etc/empty");
    guest.line("xattr --rw --remove user.other {}:/etc/empty");
    assert_eq!(guest.line("xattr {} /etc/empty"), b"/etc/empty: user.colour=\"blue\"\n");
    let json: serde_json::Value = serde_json::from_slice(&guest.line("xattr --json {} /etc/empty")).expect("JSON");
    assert_eq!(json["xattrs"]["user.colour"], "626c7565");
    match common::tool("debugfs") {
        None => skip("there is no debugfs"),
        Some(debugfs) => {
            let debugfs = debugfs.to_str().expect("text");
            let get = [OsStr::new("-R"), "ea_get /etc/empty user.colour".as_ref(), guest.image.as_ref()];
            assert!(String::from_utf8_lossy(&run(debugfs, &get)).contains("blue"));
        }
    }
    for (line, code) in [
        ("chmod --rw 999 {} /etc/empty", 2),
        ("chmod --rw 600 {} /none", 7),
        ("xattr --rw --remove user.none {} /etc/empty", 1),
    ] {
        assert_eq!(guest.try_line(line, b"").0, code, "{line}");
    }
}

#[test]
fn what_is_written_is_what_was_read() {
    let Some(guest) = Guest::new() else { return };
    let input: Vec<u8> = (0..5_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 23) as u8).collect();
    assert_eq!(guest.try_line("write --rw {} /usr/bin/large", &input).0, 0);
    assert!(guest.cat("/usr/bin/same") == input, "both names see it");
    assert_eq!(guest.try_line("write --rw {}:/new", b"one\n").0, 0);
    assert_eq!(guest.try_line("write --append --rw {} /new", b"two\n").0, 0);
    assert_eq!(guest.cat("/new"), b"one\ntwo\n");
    let (code, _, said) = guest.try_line("write --rw {} /etc", b"x");
    assert!(code == 1 && said.contains("directory"), "{code} {said}");
    assert_eq!(guest.try_line("write --rw {} /none/x", b"x").0, 7);
    // More than the image of 32 MiB can hold: what was there stays.
    let (code, _, said) = guest.try_line("write --rw {} /new", &vec![7; 40 << 20]);
    assert!(code == 1 && said.contains("No space left"), "{code} {said}");
    assert_eq!(guest.cat("/new"), b"one\ntwo\n");
}

#[test]
fn an_overlay_takes_what_is_written_and_the_image_stays() {
    let Some(guest) = Guest::new() else { return };
    let before = fs::read(&guest.image).expect("reads");
    let over = guest.workspace.path("over.qcow2");
    assert_eq!(guest.try_line(&format!("write --overlay={} {{}} /etc/hostname", over.display()), b"changed\n").0, 0);
    assert!(fs::read(&guest.image).expect("reads") == before);
    let (code, printed, said) = guestctl(&[OsStr::new("cat"), over.as_ref(), "/etc/hostname".as_ref()]);
    assert_eq!((code, printed.as_slice()), (0, &b"changed\n"[..]), "{said}");
}

#[test]
fn copies_keep_everything_in_both_directions() {
    let Some(guest) = Guest::new() else { return };
    if !is_root() {
        return skip("owners are kept by root alone");
    }
    let source = guest.workspace.folder("source");
    fs::create_dir_all(source.join("deep/er")).expect("new");
    fs::write(source.join("deep/file"), "contents\n".repeat(10_000)).expect("new");
    fs::hard_link(source.join("deep/file"), source.join("second")).expect("new");
    symlink("/etc/hostname", source.join("deep/link")).expect("new");
    run("mkfifo", &[source.join("pipe")]);
    let sparse = fs::File::create(source.join("sparse")).expect("new");
    sparse.set_len(64 << 20).expect("a hole larger than the image");
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", (64 << 20) - 3).expect("room");
    fs::set_permissions(source.join("deep"), fs::Permissions::from_mode(0o2711)).expect("ours");
    run("chown", &["-h", "12:34", source.join("deep/link").to_str().expect("text")]);
    run("touch", &["-d", "2001-02-03 04:05:06.123456789", source.join("second").to_str().expect("text")]);
    guest.line(&format!("copy-in --rw {{}} {} /var", source.display()));
    assert_eq!(everything(&guest.copy_out("/var/source")), everything(&source));
    guest.line(&format!("cp -a --rw {} {}", source.display(), guest.inside("/etc")));
    guest.line("cp -a --rw {}:/etc/source {}:/again");
    for path in ["/etc/source", "/again"] {
        fs::remove_dir_all(guest.workspace.path("copied-out")).expect("ours");
        assert_eq!(everything(&guest.copy_out(path)), everything(&source), "{path}");
    }
    // A second time into what is there, and files one by one.
    guest.line(&format!("copy-in --rw {{}}:/var {}", source.display()));
    guest.line(&format!("cp --rw {0}/second {0}/deep/file {1}", source.display(), guest.inside("/var/empty")));
    assert!(guest.cat("/var/empty/file") == fs::read(source.join("second")).expect("reads"));
    for (line, code) in [
        (format!("cp --rw {} {}", source.display(), guest.inside("/x")), 1),
        (format!("copy-in --rw {{}} {} /none", source.display()), 7),
        (format!("copy-in --rw {{}} {} /etc/hostname", source.display()), 7),
        (String::from("copy-in --rw {} /nowhere-on-this-host /etc"), 7),
    ] {
        let (found, _, said) = guest.try_line(&line, b"");
        assert!(found == code && said.lines().count() == 1, "{line}: {found} {said}");
    }
}

#[test]
fn archives_are_unpacked_as_tar_unpacks_them() {
    let Some(guest) = Guest::new() else { return };
    if !is_root() {
        return skip("owners are kept by root alone");
    }
    for (name, flag) in [("a.tar", ""), ("a.tar.gz", "z"), ("a.tar.xz", "J")] {
        let archive = guest.workspace.path(name);
        run(
            "tar",
            &[
                &format!("-c{flag}f"),
                archive.to_str().expect("text"),
                "--format=posix",
                "-C",
                guest.tree.to_str().expect("text"),
                "etc",
                "usr",
                "bin",
            ],
        );
        guest.line(&format!("mkdir --rw {{}} /{name}"));
        guest.line(&format!("tar-in --rw {{}} {} /{name}", archive.display()));
        assert_eq!(everything(&guest.copy_out(&format!("/{name}/etc"))), everything(&guest.tree.join("etc")), "{name}");
        guest.line(&format!("rm -r --rw {{}} /{name}"));
    }
    // A folder of the archive where the guest has a link to a folder: the link stays, unless it is to make way.
    let archive = guest.workspace.path("bin.tar");
    let folder = guest.workspace.folder("new");
    fs::create_dir(folder.join("bin")).expect("new");
    fs::write(folder.join("bin/tool"), "x").expect("new");
    run("tar", &["-cf", archive.to_str().expect("text"), "-C", folder.to_str().expect("text"), "bin"]);
    guest.line(&format!("tar-in --rw {{}} {} /", archive.display()));
    assert_eq!(guest.row("/bin")["target"], "usr/bin");
    assert_eq!(guest.cat("/usr/bin/tool"), b"x");
    guest.line(&format!("tar-in --rw --replace-links {{}} {} /", archive.display()));
    assert_eq!(guest.line("ls {} /bin"), b"tool\n");
    // From standard input, as it comes out of another image.
    let stream = guest.line("tar-out {} /etc -");
    assert_eq!(guest.try_line("tar-in --rw {}:/var/empty -", &stream).0, 0);
    assert_eq!(guest.cat("/var/empty/hostname"), b"guest\n");
    let (code, _, said) =
        guest.try_line("tar-in --rw {} - /var", b"this is no archive, and long enough to be looked at");
    assert!(code != 0 && said.lines().count() == 1, "{said}");
    for (line, code) in
        [("tar-in --rw {} - /none", 7), ("tar-in --rw {} - /etc/hostname", 7), ("tar-in --rw {} /none.tar /etc", 7)]
    {
        let (found, _, said) = guest.try_line(line, &stream);
        assert_eq!(found, code, "{line}: {said}");
    }
}

#[test]
fn the_editor_gets_a_copy_and_only_changes_are_written() {
    let Some(guest) = Guest::new() else { return };
    let before = guest.row("/usr/bin/large");
    let edit = |editor: &str, path: &str| {
        let mut command = Command::new("timeout");
        command.args(["60", GUESTCTL, "edit", "--rw", guest.name(), path]).env_remove("VISUAL").env("EDITOR", editor);
        let output = command.stdin(Stdio::null()).output().expect("timeout(1) is part of every system");
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(edit("sed -i s/guest/edited/", "/absolute"), (0, String::new()), "a link is followed");
    assert_eq!(guest.cat("/etc/hostname"), b"edited\n");
    assert_eq!(edit("truncate -s 4", "/usr/bin/large").0, 0);
    let after = guest.row("/usr/bin/large");
    assert_eq!((&after["inode"], &after["nlink"], &after["size"]), (&before["inode"], &before["nlink"], &4.into()));
    let row = guest.row("/etc/hostname");
    assert_eq!(edit("true", "/etc/hostname").0, 0);
    assert_eq!(guest.row("/etc/hostname"), row, "what is unchanged is not written");
    let (code, said) = edit("false", "/etc/hostname");
    assert!(code == 1 && said.contains("nothing was written"), "{said}");
    assert_eq!(edit("true", "/none").0, 7);
    assert_eq!(edit("true", "/etc").0, 1);
    guest.line("chmod --rw 640 {} /etc/hostname");
    guest.line("chown --rw 3:4 {} /etc/hostname");
    assert_eq!(edit("sed -i s/edited/again/", "/etc/hostname").0, 0);
    let row = guest.row("/etc/hostname");
    assert_eq!((&row["mode"], &row["uid"], &row["gid"]), (&"0640".into(), &3.into(), &4.into()));
    // What does not fit stays on this host, and the message says where.
    let (code, said) = edit("truncate -s 1; head -c 40000000 /dev/zero >", "/etc/hostname");
    let kept = said.split("stays in ").nth(1).and_then(|rest| rest.split(": ").next()).unwrap_or_default();
    assert!(code == 1 && said.contains("No space left"), "{code} {said}");
    assert_eq!(fs::metadata(kept).expect("it is there").len(), 40_000_000);
    fs::remove_dir_all(Path::new(kept).parent().expect("a folder")).expect("ours");
    assert_eq!(guest.cat("/etc/hostname"), b"again\n");
}

#[test]
fn an_interrupted_copy_leaves_no_half_of_a_file() {
    let Some(guest) = Guest::new() else { return };
    let big = guest.workspace.path("big");
    fs::write(&big, vec![1; 20 << 20]).expect("room");
    // Input that does not end holds the program up while it is interrupted.
    let script = format!(
        "(head -c 5000000 '{big}'; sleep 3) | timeout -s INT 1 '{GUESTCTL}' write --rw '{image}' /etc/hostname; echo $?",
        big = big.display(),
        image = guest.image.display()
    );
    let ended = output("bash", &["-c", &script]);
    let code = String::from_utf8_lossy(&ended.stdout).trim().to_owned();
    assert_ne!(code, "0");
    assert!(guest.cat("/etc/hostname") == b"guest\n", "the old contents stay");
    assert_eq!(guest.line("ls {} /etc"), b"empty\nhostname\n", "nothing else is left");
}

#[test]
fn scripts_run_to_the_first_command_that_fails() {
    let Some(guest) = Guest::new() else { return };
    let script = guest.workspace.path("script");
    fs::write(
        &script,
        "# a comment\nmkdir-p /srv/www\nwrite /srv/www/index.html \"one\\ntwo\\n\"\ncd /srv\ncp www/index.html copy\n-rm none\n\
         chmod u+x,o= copy\nglob rm-f /var/file-00?\nln-s copy 'a link'\nsetxattr user.a b copy\ncat copy | tr a-z A-Z\nls /srv\n\
         cat /none\nwrite /never x\n",
    )
    .expect("new");
    let (code, printed, said) = guest.try_line(&format!("run --rw {} {{}}", script.display()), b"");
    assert_eq!(code, 7, "{said}");
    assert_eq!(String::from_utf8_lossy(&printed), "ONE\nTWO\na link\ncopy\nwww\n");
    let last = said.lines().last().expect("it says why");
    assert!(last.contains("script:13: /none: No such file"), "{said}");
    assert!(said.lines().next().is_some_and(|line| line.contains("(ignored)")), "{said}");
    assert_eq!(guest.row("/srv/copy")["mode"], "0740");
    assert_eq!(guest.try_line("stat {} /never", b"").0, 7);
    assert_eq!(guest.line("find {} /var --name file-00*"), b"");
    // The same from standard input, and what is refused.
    let (code, printed, _) = guest.try_line("run - {}", b"cat /etc/hostname\nquit\ncat /none\n");
    assert_eq!((code, printed.as_slice()), (0, &b"guest\n"[..]));
    for (line, code, word) in [
        ("write /x y", 2, "--rw"),
        ("nonsense", 2, "help"),
        ("cat", 2, "write cat PATH..."),
        ("cat 'open", 2, "not closed"),
        ("cd /etc/hostname", 7, "Not a directory"),
        ("checksum sha3 /etc/hostname", 2, "blake3"),
        ("cat /etc/hostname | false", 1, "exit status"),
    ] {
        let (found, _, said) = guest.try_line("run - {}", format!("{line}\n").as_bytes());
        assert!(found == code && said.contains(word) && said.contains("standard input:1"), "{line}: {found} {said}");
    }
    // A reader that stops early is no error.
    assert_eq!(guest.try_line("run - {}", b"cat /usr/bin/large | head -c 3 >/dev/null\n").0, 0);
    // Without an image, drives are added as libguestfs scripts do.
    let lines = format!("add {}\nrun\nlist_filesystems\nmount /dev/sda /\ncat /etc/hostname\n", guest.name());
    let (code, printed, said) = guest.try_line("run -", lines.as_bytes());
    assert_eq!((code, String::from_utf8_lossy(&printed).as_ref()), (0, "/dev/sda: ext4\nguest\n"), "{said}");
}

#[test]
fn the_shell_has_a_prompt_history_and_completion() {
    let Some(guest) = Guest::new() else { return };
    if !has_tool("python3") {
        return skip("there is no python3 to make a terminal");
    }
    let state = guest.workspace.folder("state");
    // A terminal, in which keys are typed as a person does.
    let python = r#"
import os, pty, sys, time, select
pid, fd = pty.fork()
if pid == 0:
    os.environ.update(TERM="xterm", XDG_STATE_HOME=sys.argv[3])
    os.execv(sys.argv[1], [sys.argv[1], "shell", sys.argv[2]])
seen = b""
def wait(text, seconds=20):
    global seen
    end = time.time() + seconds
    while text not in seen and time.time() < end:
        if select.select([fd], [], [], 0.2)[0]:
            try: seen += os.read(fd, 65536)
            except OSError: break
    if text not in seen: sys.exit(f"no {text!r} in {seen!r}")
    seen = seen[seen.index(text) + len(text):]
def typed(keys): os.write(fd, keys)
wait(b"/> ")
typed(b"cat /etc/hostn\t"); wait(b"hostname"); typed(b"\r"); wait(b"guest")
wait(b"/> ")
typed(b"cd /us\t"); wait(b"usr/"); typed(b"\r"); wait(b"/usr> ")
typed(b"nonsense\r"); wait(b"no command nonsense"); wait(b"/usr> ")
typed(b"half a line\x03"); wait(b"/usr> ")
typed(b"\x1b[A"); wait(b"nonsense"); typed(b"\x03"); wait(b"/usr> ")
typed(b"write /x y\r"); wait(b"--rw"); wait(b"/usr> ")
typed(b"\x04")
_, status = os.waitpid(pid, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"#;
    let ended = output("python3", &["-c", python, GUESTCTL, guest.name(), state.to_str().expect("text")]);
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let history = fs::read_to_string(state.join("guestctl/history")).expect("it was kept");
    assert!(history.contains("cd /usr/"), "{history}");
}

#[test]
fn everything_works_in_little_address_space() {
    let Some(guest) = Guest::new() else { return };
    let big = guest.workspace.path("big");
    fs::write(&big, vec![1; 20 << 20]).expect("room");
    let script = format!(
        "ulimit -v 524288; set -e; g='{GUESTCTL}'; i='{image}'; $g write --rw $i /big <'{big}'; $g tar-out $i / - | cat >/dev/null; \
         $g checksum -r $i / >/dev/null; $g find --json $i >/dev/null; $g convert -c $i --output {big}.qcow2; \
         echo 'cp /big /etc/big' | $g run --rw - $i || test $? = 1; $g rm -f --rw $i /big /etc/big; \
         $g tar-out $i /usr {big}.tar; $g tar-in --rw $i {big}.tar /var",
        image = guest.image.display(),
        big = big.display()
    );
    let ended = output("bash", &["-c", &script]);
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
}
