//! Guests with their root on XFS and on Btrfs: inspected, and mounted as one tree.

mod common;
#[path = "common/debian.rs"]
mod debian;

use common::guest::{guestctl, run};
use common::{has_tool, skip};
use debian::{BOOT_UUID, debian, disk, inspect, is_one_tree, mounts, ready, shell, within};
use guestctl::Guestfs;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

/// Does what libguestfs's own example does: mounts what inspection says, the shortest first.
fn is_mounted_by_its_calls(disk: &Path) {
    let mut guest = Guestfs::new().expect("a handle");
    guest.add_drive_ro(disk.to_str().expect("plain")).expect("added");
    guest.launch().expect("launched");
    let roots = guest.inspect_os().expect("inspected");
    assert_eq!(roots.len(), 1, "{roots:?}");
    assert_eq!(guest.inspect_get_roots().expect("known"), roots);
    for (folder, device) in guest.inspect_get_mountpoints(&roots[0]).expect("known") {
        guest.mount_ro(&device, &folder).expect(&device);
    }
    assert_eq!(guest.cat("/etc/hostname").expect("there"), "guest\n");
    assert_eq!(guest.cat("/home/ann/notes").expect("there"), "notes\n");
    assert_eq!(guest.cat("/boot/efi/loader").expect("there"), "loader\n");
    assert_eq!(guest.inspect_get_hostname(&roots[0]).expect("known"), "guest");
    assert_eq!(guest.inspect_get_format(&roots[0]).expect("known"), "installed");
    assert!(!guest.inspect_is_live(&roots[0]).expect("known"));
    assert!(
        !guest.inspect_is_netinst(&roots[0]).expect("known") && !guest.inspect_is_multipart(&roots[0]).expect("known")
    );
    for (told, expected) in [
        (guest.inspect_get_type(&roots[0]), "linux"),
        (guest.inspect_get_distro(&roots[0]), "debian"),
        (guest.inspect_get_arch(&roots[0]), std::env::consts::ARCH),
        (guest.inspect_get_product_name(&roots[0]), "Debian GNU/Linux 12 (bookworm)"),
        (guest.inspect_get_product_variant(&roots[0]), "unknown"),
        (guest.inspect_get_build_id(&roots[0]), "unknown"),
        (guest.inspect_get_osinfo(&roots[0]), "debian12"),
        (guest.inspect_get_package_format(&roots[0]), "deb"),
        (guest.inspect_get_package_management(&roots[0]), "apt"),
        (guest.inspect_get_windows_systemroot(&roots[0]), "unknown"),
        (guest.inspect_get_windows_software_hive(&roots[0]), "unknown"),
    ] {
        assert_eq!(told.expect("known"), expected);
    }
    let version =
        |guest: &Guestfs| (guest.inspect_get_major_version(&roots[0]), guest.inspect_get_minor_version(&roots[0]));
    assert!(matches!(version(&guest), (Ok(12), Ok(5))));
    let filesystems = guest.inspect_get_filesystems(&roots[0]).expect("known");
    assert_eq!(filesystems.len(), guest.inspect_get_mountpoints(&roots[0]).expect("known").len());
    assert!(guest.inspect_get_drive_mappings(&roots[0]).expect("none").is_empty());
    assert!(guest.inspect_get_type("/dev/sdx").is_err());
    let applications = guest.inspect_list_applications(&roots[0]).expect("known");
    assert_eq!(applications, [("base-files".to_owned(), "12.4".to_owned())]);
    assert!(guest.inspect_get_icon(&roots[0]).expect("none").is_empty());
    let found = guest.find_root(&roots[0]).expect("named");
    assert_eq!(found.name(), roots[0]);
    assert!(guest.find_root("/dev/sdx").is_err());
}

