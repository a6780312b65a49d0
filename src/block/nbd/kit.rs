//! Images on other hosts that `nbdkit` reads for us: by HTTP or HTTPS, by SSH, and from S3. For reading.
//!
//! The child is started as [`child`] says, with the plugin for the scheme. It makes a connection of its own to
//! the host for each of ours, so that several requests are under way at once. When the host fails a read, it is asked again
//! until the time for a lost server is over; a connection of SSH is made anew by nbdkit's filter `retry`.
//!
//! `http://HOST/PATH` and `https://…` are URLs as curl takes them, and the server must answer requests for ranges. Whom to trust
//! is told by the same variables as curl's: `CURL_CA_BUNDLE`, `SSL_CERT_DIR`, `SSL_CERT_FILE`.
//! `ssh://[USER@]HOST[:PORT]/PATH` uses the keys of the agent and of `~/.ssh`, and known hosts; another file than
//! `~/.ssh/config` is told by `GUESTCTL_SSH_CONFIG`. `s3://BUCKET/KEY` takes keys from where Amazon's tools find them, and
//! another endpoint from the variable `AWS_ENDPOINT_URL`.

use super::child::{self, ChildDevice};
use super::client::Options;
use super::uri::decode;
use crate::block::{BlockDevice, Extent, SharedDevice};
use crate::error::{Error, IoContext, Result};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The connections to the host: as many requests are under way at once.
const CONNECTIONS: usize = 8;

/// The package that has nbdkit's plugin for S3, in Debian and in Fedora.
const S3_PACKAGE: &str = "nbdkit-plugin-python with python3-boto3, or nbdkit-S3-plugin";

/// The longest pause before a read that failed is tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// Where an image is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Web { url: String },
    Ssh { user: Option<String>, host: String, port: Option<u16>, path: OsString },
    S3 { bucket: String, key: String },
}

/// Says whether a text is meant as the URL of an image on another host, a wrong one included.
pub fn is_url(text: &str) -> bool {
    let Some((scheme, _)) = text.split_once("://") else { return false };
    ["http", "https", "ssh", "s3"].iter().any(|known| scheme.eq_ignore_ascii_case(known))
}

/// Opens an image on another host by an `nbdkit` child, which lives as long as the device.
///
/// # Errors
/// [`Error::Usage`] for a wrong URL, [`Error::NotFound`] when nbdkit or its plugin is not installed, [`Error::NotAnImage`] with
/// nbdkit's words when it cannot open the image.
pub fn open(url: &str, options: &Options) -> Result<SharedDevice> {
    let place = Place::parse(url)?;
    let program = child::find("nbdkit").ok_or_else(|| {
        Error::NotFound("images on other hosts need nbdkit, of the package nbdkit, on the PATH".into())
    })?;
    let script = match place {
        Place::S3 { .. } => s3_script(&program)?,
        _ => OsString::new(),
    };
    let arguments = place.arguments(options, &script, |name| std::env::var_os(name).filter(|value| !value.is_empty()));
    let patience = Options {
        connections: CONNECTIONS,
        connect_timeout: options.reconnect_time.max(options.connect_timeout),
        // What the child owes has its own time-out, and is told before this one.
        reply_timeout: options.reply_timeout + options.reconnect_time,
        reconnect_time: Duration::ZERO,
    };
    let why_not = |error, status, said: &[u8]| place.why_not_opened(error, status, said);
    let device = ChildDevice::start("nbdkit", program, arguments, url, false, &patience, why_not)?;
    Ok(Arc::new(KitDevice { device, patience: options.reconnect_time, lost: AtomicBool::new(false) }))
}

/// Finds the script that is nbdkit's plugin for S3.
fn s3_script(program: &Path) -> Result<OsString> {
    let told = Command::new(program).arg("--dump-config").stdin(Stdio::null()).stderr(Stdio::null()).output();
    let told = told.doing(|| "cannot ask nbdkit where its plugins are".to_owned())?.stdout;
    let folder = told.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"plugindir="));
    let script = Path::new(OsStr::from_bytes(folder.unwrap_or_default())).join("nbdkit-S3-plugin");
    if !script.is_file() {
        let detail = format!("this needs nbdkit's plugin S3, of the package {S3_PACKAGE}");
        return Err(Error::NotFound(detail.into()));
    }
    Ok(script.into_os_string())
}

fn wrong(why: impl Into<String>) -> Error {
    Error::Usage(why.into().into())
}

