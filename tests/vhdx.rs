//! VHDX images, and those that differ from a parent: written here after the format's document, and read by libvhdi and QEMU too.

mod common;
#[path = "common/images.rs"]
mod images;
#[path = "common/vhdx.rs"]
mod vhdx;

use common::guest::{GUESTCTL, Workspace, cannot_mount, guestctl, output};
use guestctl::block::{self, BlockDevice, OpenOptions, SharedDevice, Via, describe};
use images::{Random, assert_same, make_raw, qemu_img};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use vhdx::{BAT, Block, Change, MIB, Vhdx, braced, id_of};

macro_rules! needs {
    ($($tool:literal),+) => {
        $(if !common::has_tool($tool) {
            return common::skip(concat!($tool, " is not installed"));
        })+
    };
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain name")
}

fn open(path: &Path) -> guestctl::Result<SharedDevice> {
    let options = OpenOptions { via: Via::Native, ..OpenOptions::default() };
    Ok(block::open(path, &options)?.device)
}

fn read_disk(device: &dyn BlockDevice) -> Vec<u8> {
    let mut disk = vec![0xee; device.size() as usize];
    device.read_at(&mut disk, 0).expect("reads");
    disk
}

/// A disk as libvhdi reads it, by FUSE.
struct Judge {
    folder: PathBuf,
    file: Option<fs::File>,
}

impl Judge {
    fn new(image: &Path, folder: PathBuf) -> Self {
        let told = output("timeout", &["30", "vhdimount", text(image), text(&folder)]);
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        let mut names: Vec<PathBuf> =
            fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
        names.sort_by_key(|name| name.as_os_str().len().min(9) * 1000 + name.as_os_str().len());
        // It shows the disk of each file of the chain; the last is the one that was named.
        let file = fs::File::open(names.last().expect("a disk")).expect("opens");
        Self { folder, file: Some(file) }
    }

    fn read(&mut self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let file = self.file.as_mut().expect("it is open");
        file.seek(SeekFrom::Start(offset)).expect("seeks");
        file.read_exact(&mut bytes).expect("reads");
        bytes
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        self.file = None;
        let _ = Command::new("fusermount3").args(["-u", text(&self.folder)]).status();
    }
}

/// A file that differs from `parent` in some blocks and sectors; returns it, and the disk that it is.
fn difference(parent: &Path, disk: &[u8], seed: u64, block: usize, sector: usize, for_judge: bool) -> (Vhdx, Vec<u8>) {
    let (mut random, mut disk) = (Random::new(seed), disk.to_vec());
    let mut blocks = BTreeMap::new();
    for number in 0..disk.len().div_ceil(block) {
        let start = number * block;
        let len = block.min(disk.len() - start);
        match (number as u64 + seed) % 5 {
            0 => {}
            // libvhdi takes a block of zeroes for one that the parent has.
            1 if number.is_multiple_of(2) && !for_judge => {
                blocks.insert(number, Block::State(2));
                disk[start..start + len].fill(0);
            }
            2 => {
                let bytes = random.bytes(block);
                disk[start..start + len].copy_from_slice(&bytes[..len]);
                blocks.insert(number, Block::Whole(bytes));
            }
            _ => {
                let mut sectors = BTreeMap::new();
                for index in (0..len / sector).filter(|index| !index.is_multiple_of(7)) {
                    if random.below(3) == 0 {
                        let bytes = random.bytes(sector);
                        disk[start + index * sector..][..sector].copy_from_slice(&bytes);
                        sectors.insert(index, bytes);
                    }
                }
                blocks.insert(number, Block::Partly(sectors));
            }
        }
    }
    let id = id_of(&fs::read(parent).expect("reads"));
    let name = parent.file_name().expect("a file").to_str().expect("a plain name");
    let parent = vec![
        ("absolute_win32_path", format!("\\\\?\\C:\\disks\\{name}")),
        ("parent_linkage", braced(&id)),
        ("relative_path", format!(".\\{name}")),
    ];
    (Vhdx { size: disk.len() as u64, block, sector, id: [seed as u8; 16], parent, blocks }, disk)
}

/// Makes a chain of three in a folder: `base.vhdx` by QEMU, `middle.vhdx`, `top.vhdx`. Returns the disks.
fn chain(folder: &Path, options: &str, for_judge: bool) -> [Vec<u8>; 3] {
    let disk = make_raw(&folder.join("raw"), (11 << 20) + 512 * 1024, 3);
    qemu_img(&format!("convert -O vhdx -o {options} raw base.vhdx"), folder);
    let (middle, middle_disk) = difference(&folder.join("base.vhdx"), &disk, 17, MIB, 512, for_judge);
    fs::write(folder.join("middle.vhdx"), middle.write()).expect("writes");
    let (top, top_disk) = difference(&folder.join("middle.vhdx"), &middle_disk, 24, 2 * MIB, 512, for_judge);
    fs::write(folder.join("top.vhdx"), top.write()).expect("writes");
    [disk, middle_disk, top_disk]
}

