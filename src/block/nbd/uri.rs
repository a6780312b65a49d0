//! NBD URIs, as `doc/uri.md` of the NetworkBlockDevice/nbd repository specifies them.
//!
//! `nbd://HOST[:PORT]/EXPORT`, `nbds://…` with TLS, `nbd+unix:///EXPORT?socket=PATH` and `nbds+unix://…`; with TLS the
//! query may also hold `tls-certificates=DIR`, `tls-hostname=NAME` and `tls-verify-peer=BOOL`, as libnbd understands them.

use crate::error::{Error, Result};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// The port of a URI that names none.
const DEFAULT_PORT: u16 = 10809;

/// The longest export name of the protocol, in bytes.
const LONGEST_NAME: usize = 4096;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// What TLS shall prove and be proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TlsOptions {
    /// A folder with `ca-cert.pem`, and with `client-cert.pem` and `client-key.pem` where the server asks for them.
    pub certificates: Option<PathBuf>,
    /// The name that the server's certificate must hold.
    pub hostname: String,
    /// Whether the server's certificate is checked.
    pub verify: bool,
}

/// What a URI names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Uri {
    pub address: Address,
    pub export: Vec<u8>,
    pub tls: Option<TlsOptions>,
}

/// Says whether a text is meant as an NBD URI, a wrong one included.
pub fn is_uri(text: &str) -> bool {
    let Some((scheme, _)) = text.split_once("://") else { return false };
    let scheme = scheme.to_ascii_lowercase();
    scheme == "nbd" || scheme == "nbds" || scheme.starts_with("nbd+") || scheme.starts_with("nbds+")
}

impl Uri {
    /// Reads a URI.
    ///
    /// # Errors
    /// [`Error::Usage`] when it is none, or lacks what it needs; [`Error::Unsupported`] for vsock, ssh and TLS-PSK.
    pub fn parse(text: &str) -> Result<Self> {
        Self::parse_parts(text).map_err(|error| error.at(text.to_owned()))
    }

    fn parse_parts(text: &str) -> Result<Self> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("an NBD URI begins with nbd://"))?;
        let scheme = scheme.to_ascii_lowercase();
        let (secure, unix) = match scheme.as_str() {
            "nbd" => (false, false),
            "nbds" => (true, false),
            "nbd+unix" => (false, true),
            "nbds+unix" => (true, true),
            "nbd+vsock" | "nbds+vsock" | "nbd+ssh" | "nbds+ssh" => {
                return Err(Error::unsupported(format!("{scheme}: reach the server by TCP or by a unix socket")));
            }
            _ => return Err(wrong(format!("{scheme} is no kind of NBD URI"))),
        };
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.contains('@') {
            return Err(Error::unsupported("a user in an NBD URI (TLS-PSK); use certificates"));
        }
        let query = Query::parse(query)?;
        let export = decode(path)?;
        if export.len() > LONGEST_NAME {
            return Err(wrong("the export's name is longer than 4096 bytes"));
        }
        let address = match (unix, query.socket) {
            (true, Some(socket)) if !authority.is_empty() => {
                let socket = socket.display();
                return Err(wrong(format!("a unix URI has no host: write {scheme}:///{path}?socket={socket}")));
            }
            (true, Some(socket)) => Address::Unix(socket),
            (true, None) => return Err(wrong("a unix URI needs ?socket=PATH")),
            (false, Some(_)) => return Err(wrong(format!("?socket= belongs to {scheme}+unix://"))),
            (false, None) => tcp(authority)?,
        };
        let tls = if secure {
            let hostname = query.tls_hostname.unwrap_or_else(|| match &address {
                Address::Tcp { host, .. } => host.clone(),
                Address::Unix(_) => "localhost".to_owned(),
            });
            Some(TlsOptions { certificates: query.tls_certificates, hostname, verify: query.tls_verify })
        } else if query.any_tls {
            return Err(wrong(format!("tls parameters belong to {}", scheme.replacen("nbd", "nbds", 1))));
        } else {
            None
        };
        Ok(Self { address, export, tls })
    }
}

struct Query {
    socket: Option<PathBuf>,
    tls_certificates: Option<PathBuf>,
    tls_hostname: Option<String>,
    tls_verify: bool,
    any_tls: bool,
}

impl Query {
    fn parse(text: &str) -> Result<Self> {
        let mut query =
            Self { socket: None, tls_certificates: None, tls_hostname: None, tls_verify: true, any_tls: false };
        for part in text.split(['&', ';']).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let value = decode(value)?;
            query.any_tls |= name.starts_with("tls-");
            match name {
                "socket" if value.is_empty() => return Err(wrong("?socket= names no path")),
                "socket" => query.socket = Some(path(value)),
                "tls-certificates" => query.tls_certificates = Some(path(value)),
                "tls-hostname" => {
                    let name = String::from_utf8(value).map_err(|_| wrong("tls-hostname is not UTF-8"))?;
                    query.tls_hostname = Some(name);
                }
                "tls-verify-peer" => query.tls_verify = boolean(&value)?,
                "tls-psk-file" | "tls-username" => {
                    return Err(Error::unsupported("TLS by a pre-shared key; use certificates (tls-certificates=DIR)"));
                }
                _ => return Err(wrong(format!("the parameter {name} is not known"))),
            }
        }
        Ok(query)
    }
}

fn wrong(why: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::Usage(why.into())
}

fn path(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}

fn boolean(value: &[u8]) -> Result<bool> {
    match value.to_ascii_lowercase().as_slice() {
        b"1" | b"true" | b"t" | b"yes" | b"y" | b"on" => Ok(true),
        b"0" | b"false" | b"f" | b"no" | b"n" | b"off" => Ok(false),
        _ => Err(wrong("tls-verify-peer is true or false")),
    }
}