impl Place {
    fn parse(text: &str) -> Result<Self> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("a URL begins with its scheme"))?;
        let scheme = scheme.to_ascii_lowercase();
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.is_empty() || path.is_empty() {
            let form = match scheme.as_str() {
                "s3" => "s3://BUCKET/KEY".to_owned(),
                "ssh" => "ssh://[USER@]HOST[:PORT]/PATH".to_owned(),
                _ => format!("{scheme}://HOST/PATH"),
            };
            return Err(wrong(format!("write {form}")));
        }
        if text.contains(char::is_control) {
            return Err(wrong("a URL holds no control characters; write them as %XX"));
        }
        match scheme.as_str() {
            "http" | "https" => {
                let url = text.split_once('#').map_or(text, |(before, _)| before);
                Ok(Self::Web { url: format!("{scheme}{}", &url[scheme.len()..]) })
            }
            "s3" => {
                let key = String::from_utf8(decode(path)?).map_err(|_| wrong("the key is not UTF-8"))?;
                Ok(Self::S3 { bucket: authority.to_owned(), key })
            }
            _ => {
                let (user, address) = match authority.rsplit_once('@') {
                    Some((user, address)) => (Some(user), address),
                    None => (None, authority),
                };
                if user.is_some_and(|user| user.contains(':')) {
                    return Err(wrong("no password stands in a URL; use a key, or an agent"));
                }
                let user =
                    user.map(|user| String::from_utf8(decode(user)?).map_err(|_| wrong("the user is not UTF-8")));
                let (host, port) = split_port(address)?;
                // A second slash makes a path from the root of one from the user's own folder, as curl and QEMU have it; here
                // each path is from the root, as a URL says it.
                let path = OsString::from_vec([b"/", decode(path)?.as_slice()].concat());
                Ok(Self::Ssh { user: user.transpose()?, host, port, path })
            }
        }
    }

    /// Returns the arguments of `nbdkit`; `variable` tells the value of a variable of the environment, and `script` is the plugin
    /// for S3.
    fn arguments(
        &self,
        options: &Options,
        script: &OsStr,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Vec<OsString> {
        let timeout = options.reconnect_time.as_secs().clamp(1, 3600).to_string();
        let mut list: Vec<OsString> = ["--foreground", "--readonly", "--threads=16"].map(OsString::from).to_vec();
        // It ends with its last connection.
        list.push("--filter=exitlast".into());
        // Connections to what is only read always agree with each other.
        list.push("--filter=multi-conn".into());
        match self {
            Self::Web { url } => {
                list.push("curl".into());
                let mut push = pusher(&mut list);
                push("url", OsStr::new(url));
                push("protocols", OsStr::new("http,https"));
                // The first that is set counts, as for curl; its library looks at none of them.
                let trusted = [("CURL_CA_BUNDLE", "cainfo"), ("SSL_CERT_DIR", "capath"), ("SSL_CERT_FILE", "cainfo")];
                if let Some((value, name)) = trusted.iter().find_map(|(from, name)| Some((variable(from)?, name))) {
                    push(name, &value);
                }
                push("timeout", OsStr::new(&timeout));
            }
            Self::Ssh { user, host, port, path } => {
                list.push("--filter=retry".into());
                list.push("ssh".into());
                let mut push = pusher(&mut list);
                push("host", OsStr::new(host));
                push("path", path);
                if let Some(user) = user {
                    push("user", OsStr::new(user));
                }
                if let Some(port) = port {
                    push("port", OsStr::new(&port.to_string()));
                }
                if let Some(config) = variable("GUESTCTL_SSH_CONFIG") {
                    push("config", &config);
                }
                push("timeout", OsStr::new(&timeout));
                // One attempt more, over a new connection; then the read fails, and is tried again as others are.
                push("retries", OsStr::new("1"));
                push("retry-delay", OsStr::new("1"));
            }
            Self::S3 { bucket, key } => {
                // The plugin is a script. By its name, nbdkit would start itself anew for it, and then know nothing of the
                // socket that it was passed: it would listen to the whole network.
                list.push("python".into());
                let mut push = pusher(&mut list);
                push("script", script);
                push("bucket", OsStr::new(bucket));
                push("key", OsStr::new(key));
                if let Some(endpoint) = variable("AWS_ENDPOINT_URL") {
                    push("endpoint-url", &endpoint);
                }
            }
        }
        pusher(&mut list)("multi-conn-mode", OsStr::new("unsafe"));
        list
    }

    /// Returns why the child did not open its image, given how the connection failed.
    fn why_not_opened(&self, error: Error, status: ExitStatus, said: &[u8]) -> Error {
        // The first line tells the cause, behind the plugin's name; of a script in Python, that after the last of its calls, whose
        // lines begin with more than one space.
        let lines: Vec<&[u8]> = said.split(|&byte| byte == b'\n').collect();
        let calls = lines.iter().rposition(|line| line.starts_with(b"   File \"")).map_or(&[][..], |at| &lines[at..]);
        let cause = calls.iter().find(|line| !line.starts_with(b"  ")).map(|line| line.trim_ascii_start());
        let first = cause.unwrap_or(lines[0]);
        let whole = child::reason("nbdkit", first);
        let whole = whole.split_once("error: ").map_or(whole.as_str(), |(_, rest)| rest);
        let (plugin, package) = match self {
            Self::Web { .. } => ("curl", "nbdkit or nbdkit-curl-plugin"),
            Self::Ssh { .. } => ("ssh", "nbdkit or nbdkit-ssh-plugin"),
            Self::S3 { .. } => ("S3", S3_PACKAGE),
        };
        let lacks_plugin = whole.contains("cannot open shared object file") || whole.contains("No module named");
        if lacks_plugin {
            return Error::NotFound(
                format!("this needs nbdkit's plugin {plugin}, of the package {package} ({whole})").into(),
            );
        }
        if whole.is_empty() {
            return error.at(format!("nbdkit ended ({status})"));
        }
        Error::NotAnImage(format!("nbdkit cannot open it: {whole}").into())
    }
}

