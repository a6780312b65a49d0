//! Windows in a tree whose hives hivex made (`tests/data/inspect/make-hives.py`), and hives that are made here to be damaged.

use super::hive::BaseBlock;
use super::log::tests::entry;
use super::*;
use crate::bytes::{le32, set_le32};
use crate::inspect::DriveTarget;
use crate::inspect::fixture::Fixture;

const SOFTWARE: &[u8] = include_bytes!("../../../tests/data/inspect/windows/SOFTWARE");
const SYSTEM: &[u8] = include_bytes!("../../../tests/data/inspect/windows/SYSTEM");
const SAM: &[u8] = include_bytes!("../../../tests/data/inspect/windows/SAM");
const BCD: &[u8] = include_bytes!("../../../tests/data/inspect/windows/BCD");
const DEFAULT: &[u8] = include_bytes!("../../../tests/data/inspect/windows/DEFAULT");

fn windows() -> Fixture {
    Fixture::new()
        .file("Windows/system32/config/SOFTWARE", SOFTWARE)
        .file("Windows/system32/config/System", SYSTEM)
        .file("Windows/system32/config/SAM", SAM)
        .file("Windows/system32/config/DEFAULT", DEFAULT)
        .file_at("Windows/BOOTSTAT.DAT", "", 1_700_000_500)
        .file_at("pagefile.sys", "", 1_600_000_000)
        .file("Windows/system32/drivers/VioStor.sys", "")
        .file("Windows/system32/drivers/disk.sys", "")
        .file("Boot/BCD", BCD)
}

#[test]
fn the_registry_tells_the_system() {
    let tree = windows().file("hiberfil.sys", "hibr....").tree();
    let guest = Guest::new(&tree);
    let system = look(&guest).expect("Windows");
    assert_eq!(guest.into_warnings(), [""; 0]);
    assert_eq!(
        (system.kind, system.distro.as_str(), system.major(), system.minor()),
        (Kind::Windows, "windows", 10, 0)
    );
    assert_eq!(system.product_name.as_deref(), Some("Windows 11 Pro"));
    assert_eq!(system.product_variant.as_deref(), Some("Client"));
    assert_eq!((system.build_id.as_deref(), system.osinfo.as_deref()), (Some("22631"), Some("win11")));
    assert_eq!((system.hostname.as_deref(), system.arch.as_deref()), (Some("desktop-1"), Some("x86_64")));
    assert_eq!(system.time_zone.as_deref(), Some("W. Europe Standard Time"));
    assert_eq!(system.locale.as_deref(), Some("de-CH"));
    assert_eq!(system.keyboard.as_deref(), Some("Swiss German"));
    assert_eq!(system.machine_id.as_deref(), Some("0f0e0d0c-1111-2222-3333-444455556666"));
    let windows = system.windows.expect("its own part");
    assert_eq!((windows.system_root.as_str(), windows.hibernated), ("/Windows", Some(true)));
    assert_eq!(windows.system_hive.as_deref(), Some("/Windows/system32/config/System"));
    assert_eq!(windows.current_control_set.as_deref(), Some("ControlSet002"));
    assert_eq!((windows.full_build.as_deref(), windows.edition.as_deref()), (Some("22631.2861"), Some("Professional")));
    assert_eq!((windows.display_version.as_deref(), windows.install_time), (Some("23H2"), Some(1_700_000_000)));
    assert_eq!(windows.drives.len(), 3);
    assert_eq!(windows.drives[0].target, DriveTarget::Gpt("c12a7328-f81f-11d2-ba4b-00a0c93ec93b".into()));
    assert_eq!(windows.drives[1].target, DriveTarget::Mbr { signature: 0x1234_abcd, start: 1 << 20 });
    assert_eq!(windows.drives[2].target, DriveTarget::Other("\\??\\SCSI#CdRom".into()));
}

