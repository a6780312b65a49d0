//! The JSON is what docs/inspect.md says it is.

use super::fields::FIELDS;
use super::report::{Described, Letter, Place, Report};
use crate::guestfs::{DeviceInfo, FilesystemInfo, FilesystemState, SpaceUsage};
use crate::inspect::*;
use serde_json::Value;
use std::collections::BTreeSet;

fn text() -> String {
    String::from("text")
}

fn some() -> Option<String> {
    Some(text())
}

fn texts() -> Vec<String> {
    vec![text()]
}

fn system(kind: Kind) -> System {
    System {
        kind,
        distro: text(),
        product_name: some(),
        product_variant: some(),
        version: Some(Version { major: 1, minor: 2 }),
        version_id: some(),
        codename: some(),
        build_id: some(),
        arch: some(),
        hostname: some(),
        machine_id: some(),
        time_zone: some(),
        locale: some(),
        keyboard: some(),
        package_format: some(),
        package_management: some(),
        osinfo: some(),
        merged_usr: Some(true),
        installer: false,
        deployment: Some(Deployment { path: b"/a".to_vec(), var: b"/b".to_vec(), image: Some(b"/c".to_vec()) }),
        windows: Some(WindowsSystem {
            system_root: text(),
            current_control_set: some(),
            system_hive: some(),
            software_hive: some(),
            edition: some(),
            full_build: some(),
            display_version: some(),
            install_time: Some(1),
            product_id: some(),
            registered_owner: some(),
            hibernated: Some(false),
            drives: vec![
                DriveMapping { letter: 'C', target: DriveTarget::Mbr { signature: 1, start: 2 } },
                DriveMapping { letter: 'D', target: DriveTarget::Gpt(text()) },
                DriveMapping { letter: 'E', target: DriveTarget::Other(text()) },
            ],
        }),
        warnings: texts(),
    }
}

fn details() -> Details {
    let entry = BootEntry { title: text(), kernel: some(), initrd: some(), options: some() };
    let interface = Interface {
        name: text(),
        source: text(),
        method: text(),
        addresses: texts(),
        gateways: texts(),
        dns: texts(),
        mac: some(),
    };
    let cloud_init =
        CloudInit { disabled: false, instance_id: some(), datasource: some(), finished: true, errors: texts() };
    Details {
        kernels: vec![Kernel { path: text(), version: text(), initrd: some(), modules: true }],
        boot_loader: Some(BootLoader { name: text(), config: some(), default_entry: some(), entries: vec![entry] }),
        init: some(),
        services: vec![Service { name: text(), when: text(), display_name: some(), program: some() }],
        users: vec![User {
            name: text(),
            uid: 1,
            gid: Some(1),
            full_name: text(),
            home: text(),
            shell: text(),
            login: true,
            password: Some(PasswordState::Set),
        }],
        groups: vec![Group { name: text(), gid: 1, members: texts() }],
        ssh_host_keys: vec![HostKey { path: text(), algorithm: text(), fingerprint: text() }],
        network: vec![interface],
        mounts: vec![MountEntry {
            spec: MountSpec::parse(b"UUID=1"),
            mountpoint: b"/".to_vec(),
            kind: text(),
            options: texts(),
        }],
        crypttab: vec![CryptEntry { name: text(), device: text(), key: some(), options: texts() }],
        arrays: vec![ArrayEntry { device: text(), uuid: some(), name: some() }],
        selinux: Some(SeLinux { mode: text(), policy: some() }),
        cloud_init: Some(cloud_init),
        virtio: texts(),
        last_boot: Some(1),
        last_boot_guessed: false,
        last_shutdown: Some(1),
        last_log: Some(1),
        icon: some(),
        warnings: Vec::new(),
    }
}

