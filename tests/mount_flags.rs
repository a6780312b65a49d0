//! Flags of `chattr` on a mount: they refuse what the kernel's own mount refuses.

mod common;

use common::guest::{Workspace, cannot_mount, output, run};
use common::{is_root, skip};
use std::ffi::OsStr;
use std::path::Path;

/// Sets flags, tries what they forbid, and says of each step whether it went well.
const STEPS: &str = r#"
cd "$1" || exit 1
try() { if "$@" 2>/dev/null; then echo "ok: $*"; else echo "refused: $*"; fi; }
put() { echo text > "$1"; }
add() { echo more >> "$1"; }
over() { printf X | dd of="$1" conv=notrunc bs=1 status=none; }
mkdir dir grow; echo one > dir/in; echo one > grow/in
for kind in i a; do
    echo first > $kind
    try chattr +$kind $kind
    try test -r $kind; try test -w $kind; try test -x $kind
    try put $kind; try add $kind; try add $kind; try over $kind
    try truncate -s 0 $kind; try truncate -s 100 $kind; try fallocate -l 4096 $kind; try fallocate -p -l 4096 $kind
    try rm -f $kind; try mv $kind other; try ln $kind other; try chmod 600 $kind; try chown 1:1 $kind
    try touch $kind; try touch -d 2001-01-01 $kind; try touch -m -d 2001-01-01 $kind
    try setfattr -n user.a -v b $kind
    wc -c < $kind; lsattr $kind
    try chattr -$kind $kind; try add $kind; try rm -f $kind
done
# What was written before the flag was set stays, though it was not passed on yet.
exec 5>late; echo early >&5; chattr +i late; exec 5>&-; cat late; chattr -i late
exec 5>>later; echo early >&5; chattr +a later; echo after >&5; exec 5>&-; cat later; chattr -a later
try chattr +i dir
try touch dir/new; try rm -f dir/in; try mv dir/in dir/out; try add dir/in; try chmod 700 dir; try ln late dir/late
try chattr -i dir
try chattr +a grow
try touch grow/new; try rm -f grow/new; try mv grow/in grow/out; try add grow/in; try ln late grow/late; try mkdir grow/deep
try rmdir grow
try chattr -a grow
touch flags
for flag in A S d t D T s u c P; do try chattr +$flag flags; try chattr +$flag dir; done
try chattr +e flags; try chattr =Ae flags
lsattr flags; lsattr -d dir
try chattr =de dir
lsattr -d dir
"#;

#[test]
fn flags_of_chattr_refuse_what_the_kernels_mount_refuses() {
    if let Some(why) = cannot_mount() {
        return skip(why);
    }
    if !is_root() {
        return skip("only root sets these flags");
    }
    let workspace = Workspace::new();
    let mut shown = Vec::new();
    for name in ["ours", "kernel"] {
        let image = workspace.path(&format!("{name}.img"));
        run("mke2fs", &[OsStr::new("-q"), "-t".as_ref(), "ext4".as_ref(), image.as_ref(), "32M".as_ref()]);
        let steps = |folder: &Path| {
            let done = output("bash", &[OsStr::new("-c"), STEPS.as_ref(), "steps".as_ref(), folder.as_ref()]);
            String::from_utf8_lossy(&done.stdout).into_owned()
        };
        if name == "ours" {
            let mounted = workspace.mount(name, image.as_os_str(), &["--rw"]);
            shown.push(steps(&mounted.folder));
            mounted.umount();
        } else {
            let folder = workspace.folder(name);
            run("mount", &[OsStr::new("-o"), "loop".as_ref(), image.as_ref(), folder.as_ref()]);
            shown.push(steps(&folder));
            run("umount", &[&folder]);
        }
        let checked = output("e2fsck", &[OsStr::new("-fn"), image.as_ref()]);
        assert!(checked.status.success(), "{name}: {}", String::from_utf8_lossy(&checked.stdout));
    }
    let differences: Vec<String> = shown[0]
        .lines()
        .zip(shown[1].lines())
        .filter(|(ours, theirs)| ours != theirs)
        .map(|(ours, theirs)| format!("ours: {ours}\nthe kernel's: {theirs}\n"))
        .collect();
    assert!(shown[1].lines().count() > 80, "{}", shown[1]);
    assert!(shown[0].lines().count() == shown[1].lines().count() && differences.is_empty(), "{}", differences.concat());
}

#[test]
fn the_kernel_keeps_no_name_of_a_casefolded_folder_that_another_spelling_changes() {
    if let Some(why) = cannot_mount() {
        return skip(why);
    }
    let workspace = Workspace::new();
    let image = workspace.path("disk.img");
    run(
        "mke2fs",
        &[
            OsStr::new("-q"),
            "-t".as_ref(),
            "ext4".as_ref(),
            "-O".as_ref(),
            "casefold".as_ref(),
            image.as_ref(),
            "32M".as_ref(),
        ],
    );
    let mounted = workspace.mount("mnt", image.as_os_str(), &["--rw"]);
    let steps = r#"
        set -e; cd "$1"; mkdir dir; chattr +F dir; mkdir dir/Below
        ! cat dir/FILE 2>/dev/null; echo one > dir/File; cat dir/FILE dir/file
        rm dir/fILE; ! cat dir/File 2>/dev/null; ! cat dir/FILE 2>/dev/null
        echo two > dir/FILE; cat dir/File; ls dir; mv dir/fIle dir/BELOW/there; ! cat dir/FILE 2>/dev/null
        cat dir/below/THERE; rm -r dir/bElOw; ls dir"#;
    let shown = run("bash", &[OsStr::new("-c"), steps.as_ref(), "steps".as_ref(), mounted.folder.as_ref()]);
    assert_eq!(String::from_utf8_lossy(&shown), "one\none\ntwo\nBelow\nFILE\ntwo\n");
    mounted.umount();
    let checked = output("e2fsck", &[OsStr::new("-fn"), image.as_ref()]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}
