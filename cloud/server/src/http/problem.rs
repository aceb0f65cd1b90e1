//! Errors as `application/problem+json` (RFC 9457), with our stable codes.

use bytes::Bytes;
use flotilla_protocol::ErrorCode;
use http::{Response, StatusCode, header};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a client sees when a request fails.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// `urn:flotilla:error:CODE`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Short text for the status.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The stable code.
    pub code: String,
    /// What went wrong, where, and what to do.
    pub detail: String,
}

impl Problem {
    /// A problem with this code and explanation.
    pub fn new(code: ErrorCode, detail: impl fmt::Display) -> Self {
        let status = status_of(code);
        Self {
            kind: format!("urn:flotilla:error:{code}"),
            title: status.canonical_reason().unwrap_or("error").to_owned(),
            status: status.as_u16(),
            code: code.to_string(),
            detail: detail.to_string(),
        }
    }

    /// No route has this method and path.
    pub fn no_route(method: &http::Method, path: &str) -> Self {
        Self::new(
            ErrorCode::NotFound,
            format!("there is no {method} {path}; GET /api/v1/openapi.json lists the routes"),
        )
    }

    /// The response that carries this problem.
    pub fn response(&self) -> Response<Bytes> {
        let body = serde_json::to_vec(self).unwrap_or_default();
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(
                header::WWW_AUTHENTICATE,
                header::HeaderValue::from_static("Bearer realm=\"flotilla\""),
            );
        }
        response
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.detail, self.code)
    }
}

/// The HTTP status that fits a code.
pub fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::InvalidInput
        | ErrorCode::Malformed
        | ErrorCode::DatasetFormat
        | ErrorCode::DatasetPathMissing
        | ErrorCode::ArchivePath
        | ErrorCode::ArchiveBomb
        | ErrorCode::SampleInvalid
        | ErrorCode::ModelInvalid => StatusCode::BAD_REQUEST,
        ErrorCode::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorCode::PermissionDenied
        | ErrorCode::ClaimInvalid
        | ErrorCode::ClaimUsed
        | ErrorCode::ClaimExpired
        | ErrorCode::Revoked => StatusCode::FORBIDDEN,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::AlreadyExists | ErrorCode::WrongState | ErrorCode::LeaseLost => StatusCode::CONFLICT,
        ErrorCode::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
        ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::DatasetTooSmall
        | ErrorCode::SignatureInvalid
        | ErrorCode::WrongProject
        | ErrorCode::BelowFloor
        | ErrorCode::Expired
        | ErrorCode::DigestMismatch
        | ErrorCode::BoardMismatch
        | ErrorCode::OverBudget
        | ErrorCode::JobMemory
        | ErrorCode::PipelineUnconfirmed
        | ErrorCode::ModelUnsupported => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::Busy => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::Timeout => StatusCode::REQUEST_TIMEOUT,
        ErrorCode::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorCode::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
        ErrorCode::StorageReadOnly | ErrorCode::StorageInUse | ErrorCode::StorageIo => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