#[test]
fn every_version_is_told_by_what_its_setup_wrote() {
    macro_rules! hives {
        ($folder:literal) => {
            [
                &include_bytes!(concat!("../../../tests/data/inspect/windows/", $folder, "/SOFTWARE"))[..],
                &include_bytes!(concat!("../../../tests/data/inspect/windows/", $folder, "/SYSTEM"))[..],
            ]
        };
    }
    for (root, [software, hive], expected) in [
        ("WINDOWS", hives!("xp"), "Microsoft Windows XP 5.1 2600 - i386 winxp PC-XP 1300000000"),
        ("Windows", hives!("7"), "Windows 7 Professional 6.1 7601 Client x86_64 win7 PC-7 1400000000"),
        ("Windows", hives!("8"), "Windows 8.1 Pro 6.3 9600 Client x86_64 win8.1 PC-8 1450000000"),
        ("Windows", hives!("2019"), "Windows Server 2019 Standard 10.0 17763 Server x86_64 win2k19 PC-2019 1600000000"),
    ] {
        let tree = Fixture::new()
            .file(&format!("{root}/system32/config/software"), software)
            .file(&format!("{root}/system32/config/system"), hive)
            .tree();
        let guest = Guest::new(&tree);
        let system = look(&guest).expect("Windows");
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        let own = system.windows.as_ref().expect("its own part");
        let told = format!(
            "{} {}.{} {} {} {} {} {} {}",
            text(&system.product_name),
            system.major(),
            system.minor(),
            text(&system.build_id),
            text(&system.product_variant),
            text(&system.arch),
            text(&system.osinfo),
            text(&system.hostname),
            own.install_time.expect("it was installed")
        );
        assert_eq!(told, expected);
        assert_eq!(own.current_control_set.as_deref(), Some("ControlSet001"));
        assert_eq!(system.time_zone.as_deref(), Some("W. Europe Standard Time"));
        assert_eq!(guest.into_warnings(), [""; 0]);
    }
}

#[test]
fn the_event_log_tells_the_last_boot() {
    let packed = &include_bytes!("../../../tests/data/inspect/windows/System.evtx.zst")[..];
    let log = zstd::decode_all(packed).expect("whole");
    let tree = windows().file("Windows/system32/WinEvt/Logs/System.evtx", log).tree();
    let guest = Guest::new(&tree);
    let details = details(&guest, &look(&guest).expect("Windows"));
    assert_eq!((details.last_boot, details.last_boot_guessed), (Some(1_700_000_030), false));
    assert_eq!((details.last_shutdown, details.last_log), (Some(1_700_001_000), Some(1_700_000_240)));
    assert_eq!(guest.into_warnings(), [""; 0]);
}

#[test]
fn the_menu_before_vista_is_read_with_its_default() {
    let menu = "[boot loader]\r\ntimeout=30\r\ndefault=multi(0)disk(0)rdisk(0)partition(1)\\WINDOWS\r\n[operating systems]\r\n\
        multi(0)disk(0)rdisk(0)partition(2)\\WINNT=\"Windows 2000\" /fastdetect\r\n\
        multi(0)disk(0)rdisk(0)partition(1)\\WINDOWS=\"Windows XP Professional\" /noexecute=optin /fastdetect\r\n";
    let tree = Fixture::new().file("boot.ini", menu).tree();
    let loader = boot_loader(&Guest::new(&tree)).expect("there is one");
    assert_eq!((loader.name.as_str(), loader.default_entry.as_deref()), ("ntldr", Some("Windows XP Professional")));
    assert_eq!(loader.entries.len(), 2);
    assert_eq!(loader.entries[1].options.as_deref(), Some("/noexecute=optin /fastdetect"));
    for broken in ["=", "[operating systems]\n=\nx\n=\"\n", "[boot loader]\ndefault=\n[operating systems]\n=\"a\n"] {
        boot_ini(broken);
    }
}

