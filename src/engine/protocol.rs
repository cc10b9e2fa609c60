//! What goes over the socket: frames of u32 length (big-endian) + JSON, 1 MiB at most.
//!
//! ```text
//! client                                   engine
//! hello{protocol, version}            -->
//!                                     <--  hello{protocol, version, status}
//! request{id, request}                -->
//!                                     <--  response{id, response}        in any order
//! follow{view} / unfollow{view}       -->
//!                                     <--  push{seq, push}               a snapshot, then deltas
//! ```
//!
//! Frames, `hello` and `leave` must stay readable by every version: they are how versions find out about each other.

use serde::{Deserialize, Serialize};

use crate::domain::api::{EngineStatus, Push, Request, Response, View};
pub use crate::store::frames::{FRAME_MAX, encode, read_frame, write_frame};

/// This binary's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// From client to engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToServer {
    Hello {
        protocol: u32,
        version: String,
    },
    Request {
        id: u64,
        request: Request,
    },
    Follow {
        view: View,
    },
    Unfollow {
        view: View,
    },
    /// Leave, if no run is under way and nobody else is attached. Answered by `leaving`.
    Leave,
}

/// From engine to client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToClient {
    Hello {
        protocol: u32,
        version: String,
        status: EngineStatus,
    },
    Response {
        id: u64,
        response: Response,
    },
    /// `seq` counts the pushes of this connection.
    Push {
        seq: u64,
        push: Push,
    },
    /// Why not, if it does not leave.
    Leaving {
        busy: Option<String>,
    },
    /// The connection ends here, and why.
    Refused {
        reason: String,
    },
}

/// Whether version `a` is newer than `b`: by their numbers, left to right.
pub fn is_newer(a: &str, b: &str) -> bool {
    let numbers =
        |v: &str| -> Vec<u64> { v.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect() };
    numbers(a) > numbers(b)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use proptest::prelude::*;

    fn decode(bytes: &[u8]) -> io::Result<Option<ToServer>> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(read_frame(&mut &bytes[..]))
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(is_newer("0.10.0", "0.9.9"));
        assert!(!is_newer("0.1.0", "0.1.0"));
        assert!(is_newer("1.0.0", "0.99"));
        assert!(!is_newer("nonsense", "0.1.0"));
    }

    #[test]
    fn a_frame_longer_than_allowed_is_refused_before_it_is_read() {
        let error = decode(&[0xff, 0xff, 0xff, 0xff]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let long = ToServer::Hello { protocol: 1, version: "x".repeat(FRAME_MAX) };
        assert_eq!(encode(&long).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    proptest! {
        /// Whatever arrives, the decoder answers and does not panic.
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), length in 0u32..64) {
            let _ = decode(&bytes);
            let mut framed = length.to_be_bytes().to_vec();
            framed.extend(&bytes);
            let _ = decode(&framed);
        }

        #[test]
        fn what_was_encoded_is_decoded(version in ".*", protocol in any::<u32>()) {
            let message = ToServer::Hello { protocol, version };
            let frame = encode(&message).unwrap();
            prop_assert_eq!(decode(&frame).unwrap(), Some(message));
        }

        /// A cut frame is an error, never a message.
        #[test]
        fn a_cut_frame_is_an_error(version in "[a-z]{0,40}", at in 0.0..1.0) {
            let frame = encode(&ToServer::Hello { protocol: 1, version }).unwrap();
            let cut = ((at * frame.len() as f64) as usize).clamp(1, frame.len() - 1);
            prop_assert!(decode(&frame[..cut]).is_err());
        }
    }
}
