//! One request to an endpoint and its answer: time-outs, sizes, and what to do about what comes.

use std::error::Error as _;
use std::ops::ControlFlow;
use std::time::{Duration, SystemTime};

use reqwest::header::{CONTENT_TYPE, HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use tokio::time::{Instant, timeout_at};

use super::limit::retry_after;
use super::reply::{Fault, Reply, error_text};
use super::request::Request;
use super::sse::{Events, TooLong};
use super::{Endpoint, Taken};
use crate::backend::replace::Replacer;
use crate::backend::{Answer, Finish, TokenLogprob};

/// How long a server may take.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// To take a connection.
    pub connect: Duration,
    /// To the first piece of an answer: the server may have a queue.
    pub first: Duration,
    /// Between two pieces.
    pub idle: Duration,
    /// From the request to the end of a whole answer, which comes in one piece.
    pub whole: Duration,
    /// From the request to the end of the answer.
    pub total: Duration,
}

impl Times {
    /// A person's own limit: on every time in which nothing comes.
    pub fn all(limit: Duration) -> Self {
        let usual = Self::default();
        Self {
            connect: usual.connect.min(limit),
            first: limit,
            idle: limit,
            whole: limit,
            total: usual.total.max(limit),
        }
    }
}

impl Default for Times {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            first: Duration::from_secs(180),
            idle: Duration::from_secs(60),
            whole: Duration::from_secs(600),
            total: Duration::from_secs(600),
        }
    }
}

/// All bytes of one answer: with log-probabilities a token takes some thousand.
const BODY_MAX: usize = 64 << 20;
/// Bytes of an error's body that are read.
const ERROR_MAX: usize = 16 << 10;
/// Bytes of text that an answer may have beyond those of its tokens, and by token: long runs of spaces are one.
const TEXT_SPARE: usize = 4 << 10;
const TOKEN_MAX: usize = 256;
/// An estimate, where a server does not count: bytes of a token.
const BYTES_PER_TOKEN: usize = 4;

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// May be gone in a while; the server may say in what time.
    Passing(String, Option<Duration>),
    /// The server does not take a parameter of ours; asked without it, it may answer.
    Learned(Taken),
    /// It would be the same for every question.
    Lasting(String),
    /// Of this question only.
    Row(String),
}

/// Gets the text as it comes.
pub(super) type Hear<'a> = dyn FnMut(&str) -> ControlFlow<()> + 'a;

impl Endpoint {
    /// Ask once.
    pub(super) async fn attempt(
        &self,
        request: &Request,
        taken: Taken,
        hear: &mut Hear<'_>,
    ) -> Result<Answer, Trouble> {
        let began = Instant::now();
        // A whole answer has no first piece.
        let end =
            began + if taken.stream { self.times.total } else { self.times.whole.min(self.times.total) };
        let first = if taken.stream { (began + self.times.first).min(end) } else { end };
        let mut post = self.client.post(self.address.below(request.path)).json(&request.body(taken));
        if let Some(header) = &self.header {
            post = post.header(reqwest::header::AUTHORIZATION, header.clone());
        }
        let response = match timeout_at(first, post.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(self.unreachable(error)),
            Err(_) => return Err(late("first piece", began)),
        };
        if response.status() != StatusCode::OK {
            return Err(self.refusal(response, request, taken, end).await);
        }
        let streamed = match content_type(response.headers()).as_deref() {
            Some("text/event-stream") => true,
            Some("application/json") => false,
            None => taken.stream,
            Some(other) => {
                let expected = if taken.stream { "text/event-stream" } else { "application/json" };
                let came = self.body_start(response, end).await;
                return Err(Trouble::Row(format!("{expected} was expected, and {other} came: {came}")));
            }
        };
        let most = TEXT_SPARE + TOKEN_MAX.saturating_mul(request.max_tokens()).min(BODY_MAX);
        let mut reading = Reading {
            endpoint: self,
            reply: Reply::default(),
            out: Replacer::new(self.secret.pairs().chain(request.mask.pairs().iter().cloned())),
            text: String::new(),
            most,
            began,
            ttft: None,
        };
        let finish = reading.read(response, streamed, end, first, hear).await?;
        Ok(reading.answer(request, finish))
    }

    /// The connection failed before the server had answered.
    fn unreachable(&self, error: reqwest::Error) -> Trouble {
        let why = chain(&error.without_url());
        Trouble::Passing(self.secret.line(&format!("it cannot be reached: {why}")), None)
    }

