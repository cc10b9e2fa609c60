//! An OpenAI-compatible server that lies, cuts, stalls and refuses on request. Also used by the black-box tests.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read as _, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use serde_json::{Value, json};

/// What the server does with a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Status, content type (empty: none), further headers (each with its line end), body.
    Plain(u16, &'static str, String, Vec<u8>),
    /// Events of these data.
    Events(Vec<Value>),
    /// These events, then the connection is cut in the middle of a chunk.
    Cut(Vec<Value>),
    /// These events, then nothing, the connection left open.
    Stall(Vec<Value>),
    /// This chunk again and again until the client hangs up.
    Endless(String),
    /// The connection is closed without a word.
    Hangup,
    /// Answers as `Echo` does, but in groups of so many, each when the last of its group is here.
    Together(usize),
    /// A stream (or a whole answer, as asked) that repeats the question's last text.
    Echo,
    /// What the function makes of the question's last text, after it was asked.
    Say(fn(&str) -> String),
}

impl Reply {
    pub fn json(status: u16, body: &Value) -> Self {
        Self::Plain(status, "application/json", String::new(), body.to_string().into_bytes())
    }

    pub fn refuse(status: u16, message: &str) -> Self {
        Self::json(status, &json!({ "error": { "message": message } }))
    }

    /// Refuses with a header.
    pub fn later(status: u16, header: &str) -> Self {
        Self::Plain(status, "application/json", format!("{header}\r\n"), b"{\"error\":\"busy\"}".to_vec())
    }
}

/// What the server was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub path: String,
    pub authorization: Option<String>,
    pub body: Value,
}

#[derive(Debug, Default)]
struct State {
    replies: VecDeque<Reply>,
    asked: Vec<Asked>,
    here: usize,
    /// After so many requests nobody is answered, until [`Server::go_on`].
    until: Option<usize>,
    /// Every n-th request is refused.
    failing: Option<usize>,
}

#[derive(Clone, Debug)]
pub struct Server {
    pub origin: String,
    state: Arc<(Mutex<State>, Condvar)>,
    most: Arc<AtomicUsize>,
}

impl Server {
    /// Gives these replies in order, the last one again and again; with none it echoes.
    pub fn start(replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let state = State { replies: replies.into(), ..State::default() };
        let server =
            Self { origin, state: Arc::new((Mutex::new(state), Condvar::new())), most: Arc::default() };
        let this = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let this = this.clone();
                std::thread::spawn(move || this.serve(&stream));
            }
        });
        server
    }

    /// Gives this reply, but after so many requests keeps everybody waiting until [`Self::go_on`].
    pub fn start_until(requests: usize, reply: Reply) -> Self {
        let server = Self::start(vec![reply]);
        server.state().until = Some(requests);
        server
    }

    /// Gives this reply, but refuses every `n`-th request, to be asked again at once.
    pub fn start_failing(n: usize, reply: Reply) -> Self {
        let server = Self::start(vec![reply]);
        server.state().failing = Some(n);
        server
    }

    /// Answers whoever asks from now on; those who wait are hung up on.
    pub fn go_on(&self) {
        self.state().until = None;
        self.state.1.notify_all();
    }

    pub fn endpoint(&self) -> String {
        format!("{}/v1", self.origin)
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.state().asked.clone()
    }

    /// Requests that were here at once.
    pub fn most_at_once(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().unwrap()
    }

    fn serve(&self, stream: &TcpStream) {
        let mut reader = BufReader::new(stream);
        // One connection may bring several requests.
        while let Some(asked) = read(&mut reader) {
            let reply = {
                let mut state = self.state();
                state.asked.push(asked.clone());
                state.here += 1;
                self.most.fetch_max(state.here, Ordering::SeqCst);
                self.state.1.notify_all();
                let number = state.asked.len();
                let silent = state.until.is_some_and(|until| number > until);
                while silent && state.until.is_some() {
                    state = self.state.1.wait(state).unwrap();
                }
                let reply = match state.replies.len() {
                    _ if silent => Reply::Hangup,
                    _ if state.failing.is_some_and(|n| number.is_multiple_of(n)) => {
                        Reply::later(503, "retry-after-ms: 1")
                    }
                    0 => Reply::Echo,
                    1 => state.replies[0].clone(),
                    _ => state.replies.pop_front().unwrap(),
                };
                if let Reply::Together(n) = reply {
                    // Groups by arrival: who was answered first may have gone before the last of its group wakes up.
                    let group = state.asked.len().div_ceil(n) * n;
                    while state.asked.len() < group {
                        state = self.state.1.wait(state).unwrap();
                    }
                }
                // Before it is answered: the client may ask anew as soon as it is.
                state.here -= 1;
                reply
            };
            let kept = answer(stream, &asked, reply);
            if !matches!(kept, Ok(true)) {
                let _ = stream.shutdown(Shutdown::Both);
                return;
            }
        }
    }
}

