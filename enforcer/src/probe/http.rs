//! An `http` probe: one connection, one request, and redirects on the same host.
//! Connecting, a header that drips and a body without an end all count against the
//! same deadline. No proxy is asked, whatever the environment says.

use super::way::{Target, Way};
use super::{dial, failed, too_late};
use enforcer_core::probe::Outcome;
use enforcer_core::units::human_duration;
use fluent_uri::{Uri, UriRef};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

/// The most redirections of one check, about as many as browsers follow.
const REDIRECTS: usize = 10;
/// The part of a body that is read. A server that sends more has answered.
const LONGEST_BODY: usize = 16 << 10;
const LONGEST_HEAD: usize = 64 << 10;

/// The step that has not happened yet. It says why a check took too long.
#[derive(Default)]
struct Missing(AtomicUsize);

const MISSING: [&str; 5] = [
    "no address",
    "no connection",
    "no TLS",
    "no answer",
    "an answer, but no end of its body",
];

impl Missing {
    fn set(&self, step: usize) {
        self.0.store(step, Ordering::Relaxed);
    }

    fn is_a_name(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    fn word(&self) -> &'static str {
        MISSING
            .get(self.0.load(Ordering::Relaxed))
            .copied()
            .unwrap_or("nothing")
    }
}

pub(crate) async fn ask(
    target: &Target<'_>,
    path: &str,
    headers: &BTreeMap<String, String>,
    timeout: Duration,
) -> Outcome {
    let missing = Missing::default();
    let asked = follow(target, path, headers, &missing);
    match tokio::time::timeout(timeout, asked).await {
        Ok(Ok(())) => Outcome::Passed,
        Ok(Err(outcome)) => outcome,
        Err(_) if missing.is_a_name() => dial::unresolved(target.host(), timeout),
        Err(_) => too_late(missing.word(), timeout),
    }
}

async fn follow(
    target: &Target<'_>,
    path: &str,
    headers: &BTreeMap<String, String>,
    missing: &Missing,
) -> Result<(), Outcome> {
    let mut way = target.way().await?;
    let (mut port, mut path) = (target.port(), path.to_owned());
    for _ in 0..=REDIRECTS {
        missing.set(1);
        let authority = authority(target.host(), port);
        let request = request(Method::GET, &authority, (&path, headers), Empty::new())?;
        let (status, location) = exchange(&way, request, missing).await?;
        if !(200..400).contains(&status) {
            return Err(failed(format!("answered {status}"), false));
        }
        // A redirect to another host passes: the health there is not that of this workload.
        let from = (target.scheme(), target.host(), port);
        let Some((next, to)) = location.and_then(|to| resolve_redirect(&to, from, &path)) else {
            return Ok(());
        };
        (port, path) = (port.and(Some(next)), to);
        way.set_port(next);
    }
    Err(failed(
        format!("was redirected more than {REDIRECTS} times"),
        false,
    ))
}

/// Returns the port and the path of a redirect, resolved as RFC 3986 says; `None` if it leads to
/// another host or another scheme. A location that is no URI reference leads nowhere.
pub(crate) fn resolve_redirect(
    location: &str,
    (scheme, host, port): (&str, &str, Option<u16>),
    from: &str,
) -> Option<(u16, String)> {
    let authority = authority(host, port);
    let base = Uri::parse(format!("{scheme}://{authority}{from}")).ok()?;
    // A fragment is none of the server's business, and a base must have none.
    let base = base.strip_fragment();
    let to = UriRef::parse(location).ok()?.resolve_against(&base).ok()?;
    let authority = to.authority()?;
    let named = authority.host().trim_matches(['[', ']']);
    let same = named.eq_ignore_ascii_case(host) && to.scheme().as_str() == scheme;
    let usual = if scheme == "https" { 443 } else { 80 };
    let port = authority.port_to_u16().ok()?.unwrap_or(usual);
    let path = match to.path().as_str() {
        "" => "/",
        path => path,
    };
    let query = to
        .query()
        .map_or_else(String::new, |query| format!("?{query}"));
    same.then(|| (port, format!("{path}{query}")))
}

/// Sends a request to a target of alerts. The error says what happened instead.
pub(crate) async fn post(
    target: &Target<'_>,
    (path, headers): (&str, &BTreeMap<String, String>),
    body: Bytes,
    timeout: Duration,
) -> Result<(), String> {
    let missing = Missing::default();
    let mut headers = headers.clone();
    for (name, value) in [
        ("user-agent", "enforcer"),
        ("content-type", "application/json"),
    ] {
        if !headers.keys().any(|known| known.eq_ignore_ascii_case(name)) {
            headers.insert(name.to_owned(), value.to_owned());
        }
    }
    let reported = async {
        let way = target.way().await?;
        missing.set(1);
        let body = Full::new(body);
        let authority = authority(target.host(), target.port());
        let request = request(Method::POST, &authority, (path, &headers), body)?;
        exchange(&way, request, &missing).await
    };
    match tokio::time::timeout(timeout, reported).await {
        Ok(Ok((200..300, _))) => Ok(()),
        Ok(Ok((status, _))) => Err(format!("it answered {status}")),
        Ok(Err(Outcome::Failed(failure))) => Err(failure.why),
        Ok(Err(Outcome::Unknown(why))) => Err(why),
        Ok(Err(Outcome::Passed | Outcome::Did(_))) => Ok(()),
        Err(_) => Err(format!(
            "{} within {}",
            missing.word(),
            human_duration(timeout)
        )),
    }
}