#[test]
fn a_guest_on_xfs_is_one_tree() {
    let Some(workspace) = ready("xfs") else { return };
    let tree = workspace.folder("tree");
    debian(&tree);
    let (root, home) = (workspace.path("root.xfs"), workspace.path("home.xfs"));
    for (image, label) in [(&root, "root"), (&home, "home")] {
        shell(&format!("truncate -s 320M {0}; mkfs.xfs -q -L {label} {0}", image.display()));
    }
    let uuid = shell(&format!("blkid -p -s UUID -o value {}", root.display()));
    let fstab = format!(
        "UUID={uuid} / xfs defaults 0 0\nLABEL=home /home xfs defaults 0 0\nUUID={BOOT_UUID} /boot/efi vfat umask=0077 0 1\n"
    );
    fs::write(tree.join("etc/fstab"), fstab).expect("written");
    within(&workspace, &root, &format!("cp -a {}/. .", tree.display()));
    fs::create_dir_all(tree.join("home/ann")).expect("made");
    fs::write(tree.join("home/ann/notes"), "notes\n").expect("written");
    within(&workspace, &home, &format!("cp -a {}/home/. .", tree.display()));
    let disk = disk(&workspace, &[root, home]);
    let told = inspect(&["--json", "--packages"], &disk);
    let system = &told["systems"][0];
    assert_eq!(system["root"], "/dev/sda2");
    assert_eq!((&system["distro"], &system["osinfo"]), (&Value::from("debian"), &Value::from("debian12")));
    assert_eq!(mounts(system), ["/ /dev/sda2", "/home /dev/sda3", "/boot/efi /dev/sda1"]);
    assert_eq!(system["packages"][0]["name"], "base-files");
    assert_eq!(told["filesystems"][1]["type"], "xfs");
    assert!(told["filesystems"][1]["usage"]["used"].as_u64().expect("told") > 0);
    is_one_tree(&workspace, &disk, &tree, &[]);
    is_mounted_by_its_calls(&disk);
}

#[test]
fn a_guest_on_subvolumes_of_btrfs_is_one_tree() {
    let Some(workspace) = ready("btrfs") else { return };
    let tree = workspace.folder("tree");
    debian(&tree);
    let root = workspace.path("root.btrfs");
    shell(&format!("truncate -s 256M {0}; mkfs.btrfs -q -L system {0}", root.display()));
    let uuid = shell(&format!("blkid -p -s UUID -o value {}", root.display()));
    within(
        &workspace,
        &root,
        "btrfs subvolume create -- @ >/dev/null; btrfs subvolume create @home >/dev/null; btrfs subvolume create @log >/dev/null; btrfs subvolume list . >../list",
    );
    let list = fs::read_to_string(workspace.path("list")).expect("written");
    let log = list.lines().find(|line| line.ends_with("@log")).and_then(|line| line.split(' ').nth(1)).expect("an id");
    let fstab = format!(
        "UUID={uuid} / btrfs defaults,subvol=@ 0 0\nUUID={uuid} /home btrfs defaults,subvol=/@home 0 0\n\
         UUID={uuid} /var/log btrfs subvolid={log} 0 0\n/home/ann /srv/people none bind 0 0\nUUID={BOOT_UUID} /boot/efi vfat umask=0077 0 1\n"
    );
    fs::write(tree.join("etc/fstab"), fstab).expect("written");
    fs::create_dir_all(tree.join("home/ann")).expect("made");
    fs::write(tree.join("home/ann/notes"), "notes\n").expect("written");
    fs::write(tree.join("var/log/syslog"), "started\n").expect("written");
    let copy = format!(
        "rsync -aHAX --exclude='/home/*' --exclude='/var/log/*' {tree}/ @/; rsync -aHAX {tree}/home/ @home/; \
         rsync -aHAX {tree}/var/log/ @log/; btrfs subvolume snapshot @ @before >/dev/null",
        tree = tree.display()
    );
    within(&workspace, &root, &copy);
    let disk = disk(&workspace, &[root]);
    let told = inspect(&["--json"], &disk);
    let systems = told["systems"].as_array().expect("a list");
    // The snapshot holds a system too, whose fstab says that the root is another subvolume.
    assert_eq!(systems.len(), 1, "{systems:#?}");
    assert_eq!(systems[0]["root"], "btrfsvol:/dev/sda2/@");
    let (code, printed, said) = guestctl(&[OsStr::new("inspect"), "--xml".as_ref(), disk.as_os_str()]);
    let xml = String::from_utf8(printed).expect("text");
    for (name, place) in [("@", "/"), ("@home", "/home"), ("@log", "/var/log")] {
        let line = format!("<mountpoint dev=\"btrfsvol:/dev/sda2/{name}\">{place}</mountpoint>");
        assert!(code == 0 && xml.contains(&line), "{line}: {said} {xml}");
    }
    let log_line = format!("/var/log /dev/sda2 {log}");
    // The bind mount's own folder is not there, so it is told and not mounted.
    let bound = "/srv/people /dev/sda2 @home";
    let expected = ["/ /dev/sda2 @", "/home /dev/sda2 @home", log_line.as_str(), "/boot/efi /dev/sda1", bound];
    assert_eq!(mounts(&systems[0]), expected);
    is_one_tree(&workspace, &disk, &tree, &[]);
    is_mounted_by_its_calls(&disk);
    // By hand, as guestmount has it, and by the name of the root.
    let home = format!("/dev/sda2:/home:subvolid={log}");
    for (options, file) in [
        (&["-m", "/dev/sda2:/:subvol=@", "-m", &home][..], "/home/syslog"),
        (&["--root", "/dev/sda2:@"], "/var/log/syslog"),
        (&["--root", "btrfsvol:/dev/sda2/@"], "/var/log/syslog"),
    ] {
        let mut arguments = vec!["cat"];
        arguments.extend(options);
        arguments.extend([disk.to_str().expect("plain"), file]);
        let (code, printed, said) = guestctl(&arguments);
        assert_eq!((code, printed.as_slice()), (0, &b"started\n"[..]), "{options:?}: {said}");
    }
    let (code, printed, said) = guestctl(&[OsStr::new("inspect"), "--xml".as_ref(), disk.as_os_str()]);
    assert_eq!(code, 0, "{said}");
    let xml = String::from_utf8(printed).expect("text");
    for (device, folder) in [("/@", "/"), ("/@home", "/home"), ("/@log", "/var/log")] {
        let line = format!("<mountpoint dev=\"btrfsvol:/dev/sda2{device}\">{folder}</mountpoint>");
        assert!(xml.contains(&line), "{line}: {xml}");
    }
    assert!(!xml.contains("/srv/people") && xml.matches("<filesystem dev=").count() == 4, "{xml}");
}

