//! Boot loaders: what their menus offer, and which entry boots by itself.
//!
//! GRUB's scripts are not run: entries are found by their `menuentry` lines, the default by `set default`, the environment
//! block and `/etc/default/grub`. The forms are specified in GRUB's manual, syslinux' documentation and the Boot Loader
//! Specification (UAPI Group).

use super::kernels::natural;
use super::read::{Guest, Variables, join, plain_lines, shorten, tidy, unquote};
use super::types::{BootEntry, BootLoader};

/// The most entries that are kept.
const MAX_ENTRIES: usize = 256;

/// Finds the boot loader.
pub(super) fn loader(guest: &Guest<'_>) -> Option<BootLoader> {
    grub2(guest).or_else(|| systemd_boot(guest)).or_else(|| grub1(guest)).or_else(|| syslinux(guest)).or_else(|| {
        // U-Boot and the firmware of small boards read a file of their own.
        let config = ["/boot/config.txt", "/boot/firmware/config.txt"].into_iter().find(|path| guest.is_file(path))?;
        Some(BootLoader {
            name: "raspberrypi".into(),
            config: Some(config.into()),
            default_entry: None,
            entries: Vec::new(),
        })
    })
}

fn first_file(guest: &Guest<'_>, paths: &[&str]) -> Option<String> {
    paths.iter().find(|path| guest.is_file(path)).map(|&path| path.to_owned())
}

fn grub2(guest: &Guest<'_>) -> Option<BootLoader> {
    let mut config = first_file(guest, &["/boot/grub2/grub.cfg", "/boot/grub/grub.cfg"]);
    if config.is_none() {
        let vendors = guest.list("/boot/efi/EFI").into_iter().take(64);
        let mut paths = vendors.map(|vendor| join(join("/boot/efi/EFI", vendor), "grub.cfg"));
        config = paths.find(|path| guest.is_file(path)).map(|path| tidy(&path));
    }
    let config = config?;
    let text = guest.text(&config).unwrap_or_default();
    let mut menu = menu(&text);
    if text.contains("blscfg") {
        let entries = spec_entries(guest);
        menu.splice(0..0, entries.into_iter().map(|(id, entry)| MenuEntry { ids: vec![id], depth: 0, entry }));
    }
    let environment = ["/boot/grub2/grubenv", "/boot/grub/grubenv"].iter().find_map(|path| guest.text(path));
    let saved = environment.and_then(|text| Variables::parse(&text).owned("saved_entry"));
    let wanted = guest.text("/etc/default/grub").and_then(|text| Variables::parse(&text).owned("GRUB_DEFAULT"));
    let wanted = match wanted.or_else(|| set_default(&text)).as_deref() {
        Some("saved") => saved.unwrap_or_else(|| "0".into()),
        Some(wanted) => wanted.to_owned(),
        None => saved.unwrap_or_else(|| "0".into()),
    };
    let default_entry = pick(&menu, &wanted);
    let entries =
        menu.into_iter().map(|item| item.entry).filter(|entry| entry.kernel.is_some() || !entry.title.is_empty());
    let entries = entries.take(MAX_ENTRIES).collect();
    Some(BootLoader { name: "grub2".into(), config: Some(config), default_entry, entries })
}

/// Returns the value of the first `set default=` that is no variable.
fn set_default(text: &str) -> Option<String> {
    let values = text.lines().filter_map(|line| line.trim().strip_prefix("set default=")).map(unquote);
    values.into_iter().find(|value| !value.starts_with('$'))
}

/// An entry of GRUB's menu, or a submenu, whose entries follow one deeper.
struct MenuEntry {
    /// What it may be called by: its title and its id.
    ids: Vec<String>,
    depth: usize,
    entry: BootEntry,
}

fn menu(text: &str) -> Vec<MenuEntry> {
    let mut menu: Vec<MenuEntry> = Vec::new();
    let mut submenus: Vec<usize> = Vec::new();
    let mut braces = 0_usize;
    for line in text.lines().map(str::trim) {
        let opens = line.ends_with('{');
        let word = line.split_whitespace().next().unwrap_or_default();
        match word {
            "menuentry" | "submenu" => {
                let title = unquote(line[word.len()..].trim_start());
                let id = line
                    .split_once("menuentry_id_option")
                    .or_else(|| line.split_once("--id"))
                    .map(|(_, id)| unquote(id));
                let ids = [Some(title.clone()), id].into_iter().flatten().filter(|id| !id.is_empty()).collect();
                if menu.len() < MAX_ENTRIES {
                    menu.push(MenuEntry {
                        ids,
                        depth: submenus.len(),
                        entry: BootEntry { title, ..BootEntry::default() },
                    });
                }
                if word == "submenu" {
                    submenus.push(braces);
                }
            }
            "linux" | "linux16" | "linuxefi" | "initrd" | "initrd16" | "initrdefi" | "multiboot" | "chainloader" => {
                if let Some(item) = menu.last_mut().filter(|_| braces > 0) {
                    fill(&mut item.entry, word, line[word.len()..].trim());
                }
            }
            _ => {}
        }
        if opens {
            braces += 1;
        } else if line == "}" {
            braces = braces.saturating_sub(1);
            if submenus.last() == Some(&braces) {
                submenus.pop();
            }
        }
    }
    menu
}