/// Returns a host and a port as a request names them.
pub(super) fn authority(host: &str, port: Option<u16>) -> String {
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    match port {
        Some(port) => format!("{host}:{port}"),
        None => host,
    }
}

fn request<B>(
    method: Method,
    authority: &str,
    (path, headers): (&str, &BTreeMap<String, String>),
    body: B,
) -> Result<Request<B>, Outcome> {
    let request = Request::builder().method(method).uri(path);
    let mut request = request.header(header::CONNECTION, "close");
    let given = |name: &str| headers.keys().any(|known| known.eq_ignore_ascii_case(name));
    for (name, value) in [("host", authority), ("user-agent", "enforcer-probe")] {
        if !given(name) {
            request = request.header(name, value);
        }
    }
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let built = request.body(body);
    built.map_err(|error| Outcome::Unknown(format!("the request can't be made: {error}")))
}

/// Returns the status, and where a redirect leads.
async fn exchange<B>(
    way: &Way,
    request: Request<B>,
    missing: &Missing,
) -> Result<(u16, Option<String>), Outcome>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let broken = |error: hyper::Error| {
        let error = crate::report::error_chain(&error);
        failed(format!("broke off: {error}"), false)
    };
    let stream = way.connect(|| missing.set(2)).await?;
    missing.set(3);
    let handshake = http1::Builder::new()
        .max_buf_size(LONGEST_HEAD)
        .handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(broken)?;
    let asked = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status().as_u16();
        let location = response.headers().get(header::LOCATION);
        let location = location.filter(|_| (300..400).contains(&status));
        let location = location.and_then(|value| Some(value.to_str().ok()?.to_owned()));
        missing.set(4);
        read(response).await.map_err(broken)?;
        Ok((status, location))
    };
    beside(connection, asked).await
}

/// Polls the connection along with what goes over it, in the same task.
async fn beside<T>(connection: impl Future, asked: impl Future<Output = T>) -> T {
    let mut connection = pin!(connection);
    let mut asked = pin!(asked);
    let mut ended = false;
    poll_fn(|context| {
        if let Poll::Ready(answer) = asked.as_mut().poll(context) {
            return Poll::Ready(answer);
        }
        // The answer may wait for the end of the connection.
        if !ended && connection.as_mut().poll(context).is_ready() {
            ended = true;
        }
        asked.as_mut().poll(context)
    })
    .await
}

async fn read(response: Response<Incoming>) -> Result<(), hyper::Error> {
    let mut body = response.into_body();
    let mut length = 0;
    while !body.is_end_stream() && length < LONGEST_BODY {
        match body.frame().await {
            Some(frame) => length += frame?.data_ref().map_or(0, Bytes::len),
            None => break,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::resolve_redirect;

    #[test]
    fn redirects_stay_on_their_host() {
        let check =
            |location| resolve_redirect(location, ("http", "127.0.0.1", Some(8080)), "/a/b?c");
        assert_eq!(check("/next?a=1"), Some((8080, "/next?a=1".to_owned())));
        assert_eq!(check("next"), Some((8080, "/a/next".to_owned())));
        assert_eq!(check("http://127.0.0.1:81/x"), Some((81, "/x".to_owned())));
        for elsewhere in [
            "http://10.0.0.1/x",
            "//10.0.0.1/x",
            "https://127.0.0.1/x",
            "ftp://x",
            "http://[::1/x",
            "/a b",
        ] {
            assert_eq!(check(elsewhere), None, "{elsewhere}");
        }
    }

    /// RFC 3986, 5.4: references relative to the page that answers them.
    #[test]
    fn redirects_are_resolved_as_the_standard_says() {
        let path = |location: &str| {
            let from = ("http", "localhost", Some(80));
            resolve_redirect(location, from, "/b/c/d?q").map(|to| to.1)
        };
        for (location, expected) in [
            ("g", "/b/c/g"),
            ("./g/", "/b/c/g/"),
            ("/g", "/g"),
            ("?y", "/b/c/d?y"),
            ("", "/b/c/d?q"),
            ("#s", "/b/c/d?q"),
            ("..", "/b/"),
            ("../g?x=/../", "/b/g?x=/../"),
            ("../../../g", "/g"),
            ("http://LOCALHOST", "/"),
            ("http://localhost?a", "/?a"),
        ] {
            assert_eq!(path(location).as_deref(), Some(expected), "{location}");
        }
        let six = resolve_redirect("//[::1]:81/x", ("http", "::1", Some(80)), "/");
        assert_eq!(six, Some((81, "/x".to_owned())));
        let tls = |location| resolve_redirect(location, ("https", "localhost", Some(8443)), "/");
        assert_eq!(tls("/x"), Some((8443, "/x".to_owned())));
        assert_eq!(tls("https://localhost/x"), Some((443, "/x".to_owned())));
        assert_eq!(tls("http://localhost/x"), None);
        let unix = resolve_redirect("/x", ("http", "localhost", None), "/");
        assert_eq!(unix.map(|to| to.1).as_deref(), Some("/x"));
    }
}
