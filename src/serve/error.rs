//! Errors as OpenAI's clients read them: `{"error": {message, type, param, code}}`.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    pub status: u16,
    pub message: String,
    pub param: Option<String>,
    pub code: Option<&'static str>,
}

impl ApiError {
    fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None }
    }

    /// A field that is missing, of the wrong type, or out of range.
    pub fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self { param: Some(param.to_owned()), ..Self::new(400, message) }
    }

    /// A field that others know and this server does not.
    pub fn unsupported(param: &str, message: impl Into<String>) -> Self {
        Self { code: Some("unsupported_parameter"), ..Self::invalid(param, message) }
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }

    pub fn too_long(param: &str, tokens: usize, context: usize) -> Self {
        let message = format!(
            "the prompt has {tokens} tokens and the model's context {context}, so there is no room for an answer; shorten the prompt"
        );
        Self { code: Some("context_length_exceeded"), ..Self::invalid(param, message) }
    }

    pub fn unauthorized(message: &str) -> Self {
        Self { code: Some("invalid_api_key"), ..Self::new(401, message) }
    }

    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(403, message)
    }

    pub fn no_model(name: &str, there: &[String]) -> Self {
        let message = format!("no model `{name}` is served here; there are: {}", there.join(", "));
        Self { param: Some("model".into()), code: Some("model_not_found"), ..Self::new(404, message) }
    }

    pub fn not_found(path: &str) -> Self {
        Self::new(
            404,
            format!(
                "nothing is at {path}; see /v1/models, /v1/chat/completions, /v1/completions and /health"
            ),
        )
    }

    pub fn method(method: &str) -> Self {
        Self::new(405, format!("{method} is not what this path takes"))
    }

    pub fn timeout() -> Self {
        Self::new(408, "the body did not come in time")
    }

    pub fn too_large(limit: usize) -> Self {
        Self::new(413, format!("the body is larger than {limit} bytes"))
    }

    pub fn full(message: impl Into<String>) -> Self {
        Self { code: Some("rate_limit_exceeded"), ..Self::new(429, message) }
    }

    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(500, message)
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, message)
    }

    fn kind(&self) -> &'static str {
        match self.status {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }

    pub fn body(&self) -> Value {
        json!({ "error": {
            "message": self.message, "type": self.kind(), "param": self.param, "code": self.code,
        } })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body().to_string()));
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if matches!(self.status, 429 | 503) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == 401 {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // What was not read of the body is not read: the connection ends.
        if matches!(self.status, 408 | 413) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
