use super::discover::{COREOS_USR, DISCOVERABLE, EFI_SYSTEM, USR};
use super::part::{disk_of, multipath_of, part_of};
use super::*;
use crate::inspect::fstab;

fn device(name: &str) -> DeviceId {
    DeviceId { name: name.into(), kind: Some("ext4".into()), ..DeviceId::default() }
}

fn root(device: &str, lines: &str) -> RootCandidate {
    RootCandidate { device: device.into(), mounts: fstab::parse(lines.as_bytes()), ..RootCandidate::default() }
}

fn shown(assembly: &Assembly) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mounts = assembly.mounts.iter().map(|placed| {
        let subvolume = placed.subvolume.as_deref().map(|name| format!(" subvol={}", text(name)));
        let folder = placed.folder.as_deref().map(|name| format!(" folder={}", text(name)));
        let (subvolume, folder) = (subvolume.unwrap_or_default(), folder.unwrap_or_default());
        format!("{} {}{subvolume}{folder}", placed.device, text(&placed.mountpoint))
    });
    mounts.collect()
}

#[test]
fn disks_of_another_bus_are_found_by_the_roots_own_line() {
    let devices = ["/dev/sda1", "/dev/sda2", "/dev/sda3", "/dev/sdb1"].map(device);
    let lines =
        "/dev/vda2 / ext4\n/dev/vda1 /boot ext4\n/dev/vdb1 /data xfs\n/dev/vdc1 /none xfs\n/dev/vda3 swap swap\n";
    let assembly = assemble(&root("/dev/sda2", lines), &devices);
    assert_eq!(shown(&assembly), ["/dev/sda2 /", "/dev/sda1 /boot", "/dev/sdb1 /data"]);
    assert_eq!(assembly.missing, ["/dev/vdc1 on /none: no such device"]);
    assert_eq!(assembly.swaps, ["/dev/sda3"]);
    // The guest calls the disk of its root sdb, here it is the first one.
    let assembly = assemble(&root("/dev/sda2", "/dev/sdb2 / ext4\n/dev/sdb1 /boot ext4\n"), &devices);
    assert_eq!(shown(&assembly), ["/dev/sda2 /", "/dev/sda1 /boot"]);
    let assembly = assemble(&root("/dev/sda2", "/dev/nvme0n1p2 / ext4\n/dev/nvme0n1p1 /boot/efi vfat\n"), &devices);
    assert_eq!(shown(&assembly), ["/dev/sda2 /", "/dev/sda1 /boot/efi"]);
    let assembly = assemble(&root("/dev/sda2", "UUID=x / ext4\n/dev/mmcblk1p1 /data ext4\n"), &devices);
    assert_eq!(shown(&assembly), ["/dev/sda2 /", "/dev/sdb1 /data"]);
}

#[test]
fn tags_volumes_and_encrypted_devices_are_found() {
    let mut devices = ["/dev/sda1", "/dev/sda2", "/dev/sda3", "/dev/vg-0/my-lv", "/dev/mapper/opened"].map(device);
    devices[0].uuid = Some("ABCD-1234".into());
    devices[1].label = Some(b"data disk".to_vec());
    devices[1].part_label = Some("stuff".into());
    devices[2].uuid = Some("11111111-2222".into());
    devices[2].kind = Some("crypto_LUKS".into());
    devices[3].aliases = vec!["/dev/mapper/vg--0-my--lv".into()];
    devices[4].backing = Some("/dev/sda3".into());
    let lines = "/dev/mapper/vg--0-my--lv / ext4\nUUID=abcd-1234 /boot/efi vfat\nLABEL=data\\040disk /d ext4\n\
        PARTLABEL=stuff /e ext4\n/dev/mapper/secret /home ext4\n/dev/mapper/luks-11111111-2222 /h2 ext4\n";
    let mut root = root("/dev/vg-0/my-lv", lines);
    root.crypttab.push(CryptEntry {
        name: "secret".into(),
        device: "UUID=11111111-2222".into(),
        key: None,
        options: Vec::new(),
    });
    let assembly = assemble(&root, &devices);
    assert_eq!(assembly.missing, [""; 0]);
    assert_eq!(
        shown(&assembly),
        [
            "/dev/vg-0/my-lv /",
            "/dev/sda2 /d",
            "/dev/sda2 /e",
            "/dev/mapper/opened /home",
            "/dev/mapper/opened /h2",
            "/dev/sda1 /boot/efi",
        ]
    );
}

