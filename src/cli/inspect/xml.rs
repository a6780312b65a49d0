//! The form of virt-inspector: the same elements, so that what reads its output reads this.
//!
//! What it leaves out is left out here: an element of something that is not known. Text that XML cannot hold (control
//! characters) is replaced.

use super::report::{Described, Place, Report};
use crate::guestfs::FilesystemState;
use crate::inspect::{Package, base64};
use std::fmt::Write;

/// A document that is being written.
struct Document {
    text: String,
    depth: usize,
}

impl Document {
    /// Writes `<name attributes>`, what `inside` writes, and the end of it.
    fn within(&mut self, name: &str, attribute: Option<(&str, &str)>, inside: impl FnOnce(&mut Self)) {
        self.open(name, attribute, "\n");
        self.depth += 1;
        inside(self);
        self.depth -= 1;
        self.indent();
        self.text.push_str(&format!("</{name}>\n"));
    }

    fn open(&mut self, name: &str, attribute: Option<(&str, &str)>, behind: &str) {
        self.indent();
        self.text.push('<');
        self.text.push_str(name);
        if let Some((key, value)) = attribute {
            write!(self.text, " {key}=\"{}\"", escape(value)).expect("a string takes what is written");
        }
        self.text.push('>');
        self.text.push_str(behind);
    }

    fn indent(&mut self) {
        self.text.push_str(&"  ".repeat(self.depth));
    }

    /// Writes an element of text, unless there is none.
    fn element(&mut self, name: &str, value: Option<&str>) {
        self.element_with(name, None, value);
    }

    fn element_with(&mut self, name: &str, attribute: Option<(&str, &str)>, value: Option<&str>) {
        let Some(value) = value.filter(|value| !value.is_empty()) else { return };
        self.open(name, attribute, "");
        self.text.push_str(&format!("{}</{name}>\n", escape(value)));
    }
}

/// Returns a text as XML has it.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(letter),
            // XML 1.0 has no way to write these.
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            letter => out.push(letter),
        }
    }
    out
}

/// What this form alone tells of a system.
#[derive(Default)]
pub(super) struct Extra {
    /// The picture that stands for it; empty where there is none.
    pub icon: Vec<u8>,
    /// What libguestfs calls each of its mounts, in their order.
    pub mountables: Vec<String>,
}

/// Returns the document. `extras` holds more of each system, in their order.
pub(super) fn document(report: &Report, extras: &[Extra]) -> String {
    let mut out = Document { text: String::from("<?xml version=\"1.0\"?>\n"), depth: 0 };
    out.within("operatingsystems", None, |out| {
        for (system, extra) in report.systems.iter().zip(extras) {
            out.within("operatingsystem", None, |out| operating_system(out, system, &report.filesystems, extra));
        }
    });
    out.text
}

fn operating_system(out: &mut Document, each: &Described, filesystems: &[FilesystemState], extra: &Extra) {
    let system = &each.system;
    out.element("root", Some(&each.root));
    out.element("name", Some(system.kind.as_str()));
    out.element("arch", system.arch.as_deref());
    out.element("distro", Some(&system.distro));
    out.element("product_name", system.product_name.as_deref());
    out.element("product_variant", system.product_variant.as_deref());
    out.element("major_version", Some(&system.major().to_string()));
    out.element("minor_version", Some(&system.minor().to_string()));
    out.element("package_format", system.package_format.as_deref());
    out.element("package_management", system.package_management.as_deref());
    if let Some(windows) = &system.windows {
        out.element("windows_systemroot", Some(&windows.system_root));
        out.element("windows_current_control_set", windows.current_control_set.as_deref());
    }
    out.element("hostname", system.hostname.as_deref());
    out.element("osinfo", system.osinfo.as_deref());
    let named = || each.mounts.iter().zip(&extra.mountables);
    out.within("mountpoints", None, |out| {
        // A folder that is shown at a second place, or over others, is no mount point there; the root may be a deployment's folder.
        let is_own = |(place, _): &(&Place, &String)| {
            place.folder.is_none() && place.lower.is_empty() || place.mountpoint == "/"
        };
        let mut mounts: Vec<_> = named().filter(is_own).collect();
        mounts.sort_by_key(|(place, _)| place.mountpoint.len());
        for (place, name) in mounts {
            out.element_with("mountpoint", Some(("dev", name)), Some(&place.mountpoint));
        }
    });
    out.within("filesystems", None, |out| {
        let mut devices: Vec<(&str, &str)> =
            named().map(|(place, name)| (name.as_str(), place.device.as_str())).collect();
        devices.extend(each.swaps.iter().map(|device| (device.as_str(), device.as_str())));
        devices.sort();
        devices.dedup();
        for (name, device) in devices {
            out.within("filesystem", Some(("dev", name)), |out| {
                let Some(found) = filesystems.iter().find(|found| found.filesystem.device == device) else { return };
                out.element("type", Some(&found.filesystem.kind));
                out.element("label", found.filesystem.label.as_deref());
                out.element("uuid", found.filesystem.uuid.as_deref());
            });
        }
    });
    if !each.drive_mappings.is_empty() {
        out.within("drive_mappings", None, |out| {
            for mapping in &each.drive_mappings {
                let letter = mapping.letter.to_string();
                out.element_with("drive_mapping", Some(("name", &letter)), Some(&mapping.device));
            }
        });
    }
    if let Some(packages) = &each.packages {
        out.within("applications", None, |out| packages.iter().for_each(|package| application(out, package)));
    }
    if !extra.icon.is_empty() {
        out.element("icon", Some(&base64(&extra.icon)));
    }
}

fn application(out: &mut Document, package: &Package) {
    out.within("application", None, |out| {
        out.element("name", Some(&package.name));
        out.element("display_name", package.display_name.as_deref());
        if package.epoch != 0 {
            out.element("epoch", Some(&package.epoch.to_string()));
        }
        out.element("version", Some(&package.version));
        out.element("release", Some(&package.release));
        out.element("arch", Some(&package.arch));
        out.element("install_path", Some(&package.install_path));
        out.element("publisher", Some(&package.publisher));
        out.element("url", Some(&package.url));
        out.element("source_package", Some(&package.source));
        out.element("summary", Some(&package.summary));
        out.element("description", Some(&package.description));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_what_xml_can_hold() {
        assert_eq!(escape("a<b & \"c\"\u{1b}\n"), "a&lt;b &amp; &quot;c&quot;\u{fffd}\n");
    }
}