#[test]
fn a_chain_of_differencing_vhdx_is_read_through_to_its_base() {
    needs!("qemu-img", "vhdimount");
    let space = Workspace::new();
    for options in ["subformat=dynamic,block_size=1M", "subformat=dynamic,block_size=4M", "subformat=fixed"] {
        let folder = space.folder("chain");
        let for_judge = options != "subformat=fixed";
        let disks = chain(&folder, options, for_judge);
        for (name, disk) in ["base.vhdx", "middle.vhdx", "top.vhdx"].into_iter().zip(&disks) {
            let device = open(&folder.join(name)).expect("opens");
            assert_same(&read_disk(&*device), disk, name);
            if for_judge && cannot_mount().is_none() {
                let mut judge = Judge::new(&folder.join(name), space.folder("judge"));
                assert!(judge.read(0, disk.len()) == *disk, "{options}: libvhdi reads {name} in another way");
            }
        }
        let device = open(&folder.join("top.vhdx")).expect("opens");
        let mut random = Random::new(5);
        for _ in 0..300 {
            let len = 1 + random.below(9000) as usize;
            let at = random.below((disks[2].len() - len) as u64) as usize;
            let mut buf = vec![0; len];
            device.read_at(&mut buf, at as u64).expect("inside");
            assert!(buf == disks[2][at..at + len], "{len} bytes at {at}");
        }
        // What the map calls a hole reads as zeroes.
        let mut at = 0;
        while at < device.size() {
            let extent = device.map(at, device.size() - at).expect("a map");
            let is_zero = disks[2][at as usize..extent.end as usize].iter().all(|&byte| byte == 0);
            assert!(extent.end > at && (is_zero || extent.kind == block::ExtentKind::Data), "{at} to {}", extent.end);
            at = extent.end;
        }
        let info = describe(text(&folder.join("top.vhdx")), &OpenOptions::default()).expect("known");
        let names: Vec<&str> = info.chain.iter().map(|link| link.name.as_str()).collect();
        assert_eq!(names, ["middle.vhdx", "base.vhdx"]);
        assert_eq!(info.problem, None);
    }
}

#[test]
fn sectors_of_4096_bytes_and_blocks_past_the_first_sector_bitmap_are_read() {
    needs!("qemu-img", "vhdimount", "qemu-io");
    let space = Workspace::new();
    let folder = space.folder("large");
    let plain = Vhdx {
        size: 5 * MIB as u64,
        block: MIB,
        sector: 4096,
        id: [9; 16],
        parent: Vec::new(),
        blocks: [(1, Block::Whole(vec![7; MIB])), (3, Block::State(3))].into(),
    };
    let mut disk = vec![0; 5 * MIB];
    disk[MIB..2 * MIB].fill(7);
    fs::write(folder.join("base.vhdx"), plain.write()).expect("writes");
    let (top, top_disk) = difference(&folder.join("base.vhdx"), &disk, 18, MIB, 4096, true);
    fs::write(folder.join("top.vhdx"), top.write()).expect("writes");
    let device = open(&folder.join("top.vhdx")).expect("opens");
    assert_eq!(device.sector_size(), 4096);
    assert_same(&read_disk(&*device), &top_disk, "sectors of 4096 bytes");
    if cannot_mount().is_none() {
        let mut judge = Judge::new(&folder.join("top.vhdx"), space.folder("judge"));
        assert!(judge.read(0, disk.len()) == top_disk, "libvhdi reads it in another way");
    }
    drop(device);
    // A sector bitmap block tells of 4 GiB: what lies behind has the second one.
    qemu_img("create -q -f vhdx -o block_size=8M base.vhdx 5G", &folder);
    images::run("qemu-io", ["-c", "write -P 3 4300M 20M", text(&folder.join("base.vhdx"))]);
    let id = id_of(&fs::read(folder.join("base.vhdx")).expect("reads"));
    let sectors = |byte: u8| (0..8 * MIB / 512).step_by(3).map(|number| (number, vec![byte; 512])).collect();
    let first = Vhdx {
        size: 5 << 30,
        block: 8 * MIB,
        sector: 512,
        id: [9; 16],
        parent: vec![
            ("absolute_win32_path", "\\\\?\\C:\\disks\\base.vhdx".into()),
            ("parent_linkage", braced(&id)),
            ("relative_path", "base.vhdx".into()),
        ],
        blocks: [(1, Block::Partly(sectors(1))), (538, Block::Partly(sectors(2)))].into(),
    };
    fs::write(folder.join("top.vhdx"), first.write()).expect("writes");
    let device = open(&folder.join("top.vhdx")).expect("opens");
    let mut judge = cannot_mount().is_none().then(|| Judge::new(&folder.join("top.vhdx"), space.folder("judge")));
    for (offset, below, here) in [(8 * MIB as u64, 0, 1), (4304 * MIB as u64, 3, 2), (4312 * MIB as u64, 3, 3)] {
        let mut buf = vec![0; MIB];
        device.read_at(&mut buf, offset).expect("reads");
        let expected: Vec<u8> = (0..MIB).map(|at| if (at / 512) % 3 == 0 { here } else { below }).collect();
        assert!(buf == expected, "at {offset}");
        if let Some(judge) = &mut judge {
            assert!(judge.read(offset, MIB) == expected, "libvhdi reads {offset} in another way");
        }
    }
}