#[test]
fn crypttab_is_followed_through_the_names_of_the_device_mapper_and_never_in_a_circle() {
    let mut devices =
        ["/dev/sda1", "/dev/sda2", "/dev/sda3", "/dev/mapper/luks-outer", "/dev/mapper/luks-inner"].map(device);
    devices[1].uuid = Some("outer".into());
    devices[3].backing = Some("/dev/sda2".into());
    devices[3].uuid = Some("inner".into());
    devices[4].backing = Some("/dev/mapper/luks-outer".into());
    let mut root = root("/dev/sda1", "");
    for (name, device) in [
        ("outer", "UUID=outer"),
        ("inner", "/dev/mapper/outer"),
        ("byid", "/dev/disk/by-id/dm-name-inner"),
        ("multi", "/dev/mapper/mpatha3"),
        ("none", "/dev/mapper/nothing"),
        ("luks-outer2", "/dev/mapper/luks-outer"),
        ("self", "/dev/mapper/self"),
        ("selfid", "/dev/disk/by-id/dm-name-selfid"),
        ("one", "/dev/mapper/two"),
        ("two", "/dev/disk/by-id/dm-name-one"),
    ] {
        root.crypttab.push(CryptEntry { name: name.into(), device: device.into(), key: None, options: Vec::new() });
        let line = format!("/dev/mapper/{name} /{name} ext4\n");
        root.mounts.extend(fstab::parse(line.as_bytes()));
    }
    let assembly = assemble(&root, &devices);
    let opened = "/dev/mapper/luks-inner";
    assert_eq!(
        shown(&assembly)[1..],
        [
            format!("{opened} /outer"),
            format!("{opened} /inner"),
            format!("{opened} /byid"),
            "/dev/sda3 /multi".into(),
            format!("{opened} /luks-outer2"),
        ]
    );
    assert_eq!(assembly.missing.len(), 5);
}

#[test]
fn subvolumes_and_binds_are_placed_and_circles_do_no_harm() {
    let mut devices = ["/dev/sda2", "/dev/sdb1"].map(device);
    devices[0].uuid = Some("b".into());
    devices[1].uuid = Some("b".into());
    let lines = "UUID=b / btrfs subvol=@\nUUID=b /home btrfs subvol=@home\n/home/ann /srv/ann none bind\n\
        /a /b none bind\n/b /a none bind\n/srv/ann/x /y none rbind\n/ / none bind\ntmpfs /tmp tmpfs\n\
        nas:/x /nas nfs defaults\nUUID=b /old btrfs noauto\n";
    let mut root = root("/dev/sda2", lines);
    root.subvolume = Some(b"@".to_vec());
    let assembly = assemble(&root, &devices);
    assert_eq!(
        shown(&assembly),
        [
            "/dev/sda2 / subvol=@",
            "/dev/sda2 /home subvol=@home",
            "/dev/sda2 /b subvol=@ folder=/a",
            "/dev/sda2 /a subvol=@ folder=/a",
            "/dev/sda2 /y subvol=@home folder=/ann/x",
            "/dev/sda2 /srv/ann subvol=@home folder=/ann",
        ]
    );
    assert_eq!(assembly.missing.len(), 2);
}

#[test]
fn overlays_are_placed_with_the_folders_that_they_are_made_of() {
    let mut devices = ["/dev/sda2", "/dev/sda3"].map(device);
    devices[1].uuid = Some("var".into());
    let lines = "/dev/gpt-auto-root / btrfs ro\nUUID=var /var btrfs subvol=/@/var,x-initrd.mount\n\
        overlay /etc overlay lowerdir=/sysroot/var/lib/overlay/1/etc:/sysroot/etc,upperdir=/sysroot/var/lib/overlay/2/etc,\
        workdir=/sysroot/var/lib/overlay/work-etc,x-initrd.mount\n/dev/gpt-auto-root /root btrfs subvol=/@/root\n\
        /etc /etc none bind,x-initrd.mount\n/etc/ssh /keys none bind\noverlay /none overlay defaults\n\
        overlay /rel overlay lowerdir=a:b\noverlay /two overlay lowerdir=/sysroot/a:/b\n";
    let assembly = assemble(&root("/dev/sda2", lines), &devices);
    let etc = "/dev/sda3 /etc subvol=@/var folder=/lib/overlay/2/etc";
    assert_eq!(
        shown(&assembly),
        [
            "/dev/sda2 /",
            "/dev/sda3 /var subvol=@/var",
            "/dev/sda2 /root subvol=@/root",
            etc,
            "/dev/sda2 /two folder=/sysroot/a"
        ]
    );
    let lower: Vec<String> = shown(&Assembly { mounts: assembly.mounts[3].lower.clone(), ..Assembly::default() });
    let below = "/dev/sda3 /var/lib/overlay/1/etc subvol=@/var folder=/lib/overlay/1/etc";
    assert_eq!(lower, [below, "/dev/sda2 /etc folder=/etc"]);
    assert_eq!(
        assembly.missing,
        [
            "/etc/ssh on /keys: lies in an overlay or an image",
            "overlay on /none: an overlay of folders that cannot be told",
            "overlay on /rel: an overlay of folders that cannot be told",
        ]
    );
}

