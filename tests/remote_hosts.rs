//! Images on servers as users have them: HTTPS with a certificate of one's own authority, SSH, S3.

mod common;

use common::guest::{GUESTCTL, Workspace, run};
use common::{has_tool, skip, tool};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Serves the files of its folder by TLS, and ranges of them; prints its port. What lies in `bucket` is for those alone who sign
/// their requests with the key AKIATEST.
const WEB: &str = r#"
import http.server, os, re, ssl, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *arguments): pass
    def empty(self, code):
        self.send_response(code); self.send_header("Content-Length", "0"); self.end_headers()
    def answer(self, body):
        path = self.path.split("?")[0].lstrip("/")
        signed = self.headers.get("Authorization", "").startswith("AWS4-HMAC-SHA256 Credential=AKIATEST/")
        if path.startswith("bucket/") and not signed: return self.empty(403)
        if not os.path.isfile(path): return self.empty(404)
        size = os.path.getsize(path)
        asked = re.match(r"bytes=(\d+)-(\d*)$", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        end = min(int(asked[2]) if asked and asked[2] else size - 1, size - 1)
        self.send_response(206 if asked else 200)
        self.send_header("Accept-Ranges", "bytes")
        if asked: self.send_header("Content-Range", f"bytes {start}-{end}/{size}")
        self.send_header("Content-Length", str(end - start + 1))
        self.end_headers()
        if body:
            with open(path, "rb") as file:
                file.seek(start); self.wfile.write(file.read(end - start + 1))
    def do_HEAD(self): self.answer(False)
    def do_GET(self): self.answer(True)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

/// A server, which is ended when the value goes.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain name")
}

fn lacks(programs: &[&str]) -> bool {
    let Some(missing) = programs.iter().find(|program| !has_tool(program)) else { return false };
    skip(&format!("{missing} is not installed"));
    true
}

/// Makes a disk with a filesystem in a folder, and the same as qcow2.
fn images(space: &Workspace, folder: &Path) -> PathBuf {
    let raw = space.ext4_image("disk.img", &space.small_tree());
    let there = folder.join("disk.img");
    fs::rename(raw, &there).expect("moves");
    run("qemu-img", &["convert", "-O", "qcow2", text(&there), text(&folder.join("disk.qcow2"))]);
    there
}

/// Makes an authority, and a certificate of it for 127.0.0.1 and no other name.
fn certificates(folder: &Path, name: &str) {
    let file = |ending: &str| text(&folder.join(format!("{name}{ending}"))).to_owned();
    let new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
    let (ca, ca_key) = (file("-ca.pem"), file("-ca.key"));
    run("openssl", &[&new[..], &["-subj", "/CN=authority", "-keyout", &ca_key, "-out", &ca]].concat());
    let (key, certificate) = (file(".key"), file(".pem"));
    let more =
        ["-subj", "/CN=server", "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"];
    let signed = ["-CA", &ca, "-CAkey", &ca_key, "-keyout", &key, "-out", &certificate];
    run("openssl", &[&new[..], &more, &signed].concat());
}

