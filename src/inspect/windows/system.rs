//! The SYSTEM hive: names, drive letters, services, network.

use super::hive::{Hive, Key, Value, filetime, utf16};
use super::{number, text};
use crate::bytes::{guid, le32, le64};
use crate::error::Result;
use crate::inspect::read::{Guest, tidy};
use crate::inspect::types::{Details, DriveMapping, DriveTarget, Interface, Service, System, WindowsSystem};

/// Fills in what the hive says of the system's names and settings.
pub(super) fn tell(hive: &Hive<'_>, system: &mut System, windows: &mut WindowsSystem) -> Result<()> {
    let current = match hive.key("Select")? {
        Some(select) => number(hive, &select, "Current")?,
        None => None,
    };
    let control = format!("ControlSet{:03}", current.unwrap_or(1));
    let Some(set) = hive.key(&control)? else { return Ok(()) };
    windows.current_control_set = Some(control);
    let get = |path: &str, name: &str| match hive.below(&set, path)? {
        Some(key) => text(hive, &key, name),
        None => Ok(None),
    };
    system.hostname = match get("Services\\Tcpip\\Parameters", "Hostname")? {
        Some(name) => Some(name),
        None => get("Control\\ComputerName\\ComputerName", "ComputerName")?,
    };
    let zone = "Control\\TimeZoneInformation";
    system.time_zone = match get(zone, "TimeZoneKeyName")? {
        Some(name) => Some(name),
        None => get(zone, "StandardName")?,
    };
    if let Some(languages) = hive.below(&set, "Control\\MUI\\UILanguages")? {
        system.locale = hive.subkeys(&languages)?.0.into_iter().next().map(|key| tidy(key.name.as_bytes()));
    }
    if system.locale.is_none() {
        system.locale = get("Control\\Nls\\Language", "Default")?;
    }
    if system.arch.is_none() {
        let arch = get("Control\\Session Manager\\Environment", "PROCESSOR_ARCHITECTURE")?;
        system.arch = arch.and_then(|arch| match arch.as_str() {
            "AMD64" => Some("x86_64".to_owned()),
            "x86" => Some("i386".to_owned()),
            "ARM64" => Some("aarch64".to_owned()),
            _ => None,
        });
    }
    windows.drives = drives(hive)?;
    Ok(())
}

/// Reads which volume each drive letter leads to.
fn drives(hive: &Hive<'_>) -> Result<Vec<DriveMapping>> {
    let Some(key) = hive.key("MountedDevices")? else { return Ok(Vec::new()) };
    let mut drives: Vec<DriveMapping> = hive.values(&key)?.iter().filter_map(drive).collect();
    drives.sort_by_key(|drive| drive.letter);
    Ok(drives)
}

fn drive(value: &Value) -> Option<DriveMapping> {
    let name = value.name.to_ascii_uppercase();
    let letter = name.strip_prefix("\\DOSDEVICES\\")?.strip_suffix(':')?;
    let letter = letter.chars().next().filter(|first| letter.len() == 1 && first.is_ascii_uppercase())?;
    let target = if value.data.len() == 12 {
        DriveTarget::Mbr { signature: le32(&value.data, 0), start: le64(&value.data, 4) }
    } else if let Some(id) = value.data.strip_prefix(b"DMIO:ID:").and_then(|id| id.first_chunk::<16>()) {
        DriveTarget::Gpt(guid(id))
    } else {
        DriveTarget::Other(tidy(utf16(&value.data).as_bytes()))
    };
    Some(DriveMapping { letter, target })
}

/// Tells the services, the network and the last shutdown.
pub(super) fn details(
    guest: &Guest<'_>,
    hive: &Hive<'_>,
    path: &str,
    control: &str,
    details: &mut Details,
) -> Result<()> {
    let Some(set) = hive.key(control)? else { return Ok(()) };
    if let Some(windows) = hive.below(&set, "Control\\Windows")? {
        let time = hive.value(&windows, "ShutdownTime")?.filter(|value| value.data.len() == 8);
        details.last_shutdown = time.and_then(|value| filetime(le64(&value.data, 0)));
    }
    if let Some(interfaces) = hive.below(&set, "Services\\Tcpip\\Parameters\\Interfaces")? {
        for key in hive.subkeys(&interfaces)?.0.iter().take(256) {
            details.network.extend(interface(hive, key)?);
        }
    }
    let Some(services) = hive.below(&set, "Services")? else { return Ok(()) };
    let (keys, damaged) = hive.subkeys(&services)?;
    if damaged > 0 {
        guest.warn(format!("{path}: {damaged} keys of services are damaged"));
    }
    for key in &keys {
        match service(hive, key) {
            Ok(service) => details.services.extend(service),
            Err(error) => guest.warn_of(path, &error),
        }
    }
    details.services.sort();
    Ok(())
}

/// Describes a service that starts by itself; drivers are no services here.
fn service(hive: &Hive<'_>, key: &Key) -> Result<Option<Service>> {
    /// Services that run in a process: their own or one that they share.
    const PROCESS: u64 = 0x30;
    const AUTOMATIC: u64 = 2;
    let values = hive.values(key)?;
    let value = |name: &str| values.iter().find(|value| value.name.eq_ignore_ascii_case(name));
    let count = |name: &str| value(name).and_then(|value| value.number());
    if count("Type").unwrap_or(0) & PROCESS == 0 || count("Start") != Some(AUTOMATIC) {
        return Ok(None);
    }
    let delayed = count("DelayedAutostart") == Some(1);
    Ok(Some(Service {
        name: tidy(key.name.as_bytes()),
        when: if delayed { "automatic (delayed)" } else { "automatic" }.to_owned(),
        // Names of resources, which begin with an at sign, say nothing to people.
        display_name: value("DisplayName").and_then(|value| value.text()).filter(|name| !name.starts_with('@')),
        program: value("ImagePath").and_then(|value| value.text()),
    }))
}

fn interface(hive: &Hive<'_>, key: &Key) -> Result<Option<Interface>> {
    let values = hive.values(key)?;
    let value = |name: &str| values.iter().find(|value| value.name.eq_ignore_ascii_case(name));
    let texts = |name: &str| {
        let texts = value(name).map(Value::texts).unwrap_or_default();
        texts.into_iter().filter(|text| text != "0.0.0.0").collect::<Vec<_>>()
    };
    let dhcp = value("EnableDHCP").and_then(|value| value.number()) == Some(1);
    let (addresses, masks) = if dhcp {
        (texts("DhcpIPAddress"), texts("DhcpSubnetMask"))
    } else {
        (texts("IPAddress"), texts("SubnetMask"))
    };
    if addresses.is_empty() && !dhcp {
        return Ok(None);
    }
    let with_mask = |(place, address): (usize, &String)| {
        super::super::network::with_prefix(address, masks.get(place).map(String::as_str))
    };
    let mut interface = Interface {
        name: tidy(key.name.as_bytes()),
        source: "registry".into(),
        method: if dhcp { "dhcp" } else { "static" }.into(),
        addresses: addresses.iter().enumerate().map(with_mask).collect(),
        gateways: texts(if dhcp { "DhcpDefaultGateway" } else { "DefaultGateway" }),
        ..Interface::default()
    };
    for name in ["NameServer", "DhcpNameServer"] {
        if interface.dns.is_empty() {
            texts(name).iter().for_each(|servers| super::super::network::add_words(&mut interface.dns, servers));
        }
    }
    Ok(Some(interface))
}
