//! The HTTP API on the Unix socket. It answers questions from the runtime's knowledge, and passes
//! changes on after it has checked that the caller may make them.

mod allowance;
mod change;
mod error;
mod events;
mod journal;
mod logs;
mod metrics;
mod part;
mod peer;
pub(crate) mod public;
mod rates;
mod server;
mod unread;
mod views;

pub(crate) use rates::stay_recent;

use crate::configuration::Configuration;
use crate::executor::Executor;
use crate::inbox::Events;
use crate::probe::Prober;
use crate::store::history::History;
use crate::telemetry::Telemetry;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::response::Json;
use axum::routing::{get, post};
use enforcer_kernel::account;
use enforcer_model::requests::{Alive, AliveStatus};
use error::Failure;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use tokio::net::UnixListener;
use unread::Unread;

/// The group whose members may ask, if the host has it.
const GROUP: &str = "enforcer";
/// The largest body of a request, in bytes: a manifest of the largest size, as a JSON string.
const BODY_SIZE: usize = 4 << 20;

/// The state that the handlers share.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) events: Events,
    pub(crate) executor: Arc<Executor>,
    pub(crate) prober: Arc<Prober>,
    pub(crate) history: Arc<History>,
    pub(crate) usage: Arc<rates::UsageSamples>,
    pub(crate) telemetry: Arc<Telemetry>,
    /// Held by the scrape that is under way.
    scraping: Arc<tokio::sync::Mutex<()>>,
    /// The places for answers of metrics that no client has read yet.
    scrapes: Unread,
    /// The places for answers of the history that no client has read yet.
    lists: Unread,
    configuration: Arc<Configuration>,
}

impl Api {
    pub(crate) fn new(
        events: Events,
        executor: Arc<Executor>,
        prober: Arc<Prober>,
        (history, telemetry): (Arc<History>, Arc<Telemetry>),
        configuration: Arc<Configuration>,
    ) -> Self {
        Self {
            events,
            executor,
            prober,
            history,
            usage: Arc::default(),
            telemetry,
            scraping: Arc::default(),
            scrapes: Unread::default(),
            lists: Unread::default(),
            configuration,
        }
    }
}

/// Opens the socket; a dead agent's is replaced, a living one's is not.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another agent answers on this socket",
        ));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // If the host has such a group, its members may read.
    if let Some(group) = account::group(GROUP)
        && let Err(error) = std::os::unix::fs::chown(path, None, Some(group.as_raw()))
    {
        tracing::debug!("the socket is not the group {GROUP}'s: {error}");
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

pub(crate) async fn serve(listener: UnixListener, api: Api) {
    let router = Router::new()
        .route("/health", get(alive))
        .route("/health/workloads/{name}", get(views::health))
        .route("/health/worker/{name}", get(views::health))
        .route("/metrics", get(metrics::metrics))
        .route("/metrics/prometheus", get(metrics::text))
        .route("/v1/metrics", get(metrics::json))
        .route("/v1/ready", get(views::ready))
        .route("/v1/agent", get(views::agent))
        .route("/v1/workloads", get(views::workloads))
        .route("/v1/workloads/{name}", get(views::workload))
        .route("/v1/workloads/{name}/why", get(events::why))
        .route("/v1/workloads/{name}/logs", get(logs::logs))
        .route(
            "/v1/workloads/{name}/rollout",
            get(views::group).post(change::rollout),
        )
        .route("/v1/workloads/{name}/scale", post(change::scale))
        .route("/v1/workloads/{name}/deadline", post(change::deadline))
        .route("/v1/workloads/{name}/{request}", post(change::request))
        .route(
            "/v1/workloads/{name}/replicas/{index}",
            get(views::workload),
        )
        .route(
            "/v1/workloads/{name}/replicas/{index}/why",
            get(events::why),
        )
        .route(
            "/v1/workloads/{name}/replicas/{index}/logs",
            get(logs::logs),
        )
        .route(
            "/v1/workloads/{name}/replicas/{index}/{request}",
            post(change::request),
        )
        .route("/v1/events", get(events::list))
        .route("/v1/events/stream", get(events::stream))
        .route("/v1/plan", post(change::plan))
        .route("/v1/apply", post(change::apply))
        .route("/v1/file", get(change::file))
        .route("/v1/shutdown", post(change::shutdown))
        .fallback(|| async { Failure::not_found("there is no such route") })
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_SIZE))
        .with_state(api);
    // Streams last.
    server::serve(listener, router, None).await;
}

/// Runs work that may take its time where it does not delay probes.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Failure::going_down())?
}

async fn alive() -> Json<Alive> {
    let status = AliveStatus::Ok;
    Json(Alive { status })
}

async fn wrong_method() -> Failure {
    Failure::wrong_method()
}
