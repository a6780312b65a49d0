//! Systems whose root lies on an encrypted volume, on a volume group within one, and on an array of two disks: inspected, and
//! mounted as one tree.

mod common;

use common::guest::{Workspace, cannot_mount, guestctl};
use common::volumes::golden;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Writes the disks of a system into a folder; returns their paths, in the order of their names.
fn disks(space: &Workspace, system: &str) -> Vec<PathBuf> {
    let disks: BTreeMap<_, _> = golden("guests").into_iter().collect();
    let names: &[&str] = if system == "raid" { &["raid-a", "raid-b"] } else { &[system] };
    let write = |name: &&str| {
        let path = space.path(name);
        fs::write(&path, &disks[*name]).expect("there is room");
        path
    };
    names.iter().map(write).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain name")
}

/// Returns the arguments that say which disks, and how to open them.
fn images(space: &Workspace, disks: &[PathBuf]) -> Vec<String> {
    fs::write(space.path("key"), "secret").expect("there is room");
    let mut all = vec!["--key".to_owned(), format!("all:file:{}", text(&space.path("key")))];
    for further in &disks[1..] {
        all.extend(["--add".to_owned(), text(further).to_owned()]);
    }
    all
}

fn numbers(last: u32) -> String {
    (1..=last).map(|number| format!("{number}\n")).collect()
}

/// The systems, where each has its root, and the folders that its fstab mounts.
const SYSTEMS: [(&str, &str, &[&str]); 3] = [
    ("luks", "luks-root", &["/", "/boot"]),
    ("luks-lvm", "lvm-root", &["/", "/boot", "/home"]),
    ("raid", "raid-root", &["/", "/boot"]),
];

#[test]
fn a_system_on_volumes_of_any_stack_is_inspected() {
    let space = Workspace::new();
    for (system, label, folders) in SYSTEMS {
        let disks = disks(&space, system);
        let options = images(&space, &disks);
        let mut arguments = vec!["inspect", "--json", text(&disks[0])];
        arguments.extend(options.iter().map(String::as_str));
        let (code, printed, said) = guestctl(&arguments);
        assert_eq!(code, 0, "{system}: {said}");
        let report: serde_json::Value = serde_json::from_slice(&printed).expect("JSON");
        let found = &report["systems"][0];
        assert_eq!(found["hostname"], system, "{report}");
        let mounts = found["mounts"].as_array().unwrap_or_else(|| panic!("{report}"));
        let mut mounted: Vec<&str> = mounts.iter().filter_map(|mount| mount["mountpoint"].as_str()).collect();
        mounted.sort_unstable();
        assert_eq!(mounted, folders, "{system}: {report}");
        assert_eq!(found["missing"].as_array().map(Vec::len), Some(0), "{report}");
        let filesystems = report["filesystems"].as_array().expect("a list");
        let root = filesystems.iter().find(|one| one["device"] == found["root"]);
        assert_eq!(root.expect("the root is a filesystem")["label"], label, "{system}: {report}");
    }
}

/// Compares a tree with what the script wrote into it.
fn check(system: &str, read: impl Fn(&str) -> String) {
    assert_eq!(read("/etc/hostname"), format!("{system}\n"));
    assert!(read("/srv/numbers") == numbers(20_000), "{system}");
    assert!(read("/boot/numbers") == numbers(3000), "{system}");
    if system == "luks-lvm" {
        assert!(read("/home/ann/numbers") == numbers(30_000));
    }
}

#[test]
fn a_system_on_volumes_of_any_stack_is_one_tree_without_a_mount() {
    let space = Workspace::new();
    for (system, _, _) in SYSTEMS {
        let mut disks = disks(&space, system);
        for _ in 0..disks.len() {
            let options = images(&space, &disks);
            check(system, |path| {
                let mut arguments = vec!["cat", text(&disks[0]), path];
                arguments.extend(options.iter().map(String::as_str));
                let (code, printed, said) = guestctl(&arguments);
                assert_eq!(code, 0, "{system}: {said}");
                String::from_utf8(printed).expect("text")
            });
            // Which disk comes first does not matter.
            disks.reverse();
        }
    }
}

#[test]
fn a_system_on_volumes_of_any_stack_is_mounted_as_one_tree() {
    if let Some(why) = cannot_mount() {
        return common::skip(why);
    }
    let space = Workspace::new();
    for (system, _, _) in SYSTEMS {
        let disks = disks(&space, system);
        let options = images(&space, &disks);
        let options: Vec<&str> =
            options.iter().map(|option| if option == "--add" { "-a" } else { option.as_str() }).collect();
        let mounted = space.mount(&format!("mnt-{system}"), disks[0].as_os_str(), &options);
        check(system, |path| fs::read_to_string(mounted.folder.join(&path[1..])).expect("reads"));
        mounted.umount();
    }
}

#[test]
fn each_layer_of_a_stack_is_shown_as_lsblk_would() {
    let space = Workspace::new();
    // What a tree says from the disk down to the root, one device in another: the type, what it holds, the label.
    let expected: [&[&[&str]]; 3] = [
        &[&["disk"], &["part", "crypto_LUKS"], &["crypt", "ext4", "luks-root"]],
        &[&["disk"], &["part", "crypto_LUKS"], &["crypt", "LVM2_member"], &["lvm", "ext4", "lvm-root"]],
        &[&["disk"], &["part", "linux_raid_member"], &["raid1", "ext4", "raid-root"]],
    ];
    for ((system, label, _), layers) in SYSTEMS.into_iter().zip(expected) {
        let disks = disks(&space, system);
        let options = images(&space, &disks);
        let mut arguments = vec!["filesystems", "--tree", text(&disks[0])];
        arguments.extend(options.iter().map(String::as_str));
        let (code, printed, said) = guestctl(&arguments);
        assert_eq!(code, 0, "{system}: {said}");
        let printed = String::from_utf8(printed).expect("text");
        // The lines above the root's that are indented less, each less than the one below it.
        let indent = |line: &str| line.chars().take_while(|letter| *letter != '/').count();
        let lines: Vec<&str> = printed.lines().collect();
        let root = lines.iter().position(|line| line.contains(label)).unwrap_or_else(|| panic!("{printed}"));
        let mut way = vec![lines[root]];
        for line in lines[..root].iter().rev() {
            if line.contains("/dev/") && indent(line) < indent(way[way.len() - 1]) {
                way.push(line);
            }
        }
        way.reverse();
        assert_eq!(way.len(), layers.len(), "{printed}");
        for (line, words) in way.iter().zip(layers) {
            let has = |word: &&str| line.split_whitespace().any(|found| found == *word);
            assert!(words.iter().all(has), "{words:?}: {printed}");
        }
    }
}

#[test]
fn a_system_on_raid_1_is_one_tree_with_either_disk_alone_and_the_other_is_missed() {
    let space = Workspace::new();
    for disk in disks(&space, "raid") {
        let (code, printed, said) = guestctl(&["cat", text(&disk), "/srv/numbers"]);
        assert_eq!(code, 0, "{said}");
        assert!(printed == numbers(20_000).into_bytes());
        assert!(said.contains("lacks"), "{said}");
    }
}
