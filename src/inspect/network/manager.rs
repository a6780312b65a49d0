//! NetworkManager: the connections below `/etc/NetworkManager/system-connections`, specified in nm-settings-keyfile(5).

use super::{MAX_FILES, add_words};
use crate::inspect::read::{Guest, Ini, SMALL, clean};
use crate::inspect::types::Interface;

/// Reads the connections.
pub(super) fn read(guest: &Guest<'_>) -> Vec<Interface> {
    let mut interfaces = Vec::new();
    for folder in ["/etc/NetworkManager/system-connections", "/usr/lib/NetworkManager/system-connections"] {
        for path in guest.list_ending(folder, "").into_iter().take(MAX_FILES) {
            let Some(bytes) = guest.read(&path, SMALL) else { continue };
            interfaces.extend(parse(&Ini::parse(&clean(&bytes))));
        }
    }
    interfaces
}

fn parse(file: &Ini) -> Option<Interface> {
    let id = file.get("connection", "id").or_else(|| file.get("connection", "uuid"))?;
    let name = file.get("connection", "interface-name").unwrap_or(id);
    let mut interface = Interface { name: name.to_owned(), source: "NetworkManager".into(), ..Interface::default() };
    let method = |family| file.get(family, "method");
    interface.method = match method("ipv4").or_else(|| method("ipv6")) {
        Some("auto") | None => "dhcp",
        Some("manual") => "static",
        Some(other) => other,
    }
    .to_owned();
    for family in ["ipv4", "ipv6"] {
        for pairs in file.sections(family) {
            for (key, value) in pairs {
                // address1=192.0.2.10/24,192.0.2.1
                if key.starts_with("address")
                    && key[7..].bytes().all(|byte| byte.is_ascii_digit() || byte == b'e' || byte == b's')
                {
                    let mut parts = value.split([',', ';']);
                    add_words(&mut interface.addresses, parts.next().unwrap_or_default());
                    add_words(&mut interface.gateways, parts.next().unwrap_or_default());
                } else if key == "gateway" {
                    add_words(&mut interface.gateways, value);
                } else if key == "dns" {
                    add_words(&mut interface.dns, value);
                }
            }
        }
    }
    let mac = ["ethernet", "802-3-ethernet", "wifi"].iter().find_map(|section| file.get(section, "mac-address"));
    interface.mac = mac.map(str::to_owned);
    Some(interface)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::fixture::Fixture;

    #[test]
    fn a_connection_is_an_interface() {
        let text = "[connection]\nid=Wired 1\ntype=ethernet\ninterface-name=eno1\n\n[ethernet]\nmac-address=52:54:00:11:22:33\n\n\
            [ipv4]\naddress1=192.0.2.10/24,192.0.2.1\ndns=192.0.2.2;192.0.2.3;\nmethod=manual\n\n[ipv6]\nmethod=auto\n";
        let folder = "etc/NetworkManager/system-connections";
        let tree = Fixture::new()
            .file(&format!("{folder}/Wired 1.nmconnection"), text)
            .file(&format!("{folder}/other"), "nonsense")
            .tree();
        let found = read(&Guest::new(&tree));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), found[0].method.as_str()), ("eno1", "static"));
        assert_eq!(
            (&found[0].addresses[..], &found[0].gateways[..]),
            (&["192.0.2.10/24".into()][..], &["192.0.2.1".into()][..])
        );
        assert_eq!(found[0].dns, ["192.0.2.2", "192.0.2.3"]);
        assert_eq!(found[0].mac.as_deref(), Some("52:54:00:11:22:33"));
    }
}
