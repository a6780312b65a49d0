//! Windows: found by its folders, told by its registry.

mod events;
mod hive;
mod log;
mod sam;
mod software;
mod system;

use super::read::{Guest, Ini, join, plain_lines, shorten, tidy};
use super::types::{BootEntry, BootLoader, Details, Kind, Package, System, WindowsSystem};
use super::{elf, osinfo};
use crate::error::Result;
use crate::inspect::types::PasswordState;
use hive::{Hive, Key};

/// The most entries of a boot menu that are kept.
const MAX_BOOT_ENTRIES: usize = 256;

/// Finds a file by its path, in any case of letters. Returns the path as it is spelled.
pub(super) fn insensitive(guest: &Guest<'_>, path: &str) -> Option<Vec<u8>> {
    let mut found = Vec::new();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let exact = join(&found, name);
        if guest.has(&exact) {
            found = exact;
            continue;
        }
        let folder = if found.is_empty() { b"/".to_vec() } else { found.clone() };
        let own = guest.list(folder).into_iter().find(|own| own.eq_ignore_ascii_case(name.as_bytes()))?;
        found = join(&found, own);
    }
    Some(found)
}

/// Opens a hive of the system.
fn open<'a>(guest: &Guest<'a>, path: &str) -> Option<Hive<'a>> {
    match Hive::open(guest, path.as_bytes()) {
        Ok(hive) => hive,
        Err(error) => {
            guest.warn_of(path, &error);
            None
        }
    }
}

/// Returns what could be read, and keeps a line about what could not.
fn told<T: Default>(guest: &Guest<'_>, path: &str, result: Result<T>) -> T {
    result.unwrap_or_else(|error| {
        guest.warn_of(path, &error);
        T::default()
    })
}

/// Returns the text of a value.
fn text(hive: &Hive<'_>, key: &Key, name: &str) -> Result<Option<String>> {
    Ok(hive.value(key, name)?.and_then(|value| value.text()))
}

/// Returns the number of a value.
fn number(hive: &Hive<'_>, key: &Key, name: &str) -> Result<Option<u64>> {
    Ok(hive.value(key, name)?.and_then(|value| value.number()))
}

/// Describes the Windows whose root a tree is.
pub(super) fn look(guest: &Guest<'_>) -> Option<System> {
    let root = system_root(guest)?;
    let config = |name: &str| insensitive(guest, &format!("{root}/System32/config/{name}")).map(|path| tidy(&path));
    let mut system = System::new(Kind::Windows, "windows");
    let programs = ["System32/ntoskrnl.exe", "System32/kernel32.dll", "System32/cmd.exe", "explorer.exe"];
    let programs = programs.iter().filter_map(|name| insensitive(guest, &format!("{root}/{name}")));
    system.arch = programs.into_iter().find_map(|path| elf::of_pe(guest, &path));
    let mut windows = WindowsSystem { system_root: root.clone(), ..WindowsSystem::default() };
    windows.system_hive = config("SYSTEM");
    windows.software_hive = config("SOFTWARE");
    windows.hibernated = hibernated(guest);
    if let Some(path) = windows.software_hive.clone()
        && let Some(hive) = open(guest, &path)
    {
        told(guest, &path, software::tell(&hive, &mut system, &mut windows));
    }
    if let Some(path) = windows.system_hive.clone()
        && let Some(hive) = open(guest, &path)
    {
        told(guest, &path, system::tell(&hive, &mut system, &mut windows));
        if let Some(control) = &windows.current_control_set {
            system.keyboard = told(guest, &path, keyboard(guest, &root, &hive, control));
        }
    }
    system.windows = Some(windows);
    system.osinfo = osinfo::of(&system);
    Some(system)
}

/// Describes the media that Windows is installed from. Its files are in archives, so little is told.
pub(super) fn media(guest: &Guest<'_>) -> Option<System> {
    let has = |path: &str| insensitive(guest, path).is_some();
    if !has("/setup.exe") && !has("/bootmgr")
        || !["wim", "esd", "swm"].iter().any(|end| has(&format!("/sources/install.{end}")))
    {
        return None;
    }
    let mut system = System::new(Kind::Windows, "windows");
    system.installer = true;
    let host = insensitive(guest, "/sources/cversion.ini").and_then(|path| guest.text(path));
    let build = host.and_then(|text| Ini::parse(&text).get("HostBuild", "MinServer").map(str::to_owned));
    system.build_id = build.and_then(|build| build.split('.').next().map(str::to_owned));
    Some(system)
}

