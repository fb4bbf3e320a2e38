//! The answers for every user of this host, over TCP: health and metrics, and nothing that a foreign
//! web page could make a browser ask for.

use super::allowance::Allowance;
use super::error::Failure;
use super::unread::Unread;
use super::{Api, metrics, server, views};
use axum::Router;
use axum::extract::Request;
use axum::http::header::{HOST, ORIGIN};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use enforcer_kernel::clock;
use parking_lot::Mutex;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// The longest life of a connection, so that a client that does not read holds no place for long.
const LIFETIME: Duration = Duration::from_secs(60);

/// Serves on this address. A failure is reported, and stops nothing else.
pub(crate) async fn serve(address: SocketAddr, api: Api) {
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => {
            api.events.send(enforcer_core::Event::Agent(enforcer_core::event::AgentEvent::Degraded {
                what: "listen".to_owned(),
                why: format!(
                    "{address}: {error}; enforcer does not answer over TCP; use another --listen, or `--listen off`"
                ),
            }));
            return;
        }
    };
    // A client of the other socket that does not read holds no place of this one.
    let api = Api {
        scrapes: Unread::default(),
        ..api
    };
    let allowance = Arc::new(Mutex::new(Allowance::new(clock::now())));
    let router = Router::new()
        .route("/health", get(super::alive))
        .route("/health/workloads/{name}", get(views::public_health))
        .route("/health/worker/{name}", get(views::public_health))
        .route("/metrics", get(metrics::metrics))
        .route("/metrics/prometheus", get(metrics::text))
        .fallback(|| async { Failure::not_found("there is no such route") })
        .method_not_allowed_fallback(super::wrong_method)
        .layer(middleware::from_fn(move |request: Request, next: Next| {
            let answered = allowance.lock().take(clock::now());
            async move {
                if answered {
                    return next.run(request).await;
                }
                Failure::too_many("more is asked in this second than is answered").into_response()
            }
        }))
        .layer(middleware::from_fn(refuse_strangers))
        .with_state(api);
    server::serve(listener, router, Some(LIFETIME)).await;
}

/// Refuses requests of foreign web pages. A page may send a browser here by a name of its own that
/// leads to this address: then the name is in `Host`, and the site in `Origin`.
async fn refuse_strangers(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    if !host.is_some_and(is_own) {
        return Failure::not_permitted("this is for `localhost` and addresses alone")
            .into_response();
    }
    if headers.contains_key(ORIGIN) {
        return Failure::not_permitted("this is not for web pages").into_response();
    }
    next.run(request).await
}

/// Returns whether the host is `localhost` or a plain address, and not a name that an attacker could
/// point here.
fn is_own(host: &str) -> bool {
    if let Ok(address) = host.parse::<SocketAddr>() {
        return !address.ip().is_unspecified();
    }
    if let Some(inner) = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        return inner.parse::<IpAddr>().is_ok();
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        _ => host,
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_its_own() {
        for own in [
            "localhost",
            "LOCALHOST:9988",
            "127.0.0.1",
            "127.0.0.1:9988",
            "[::1]:9988",
            "[::1]",
            "10.0.0.7:1",
        ] {
            assert!(is_own(own), "{own}");
        }
        for foreign in [
            "",
            "evil.example",
            "evil.example:9988",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "localhost:x",
        ] {
            assert!(!is_own(foreign), "{foreign}");
        }
    }
}
