//! Against a small server of our own that cuts, refuses and lies on request.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::*;

/// What the server does with a request for a path.
#[derive(Clone, Debug)]
enum Reply {
    /// The whole content, or the part that is asked for.
    Content(Vec<u8>),
    /// As `Content`, with the connection cut after so many bytes.
    Cut(Vec<u8>, usize),
    /// The whole content, whatever part is asked for.
    Deaf(Vec<u8>),
    Status(u16),
}

/// Path to replies; the last one is repeated. Keeps what it was asked: path, range, authorization.
#[derive(Clone)]
struct Server {
    address: String,
    asked: Arc<Mutex<Vec<(String, Option<String>, Option<String>)>>>,
}

impl Server {
    fn start(replies: HashMap<String, Vec<Reply>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server =
            Self { address: format!("http://{}", listener.local_addr().unwrap()), asked: Arc::default() };
        let asked = Arc::clone(&server.asked);
        std::thread::spawn(move || {
            let mut replies = replies;
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let _ = answer(stream, &mut replies, &asked);
            }
        });
        server
    }

    fn asked(&self) -> Vec<(String, Option<String>, Option<String>)> {
        self.asked.lock().unwrap().clone()
    }
}

fn answer(
    stream: TcpStream,
    replies: &mut HashMap<String, Vec<Reply>>,
    asked: &Mutex<Vec<(String, Option<String>, Option<String>)>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut range, mut token) = (None, None);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        let (name, value) = line.split_once(": ").unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "range" => range = Some(value.trim().to_owned()),
            "authorization" => token = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    asked.lock().unwrap().push((path.clone(), range.clone(), token));
    let reply = match replies.get_mut(&path) {
        None => Reply::Status(404),
        Some(list) if list.len() > 1 => list.remove(0),
        Some(list) => list[0].clone(),
    };
    let from = range.and_then(|r| r.strip_prefix("bytes=")?.trim_end_matches('-').parse::<usize>().ok());
    let mut stream = stream;
    let (bytes, from, cut) = match reply {
        Reply::Status(status) => {
            return write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        Reply::Content(bytes) => (bytes, from, None),
        Reply::Cut(bytes, at) => (bytes, from, Some(at)),
        Reply::Deaf(bytes) => (bytes, None, None),
    };
    let rest = &bytes[from.unwrap_or(0)..];
    match from {
        Some(from) => write!(
            stream,
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {from}-{}/{}\r\n",
            bytes.len() - 1,
            bytes.len()
        )?,
        None => write!(stream, "HTTP/1.1 200 OK\r\n")?,
    }
    write!(stream, "Content-Length: {}\r\nConnection: close\r\n\r\n", rest.len())?;
    stream.write_all(&rest[..cut.unwrap_or(rest.len()).min(rest.len())])
}