/// Finds the folder of the system: the one that `boot.ini` names, or one that is usual.
fn system_root(guest: &Guest<'_>) -> Option<String> {
    let mut roots = Vec::new();
    if let Some(text) = insensitive(guest, "/boot.ini").and_then(|path| guest.text(path)) {
        // default=multi(0)disk(0)rdisk(0)partition(1)\WINDOWS
        let default = text.lines().find_map(|line| line.trim().strip_prefix("default="));
        roots.extend(default.and_then(|line| line.split_once('\\')).map(|(_, root)| root.trim().replace('\\', "/")));
    }
    roots.extend(["Windows", "WINNT", "Win32", "Win", "ReactOS"].map(str::to_owned));
    roots.iter().filter(|root| root.len() < 256).find_map(|root| {
        let path = insensitive(guest, root)?;
        let inner = format!("{}/System32", tidy(&path));
        let signs = ["config/SYSTEM", "config/SOFTWARE", "ntoskrnl.exe"];
        let is_root = signs.iter().any(|sign| insensitive(guest, &format!("{inner}/{sign}")).is_some());
        is_root.then(|| tidy(&path))
    })
}

/// Says whether the file of hibernation holds a system that waits to be resumed.
fn hibernated(guest: &Guest<'_>) -> Option<bool> {
    let Some(path) = insensitive(guest, "/hiberfil.sys") else { return Some(false) };
    let (node, _) = guest.file(&path)?;
    let mut magic = [0; 4];
    match guest.tree().read(node, 0, &mut magic) {
        Ok(4) => Some(matches!(&magic.to_ascii_lowercase()[..], b"hibr" | b"rstr")),
        Ok(_) => Some(false),
        Err(error) => {
            guest.warn_of(&path, &error);
            None
        }
    }
}

/// Lists the applications.
pub(super) fn applications(guest: &Guest<'_>, system: &System) -> Vec<Package> {
    let Some(path) = system.windows.as_ref().and_then(|windows| windows.software_hive.clone()) else {
        return Vec::new();
    };
    let Some(hive) = open(guest, &path) else { return Vec::new() };
    // Packages of 32 bits are called i686 everywhere, as libguestfs calls them.
    let own = match system.arch.as_deref() {
        Some("i386") => "i686",
        own => own.unwrap_or_default(),
    };
    let mut packages = Vec::new();
    told(guest, &path, software::applications(guest, &hive, &path, own, &mut packages));
    packages
}

/// Tells more about the system.
pub(super) fn details(guest: &Guest<'_>, system: &System) -> Details {
    let mut details = Details::default();
    let Some(windows) = &system.windows else { return details };
    if let Some(path) = &windows.system_hive
        && let Some(hive) = open(guest, path)
        && let Some(control) = &windows.current_control_set
    {
        told(guest, path, system::details(guest, &hive, path, control, &mut details));
    }
    if let Some(path) = insensitive(guest, &format!("{}/System32/config/SAM", windows.system_root)) {
        let path = tidy(&path);
        if let Some(hive) = open(guest, &path) {
            details.users = told(guest, &path, sam::users(&hive));
        }
    }
    if let Some(folder) = insensitive(guest, &format!("{}/System32/drivers", windows.system_root)) {
        details.virtio = virtio(guest, &folder);
    }
    details.boot_loader = boot_loader(guest);
    let log = insensitive(guest, &format!("{}/System32/winevt/Logs/System.evtx", windows.system_root));
    let told = log.and_then(|log| events::read(guest, &log)).unwrap_or_default();
    (details.last_boot, details.last_log) = (told.boot, told.last);
    if details.last_boot.is_none() {
        details.last_boot = last_boot(guest, &windows.system_root);
        details.last_boot_guessed = details.last_boot.is_some();
    }
    details
}

/// Lists the virtio drivers for Windows, which have names of their own.
fn virtio(guest: &Guest<'_>, folder: &[u8]) -> Vec<String> {
    const DRIVERS: [&str; 12] = [
        "viostor", "vioscsi", "netkvm", "balloon", "viorng", "vioser", "viofs", "viogpudo", "vioinput", "viosock",
        "viocrypt", "viomem",
    ];
    let names = guest.list(folder).into_iter().map(|name| tidy(&name).to_ascii_lowercase());
    names
        .filter_map(|name| Some(name.strip_suffix(".sys")?.to_owned()))
        .filter(|name| DRIVERS.contains(&name.as_str()))
        .collect()
}