#[test]
fn a_system_with_usr_on_a_filesystem_of_its_own_is_told_by_both() {
    let Some(workspace) = ready("xfs") else { return };
    let tree = workspace.folder("tree");
    debian(&tree);
    let (root, usr) = (workspace.path("root.ext4"), workspace.path("usr.ext4"));
    let uuids = ["11111111-2222-3333-4444-555555555555", "66666666-7777-8888-9999-aaaaaaaaaaaa"];
    let fstab = format!("UUID={} / ext4 defaults 0 1\nUUID={} /usr ext4 defaults 0 2\n", uuids[0], uuids[1]);
    fs::write(tree.join("etc/fstab"), fstab).expect("written");
    let rest = workspace.folder("rest");
    shell(&format!("mv {}/usr/* {}/", tree.display(), rest.display()));
    for (image, uuid, content) in [(&root, uuids[0], &tree), (&usr, uuids[1], &rest)] {
        shell(&format!("mke2fs -q -t ext4 -U {uuid} -d {} {} 16M", content.display(), image.display()));
    }
    let told = inspect(&["--json"], &disk(&workspace, &[root, usr]));
    let systems = told["systems"].as_array().expect("a list");
    assert_eq!(systems.len(), 1, "{systems:#?}");
    let system = &systems[0];
    assert_eq!(mounts(system), ["/ /dev/sda2", "/usr /dev/sda3"]);
    let expected = [("distro", "debian"), ("arch", "x86_64"), ("osinfo", "debian12"), ("hostname", "guest")];
    for (name, value) in expected {
        assert_eq!(system[name], value, "{name}");
    }
    assert_eq!(system["product_name"], "Debian GNU/Linux 12 (bookworm)");
}