fn sha(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

const LIST: &str = "/api/models/org/tiny/revision/main?blobs=true";
const WEIGHTS: &str = "/org/tiny/resolve/c0ffee/model.safetensors";
const CONFIG: &str = "/org/tiny/resolve/c0ffee/config.json";

fn weights() -> Vec<u8> {
    (0..100_000_u32).map(|i| (i * 31 % 251) as u8).collect()
}

fn listing(more: &[Value]) -> Vec<u8> {
    let mut siblings = vec![
        json!({"rfilename": "model.safetensors", "size": 100_000, "blobId": "ab", "lfs": {"sha256": sha(&weights()), "size": 100_000}}),
        json!({"rfilename": "config.json", "size": 2, "blobId": "cd"}),
        json!({"rfilename": "README.md", "size": 5}),
        json!({"rfilename": "pytorch_model.bin", "size": 5}),
        json!({"rfilename": "onnx/model.json", "size": 5}),
    ];
    siblings.extend_from_slice(more);
    json!({"sha": "c0ffee", "siblings": siblings}).to_string().into_bytes()
}

fn server(weights_replies: Vec<Reply>) -> Server {
    Server::start(HashMap::from([
        (LIST.to_owned(), vec![Reply::Content(listing(&[]))]),
        (CONFIG.to_owned(), vec![Reply::Content(b"{}".to_vec())]),
        (WEIGHTS.to_owned(), weights_replies),
    ]))
}

fn pull(server: &Server, to: &Path) -> (Result<(), HubError>, Vec<String>) {
    pull_as(server, to, None)
}

fn pull_as(server: &Server, to: &Path, token: Option<&str>) -> (Result<(), HubError>, Vec<String>) {
    let mut pull =
        Pull::new(&server.address, token.map(String::from), "org/tiny", "main", to.to_path_buf()).unwrap();
    pull.first_wait = Duration::from_millis(1);
    let mut troubles = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let result = runtime.block_on(pull.run(&mut |p| troubles.extend(p.trouble.map(String::from))));
    (result, troubles)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_a_model_needs_is_downloaded_once() {
    let server = server(vec![Reply::Content(weights())]);
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("a/b");
    pull(&server, &to).0.unwrap();
    assert_eq!(names(&to), ["config.json", "model.safetensors"]);
    assert_eq!(std::fs::read(to.join("model.safetensors")).unwrap(), weights());
    let asked = server.asked().len();
    pull(&server, &to).0.unwrap();
    // The list alone, and the small file without a hash is believed by its size.
    assert_eq!(server.asked().len(), asked + 1);
}

#[test]
fn a_cut_connection_goes_on_where_it_was_cut() {
    let server =
        server(vec![Reply::Cut(weights(), 30_000), Reply::Cut(weights(), 50_000), Reply::Content(weights())]);
    let dir = tempfile::tempdir().unwrap();
    let (result, troubles) = pull(&server, dir.path());
    result.unwrap();
    assert_eq!(troubles.len(), 2);
    assert_eq!(std::fs::read(dir.path().join("model.safetensors")).unwrap(), weights());
    let ranges: Vec<Option<String>> =
        server.asked().into_iter().filter(|a| a.0 == WEIGHTS).map(|a| a.1).collect();
    assert_eq!(ranges, [None, Some("bytes=30000-".into()), Some("bytes=80000-".into())]);
}

#[test]
fn a_later_call_goes_on_where_the_last_one_gave_up() {
    let first = server(vec![Reply::Cut(weights(), 30_000), Reply::Status(503)]);
    let dir = tempfile::tempdir().unwrap();
    let error = pull(&first, dir.path()).0.unwrap_err();
    assert!(matches!(error, HubError::Failed(_)) && error.to_string().contains("503"), "{error}");
    assert!(!dir.path().join("model.safetensors").exists());
    let second = server(vec![Reply::Content(weights())]);
    pull(&second, dir.path()).0.unwrap();
    assert!(second.asked().iter().any(|a| a.1.as_deref() == Some("bytes=30000-")));
    assert_eq!(names(dir.path()), ["config.json", "model.safetensors"]);
}

#[test]
fn a_server_error_is_tried_again() {
    let server = server(vec![Reply::Status(500), Reply::Status(429), Reply::Content(weights())]);
    let dir = tempfile::tempdir().unwrap();
    let (result, troubles) = pull(&server, dir.path());
    result.unwrap();
    assert!(troubles[0].contains("500") && troubles[1].contains("429"), "{troubles:?}");
}

#[test]
fn a_server_that_cannot_go_on_sends_the_whole_again() {
    let server = server(vec![Reply::Cut(weights(), 30_000), Reply::Deaf(weights())]);
    let dir = tempfile::tempdir().unwrap();
    pull(&server, dir.path()).0.unwrap();
    assert_eq!(std::fs::read(dir.path().join("model.safetensors")).unwrap(), weights());
}

#[test]
fn wrong_content_is_thrown_away_and_fetched_again() {
    let mut wrong = weights();
    wrong[7] ^= 1;
    let once = server(vec![Reply::Content(wrong.clone()), Reply::Content(weights())]);
    let dir = tempfile::tempdir().unwrap();
    let (result, troubles) = pull(&once, dir.path());
    result.unwrap();
    assert!(troubles[0].contains("SHA-256"), "{troubles:?}");
    // A damaged file of the right size is seen as such by the next call.
    std::fs::write(dir.path().join("model.safetensors"), &wrong).unwrap();
    pull(&once, dir.path()).0.unwrap();
    assert_eq!(std::fs::read(dir.path().join("model.safetensors")).unwrap(), weights());

    let always = server(vec![Reply::Content(wrong)]);
    let dir = tempfile::tempdir().unwrap();
    assert!(pull(&always, dir.path()).0.unwrap_err().to_string().contains("SHA-256"));
    assert!(!dir.path().join("model.safetensors").exists());
}

#[test]
fn more_bytes_than_listed_are_refused() {
    let server = server(vec![Reply::Content([weights(), weights()].concat())]);
    let dir = tempfile::tempdir().unwrap();
    assert!(pull(&server, dir.path()).0.unwrap_err().to_string().contains("100000 bytes"));
}

#[test]
fn what_is_not_there_or_not_for_us_is_told_at_once() {
    for (status, say) in [(404, "revision"), (401, "HF_TOKEN"), (403, "gated")] {
        let server = Server::start(HashMap::from([(LIST.to_owned(), vec![Reply::Status(status)])]));
        let dir = tempfile::tempdir().unwrap();
        let error = pull(&server, dir.path()).0.unwrap_err();
        assert!(matches!(error, HubError::Input(_)) && error.to_string().contains(say), "{error}");
        assert_eq!(server.asked().len(), 1);
    }
    let missing = server(vec![Reply::Status(404)]);
    let dir = tempfile::tempdir().unwrap();
    assert!(pull(&missing, dir.path()).0.unwrap_err().to_string().contains("model.safetensors"));
}

#[test]
fn file_names_of_the_server_do_not_lead_out_of_the_folder() {
    for name in
        ["../evil.json", "/tmp/evil.json", "a/../../evil.json", "..\\evil.json", "a\u{1b}[2J.json", ""]
    {
        let list = listing(&[json!({"rfilename": name, "size": 2})]);
        let server = Server::start(HashMap::from([(LIST.to_owned(), vec![Reply::Content(list)])]));
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("inner");
        let error = pull(&server, &to).0.unwrap_err().to_string();
        assert!(error.contains("out of the folder") && !error.contains('\u{1b}'), "{error}");
        assert!(names(dir.path()).is_empty(), "{name}");
    }
}

#[test]
fn the_token_goes_to_the_hub_and_never_unencrypted_elsewhere() {
    let server = server(vec![Reply::Content(weights())]);
    let dir = tempfile::tempdir().unwrap();
    pull_as(&server, dir.path(), Some("hf_secret")).0.unwrap();
    assert!(server.asked().iter().all(|a| a.2.as_deref() == Some("Bearer hf_secret")));
    let to = || dir.path().to_path_buf();
    let error = Pull::new("http://example.org", Some("hf_secret".into()), "a/b", "main", to())
        .unwrap_err()
        .to_string();
    assert!(error.contains("unencrypted") && !error.contains("hf_secret"), "{error}");
}

#[test]
fn names_that_are_none_are_refused_before_anything_is_asked() {
    let new = |endpoint: &str, repo: &str, revision: &str| {
        Pull::new(endpoint, None, repo, revision, PathBuf::new())
    };
    for repo in ["", "a/b/c", "../x", "a b", "org/", "/x", "org/..", "http://x/y"] {
        assert!(new(ENDPOINT, repo, "main").is_err(), "{repo}");
    }
    assert!(new(ENDPOINT, "Qwen/Qwen3-0.6B", "refs/pr/1").is_ok());
    assert!(new(ENDPOINT, "gpt2", "../x").is_err());
    assert!(new("ftp://x", "gpt2", "main").is_err() && new("huggingface", "gpt2", "main").is_err());
}

#[test]
fn a_list_that_is_none_and_a_model_without_safetensors_are_told() {
    for (list, say) in [
        (b"<html>".to_vec(), "hub"),
        (json!({"siblings": [{"rfilename": "config.json"}]}).to_string().into_bytes(), "safetensors"),
        (b"{}".to_vec(), "safetensors"),
    ] {
        let server = Server::start(HashMap::from([(LIST.to_owned(), vec![Reply::Content(list)])]));
        let dir = tempfile::tempdir().unwrap();
        let error = pull(&server, dir.path()).0.unwrap_err().to_string();
        assert!(error.contains(say), "{error}");
    }
}