#[test]
fn a_log_that_waits_is_replayed_into_memory() {
    needs!("qemu-img");
    let space = Workspace::new();
    let folder = space.folder("log");
    let mut random = Random::new(77);
    let contents: Vec<Vec<u8>> = (0..3).map(|_| random.bytes(MIB)).collect();
    let whole = Vhdx {
        size: 5 * MIB as u64,
        block: MIB,
        sector: 512,
        id: [9; 16],
        parent: Vec::new(),
        blocks: contents.iter().enumerate().map(|(number, bytes)| (number + 1, Block::Whole(bytes.clone()))).collect(),
    };
    let mut disk = vec![0; 5 * MIB];
    disk[MIB..4 * MIB].copy_from_slice(&contents.concat());
    let complete = whole.write();
    let first = BAT + MIB;
    // The table of blocks is in the log alone, its page written twice; so are zeroes in the second block, and its first page.
    let page = complete[BAT..BAT + 4096].to_vec();
    let second = (first + MIB) as u64;
    let with_log = |descriptors: usize| {
        let mut file = complete.clone();
        file[BAT..BAT + 4096].fill(0xff);
        let entries = [
            vec![Change::Page(BAT as u64, vec![0x33; 4096]), Change::Page(second, vec![0x44; 4096])],
            vec![Change::Zeroes(second, 16384), Change::Page(second, vec![0x55; 4096])],
            (0..descriptors).map(|_| Change::Page(BAT as u64, page.clone())).collect(),
        ];
        vhdx::log(&mut file, &entries, complete.len() as u64);
        file
    };
    disk[2 * MIB..2 * MIB + 16384].fill(0);
    disk[2 * MIB..2 * MIB + 4096].fill(0x55);
    let image = folder.join("log.vhdx");
    // More descriptors than one sector has room for; QEMU does not read such an entry.
    fs::write(&image, with_log(150)).expect("writes");
    assert_same(&read_disk(&*open(&image).expect("opens")), &disk, "the larger log replayed");
    let file = with_log(100);
    fs::write(&image, &file).expect("writes");
    assert_same(&read_disk(&*open(&image).expect("opens")), &disk, "the log replayed");
    assert!(fs::read(&image).expect("reads") == file, "reading changed the image");
    // One that differs from it knows it by the same name, and reads the same.
    let (top, top_disk) = difference(&image, &disk, 19, MIB, 512, false);
    fs::write(folder.join("top.vhdx"), top.write()).expect("writes");
    assert_same(&read_disk(&*open(&folder.join("top.vhdx")).expect("opens")), &top_disk, "over it");
    // QEMU replays it into the file.
    fs::copy(&image, folder.join("repaired.vhdx")).expect("copies");
    images::run_any("qemu-img", ["check", "-q", "-r", "all", text(&folder.join("repaired.vhdx"))]);
    qemu_img("convert -O raw repaired.vhdx repaired.raw", &folder);
    assert_same(&fs::read(folder.join("repaired.raw")).expect("reads"), &disk, "as QEMU replays it");
    // What the log says is longer than the file, or is damaged.
    let told = |file: &[u8]| {
        fs::write(&image, file).expect("writes");
        let (code, _, error) = guestctl(&["filesystems", text(&image)]);
        assert_eq!(error.trim_end().lines().count(), 1, "{error}");
        (code, error)
    };
    let (code, error) = told(&file[..file.len() - MIB]);
    assert!(code == 4 && error.contains("cut short"), "{code}: {error}");
    let mut damaged = file.clone();
    damaged[MIB + (MIB - 4096) + 100] ^= 1;
    let (code, error) = told(&damaged);
    assert!(code == 4 && error.contains("VHDX log"), "{code}: {error}");
}