fn fill(entry: &mut BootEntry, word: &str, arguments: &str) {
    let (file, rest) = arguments.split_once(char::is_whitespace).unwrap_or((arguments, ""));
    let file = shorten(file).to_owned();
    if word.starts_with("initrd") {
        entry.initrd.get_or_insert(file);
    } else if entry.kernel.is_none() {
        entry.kernel = Some(file);
        let options = shorten(rest.trim());
        entry.options = (!options.is_empty()).then(|| options.to_owned());
    }
}

/// Finds the title of the entry that GRUB calls so: by number, title or id, and `>` between a submenu and its entry.
fn pick(menu: &[MenuEntry], wanted: &str) -> Option<String> {
    let mut from = 0;
    let mut found = None;
    for (depth, part) in wanted.split('>').map(str::trim).take(8).enumerate() {
        let level = menu[from..].iter().enumerate().take_while(|(_, item)| item.depth >= depth);
        let mut level = level.filter(|(_, item)| item.depth == depth);
        let place = match part.parse::<usize>() {
            Ok(number) => level.nth(number)?.0,
            Err(_) => level.find(|(_, item)| item.ids.iter().any(|id| id == part))?.0,
        };
        found = Some(menu[from + place].entry.title.clone());
        from += place + 1;
    }
    found
}

/// Reads the entries of the Boot Loader Specification, in the order of a menu: the newest first.
fn spec_entries(guest: &Guest<'_>) -> Vec<(String, BootEntry)> {
    let mut entries = Vec::new();
    for base in ["/boot", "/efi", "/boot/efi"] {
        for path in guest.list_ending(&format!("{base}/loader/entries"), ".conf").into_iter().take(MAX_ENTRIES) {
            let text = guest.text(&path).unwrap_or_default();
            let get = |key: &str| {
                let line = plain_lines(&text).find(|line| line.split_whitespace().next() == Some(key))?;
                Some(shorten(line[key.len()..].trim()).to_owned())
            };
            let id = tidy(path.rsplit(|&byte| byte == b'/').next().unwrap_or_default());
            let id = id.strip_suffix(".conf").unwrap_or(&id).to_owned();
            let entry = BootEntry {
                title: get("title").unwrap_or_else(|| id.clone()),
                kernel: get("linux").or_else(|| get("efi")),
                initrd: get("initrd"),
                options: get("options"),
            };
            entries.push((get("version").unwrap_or_else(|| id.clone()), id, entry));
        }
    }
    entries.sort_by(|one, other| natural(&other.0, &one.0).then_with(|| natural(&other.1, &one.1)));
    entries.dedup_by(|one, other| one.1 == other.1);
    entries.into_iter().map(|(_, id, entry)| (id, entry)).collect()
}

/// Returns the deployment of ostree that the newest entry starts: `/ostree/boot.1/fedora/<checksum>/0`.
pub(super) fn newest_ostree(guest: &Guest<'_>) -> Option<String> {
    newest_option(guest, "ostree=").map(|(path, _)| path)
}

/// Returns what a word of the newest entry's command line has behind its beginning, and the entry's title.
pub(super) fn newest_option(guest: &Guest<'_>, start: &str) -> Option<(String, String)> {
    let entries = spec_entries(guest);
    let (_, entry) = entries.iter().find(|(_, entry)| entry.options.is_some())?;
    let word = entry.options.as_deref()?.split_whitespace().find_map(|word| word.strip_prefix(start))?;
    Some((word.to_owned(), entry.title.clone()))
}

fn systemd_boot(guest: &Guest<'_>) -> Option<BootLoader> {
    let config =
        first_file(guest, &["/efi/loader/loader.conf", "/boot/loader/loader.conf", "/boot/efi/loader/loader.conf"]);
    let entries = spec_entries(guest);
    if config.is_none() && entries.is_empty() {
        return None;
    }
    let text = config.as_ref().and_then(|path| guest.text(path)).unwrap_or_default();
    let wanted = plain_lines(&text).find_map(|line| line.strip_prefix("default")).map(str::trim).unwrap_or_default();
    let wanted = wanted.strip_suffix(".conf").unwrap_or(wanted);
    let fits = |id: &str| match wanted.split_once('*') {
        Some((start, end)) => id.starts_with(start) && id.ends_with(end),
        None => id == wanted,
    };
    let chosen =
        entries.iter().find(|(id, _)| fits(id)).or_else(|| entries.first().filter(|_| !wanted.starts_with('@')));
    let default_entry = chosen.map(|(_, entry)| entry.title.clone());
    let entries = entries.into_iter().map(|(_, entry)| entry).collect();
    Some(BootLoader { name: "systemd-boot".into(), config, default_entry, entries })
}

