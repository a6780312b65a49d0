//! Package databases that the real tools made, read and compared with what the tools themselves say.

mod common;
#[path = "common/fixture.rs"]
mod fixture;

use common::{has_tool, skip, tool};
use fixture::Fixture;
use guestctl::inspect::{self, Package};
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// Runs a program for a minute at most and returns what it writes.
fn run(program: &str, arguments: &[&str]) -> String {
    let path = tool(program).expect("the tool was looked for");
    let mut command = Command::new("timeout");
    command.arg("60").arg(path).args(arguments).env("LC_ALL", "C.UTF-8");
    let output = command.output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Returns the packages of a folder that is made a root by what a root has.
fn packages(root: &Path) -> Vec<Package> {
    let tree = Fixture::new().copy(root, "").file("etc/os-release", "ID=test\n").file("bin/sh", "").tree();
    let system = inspect::look(&tree).expect("readable").expect("a system");
    let told = inspect::packages(&tree, &system);
    assert_eq!(told.warnings, [""; 0]);
    told.packages
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a temporary folder has a plain name")
}

/// Builds small packages with rpmbuild, and returns their files.
fn rpms(folder: &Path) -> Vec<String> {
    let specs = [
        ("first", "Epoch: 3\n", "1.0", "A first package"),
        ("second", "", "2.5~rc1", "Zweites Päckchen"),
        ("third-part", "URL: https://example.org/\nVendor: Somebody\n", "20240101", "Third"),
    ];
    let long = "A line of the description.\n".repeat(400);
    for (name, more, version, summary) in specs {
        let spec = format!(
            "Name: {name}\nVersion: {version}\nRelease: 4.test\nSummary: {summary}\nLicense: MIT\nBuildArch: noarch\n{more}\
             %description\n{long}\n%prep\n%build\n%install\nmkdir -p %{{buildroot}}/opt/{name}\n\
             head -c 5000 /dev/zero > %{{buildroot}}/opt/{name}/file\n%files\n/opt/{name}/file\n"
        );
        let file = folder.join(format!("{name}.spec"));
        fs::write(&file, spec).expect("written");
        let top = format!("_topdir {}", path(folder));
        run("rpmbuild", &["-bb", "--quiet", "--define", &top, path(&file)]);
    }
    let built = fs::read_dir(folder.join("RPMS/noarch")).expect("built");
    let mut built: Vec<String> = built.map(|entry| path(&entry.expect("an entry").path()).to_owned()).collect();
    built.sort();
    assert_eq!(built.len(), specs.len());
    built
}

/// Makes a root with an rpm database of a kind, and returns what rpm says is in it.
fn rpm_root(root: &Path, backend: &str, files: &[String]) -> Vec<String> {
    let backend = format!("_db_backend {backend}");
    let base = ["--root", path(root), "--define", &backend, "--dbpath", "/var/lib/rpm"];
    run("rpm", &[&base[..], &["--initdb"]].concat());
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    run("rpm", &[&base[..], &["-i", "--nodeps", "--justdb", "--nosignature"], &files].concat());
    rpm_query(root, &backend)
}

fn rpm_query(root: &Path, backend: &str) -> Vec<String> {
    let format = "%{NAME}|%|EPOCH?{%{EPOCH}}:{0}||%{VERSION}|%{RELEASE}|%{ARCH}|%{SIZE}|%{INSTALLTIME}|%{SUMMARY}|\
        %|URL?{%{URL}}:{}||%|VENDOR?{%{VENDOR}}:{}||%{SOURCERPM}\\n";
    let base = ["--root", path(root), "--define", backend, "--dbpath", "/var/lib/rpm"];
    let text = run("rpm", &[&base[..], &["-qa", "--qf", format]].concat());
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn rpm_lines(packages: &[Package]) -> Vec<String> {
    let line = |one: &Package| {
        format!(
            "{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}",
            one.name,
            one.epoch,
            one.version,
            one.release,
            one.arch,
            one.size.expect("a size"),
            one.install_time.expect("a time"),
            one.summary,
            one.url,
            one.publisher,
            one.source
        )
    };
    packages.iter().map(line).collect()
}

/// Writes a database of rpm's own form, of the headers in another: Debian's rpm is built without it.
const MAKE_NDB: &str = "import sqlite3,sys,struct,zlib
rows=sqlite3.connect(sys.argv[1]).execute('select hnum,blob from Packages').fetchall()
pages=2; at=pages*256; slots=[]; out=b''
for n,b in rows:
    blob=struct.pack('<4sIII',b'BlbS',n,7,len(b))+b
    blob=blob.ljust((len(blob)+12+15)//16*16-12,b'\\0')
    blob+=struct.pack('<II4s',zlib.adler32(blob),len(b),b'BlbE')
    slots.append(struct.pack('<4sIII',b'Slot',n,at,len(blob)//16)); at+=len(blob)//16; out+=blob
free=struct.pack('<4sIII',b'Slot',0,0,0)
slots=[free]*3+slots; slots+=[free]*(pages*256-2-len(slots))
head=struct.pack('<4sIIII',b'RpmP',0,5,pages,9).ljust(32,b'\\0')
open(sys.argv[2],'wb').write(head+b''.join(slots)+out)";

/// Makes a root with a database of rpm's own form, and returns what rpm says of the one that it came from.
fn ndb_root(root: &Path, files: &[String]) -> Vec<String> {
    let source = TempDir::new().expect("a folder");
    let told = rpm_root(source.path(), "sqlite", files);
    let target = root.join("usr/lib/sysimage/rpm");
    fs::create_dir_all(&target).expect("made");
    let from = source.path().join("var/lib/rpm/rpmdb.sqlite");
    run("python3", &["-c", MAKE_NDB, path(&from), path(&target.join("Packages.db"))]);
    told
}

#[test]
fn rpm_databases_of_sqlite_are_read_as_rpm_reads_them() {
    if !has_tool("rpm") || !has_tool("rpmbuild") {
        return skip("rpm is not installed");
    }
    let folder = TempDir::new().expect("a folder");
    let files = rpms(folder.path());
    let root = TempDir::new().expect("a folder");
    let told = rpm_root(root.path(), "sqlite", &files);
    assert_eq!(told.len(), 3);
    let packages = packages(root.path());
    assert_eq!(rpm_lines(&packages), told);
    assert_eq!(packages[0].description.lines().count(), 400);
}

#[test]
fn rpm_databases_of_its_own_form_are_read() {
    if !has_tool("rpm") || !has_tool("rpmbuild") || !has_tool("python3") {
        return skip("rpm or Python is not installed");
    }
    let folder = TempDir::new().expect("a folder");
    let root = TempDir::new().expect("a folder");
    let told = ndb_root(root.path(), &rpms(folder.path()));
    assert_eq!(rpm_lines(&packages(root.path())), told);
}

#[test]
fn rpm_databases_of_berkeley_db_are_read() {
    if !has_tool("rpm") || !has_tool("rpmbuild") || !has_tool("db_load") || !has_tool("python3") {
        return skip("rpm, Berkeley DB's tools or Python is not installed");
    }
    let folder = TempDir::new().expect("a folder");
    let files = rpms(folder.path());
    let source = TempDir::new().expect("a folder");
    let told = rpm_root(source.path(), "sqlite", &files);
    let from = source.path().join("var/lib/rpm/rpmdb.sqlite");
    for (order, page) in [("1234", "4096"), ("4321", "4096"), ("1234", "512"), ("1234", "65536")] {
        let root = TempDir::new().expect("a folder");
        bdb_root(root.path(), &from, order, page);
        assert_eq!(rpm_lines(&packages(root.path())), told, "{order} {page}");
    }
}

/// Makes a root with a database of Berkeley DB. rpm cannot write this form any more: the headers of another go through
/// Berkeley DB's own loader.
fn bdb_root(root: &Path, from: &Path, order: &str, page: &str) {
    let script = "import sqlite3,sys,struct\n\
        print('VERSION=3\\nformat=bytevalue\\ntype=hash\\nHEADER=END')\n\
        put=lambda k,v: print(' '+k.hex()+'\\n '+v.hex())\n\
        put(struct.pack('=I',0),struct.pack('=I',9))\n\
        for n,b in sqlite3.connect(sys.argv[1]).execute('select hnum,blob from Packages'): put(struct.pack('=I',n),b)\n\
        print('DATA=END')";
    let dump = run("python3", &["-c", script, path(from)]);
    let database = root.join("var/lib/rpm");
    fs::create_dir_all(&database).expect("made");
    let file = database.join("dump");
    fs::write(&file, dump).expect("written");
    let (order, page) = (format!("db_lorder={order}"), format!("db_pagesize={page}"));
    let target = database.join("Packages");
    run("db_load", &["-c", &order, "-c", &page, "-f", path(&file), "-t", "hash", path(&target)]);
}

#[test]
fn damaged_rpm_databases_are_said_and_do_no_harm() {
    if !has_tool("rpm") || !has_tool("rpmbuild") || !has_tool("db_load") || !has_tool("python3") {
        return skip("rpm, Berkeley DB's tools or Python is not installed");
    }
    let folder = TempDir::new().expect("a folder");
    let files = rpms(folder.path());
    let root = TempDir::new().expect("a folder");
    rpm_root(root.path(), "sqlite", &files);
    ndb_root(root.path(), &files);
    bdb_root(root.path(), &root.path().join("var/lib/rpm/rpmdb.sqlite"), "1234", "4096");
    for place in ["var/lib/rpm/rpmdb.sqlite", "usr/lib/sysimage/rpm/Packages.db", "var/lib/rpm/Packages"] {
        let whole = fs::read(root.path().join(place)).expect("made");
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        for round in 0..300 {
            let mut bytes = whole.clone();
            for _ in 0..=round % 8 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                // Most of what steers the reading lies at the beginning of the file and of pages.
                let at = if state & 1 == 0 { state as usize % 4096 } else { state as usize % bytes.len() };
                let at = at.min(bytes.len() - 1);
                bytes[at] = (state >> 32) as u8;
            }
            bytes.truncate(if round % 5 == 0 { state as usize % whole.len() } else { whole.len() });
            let tree =
                Fixture::new().file("etc/os-release", "ID=fedora\n").file("bin/sh", "").file(place, bytes).tree();
            let system = inspect::look(&tree).expect("readable").expect("a system");
            inspect::packages(&tree, &system);
        }
    }
}

#[test]
fn sqlite_databases_are_read_with_their_logs() {
    if !has_tool("python3") {
        return skip("Python is not installed");
    }
    let root = TempDir::new().expect("a folder");
    let folder = root.path().join("var/db/pkg");
    fs::create_dir_all(&folder).expect("made");
    // The process ends without closing the database, so that its last transactions are in the log alone.
    let script = "import sqlite3,sys,os\n\
        c=sqlite3.connect(sys.argv[1]); c.execute('pragma page_size='+sys.argv[2]); c.execute('pragma journal_mode=wal')\n\
        c.execute('create table other (x)')\n\
        c.execute('''CREATE TABLE packages (id INTEGER PRIMARY KEY, origin TEXT NOT NULL, name TEXT NOT NULL, version TEXT,\
        comment TEXT, \"desc\" TEXT, arch TEXT, www TEXT, flatsize INTEGER, time INTEGER, UNIQUE(name))''')\n\
        add=lambda r: [c.execute('insert into packages(id,origin,name,version,comment,desc,arch,flatsize,time) values (?,?,?,?,?,?,?,?,?)',\
        (i*7,'o/n%d'%i,'n%05d'%i,'%d.%d'%(i,i%7),'c','d'*(i*37%9000),'amd64',i*1000003,1700000000+i)) for i in r]\n\
        add(range(3000)); c.commit(); c.execute('pragma wal_checkpoint(truncate)')\n\
        c.execute('pragma wal_autocheckpoint=0'); add(range(3000,4000)); c.execute('delete from packages where id=70'); c.commit()\n\
        add(range(4000,4010)); c.execute('pragma cache_size=1'); c.execute('pragma cache_spill=1'); os._exit(0)";
    for page in ["512", "4096", "65536"] {
        let file = folder.join("local.sqlite");
        run("python3", &["-c", script, path(&file), page]);
        assert!(fs::metadata(folder.join("local.sqlite-wal")).expect("a log").len() > 100_000);
        let packages = packages(root.path());
        assert_eq!(packages.len(), 3999, "{page}");
        for (place, package) in packages.iter().enumerate() {
            let number = if place < 10 { place } else { place + 1 };
            assert_eq!(package.name, format!("n{number:05}"));
            assert_eq!(package.description.len(), number * 37 % 9000);
            assert_eq!(package.size, Some(number as u64 * 1_000_003));
            assert_eq!(package.install_time, Some(1_700_000_000 + number as i64));
        }
        for name in ["local.sqlite", "local.sqlite-wal", "local.sqlite-shm"] {
            fs::remove_file(folder.join(name)).expect("removed");
        }
    }
}

#[test]
fn what_dpkg_installed_is_read_as_dpkg_reads_it() {
    if !has_tool("dpkg-deb") || !has_tool("dpkg-query") || !common::is_root() {
        return skip("dpkg is not installed, or this is not root");
    }
    let folder = TempDir::new().expect("a folder");
    let root = TempDir::new().expect("a folder");
    let admin = root.path().join("var/lib/dpkg");
    for part in ["info", "updates", "triggers"] {
        fs::create_dir_all(admin.join(part)).expect("made");
    }
    fs::write(admin.join("status"), "").expect("written");
    for (name, more) in [
        ("first", "Version: 2:1.0-3+b1\nHomepage: https://example.org\n"),
        ("second", "Version: 0~x\nSource: src (1.2)\n"),
    ] {
        let build = folder.path().join(name);
        fs::create_dir_all(build.join("DEBIAN")).expect("made");
        fs::create_dir_all(build.join("opt")).expect("made");
        fs::write(build.join("opt").join(name), vec![0; 5000]).expect("written");
        let control = format!(
            "Package: {name}\n{more}Architecture: all\nInstalled-Size: 12\nMaintainer: M <m@example.org>\n\
             Description: Short line\n Long lines\n .\n and more.\n"
        );
        fs::write(build.join("DEBIAN/control"), control).expect("written");
        let file = folder.path().join(format!("{name}.deb"));
        run("dpkg-deb", &["--build", "--root-owner-group", path(&build), path(&file)]);
        let to = format!("--root={}", path(root.path()));
        run("dpkg", &[&to, "--force-script-chrootless", "--force-depends", "--no-triggers", "-i", path(&file)]);
    }
    let to = format!("--admindir={}", path(&admin));
    let format = "${Package}|${Version}|${Architecture}|${Installed-Size}|${binary:Summary}|${source:Package}\\n";
    let told = run("dpkg-query", &[&to, "-W", "-f", format]);
    let packages = packages(root.path());
    let lines = packages.iter().map(|one| {
        let source = if one.source.is_empty() { &one.name } else { &one.source };
        let size = one.size.expect("a size") / 1024;
        format!("{}|{}|{}|{size}|{}|{source}\n", one.name, one.full_version(), one.arch, one.summary)
    });
    assert_eq!(lines.collect::<String>(), told);
    let list = fs::metadata(admin.join("info/first.list")).expect("a list");
    assert_eq!(packages[0].install_time, Some(std::os::unix::fs::MetadataExt::mtime(&list)));
    assert_eq!(packages[0].description, "Long lines\n\nand more.");
}

#[test]
fn what_pacman_installed_is_read_as_pacman_reads_it() {
    if !has_tool("pacman") || !has_tool("tar") || !common::is_root() {
        return skip("pacman is not installed, or this is not root");
    }
    let folder = TempDir::new().expect("a folder");
    let root = TempDir::new().expect("a folder");
    fs::create_dir_all(root.path().join("var/lib/pacman")).expect("made");
    let info = "pkgname = tiny\npkgbase = tiny-base\npkgver = 2:1.5-3\npkgdesc = A tiny package\nurl = https://example.org\n\
        builddate = 1700000000\npackager = P <p@example.org>\nsize = 5000\narch = any\nlicense = MIT\n";
    fs::write(folder.path().join(".PKGINFO"), info).expect("written");
    fs::write(folder.path().join("file"), vec![0; 5000]).expect("written");
    let archive = folder.path().join("tiny-2:1.5-3-any.pkg.tar");
    run("tar", &["--force-local", "-C", path(folder.path()), "-cf", path(&archive), ".PKGINFO", "file"]);
    let configuration = folder.path().join("pacman.conf");
    fs::write(&configuration, "[options]\nArchitecture = auto\nSigLevel = Never\nLocalFileSigLevel = Never\n")
        .expect("written");
    let base = ["--config", path(&configuration), "--root", path(root.path()), "--noconfirm"];
    run("pacman", &[&base[..], &["-U", path(&archive)]].concat());
    let packages = packages(root.path());
    let lines: String = packages.iter().map(|one| format!("{} {}\n", one.name, one.full_version())).collect();
    assert_eq!(lines, run("pacman", &[&base[..], &["-Q"]].concat()));
    assert_eq!(lines, "tiny 2:1.5-3\n");
    assert_eq!((packages[0].size, packages[0].source.as_str()), (Some(5000), "tiny-base"));
    assert!(packages[0].install_time.is_some_and(|time| time > 1_700_000_000));
}