#[test]
fn partitions_are_discovered_by_their_types_when_there_is_no_fstab() {
    let mut devices = ["/dev/sda1", "/dev/sda2", "/dev/sda3", "/dev/sdb1", "/dev/sda4"].map(device);
    devices[0].part_type_guid = Some(EFI_SYSTEM.into());
    devices[1].part_type_guid = Some("4f68bce3-e8cd-4db1-96e7-fbcaf984b709".into());
    devices[2].part_type_guid = Some("933ac7e1-2eb4-4f13-b844-0e14e2aef915".into());
    devices[3].part_type_guid = Some("3b8f8425-20e0-4f3b-907f-1a25a76f98e8".into());
    devices[4].part_type_guid = Some(USR[0].1.into());
    let mut root = root("/dev/sda2", "");
    root.arch = Some("x86_64".into());
    assert_eq!(
        shown(&assemble(&root, &devices)),
        ["/dev/sda2 /", "/dev/sda1 /boot", "/dev/sda3 /home", "/dev/sda4 /usr"]
    );
}

#[test]
fn partitions_that_fstab_does_not_name_are_discovered_beside_it() {
    let mut devices = ["/dev/sda1", "/dev/sda2", "/dev/sda3", "/dev/sda4"].map(device);
    let (home, srv) = (DISCOVERABLE[0].0, DISCOVERABLE[1].0);
    for (device, guid) in devices.iter_mut().zip([EFI_SYSTEM, "", home, srv]) {
        device.part_type_guid = Some(guid.to_owned());
    }
    let assembly = assemble(&root("/dev/sda2", "/dev/vda2 / ext4\n"), &devices);
    assert_eq!(shown(&assembly), ["/dev/sda2 /", "/dev/sda3 /home", "/dev/sda4 /srv"]);
    // What fstab has elsewhere stays there, and a folder that it names is its own.
    let lines = "/dev/vda2 / ext4\n/dev/vda1 /boot/efi vfat\n/dev/vda3 /data ext4\n/dev/vdz1 /srv ext4\n";
    let assembly = assemble(&root("/dev/sda2", lines), &devices);
    assert_eq!(shown(&assembly), ["/dev/sda2 /", "/dev/sda3 /data", "/dev/sda1 /boot/efi"]);
}

#[test]
fn partitions_within_an_array_are_discovered() {
    let mut devices = ["/dev/sda1", "/dev/md127p1", "/dev/md127p2"].map(device);
    devices.iter_mut().for_each(|device| device.disk = Some("/dev/sda".into()));
    devices[1].part_type_guid = Some(DISCOVERABLE[0].0.into());
    let assembly = assemble(&root("/dev/md127p2", ""), &devices);
    assert_eq!(shown(&assembly), ["/dev/md127p2 /", "/dev/md127p1 /home"]);
}

#[test]
fn the_usr_that_boots_is_mounted_of_the_two_that_a_flatcar_has() {
    let mut devices = ["/dev/sda3", "/dev/sda4", "/dev/sda9"].map(device);
    let usr = |device: &mut DeviceId, attributes| {
        device.part_type_guid = Some(COREOS_USR.into());
        device.part_attributes = attributes;
    };
    let (priority, success) = (1_u64 << 48, 1_u64 << 56);
    usr(&mut devices[0], priority | success);
    usr(&mut devices[1], 0);
    let root = root("/dev/sda9", "");
    assert_eq!(shown(&assemble(&root, &devices)), ["/dev/sda9 /", "/dev/sda3 /usr"]);
    // An update has been written and is tried next; one that never worked is not taken.
    usr(&mut devices[1], (2 * priority) | (1 << 52));
    assert_eq!(shown(&assemble(&root, &devices))[1], "/dev/sda4 /usr");
    usr(&mut devices[1], 2 * priority);
    assert_eq!(shown(&assemble(&root, &devices))[1], "/dev/sda3 /usr");
}