/// An image of which everything is known.
fn full() -> Report {
    let filesystem = FilesystemInfo {
        device: text(),
        size: 1,
        kind: text(),
        label: some(),
        uuid: some(),
        partition_type: some(),
        part_uuid: some(),
        part_label: some(),
        readable: true,
        volume: text(),
        parents: vec![text()],
        locked: true,
    };
    let package = Package {
        name: text(),
        display_name: some(),
        epoch: 1,
        version: text(),
        release: text(),
        arch: text(),
        size: Some(1),
        install_time: Some(1),
        summary: text(),
        description: text(),
        url: text(),
        publisher: text(),
        source: text(),
        install_path: text(),
    };
    let place = Place {
        device: text(),
        mountpoint: text(),
        subvolume: some(),
        subvolume_id: Some(1),
        folder: some(),
        image: some(),
        lower: texts(),
    };
    Report {
        image: text(),
        devices: vec![DeviceInfo { name: text(), image: text(), format: text(), size: 1 }],
        filesystems: vec![FilesystemState { filesystem, usage: Some(SpaceUsage::default()), warnings: texts() }],
        systems: vec![Described {
            root: text(),
            system: system(Kind::Windows),
            mounts: vec![place],
            swaps: texts(),
            missing: texts(),
            drive_mappings: vec![Letter { letter: 'C', device: text() }],
            details: Some(details()),
            containers: Some(vec![Container { path: b"/c".to_vec(), system: system(Kind::Linux) }]),
            packages: Some(vec![package]),
        }],
        warnings: texts(),
    }
}

/// Collects the path of everything in a value that is no list and no object of named keys.
fn paths(value: &Value, at: &str, into: &mut BTreeSet<String>) {
    match value {
        // What a container holds is a system again.
        _ if at.ends_with(".containers[].system") => drop(into.insert(at.to_owned())),
        Value::Object(object) => {
            for (key, inner) in object {
                let path = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                paths(inner, &path, into);
            }
        }
        Value::Array(items) => items.iter().for_each(|inner| paths(inner, &format!("{at}[]"), into)),
        _ => drop(into.insert(at.to_owned())),
    }
}

#[test]
fn the_document_names_every_key_and_no_other() {
    let json = serde_json::to_string(&full()).expect("plain data");
    let value: Value = serde_json::from_str(&json).expect("JSON");
    let mut told = BTreeSet::new();
    // `containers[].system` is written as part of the container, whose keys are those of a system.
    paths(&value, "", &mut told);
    let document = include_str!("../../../docs/inspect.md");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let documented: BTreeSet<String> = rows.map(|(path, _)| path.to_owned()).collect();
    let missing: Vec<_> = told.difference(&documented).collect();
    let stale: Vec<_> = documented.difference(&told).collect();
    assert!(missing.is_empty() && stale.is_empty(), "docs/inspect.md lacks {missing:#?}\nand tells of {stale:#?}");
}

#[test]
fn no_key_stands_twice() {
    let json = serde_json::to_string(&full().systems[0]).expect("plain data");
    let value: Value = serde_json::from_str(&json).expect("JSON");
    let again = serde_json::to_string(&value).expect("plain data");
    assert_eq!(json.len(), again.len(), "a key that stands twice is one after reading");
}

#[test]
fn every_key_of_a_system_is_a_field() {
    let value = serde_json::to_value(&full().systems[0]).expect("plain data");
    let keys: BTreeSet<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    let fields: BTreeSet<&str> = FIELDS.into_iter().filter(|name| !["logins", "kernel"].contains(name)).collect();
    assert_eq!(keys, fields);
}

#[test]
fn xml_has_the_elements_of_virt_inspector_in_its_order() {
    let mut report = full();
    // A folder that is shown at a second place is none of its mount points.
    let extra = super::Extra { icon: b"picture".to_vec(), mountables: vec![String::from("btrfsvol:x/x")] };
    let extra = [extra];
    assert!(!super::xml::document(&report, &extra).contains("<mountpoint "));
    report.systems[0].mounts[0].folder = None;
    report.systems[0].mounts[0].lower.clear();
    let document = super::xml::document(&report, &extra);
    assert!(document.contains("<mountpoint dev=\"btrfsvol:x/x\">"), "{document}");
    let names = document.lines().filter_map(|line| line.trim().strip_prefix('<'));
    let names: Vec<&str> = names.filter_map(|line| line.split(['>', ' ']).next()).collect();
    let opened: Vec<&str> = names.into_iter().filter(|name| !name.starts_with(['/', '?'])).collect();
    let expected = "operatingsystems operatingsystem root name arch distro product_name product_variant major_version \
        minor_version package_format package_management windows_systemroot windows_current_control_set hostname \
        osinfo mountpoints mountpoint filesystems filesystem type label uuid filesystem type label uuid drive_mappings \
        drive_mapping applications application name display_name epoch version release arch install_path publisher url \
        source_package summary description icon";
    assert_eq!(opened.join(" "), expected);
}