    /// A status other than 200.
    async fn refusal(&self, response: Response, request: &Request, taken: Taken, end: Instant) -> Trouble {
        let status = response.status();
        let after = wait_asked(response.headers());
        if status.is_redirection() {
            let to = response.headers().get(LOCATION).and_then(|v| v.to_str().ok()).unwrap_or("nowhere");
            return Trouble::Lasting(format!(
                "it sends on to {} ({status}), and nothing is sent elsewhere; write that address if it is right",
                self.secret.line(to)
            ));
        }
        let body = self.first_bytes(response, end).await;
        let text = error_text(&body).unwrap_or_else(|| shown(&body));
        let said = self.secret.line(&text);
        let words = if said.is_empty() {
            format!("it answered {status}")
        } else {
            format!("it answered {status}: {said}")
        };
        match status.as_u16() {
            429 if text.contains("insufficient_quota") => Trouble::Lasting(words),
            429 | 500 | 502 | 503 | 504 => Trouble::Passing(words, after),
            400 | 422 => match lesson(taken, &text) {
                Some(lesson) => Trouble::Learned(lesson),
                None => match request.named_in(&text)[..] {
                    [] => Trouble::Row(words),
                    [name, ..] => Trouble::Row(format!(
                        "{words}; the server does not take `{name}` as the question sets it: leave it out, or use a server that knows it"
                    )),
                },
            },
            401 | 403 => Trouble::Lasting(match (&self.need, self.secret.is_some()) {
                (Some(need), true) => format!("{words}; is the key in {} the right one?", need.variable),
                _ => format!("{words}; name the variable with its key, api_key_env = \"NAME\""),
            }),
            404 => Trouble::Lasting(format!(
                "{words}; is its address right (does it end in /v1?), and has it a model `{}`?",
                self.model
            )),
            405 => Trouble::Lasting(format!("{words}; is its address right?")),
            _ => Trouble::Row(words),
        }
    }

    async fn body_start(&self, response: Response, end: Instant) -> String {
        let body = self.first_bytes(response, end).await;
        let line = self.secret.line(&shown(&body));
        if line.is_empty() { "nothing".into() } else { line }
    }

    /// As much of a body as an error shows; less where it does not come.
    async fn first_bytes(&self, mut response: Response, end: Instant) -> Vec<u8> {
        let mut body = Vec::new();
        while body.len() < ERROR_MAX {
            let until = (Instant::now() + self.times.idle).min(end);
            match timeout_at(until, response.chunk()).await {
                Ok(Ok(Some(chunk))) => {
                    body.extend_from_slice(&chunk[..chunk.len().min(ERROR_MAX - body.len())]);
                }
                _ => break,
            }
        }
        body
    }
}

/// An answer on its way.
struct Reading<'a> {
    endpoint: &'a Endpoint,
    reply: Reply,
    /// Takes the key out, and puts back what placeholders stand for.
    out: Replacer,
    text: String,
    /// Bytes of text.
    most: usize,
    began: Instant,
    ttft: Option<Duration>,
}

