//! The TLS of probes and webhooks, by rustls. A probe may name the certificates that it accepts.
//! Otherwise an authority that the host trusts must have signed the server's certificate.

use enforcer_core::units::MonoTime;
use enforcer_kernel::{clock, regular_file};
use parking_lot::Mutex;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use std::fmt;
use std::io::{self, Read as _};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A certificate authority's whole collection has about 250 KiB.
const LONGEST_FILE: u64 = 1 << 20;
/// The time for which the certificates that the host trusts are not read again.
const ROOTS_LAST: Duration = Duration::from_secs(3600);

/// webpki's word for a server that shows the certificate of an authority. openssl makes such certificates
/// if they sign themselves. rustls has no variant for this error.
const OF_AUTHORITY: &str = "CaUsedAsEndEntity";

/// The certificates that a server may show.
#[derive(Clone, Debug)]
pub(crate) enum Trust {
    /// Those that are signed by what the host trusts.
    Host,
    /// Those of a PEM file, and those that are signed by one of them.
    File(String),
    /// Any.
    Anything,
}

/// Returns the configuration of a client. It reads files, which may hang.
pub(crate) fn client(trust: &Trust) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(ring::default_provider());
    let accepted = match trust {
        Trust::Anything => Accepted::Anything,
        Trust::Host => Accepted::Signed {
            by: signed_by(host_roots()?, &provider)?,
            named: Vec::new(),
        },
        Trust::File(path) => {
            let named = read_certificates(path)?;
            let mut roots = RootCertStore::empty();
            for certificate in &named {
                let added = roots.add(certificate.clone());
                added.map_err(|error| format!("{path} has a certificate that is none: {error}"))?;
            }
            let by = signed_by(Arc::new(roots), &provider)?;
            Accepted::Signed { by, named }
        }
    };
    let verifier = Verifier {
        accepted,
        provider: Arc::clone(&provider),
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// A connection over TLS. Its end is the end of what the server sends, although not every server says
/// so first (`close_notify`, RFC 8446 section 6.1): those of python do not. Someone in between can cut
/// an answer short by that. A probe and a webhook need the status alone, which comes first.
#[derive(Debug)]
pub(crate) struct Connection(TlsStream<TcpStream>);

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.0).poll_read(context, buffer) {
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Poll::Ready(Ok(()))
            }
            polled => polled,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// Shakes hands on a connection. The error says what the server, or its certificate, did wrong.
pub(crate) async fn connect(
    stream: TcpStream,
    name: &str,
    config: Arc<ClientConfig>,
) -> Result<Connection, String> {
    let server = ServerName::try_from(name.to_owned());
    let server =
        server.map_err(|_| format!("`{name}` is not a name that a certificate may have"))?;
    let connected = TlsConnector::from(config).connect(server, stream).await;
    connected.map(Connection).map_err(|error| describe(&error))
}

/// Returns the error of a handshake in words. rustls prints certificates and times as they are in
/// memory, which no one can read.
fn describe(error: &std::io::Error) -> String {
    use CertificateError as Bad;
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>());
    let why = match inner {
        Some(Error::InvalidCertificate(bad)) => match bad {
            Bad::Expired | Bad::ExpiredContext { .. } => "its certificate has expired".to_owned(),
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                "its certificate is not valid yet".to_owned()
            }
            Bad::UnknownIssuer => "its certificate is signed by no one who is trusted".to_owned(),
            Bad::Other(other) if format!("{other:?}").contains(OF_AUTHORITY) => {
                "its certificate signs itself, and is none of those that are trusted".to_owned()
            }
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                "its certificate has another name".to_owned()
            }
            other => format!("its certificate is not accepted: {other}"),
        },
        Some(Error::InvalidMessage(_)) => "it does not speak TLS".to_owned(),
        Some(other) => other.to_string(),
        None => enforcer_kernel::spawn::describe(error),
    };
    format!("no TLS: {why}")
}

fn signed_by(
    roots: Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, String> {
    let builder = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider));
    builder.build().map_err(|error| error.to_string())
}

/// Returns the certificates of a PEM file.
fn read_certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |error: &std::io::Error| {
        format!(
            "failed to read {path}: {}",
            enforcer_kernel::spawn::describe(error)
        )
    };
    let file = regular_file::open(Path::new(path)).map_err(|error| failed(&error))?;
    let mut text = Vec::new();
    let mut bounded = file.take(LONGEST_FILE + 1);
    bounded
        .read_to_end(&mut text)
        .map_err(|error| failed(&error))?;
    if u64::try_from(text.len()).is_ok_and(|length| length > LONGEST_FILE) {
        return Err(format!("{path} is larger than 1 MiB"));
    }
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let certificates = read.map_err(|error| format!("{path} is not PEM: {error}"))?;
    match certificates.is_empty() {
        true => Err(format!("{path} has no certificate")),
        false => Ok(certificates),
    }
}

/// Returns what the host trusts, which is read once an hour.
fn host_roots() -> Result<Arc<RootCertStore>, String> {
    static KNOWN: Mutex<Option<(MonoTime, Arc<RootCertStore>)>> = Mutex::new(None);
    let mut known = KNOWN.lock();
    let now = clock::now();
    if let Some((read, roots)) = &*known
        && now.since(*read) < ROOTS_LAST
    {
        return Ok(Arc::clone(roots));
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.first().map(|error| format!(": {error}"));
        return Err(format!(
            "this host has no certificates of authorities (Debian's package is ca-certificates){}",
            why.unwrap_or_default()
        ));
    }
    let roots = Arc::new(roots);
    *known = Some((now, Arc::clone(&roots)));
    Ok(roots)
}

/// The certificates that a handshake accepts. Whichever they are, it must be signed by their key.
struct Verifier {
    accepted: Accepted,
    provider: Arc<CryptoProvider>,
}

enum Accepted {
    Anything,
    /// Those that an authority has signed, and those of `named`. A named one may have no authority,
    /// or be one itself: tools make such certificates for servers that sign their own.
    Signed {
        by: Arc<WebPkiServerVerifier>,
        named: Vec<CertificateDer<'static>>,
    },
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Accepted::Signed { by, named } = &self.accepted else {
            return Ok(ServerCertVerified::assertion());
        };
        let Err(error) = by.verify_server_cert(certificate, between, name, ocsp, now) else {
            return Ok(ServerCertVerified::assertion());
        };
        // Its dates have been checked before these errors.
        let is_alone = matches!(
            error,
            Error::InvalidCertificate(CertificateError::UnknownIssuer)
        ) || error.to_string().contains(OF_AUTHORITY);
        if is_alone && named.iter().any(|named| named == certificate) {
            let parsed = ParsedCertificate::try_from(certificate)?;
            rustls::client::verify_server_name(&parsed, name)?;
            return Ok(ServerCertVerified::assertion());
        }
        Err(error)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let known = &self.provider.signature_verification_algorithms;
        known.supported_schemes()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.accepted {
            Accepted::Anything => f.write_str("Verifier(anything)"),
            Accepted::Signed { named, .. } => write!(f, "Verifier({} named)", named.len()),
        }
    }
}

#[cfg(test)]
mod tests;
