//! Guests whose filesystems lie in volumes, or are put together in ways of their own.

mod common;
#[path = "common/debian.rs"]
mod debian;

use common::guest::{Workspace, guestctl};
use common::{has_tool, skip};
use debian::{BOOT_UUID, debian, disk, inspect, is_one_tree, mounts, ready, shell, within};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// Makes an ext4 filesystem of a folder.
fn ext4(workspace: &Workspace, name: &str, content: &Path) -> PathBuf {
    let image = workspace.path(name);
    shell(&format!("mke2fs -q -t ext4 -L {name} -d {} {} 24M", content.display(), image.display()));
    image
}

/// Makes an encrypted volume of a filesystem, by QEMU; its UUID is `uuid`.
fn encrypted(workspace: &Workspace, plain: &Path, uuid: &str) -> PathBuf {
    let image = workspace.path(&format!("{}.luks", plain.file_name().expect("a name").to_str().expect("plain")));
    shell(&format!(
        "qemu-img convert -f raw --object secret,id=key,data=secret -O luks -o key-secret=key,iter-time=10 {} {}",
        plain.display(),
        image.display()
    ));
    // The first version of LUKS has its UUID as text, and no checksum.
    let mut bytes = fs::read(&image).expect("made");
    assert_eq!(&bytes[..6], b"LUKS\xba\xbe");
    bytes[168..204].copy_from_slice(uuid.as_bytes());
    let whole = bytes.len().next_multiple_of(1 << 20);
    bytes.resize(whole, 0);
    fs::write(&image, bytes).expect("room");
    image
}

#[test]
fn a_root_on_an_encrypted_volume_is_one_tree_where_its_key_is_known() {
    const ROOT: &str = "11111111-2222-4333-8444-555555555555";
    const HOME: &str = "66666666-7777-4888-8999-aaaaaaaaaaaa";
    let Some(workspace) = ready("ext4") else { return };
    if !has_tool("qemu-img") {
        return skip("there is no qemu-img");
    }
    let tree = workspace.folder("tree");
    debian(&tree);
    let fstab = format!(
        "/dev/mapper/cryptroot / ext4 defaults 0 1\n/dev/mapper/luks-{HOME} /home ext4 defaults 0 2\n\
         UUID={BOOT_UUID} /boot/efi vfat umask=0077 0 1\n"
    );
    fs::write(tree.join("etc/fstab"), fstab).expect("written");
    fs::write(tree.join("etc/crypttab"), format!("cryptroot UUID={ROOT} none luks\n")).expect("written");
    let root = encrypted(&workspace, &ext4(&workspace, "root", &tree), ROOT);
    let people = workspace.folder("people");
    fs::create_dir_all(people.join("ann")).expect("made");
    fs::write(people.join("ann/notes"), "notes\n").expect("written");
    let home = encrypted(&workspace, &ext4(&workspace, "home", &people), HOME);
    let disk = disk(&workspace, &[root, home]);
    let file = workspace.path("key");
    fs::write(&file, "secret").expect("written");
    let key = format!("all:file:{}", file.display());
    // Without the key it is said what there is.
    let told = inspect(&["--json"], &disk);
    assert_eq!(told["systems"], Value::Array(Vec::new()));
    let warnings = told["filesystems"][1]["warnings"].to_string();
    assert!(told["filesystems"][1]["locked"] == true && warnings.contains("encrypted"), "{told:#}");
    // With it the names of crypttab and those that systemd makes lead to what was opened.
    let told = inspect(&["--json", "--key", &key], &disk);
    let system = &told["systems"][0];
    let opened: Vec<&str> = told["filesystems"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|found| found["volume"] == "crypt")
        .map(|found| found["device"].as_str().expect("text"))
        .collect();
    assert_eq!(opened.len(), 2, "{told:#}");
    assert_eq!(system["root"], opened[0]);
    assert_eq!(system["hostname"], "guest");
    assert_eq!(
        mounts(system),
        [format!("/ {}", opened[0]), format!("/home {}", opened[1]), "/boot/efi /dev/sda1".to_owned()]
    );
    assert_eq!((&system["missing"], &system["crypttab"][0]["name"]), (&Value::Array(Vec::new()), &"cryptroot".into()));
    assert!(!told.to_string().contains("is not read"), "what was opened is read: {told:#}");
    let copied = format!("cp -a {}/ann {}/home/", people.display(), tree.display());
    shell(&copied);
    shell(&format!("touch -r {} {}/home", people.display(), tree.display()));
    for (path, text) in [("/etc/hostname", "guest\n"), ("/home/ann/notes", "notes\n"), ("/boot/efi/loader", "loader\n")]
    {
        let (code, printed, said) = guestctl(&["cat", "--key", &key, disk.to_str().expect("plain"), path]);
        assert_eq!((code, String::from_utf8_lossy(&printed).as_ref()), (0, text), "{said}");
    }
    // mke2fs makes lost+found in both.
    shell(&format!("mkdir -m 700 {0}/lost+found {0}/home/lost+found", tree.display()));
    shell(&format!("for i in {0} {0}/home; do touch -d @0 $i $i/lost+found; done", tree.display()));
    let mounted = workspace.mount("both", disk.as_os_str(), &["--key", &key]);
    let differences = shell(&format!(
        "rsync -aHAXnciO --omit-dir-times --delete --exclude=/boot/efi {}/ {}/",
        tree.display(),
        mounted.folder.display()
    ));
    assert_eq!(differences, "");
    mounted.umount();
}