#[test]
fn a_parent_that_is_not_there_or_not_the_one_is_said() {
    needs!("qemu-img");
    let space = Workspace::new();
    let folder = space.folder("chain");
    chain(&folder, "subformat=dynamic,block_size=1M", false);
    let top = folder.join("top.vhdx");
    let told = |more: &[&str]| {
        let (code, _, error) = guestctl(&[&["filesystems", text(&top)], more].concat());
        assert_eq!(error.trim_end().lines().count(), 1, "{error}");
        assert!(error.contains("top.vhdx"), "{error}");
        (code, error)
    };
    // Moved away, and into another folder with a name that leads there.
    let away = space.folder("away");
    fs::rename(folder.join("base.vhdx"), away.join("base.vhdx")).expect("moves");
    let (code, error) = told(&[]);
    assert!(code == 7 && error.contains("\"base.vhdx\", which does not exist"), "{code}: {error}");
    std::os::unix::fs::symlink(away.join("base.vhdx"), folder.join("base.vhdx")).expect("links");
    let (code, error) = told(&[]);
    assert!(code == 2 && error.contains("--allow-backing"), "{code}: {error}");
    assert_eq!(guestctl(&["filesystems", "--allow-backing", text(&away), text(&top)]).0, 0);
    fs::remove_file(folder.join("base.vhdx")).expect("removes");
    fs::rename(away.join("base.vhdx"), folder.join("base.vhdx")).expect("moves back");
    assert_eq!(guestctl(&["filesystems", text(&top)]).0, 0);
    // Written since: QEMU gives it another GUID then.
    fs::copy(folder.join("base.vhdx"), folder.join("kept.vhdx")).expect("copies");
    if common::has_tool("qemu-io") {
        images::run("qemu-io", ["-c", "write -P 3 0 4k", text(&folder.join("base.vhdx"))]);
        let (code, error) = told(&[]);
        assert!(code == 4 && error.contains("base.vhdx") && error.contains("not the parent"), "{code}: {error}");
    }
    // A circle: the base is replaced by one that differs from the top.
    let (mut circle, _) = difference(&top, &vec![0; (11 << 20) + 512 * 1024], 31, MIB, 512, false);
    circle.id = id_of(&fs::read(folder.join("kept.vhdx")).expect("reads"));
    fs::write(folder.join("base.vhdx"), circle.write()).expect("writes");
    let (code, error) = told(&[]);
    assert!(code == 4 && error.contains("comes round again"), "{code}: {error}");
    fs::rename(folder.join("kept.vhdx"), folder.join("base.vhdx")).expect("moves back");
    // A parent that is named by a path elsewhere, and by its GUID's second name.
    let (mut named, disk) = difference(&folder.join("middle.vhdx"), &vec![0; 4 * MIB], 5, MIB, 512, false);
    let linkage = named.parent[1].1.to_uppercase();
    named.parent = vec![
        ("parent_linkage", braced(&[1; 16])),
        ("parent_linkage2", linkage),
        ("relative_path", "..\\..\\elsewhere\\middle.vhdx".into()),
        ("volume_path", "\\\\?\\Volume{26a21bda-a627-11d7-9931-806e6f6e6963}\\middle.vhdx".into()),
    ];
    fs::write(folder.join("named.vhdx"), named.write()).expect("writes");
    assert_eq!(open(&folder.join("named.vhdx")).expect("opens").size(), disk.len() as u64);
    // Not for writing, not below an image that QEMU opens; an overlay and a qcow2 are fine.
    let (code, _, error) = guestctl(&["rm", "--rw", text(&top), "/x"]);
    assert!(code == 5 && error.contains("--overlay"), "{code}: {error}");
    qemu_img("create -q -u -f qcow2 -b top.vhdx -F vhdx over.qcow2 12058624", &folder);
    let over = open(&folder.join("over.qcow2")).expect("opens");
    assert_same(&read_disk(&*over), &read_disk(&*open(&top).expect("opens")), "below a qcow2");
    fs::write(
        folder.join("flat.vmdk"),
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\n\
         RW 23552 SPARSE \"top.vhdx\"\n",
    )
    .expect("writes");
    let (code, _, error) = guestctl(&["filesystems", text(&folder.join("flat.vmdk"))]);
    assert!(code == 5 && error.contains("a differencing VHDX below an image that QEMU opens"), "{code}: {error}");
}