#[test]
fn applications_services_users_and_network_are_listed() {
    let tree = windows().tree();
    let guest = Guest::new(&tree);
    let system = look(&guest).expect("Windows");
    let packages = applications(&guest, &system);
    assert_eq!(packages.len(), 2);
    assert_eq!(packages[0].name, "{11111111-2222-3333-4444-555555555555}");
    assert_eq!(packages[0].display_name.as_deref(), Some("Müller Büro"));
    assert_eq!((packages[0].version.as_str(), packages[0].publisher.as_str()), ("7.5.1", "Müller AG"));
    assert_eq!(packages[0].arch, "x86_64", "the first place has those of the system's own architecture");
    assert_eq!((packages[0].size, packages[0].install_time), (Some(2 << 20), Some(1_709_164_800)));
    assert_eq!((packages[1].name.as_str(), packages[1].arch.as_str()), ("OldTool", "i686"));
    let details = details(&guest, &system);
    let services: Vec<_> = details.services.iter().map(|one| (one.name.as_str(), one.when.as_str())).collect();
    assert_eq!(services, [("OldDaemon", "automatic (delayed)"), ("Spooler", "automatic")]);
    assert_eq!(details.services[1].program.as_deref(), Some("%SystemRoot%\\System32\\spoolsv.exe"));
    let users: Vec<_> = details.users.iter().map(|user| (user.name.as_str(), user.uid, user.login)).collect();
    assert_eq!(users, [("Administrator", 500, false), ("ann", 1001, true)]);
    assert_eq!(details.users[1].full_name, "Ann Example");
    assert_eq!(details.network[0].addresses, ["192.0.2.20/24"]);
    assert_eq!(details.network[0].dns, ["192.0.2.2", "192.0.2.3"]);
    assert_eq!(details.virtio, ["viostor"]);
    assert_eq!((details.last_boot, details.last_shutdown), (Some(1_700_000_500), Some(1_700_001_000)));
    assert!(details.last_boot_guessed, "there is no log");
    assert_eq!(details.boot_loader.and_then(|loader| loader.default_entry).as_deref(), Some("Windows 11"));
    assert_eq!(guest.into_warnings(), [""; 0]);
}

#[test]
fn the_folder_of_windows_may_have_another_name() {
    let ini = "[boot loader]\r\ntimeout=30\r\ndefault=multi(0)disk(0)rdisk(0)partition(1)\\WinXP\r\n";
    let tree = Fixture::new().file("BOOT.INI", ini).file("winxp/System32/config/SYSTEM", SYSTEM).tree();
    let system = look(&Guest::new(&tree)).expect("Windows");
    assert_eq!(system.windows.expect("its own part").system_root, "/winxp");
    assert_eq!(look(&Guest::new(&Fixture::new().dir("Windows/System32").tree())), None);
}

#[test]
fn installation_media_are_known() {
    let fixture = Fixture::new().file("SETUP.EXE", "").file("Sources/Install.wim", "").file("bootmgr", "");
    let tree =
        fixture.file("sources2", "").file("Sources/cversion.ini", "[HostBuild]\r\nMinServer=22000.100\r\n").tree();
    let system = crate::inspect::look(&tree).expect("readable").expect("Windows");
    assert_eq!((system.installer, system.build_id.as_deref()), (true, Some("22000")));
    assert_eq!(crate::inspect::details(&tree, &system), Details::default());
}

#[test]
fn damaged_hives_are_said_and_the_rest_is_told() {
    let tree = windows().file("Windows/system32/config/SOFTWARE", "regf").fifo("Windows/system32/config/SAM").tree();
    let guest = Guest::new(&tree);
    let system = look(&guest).expect("Windows");
    assert_eq!(system.hostname.as_deref(), Some("desktop-1"));
    assert_eq!(system.product_name, None);
    assert!(!guest.into_warnings().is_empty());
    let guest = Guest::new(&tree);
    assert_eq!(details(&guest, &system).services.len(), 2);
    assert!(guest.into_warnings()[0].contains("pipe"));
}

#[test]
fn a_hive_with_any_byte_changed_is_no_panic() {
    for place in (0..SYSTEM.len()).step_by(3).filter(|place| !(512..4096).contains(place)) {
        for value in [0, 0xff, 0x7f] {
            let mut bytes = SYSTEM.to_vec();
            bytes[place] = value;
            // A base block that is damaged would stop everything else.
            let tree = Fixture::new().file("s", bytes).tree();
            let guest = Guest::new(&tree);
            let Ok(Some(hive)) = Hive::open(&guest, b"s") else { continue };
            let mut system = System::new(Kind::Windows, "windows");
            let _ = super::system::tell(&hive, &mut system, &mut WindowsSystem::default());
            let _ = super::system::details(&guest, &hive, "s", "ControlSet002", &mut Details::default());
        }
    }
}