/// Reads `HOST`, `HOST:PORT`, `[IPV6]` or `[IPV6]:PORT`; nothing is this host.
fn tcp(authority: &str) -> Result<Address> {
    let (host, port) = if let Some(literal) = authority.strip_prefix('[') {
        let (host, after) = literal.split_once(']').ok_or_else(|| wrong("an IPv6 address ends with ]"))?;
        if host.split('%').next().is_none_or(|address| address.parse::<std::net::Ipv6Addr>().is_err()) {
            return Err(wrong(format!("[{host}] is no IPv6 address")));
        }
        let port = match after.strip_prefix(':') {
            Some(port) => port,
            None if after.is_empty() => "",
            None => return Err(wrong("only a port follows the ] of an IPv6 address")),
        };
        (host, port)
    } else {
        let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
        if port.contains(':') {
            return Err(wrong("an IPv6 address stands in [ ]"));
        }
        (host, port)
    };
    let port = match port {
        "" => DEFAULT_PORT,
        // `parse` would accept a sign.
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            let port = digits.parse().ok().filter(|&port| port != 0);
            port.ok_or_else(|| wrong(format!("{digits} is no port")))?
        }
        other => return Err(wrong(format!("{other} is no port"))),
    };
    let host = String::from_utf8(decode(host)?).map_err(|_| wrong("the host's name is not UTF-8"))?;
    if host.contains('\0') {
        return Err(wrong("the host's name holds a NUL"));
    }
    let host = if host.is_empty() { "localhost".to_owned() } else { host };
    Ok(Address::Tcp { host, port })
}

/// Undoes percent-encoding.
pub(super) fn decode(text: &str) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
            let (high, low) = (digit(), digit());
            let (Some(high), Some(low)) = (high, low) else {
                return Err(wrong("two hexadecimal digits follow each % (a % itself is %25)"));
            };
            out.push((high * 16 + low) as u8);
        } else {
            out.push(byte);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp_of(text: &str) -> (String, u16, Vec<u8>) {
        match Uri::parse(text).expect(text) {
            Uri { address: Address::Tcp { host, port }, export, .. } => (host, port, export),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_uri_names_host_port_and_export() {
        assert_eq!(tcp_of("nbd://example.com/disk"), ("example.com".into(), 10809, b"disk".to_vec()));
        assert_eq!(tcp_of("nbd://example.com"), ("example.com".into(), 10809, vec![]));
        assert_eq!(tcp_of("NBD://h:1234//a%20b%2f%FF"), ("h".into(), 1234, b"/a b/\xff".to_vec()));
        assert_eq!(tcp_of("nbd://[::1]:99/x"), ("::1".into(), 99, b"x".to_vec()));
        assert_eq!(tcp_of("nbd://[fe80::1%25]/"), ("fe80::1%".into(), 10809, vec![]));
        assert_eq!(tcp_of("nbd:///x"), ("localhost".into(), 10809, b"x".to_vec()));
    }

    #[test]
    fn a_unix_uri_names_its_socket() {
        let uri = Uri::parse("nbd+unix:///disk?socket=/run/a%26b%20c").expect("parses");
        assert_eq!(uri.address, Address::Unix("/run/a&b c".into()));
        assert_eq!(uri.export, b"disk");
        assert_eq!(uri.tls, None);
    }

    #[test]
    fn tls_parameters_are_kept() {
        let uri = Uri::parse("nbds+unix:///?socket=/s&tls-certificates=/c&tls-verify-peer=false").expect("parses");
        let tls = TlsOptions { certificates: Some("/c".into()), hostname: "localhost".into(), verify: false };
        assert_eq!(uri.tls, Some(tls));
        let uri = Uri::parse("nbds://h/x?tls-hostname=other").expect("parses");
        assert_eq!(uri.tls, Some(TlsOptions { certificates: None, hostname: "other".into(), verify: true }));
    }

    #[test]
    fn a_wrong_uri_is_the_users_mistake() {
        for text in [
            "nbd+unix:///x",
            "nbd+unix://host/x?socket=/s",
            "nbd://h/x?socket=/s",
            "nbd://h:99999/",
            "nbd://h:+1/",
            "nbd://h:0/",
            "nbd://::1/",
            "nbd://[::1/",
            "nbd://[::1]x/",
            "nbd://[nonsense]/",
            "nbd://h/%4",
            "nbd://h/%zz",
            "nbd://h/%é",
            "nbd://h/?nonsense=1",
            "nbd://h/?tls-hostname=x",
            "nbds://h/?tls-verify-peer=perhaps",
            "nbd+foo://h/",
            "http://h/",
        ] {
            let error = Uri::parse(text).expect_err(text);
            assert!(matches!(error.root(), Error::Usage(_)), "{text}: {error}");
        }
        for text in ["nbd+vsock://1/", "nbds://user@h/", "nbds://h/?tls-psk-file=/k"] {
            let error = Uri::parse(text).expect_err(text);
            assert!(matches!(error.root(), Error::Unsupported(_)), "{text}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_uri_or_an_error(text in r"(nbds?(\+unix)?://)?[a-z:/\[\]%?&=;@#.0-9é-]{0,40}") {
            let _ = Uri::parse(&text);
        }
    }

    #[test]
    fn a_file_name_is_no_uri() {
        assert!(is_uri("nbd://h/") && is_uri("NBDS+unix:///?socket=/s") && is_uri("nbd+wrong://"));
        assert!(!is_uri("nbd.img") && !is_uri("nbd:unix:/s") && !is_uri("/nbd://x") && !is_uri("http://x"));
    }
}
