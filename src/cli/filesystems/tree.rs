//! What is made of what: disks, and below each what lies on it.

use crate::cli::output;
use crate::error::{IoContext, Result};
use crate::guestfs::{DeviceInfo, FilesystemInfo};
use serde::Serialize;
use std::process::ExitCode;

/// The deepest level that is shown; volumes lie on fewer layers.
const MAX_DEPTH: usize = 64;

/// The most lines: a volume of several disks is shown below each, as lsblk does.
const MAX_LINES: usize = 65536;

/// A device, and what is made of it.
#[derive(Serialize)]
struct Node<'a> {
    device: &'a str,
    size: u64,
    /// What it is itself: `disk`, `part`, `lvm`, ….
    #[serde(rename = "type")]
    kind: &'a str,
    /// What lies on it; none for a disk of partitions.
    holds: Option<&'a str>,
    label: Option<&'a str>,
    uuid: Option<&'a str>,
    locked: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    children: Vec<Node<'a>>,
}

#[derive(Serialize)]
struct Report<'a> {
    devices: Vec<Node<'a>>,
    warnings: &'a [String],
}

/// Prints the tree of all devices.
pub(super) fn print(
    disks: &[DeviceInfo],
    filesystems: &[FilesystemInfo],
    warnings: &[String],
    json: bool,
) -> Result<ExitCode> {
    let mut lines = MAX_LINES;
    let devices: Vec<Node<'_>> = disks.iter().map(|disk| disk_node(disk, filesystems, &mut lines)).collect();
    if json {
        let text = serde_json::to_string_pretty(&Report { devices, warnings });
        println!("{}", text.expect("names and numbers can be written as JSON"));
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = Vec::new();
    for node in &devices {
        node.add_rows("", "", &mut rows);
    }
    output::print_table(&["DEVICE", "SIZE", "TYPE", "HOLDS", "LABEL", "UUID"], &rows, &[1]).doing(|| "cannot print")?;
    Ok(ExitCode::SUCCESS)
}

fn disk_node<'a>(disk: &'a DeviceInfo, filesystems: &'a [FilesystemInfo], lines: &mut usize) -> Node<'a> {
    let bare = filesystems.iter().find(|each| each.device == disk.name);
    Node { device: &disk.name, size: disk.size, kind: "disk", ..node(&disk.name, bare, filesystems, 0, lines) }
}

fn node<'a>(
    name: &'a str,
    own: Option<&'a FilesystemInfo>,
    filesystems: &'a [FilesystemInfo],
    depth: usize,
    lines: &mut usize,
) -> Node<'a> {
    let mut children = Vec::new();
    for each in filesystems.iter().filter(|each| depth < MAX_DEPTH && each.parents.iter().any(|one| one == name)) {
        if *lines == 0 {
            break;
        }
        *lines -= 1;
        children.push(node(&each.device, Some(each), filesystems, depth + 1, lines));
    }
    Node {
        device: name,
        size: own.map_or(0, |own| own.size),
        kind: own.map_or("disk", |own| &own.volume),
        holds: own.map(|own| own.kind.as_str()).filter(|kind| *kind != "unknown"),
        label: own.and_then(|own| own.label.as_deref().or(own.part_label.as_deref())),
        uuid: own.and_then(|own| own.uuid.as_deref()),
        locked: own.is_some_and(|own| own.locked),
        children,
    }
}

impl Node<'_> {
    /// Adds the node's row, its name after `branch`, and those of its children, each after `below` and a branch.
    fn add_rows(&self, branch: &str, below: &str, rows: &mut Vec<Vec<String>>) {
        let dash = |text: Option<&str>| text.map_or_else(|| String::from("-"), output::one_line);
        let holds = dash(self.holds);
        rows.push(vec![
            format!("{branch}{}", output::one_line(self.device)),
            output::human(self.size),
            self.kind.to_owned(),
            if self.locked { format!("{holds} (locked)") } else { holds },
            dash(self.label),
            dash(self.uuid),
        ]);
        for (at, child) in self.children.iter().enumerate() {
            let is_last = at + 1 == self.children.len();
            let (branch, further) = if is_last { ("└─", "  ") } else { ("├─", "│ ") };
            child.add_rows(&format!("{below}{branch}"), &format!("{below}{further}"), rows);
        }
    }
}
