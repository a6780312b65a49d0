//! The SAM hive: the local users. The form of its values is specified nowhere by Microsoft; libraries for forensics tell it.

use super::hive::{Hive, utf16};
use super::password_state;
use crate::bytes::{le16, le32};
use crate::error::Result;
use crate::inspect::read::tidy;
use crate::inspect::types::User;

const USERS: &str = "SAM\\Domains\\Account\\Users";

/// Where the strings of a user's `V` value begin; what lies before says where each is.
const STRINGS: usize = 0xcc;

/// Lists the local users.
pub(super) fn users(hive: &Hive<'_>) -> Result<Vec<User>> {
    let Some(key) = hive.key(USERS)? else { return Ok(Vec::new()) };
    let mut users = Vec::new();
    for key in hive.subkeys(&key)?.0 {
        // The key is named after the relative id; one more holds the names.
        let Ok(uid) = u32::from_str_radix(&key.name, 16) else { continue };
        let Some(strings) = hive.value(&key, "V")? else { continue };
        let Some(name) = string(&strings.data, 0x0c) else { continue };
        let flags =
            hive.value(&key, "F")?.filter(|value| value.data.len() >= 0x3a).map(|value| le16(&value.data, 0x38));
        let password = flags.map(password_state);
        users.push(User {
            name,
            uid,
            gid: None,
            full_name: string(&strings.data, 0x18).unwrap_or_default(),
            home: String::new(),
            shell: String::new(),
            login: password != Some(crate::inspect::types::PasswordState::Locked),
            password,
        });
    }
    users.sort_by_key(|user| user.uid);
    Ok(users)
}

/// Returns a string of a `V` value, by where its place is told.
fn string(data: &[u8], at: usize) -> Option<String> {
    let place = data.get(at..at + 8)?;
    let start = STRINGS.checked_add(le32(place, 0) as usize)?;
    let end = start.checked_add(le32(place, 4) as usize)?;
    let text = tidy(utf16(data.get(start..end)?).as_bytes());
    (!text.is_empty()).then_some(text)
}
