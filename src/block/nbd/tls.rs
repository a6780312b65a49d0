//! TLS to a server, by certificates.
//!
//! The server's certificate must hold the host's name and descend from a root: that of `tls-certificates`, or else one
//! that the system trusts. Nothing is sent before that is proved. TLS 1.2 and 1.3.

use super::stream::{Expired, Socket};
use super::uri::TlsOptions;
use crate::error::{Error, ErrorContext, IoContext, Result};
use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

/// What is received at once, in bytes: a TLS record and a little.
const RECEIVED: usize = 32 << 10;

/// How TLS is begun with one server.
#[derive(Clone)]
pub(super) struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// Reads the certificates that the options name.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be read, [`Error::Usage`] when it is no certificate or the host no name.
    pub fn new(options: &TlsOptions) -> Result<Self> {
        let name = ServerName::try_from(options.hostname.clone())
            .map_err(|_| Error::Usage(format!("{} is no name that TLS can check", options.hostname).into()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Usage(format!("TLS cannot be used: {error}").into()))?;
        let builder = if options.verify {
            builder.with_root_certificates(roots(options.certificates.as_deref())?)
        } else {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        };
        let config = match options.certificates.as_deref().map(client_certificate).transpose()?.flatten() {
            Some((chain, key)) => builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| Error::Usage(format!("the client's certificate cannot be used: {error}").into()))?,
            None => builder.with_no_client_auth(),
        };
        Ok(Self { config: Arc::new(config), name })
    }

    /// Makes TLS's own handshake on a socket that awaits it.
    ///
    /// # Errors
    /// What TLS says, a certificate that is refused among it; what the system says.
    pub fn handshake(&self, socket: &Socket, expired: Expired<'_>) -> io::Result<Session> {
        let mut connection =
            ClientConnection::new(Arc::clone(&self.config), self.name.clone()).map_err(io::Error::other)?;
        let mut wire = Wire { socket, expired };
        while connection.is_handshaking() {
            connection.complete_io(&mut wire)?;
        }
        let inbound = Inbound { bytes: vec![0; RECEIVED].into(), start: 0, end: 0 };
        Ok(Session { connection: Mutex::new(connection), inbound: Mutex::new(inbound), outbound: Mutex::default() })
    }
}

fn pem_error(file: &Path, error: rustls_pki_types::pem::Error) -> Error {
    match error {
        rustls_pki_types::pem::Error::Io(error) => Error::io(format!("cannot read {}", file.display()), error),
        other => Error::Usage(format!("{}: {other}", file.display()).into()),
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let list = CertificateDer::pem_file_iter(file).map_err(|error| pem_error(file, error))?;
    let list: Vec<_> = list.collect::<Result<_, _>>().map_err(|error| pem_error(file, error))?;
    if list.is_empty() {
        return Err(Error::Usage(format!("{} holds no certificate", file.display()).into()));
    }
    Ok(list)
}

fn roots(folder: Option<&Path>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    if let Some(folder) = folder {
        let file = folder.join("ca-cert.pem");
        for certificate in certificates(&file)? {
            roots
                .add(certificate)
                .map_err(|error| Error::Usage(error.to_string().into()))
                .at(|| file.display().to_string())?;
        }
        return Ok(roots);
    }
    let found = rustls_native_certs::load_native_certs();
    // Old roots that TLS cannot use are no reason to refuse the others.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map_or_else(|| "none is installed".to_owned(), ToString::to_string);
        return Err(Error::Usage(
            format!("this system trusts no root certificate ({why}); name one by tls-certificates=DIR").into(),
        ));
    }
    Ok(roots)
}

type ClientCertificate = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Returns the client's certificate and key, where the folder has them.
fn client_certificate(folder: &Path) -> Result<Option<ClientCertificate>> {
    let (chain, key) = (folder.join("client-cert.pem"), folder.join("client-key.pem"));
    if !chain.try_exists().doing(|| format!("cannot look for {}", chain.display()))? {
        return Ok(None);
    }
    let secret = PrivateKeyDer::from_pem_file(&key).map_err(|error| pem_error(&key, error))?;
    Ok(Some((certificates(&chain)?, secret)))
}

/// Accepts any certificate, which `tls-verify-peer=false` asks for. The server still proves that it holds the key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A socket as rustls wants it, for the handshake.
struct Wire<'a> {
    socket: &'a Socket,
    expired: Expired<'a>,
}

impl Read for Wire<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if (self.expired)() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.socket.recv(buf, false, self.expired)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.socket.send(buf, &[], self.expired).map(|()| buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes that were received and not yet deciphered.
struct Inbound {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

/// One TLS connection after its handshake; one thread receives while another sends.
///
/// `inbound` is taken before `connection`, and so is `outbound`; `connection` is held for the ciphers' work only, never
/// while the socket waits.
pub(super) struct Session {
    connection: Mutex<ClientConnection>,
    inbound: Mutex<Inbound>,
    outbound: Mutex<Vec<u8>>,
}

impl Session {
    /// Receives at least one byte; 0 is the end.
    ///
    /// # Errors
    /// What TLS or the system says; a time-out when `expired` says so.
    pub fn recv(&self, socket: &Socket, buf: &mut [u8], expired: Expired<'_>) -> io::Result<usize> {
        let mut inbound = self.inbound.lock();
        let Inbound { bytes, start, end } = &mut *inbound;
        loop {
            {
                let mut connection = self.connection.lock();
                match connection.reader().read(buf) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // An end without TLS's goodbye is an end all the same: each reply's length is known.
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                    other => return other,
                }
                if *start < *end {
                    let mut rest = &bytes[*start..*end];
                    let count = connection.read_tls(&mut rest)?;
                    *start += count;
                    connection
                        .process_new_packets()
                        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                    continue;
                }
            }
            let count = socket.recv(bytes, false, expired)?;
            (*start, *end) = (0, count);
            if count == 0 {
                return Ok(0);
            }
        }
    }

    /// Sends all bytes of both slices, in order.
    ///
    /// # Errors
    /// What TLS or the system says; a time-out when `expired` says so.
    pub fn send(&self, socket: &Socket, head: &[u8], payload: &[u8], expired: Expired<'_>) -> io::Result<()> {
        let mut outbound = self.outbound.lock();
        let (mut head, mut payload) = (head, payload);
        loop {
            {
                let mut connection = self.connection.lock();
                for slice in [&mut head, &mut payload] {
                    while !slice.is_empty() {
                        // It takes no more than its own buffer holds.
                        let count = connection.writer().write(slice)?;
                        if count == 0 {
                            break;
                        }
                        *slice = &slice[count..];
                    }
                }
                while connection.wants_write() {
                    connection.write_tls(&mut *outbound)?;
                }
            }
            let sent = socket.send(&outbound, &[], expired);
            outbound.clear();
            sent?;
            if head.is_empty() && payload.is_empty() {
                return Ok(());
            }
        }
    }
}
