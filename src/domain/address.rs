//! The address of an endpoint, read as the client that will call it reads it: a key must go nowhere else.

use std::net::IpAddr;

use reqwest::Url;

/// `http(s)://HOST[:PORT]/PATH`, without user, password and fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    url: Url,
}

impl Address {
    /// # Errors
    /// What is wrong with it, to be put behind the address (which is not repeated: it may hold a secret).
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const SHAPE: &str = "is no address of an endpoint; write it as in http://127.0.0.1:8000/v1";
        // The parser would take the first part of such a path for the host.
        let hostless = text.split_once("://").is_some_and(|(_, rest)| rest.starts_with('/'));
        if hostless || text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\') {
            return Err(SHAPE);
        }
        let url = Url::parse(text).map_err(|_| SHAPE)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("must start with http:// or https://, as in http://127.0.0.1:8000/v1");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must not carry a secret; use api_key_env = \"NAME\"");
        }
        if url.host_str().is_none_or(str::is_empty) || url.fragment().is_some() || url.cannot_be_a_base() {
            return Err(SHAPE);
        }
        Ok(Self { url })
    }

    /// Scheme, host and port: whom a key is trusted to.
    pub fn origin(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    /// The address of a path below, such as `chat/completions`.
    pub fn below(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        // Fails only for addresses without a path, which are no addresses here.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path.split('/'));
        }
        url
    }

    /// On this machine.
    pub fn is_loopback(&self) -> bool {
        let host = self.url.host_str().unwrap_or_default();
        let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        host == "localhost" || host.ends_with(".localhost") || ip.is_ok_and(|ip| ip.is_loopback())
    }

    /// What goes there can be read on the way.
    pub fn is_open(&self) -> bool {
        self.url.scheme() == "http" && !self.is_loopback()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_that_of_the_host_that_would_be_called() {
        let origin = |text: &str| Address::parse(text).map(|a| a.origin());
        assert_eq!(origin("https://API.example.com:443/v1/").unwrap(), "https://api.example.com");
        assert_eq!(origin("http://127.0.0.1:8000/v1").unwrap(), "http://127.0.0.1:8000");
        assert_eq!(origin("http://0x7f.1/v1").unwrap(), "http://127.0.0.1");
        for bad in [
            "ftp://x/v1",
            "http://",
            "http:///v1",
            "x/v1",
            "",
            "https://trusted.com\\@evil.com/v1",
            "https://me:hush@x/v1",
            "https://hush@x/v1",
            "https://x/v1\n",
            "https://x/v1#y",
            "data:text/plain,x",
        ] {
            let error = origin(bad).unwrap_err();
            assert!(!error.contains("hush"), "{bad}: {error}");
        }
    }

    #[test]
    fn paths_are_put_below_with_or_without_a_slash_and_the_query_stays() {
        let below = |text: &str| Address::parse(text).unwrap().below("chat/completions").to_string();
        assert_eq!(below("http://x/v1"), "http://x/v1/chat/completions");
        assert_eq!(below("http://x/v1/"), "http://x/v1/chat/completions");
        assert_eq!(below("http://x"), "http://x/chat/completions");
        assert_eq!(below("https://x/v1?api-version=2"), "https://x/v1/chat/completions?api-version=2");
    }

    #[test]
    fn loopback_is_this_machine_only() {
        let at = |text: &str| Address::parse(text).unwrap();
        for near in ["http://localhost:1/v1", "http://127.9.9.9/v1", "http://[::1]:8000/v1"] {
            assert!(at(near).is_loopback() && !at(near).is_open(), "{near}");
        }
        assert!(at("http://10.0.0.1/v1").is_open());
        assert!(!at("https://10.0.0.1/v1").is_open());
        assert!(!at("http://localhost.evil.com/v1").is_loopback());
    }
}
