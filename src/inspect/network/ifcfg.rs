//! `ifcfg` files of Red Hat's and SUSE's kin, and Gentoo's `/etc/conf.d/net`.

use super::{MAX_FILES, add_words, with_prefix};
use crate::inspect::read::{Guest, Variables, tidy};
use crate::inspect::types::Interface;

/// Reads the interfaces.
pub(super) fn read(guest: &Guest<'_>) -> Vec<Interface> {
    let mut interfaces = Vec::new();
    for folder in ["/etc/sysconfig/network-scripts", "/etc/sysconfig/network"] {
        for path in guest.list_ending(folder, "").into_iter().take(4 * MAX_FILES) {
            let file = tidy(path.rsplit(|&byte| byte == b'/').next().unwrap_or_default());
            let Some(name) = file.strip_prefix("ifcfg-") else { continue };
            let leftover =
                [".bak", ".rpmsave", ".rpmnew", "~", ".orig", ".template"].iter().any(|end| name.ends_with(end));
            if name == "lo" || leftover || interfaces.len() >= MAX_FILES {
                continue;
            }
            interfaces.push(parse(name, &Variables::parse(&guest.text(&path).unwrap_or_default())));
        }
    }
    interfaces.extend(gentoo(guest));
    interfaces
}

fn parse(name: &str, file: &Variables) -> Interface {
    let device = file.get("DEVICE").or_else(|| file.get("NAME")).unwrap_or(name);
    let mut interface = Interface { name: device.to_owned(), source: "ifcfg".into(), ..Interface::default() };
    for suffix in ["", "0", "1", "2", "3", "_1", "_2"] {
        let get = |key: &str| file.get(&format!("{key}{suffix}"));
        if let Some(address) = get("IPADDR") {
            let netmask = get("PREFIX").or_else(|| get("PREFIXLEN")).or_else(|| get("NETMASK"));
            interface.addresses.push(with_prefix(address, netmask));
        }
        get("GATEWAY").into_iter().for_each(|gateway| add_words(&mut interface.gateways, gateway));
        get("DNS").into_iter().for_each(|server| add_words(&mut interface.dns, server));
    }
    if let Some(address) = file.get("IPV6ADDR") {
        add_words(&mut interface.addresses, address);
    }
    interface.mac = file.owned("HWADDR");
    let protocol = file.get("BOOTPROTO").unwrap_or_default().to_ascii_lowercase();
    interface.method = match protocol.as_str() {
        "dhcp" | "dhcp4" | "dhcp6" | "bootp" => "dhcp",
        _ if interface.addresses.is_empty() => "manual",
        _ => "static",
    }
    .to_owned();
    interface
}

fn gentoo(guest: &Guest<'_>) -> Vec<Interface> {
    let Some(text) = guest.text("/etc/conf.d/net") else { return Vec::new() };
    let file = Variables::parse(&text);
    let configured = file.iter().filter_map(|(key, value)| Some((key.strip_prefix("config_")?, value)));
    let interfaces = configured.map(|(name, value)| {
        let mut interface = Interface { name: name.to_owned(), source: "netifrc".into(), ..Interface::default() };
        let address = value.split_whitespace().next().unwrap_or_default();
        interface.method = match address {
            "dhcp" => "dhcp",
            "" | "null" | "noop" => "manual",
            address => {
                add_words(&mut interface.addresses, address);
                "static"
            }
        }
        .to_owned();
        if let Some(gateway) = file.get(&format!("routes_{name}")).and_then(|routes| routes.split("via ").nth(1)) {
            add_words(&mut interface.gateways, gateway.split_whitespace().next().unwrap_or_default());
        }
        interface
    });
    interfaces.take(MAX_FILES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::fixture::Fixture;

    #[test]
    fn a_file_is_an_interface() {
        let tree = Fixture::new()
            .file("etc/sysconfig/network-scripts/ifcfg-lo", "DEVICE=lo\n")
            .file("etc/sysconfig/network-scripts/ifcfg-eth0", "DEVICE=\"eth0\"\nBOOTPROTO=dhcp\nHWADDR=52:54:00:11:22:33\n")
            .file(
                "etc/sysconfig/network-scripts/ifcfg-eth1",
                "DEVICE=eth1\nBOOTPROTO=none\nIPADDR=192.0.2.7\nNETMASK=255.255.255.128\nGATEWAY=192.0.2.1\nDNS1=192.0.2.2\n",
            )
            .file("etc/sysconfig/network/ifcfg-eth2", "BOOTPROTO='static'\nIPADDR='192.0.2.8/24'\n")
            .file("etc/conf.d/net", "config_eth3=\"192.0.2.9/24\"\nroutes_eth3=\"default via 192.0.2.1\"\n")
            .tree();
        let found = read(&Guest::new(&tree));
        let told: Vec<_> =
            found.iter().map(|one| (one.name.as_str(), one.method.as_str(), one.addresses.join(" "))).collect();
        assert_eq!(
            told,
            [
                ("eth0", "dhcp", String::new()),
                ("eth1", "static", "192.0.2.7/25".into()),
                ("eth2", "static", "192.0.2.8/24".into()),
                ("eth3", "static", "192.0.2.9/24".into()),
            ]
        );
        assert_eq!(found[1].dns, ["192.0.2.2"]);
        assert_eq!(found[3].gateways, ["192.0.2.1"]);
    }
}
