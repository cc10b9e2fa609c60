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

use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::domain::api::{EngineStatus, Push, Request, Response, View};

/// Longest frame, without its length.
pub const FRAME_MAX: usize = 1 << 20;

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

/// `value` as a frame; one that would be too long is an error and nothing was sent.
pub fn encode(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, value)?;
    let length = frame.len() - 4;
    if length > FRAME_MAX {
        return Err(too_long(length));
    }
    frame[..4].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(frame)
}

fn too_long(length: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("a frame of {length} bytes; at most {FRAME_MAX} are allowed"),
    )
}

pub async fn write_frame(to: &mut (impl AsyncWrite + Unpin), value: &impl Serialize) -> io::Result<()> {
    to.write_all(&encode(value)?).await?;
    to.flush().await
}

/// The next frame; None when the other end has closed between frames. The length is checked before memory is taken for it.
pub async fn read_frame<T: DeserializeOwned>(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    let mut have = 0;
    while have < 4 {
        match from.read(&mut length[have..]).await? {
            0 if have == 0 => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => have += n,
        }
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > FRAME_MAX {
        return Err(too_long(length));
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body).await?;
    serde_json::from_slice(&body).map(Some).map_err(|e| {
        io::Error::new(io::ErrorKind::InvalidData, format!("a frame that is not understood: {e}"))
    })
}

/// Whether version `a` is newer than `b`: by their numbers, left to right.
pub fn is_newer(a: &str, b: &str) -> bool {
    let numbers =
        |v: &str| -> Vec<u64> { v.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect() };
    numbers(a) > numbers(b)
}

#[cfg(test)]
mod tests {
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
