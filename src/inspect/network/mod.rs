//! Network interfaces, as the programs that configure them are told.

mod bsd;
mod ifcfg;
mod ifupdown;
mod manager;
mod netplan;
mod networkd;
mod yaml;

use super::read::Guest;
use super::types::Interface;

/// The most interfaces that are kept.
const MAX_INTERFACES: usize = 1024;

/// The most files of one program that are read.
const MAX_FILES: usize = 256;

/// Reads what every program is told.
pub(super) fn interfaces(guest: &Guest<'_>) -> Vec<Interface> {
    let mut interfaces = netplan::read(guest);
    interfaces.extend(manager::read(guest));
    interfaces.extend(networkd::read(guest));
    interfaces.extend(ifcfg::read(guest));
    interfaces.extend(ifupdown::read(guest));
    interfaces.extend(bsd::read(guest));
    interfaces.truncate(MAX_INTERFACES);
    interfaces
}

/// Returns how many bits of a netmask are set, where those are its first.
fn prefix_of(netmask: &str) -> Option<u32> {
    if let Ok(length) = netmask.parse::<u32>() {
        return (length <= 128).then_some(length);
    }
    let mask = match netmask.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok()?,
        None => netmask.parse::<std::net::Ipv4Addr>().ok()?.to_bits(),
    };
    (mask.leading_ones() + mask.trailing_zeros() == 32 || mask == 0 || mask == u32::MAX).then(|| mask.count_ones())
}

/// Joins an address and a netmask to one of the form `192.0.2.1/24`.
pub(super) fn with_prefix(address: &str, netmask: Option<&str>) -> String {
    match netmask.and_then(prefix_of).filter(|_| !address.contains('/')) {
        Some(prefix) => format!("{address}/{prefix}"),
        None => address.to_owned(),
    }
}

/// Adds the words of a value, split at white space and commas, that are not there yet.
pub(super) fn add_words(words: &mut Vec<String>, value: &str) {
    for word in value.split([' ', '\t', ',', ';']).filter(|word| !word.is_empty()).take(64) {
        if words.len() < 64 && !words.iter().any(|known| known == word) {
            words.push(word.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_netmask_becomes_a_length() {
        assert_eq!(prefix_of("255.255.255.0"), Some(24));
        assert_eq!(prefix_of("0xffffff00"), Some(24));
        assert_eq!(prefix_of("64"), Some(64));
        assert_eq!(prefix_of("255.0.255.0"), None);
        assert_eq!(prefix_of("0.0.0.0"), Some(0));
        assert_eq!(prefix_of("nonsense"), None);
        assert_eq!(with_prefix("192.0.2.1/28", Some("24")), "192.0.2.1/28");
    }
}
