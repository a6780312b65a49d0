//! apk of Alpine: `/lib/apk/db/installed`, paragraphs of lines that begin with a letter and a colon.
//!
//! The form is specified in apk's documentation ("Apk spec": the index format).

use super::{Collected, number, split_version, text};
use crate::inspect::read::{DATABASE, Guest};
use crate::inspect::types::Package;

/// Reads the database of apk.
pub(super) fn read(guest: &Guest<'_>, all: &mut Collected) {
    let paths = ["/lib/apk/db/installed", "/usr/lib/apk/db/installed"];
    // The two are one file where /lib leads to /usr/lib.
    if let Some(bytes) = paths.iter().find_map(|path| guest.read(path, DATABASE)) {
        parse(&bytes, all);
    }
}

fn parse(bytes: &[u8], packages: &mut Collected) {
    let mut package = Package::default();
    for line in bytes.split(|&byte| byte == b'\n').chain([&b""[..]]) {
        if line.is_empty() {
            let done = std::mem::take(&mut package);
            if !done.name.is_empty() {
                packages.push(done);
            }
            if packages.is_full() {
                break;
            }
            continue;
        }
        let Some((&[letter, b':'], value)) = line.split_first_chunk::<2>() else { continue };
        match letter {
            b'P' => package.name = text(value),
            b'V' => {
                let full = text(value);
                let (_, version, release) = split_version(&full);
                package.version = version.to_owned();
                package.release = release.to_owned();
            }
            b'A' => package.arch = text(value),
            b'I' => package.size = number(value),
            b'T' => package.summary = text(value),
            b'U' => package.url = text(value),
            b'o' => package.source = text(value),
            b'm' => package.publisher = text(value),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_paragraph_is_a_package() {
        let mut all = Collected::default();
        parse(
            b"C:Q1qKcZ+j23xssAXmgQhkOO8dHnbWw=\nP:musl\nV:1.2.4_git20230717-r4\nA:x86_64\nS:407278\nI:667648\n\
              T:the musl c library (libc) implementation\nU:https://musl.libc.org/\nL:MIT\no:musl\n\
              m:Timo <t@example.org>\nt:1699\nF:lib\nR:ld-musl-x86_64.so.1\na:0:0:755\n\nP:busybox\nV:1.36.1-r15\nA:x86_64\n",
            &mut all,
        );
        let packages = all.packages;
        assert_eq!(packages.len(), 2);
        assert_eq!(packages[0].full_version(), "1.2.4_git20230717-r4");
        assert_eq!(packages[0].size, Some(667_648));
        assert_eq!(packages[1].name, "busybox");
    }
}