/// Starts the web server in a folder; returns it with its port.
fn web(folder: &Path, certificates: &Path) -> (Server, u16) {
    let (certificate, key) = (certificates.join("own.pem"), certificates.join("own.key"));
    let mut child = Command::new("python3")
        .args(["-c", WEB, text(&certificate), text(&key)])
        .current_dir(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("python3 starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    (Server(child), line.trim().parse().expect("a port"))
}

/// Runs the program with variables of the environment; returns its exit code, what it printed, and what it said.
fn guestctl(arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = Command::new("timeout");
    command.arg("60").arg(GUESTCTL).args(arguments);
    for name in
        ["CURL_CA_BUNDLE", "SSL_CERT_DIR", "SSL_CERT_FILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSH_AUTH_SOCK"]
    {
        command.env_remove(name);
    }
    let told = command.envs(variables.iter().copied()).stdin(Stdio::null()).output().expect("starts");
    let words = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (told.status.code().expect("no signal"), words(&told.stdout), words(&told.stderr))
}

/// Checks that an image is refused with one line that says `why`.
fn refused(url: &str, variables: &[(&str, &str)], why: &[&str]) {
    let (code, _, said) = guestctl(&["ls", "--timeout", "5", url, "/"], variables);
    assert_eq!((code, said.trim_end().lines().count()), (3, 1), "{url}: {said}");
    assert!(said.contains(url) && why.iter().any(|why| said.to_lowercase().contains(why)), "{url}: {said}");
}

#[test]
fn an_image_is_read_by_https_from_a_server_that_is_trusted_and_from_no_other() {
    if lacks(&["nbdkit", "openssl", "python3", "mke2fs", "qemu-img"]) {
        return;
    }
    let space = Workspace::new();
    let folder = space.folder("served");
    let raw = images(&space, &folder);
    let keys = space.folder("keys");
    for name in ["own", "other"] {
        certificates(&keys, name);
    }
    let (_server, port) = web(&folder, &keys);
    let (ca, other) = (keys.join("own-ca.pem"), keys.join("other-ca.pem"));
    let (_, expected, _) = guestctl(&["checksum", "-r", text(&raw), "/"], &[]);
    assert!(expected.lines().count() > 3);
    for name in ["disk.img", "disk.qcow2"] {
        let url = format!("https://127.0.0.1:{port}/{name}");
        for variable in ["CURL_CA_BUNDLE", "SSL_CERT_FILE"] {
            let (code, printed, said) = guestctl(&["checksum", "-r", &url, "/"], &[(variable, text(&ca))]);
            assert!(code == 0 && printed == expected, "{said}");
        }
    }
    // Trusted by a folder of certificates, as `openssl rehash` names them.
    let trusted = space.folder("trusted");
    fs::copy(&ca, trusted.join("ca.pem")).expect("copies");
    run("openssl", &["rehash", text(&trusted)]);
    let url = format!("https://127.0.0.1:{port}/disk.img");
    let (code, printed, said) = guestctl(&["checksum", "-r", &url, "/"], &[("SSL_CERT_DIR", text(&trusted))]);
    assert!(code == 0 && printed == expected, "{said}");
    let certificate = ["certificate", "cert", "ssl"];
    refused(&url, &[], &certificate);
    refused(&url, &[("CURL_CA_BUNDLE", text(&other))], &certificate);
    refused(&url, &[("CURL_CA_BUNDLE", text(&keys.join("none.pem")))], &certificate);
    // A certificate for another host.
    refused(&format!("https://localhost:{port}/disk.img"), &[("CURL_CA_BUNDLE", text(&ca))], &certificate);
    refused(&format!("https://127.0.0.1:{port}/none"), &[("CURL_CA_BUNDLE", text(&ca))], &["404"]);
}

/// Starts a server of SSH in a folder, for this user alone, with keys of its own; returns it with its port.
fn sshd(folder: &Path) -> (Server, u16) {
    for name in ["host", "user", "stranger"] {
        run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", name, "-f", text(&folder.join(name))]);
    }
    fs::copy(folder.join("user.pub"), folder.join("authorized")).expect("copies");
    fs::set_permissions(folder.join("authorized"), fs::Permissions::from_mode(0o600)).expect("a new mode");
    if common::is_root() {
        // It gives up its rights in this folder, which a started system has.
        fs::create_dir_all("/run/sshd").expect("a new folder");
    }
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let config = folder.join("config");
    let lines = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {0}/host\nAuthorizedKeysFile {0}/authorized\nPidFile none\n\
         StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
         PermitRootLogin prohibit-password\nMaxStartups 100\nSubsystem sftp internal-sftp\n",
        folder.display()
    );
    fs::write(&config, lines).expect("writes");
    let child = Command::new(tool("sshd").expect("it is there"))
        .args(["-D", "-e", "-f", text(&config)])
        .stdin(Stdio::null())
        .stderr(fs::File::create(folder.join("log")).expect("a new file"))
        .spawn();
    let server = Server(child.expect("sshd starts"));
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
        assert!(Instant::now() < deadline, "sshd does not answer: {log}");
        thread::sleep(Duration::from_millis(20));
    }
    (server, port)
}

