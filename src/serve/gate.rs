//! Who may come in: requests for this host that bring the token.
//!
//! A page in a browser can send requests to loopback, under a name of its own choosing even (DNS rebinding): hence `Host` is looked at.

use std::io;
use std::path::Path;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use rand::Rng as _;

use super::error::ApiError;
use crate::store::files;

/// What a request must bring.
#[derive(Clone)]
pub struct Gate {
    /// Of the token: hashes are compared in constant time, and tell nothing of what they are of.
    token: blake3::Hash,
    port: u16,
}

/// Makes a token and writes it to a file that only this user can read.
///
/// # Errors
/// The file cannot be written.
pub fn new_token(path: &Path) -> io::Result<String> {
    let bytes: [u8; 32] = rand::rng().random();
    let token: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    files::write_atomic(path, token.as_bytes())?;
    Ok(token)
}

impl Gate {
    pub fn new(token: &str, port: u16) -> Self {
        Self { token: blake3::hash(token.as_bytes()), port }
    }

    fn check_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
        let mut named = headers.get_all(header::HOST).iter().map(|host| host.to_str().ok());
        let (first, second) = (named.next(), named.next());
        let Some(Some(host)) = first.filter(|_| second.is_none()) else {
            return Err(ApiError::bad_request("one `Host` header is expected"));
        };
        let of_uri = uri.authority().map(axum::http::uri::Authority::as_str);
        if self.is_here(host) && of_uri.is_none_or(|host| self.is_here(host)) {
            Ok(())
        } else {
            Err(ApiError::forbidden(format!(
                "this server answers to localhost:{0} and 127.0.0.1:{0} only",
                self.port
            )))
        }
    }

    fn is_here(&self, host: &str) -> bool {
        let (name, port) = match host.rsplit_once(':') {
            // `[::1]` ends with a colon and more.
            Some((name, port)) if !port.ends_with(']') => (name, port.parse::<u16>().ok()),
            _ => (host, Some(80)),
        };
        port == Some(self.port)
            && ["localhost", "127.0.0.1", "[::1]"].iter().any(|here| name.eq_ignore_ascii_case(here))
    }

    fn check_token(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let missing = || {
            ApiError::unauthorized(
                "no token: send `Authorization: Bearer TOKEN`, with the token of the file that `serve` named",
            )
        };
        let given = headers.get(header::AUTHORIZATION).ok_or_else(missing)?;
        let given = given.to_str().ok().and_then(|text| text.split_once(' '));
        let token = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).ok_or_else(missing)?.1;
        if blake3::hash(token.trim().as_bytes()) == self.token {
            Ok(())
        } else {
            Err(ApiError::unauthorized("the token is not that of this server"))
        }
    }
}

/// Lets a request pass, or says why not. Whether the server lives may be asked without a token.
pub async fn pass(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let checked = gate.check_host(request.uri(), request.headers()).and_then(|()| {
        if request.uri().path() == "/health" { Ok(()) } else { gate.check_token(request.headers()) }
    });
    match checked {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_loopback_with_the_port_are_this_host() {
        let gate = Gate::new("t", 8080);
        for here in ["localhost:8080", "LOCALHOST:8080", "127.0.0.1:8080", "[::1]:8080"] {
            assert!(gate.is_here(here), "{here}");
        }
        for other in [
            "localhost",
            "localhost:80",
            "127.0.0.1:8081",
            "evil.example:8080",
            "127.0.0.1.evil.example:8080",
            "",
            ":8080",
            "[::1]",
            "localhost:8080:8080",
            "::1:8080",
        ] {
            assert!(!gate.is_here(other), "{other}");
        }
        assert!(Gate::new("t", 80).is_here("localhost") && Gate::new("t", 80).is_here("[::1]"));
    }

    #[test]
    fn the_token_is_private_new_each_time_and_must_be_whole() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let token = new_token(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), token);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(token.len() == 64 && new_token(&path).unwrap() != token);
        let gate = Gate::new(&token, 1);
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            gate.check_token(&headers).is_ok()
        };
        assert!(with(&format!("Bearer {token}")) && with(&format!("bearer {token}")));
        for wrong in [
            token.clone(),
            "Bearer".into(),
            "Bearer ".into(),
            format!("Basic {token}"),
            format!("Bearer {}", &token[..63]),
            format!("Bearer {token}0"),
        ] {
            assert!(!with(&wrong), "{wrong}");
        }
        assert!(gate.check_token(&HeaderMap::new()).is_err());
    }
}