/// Reads the boot manager's store, which is a hive too.
fn boot_loader(guest: &Guest<'_>) -> Option<BootLoader> {
    const MANAGER: &str = "Objects\\{9dea862c-5cdd-4e70-acc1-f32b344d4795}\\Elements\\23000003";
    const DESCRIPTION: &str = "Elements\\12000004";
    let stores = ["/Boot/BCD", "/EFI/Microsoft/Boot/BCD"];
    let Some(path) = stores.iter().find_map(|path| insensitive(guest, path)) else {
        let config = tidy(&insensitive(guest, "/boot.ini")?);
        let (default_entry, entries) = boot_ini(&guest.text(&config).unwrap_or_default());
        return Some(BootLoader { name: "ntldr".into(), config: Some(config), default_entry, entries });
    };
    let path = tidy(&path);
    let mut loader =
        BootLoader { name: "bootmgr".into(), config: Some(path.clone()), default_entry: None, entries: Vec::new() };
    let hive = open(guest, &path)?;
    let read = || -> Result<()> {
        let Some(manager) = hive.key(MANAGER)? else { return Ok(()) };
        let Some(default) = text(&hive, &manager, "Element")? else { return Ok(()) };
        let Some(entry) = hive.key(&format!("Objects\\{default}\\{DESCRIPTION}"))? else { return Ok(()) };
        if let Some(title) = text(&hive, &entry, "Element")? {
            loader.entries.push(BootEntry { title: title.clone(), ..BootEntry::default() });
            loader.default_entry = Some(title);
        }
        Ok(())
    };
    let read = { read }();
    told(guest, &path, read);
    Some(loader)
}

/// Reads the menu of the boot loader before Vista: a line for each system, as
/// `multi(0)disk(0)rdisk(0)partition(1)\WINDOWS="Windows XP" /fastdetect`.
fn boot_ini(text: &str) -> (Option<String>, Vec<BootEntry>) {
    let mut section = String::new();
    let mut default = None;
    let mut systems: Vec<(String, BootEntry)> = Vec::new();
    for line in plain_lines(text) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name.to_ascii_lowercase();
            continue;
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        let (key, value) = (key.trim(), value.trim());
        if section == "boot loader" && key.eq_ignore_ascii_case("default") {
            default = Some(value.to_ascii_lowercase());
        } else if section == "operating systems" && systems.len() < MAX_BOOT_ENTRIES {
            let (title, options) = match value.strip_prefix('"').and_then(|value| value.split_once('"')) {
                Some((title, options)) => (title, options.trim()),
                None => (value, ""),
            };
            let options = (!options.is_empty()).then(|| shorten(options).to_owned());
            let entry = BootEntry { title: shorten(title).to_owned(), options, ..BootEntry::default() };
            systems.push((key.to_ascii_lowercase(), entry));
        }
    }
    let chosen = systems.iter().find(|(place, _)| Some(place) == default.as_ref());
    let title = chosen.map(|(_, entry)| entry.title.clone());
    (title, systems.into_iter().map(|(_, entry)| entry).collect())
}

/// Returns the keyboard's layout that the logon screen has, by its name where the hive of the system knows it.
fn keyboard(guest: &Guest<'_>, root: &str, system: &Hive<'_>, control: &str) -> Result<Option<String>> {
    let Some(path) = insensitive(guest, &format!("{root}/System32/config/DEFAULT")) else { return Ok(None) };
    let Some(user) = open(guest, &tidy(&path)) else { return Ok(None) };
    let Some(preload) = user.key("Keyboard Layout\\Preload")? else { return Ok(None) };
    let Some(id) = text(&user, &preload, "1")? else { return Ok(None) };
    if id.len() != 8 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(None);
    }
    let layout = system.key(&format!("{control}\\Control\\Keyboard Layouts\\{id}"))?;
    let name = layout.map(|layout| text(system, &layout, "Layout Text")).transpose()?.flatten();
    Ok(Some(name.unwrap_or(id)))
}

/// Returns when the system last began to run, in seconds since 1970: what it writes then, and not again.
fn last_boot(guest: &Guest<'_>, root: &str) -> Option<i64> {
    let paths = [format!("{root}/bootstat.dat"), "/pagefile.sys".to_owned(), "/swapfile.sys".to_owned()];
    let found = paths.iter().filter_map(|path| guest.found(insensitive(guest, path)?));
    found.map(|found| found.attr.mtime.seconds).find(|&time| time > 0)
}

/// Returns what the account flags say of a password.
fn password_state(flags: u16) -> PasswordState {
    const DISABLED: u16 = 0x0001;
    const NOT_REQUIRED: u16 = 0x0004;
    if flags & DISABLED != 0 {
        PasswordState::Locked
    } else if flags & NOT_REQUIRED != 0 {
        PasswordState::Empty
    } else {
        PasswordState::Set
    }
}

#[cfg(test)]
mod tests;