/// Makes what is on the disk of a MicroOS, as its two ways to have `/etc`: a subvolume of each snapshot, or an overlay. Returns
/// the disk, and fills `tree` with what the kernel shows of it.
fn microos(workspace: &Workspace, tree: &Path, overlay: bool) -> PathBuf {
    debian(tree);
    for (path, text) in [
        ("usr/lib/os-release", "ID=opensuse-microos\nNAME=\"openSUSE MicroOS\"\nVERSION_ID=20240801\n"),
        ("etc/gone", "old\n"),
        ("etc/replaced.d/old", "old\n"),
        ("etc/added.d/old", "old\n"),
    ] {
        fs::create_dir_all(tree.join(path).parent().expect("a folder")).expect("made");
        fs::write(tree.join(path), text).expect("written");
    }
    fs::remove_file(tree.join("etc/debian_version")).expect("made");
    let root = workspace.path("root.btrfs");
    shell(&format!("truncate -s 256M {0}; mkfs.btrfs -q -L system {0}", root.display()));
    let uuid = shell(&format!("blkid -p -s UUID -o value {}", root.display()));
    let etc = if overlay {
        "overlay /etc overlay defaults,lowerdir=/sysroot/var/lib/overlay/1/etc:/sysroot/etc,upperdir=/sysroot/var/lib/overlay/2/etc,\
         workdir=/sysroot/var/lib/overlay/work-etc,x-systemd.requires-mounts-for=/var,x-initrd.mount 0 0"
    } else {
        "/etc /etc none bind,x-initrd.mount 0 0"
    };
    let mut fstab = format!("UUID={uuid} / btrfs ro 0 0\n{etc}\nUUID={BOOT_UUID} /boot/efi vfat umask=0077 0 1\n");
    for (folder, option) in
        [("var", ",x-initrd.mount"), ("home", ""), ("root", ",x-initrd.mount"), ("usr/local", ""), (".snapshots", "")]
    {
        fstab.push_str(&format!("UUID={uuid} /{folder} btrfs subvol=/@/{folder}{option} 0 0\n"));
        fs::create_dir_all(tree.join(folder)).expect("made");
    }
    fs::write(tree.join("etc/fstab"), fstab).expect("written");
    let more = if overlay { "" } else { "btrfs -q subvolume create @/.snapshots/1/snapshot/etc" };
    // The second snapshot is the default one: the first has been updated.
    let script = format!(
        "btrfs -q subvolume create @; mkdir @/usr
         for i in .snapshots var home root usr/local; do btrfs -q subvolume create @/$i; done
         mkdir @/.snapshots/1 @/.snapshots/2
         btrfs -q subvolume create @/.snapshots/1/snapshot
         {more}
         rsync -aHAX --exclude='/var/*' --exclude='/home/*' {tree}/ @/.snapshots/1/snapshot/
         rsync -aHAX {tree}/var/ @/var/; mkdir @/home/ann; echo notes >@/home/ann/notes
         btrfs -q subvolume snapshot @/.snapshots/1/snapshot @/.snapshots/2/snapshot
         if [ -e @/.snapshots/2/snapshot/etc/fstab ]; then :; else
           rmdir @/.snapshots/2/snapshot/etc; btrfs -q subvolume snapshot @/.snapshots/1/snapshot/etc @/.snapshots/2/snapshot/etc
         fi
         btrfs -q subvolume set-default @/.snapshots/2/snapshot",
        tree = tree.display()
    );
    within(workspace, &root, &script);
    let changes =
        "echo core >etc/hostname; rm -r etc/gone etc/replaced.d; mkdir etc/replaced.d; echo new >etc/replaced.d/new
         echo new >etc/added.d/new; setfattr -n user.kept -v yes etc/added.d";
    // The kernel puts it together; what it shows is what the program must show.
    let etc = if overlay {
        "mkdir -p var/lib/overlay/1/etc var/lib/overlay/2/etc var/lib/overlay/work-etc
         echo older >var/lib/overlay/1/etc/hostname; echo one >var/lib/overlay/1/etc/one
         mount -t overlay -o lowerdir=var/lib/overlay/1/etc:etc,upperdir=var/lib/overlay/2/etc,workdir=var/lib/overlay/work-etc overlay etc"
    } else {
        ":"
    };
    let script = format!(
        "for i in .snapshots var home root usr/local; do mount -o subvol=@/$i $(findmnt -no SOURCE . | cut -d'[' -f1) $i; done
         {etc}; {changes}; rsync -aHAX --delete --exclude=/boot/efi/ ./ {tree}/; mkdir -p {tree}/boot/efi
         cd /; umount -R {kernel}",
        tree = tree.display(),
        kernel = workspace.path("kernel").display()
    );
    let (image, kernel) = (root.display(), workspace.folder("kernel"));
    shell(&format!(
        "mount -o loop {image} {0}; trap 'umount -R {0} 2>/dev/null || true' EXIT; cd {0}; {script}",
        kernel.display()
    ));
    disk(workspace, &[root])
}

