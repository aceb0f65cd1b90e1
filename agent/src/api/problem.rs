//! Errors as problem documents (RFC 9457) with the platform's stable codes.

use super::answer::{Answered, respond};
use crate::host::HostError;
use flotilla_protocol::ErrorCode;
use http::{HeaderName, HeaderValue, StatusCode, header};

/// An error answer.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: ErrorCode,
    detail: String,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), header: None }
    }

    /// A method that the path does not have.
    pub(super) fn method(allowed: &'static str) -> Self {
        let detail = format!("this path takes {allowed} only");
        let problem = Self::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::InvalidInput, detail);
        Self { header: Some((header::ALLOW, HeaderValue::from_static(allowed))), ..problem }
    }

    /// Too much at once.
    pub(super) fn busy(detail: impl Into<String>) -> Self {
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::Busy, detail);
        Self { header: Some((header::RETRY_AFTER, HeaderValue::from_static("1"))), ..problem }
    }

    /// A request that must not be answered, whoever asks.
    pub(super) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, ErrorCode::PermissionDenied, detail)
    }

    #[cfg(test)]
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    pub(super) fn into_response(self) -> Answered {
        let body = serde_json::json!({
            "type": format!("urn:flotilla:error:{}", self.code),
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
        });
        let mut response = respond(self.status, "application/problem+json", body.to_string());
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

impl Problem {
    /// The same as an error document of the Open Inference Protocol.
    pub(super) fn into_oip_response(self) -> Answered {
        let body = serde_json::json!({ "error": self.detail, "code": self.code });
        let mut response = respond(self.status, "application/json", body.to_string());
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

impl From<HostError> for Problem {
    fn from(error: HostError) -> Self {
        let code = error.code();
        let status = match code {
            ErrorCode::Busy => return Self::busy(error.to_string()),
            ErrorCode::NotFound => StatusCode::NOT_FOUND,
            ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorCode::InvalidInput | ErrorCode::SampleInvalid => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, code, error.to_string())
    }
}
