//! netplan of Ubuntu: `/etc/netplan/*.yaml`, specified in netplan's YAML reference.

use super::yaml::{self, Yaml};
use super::{MAX_FILES, add_words};
use crate::inspect::read::Guest;
use crate::inspect::types::Interface;

/// Reads the interfaces. A file whose name comes later says more of an interface that one before named.
pub(super) fn read(guest: &Guest<'_>) -> Vec<Interface> {
    let mut interfaces: Vec<Interface> = Vec::new();
    let mut paths = guest.list_ending("/etc/netplan", ".yaml");
    paths.extend(guest.list_ending("/etc/netplan", ".yml"));
    for path in paths.into_iter().take(MAX_FILES) {
        let Some(text) = guest.text(&path) else { continue };
        let file = yaml::parse(&text);
        let Some(network) = file.get("network") else { continue };
        for kind in ["ethernets", "wifis", "bonds", "bridges", "vlans", "tunnels"] {
            for (name, settings) in network.get(kind).map(Yaml::pairs).unwrap_or_default() {
                if interfaces.len() >= MAX_FILES {
                    return interfaces;
                }
                let found = describe(name, settings);
                match interfaces.iter_mut().find(|known| known.name == found.name) {
                    Some(known) => *known = found,
                    None => interfaces.push(found),
                }
            }
        }
    }
    interfaces
}

fn describe(name: &str, settings: &Yaml) -> Interface {
    let name = settings.get("set-name").and_then(Yaml::text).unwrap_or(name);
    let mut interface = Interface { name: name.to_owned(), source: "netplan".into(), ..Interface::default() };
    let add = |words: &mut Vec<String>, value: Option<&Yaml>| {
        value.map(Yaml::texts).unwrap_or_default().into_iter().for_each(|text| add_words(words, text));
    };
    add(&mut interface.addresses, settings.get("addresses"));
    add(&mut interface.gateways, settings.get("gateway4"));
    add(&mut interface.gateways, settings.get("gateway6"));
    if let Some(Yaml::List(routes)) = settings.get("routes") {
        for route in routes {
            if matches!(route.get("to").and_then(Yaml::text), Some("default" | "0.0.0.0/0" | "::/0")) {
                add(&mut interface.gateways, route.get("via"));
            }
        }
    }
    add(&mut interface.dns, settings.get("nameservers").and_then(|servers| servers.get("addresses")));
    let yes = |key| matches!(settings.get(key).and_then(Yaml::text), Some("true" | "yes" | "on" | "y"));
    interface.method = match (yes("dhcp4") || yes("dhcp6"), interface.addresses.is_empty()) {
        (true, _) => "dhcp",
        (false, false) => "static",
        (false, true) => "manual",
    }
    .to_owned();
    let mac =
        settings.get("match").and_then(|matched| matched.get("macaddress")).or_else(|| settings.get("macaddress"));
    interface.mac = mac.and_then(Yaml::text).map(str::to_owned);
    interface
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::fixture::Fixture;

    #[test]
    fn interfaces_of_all_kinds_are_read() {
        let text = "network:\n    ethernets:\n        enp1s0:\n            dhcp4: true\n            match:\n\
            \x20               macaddress: 52:54:00:11:22:33\n            set-name: eth0\n        eth1:\n\
            \x20           addresses: [192.0.2.4/24, \"2001:db8::4/64\"]\n            routes:\n            - to: default\n\
            \x20             via: 192.0.2.1\n            nameservers:\n              addresses: [192.0.2.2]\n\
            \x20   bonds:\n        bond0:\n            interfaces: [eth2]\n    version: 2\n";
        let tree = Fixture::new().file("etc/netplan/50-cloud-init.yaml", text).tree();
        let found = read(&Guest::new(&tree));
        assert_eq!(found.len(), 3);
        assert_eq!((found[0].name.as_str(), found[0].method.as_str()), ("eth0", "dhcp"));
        assert_eq!(found[0].mac.as_deref(), Some("52:54:00:11:22:33"));
        assert_eq!(found[1].addresses, ["192.0.2.4/24", "2001:db8::4/64"]);
        assert_eq!((&found[1].gateways[..], &found[1].dns[..]), (&["192.0.2.1".into()][..], &["192.0.2.2".into()][..]));
        assert_eq!((found[2].name.as_str(), found[2].method.as_str()), ("bond0", "manual"));
    }
}