#[test]
fn two_systems_on_a_disk_have_a_folder_each_and_are_chosen_by_their_device() {
    let Some(workspace) = ready("xfs") else { return };
    let tree = workspace.folder("tree");
    debian(&tree);
    let home = workspace.folder("people");
    fs::create_dir_all(home.join("ann")).expect("made");
    fs::write(home.join("ann/notes"), "notes\n").expect("written");
    let make = |name: &str, content: &Path| {
        let image = workspace.path(name);
        shell(&format!("mke2fs -q -t ext4 -L {name} -d {} {} 16M", content.display(), image.display()));
        image
    };
    fs::write(tree.join("etc/fstab"), "LABEL=first / ext4 defaults 0 1\n").expect("written");
    let first = make("first", &tree);
    fs::write(tree.join("etc/hostname"), "other\n").expect("written");
    let fstab = "LABEL=second / ext4 defaults 0 1\nLABEL=home /home ext4 defaults 0 2\n";
    fs::write(tree.join("etc/fstab"), fstab).expect("written");
    let second = make("second", &tree);
    let disk = disk(&workspace, &[first, second, make("home", &home)]);
    let told = inspect(&["--json"], &disk);
    let systems: Vec<_> = told["systems"].as_array().expect("a list").iter().collect();
    let names: Vec<_> = systems.iter().map(|system| (&system["root"], &system["hostname"])).collect();
    let expected = [("/dev/sda2", "guest"), ("/dev/sda3", "other")].map(|(a, b)| (Value::from(a), Value::from(b)));
    assert_eq!(names, expected.each_ref().map(|(root, hostname)| (root, hostname)));
    assert_eq!(mounts(systems[1]), ["/ /dev/sda3", "/home /dev/sda4"]);
    let path = disk.to_str().expect("plain");
    for (options, file, text) in [
        (&["--root", "/dev/sda2"][..], "/etc/hostname", "guest\n"),
        (&["--root", "/dev/sda3"], "/etc/hostname", "other\n"),
        (&["--root", "/dev/sda3"], "/home/ann/notes", "notes\n"),
        (&[], "/sda2/etc/hostname", "guest\n"),
        (&[], "/sda3/etc/hostname", "other\n"),
        (&[], "/sda3/home/ann/notes", "notes\n"),
    ] {
        let (code, printed, said) = guestctl(&[&["cat"], options, &[path, file]].concat());
        assert_eq!((code, String::from_utf8_lossy(&printed).as_ref()), (0, text), "{options:?} {file}: {said}");
    }
    for (options, expected) in [(&["--root", "/dev/sda4"][..], 7), (&["--layout", "os"], 2)] {
        let (code, _, said) = guestctl(&[&["cat"], options, &[path, "/etc/hostname"]].concat());
        assert_eq!(code, expected, "{said}");
        assert!(said.contains("/dev/sda2, /dev/sda3"), "{said}");
    }
    let mounted = workspace.mount("mnt", disk.as_os_str(), &[]);
    assert_eq!(shell(&format!("ls {}", mounted.folder.display())), "sda2\nsda3");
    mounted.umount();
    let mounted = workspace.mount("mnt2", disk.as_os_str(), &["--root", "/dev/sda3"]);
    assert_eq!(shell(&format!("cat {0}/etc/hostname {0}/home/ann/notes", mounted.folder.display())), "other\nnotes");
    mounted.umount();
}

#[test]
fn a_second_system_in_a_subvolume_is_found_beside_that_of_the_default_one() {
    let Some(workspace) = ready("btrfs") else { return };
    let tree = workspace.folder("tree");
    debian(&tree);
    let image = workspace.path("two.btrfs");
    shell(&format!("truncate -s 256M {0}; mkfs.btrfs -q -L two {0}", image.display()));
    // Once the top level is the default, then a subvolume is.
    fs::write(tree.join("etc/fstab"), "LABEL=two / btrfs defaults 0 0\n").expect("written");
    let fill = |place: &str| format!("cp -a {}/. {place}/", tree.display());
    within(&workspace, &image, &format!("{}; btrfs subvolume snapshot . before >/dev/null", fill(".")));
    fs::write(tree.join("etc/hostname"), "other\n").expect("written");
    fs::write(tree.join("etc/fstab"), "LABEL=two / btrfs subvol=@other 0 0\n").expect("written");
    let other = format!(
        "btrfs subvolume create @other >/dev/null; {}; btrfs subvolume snapshot @other @old >/dev/null",
        fill("@other")
    );
    within(&workspace, &image, &other);
    let roots = |image: &Path| -> Vec<String> {
        let told = inspect(&["--json"], image);
        let systems = told["systems"].as_array().expect("a list").iter();
        let name = |value: &Value| value.as_str().expect("text").to_owned();
        systems.map(|system| format!("{} {}", name(&system["root"]), name(&system["hostname"]))).collect()
    };
    assert_eq!(roots(&image), ["/dev/sda guest", "btrfsvol:/dev/sda/@other other"]);
    let mounted = workspace.mount("mnt", image.as_os_str(), &[]);
    let names = shell(&format!("cd {}; ls; cat sda*/etc/hostname", mounted.folder.display()));
    assert_eq!(names, "sda\nsda:@other\nguest\nother");
    mounted.umount();
    // The top level's system goes, and @other is the default: it is told once, and its snapshot is still none.
    within(
        &workspace,
        &image,
        "btrfs subvolume set-default @other; btrfs subvolume delete before >/dev/null; rm -r etc",
    );
    assert_eq!(roots(&image), ["/dev/sda other"]);
}

