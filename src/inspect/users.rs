//! Users and groups: `/etc/passwd`, `/etc/group` and what `/etc/shadow` says of passwords. No hash is told.
//!
//! The forms are specified in passwd(5), group(5), shadow(5) and, for the BSDs, master.passwd(5).

use super::read::{Guest, tidy};
use super::types::{Group, PasswordState, User};
use std::collections::HashMap;

/// The most users and groups that are kept.
const MAX: usize = 1 << 16;

/// The most users that one group names.
const MAX_MEMBERS: usize = 4096;

/// Reads the users.
pub(super) fn users(guest: &Guest<'_>) -> Vec<User> {
    let shadow = guest.text("/etc/shadow").or_else(|| guest.text("/etc/master.passwd")).unwrap_or_default();
    let states: HashMap<&str, PasswordState> = lines(&shadow)
        .filter_map(|line| {
            let mut fields = line.split(':');
            Some((fields.next()?, password_state(fields.next()?)))
        })
        .collect();
    // The systems in images put their own users below /usr.
    let text = ["/etc/passwd", "/usr/lib/passwd"].map(|path| guest.text(path).unwrap_or_default());
    let mut users: Vec<User> = Vec::new();
    for line in text.iter().flat_map(|text| lines(text)).take(MAX) {
        let fields: Vec<&str> = line.splitn(8, ':').collect();
        let &[name, password, uid, gid, ref rest @ ..] = fields.as_slice() else { continue };
        let Ok(uid) = uid.parse() else { continue };
        let field = |place: usize| rest.get(place).map(|text| tidy(text.as_bytes())).unwrap_or_default();
        let shell = field(2);
        users.push(User {
            name: tidy(name.as_bytes()),
            uid,
            gid: gid.parse().ok(),
            full_name: field(0).trim_end_matches(',').to_owned(),
            home: field(1),
            login: lets_in(&shell),
            shell,
            password: match password {
                "x" | "*" => states.get(name).copied().or((password == "*").then_some(PasswordState::Locked)),
                other => Some(password_state(other)),
            },
        });
    }
    users
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with(['#', '+', '-']))
}

fn password_state(field: &str) -> PasswordState {
    match field.as_bytes().first() {
        None => PasswordState::Empty,
        Some(b'!' | b'*') => PasswordState::Locked,
        Some(_) => PasswordState::Set,
    }
}

/// Says whether a shell lets a user in. An empty one stands for `/bin/sh`.
fn lets_in(shell: &str) -> bool {
    let name = shell.rsplit('/').next().unwrap_or_default();
    !matches!(name, "nologin" | "false" | "true" | "sync" | "halt" | "shutdown" | "git-shell")
}

/// Reads the groups.
pub(super) fn groups(guest: &Guest<'_>) -> Vec<Group> {
    let text = ["/etc/group", "/usr/lib/group"].map(|path| guest.text(path).unwrap_or_default());
    let groups = text.iter().flat_map(|text| lines(text)).filter_map(|line| {
        let mut fields = line.splitn(4, ':');
        let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
        let members = fields.next().unwrap_or_default().split(',').filter(|member| !member.is_empty());
        Some(Group {
            name: tidy(name.as_bytes()),
            gid: gid.parse().ok()?,
            members: members.take(MAX_MEMBERS).map(|member| tidy(member.as_bytes())).collect(),
        })
    });
    groups.take(MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::fixture::Fixture;

    #[test]
    fn users_are_told_with_their_shells_and_without_their_passwords() {
        let tree = Fixture::new()
            .file(
                "etc/passwd",
                "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n+::::::\nbad\n\
                 ann:x:1000:1000:Ann Example,,,:/home/ann:/usr/bin/zsh\nold::5:5::/:\nx:x:-1:0:::\n",
            )
            .file("etc/shadow", "root:$y$j9T$abc:19000:0:99999:7:::\ndaemon:*:19000::::::\nann::1::::::\n")
            .file("etc/group", "root:x:0:\nsudo:x:27:ann,bob\nbad:x\n")
            .tree();
        let guest = Guest::new(&tree);
        let users = users(&guest);
        assert_eq!(users.iter().map(|user| user.name.as_str()).collect::<Vec<_>>(), ["root", "daemon", "ann", "old"]);
        assert_eq!(users[0].password, Some(PasswordState::Set));
        assert_eq!((users[1].password, users[1].login), (Some(PasswordState::Locked), false));
        assert_eq!((users[2].password, users[2].full_name.as_str()), (Some(PasswordState::Empty), "Ann Example"));
        assert!(users[2].login && users[3].login);
        let groups = groups(&guest);
        assert_eq!(groups.len(), 2);
        assert_eq!(groups[1].members, ["ann", "bob"]);
    }
}
