//! ifupdown of Debian, Alpine and busybox: `/etc/network/interfaces`, specified in interfaces(5).

use super::{MAX_FILES, MAX_INTERFACES, add_words, with_prefix};
use crate::inspect::read::{Guest, plain_lines, shorten, tidy};
use crate::inspect::types::Interface;

/// Reads the interfaces.
pub(super) fn read(guest: &Guest<'_>) -> Vec<Interface> {
    let mut interfaces = Vec::new();
    let Some(text) = guest.text("/etc/network/interfaces") else { return interfaces };
    parse(&text, &mut interfaces);
    // Files that are read in only say more of the same; those of the usual folder are read whatever the line's pattern is.
    if plain_lines(&text).any(|line| line.starts_with("source")) {
        for path in guest.list_ending("/etc/network/interfaces.d", "").into_iter().take(MAX_FILES) {
            parse(&guest.text(path).unwrap_or_default(), &mut interfaces);
        }
    }
    interfaces.retain(|interface| interface.name != "lo");
    interfaces
}

fn parse(text: &str, interfaces: &mut Vec<Interface>) {
    let mut current: Option<usize> = None;
    let mut address: Option<String> = None;
    for line in plain_lines(text) {
        let (word, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let rest = shorten(rest.trim());
        match word {
            "iface" => {
                let mut words = rest.split_whitespace();
                let (Some(name), _, method) = (words.next(), words.next(), words.next()) else { continue };
                address = None;
                // The lines of both address families make one interface.
                let known = interfaces.iter().position(|known| known.name == name && known.source == "ifupdown");
                if known.is_none() && interfaces.len() >= MAX_INTERFACES {
                    return;
                }
                let place = known.unwrap_or_else(|| {
                    let name = tidy(name.as_bytes());
                    interfaces.push(Interface { name, source: "ifupdown".into(), ..Interface::default() });
                    interfaces.len() - 1
                });
                let method = method.unwrap_or_default();
                if interfaces[place].method.is_empty() || matches!(method, "static" | "dhcp") {
                    interfaces[place].method = method.to_owned();
                }
                current = Some(place);
            }
            "auto" | "mapping" | "source" | "source-directory" => current = None,
            _ if word.starts_with("allow-") => current = None,
            _ => {
                let Some(interface) = current.map(|place| &mut interfaces[place]) else { continue };
                match word {
                    "address" => {
                        address = Some(rest.to_owned());
                        add_words(&mut interface.addresses, rest);
                    }
                    "netmask" => {
                        if let Some(own) = &address
                            && let Some(known) = interface.addresses.iter_mut().find(|known| *known == own)
                        {
                            *known = with_prefix(own, Some(rest));
                        }
                    }
                    "gateway" => add_words(&mut interface.gateways, rest),
                    "dns-nameservers" | "dns-nameserver" => add_words(&mut interface.dns, rest),
                    "hwaddress" => interface.mac = rest.split_whitespace().last().map(str::to_owned),
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::fixture::Fixture;

    #[test]
    fn stanzas_make_interfaces() {
        let main = "source /etc/network/interfaces.d/*\nauto lo\niface lo inet loopback\nallow-hotplug eth0\n\
            iface eth0 inet static\n  address 192.0.2.10\n  netmask 255.255.255.0\n  gateway 192.0.2.1\n\
            \x20 dns-nameservers 192.0.2.2 192.0.2.3\niface eth0 inet6 auto\n";
        let tree = Fixture::new()
            .file("etc/network/interfaces", main)
            .file("etc/network/interfaces.d/eth1", "iface eth1 inet dhcp\n")
            .tree();
        let found = read(&Guest::new(&tree));
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].name.as_str(), found[0].method.as_str()), ("eth0", "static"));
        assert_eq!(found[0].addresses, ["192.0.2.10/24"]);
        assert_eq!(found[0].dns, ["192.0.2.2", "192.0.2.3"]);
        assert_eq!((found[1].name.as_str(), found[1].method.as_str()), ("eth1", "dhcp"));
    }
}