#[test]
fn a_windows_is_told_through_the_calls_of_libguestfs_and_its_hibernation_is_warned_of() {
    let Some(workspace) = ready("xfs") else { return };
    let tree = workspace.folder("tree");
    let hives = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/inspect/windows");
    for (path, hive) in [
        ("Windows/system32/config/SOFTWARE", "SOFTWARE"),
        ("Windows/system32/config/System", "SYSTEM"),
        ("Windows/system32/config/SAM", "SAM"),
        ("Boot/BCD", "BCD"),
    ] {
        fs::create_dir_all(tree.join(path).parent().expect("a folder")).expect("made");
        fs::copy(hives.join(hive), tree.join(path)).expect("copied");
    }
    fs::write(tree.join("hiberfil.sys"), "hibr....").expect("written");
    let (root, disk, data) = (workspace.ext4_image("root", &tree), workspace.path("disk"), workspace.path("data"));
    // The fixture's registry has a partition of this MBR as D:, and of this GPT as C:.
    let table = "label: dos\\nlabel-id: 0x1234abcd\\nstart=1MiB, size=32MiB, type=7\\n";
    let second = "label: gpt\\nsize=1MiB, uuid=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\\n";
    for (image, table, size) in [(&disk, table, 34), (&data, second, 4)] {
        let image = image.display();
        shell(&format!(
            "truncate -s {size}M {image}; printf '{table}' | sfdisk -q --no-reread --no-tell-kernel {image}"
        ));
    }
    shell(&format!("dd if={} of={} bs=1M seek=1 conv=notrunc status=none", root.display(), disk.display()));
    let mut guest = Guestfs::new().expect("a handle");
    for drive in [&disk, &data] {
        guest.add_drive_ro(drive.to_str().expect("plain")).expect("added");
    }
    guest.launch().expect("launched");
    assert_eq!(guest.inspect_os().expect("inspected"), ["/dev/sda1"]);
    let root = "/dev/sda1";
    assert_eq!(guest.inspect_get_type(root).expect("known"), "windows");
    assert_eq!(guest.inspect_get_product_name(root).expect("known"), "Windows 11 Pro");
    assert_eq!(guest.inspect_get_windows_systemroot(root).expect("known"), "/Windows");
    assert_eq!(guest.inspect_get_windows_current_control_set(root).expect("known"), "ControlSet002");
    let drives = guest.inspect_get_drive_mappings(root).expect("known");
    assert_eq!(drives, [('C', "/dev/sdb1".to_owned()), ('D', "/dev/sda1".to_owned())]);
    let (code, printed, said) = guestctl(&[OsStr::new("inspect"), disk.as_os_str()]);
    let page = String::from_utf8(printed).expect("text");
    assert_eq!(code, 0, "{said}");
    assert!(page.contains("Windows 11 Pro") && page.contains("Windows is hibernated"), "{page}");
}

#[test]
fn many_images_are_inspected_and_one_that_fails_stops_none() {
    let Some(workspace) = ready("xfs") else { return };
    let tree = workspace.folder("tree");
    debian(&tree);
    let good = workspace.ext4_image("good.img", &tree);
    let empty = workspace.path("empty.img");
    fs::write(&empty, vec![0; 1 << 20]).expect("written");
    let missing = workspace.path("missing.img");
    let images = [good.as_os_str(), missing.as_os_str(), empty.as_os_str(), good.as_os_str()];
    let head = ["inspect", "--json", "--jobs", "3"].map(OsStr::new);
    let (code, printed, said) = guestctl(&[&head[..], &images[..]].concat());
    assert_eq!(code, 7, "{said}");
    assert!(said.contains("missing.img") && said.contains("1 of 4 images failed"), "{said}");
    let lines = String::from_utf8(printed).expect("text");
    let told: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(told.len(), 4);
    assert_eq!(told[0]["systems"][0]["hostname"], "guest");
    assert!(told[1]["error"].as_str().expect("said").contains("missing.img"));
    assert_eq!(told[2]["systems"], Value::Array(Vec::new()));
    let (code, printed, said) =
        guestctl(&["inspect", "--fields", "hostname,version,logins", good.to_str().expect("plain")]);
    assert_eq!((code, printed.as_slice()), (0, &b"guest\t12.5\troot ann\n"[..]), "{said}");
    let (code, printed, _) = guestctl(&[OsStr::new("inspect"), "--packages".as_ref(), good.as_os_str()]);
    let page = String::from_utf8(printed).expect("text");
    assert!(
        code == 0 && page.contains("Debian GNU/Linux 12") && page.contains("%") && page.contains("base-files"),
        "{page}"
    );
    for wrong in [&["inspect", "--fields", "colour", "a"][..], &["inspect", "--xml", "a", "b"], &["inspect"]] {
        assert_eq!(guestctl(wrong).0, 2, "{wrong:?}");
    }
}