/// Reads the menu of GRUB before version 2: `title` lines with what belongs to each below it.
fn grub1(guest: &Guest<'_>) -> Option<BootLoader> {
    let config = first_file(guest, &["/boot/grub/menu.lst", "/boot/grub/grub.conf", "/etc/grub.conf"])?;
    let text = guest.text(&config).unwrap_or_default();
    let mut entries: Vec<BootEntry> = Vec::new();
    let mut default = 0;
    for line in plain_lines(&text) {
        let (word, rest) = line.split_once([' ', '\t', '=']).unwrap_or((line, ""));
        match word {
            "default" if entries.is_empty() => default = rest.trim_start_matches(['=', ' ']).parse().unwrap_or(0),
            "title" if entries.len() < MAX_ENTRIES => {
                entries.push(BootEntry { title: shorten(rest.trim()).to_owned(), ..BootEntry::default() });
            }
            "kernel" | "initrd" => {
                if let Some(entry) = entries.last_mut() {
                    fill(entry, word, rest.trim());
                }
            }
            _ => {}
        }
    }
    let default_entry = entries.get(default).map(|entry| entry.title.clone());
    Some(BootLoader { name: "grub".into(), config: Some(config), default_entry, entries })
}

/// Reads the menu of extlinux, syslinux and isolinux: `LABEL` lines with what belongs to each below it.
fn syslinux(guest: &Guest<'_>) -> Option<BootLoader> {
    let config = first_file(
        guest,
        &[
            "/boot/extlinux/extlinux.conf",
            "/boot/extlinux.conf",
            "/extlinux.conf",
            "/boot/syslinux/syslinux.cfg",
            "/syslinux/syslinux.cfg",
            "/syslinux.cfg",
            "/isolinux/isolinux.cfg",
        ],
    )?;
    let name = if config.contains("extlinux") { "extlinux" } else { "syslinux" };
    let text = guest.text(&config).unwrap_or_default();
    let mut entries: Vec<(String, BootEntry)> = Vec::new();
    let mut default = String::new();
    for line in plain_lines(&text) {
        let (word, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let rest = shorten(rest.trim());
        let room = entries.len() < MAX_ENTRIES;
        let entry = entries.last_mut().map(|(_, entry)| entry);
        match (word.to_ascii_uppercase().as_str(), entry) {
            ("DEFAULT" | "ONTIMEOUT", None) => default = rest.to_owned(),
            ("DEFAULT", _) => default = rest.to_owned(),
            ("LABEL", _) if room => {
                entries.push((rest.to_owned(), BootEntry { title: rest.to_owned(), ..BootEntry::default() }));
            }
            ("MENU", Some(entry)) if rest.get(..5).is_some_and(|word| word.eq_ignore_ascii_case("label")) => {
                entry.title = rest[5..].trim().replace('^', "");
            }
            ("KERNEL" | "LINUX", Some(entry)) => fill(entry, "linux", rest),
            ("INITRD", Some(entry)) => entry.initrd = Some(rest.to_owned()),
            ("APPEND", Some(entry)) => entry.options = Some(rest.to_owned()),
            _ => {}
        }
    }
    let default_entry = entries.iter().find(|(label, _)| *label == default).map(|(_, entry)| entry.title.clone());
    let entries = entries.into_iter().map(|(_, entry)| entry).collect();
    Some(BootLoader { name: name.into(), config: Some(config), default_entry, entries })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::fixture::Fixture;

    const GRUB: &str = "if [ \"${next_entry}\" ] ; then\n   set default=\"${next_entry}\"\nelse\n   set default=\"0\"\nfi\n\
        menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple-1' {\n\
        \tload_video\n\tif [ x ]; then\n\t  search --set=root 1\n\tfi\n\
        \tlinux\t/boot/vmlinuz-6.1.0-18-amd64 root=UUID=1 ro  quiet\n\tinitrd\t/boot/initrd.img-6.1.0-18-amd64\n}\n\
        submenu 'Advanced options' $menuentry_id_option 'gnulinux-advanced-1' {\n\
        \tmenuentry 'Debian, with 6.1.0-18' --class debian $menuentry_id_option 'adv-18' {\n\t\tlinux /boot/vmlinuz-18 x\n\t}\n\
        \tmenuentry 'Debian, with 6.1.0-17' --class debian $menuentry_id_option 'adv-17' {\n\t\tlinux /boot/vmlinuz-17 x\n\t}\n\
        }\nmenuentry 'Firmware' $menuentry_id_option 'uefi' {\n\tfwsetup\n}\n";

    fn default_of(fixture: Fixture) -> Option<String> {
        loader(&Guest::new(&fixture.tree())).expect("there is one").default_entry
    }

    #[test]
    fn the_menu_of_grub_is_read_with_its_default() {
        let base = || Fixture::new().file("boot/grub/grub.cfg", GRUB);
        let tree = base().tree();
        let found = loader(&Guest::new(&tree)).expect("there is one");
        assert_eq!((found.name.as_str(), found.entries.len()), ("grub2", 5));
        assert_eq!(found.default_entry.as_deref(), Some("Debian GNU/Linux"));
        assert_eq!(found.entries[0].kernel.as_deref(), Some("/boot/vmlinuz-6.1.0-18-amd64"));
        assert_eq!(found.entries[0].options.as_deref(), Some("root=UUID=1 ro  quiet"));
        let told = |text: &str| default_of(base().file("etc/default/grub", format!("GRUB_DEFAULT=\"{text}\"\n")));
        assert_eq!(told("1>1").as_deref(), Some("Debian, with 6.1.0-17"));
        assert_eq!(told("gnulinux-advanced-1>adv-17").as_deref(), Some("Debian, with 6.1.0-17"));
        assert_eq!(told("2").as_deref(), Some("Firmware"));
        assert_eq!(told("9"), None);
        let saved = base().file("etc/default/grub", "GRUB_DEFAULT=saved\n");
        let saved = saved.file("boot/grub/grubenv", "# GRUB Environment Block\nsaved_entry=uefi\n####");
        assert_eq!(default_of(saved).as_deref(), Some("Firmware"));
    }

    #[test]
    fn entries_of_the_boot_loader_specification_come_newest_first() {
        let entry = |version: &str| {
            format!("title Fedora ({version})\nversion {version}\nlinux /vmlinuz-{version}\noptions root=x\n")
        };
        let base = || {
            Fixture::new()
                .file("boot/loader/entries/id-6.5.6.conf", entry("6.5.6"))
                .file("boot/loader/entries/id-6.5.12.conf", entry("6.5.12"))
        };
        let grub = base().file("boot/grub2/grub.cfg", "insmod blscfg\nblscfg\n");
        assert_eq!(default_of(grub).as_deref(), Some("Fedora (6.5.12)"));
        let saved = base()
            .file("boot/grub2/grub.cfg", "set default=\"${saved_entry}\"\nblscfg\n")
            .file("boot/grub2/grubenv", "saved_entry=id-6.5.6\n");
        assert_eq!(default_of(saved).as_deref(), Some("Fedora (6.5.6)"));
        let systemd = base().file("boot/loader/loader.conf", "timeout 3\ndefault id-6.5.6*\n");
        let tree = systemd.tree();
        let found = loader(&Guest::new(&tree)).expect("there is one");
        assert_eq!((found.name.as_str(), found.default_entry.as_deref()), ("systemd-boot", Some("Fedora (6.5.6)")));
    }

    #[test]
    fn older_loaders_have_menus_too() {
        let grub = "default=1\ntimeout=5\ntitle CentOS (2.6.32-754)\n\troot (hd0,0)\n\tkernel /vmlinuz-2.6.32-754 ro root=x\n\
            \tinitrd /initramfs-2.6.32-754.img\ntitle CentOS (2.6.32-642)\n\tkernel /vmlinuz-2.6.32-642 ro\n";
        assert_eq!(
            default_of(Fixture::new().file("boot/grub/grub.conf", grub)).as_deref(),
            Some("CentOS (2.6.32-642)")
        );
        let extlinux = "DEFAULT lts\nTIMEOUT 10\nLABEL lts\n  MENU LABEL Linux ^lts\n  LINUX vmlinuz-lts\n  INITRD initramfs-lts\n\
            \x20 APPEND root=UUID=1 quiet\n";
        let tree = Fixture::new().file("boot/extlinux.conf", extlinux).tree();
        let found = loader(&Guest::new(&tree)).expect("there is one");
        assert_eq!((found.name.as_str(), found.default_entry.as_deref()), ("extlinux", Some("Linux lts")));
        assert_eq!(found.entries[0].options.as_deref(), Some("root=UUID=1 quiet"));
    }

    #[test]
    fn a_broken_menu_is_read_as_far_as_it_goes() {
        for text in
            ["menuentry", "submenu {\nmenuentry 'a' {\n", "}\n}\n}\nlinux x\n", "menuentry '\n{", "set default="]
        {
            menu(text);
            loader(&Guest::new(&Fixture::new().file("boot/grub/grub.cfg", text).tree()));
        }
    }
}