#[test]
fn a_transactional_system_is_one_tree_with_the_etc_of_its_snapshot() {
    for overlay in [false, true] {
        let Some(workspace) = ready("btrfs") else { return };
        if !has_tool("setfattr")
            || overlay && !fs::read_to_string("/proc/filesystems").unwrap_or_default().contains("overlay")
        {
            return skip("there is no setfattr, or the kernel has no overlayfs");
        }
        let tree = workspace.folder("tree");
        let disk = microos(&workspace, &tree, overlay);
        let told = inspect(&["--json"], &disk);
        let systems = told["systems"].as_array().expect("a list");
        assert_eq!(systems.len(), 1, "{systems:#?}");
        let system = &systems[0];
        assert_eq!((&system["distro"], &system["hostname"]), (&"opensuse".into(), &"core".into()), "{system:#}");
        assert_eq!((&system["root"], &system["missing"]), (&"/dev/sda2".into(), &Value::Array(Vec::new())));
        let mut expected =
            vec!["/ /dev/sda2", "/var /dev/sda2 @/var", "/home /dev/sda2 @/home", "/root /dev/sda2 @/root"];
        expected.push("/.snapshots /dev/sda2 @/.snapshots");
        if overlay {
            expected.push("/etc /dev/sda2 @/var");
        }
        expected.extend(["/boot/efi /dev/sda1", "/usr/local /dev/sda2 @/usr/local"]);
        assert_eq!(mounts(system), expected);
        if overlay {
            assert_eq!(system["mounts"][5]["lower"], serde_json::json!(["/var/lib/overlay/1/etc", "/etc"]));
        }
        is_one_tree(&workspace, &disk, &tree, &[]);
        let (code, _, said) = guestctl(&["cat", disk.to_str().expect("plain"), "/etc/gone"]);
        assert_ne!(code, 0, "{said}");
    }
}