#[test]
fn a_damaged_vhdx_gives_one_line_and_does_no_harm() {
    needs!("qemu-img");
    let space = Workspace::new();
    let folder = space.folder("damage");
    let disk = make_raw(&folder.join("raw"), 4 << 20, 3);
    qemu_img("convert -O vhdx -o subformat=dynamic,block_size=1M raw base.vhdx", &folder);
    let (top, _) = difference(&folder.join("base.vhdx"), &disk, 17, MIB, 512, false);
    let whole = top.write();
    let image = folder.join("top.vhdx");
    let told = |file: &[u8]| {
        fs::write(&image, file).expect("writes");
        let told = output(GUESTCTL, &["convert", "-O", "raw", text(&image), "--output", text(&folder.join("out"))]);
        let _ = fs::remove_file(folder.join("out"));
        let error = String::from_utf8_lossy(&told.stderr).into_owned();
        assert!(told.status.success() || error.trim_end().lines().count() == 1, "{error}");
        (told.status.code().expect("no signal"), error)
    };
    assert_eq!(told(&whole).0, 0);
    for (len, says) in [(100, ""), (100 << 10, "headers"), (MIB, "log"), (BAT, "region"), (whole.len() - MIB, "end")] {
        let (code, error) = told(&whole[..len]);
        assert!(code == 4 && error.contains(says), "{len}: {code}: {error}");
    }
    type Edit = fn(&mut Vec<u8>);
    let sealed: [(&str, Edit); 8] = [
        ("neither of the two is whole", |file| {
            file[vhdx::HEADERS[0] + 9] ^= 1;
            file[vhdx::HEADERS[1] + 9] ^= 1;
        }),
        ("overlap", |file| {
            for at in [192 << 10, 256 << 10] {
                file[at + 48 + 16..][..8].copy_from_slice(&(BAT as u64).to_le_bytes());
                vhdx::seal(&mut file[at..at + (64 << 10)]);
            }
        }),
        ("past the end", |file| file[BAT + 8..][..8].copy_from_slice(&(0xfff0_0000_0006_u64 << 8 | 6).to_le_bytes())),
        ("lies in a region", |file| file[BAT..][..8].copy_from_slice(&(BAT as u64 | 6).to_le_bytes())),
        ("has the state 4", |file| file[BAT..][..8].copy_from_slice(&4_u64.to_le_bytes())),
        ("no sector bitmap", |file| {
            file[BAT + 8 * 4096..][..8].fill(0);
            file[BAT..][..8].copy_from_slice(&((BAT + MIB) as u64 | 7).to_le_bytes());
        }),
        ("blocks of 3 bytes", |file| file[2 * MIB + (64 << 10)..][..4].copy_from_slice(&3_u32.to_le_bytes())),
        ("entries for a disk", |file| {
            file[2 * MIB + (64 << 10) + 8..][..8].copy_from_slice(&(60_u64 << 40).to_le_bytes());
        }),
    ];
    for (says, edit) in sealed {
        let mut file = whole.clone();
        edit(&mut file);
        let (code, error) = told(&file);
        assert!(code == 4 && error.contains(says), "{says}: {code}: {error}");
    }
    // Any byte of the structures, with their sums made right again.
    let mut random = Random::new(3);
    let many = if std::env::var_os("GUESTCTL_LARGE").is_some() { 20_000 } else { 400 };
    for _ in 0..many {
        let mut file = whole.clone();
        for _ in 0..1 + random.below(3) {
            let (start, len) =
                [(64 << 10, 96), (192 << 10, 100), (2 * MIB, 256), (2 * MIB + (64 << 10), 400), (BAT, 48)]
                    [random.below(5) as usize];
            file[start + random.below(len) as usize] = [0, 1, 0x7f, 0x80, 0xff][random.below(5) as usize];
        }
        for (start, len) in [(64 << 10, 4096), (192 << 10, 64 << 10)] {
            vhdx::seal(&mut file[start..start + len]);
        }
        fs::write(&image, &file).expect("writes");
        if let Ok(device) = open(&image) {
            let mut buf = vec![0; 4096];
            for offset in [0, device.size() / 2, device.size().saturating_sub(4096)] {
                let len = buf.len().min(device.size() as usize);
                let _ = device.read_at(&mut buf[..len], offset);
                let _ = device.map(offset, len as u64);
            }
        }
    }
}