/// Returns what appends `name=value` to a list.
fn pusher(list: &mut Vec<OsString>) -> impl FnMut(&str, &OsStr) {
    |name, value| {
        let mut argument = OsString::from(name);
        argument.push("=");
        argument.push(value);
        list.push(argument);
    }
}

/// Reads `HOST`, `HOST:PORT`, `[IPV6]` or `[IPV6]:PORT`.
fn split_port(address: &str) -> Result<(String, Option<u16>)> {
    let (host, port) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':')),
        None => address.split_once(':').map_or((address, None), |(host, port)| (host, Some(port))),
    };
    let is_host = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:%".contains(&byte));
    if !is_host || host.starts_with('-') {
        return Err(wrong(format!("{address} is no host")));
    }
    let port = port.map(|port| port.parse().map_err(|_| wrong(format!("{port} is no port")))).transpose()?;
    Ok((host.to_owned(), port))
}

/// An image that a child reads from another host.
struct KitDevice {
    device: ChildDevice,
    /// How long a read that fails is tried again.
    patience: Duration,
    /// The host was waited for as long as that, and did not answer since: it is asked once more for each read, and no longer
    /// waited for.
    lost: AtomicBool,
}

impl BlockDevice for KitDevice {
    fn size(&self) -> u64 {
        self.device.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let began = Instant::now();
        let mut pause = Duration::from_millis(100);
        loop {
            let error = match self.device.read_at(buf, offset) {
                Ok(()) => {
                    self.lost.store(false, Ordering::Relaxed);
                    return Ok(());
                }
                Err(error) => error,
            };
            if self.lost.load(Ordering::Relaxed) || !self.device.is_running() {
                return Err(error);
            }
            if began.elapsed() + pause >= self.patience {
                self.lost.store(true, Ordering::Relaxed);
                return Err(error);
            }
            log::info!("{error}; trying again");
            thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn map(&self, offset: u64, len: u64) -> Result<Extent> {
        self.device.map(offset, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(url: &str) -> String {
        let place = Place::parse(url).expect(url);
        let variable = |name: &str| (name == "SSL_CERT_FILE").then(|| "ca.pem".into());
        let arguments = place.arguments(&Options::default(), OsStr::new("/S3"), variable);
        arguments.iter().map(|argument| argument.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_url_becomes_the_arguments_of_its_plugin() {
        let head = "--foreground --readonly --threads=16 --filter=exitlast --filter=multi-conn";
        assert_eq!(
            command("HTTPS://host:8443/a%20b.qcow2?x=1#part"),
            format!(
                "{head} curl url=https://host:8443/a%20b.qcow2?x=1 protocols=http,https cainfo=ca.pem timeout=30 multi-conn-mode=unsafe"
            )
        );
        let retry = "timeout=30 retries=1 retry-delay=1 multi-conn-mode=unsafe";
        assert_eq!(
            command("ssh://ann@host:2222/var/a%20b.img"),
            format!("{head} --filter=retry ssh host=host path=/var/a b.img user=ann port=2222 {retry}")
        );
        assert_eq!(command("ssh://[::1]/disk"), format!("{head} --filter=retry ssh host=::1 path=/disk {retry}"));
        assert!(command("s3://bucket/a/b.qcow2").contains(" python script=/S3 bucket=bucket key=a/b.qcow2 "));
    }

    #[test]
    fn a_wrong_url_is_the_users_mistake() {
        for url in [
            "http://",
            "https://host",
            "s3://bucket/",
            "ssh:///path",
            "ssh://ann:secret@host/path",
            "ssh://-oProxyCommand=x/path",
            "ssh://host:port/path",
            "ssh://host/%4",
            "http://host/a\nb",
        ] {
            let error = Place::parse(url).expect_err(url);
            assert!(matches!(error.root(), Error::Usage(_)), "{url}: {error}");
        }
        assert!(
            is_url("http://x/") && is_url("S3://x") && !is_url("nbd://x") && !is_url("http:x") && !is_url("/ssh://")
        );
    }
}