#[test]
fn containers_in_layers_that_the_kernel_made_are_told_as_they_run() {
    let Some(workspace) = ready("ext4") else { return };
    if !fs::read_to_string("/proc/filesystems").unwrap_or_default().contains("overlay") || !has_tool("getfattr") {
        return skip("the kernel has no overlayfs, or there is no getfattr");
    }
    let tree = workspace.folder("tree");
    debian(&tree);
    let root = ext4(&workspace, "root", &tree);
    // With privileges Docker's way to say that a folder hides those below it, without them Podman's.
    let store = "base=$PWD/$store/base/diff; own=$PWD/$store/own/diff; mkdir -p $store/l $base/etc $base/usr/lib $base/bin $own $store/own/work merged
         ln -s ../base/diff $store/l/BASE; echo l/BASE >$store/own/lower; echo base >$base/etc/hostname
         printf 'ID=debian\\nVERSION_ID=12\\n' >$base/usr/lib/os-release; touch $base/bin/sh $base/etc/passwd
         mount -t overlay -o lowerdir=$base,upperdir=$own,workdir=$store/own/work$option overlay merged
         rm merged/etc/hostname; rm -r merged/usr/lib; mkdir merged/usr/lib; echo 3.20.1 >merged/etc/alpine-release
         umount merged; getfattr -R -d -m . --only-values $own/usr | grep -q y; test -c $own/etc/hostname";
    let script = format!(
        "store=var/lib/docker/overlay2; option=; {store}
         mkdir -p var/lib/docker/containers/c var/lib/docker/image/overlay2/layerdb/mounts/c
         printf own >var/lib/docker/image/overlay2/layerdb/mounts/c/mount-id
         store=home/ann/.local/share/containers/storage/overlay; option=,userxattr; {store}
         mkdir $store-containers; echo '[{{\"layer\":\"own\"}}]' >$store-containers/containers.json"
    );
    within(&workspace, &root, &script);
    let told = inspect(&["--json"], &root);
    let containers = told["systems"][0]["containers"].as_array().expect("a list");
    let paths: Vec<&Value> = containers.iter().map(|one| &one["path"]).collect();
    let podman = "/home/ann/.local/share/containers/storage/overlay/own/diff";
    assert_eq!(paths, ["/var/lib/docker/overlay2/own/diff", podman], "{told:#}");
    for container in containers {
        let system = &container["system"];
        assert_eq!((&system["distro"], &system["hostname"]), (&"alpinelinux".into(), &Value::Null), "{container:#}");
    }
}

