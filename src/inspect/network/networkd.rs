//! systemd-networkd: `.network` files, specified in systemd.network(5).

use super::{MAX_FILES, add_words};
use crate::inspect::read::{Guest, Ini, tidy};
use crate::inspect::types::Interface;

/// Reads the files of an administrator; what systemd brings itself matches no machine in particular.
pub(super) fn read(guest: &Guest<'_>) -> Vec<Interface> {
    let paths = guest.list_ending("/etc/systemd/network", ".network");
    let files = paths.into_iter().take(MAX_FILES).filter_map(|path| Some((tidy(&path), guest.text(&path)?)));
    files.map(|(path, text)| parse(&path, &Ini::parse(&text))).collect()
}

fn parse(path: &str, file: &Ini) -> Interface {
    let matched = ["Name", "OriginalName", "Type"].iter().find_map(|key| file.get("Match", key));
    let named = path.rsplit('/').next().unwrap_or_default().trim_end_matches(".network");
    let mut interface =
        Interface { name: matched.unwrap_or(named).to_owned(), source: "networkd".into(), ..Interface::default() };
    for (section, key) in [("Network", "Address"), ("Address", "Address")] {
        file.all(section, key).for_each(|value| add_words(&mut interface.addresses, value));
    }
    for (section, key) in [("Network", "Gateway"), ("Route", "Gateway")] {
        file.all(section, key).for_each(|value| add_words(&mut interface.gateways, value));
    }
    file.all("Network", "DNS").for_each(|value| add_words(&mut interface.dns, value));
    let dhcp = file.get("Network", "DHCP").unwrap_or("no");
    interface.method = match dhcp {
        "no" | "none" | "false" | "0" if interface.addresses.is_empty() => "manual",
        "no" | "none" | "false" | "0" => "static",
        _ => "dhcp",
    }
    .to_owned();
    interface.mac =
        file.get("Match", "MACAddress").or_else(|| file.get("Match", "PermanentMACAddress")).map(str::to_owned);
    interface
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::fixture::Fixture;

    #[test]
    fn a_network_file_is_an_interface() {
        let tree = Fixture::new()
            .file("etc/systemd/network/10-lan.network", "[Match]\nName=en*\n[Network]\nDHCP=yes\n")
            .file(
                "etc/systemd/network/20-st.network",
                "[Match]\nMACAddress=52:54:00:11:22:33\n[Network]\nAddress=192.0.2.9/24\nDNS=192.0.2.2\n[Route]\nGateway=192.0.2.1\n",
            )
            .tree();
        let found = read(&Guest::new(&tree));
        assert_eq!((found[0].name.as_str(), found[0].method.as_str()), ("en*", "dhcp"));
        assert_eq!((found[1].name.as_str(), found[1].method.as_str()), ("20-st", "static"));
        assert_eq!(found[1].gateways, ["192.0.2.1"]);
    }
}