#[test]
fn an_image_is_read_by_ssh_with_the_keys_that_a_configuration_names() {
    if lacks(&["nbdkit", "sshd", "ssh-keygen", "mke2fs", "qemu-img"]) {
        return;
    }
    let space = Workspace::new();
    let folder = space.folder("with space");
    let raw = images(&space, &folder);
    let keys = space.folder("keys");
    let (_server, port) = sshd(&keys);
    let host_key = fs::read_to_string(keys.join("host.pub")).expect("reads");
    fs::write(keys.join("known"), format!("[127.0.0.1]:{port} {host_key}")).expect("writes");
    let stranger = fs::read_to_string(keys.join("stranger.pub")).expect("reads");
    fs::write(keys.join("changed"), format!("[127.0.0.1]:{port} {stranger}")).expect("writes");
    fs::write(keys.join("nobody"), "").expect("writes");
    let config = |known: &str, identity: &str| {
        let path = keys.join(format!("config-{known}-{identity}"));
        let lines = format!(
            "Host *\n  UserKnownHostsFile {0}/{known}\n  GlobalKnownHostsFile {0}/nobody\n  IdentityFile {0}/{identity}\n",
            keys.display()
        );
        fs::write(&path, lines).expect("writes");
        path
    };
    let path = text(&folder).replace(' ', "%20");
    let good = config("known", "user");
    let (_, expected, _) = guestctl(&["checksum", "-r", text(&raw), "/"], &[]);
    for name in ["disk.img", "disk.qcow2"] {
        let url = format!("ssh://127.0.0.1:{port}{path}/{name}");
        let (code, printed, said) = guestctl(&["checksum", "-r", &url, "/"], &[("GUESTCTL_SSH_CONFIG", text(&good))]);
        let log = fs::read_to_string(keys.join("log")).unwrap_or_default();
        assert!(code == 0 && printed == expected, "{said}{log}");
    }
    let url = format!("ssh://127.0.0.1:{port}{path}/disk.img");
    for (known, identity, why) in [
        ("nobody", "user", &["known", "host"][..]),
        ("changed", "user", &["host"]),
        ("known", "stranger", &["authenti", "key"]),
    ] {
        refused(&url, &[("GUESTCTL_SSH_CONFIG", text(&config(known, identity)))], why);
    }
    let none = format!("ssh://127.0.0.1:{port}{path}/none.img");
    refused(&none, &[("GUESTCTL_SSH_CONFIG", text(&good))], &["no such file"]);
}

#[test]
fn an_image_is_read_from_a_bucket_with_the_keys_of_the_environment() {
    if lacks(&["nbdkit", "openssl", "python3", "mke2fs", "qemu-img"]) {
        return;
    }
    let plugin = Command::new("nbdkit").args(["S3", "--dump-plugin"]).output().expect("nbdkit starts");
    if !plugin.status.success() {
        return skip("nbdkit's plugin S3 is not installed (nbdkit-plugin-python, python3-boto3)");
    }
    let space = Workspace::new();
    let served = space.folder("served");
    let bucket = space.folder("served/bucket");
    let raw = images(&space, &bucket);
    let keys = space.folder("keys");
    certificates(&keys, "own");
    let (_server, port) = web(&served, &keys);
    let endpoint = format!("https://127.0.0.1:{port}");
    let ca = keys.join("own-ca.pem");
    let with = |key: &'static str| {
        [
            ("AWS_ACCESS_KEY_ID", key),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("AWS_MAX_ATTEMPTS", "1"),
        ]
    };
    let place = [("AWS_ENDPOINT_URL", endpoint.as_str()), ("AWS_CA_BUNDLE", text(&ca))];
    let (_, expected, _) = guestctl(&["checksum", "-r", text(&raw), "/"], &[]);
    for name in ["disk.img", "disk.qcow2"] {
        let url = format!("s3://bucket/{name}");
        let (code, printed, said) = guestctl(&["checksum", "-r", &url, "/"], &[&with("AKIATEST")[..], &place].concat());
        assert!(code == 0 && printed == expected, "{said}");
    }
    refused("s3://bucket/disk.img", &[&with("AKIAOTHER")[..], &place].concat(), &["403", "forbidden"]);
    refused("s3://bucket/none", &[&with("AKIATEST")[..], &place].concat(), &["404", "not found"]);
    refused("s3://bucket/disk.img", &[&with("AKIATEST")[..], &place[..1]].concat(), &["certificate", "ssl"]);
}
