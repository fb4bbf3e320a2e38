//! The parts of a request, or a JSON error that names the fault.

use super::error::Failure;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use enforcer_core::ReplicaId;
use std::collections::BTreeMap;
use std::time::Duration;

/// The longest time in which a body may arrive. It is a manifest at most, from this host.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// The variable part of a route.
pub(super) struct Part<T>(pub(super) T);

impl<S, T> FromRequestParts<S> for Part<T>
where
    Path<T>: FromRequestParts<S, Rejection = PathRejection>,
    S: Send + Sync,
{
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let found = Path::from_request_parts(parts, state).await;
        let Path(part) = found.map_err(|error| Failure::bad_request(error.body_text()))?;
        Ok(Self(part))
    }
}

/// The workload or the replica in a route.
pub(super) struct Target {
    pub(super) id: ReplicaId,
    /// The rest of the variable parts.
    pub(super) parts: BTreeMap<String, String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Target {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Part(mut parts): Part<BTreeMap<String, String>> =
            Part::from_request_parts(parts, state).await?;
        let mut name = parts.remove("name").unwrap_or_default();
        if let Some(index) = parts.remove("index") {
            name = format!("{name}/{index}");
        }
        let id = ReplicaId::parse(&name).ok_or_else(|| Failure::no_such_workload(&name))?;
        Ok(Self { id, parts })
    }
}

/// A whole body, within its bounds of size and time.
pub(super) struct Body(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let body = Bytes::from_request(request, state);
        match tokio::time::timeout(BODY_PATIENCE, body).await {
            Ok(Ok(body)) => Ok(Self(body)),
            Ok(Err(error)) => Err(Failure::bad_request(error.body_text())),
            Err(_) => Err(Failure::bad_request(format!(
                "the body did not arrive within {} s",
                BODY_PATIENCE.as_secs()
            ))),
        }
    }
}
