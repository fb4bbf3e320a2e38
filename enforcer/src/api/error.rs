//! Failures as JSON: `{"error": {"code": …, "message": …}}` with a fitting status.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use enforcer_model::requests::{ErrorAnswer, ErrorBody, ErrorCode};

#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    code: ErrorCode,
    message: String,
}

impl Failure {
    fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
        }
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, message)
    }

    pub(crate) fn no_such_workload(name: &str) -> Self {
        let shown: String = name.chars().take(63).collect();
        let shown = enforcer_core::text::printable(&shown);
        Self::new(
            StatusCode::NOT_FOUND,
            ErrorCode::NoSuchWorkload,
            format!("there is no workload `{shown}`"),
        )
    }

    pub(crate) fn not_permitted(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, ErrorCode::NotPermitted, message)
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, message)
    }

    pub(crate) fn wrong_method() -> Self {
        let message = "this route knows no such method";
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            ErrorCode::WrongMethod,
            message,
        )
    }

    /// The request is understood, and cannot be carried out.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, ErrorCode::Refused, message)
    }

    /// The agent tried, and the workload does not run.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, ErrorCode::Failed, message)
    }

    /// Too much is asked at once.
    pub(crate) fn too_many(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            ErrorCode::TooManyRequests,
            message,
        )
    }

    /// The client may try again later.
    pub(crate) fn busy(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Busy, message)
    }

    pub(crate) fn going_down() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::GoingDown,
            "the agent is going down",
        )
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let error = ErrorBody {
            code: self.code,
            message: self.message,
        };
        (self.status, Json(ErrorAnswer { error })).into_response()
    }
}