/// Sets the sequence numbers of a base block, and its checksum.
fn with_sequence(hive: &[u8], primary: u32, secondary: u32, file_type: u32) -> Vec<u8> {
    let mut hive = hive.to_vec();
    for (offset, value) in [(4, primary), (8, secondary), (28, file_type)] {
        set_le32(&mut hive, offset, value);
    }
    let sum = (0..508).step_by(4).fold(0, |sum, at| sum ^ le32(&hive, at));
    set_le32(&mut hive, 508, sum);
    hive
}

/// Returns a sector of SYSTEM's bins in which the host's name is another, and where it lies.
fn changed_sector(name: &str) -> (u32, Vec<u8>) {
    let encode = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let (old, new) = (encode("desktop-1"), encode(name));
    let bins = &SYSTEM[4096..];
    let at = bins.windows(old.len()).position(|part| part == old).expect("it is there");
    let start = at / 512 * 512;
    let mut sectors = bins[start..start + 1024].to_vec();
    sectors[at - start..at - start + new.len()].copy_from_slice(&new);
    (start as u32, sectors)
}

fn hostname(fixture: Fixture) -> (Option<String>, usize) {
    let tree = fixture.tree();
    let guest = Guest::new(&tree);
    let hostname = look(&guest).expect("Windows").hostname;
    (hostname, guest.into_warnings().len())
}

#[test]
fn a_hive_that_was_not_closed_is_read_with_its_logs() {
    let config = "Windows/system32/config/System";
    let bins = (SYSTEM.len() - 4096) as u32;
    let dirty = with_sequence(SYSTEM, 8, 7, 0);
    let log = |sequence: u32, name: &str| {
        let (start, sectors) = changed_sector(name);
        let mut log = with_sequence(&SYSTEM[..512], sequence, sequence, 6);
        log.extend(entry(sequence, bins, &[(start, &sectors)]));
        log
    };
    let base = || windows().file(config, dirty.clone());
    assert_eq!(hostname(base()), (Some("desktop-1".into()), 1));
    let both = base()
        .file(&format!("{config}.LOG1"), log(8, "desktop-8"))
        .file(&format!("{config}.LOG2"), log(7, "desktop-7"));
    assert_eq!(hostname(both), (Some("desktop-8".into()), 0));
    // What was written to the hive before, what does not follow, and what is damaged are not applied.
    let old = base()
        .file(&format!("{config}.LOG1"), log(6, "desktop-6"))
        .file(&format!("{config}.LOG2"), log(7, "desktop-7"));
    assert_eq!(hostname(old), (Some("desktop-7".into()), 0));
    let gap = base()
        .file(&format!("{config}.LOG1"), log(7, "desktop-7"))
        .file(&format!("{config}.LOG2"), log(9, "desktop-9"));
    assert_eq!(hostname(gap), (Some("desktop-7".into()), 0));
    let mut bad = log(8, "desktop-8");
    let last = bad.len() - 600;
    bad[last] ^= 1;
    assert_eq!(hostname(base().file(&format!("{config}.LOG1"), bad)), (Some("desktop-1".into()), 1));
    // A base block that is damaged is taken from a log.
    let mut broken = SYSTEM.to_vec();
    broken[40] ^= 1;
    let saved = windows().file(config, broken).file(&format!("{config}.LOG1"), log(8, "desktop-8"));
    assert_eq!(hostname(saved), (Some("desktop-8".into()), 0));
}

#[test]
fn a_log_of_the_old_kind_holds_the_sectors_that_were_dirty() {
    let config = "Windows/system32/config/System";
    let (start, sectors) = changed_sector("desktop-2");
    let mut log = with_sequence(&SYSTEM[..512], 9, 9, 1);
    log.extend(b"DIRT");
    let mut bitmap = vec![0; (SYSTEM.len() - 4096) / 4096];
    for sector in [start / 512, start / 512 + 1] {
        bitmap[sector as usize / 8] |= 1 << (sector % 8);
    }
    log.extend(bitmap);
    log.resize(log.len().next_multiple_of(512), 0);
    log.extend(&sectors);
    let base = windows().file(config, with_sequence(SYSTEM, 8, 7, 0));
    assert_eq!(hostname(base.file(&format!("{config}.LOG"), log)), (Some("desktop-2".into()), 0));
}

