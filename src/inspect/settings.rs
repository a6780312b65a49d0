//! Single files that say one thing: crypttab, mdadm.conf, SELinux, cloud-init.

use super::read::{Guest, Variables, join, plain_lines, shorten, tidy};
use super::types::{ArrayEntry, CloudInit, CryptEntry, SeLinux};

/// The most lines of a file that are kept.
const MAX_LINES: usize = 1024;

/// Reads `/etc/crypttab`, whose form is specified in crypttab(5).
pub(super) fn crypttab(guest: &Guest<'_>) -> Vec<CryptEntry> {
    let text = guest.text("/etc/crypttab").unwrap_or_default();
    let entries = plain_lines(&text).filter_map(|line| {
        let mut fields = line.split_whitespace().map(|field| shorten(field).to_owned());
        let (name, device) = (fields.next()?, fields.next()?);
        let key = fields.next().filter(|key| key != "none" && key != "-");
        let options = fields.next().unwrap_or_default();
        let options = options.split(',').filter(|option| !option.is_empty()).map(str::to_owned).collect();
        Some(CryptEntry { name, device, key, options })
    });
    entries.take(MAX_LINES).collect()
}

/// Reads the `ARRAY` lines of mdadm.conf, whose form is specified in mdadm.conf(5).
pub(super) fn arrays(guest: &Guest<'_>) -> Vec<ArrayEntry> {
    let paths = ["/etc/mdadm/mdadm.conf", "/etc/mdadm.conf"];
    let Some(text) = paths.iter().find_map(|path| guest.text(path)) else { return Vec::new() };
    // A line that begins with white space goes on with the one before.
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')).take(16 * MAX_LINES) {
        match lines.last_mut() {
            Some(last) if line.starts_with([' ', '\t']) && last.len() < 4096 => last.push_str(line),
            _ => lines.push(line.to_owned()),
        }
    }
    let arrays = lines.iter().filter_map(|line| {
        let mut words = line.split_whitespace();
        if !words.next()?.eq_ignore_ascii_case("ARRAY") {
            return None;
        }
        let device = shorten(words.next()?).to_owned();
        let mut entry = ArrayEntry { device, uuid: None, name: None };
        for word in words {
            match word.split_once('=') {
                Some((key, value)) if key.eq_ignore_ascii_case("uuid") => entry.uuid = Some(shorten(value).to_owned()),
                Some((key, value)) if key.eq_ignore_ascii_case("name") => entry.name = Some(shorten(value).to_owned()),
                _ => {}
            }
        }
        Some(entry)
    });
    arrays.take(MAX_LINES).collect()
}

/// Reads `/etc/selinux/config`.
pub(super) fn selinux(guest: &Guest<'_>) -> Option<SeLinux> {
    let variables = Variables::parse(&guest.text("/etc/selinux/config")?);
    let mode = variables.get("SELINUX")?.to_ascii_lowercase();
    Some(SeLinux { mode, policy: variables.owned("SELINUXTYPE") })
}

/// Tells what cloud-init did, from what it leaves below `/var/lib/cloud`.
pub(super) fn cloud_init(guest: &Guest<'_>) -> Option<CloudInit> {
    const DATA: &str = "/var/lib/cloud/data";
    if !guest.is_file("/etc/cloud/cloud.cfg") && !guest.is_dir("/var/lib/cloud") {
        return None;
    }
    let mut state = CloudInit { disabled: guest.is_file("/etc/cloud/cloud-init.disabled"), ..CloudInit::default() };
    let by_link = || {
        let target = guest.link("/var/lib/cloud/instance")?;
        target.rsplit(|&byte| byte == b'/').next().map(tidy)
    };
    state.instance_id = guest.first_line(join(DATA, "instance-id")).or_else(by_link);
    state.finished = guest.is_file("/var/lib/cloud/instance/boot-finished");
    state.datasource = guest.first_line("/var/lib/cloud/instance/datasource");
    let result = guest.text(join(DATA, "result.json")).or_else(|| guest.text("/run/cloud-init/result.json"));
    let Some(result) = result else { return Some(state) };
    match serde_json::from_str::<serde_json::Value>(&result) {
        Ok(result) => {
            let version = &result["v1"];
            if let Some(source) = version["datasource"].as_str() {
                state.datasource = Some(tidy(source.as_bytes()));
            }
            let errors = version["errors"].as_array().into_iter().flatten();
            let errors = errors.filter_map(serde_json::Value::as_str).map(|error| tidy(error.as_bytes()));
            state.errors = errors.take(64).collect();
        }
        Err(error) => guest.warn(format!("{DATA}/result.json: {error}")),
    }
    Some(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::fixture::Fixture;

    #[test]
    fn encrypted_devices_and_arrays_are_told() {
        let tree = Fixture::new()
            .file("etc/crypttab", "# x\nsda3_crypt UUID=1-2 none luks,discard\nswap /dev/sda4 /dev/urandom swap\nbad\n")
            .file(
                "etc/mdadm/mdadm.conf",
                "HOMEHOST <system>\nARRAY /dev/md/0  metadata=1.2 UUID=a:b:c:d\n  name=host:0\n#ARRAY x\nARRAY <ignore> UUID=e\n",
            )
            .tree();
        let guest = Guest::new(&tree);
        let entries = crypttab(&guest);
        assert_eq!(entries.len(), 2);
        assert_eq!((entries[0].device.as_str(), &entries[0].key, entries[0].options.len()), ("UUID=1-2", &None, 2));
        let arrays = arrays(&guest);
        assert_eq!((arrays[0].device.as_str(), arrays[0].name.as_deref()), ("/dev/md/0", Some("host:0")));
        assert_eq!(arrays[0].uuid.as_deref(), Some("a:b:c:d"));
    }

    #[test]
    fn selinux_and_cloud_init_are_told() {
        let tree = Fixture::new()
            .file("etc/selinux/config", "# c\nSELINUX=enforcing\nSELINUXTYPE=targeted\n")
            .file("etc/cloud/cloud.cfg", "")
            .link("var/lib/cloud/instance", "/var/lib/cloud/instances/i-0abc")
            .file("var/lib/cloud/instances/i-0abc/boot-finished", "")
            .file("var/lib/cloud/data/result.json", "{\"v1\":{\"datasource\":\"DataSourceEc2\",\"errors\":[\"oops\"]}}")
            .tree();
        let guest = Guest::new(&tree);
        assert_eq!(selinux(&guest).map(|state| state.mode).as_deref(), Some("enforcing"));
        let state = cloud_init(&guest).expect("installed");
        assert_eq!(state.instance_id.as_deref(), Some("i-0abc"));
        assert_eq!(state.datasource.as_deref(), Some("DataSourceEc2"));
        assert!(state.finished && !state.disabled);
        assert_eq!(state.errors, ["oops"]);
    }
}