#[test]
fn hardware_names_of_every_kind_are_found() {
    let mut devices = ["/dev/sda1", "/dev/sda2", "/dev/sdb1", "/dev/md127", "/dev/mapper/opened"].map(device);
    devices[0].part_uuid = Some("0badcafe-01".into());
    devices[3].array = Some("01234567:89abcdef:01234567:89abcdef".into());
    devices[3].aliases = vec!["/dev/md/home".into()];
    let lines = "PARTUUID=0BADCAFE-01 /a ext4\n/dev/disk/by-partuuid/0badcafe-01 /b ext4\n\
        /dev/disk/by-id/ata-DISK_1-part2 /c ext4\n/dev/disk/by-path/pci-0000:00:1f.2-ata-1-part1 /d ext4\n\
        /dev/md/home /e ext4\n/dev/md7 /f ext4\n/dev/cciss/c0d1p1 /g ext4\n/dev/nvme0n2p1 /h ext4\n\
        /dev/mapper/mpatha2 /i ext4\n/dev/mapper/mpathb-part1 /j ext4\n/dev/dm-3 /k ext4\n";
    let mut root = root("/dev/sda2", lines);
    root.arrays.push(ArrayEntry {
        device: "/dev/md7".into(),
        uuid: Some("01234567-89ab-cdef-0123-456789abcdef".into()),
        name: None,
    });
    let assembly = assemble(&root, &devices);
    assert_eq!(assembly.missing, [""; 0]);
    let expected = "/dev/sda2 /|/dev/sda1 /a|/dev/sda1 /b|/dev/sda2 /c|/dev/sda1 /d|/dev/md127 /e|/dev/md127 /f|\
        /dev/sdb1 /g|/dev/sdb1 /h|/dev/sda2 /i|/dev/sdb1 /j|/dev/mapper/opened /k";
    assert_eq!(shown(&assembly).join("|"), expected);
    // A multipath root tells which of its disks is ours.
    let multipath = self::root("/dev/sdb1", "/dev/mapper/mpatha1 / ext4\n/dev/mapper/mpatha2 /x ext4\n");
    assert_eq!(assemble(&multipath, &devices).missing, ["/dev/mapper/mpatha2 on /x: no such device"]);
    // With two of them nothing says which is which.
    let two = [devices[0].clone(), device("/dev/mapper/one"), device("/dev/mapper/two")];
    let assembly = assemble(&self::root("/dev/sda1", "/dev/dm-0 /x ext4\n"), &two);
    assert_eq!(assembly.missing, ["/dev/dm-0 on /x: no such device"]);
    for odd in ["/dev/nvme0n0p1", "/dev/nvme0p1", "/dev/cciss/c1d0p1", "/dev/cciss/c0d", "/dev/mapper/mpath"] {
        assert_eq!(part_of(odd).or_else(|| multipath_of(odd)), None, "{odd}");
    }
}

#[test]
fn a_deployment_is_put_together_of_its_folders() {
    let mut devices = ["/dev/sda3", "/dev/sda4"].map(device);
    devices[0].label = Some(b"boot".to_vec());
    let mut root = root("/dev/sda4", "");
    root.deployment = Some(Deployment {
        path: b"/ostree/deploy/os/deploy/c.0".to_vec(),
        var: b"/ostree/deploy/os/var".to_vec(),
        image: None,
    });
    assert_eq!(
        shown(&assemble(&root, &devices)),
        [
            "/dev/sda4 / folder=/ostree/deploy/os/deploy/c.0",
            "/dev/sda4 /sysroot",
            "/dev/sda4 /var folder=/ostree/deploy/os/var",
            "/dev/sda3 /boot",
        ]
    );
}

#[test]
fn paths_of_partitions_are_taken_apart() {
    let part = |path| part_of(path).map(|part| (part.disk, part.number));
    assert_eq!(part("/dev/sda1"), Some((0, Some(1))));
    assert_eq!(part("/dev/xvdaa12"), Some((26, Some(12))));
    assert_eq!(part("/dev/vdb"), Some((1, None)));
    assert_eq!(part("/dev/nvme2n1p3"), Some((2, Some(3))));
    assert_eq!(part("/dev/ada0p2"), Some((0, Some(2))));
    assert_eq!(part("/dev/da1s1"), Some((1, Some(1))));
    assert_eq!(part("/dev/sda99999999999"), None);
    assert_eq!(part("/dev/data/lv"), None);
    assert_eq!(disk_of("/dev/nvme0n1p2"), "/dev/nvme0n1");
    assert_eq!(disk_of("/dev/sda12"), "/dev/sda");
}

#[test]
fn drive_letters_lead_to_partitions() {
    let mut devices = ["/dev/sda1", "/dev/sda2"].map(device);
    devices[0].part_uuid = Some("1234abcd-01".into());
    devices[0].start = Some(1 << 20);
    devices[1].part_uuid = Some("aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee".into());
    let mapping = |letter, target| DriveMapping { letter, target };
    let mappings = [
        mapping('C', DriveTarget::Mbr { signature: 0x1234_abcd, start: 1 << 20 }),
        mapping('D', DriveTarget::Gpt("aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee".into())),
        mapping('E', DriveTarget::Other("\\??\\CDROM".into())),
        mapping('F', DriveTarget::Mbr { signature: 1, start: 1 << 20 }),
    ];
    assert_eq!(drives(&mappings, &devices), [('C', "/dev/sda1".to_owned()), ('D', "/dev/sda2".to_owned())]);
}