/// Cells of a hive that is made by hand.
struct Cells(Vec<u8>);

impl Cells {
    fn add(&mut self, bytes: &[u8]) -> u32 {
        let at = self.0.len() as u32;
        let size = (bytes.len() + 4).next_multiple_of(8);
        self.0.extend((-(size as i32)).to_le_bytes());
        self.0.extend_from_slice(bytes);
        self.0.resize(at as usize + size, 0);
        at
    }

    fn key(&mut self, name: &str, subkeys: (u32, u32), values: (u32, u32)) -> u32 {
        let mut key = vec![0; 76];
        key[..4].copy_from_slice(b"nk\x20\0");
        for (offset, value) in [(20, subkeys.0), (28, subkeys.1), (36, values.0), (40, values.1)] {
            set_le32(&mut key, offset, value);
        }
        key[72] = name.len() as u8;
        key.extend(name.bytes());
        self.add(&key)
    }

    fn list(&mut self, kind: &[u8; 2], items: &[u32]) -> u32 {
        let mut list = [&kind[..], &(items.len() as u16).to_le_bytes()].concat();
        list.extend(items.iter().flat_map(|item| item.to_le_bytes()));
        self.add(&list)
    }

    fn hive(self, root: u32) -> Vec<u8> {
        let mut base = vec![0; 4096];
        base[..4].copy_from_slice(b"regf");
        set_le32(&mut base, 36, root);
        set_le32(&mut base, 40, self.0.len() as u32);
        let mut base = with_sequence(&base, 1, 1, 0);
        assert!(BaseBlock::parse(&base).expect("a base block").whole);
        base.extend(self.0);
        base
    }
}

#[test]
fn long_values_lie_in_several_cells() {
    let long: Vec<u8> = (0..40_000u32).map(|at| (at % 251) as u8).collect();
    let mut cells = Cells(vec![0; 32]);
    let segments: Vec<u32> = long.chunks(16344).map(|part| cells.add(part)).collect();
    let list = cells.add(&segments.iter().flat_map(|at| at.to_le_bytes()).collect::<Vec<u8>>());
    let data = cells.add(&[&b"db"[..], &[3, 0], &list.to_le_bytes(), &[0; 4]].concat());
    let mut value = vec![0; 24];
    value[..4].copy_from_slice(b"vk\x04\0");
    for (offset, word) in [(4, 40_000), (8, data), (12, 3), (16, 1)] {
        set_le32(&mut value, offset, word);
    }
    value[20..].copy_from_slice(b"Long");
    let value = cells.add(&value);
    let values = cells.add(&value.to_le_bytes());
    let inner = cells.key("inner", (0, 0), (1, values));
    let leaf = cells.list(b"li", &[inner]);
    let top = cells.list(b"ri", &[leaf]);
    let root = cells.key("root", (1, top), (0, 0));
    let tree = Fixture::new().file("h", cells.hive(root)).tree();
    let guest = Guest::new(&tree);
    let hive = Hive::open(&guest, b"h").expect("whole").expect("there");
    let key = hive.key("INNER").expect("whole").expect("there");
    assert_eq!(hive.value(&key, "long").expect("whole").expect("there").data, long);
}

#[test]
fn keys_that_hold_each_other_end() {
    let mut cells = Cells(vec![0; 32]);
    let root = cells.key("round", (1, 0), (0, 0));
    let list = cells.list(b"li", &[root]);
    let round = cells.list(b"ri", &[list]);
    let within = cells.add(&[&b"ri\x01\0"[..], &round.to_le_bytes()].concat());
    for target in [list, round, within, u32::MAX, 1, root] {
        let mut cells = Cells(cells.0.clone());
        set_le32(&mut cells.0, root as usize + 4 + 28, target);
        let tree = Fixture::new().file("h", cells.hive(root)).tree();
        let guest = Guest::new(&tree);
        let hive = Hive::open(&guest, b"h").expect("whole").expect("there");
        let _ = hive.key(&"round\\".repeat(50));
    }
}