#[test]
fn a_full_filesystem_and_a_dirty_journal_are_warned_of() {
    let Some(workspace) = ready("xfs") else { return };
    if !has_tool("debugfs") {
        return skip("there is no debugfs");
    }
    let tree = workspace.folder("tree");
    debian(&tree);
    fs::write(tree.join("etc/fstab"), "/dev/vdz1 /data ext4 defaults 0 0\n").expect("written");
    fs::write(tree.join("big"), vec![7; 22 << 20]).expect("written");
    let image = workspace.ext4_image("full.img", &tree);
    let script = workspace.path("script");
    fs::write(&script, "journal_open\njournal_write -b 5000 /dev/zero\njournal_close\n").expect("written");
    run("debugfs", &[OsStr::new("-w"), "-f".as_ref(), script.as_ref(), image.as_ref()]);
    let (code, printed, said) = guestctl(&[OsStr::new("inspect"), image.as_os_str()]);
    assert_eq!(code, 0, "{said}");
    let page = String::from_utf8(printed).expect("text");
    for words in ["Warnings:", "almost full", "journal", "/dev/vdz1 on /data: no such device"] {
        assert!(page.contains(words), "{words}: {page}");
    }
}

#[test]
fn a_hostile_guest_costs_little_and_reaches_no_file_of_the_host() {
    let Some(workspace) = ready("xfs") else { return };
    let tree = workspace.folder("tree");
    debian(&tree);
    // What only the host has, at a path that the guest names.
    let secret = workspace.path("secret");
    fs::write(&secret, "host-secret\n").expect("written");
    let link = |target: &Path, name: &str| {
        let _ = fs::remove_file(tree.join(name));
        std::os::unix::fs::symlink(target, tree.join(name)).expect("made");
    };
    for name in ["etc/hostname", "etc/machine-id", "etc/timezone", "etc/ssh_host_rsa_key.pub"] {
        link(&secret, name);
    }
    link(Path::new("../../../../../../../../../etc/passwd"), "etc/locale.conf");
    link(Path::new("one"), "etc/two");
    link(Path::new("two"), "etc/one");
    link(Path::new("one"), "etc/crypttab");
    fs::remove_file(tree.join("var/lib/dpkg/status")).expect("it was there");
    run("mkfifo", &[tree.join("var/lib/dpkg/status")]);
    let release = tree.join("usr/lib/os-release");
    fs::write(&release, "ID=debian\nVERSION_ID=12\n").expect("written");
    fs::File::options().write(true).open(&release).and_then(|file| file.set_len(1 << 30)).expect("sparse");
    let fstab = "/dev/sda / ext4 bind 0 0\n/a /b none bind 0 0\n/b /a none bind 0 0\n/ / none rbind 0 0\n\
        /dev/sda /a/../.. ext4 defaults 0 0\n/dev/mapper/x /home ext4 defaults 0 0\n";
    fs::write(tree.join("etc/fstab"), fstab).expect("written");
    let image = workspace.ext4_image("hostile.img", &tree);
    let began = std::time::Instant::now();
    let arguments = ["inspect", "--json", "--packages"].map(OsStr::new);
    let (code, printed, said) = guestctl(&[&arguments[..], &[image.as_os_str()]].concat());
    assert_eq!(code, 0, "{said}");
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
    let text = String::from_utf8(printed).expect("JSON is text");
    assert!(!text.contains("host-secret") && !said.contains("host-secret"), "{text}");
    let told: Value = serde_json::from_str(&text).expect("JSON");
    let system = &told["systems"][0];
    assert_eq!((&system["distro"], &system["arch"]), (&Value::from("debian"), &Value::from("x86_64")));
    assert_eq!(system["hostname"], Value::Null);
    let warnings = system["warnings"].to_string();
    for words in ["os-release", "only the first", "dpkg/status", "not opened"] {
        assert!(warnings.contains(words), "{words}: {warnings}");
    }
}

