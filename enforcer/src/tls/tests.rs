//! Probes and webhooks of servers that speak TLS. `testdata` has an authority, a certificate of
//! `localhost` that it has signed, and one that `openssl req -x509` has made, which signs itself.

use super::*;
use crate::probe::{Pass, Target, http};
use enforcer_core::probe::Outcome;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use std::collections::BTreeMap;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

fn file(name: &str) -> String {
    format!("{}/src/tls/testdata/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Serves "204" over TLS with this certificate, and returns the port.
async fn serve(certificate: &str) -> u16 {
    serve_with(certificate, b"HTTP/1.1 204 No Content\r\n\r\n", true).await
}

/// Serves an answer over TLS, which ends as TLS demands it (`close_notify`) or by the connection's end
/// alone.
async fn serve_with(certificate: &str, answer: &'static [u8], says_end: bool) -> u16 {
    let chain = read_certificates(&file(&format!("{certificate}.pem"))).expect("a certificate");
    let key = file(&format!("{certificate}.key"));
    let key = PrivateKeyDer::from_pem_file(key).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a configuration");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut asked = [0; 1024];
            let _ = stream.read(&mut asked).await;
            let _ = stream.write_all(answer).await;
            let _ = stream.flush().await;
            if says_end {
                let _ = stream.shutdown().await;
            }
        }
    });
    port
}

async fn ask(port: u16, name: &str, trust: Trust) -> String {
    let target = Target::Tls {
        pass: Pass::default(),
        host: "127.0.0.1",
        port,
        name,
        trust,
    };
    let none = BTreeMap::new();
    match http::ask(&target, "/", &none, Duration::from_secs(60)).await {
        Outcome::Passed => "passed".to_owned(),
        Outcome::Failed(failure) => failure.why,
        Outcome::Unknown(why) => format!("unknown: {why}"),
        Outcome::Did(_) => "did".to_owned(),
    }
}

#[tokio::test]
async fn a_certificate_is_accepted_if_it_is_signed_for_that_name() {
    let port = serve("server").await;
    let authority = || Trust::File(file("ca.pem"));
    assert_eq!(ask(port, "localhost", authority()).await, "passed");
    assert_eq!(ask(port, "127.0.0.1", authority()).await, "passed");
    assert_eq!(
        ask(port, "example.org", authority()).await,
        "no TLS: its certificate has another name"
    );
    let other = Trust::File(file("own.pem"));
    assert_eq!(
        ask(port, "localhost", other).await,
        "no TLS: its certificate is signed by no one who is trusted"
    );
    assert_eq!(ask(port, "example.org", Trust::Anything).await, "passed");
    // The certificate itself may be named as well.
    let itself = Trust::File(file("server.pem"));
    assert_eq!(ask(port, "localhost", itself).await, "passed");
}

/// openssl makes certificates that are their own authority. curl accepts one that is named.
#[tokio::test]
async fn a_certificate_that_signs_itself_is_accepted_if_it_is_named() {
    let port = serve("own").await;
    let itself = || Trust::File(file("own.pem"));
    assert_eq!(ask(port, "localhost", itself()).await, "passed");
    assert_eq!(
        ask(port, "example.org", itself()).await,
        "no TLS: its certificate has another name"
    );
    let refused = ask(port, "localhost", Trust::File(file("ca.pem"))).await;
    let expected = "no TLS: its certificate signs itself, and is none of those that are trusted";
    assert_eq!(refused, expected);
}

/// As servers of python do.
#[tokio::test]
async fn an_answer_may_end_with_its_connection() {
    let trust = || Trust::File(file("own.pem"));
    let port = serve_with("own", b"HTTP/1.0 200 OK\r\n\r\nwell", false).await;
    assert_eq!(ask(port, "localhost", trust()).await, "passed");
    let short = b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nwell";
    let port = serve_with("own", short, false).await;
    let why = ask(port, "localhost", trust()).await;
    assert!(why.starts_with("broke off"), "{why}");
}

#[tokio::test]
async fn a_server_without_tls_is_told_from_one_that_hangs() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            let mut asked = [0; 1024];
            let _ = stream.read(&mut asked).await;
        }
    });
    assert_eq!(
        ask(port, "localhost", Trust::Anything).await,
        "no TLS: it does not speak TLS"
    );
}

#[tokio::test]
async fn a_message_goes_over_tls() {
    let port = serve("server").await;
    let post = async |trust: Trust| {
        let target = Target::Tls {
            pass: Pass::default(),
            host: "localhost",
            port,
            name: "localhost",
            trust,
        };
        let none = BTreeMap::new();
        let body = hyper::body::Bytes::from_static(b"{}");
        crate::probe::post(&target, ("/", &none), body, Duration::from_secs(60)).await
    };
    assert_eq!(post(Trust::File(file("ca.pem"))).await, Ok(()));
    let refused = post(Trust::File(file("own.pem"))).await;
    let why = "no TLS: its certificate is signed by no one who is trusted";
    assert_eq!(refused, Err(why.to_owned()));
}

/// A fault of our own settings says nothing about the server.
#[tokio::test]
async fn a_file_that_is_not_there_is_no_failure_of_the_server() {
    let port = serve("server").await;
    for (path, why) in [
        (
            "/nonexistent/ca.pem",
            "failed to read /nonexistent/ca.pem: No such file or directory",
        ),
        (
            concat!(env!("CARGO_MANIFEST_DIR"), "/src"),
            concat!(
                "failed to read ",
                env!("CARGO_MANIFEST_DIR"),
                "/src: it is not a regular file"
            ),
        ),
        (
            concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
            concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml has no certificate"),
        ),
    ] {
        let answer = ask(port, "localhost", Trust::File(path.to_owned())).await;
        assert!(answer.starts_with(&format!("unknown: {why}")), "{answer}");
    }
}
