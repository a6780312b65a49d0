//! `--fields`: some of what is known of each system, a line for each.

use super::report::{Described, Report, Wanted};
use crate::cli::output;
use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::str::FromStr;

/// What of a system can be asked for: the keys of its JSON.
pub(super) const FIELDS: [&str; 50] = [
    "root",
    "type",
    "distro",
    "product_name",
    "product_variant",
    "version",
    "version_id",
    "codename",
    "build_id",
    "arch",
    "hostname",
    "machine_id",
    "time_zone",
    "locale",
    "keyboard",
    "package_format",
    "package_management",
    "osinfo",
    "merged_usr",
    "installer",
    "deployment",
    "windows",
    "warnings",
    "mounts",
    "swaps",
    "missing",
    "drive_mappings",
    "kernels",
    "boot_loader",
    "init",
    "services",
    "users",
    "groups",
    "ssh_host_keys",
    "network",
    "fstab",
    "crypttab",
    "arrays",
    "selinux",
    "cloud_init",
    "virtio",
    "last_boot",
    "last_boot_guessed",
    "last_shutdown",
    "last_log",
    "icon",
    "containers",
    "packages",
    "logins",
    "kernel",
];

/// How many of [`FIELDS`], from the beginning, are known without reading more than the root's own files.
const CHEAP: usize = 27;

/// A list of fields.
#[derive(Clone, Debug)]
pub(super) struct Fields(Vec<&'static str>);

impl FromStr for Fields {
    type Err = Error;

    fn from_str(list: &str) -> Result<Self> {
        let find = |name: &str| {
            let name = name.trim();
            FIELDS.iter().find(|known| **known == name).copied().ok_or_else(|| {
                Error::Usage(format!("there is no field {name:?}; there are {}", FIELDS.join(", ")).into())
            })
        };
        Ok(Self(list.split(',').map(find).collect::<Result<_>>()?))
    }
}

impl Fields {
    /// Says what is to be read for them.
    pub(super) fn wanted(&self) -> Wanted {
        let is_cheap = |name: &&str| FIELDS[..CHEAP].contains(name);
        Wanted {
            packages: self.0.contains(&"packages"),
            details: self.0.iter().any(|name| *name != "packages" && !is_cheap(name)),
        }
    }

    /// Returns the JSON of a system with these keys alone, in their order.
    fn of(&self, system: &Described) -> Map<String, Value> {
        let all = serde_json::to_value(system).expect("names and numbers can be written as JSON");
        self.0.iter().map(|name| ((*name).to_owned(), value(&all, name))).collect()
    }

    /// Returns the JSON of an image with these fields of its systems.
    pub(super) fn json(&self, report: &Report) -> Value {
        let systems: Vec<_> = report.systems.iter().map(|system| self.of(system)).collect();
        serde_json::json!({ "image": report.image, "systems": systems })
    }

    /// Prints a line for each system: the image where there are several, and the fields, with tabs between them.
    pub(super) fn print(&self, report: &Report, several: bool) {
        for system in &report.systems {
            let mut cells = if several { vec![output::one_line(&report.image)] } else { Vec::new() };
            let all = self.of(system);
            cells.extend(self.0.iter().map(|name| output::one_line(&plain(&all[*name]))));
            println!("{}", cells.join("\t"));
        }
    }
}

fn value(all: &Value, name: &str) -> Value {
    match name {
        "logins" => {
            let users = all["users"].as_array().map_or(&[][..], Vec::as_slice);
            users.iter().filter(|user| user["login"] == true).map(|user| user["name"].clone()).collect()
        }
        "kernel" => all["kernels"]
            .as_array()
            .and_then(|kernels| kernels.last())
            .map_or(Value::Null, |newest| newest["version"].clone()),
        name => all.get(name).cloned().unwrap_or(Value::Null),
    }
}

/// Returns a value for a line: a list of words with spaces between them, a list of things by their names, the rest as
/// JSON.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::from("-"),
        Value::String(text) if text.is_empty() => String::from("-"),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => String::from("-"),
        Value::Array(items) => {
            let name = |item: &Value| match (item, &item["name"], &item["version"]) {
                (Value::String(text), ..) => text.clone(),
                (_, Value::String(name), _) => name.clone(),
                (_, _, Value::String(version)) => version.clone(),
                _ => item.to_string(),
            };
            items.iter().map(name).collect::<Vec<_>>().join(" ")
        }
        Value::Object(object) => match (object.get("major"), object.get("minor"), object.len()) {
            (Some(major), Some(minor), 2) => format!("{major}.{minor}"),
            _ => value.to_string(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_says_what_is_to_be_read() {
        let wanted = |list: &str| {
            let wanted = list.parse::<Fields>().expect(list).wanted();
            (wanted.details, wanted.packages)
        };
        assert_eq!(wanted("root,hostname,drive_mappings"), (false, false));
        assert_eq!(wanted("hostname, packages"), (false, true));
        assert_eq!(wanted("logins,packages"), (true, true));
        let error = "hostname,colour".parse::<Fields>().expect_err("no such field").to_string();
        assert!(error.contains("colour") && error.contains("hostname"), "{error}");
    }

    #[test]
    fn values_are_short_on_a_line() {
        let plain = |text: &str| plain(&serde_json::from_str(text).expect("JSON"));
        assert_eq!(plain("null"), "-");
        assert_eq!(plain("{\"major\":12,\"minor\":5}"), "12.5");
        assert_eq!(plain("[\"a\",\"b\"]"), "a b");
        assert_eq!(plain("[{\"name\":\"ssh\",\"when\":\"multi-user.target\"}]"), "ssh");
        assert_eq!(plain("[{\"path\":\"/boot/vmlinuz-6\",\"version\":\"6\"}]"), "6");
        assert_eq!(plain("true"), "true");
    }
}