impl Reading<'_> {
    async fn read(
        &mut self,
        mut response: Response,
        streamed: bool,
        end: Instant,
        first: Instant,
        hear: &mut Hear<'_>,
    ) -> Result<Finish, Trouble> {
        let (mut events, mut whole, mut bytes, mut done) = (Events::default(), Vec::new(), 0, false);
        // When the last event came. Comments are none: a server may keep a dead stream open with them.
        let mut last: Option<Instant> = None;
        while !done {
            let (until, awaited) = match (streamed, last) {
                (true, None) => (first, "first piece"),
                (true, Some(last)) => ((last + self.endpoint.times.idle).min(end), "next piece"),
                (false, _) => (end, "rest"),
            };
            let chunk = match timeout_at(until, response.chunk()).await {
                Ok(Ok(Some(chunk))) if Instant::now() < until => chunk,
                Ok(Ok(Some(_))) | Err(_) => return Err(late(awaited, self.began)),
                Ok(Ok(None)) => break,
                Ok(Err(error)) => return Err(self.cut(&chain(&error.without_url()))),
            };
            bytes += chunk.len();
            if bytes > BODY_MAX {
                return Err(self.row(&format!("an answer of at most {} MiB was expected", BODY_MAX >> 20)));
            }
            if !streamed {
                whole.extend_from_slice(&chunk);
                continue;
            }
            let ready = events
                .push(&chunk)
                .map_err(|TooLong| self.row("events were expected, and one without end came"))?;
            for event in ready {
                last = Some(Instant::now());
                if event.trim_ascii() == b"[DONE]" {
                    done = true;
                    break;
                }
                if self.event(&event, hear)?.is_break() {
                    return Ok(Finish::Broken);
                }
            }
        }
        let rest = if streamed { events.finish().filter(|_| !done) } else { Some(whole) };
        match rest {
            Some(rest) if rest.trim_ascii() == b"[DONE]" => done = true,
            // The last event of a stream that was cut is no event.
            Some(rest) if streamed && serde_json::from_slice::<serde::de::IgnoredAny>(&rest).is_err() => {}
            Some(rest) if self.event(&rest, hear)?.is_break() => return Ok(Finish::Broken),
            Some(_) | None => {}
        }
        let finish = self.reply.ending(done || !streamed).map_err(|fault| match fault {
            Fault::Wrong(words) if streamed && !self.reply.has_ended() && !done => self.cut(&words),
            fault => self.fault(fault, b""),
        })?;
        let rest = self.out.finish();
        self.text.push_str(&rest);
        if !rest.is_empty() && hear(&rest).is_break() {
            return Ok(Finish::Broken);
        }
        Ok(finish)
    }

    fn event(&mut self, event: &[u8], hear: &mut Hear<'_>) -> Result<ControlFlow<()>, Trouble> {
        let new = self.reply.take(event, self.most).map_err(|fault| self.fault(fault, event))?;
        if self.ttft.is_none() && self.reply.has_begun() {
            self.ttft = Some(self.began.elapsed());
        }
        let piece = self.out.push(&new);
        if piece.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        self.text.push_str(&piece);
        Ok(hear(&piece))
    }

    /// The connection ended. Nothing was lost where nothing had come.
    fn cut(&self, why: &str) -> Trouble {
        if self.reply.has_begun() {
            return self.row(&format!("the answer was cut off after {} bytes: {why}", self.reply.text.len()));
        }
        Trouble::Passing(
            self.endpoint.secret.line(&format!("the answer was cut off before its first piece: {why}")),
            None,
        )
    }

    fn row(&self, words: &str) -> Trouble {
        Trouble::Row(self.endpoint.secret.line(words))
    }

    fn fault(&self, fault: Fault, bytes: &[u8]) -> Trouble {
        let line = |words: &str| self.endpoint.secret.line(words);
        match fault {
            Fault::Strange(expected) => {
                let came = line(&shown(bytes));
                let came = if came.is_empty() { "nothing" } else { &came };
                Trouble::Row(format!("{}, and this came: {came}", line(&expected)))
            }
            Fault::Error(said) => Trouble::Row(format!("it answered 200 with an error: {}", line(&said))),
            Fault::Wrong(words) => Trouble::Row(line(&words)),
        }
    }

    fn answer(self, request: &Request, finish: Finish) -> Answer {
        let elapsed = self.began.elapsed();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let pairs = self.endpoint.secret.pairs().chain(request.mask.pairs().iter().cloned());
        let mut back = Replacer::new(pairs);
        let tool_calls = self.reply.tool_calls(|arguments| back.whole(arguments));
        // Tokens are too short to take a key out of.
        let said = |(key, _): (String, String)| {
            let of_token =
                |t: &TokenLogprob| t.text.contains(&key) || t.top.iter().any(|(text, _)| text.contains(&key));
            self.reply.text.contains(&key) || self.reply.logprobs.iter().any(of_token)
        };
        let logprobs = if self.endpoint.secret.pairs().any(said) { Vec::new() } else { self.reply.logprobs };
        let tokens = |bytes: usize| bytes.div_ceil(BYTES_PER_TOKEN) as u64;
        let (tokens_in, tokens_out) =
            self.reply.usage.unwrap_or_else(|| (tokens(request.bytes), tokens(self.reply.text.len())));
        Answer {
            text: self.text,
            tokens_in,
            tokens_out,
            estimated: self.reply.usage.is_none(),
            ttft_ms: ms(self.ttft.unwrap_or(elapsed)),
            ms: ms(elapsed),
            finish,
            logprobs,
            tool_calls,
            masked: request.mask.pieces(),
            ..Answer::default()
        }
    }
}

/// A piece of an answer that did not come.
fn late(awaited: &str, began: Instant) -> Trouble {
    let seconds = began.elapsed().as_secs_f64();
    Trouble::Row(format!(
        "the {awaited} of an answer was expected, and did not come in time ({seconds:.0} s after the question)"
    ))
}

/// `text/event-stream` of `text/event-stream; charset=utf-8`.
fn content_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().unwrap_or("an unreadable type");
    let plain = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    Some(plain.chars().take(80).collect())
}

/// How long a server asks to be left alone.
fn wait_asked(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let ms = text("retry-after-ms").and_then(|v| v.trim().parse::<u64>().ok()).map(Duration::from_millis);
    ms.or_else(|| retry_after(text(RETRY_AFTER.as_str())?, SystemTime::now()))
}

/// What came, as text; of a page only its title.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let start = text.trim_start().get(..15).unwrap_or_default().to_ascii_lowercase();
    if !start.starts_with("<!doctype html") && !start.starts_with("<html") {
        return text.into_owned();
    }
    let title =
        text.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>")).map(|(title, _)| title);
    match title {
        Some(title) => format!("an HTML page, \"{}\"", title.trim()),
        None => "an HTML page".into(),
    }
}

/// An error with its causes.
pub(super) fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

/// What a refusal teaches: a parameter of ours that it names.
fn lesson(taken: Taken, text: &str) -> Option<Taken> {
    if taken.stream && taken.usage && text.contains("stream_options") {
        return Some(Taken { usage: false, ..taken });
    }
    if !taken.completion_tokens && text.contains("max_completion_tokens") {
        return Some(Taken { completion_tokens: true, ..taken });
    }
    // Not `upstream`.
    let lower = text.to_ascii_lowercase();
    let named = |(at, _): (usize, &str)| !lower[..at].ends_with(|c: char| c.is_alphanumeric());
    if taken.stream && lower.match_indices("stream").any(named) {
        return Some(Taken { stream: false, ..taken });
    }
    None
}