#[test]
fn every_inspect_call_of_libguestfs_is_there_by_its_name() {
    let Some(workspace) = ready("xfs") else { return };
    let tree = workspace.folder("tree");
    debian(&tree);
    fs::write(tree.join("etc/fstab"), "LABEL=root / ext4 defaults 0 1\n").expect("written");
    let picture = Path::new("usr/share/pixmaps/debian-logo.png");
    fs::create_dir_all(tree.join("usr/share/pixmaps")).expect("made");
    fs::write(tree.join(picture), "a picture").expect("written");
    let image = workspace.path("root.img");
    shell(&format!("mke2fs -q -t ext4 -L root -d {} {} 32M", tree.display(), image.display()));
    let mut guest = Guestfs::new().expect("a handle");
    guest.add_drive_ro(image.to_str().expect("plain")).expect("added");
    guest.launch().expect("launched");
    assert_eq!(guest.inspect_os().expect("inspected"), ["/dev/sda"]);
    let root = "/dev/sda";
    let texts = [
        ("type", guest.inspect_get_type(root), "linux"),
        ("arch", guest.inspect_get_arch(root), std::env::consts::ARCH),
        ("distro", guest.inspect_get_distro(root), "debian"),
        ("product_name", guest.inspect_get_product_name(root), "Debian GNU/Linux 12 (bookworm)"),
        ("product_variant", guest.inspect_get_product_variant(root), "unknown"),
        ("format", guest.inspect_get_format(root), "installed"),
        ("hostname", guest.inspect_get_hostname(root), "guest"),
        ("package_format", guest.inspect_get_package_format(root), "deb"),
        ("package_management", guest.inspect_get_package_management(root), "apt"),
        ("osinfo", guest.inspect_get_osinfo(root), "debian12"),
        ("build_id", guest.inspect_get_build_id(root), "unknown"),
        ("windows_systemroot", guest.inspect_get_windows_systemroot(root), "unknown"),
        ("windows_current_control_set", guest.inspect_get_windows_current_control_set(root), "unknown"),
        ("windows_software_hive", guest.inspect_get_windows_software_hive(root), "unknown"),
        ("windows_system_hive", guest.inspect_get_windows_system_hive(root), "unknown"),
    ];
    for (name, told, expected) in texts {
        assert_eq!(told.expect(name), expected, "{name}");
    }
    let numbers = (guest.inspect_get_major_version(root), guest.inspect_get_minor_version(root));
    assert!(matches!(numbers, (Ok(12), Ok(5))), "{numbers:?}");
    let media = [guest.inspect_is_live(root), guest.inspect_is_netinst(root), guest.inspect_is_multipart(root)];
    assert!(media.into_iter().all(|told| !told.expect("known")));
    assert_eq!(guest.inspect_get_roots().expect("known"), [root]);
    assert_eq!(guest.inspect_get_mountpoints(root).expect("known"), [("/".to_owned(), root.to_owned())]);
    assert_eq!(guest.inspect_get_filesystems(root).expect("known"), [root]);
    assert_eq!(guest.inspect_get_drive_mappings(root).expect("known"), []);
    assert_eq!(guest.inspect_get_icon(root).expect("known"), b"a picture");
    let package = ("base-files".to_owned(), "12.4".to_owned());
    assert_eq!(guest.inspect_list_applications(root).expect("known"), [package]);
    let packages = guest.inspect_list_applications2(root).expect("known");
    assert_eq!((packages.len(), packages[0].arch.as_str()), (1, "amd64"));
}

