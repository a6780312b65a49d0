//! docs/json.md has every key that the commands print, and no other.

mod common;

use common::guest::{Workspace, guestctl, run};
use common::{has_tool, is_root, skip};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Returns the keys that the document has, by command.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json.md")).expect("a document");
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut commands: Vec<String> = Vec::new();
    let marked = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    for line in text.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.split('|').collect();
        if !marked(cells[1]).is_empty() {
            commands = marked(cells[1]);
        }
        for command in &commands {
            found.entry(command.clone()).or_default().extend(marked(cells[3]));
        }
    }
    found
}

fn collect(value: &Value, path: &str, keys: &mut BTreeSet<String>) {
    match value {
        Value::Object(entries) => {
            for (name, value) in entries {
                let name = if path.ends_with("xattrs") { "NAME" } else { name };
                let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
                collect(value, &path, keys);
            }
        }
        Value::Array(values) if values.is_empty() => drop(keys.insert(format!("{path}[]"))),
        Value::Array(values) => values.iter().for_each(|value| collect(value, &format!("{path}[]"), keys)),
        _ => drop(keys.insert(path.to_owned())),
    }
}

#[test]
fn the_document_has_every_key_and_no_other() {
    if !is_root() || !["mke2fs", "qemu-img", "sfdisk", "mkfs.vfat", "setfattr", "tar"].iter().all(|name| has_tool(name))
    {
        return skip("this needs root, mke2fs, qemu-img, sfdisk, mkfs.vfat and setfattr");
    }
    let workspace = Workspace::new();
    let tree = workspace.small_tree();
    let odd = |bytes: &[u8]| tree.join("etc").join(OsStr::from_bytes(bytes));
    fs::write(odd(b"odd\xff"), "guest\n").expect("ours");
    symlink(OsStr::from_bytes(b"\xfe"), odd(b"link\xff")).expect("ours");
    fs::create_dir(odd(b"dir\xff")).expect("ours");
    run("mknod", &[tree.join("etc/device").as_os_str(), "c".as_ref(), "1".as_ref(), "3".as_ref()]);
    run("setfattr", &[OsStr::new("-n"), "user.a".as_ref(), "-v".as_ref(), "b".as_ref(), odd(b"odd\xff").as_ref()]);
    let image = workspace.ext4_image("disk.img", &tree);
    // mke2fs takes attributes over only in some versions.
    let odd_path = OsStr::from_bytes(b"/etc/odd\xff");
    let set = ["xattr", "--set", "user.a=b", "--rw"].map(OsStr::new);
    assert_eq!(guestctl(&[&set[..], &[image.as_ref(), odd_path]].concat()).0, 0);
    fs::write(odd(b"odd\xff"), "changed\n").expect("ours");
    fs::remove_file(tree.join("etc/empty")).expect("ours");
    fs::write(tree.join("etc/new"), "").expect("ours");
    let other = workspace.ext4_image("other.img", &tree);
    let disk = workspace.gpt_disk("gpt.img", &tree);
    let (base, over, archive) = (workspace.path("base.qcow2"), workspace.path("over.qcow2"), workspace.path("a.tar"));
    run("qemu-img", &[OsStr::new("convert"), "-O".as_ref(), "qcow2".as_ref(), image.as_ref(), base.as_ref()]);
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", over.to_str().expect("text")]);
    run("qemu-img", &[OsStr::new("snapshot"), "-c".as_ref(), "before".as_ref(), over.as_ref()]);
    let folder = image.parent().expect("a folder");
    run("tar", &[OsStr::new("-C"), folder.as_ref(), "-cf".as_ref(), archive.as_ref(), "base.qcow2".as_ref()]);
    let new = workspace.path("new.qcow2");
    let mut printed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let lines: [(&str, Vec<&OsStr>); 15] = [
        ("ls", vec![image.as_ref(), "/etc".as_ref()]),
        ("stat", vec![image.as_ref(), odd_path, OsStr::from_bytes(b"/etc/link\xff"), "/etc/device".as_ref()]),
        ("find", vec![image.as_ref()]),
        ("du", vec![image.as_ref()]),
        ("df", vec![image.as_ref()]),
        ("grep", vec!["-r".as_ref(), "guest".as_ref(), image.as_ref(), "/etc".as_ref()]),
        ("checksum", vec![image.as_ref(), odd_path]),
        ("xattr", vec![image.as_ref(), odd_path]),
        ("diff", vec![image.as_ref(), other.as_ref()]),
        ("filesystems", vec![disk.as_ref()]),
        ("part list", vec![disk.as_ref()]),
        ("info", vec![over.as_ref(), archive.as_ref()]),
        ("check", vec![base.as_ref()]),
        ("convert", vec![image.as_ref(), "--output".as_ref(), new.as_ref()]),
        ("compact", vec![base.as_ref()]),
    ];
    for (command, arguments) in lines {
        let words: Vec<&OsStr> = command.split(' ').chain(["--json"]).map(OsStr::new).collect();
        let (code, text, said) = guestctl(&[&words[..], &arguments[..]].concat());
        assert!(code == 0 || command == "diff" && code == 1, "{command}: {code} {said}");
        let keys = printed.entry(command.to_owned()).or_default();
        for value in serde_json::Deserializer::from_slice(&text).into_iter::<Value>() {
            collect(&value.expect("JSON"), "", keys);
        }
    }
    let told = documented();
    for (command, keys) in &printed {
        let known = told.get(command).unwrap_or_else(|| panic!("docs/json.md has no {command}"));
        // An empty list, or null in the place of an object, stands for what would be in it.
        let is_whole = |key: &String| known.iter().any(|other| other.starts_with(&format!("{key}.")));
        let unknown: Vec<_> = keys.difference(known).filter(|key| !is_whole(key)).collect();
        let stale: Vec<_> = known.difference(keys).collect();
        assert!(unknown.is_empty(), "{command}: docs/json.md lacks {unknown:?}");
        assert!(stale.is_empty(), "{command}: docs/json.md has {stale:?}, which is not printed");
    }
    let all: BTreeSet<&String> = told.keys().collect();
    assert_eq!(all, printed.keys().collect());
}
