//! The BSDs: `ifconfig_em0` in rc.conf of FreeBSD and NetBSD, `/etc/hostname.em0` of OpenBSD, `/etc/ifconfig.em0` of NetBSD.

use super::{MAX_FILES, add_words, with_prefix};
use crate::inspect::read::{Guest, Variables, plain_lines, tidy};
use crate::inspect::types::Interface;

/// Reads the interfaces.
pub(super) fn read(guest: &Guest<'_>) -> Vec<Interface> {
    let mut interfaces: Vec<Interface> = Vec::new();
    if let Some(text) = guest.text("/etc/rc.conf") {
        let file = Variables::parse(&text);
        for (key, value) in file.iter() {
            let Some(name) = key.strip_prefix("ifconfig_") else { continue };
            let name = name.strip_suffix("_ipv6").unwrap_or(name);
            let place = interfaces.iter().position(|known| known.name == name);
            let place = place.unwrap_or_else(|| {
                interfaces.push(Interface { name: name.to_owned(), source: "rc.conf".into(), ..Interface::default() });
                interfaces.len() - 1
            });
            line(&mut interfaces[place], value);
            if interfaces.len() >= MAX_FILES {
                break;
            }
        }
        let gateway = file.get("defaultrouter").or_else(|| file.get("defaultroute"));
        if let (Some(gateway), Some(first)) = (gateway, interfaces.iter_mut().find(|one| one.method == "static")) {
            add_words(&mut first.gateways, gateway);
        }
    }
    for file in guest.list("/etc") {
        let file = tidy(&file);
        let Some(name) = file.strip_prefix("hostname.").or_else(|| file.strip_prefix("ifconfig.")) else { continue };
        let is_interface = name.ends_with(|letter: char| letter.is_ascii_digit()) && name.len() <= 16;
        if !is_interface || interfaces.len() >= MAX_FILES {
            continue;
        }
        let source = file.split('.').next().unwrap_or_default();
        let mut interface = Interface { name: name.to_owned(), source: source.to_owned(), ..Interface::default() };
        let text = guest.text(format!("/etc/{file}")).unwrap_or_default();
        plain_lines(&text).take(64).for_each(|text| line(&mut interface, text));
        interfaces.push(interface);
    }
    interfaces
}

/// Reads what ifconfig is told: `DHCP`, or `inet 192.0.2.1 netmask 255.255.255.0`.
fn line(interface: &mut Interface, text: &str) {
    let words: Vec<&str> = text.split_whitespace().take(64).collect();
    let after = |key: &str| words.iter().position(|word| *word == key).and_then(|place| words.get(place + 1)).copied();
    if words
        .iter()
        .any(|word| matches!(word.to_ascii_lowercase().as_str(), "dhcp" | "syncdhcp" | "autoconf" | "inet6 autoconf"))
    {
        interface.method = "dhcp".into();
    } else if let Some(address) = after("inet").or_else(|| after("inet6").filter(|word| word.contains(':'))) {
        // OpenBSD writes the netmask behind the address without a word before it.
        let bare = words.iter().position(|word| *word == address).and_then(|place| words.get(place + 1)).copied();
        let netmask = after("netmask").or_else(|| after("prefixlen")).or(bare);
        interface.addresses.push(with_prefix(address, netmask));
        interface.method = "static".into();
    } else if interface.method.is_empty() {
        interface.method = "manual".into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::fixture::Fixture;

    #[test]
    fn each_bsd_is_understood() {
        let tree = Fixture::new()
            .file(
                "etc/rc.conf",
                "ifconfig_em0=\"inet 192.0.2.5 netmask 255.255.255.0\"\nifconfig_em1=DHCP\ndefaultrouter=\"192.0.2.1\"\n",
            )
            .file("etc/hostname.vio0", "inet 192.0.2.6 255.255.255.0\n")
            .file("etc/hostname.vio1", "inet autoconf\n")
            .file("etc/hostname.conf", "x")
            .tree();
        let found = read(&Guest::new(&tree));
        let told: Vec<_> =
            found.iter().map(|one| (one.name.as_str(), one.method.as_str(), one.addresses.join(" "))).collect();
        assert_eq!(
            told,
            [
                ("em0", "static", "192.0.2.5/24".into()),
                ("em1", "dhcp", String::new()),
                ("vio0", "static", "192.0.2.6/24".into()),
                ("vio1", "dhcp", String::new()),
            ]
        );
        assert_eq!(found[0].gateways, ["192.0.2.1"]);
    }
}