#[test]
fn every_way_to_name_a_filesystem_leads_to_it() {
    let Some(workspace) = ready("ext4") else { return };
    let tree = workspace.folder("tree");
    debian(&tree);
    let places = ["uuid", "label", "partuuid", "partlabel", "vda", "nvme", "byid", "bypath", "unit"];
    let system = tree.join("etc/systemd/system");
    fs::create_dir_all(&system).expect("made");
    fs::write(system.join("unit.mount"), "[Mount]\nWhat=/dev/disk/by-label/unit\nWhere=/unit\nType=ext4\n")
        .expect("written");
    let fstab = "/dev/vda1 / ext4 defaults 0 1\nUUID=11111111-2222-4333-8444-555555555555 /uuid ext4 defaults 0 2\n\
        LABEL=label /label ext4 defaults 0 2\nPARTUUID=99999999-2222-4333-8444-555555555555 /partuuid auto defaults 0 2\n\
        PARTLABEL=a\\040name /partlabel ext4 defaults 0 2\n/dev/vda6 /vda ext4 defaults 0 2\n\
        /dev/disk/by-partlabel/nvme /nvme ext4 defaults 0 2\n/dev/disk/by-id/virtio-DISK_OF_MINE-part8 /byid ext4 defaults 0 2\n\
        /dev/disk/by-path/pci-0000:00:07.0-part9 /bypath ext4 defaults 0 2\n/label /bound none bind 0 0\n\
        /dev/vdb1 /missing ext4 defaults 0 2\nLABEL=none /missing ext4 defaults 0 2\n\
        tmpfs /tmp tmpfs defaults 0 0\nnas:/export /nas nfs defaults 0 0\n";
    fs::write(tree.join("etc/fstab"), fstab).expect("written");
    for place in places.iter().chain(&["bound", "missing"]) {
        fs::create_dir_all(tree.join(place)).expect("made");
    }
    // Beside fstab, and with no line in it: a partition that says of itself what it is.
    fs::create_dir_all(tree.join("srv")).expect("made");
    let image = workspace.path("disk.img");
    let mut script = format!(
        "truncate -s 96M {0}; cd {1}; mke2fs -q -t ext4 -d tree root 24M; ",
        image.display(),
        workspace.path("").display()
    );
    let mut table = String::from("label: gpt\\nsize=24MiB, type=linux\\n");
    for (number, place) in places.iter().chain(&["srv"]).enumerate() {
        let more = match *place {
            "partuuid" => ", uuid=99999999-2222-4333-8444-555555555555",
            "partlabel" => ", name=\\\"a name\\\"",
            "nvme" => ", name=nvme",
            _ => "",
        };
        let kind = if *place == "srv" { "3B8F8425-20E0-4F3B-907F-1A25A76F98E8" } else { "linux" };
        table.push_str(&format!("size=4MiB, type={kind}{more}\\n"));
        let uuid = if *place == "uuid" { "11111111-2222-4333-8444-555555555555" } else { "random" };
        script.push_str(&format!(
            "mkdir content-{place}; echo {place} >content-{place}/file; mke2fs -q -t ext4 -O ^has_journal -U {uuid} -L {place} -d content-{place} part 4M; \
             dd if=part of=disk.img bs=1M seek={} conv=notrunc status=none; rm part; ",
            25 + number * 4
        ));
    }
    script.push_str(&format!("printf \"{table}\" | sfdisk -q --no-reread --no-tell-kernel disk.img; dd if=root of=disk.img bs=1M seek=1 conv=notrunc status=none"));
    shell(&script);
    let told = inspect(&["--json"], &image);
    let system = &told["systems"][0];
    let missing = [
        "/dev/vdb1 on /missing: no such device",
        "LABEL=none on /missing: no such device",
        "nas:/export on /nas: not on this machine (nfs)",
    ];
    assert_eq!(system["missing"], serde_json::json!(missing));
    let mut expected = vec![String::from("/ /dev/sda1")];
    expected.extend(places.iter().enumerate().map(|(number, place)| format!("/{place} /dev/sda{}", number + 2)));
    expected.extend([String::from("/srv /dev/sda11"), String::from("/bound /dev/sda3")]);
    assert_eq!(mounts(system), expected);
    let path = image.to_str().expect("plain");
    for place in places.iter().chain(&["srv", "bound"]) {
        let (code, printed, said) = guestctl(&["cat", path, &format!("/{place}/file")]);
        let text = if *place == "bound" { "label" } else { place };
        assert_eq!((code, String::from_utf8_lossy(&printed).trim()), (0, text), "{said}");
    }
    let (code, printed, said) = guestctl(&["inspect", "--xml", path]);
    let xml = String::from_utf8(printed).expect("text");
    assert!(code == 0 && xml.contains("<mountpoint dev=\"/dev/sda2\">/uuid</mountpoint>"), "{said} {xml}");
    assert!(xml.contains("<name>base-files</name>"), "{xml}");
}