fn read(reader: &mut BufReader<&TcpStream>) -> Option<Asked> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let path = line.split(' ').nth(1)?.to_owned();
    let (mut length, mut authorization) = (0, None);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 || line == "\r\n" {
            break;
        }
        let (name, value) = line.trim_end().split_once(": ").unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap_or(0),
            "authorization" => authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Asked { path, authorization, body: serde_json::from_slice(&body).unwrap_or_default() })
}

pub fn delta(text: &str) -> Value {
    json!({ "choices": [{ "index": 0, "delta": { "content": text }, "finish_reason": null }] })
}

pub fn end(reason: &str) -> Value {
    json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": reason }] })
}

pub fn usage(tokens_in: u64, tokens_out: u64) -> Value {
    json!({ "choices": [], "usage": { "prompt_tokens": tokens_in, "completion_tokens": tokens_out } })
}

fn event(value: &Value) -> String {
    format!("data: {value}\n\n")
}

/// The last text of the question: what an echo says.
fn last_text(body: &Value) -> String {
    let messages = body["messages"].as_array().and_then(|m| m.last()).and_then(|m| m["content"].as_str());
    messages.or_else(|| body["prompt"].as_str()).unwrap_or_default().to_owned()
}

fn head(mut stream: &TcpStream, status: u16, kind: &str, more: &str) -> std::io::Result<()> {
    let kind = if kind.is_empty() { String::new() } else { format!("Content-Type: {kind}\r\n") };
    write!(stream, "HTTP/1.1 {status} X\r\n{kind}{more}\r\n")
}

fn chunk(mut stream: &TcpStream, text: &str) -> std::io::Result<()> {
    write!(stream, "{:x}\r\n{text}\r\n", text.len())
}

const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

/// True where the connection is kept.
fn answer(mut stream: &TcpStream, asked: &Asked, reply: Reply) -> std::io::Result<bool> {
    let stream_head = || head(stream, 200, "text/event-stream; charset=utf-8", CHUNKED);
    match reply {
        Reply::Plain(status, kind, more, body) => {
            head(stream, status, kind, &format!("{more}Content-Length: {}\r\n", body.len()))?;
            stream.write_all(&body)?;
            return Ok(true);
        }
        Reply::Events(events) => {
            stream_head()?;
            for one in &events {
                chunk(stream, &event(one))?;
            }
            chunk(stream, "data: [DONE]\n\n")?;
            stream.write_all(b"0\r\n\r\n")?;
            return Ok(true);
        }
        Reply::Cut(events) => {
            stream_head()?;
            for one in &events {
                chunk(stream, &event(one))?;
            }
            stream.write_all(b"ff\r\ndata: {\"choi")?;
        }
        Reply::Stall(events) => {
            stream_head()?;
            for one in &events {
                chunk(stream, &event(one))?;
            }
            // Until the client hangs up.
            let mut rest = stream;
            let _ = rest.read(&mut [0]);
        }
        Reply::Endless(text) => {
            stream_head()?;
            loop {
                chunk(stream, &text)?;
            }
        }
        Reply::Hangup => {}
        Reply::Echo | Reply::Together(_) | Reply::Say(_) => {
            let text = last_text(&asked.body);
            let text = if let Reply::Say(say) = reply { say(&text) } else { text };
            if asked.body["stream"] != true {
                let message = json!({ "role": "assistant", "content": text });
                let body = json!({
                    "choices": [{ "index": 0, "message": message, "text": text, "finish_reason": "stop" }],
                    "usage": { "prompt_tokens": 7, "completion_tokens": 3 },
                });
                let mut body = body;
                // A conversation has a message, a text has none.
                let unused = if asked.path.contains("chat") { "text" } else { "message" };
                body["choices"][0].as_object_mut().unwrap().remove(unused);
                return answer(stream, asked, Reply::json(200, &body));
            }
            let mut events: Vec<Value> = text.chars().map(|c| delta(&c.to_string())).collect();
            events.push(end("stop"));
            events.push(usage(7, 3));
            return answer(stream, asked, Reply::Events(events));
        }
    }
    Ok(false)
}
