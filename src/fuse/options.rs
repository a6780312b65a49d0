//! The options of `-o`, as mount(8) and libfuse write them.

use crate::error::{Error, Result};
use nix::mount::MsFlags;

/// How a mount is made and shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// Lets other users in; the kernel then checks permissions.
    pub allow_other: bool,
    /// Lets the kernel check permissions.
    pub default_permissions: bool,
    /// Unmounts when the serving process ends, however it ends.
    pub auto_unmount: bool,
    /// The owner that every file is shown with.
    pub uid: Option<u32>,
    /// The group that every file is shown with.
    pub gid: Option<u32>,
    /// Permission bits that no file is shown with.
    pub umask: u16,
    /// What the mount table calls the source.
    pub fsname: Option<String>,
    /// What the mount table puts after `fuse.`.
    pub subtype: String,
    /// Asks for writing (`rw`) or forbids it (`ro`).
    pub writable: Option<bool>,
    /// Flags of mount(2). `nosuid` and `nodev` always are among them.
    pub flags: MsFlags,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            allow_other: false,
            default_permissions: false,
            auto_unmount: false,
            uid: None,
            gid: None,
            umask: 0,
            fsname: None,
            subtype: String::from("guestctl"),
            writable: None,
            flags: MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        }
    }
}

impl MountOptions {
    /// Takes a list of options with commas between them, as `-o` gives it. A comma in a value is written `\,`.
    ///
    /// # Errors
    /// [`Error::Usage`] for an option that is not known, not allowed, or whose value makes no sense.
    pub fn apply(&mut self, list: &str) -> Result<()> {
        for option in split(list) {
            self.apply_one(&option)?;
        }
        Ok(())
    }

    fn apply_one(&mut self, option: &str) -> Result<()> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        let usage = |what: &str| Error::Usage(format!("mount option {option}: {what}").into());
        let text = || value.filter(|value| !value.is_empty()).ok_or_else(|| usage("it needs a value"));
        let number = || text()?.parse().map_err(|_| usage("its value is not a number"));
        if value.is_some() && !matches!(name, "uid" | "gid" | "umask" | "fsname" | "subtype") {
            return Err(if is_plain(name) { usage("it takes no value") } else { unknown(name) });
        }
        match name {
            "allow_other" => {
                self.allow_other = true;
                self.default_permissions = true;
            }
            "default_permissions" => self.default_permissions = true,
            "auto_unmount" => self.auto_unmount = true,
            "uid" => self.uid = Some(number()?),
            "gid" => self.gid = Some(number()?),
            "umask" => {
                self.umask = u16::from_str_radix(text()?, 8)
                    .ok()
                    .filter(|mask| *mask <= 0o777)
                    .ok_or_else(|| usage("its value is not an octal number up to 777"))?;
            }
            "fsname" => self.fsname = Some(text()?.to_owned()),
            "subtype" => self.subtype = text()?.to_owned(),
            "ro" => self.writable = Some(false),
            "rw" => self.writable = Some(true),
            "suid" | "dev" => return Err(usage("never given: files of a guest get no rights on this host")),
            "nosuid" | "nodev" | "async" | "atime" | "exec" | "defaults" | "nofail" | "_netdev" | "auto" | "noauto"
            | "user" | "users" | "nouser" => {}
            "noexec" => self.flags |= MsFlags::MS_NOEXEC,
            "sync" => self.flags |= MsFlags::MS_SYNCHRONOUS,
            "dirsync" => self.flags |= MsFlags::MS_DIRSYNC,
            "noatime" => self.flags |= MsFlags::MS_NOATIME,
            "nodiratime" => self.flags |= MsFlags::MS_NODIRATIME,
            "relatime" => self.flags |= MsFlags::MS_RELATIME,
            "strictatime" => self.flags |= MsFlags::MS_STRICTATIME,
            "nosymfollow" => self.flags |= MsFlags::from_bits_retain(libc::MS_NOSYMFOLLOW),
            "" => {}
            _ => return Err(unknown(name)),
        }
        Ok(())
    }
}

fn unknown(name: &str) -> Error {
    Error::Usage(format!("unknown mount option {name}; `guestctl mount --help` lists those there are").into())
}

fn is_plain(name: &str) -> bool {
    MountOptions::default().apply_one(name).is_ok()
}

/// Splits at commas that no backslash stands before.
fn split(list: &str) -> Vec<String> {
    let mut options = vec![String::new()];
    let mut characters = list.chars();
    while let Some(character) = characters.next() {
        let last = options.last_mut().expect("there is always one");
        match character {
            '\\' => last.extend(characters.next()),
            ',' => options.push(String::new()),
            other => last.push(other),
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_taken_as_mount_takes_them() {
        let mut options = MountOptions::default();
        options.apply(r"allow_other,uid=1000,umask=022,fsname=a\,b,noexec,ro,nosuid").expect("all known");
        assert!(options.allow_other && options.default_permissions);
        assert_eq!((options.uid, options.umask, options.fsname.as_deref()), (Some(1000), 0o22, Some("a,b")));
        assert!(options.flags.contains(MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID | MsFlags::MS_NODEV));
        assert_eq!(options.writable, Some(false));
    }

    #[test]
    fn an_option_that_is_unknown_or_senseless_is_an_error() {
        for (list, says) in [
            ("ro,frobnicate", "unknown mount option frobnicate"),
            ("frob=1", "unknown mount option frob"),
            ("uid=root", "not a number"),
            ("umask=999", "octal"),
            ("uid", "needs a value"),
            ("ro=1", "takes no value"),
            ("suid", "no rights on this host"),
        ] {
            let error = MountOptions::default().apply(list).expect_err(list);
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