#[test]
fn a_system_in_an_image_of_composefs_is_one_tree_as_overlayfs_makes_it() {
    let Some(workspace) = ready("erofs") else { return };
    if !fs::read_to_string("/proc/filesystems").unwrap_or_default().contains("overlay") || !has_tool("getfattr") {
        return skip("the kernel has no overlayfs, or there is no getfattr");
    }
    let content = workspace.folder("content");
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/inspect/composefs.tar.zst");
    shell(&format!("zstd -qdc {} | tar --xattrs --xattrs-include='*' -xC {}", archive.display(), content.display()));
    let root = ext4(&workspace, "root", &content);
    // The kernel puts it together of the deployment that the newest entry starts.
    let (kernel, tree, image) = (workspace.folder("kernel"), workspace.folder("tree"), workspace.folder("image"));
    shell(&format!(
        "mount -o loop {0} {1}; trap 'umount -R {3} 2>/dev/null; umount {2} {1}' EXIT
         id=$(sed -n 's/.*composefs=?//p' {1}/boot/loader/entries/bootc-2.conf)
         mount -t erofs -o loop,ro {1}/composefs/images/$id {2}
         mount -t overlay overlay -o ro,metacopy=on,redirect_dir=on,lowerdir={2}::{1}/composefs/objects {3}
         mount --bind {1}/state/deploy/$id/etc {3}/etc; mount --bind {1}/state/os/default/var {3}/var
         mount --bind {1} {3}/sysroot; rsync -aHAX {3}/ {4}/",
        root.display(),
        kernel.display(),
        image.display(),
        workspace.folder("composed").display(),
        tree.display()
    ));
    let disk = disk(&workspace, &[root]);
    let told = inspect(&["--json"], &disk);
    let systems = told["systems"].as_array().expect("a list");
    assert_eq!(systems.len(), 1, "{systems:#?}");
    let system = &systems[0];
    let facts = (&system["distro"], &system["version"]["major"], &system["hostname"], &system["arch"]);
    assert_eq!(facts, (&"fedora".into(), &42.into(), &"host-42".into(), &"x86_64".into()), "{system:#}");
    assert_eq!((&system["users"][1]["name"], &system["kernels"][0]["version"]), (&"core".into(), &"6.42".into()));
    assert_eq!(system["warnings"], Value::Array(Vec::new()));
    assert!(system["mounts"][0]["image"].as_str().expect("an image").starts_with("/composefs/images/"), "{system:#}");
    assert_eq!(
        mounts(system),
        ["/ /dev/sda2", "/etc /dev/sda2", "/sysroot /dev/sda2", "/var /dev/sda2", "/boot /dev/sda1"]
    );
    let mounted = workspace.mount("mnt", disk.as_os_str(), &[]);
    let (tree, shown) = (tree.display(), mounted.folder.display());
    let differences = shell(&format!(
        "rsync -aHAXnci --delete --exclude=/boot {tree}/ {shown}/; diff <(cd {tree}; getfattr -R -d -m . usr var etc | sort) <(cd {shown}; getfattr -R -d -m . usr var etc | sort)"
    ));
    assert_eq!(differences, "");
    mounted.umount();
    // Without the objects that hold contents it is said which file lacks them, and the rest is shown.
    shell(&format!(
        "cd {}/composefs/objects; find . -size -20000c -size +5000c ! -size 16384c -delete",
        content.display()
    ));
    let damaged = ext4(&workspace, "damaged", &content);
    let cat = |name: &str| guestctl(&["cat", damaged.to_str().expect("plain"), name]);
    let (code, _, said) = cat("/usr/lib/large");
    assert!(code != 0 && said.contains("its object is missing"), "{said}");
    assert_eq!(cat("/usr/lib/small").1, b"small\n");
    // An image that names what is no object of its own reaches nothing.
    shell(&format!(
        "cd {0}; image=$(readlink -f composefs/images/$(sed -n 's/.*composefs=?//p' boot/loader/entries/bootc-2.conf)); mkdir -p {1}/usr/lib {1}/bin {1}/etc {1}/var
         echo ID=fedora >{1}/usr/lib/os-release; touch {1}/bin/sh; for i in up:/../../boot/loader/entries/bootc-1.conf folder:/ way:/link; do
           truncate -s 20 {1}/usr/lib/${{i%%:*}}; setfattr -n trusted.overlay.redirect -v ${{i#*:}} {1}/usr/lib/${{i%%:*}}; done
         ln -s ../../boot/loader/entries/bootc-1.conf composefs/objects/link; rm $image; mkfs.erofs --quiet $image {1}",
        content.display(),
        workspace.folder("hostile").display()
    ));
    let hostile = ext4(&workspace, "hostile.img", &content);
    for name in ["up", "folder", "way"] {
        let (code, printed, said) = guestctl(&["cat", hostile.to_str().expect("plain"), &format!("/usr/lib/{name}")]);
        assert!(code != 0 && printed.is_empty() && said.contains("its object is missing"), "{name}: {said}");
    }
}

#[test]
fn a_flatcar_is_told_with_the_usr_that_boots() {
    let Some(workspace) = ready("ext4") else { return };
    let tree = workspace.folder("tree");
    debian(&tree);
    fs::remove_file(tree.join("etc/debian_version")).expect("made");
    // Its root has links into a /usr that is not there, of which there are two.
    let usr = tree.join("usr");
    let release = |version: &str| format!("ID=flatcar\nNAME=\"Flatcar\"\nVERSION_ID={version}\n");
    let mut parts = Vec::new();
    for (name, version) in [("usr-a", "3602.2.0"), ("usr-b", "3760.1.0")] {
        fs::write(usr.join("lib/os-release"), release(version)).expect("written");
        parts.push(ext4(&workspace, name, &usr));
    }
    let kept = workspace.path("usr");
    fs::rename(&usr, &kept).expect("ours");
    fs::create_dir(&usr).expect("ours");
    parts.push(ext4(&workspace, "ROOT", &tree));
    let image = workspace.path("flatcar.img");
    for (attributes, version, device) in
        [(["GUID:48,GUID:56", ""], 3602, "/dev/sda1"), (["GUID:48,GUID:56", "GUID:49,GUID:56"], 3760, "/dev/sda2")]
    {
        let type_of_usr = "5DFBF5F4-2848-4BAC-AA5E-0D9A20B745A6";
        let mut table = String::from("label: gpt\\n");
        for (name, attributes) in ["USR-A", "USR-B"].iter().zip(attributes) {
            table.push_str(&format!("size=24MiB, type={type_of_usr}, name={name}, attrs=\\\"{attributes}\\\"\\n"));
        }
        table.push_str("size=24MiB, type=linux, name=ROOT\\n");
        shell(&format!(
            "truncate -s 74M {0}; printf \"{table}\" | sfdisk -q --no-reread --no-tell-kernel {0}",
            image.display()
        ));
        for (place, part) in parts.iter().enumerate() {
            let at = 1 + 24 * place;
            shell(&format!("dd if={} of={} bs=1M seek={at} conv=notrunc status=none", part.display(), image.display()));
        }
        let told = inspect(&["--json"], &image);
        let system = &told["systems"][0];
        assert_eq!((&system["distro"], &system["root"]), (&"flatcar".into(), &"/dev/sda3".into()), "{told:#}");
        assert_eq!(system["version"]["major"], version);
        assert_eq!(mounts(system), ["/ /dev/sda3", &format!("/usr {device}")]);
        let (code, printed, said) = guestctl(&["cat", image.to_str().expect("plain"), "/etc/os-release"]);
        assert_eq!((code, String::from_utf8_lossy(&printed).contains(&version.to_string())), (0, true), "{said}");
    }
}

#[test]
fn what_one_of_several_systems_mounts_stays_in_its_own_folder() {
    let Some(workspace) = ready("ext4") else { return };
    let tree = workspace.folder("tree");
    debian(&tree);
    fs::write(tree.join("etc/fstab"), "LABEL=first / ext4 defaults 0 1\n").expect("written");
    let first = ext4(&workspace, "first", &tree);
    // The second system would put its data over what the first one has, by links out of its own folder.
    fs::write(tree.join("etc/hostname"), "second\n").expect("written");
    let fstab =
        "LABEL=second / ext4 defaults 0 1\nLABEL=data /data ext4\nLABEL=data /more ext4\nLABEL=data /plain ext4\n";
    fs::write(tree.join("etc/fstab"), fstab).expect("written");
    for (target, name) in [("/sda2/etc", "data"), ("../../sda2/usr", "more"), ("/var", "plain")] {
        std::os::unix::fs::symlink(target, tree.join(name)).expect("made");
    }
    let second = ext4(&workspace, "second", &tree);
    let data = workspace.folder("stuff");
    fs::write(data.join("hostname"), "taken over\n").expect("written");
    let disk = disk(&workspace, &[first, second, ext4(&workspace, "data", &data)]);
    let path = disk.to_str().expect("plain");
    let cat = |file: &str| {
        let (code, printed, said) = guestctl(&["cat", path, file]);
        (code, String::from_utf8_lossy(&printed).into_owned(), said)
    };
    assert_eq!(cat("/sda2/etc/hostname").1, "guest\n");
    assert_eq!(cat("/sda2/usr/hostname").0, 7);
    assert_eq!(cat("/sda3/etc/hostname").1, "second\n");
    // A link within its own tree leads where the guest would have it.
    assert_eq!(cat("/sda3/var/hostname").1, "taken over\n");
}

#[test]
fn what_cannot_be_opened_is_warned_of() {
    let workspace = Workspace::new();
    let image = workspace.path("windows.img");
    let mut bytes = vec![0; 2 << 20];
    for (at, part) in [
        (0, &b"\xeb\x58\x90-FVE-FS-"[..]),
        (160, b"\x3b\xd6\x67\x49\x29\x2e\xd8\x4a\x83\x99\xf6\xa3\x39\xe3\xd0\x01"),
        (176, &0x10000_u64.to_le_bytes()),
        (0x10000, b"-FVE-FS-\x40\0\x02\0"),
    ] {
        bytes[at..at + part.len()].copy_from_slice(part);
    }
    fs::write(&image, bytes).expect("written");
    let page = |image: &Path, more: &[&str]| {
        let mut arguments: Vec<&OsStr> = vec!["inspect".as_ref(), image.as_ref()];
        arguments.extend(more.iter().map(OsStr::new));
        let (code, printed, said) = guestctl(&arguments);
        assert_eq!(code, 0, "{said}");
        String::from_utf8(printed).expect("text")
    };
    let text = page(&image, &[]);
    assert!(text.contains("Warnings:") && text.contains("encrypted (BitLocker)"), "{text}");
    // A volume group of five disks, of which one is there.
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/volumes/lvm.tar.zst");
    let archive = zstd::decode_all(fs::File::open(archive).expect("in the repository")).expect("whole");
    let mut archive = tar::Archive::new(&archive[..]);
    let disks = workspace.folder("disks");
    archive.unpack(&disks).expect("room");
    let disk = shell(&format!("find {} -type f | sort | head -n 1", disks.display()));
    let text = page(Path::new(&disk), &[]);
    assert!(text.contains("Warnings:") && text.contains("4 of 5 physical volumes are missing"), "{text}");
}
