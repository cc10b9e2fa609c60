//! Models behind OpenAI-compatible endpoints.
//!
//! ```text
//! request   a question as it goes out           sse, reply   an answer put together from what comes
//! call      one request: time-outs, sizes       limit        pace of an origin, waits between tries
//! secret    the key, kept out of all words               embeddings   texts to vectors
//! ```
//!
//! Whatever a server does is an error of the question, never of the run: no word of it is trusted, no size, no time. Answers are
//! streamed where the server can, so that the time to the first token is known.

mod call;
mod embeddings;
mod limit;
mod reply;
mod request;
mod secret;
mod sse;

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use reqwest::Client;
use reqwest::header::HeaderValue;
use tokio::runtime::Runtime;
use tokio::task::block_in_place;

use super::{Answer, Ask, Backend, BackendError, Heard, Listener, Meter};
use crate::domain::address::Address;
use crate::domain::candidate::{Limits, ModelRef, ModelSource};
use crate::domain::keys::{KeyNeed, Keys};
use call::{Times, Trouble};
use limit::{FIRST_WAIT, Limiter, PATIENCE, TRIES, backoff};
use request::{Request, Taken};
use secret::Secret;

/// Requests under way at once, where the model's table says nothing.
const IN_FLIGHT: usize = 8;
/// So many questions in sequence with one error that would be the same for every question: the others get it unasked.
const LASTING: u32 = 4;
/// So many in sequence that could not be asked at all, after some could: the others are tried once each.
const GONE: u32 = 16;
/// Who waits for an answer is asked that often whether he still does.
const BEAT: Duration = Duration::from_millis(250);
/// How long [`probe`] waits.
const PROBE: Duration = Duration::from_secs(3);

/// A model behind an endpoint.
#[derive(Debug)]
pub struct Endpoint {
    /// Its name in `workspace.toml`.
    name: String,
    address: Address,
    /// What the endpoint calls it.
    model: String,
    need: Option<KeyNeed>,
    secret: Secret,
    header: Option<HeaderValue>,
    client: Client,
    limiter: Limiter,
    limits: Limits,
    times: Times,
    first_wait: Duration,
    known: Mutex<Known>,
    meter: Meter,
}

/// What earlier questions taught.
#[derive(Debug, Default)]
struct Known {
    taken: Taken,
    /// A question was answered.
    answered: bool,
    /// The last error that was not of a question, and how many in sequence had it.
    error: String,
    times: u32,
    /// It would be the same for every question.
    lasting: bool,
}

impl Endpoint {
    /// # Errors
    /// An address that is none, a key that is missing or cannot be sent.
    pub fn open(model: &ModelRef, keys: &Keys) -> Result<Self, BackendError> {
        let times = model.limits.timeout.map_or_else(Times::default, |s| Times::all(Duration::from_secs(s)));
        Self::with_times(model, keys, times, FIRST_WAIT)
    }

    fn with_times(
        model: &ModelRef,
        keys: &Keys,
        times: Times,
        first_wait: Duration,
    ) -> Result<Self, BackendError> {
        let fault = |words: String| BackendError(format!("the model `{}`: {words}", model.name));
        let ModelSource::Endpoint { endpoint, model: asked, api_key_env } = &model.source else {
            return Err(fault("it has a path and stands behind no endpoint".into()));
        };
        let address = Address::parse(endpoint).map_err(|why| fault(format!("its endpoint {why}")))?;
        let need = KeyNeed::of(model);
        let key = match (&need, api_key_env) {
            (Some(need), _) => match keys.get(need) {
                Some(key) => Some(key.trim().to_owned()).filter(|key| !key.is_empty()),
                None => return Err(fault(format!("{need} is missing"))),
            },
            (None, _) => None,
        };
        let secret = Secret::new(key);
        let variable = api_key_env.as_deref().unwrap_or_default();
        let header = secret.header().map_err(|why| fault(format!("the value of {variable} {why}")))?;
        let client = client(&address, times.connect).map_err(fault)?;
        Ok(Self {
            name: model.name.clone(),
            limiter: Limiter::of(&address.origin()),
            address,
            model: asked.clone(),
            need,
            secret,
            header,
            client,
            limits: model.limits,
            times,
            first_wait,
            known: Mutex::default(),
            meter: Meter::default(),
        })
    }

    /// Its requests count here, and none goes out that may not.
    pub fn metered(mut self, meter: &Meter) -> Self {
        self.meter = meter.clone();
        self
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One question, as often as it takes.
    async fn one(
        &self,
        ask: &Ask,
        hear: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Answer, BackendError> {
        let said = |words: &str| {
            BackendError(format!("the model `{}` at {}: {words}", self.name, self.address.origin()))
        };
        let request = Request::new(&self.model, ask, self.limits.mask_pii)
            .map_err(|e| BackendError(format!("the model `{}`: {e}", self.name)))?;
        let tries = {
            let known = self.known();
            if known.lasting && known.times >= LASTING {
                let words = format!("{} (not asked again after {} such answers)", known.error, known.times);
                return Err(said(&words));
            }
            // One that never answered, or does not any more, is not waited for again and again.
            let gone = known.times >= if known.answered { GONE } else { 1 };
            if gone { 1 } else { TRIES }
        };
        let per_minute = |n: usize| u32::try_from(n.max(1)).unwrap_or(u32::MAX);
        let every = self.limits.requests_per_minute.map(|n| Duration::from_secs(60) / per_minute(n));
        let (mut tried, mut patience) = (0, PATIENCE);
        let mut waited = Duration::ZERO;
        loop {
            let taken = self.known().taken;
            let turn = tokio::time::Instant::now();
            self.limiter.turn(every).await;
            waited += turn.elapsed();
            if !self.meter.take() {
                return Err(said("it was not asked: no more calls may be made"));
            }
            let asked = tokio::time::Instant::now();
            let trouble = match self.attempt(&request, taken, hear).await {
                Ok(answer) => {
                    let mut known = self.known();
                    *known = Known { taken: known.taken, answered: true, ..Known::default() };
                    return Ok(Answer { waited_ms: waited.as_secs_f64() * 1e3, ..answer });
                }
                Err(trouble) => trouble,
            };
            waited += asked.elapsed();
            match trouble {
                Trouble::Row(words) => return Err(said(&words)),
                Trouble::Lasting(words) => {
                    self.known().failed(&words, true);
                    return Err(said(&words));
                }
                Trouble::Learned(lesson) => {
                    let mut known = self.known();
                    // Another question may have learned in the meantime: no lesson is lost. Each asks for less, so there are few.
                    known.taken = Taken {
                        stream: known.taken.stream && lesson.stream,
                        usage: known.taken.usage && lesson.usage,
                        completion_tokens: known.taken.completion_tokens || lesson.completion_tokens,
                    };
                }
                Trouble::Passing(words, after) => {
                    tried += 1;
                    let own = backoff(self.first_wait, tried, rand::random());
                    let wait = after.map_or(own, |after| after.max(own / 4));
                    if tried >= tries || wait > patience {
                        let words = match after {
                            Some(after) if wait > patience => {
                                format!("{words} (it asks to wait for {} s)", after.as_secs())
                            }
                            _ if tried > 1 => format!("{words} (asked {tried} times)"),
                            _ => words,
                        };
                        self.known().failed(&words, false);
                        return Err(said(&words));
                    }
                    patience -= wait;
                    if after.is_some() {
                        self.limiter.close(wait);
                    }
                    tokio::time::sleep(wait).await;
                    waited += wait;
                }
            }
        }
    }
}

impl Known {
    fn failed(&mut self, words: &str, lasting: bool) {
        let same = self.lasting == lasting && (!lasting || self.error == words);
        self.times = if same { self.times + 1 } else { 1 };
        self.lasting = lasting;
        words.clone_into(&mut self.error);
    }
}

impl Backend for Endpoint {
    fn stream(&mut self, asks: &[Ask], listener: &mut Listener<'_>) -> Vec<Result<Answer, BackendError>> {
        let runtime = match runtime() {
            Ok(runtime) => runtime,
            Err(error) => return asks.iter().map(|_| Err(error.clone())).collect(),
        };
        let (this, listener) = (&*self, RefCell::new(listener));
        let mut answers: Vec<Option<Result<Answer, BackendError>>> = asks.iter().map(|_| None).collect();
        runtime.block_on(async {
            let work = asks.iter().enumerate().map(|(i, ask)| {
                let listener = &listener;
                async move {
                    // A listener may wait for a channel, which a thread inside of a runtime must not.
                    let mut hear =
                        |piece: &str| block_in_place(|| (listener.borrow_mut())(i, Heard::Piece(piece)));
                    let mut one = std::pin::pin!(this.one(ask, &mut hear));
                    let answer = loop {
                        match tokio::time::timeout(BEAT, one.as_mut()).await {
                            Ok(answer) => break answer,
                            Err(_)
                                if block_in_place(|| (listener.borrow_mut())(i, Heard::Waiting))
                                    .is_break() =>
                            {
                                break Err(BackendError("the question was taken back".into()));
                            }
                            Err(_) => {}
                        }
                    };
                    if let Ok(answer) = &answer {
                        let _ = block_in_place(|| (listener.borrow_mut())(i, Heard::Done(answer)));
                    }
                    (i, answer)
                }
            });
            let mut work = std::pin::pin!(stream::iter(work).buffer_unordered(this.width()));
            while let Some((i, answer)) = work.next().await {
                answers[i] = Some(answer);
            }
        });
        let lost = || Err(BackendError("the question was lost".into()));
        answers.into_iter().map(|answer| answer.unwrap_or_else(lost)).collect()
    }

    fn width(&self) -> usize {
        self.limits.max_in_flight.unwrap_or(IN_FLIGHT).max(1)
    }
}

/// One for all endpoints of the process. Its own thread keeps connections while nobody asks.
fn runtime() -> Result<&'static Runtime, BackendError> {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    let build = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).thread_name("endpoints").enable_all().build().ok()
    };
    let failed = || BackendError("no thread could be started to ask endpoints".into());
    RUNTIME.get_or_init(build).as_ref().ok_or_else(failed)
}

/// Follows no redirection: a key goes to its origin and nowhere else.
fn client(address: &Address, connect: Duration) -> Result<Client, String> {
    let mut builder = Client::builder()
        .user_agent(concat!("tunebench/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(connect);
    if address.is_loopback() {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|e| format!("no connection can be set up: {}", call::chain(&e)))
}

/// Asks an endpoint for its models. Returns how many it has, and whether `model` is one of them.
///
/// # Errors
/// Why it does not answer, in words.
pub fn probe(address: &Address, key: Option<String>, model: &str) -> Result<(usize, bool), String> {
    let secret = Secret::new(key);
    let header = secret.header().map_err(|why| format!("the key {why}"))?;
    let client = client(address, PROBE)?;
    let mut get = client.get(address.below("models")).timeout(PROBE);
    if let Some(header) = header {
        get = get.header(reqwest::header::AUTHORIZATION, header);
    }
    let runtime = runtime().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let response = get.send().await.map_err(|e| secret.line(&call::chain(&e.without_url())))?;
        let status = response.status();
        if !status.is_success() {
            return Err(format!("it answered {status}"));
        }
        let mut body = Vec::new();
        let mut chunks = response.bytes_stream();
        while let Some(Ok(chunk)) = chunks.next().await {
            body.extend_from_slice(&chunk);
            if body.len() > 4 << 20 {
                break;
            }
        }
        let list: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let Some(models) = list.get("data").and_then(|data| data.as_array()) else {
            return Err("it answered with no list of models".into());
        };
        let has = models.iter().any(|m| m.get("id").and_then(|id| id.as_str()) == Some(model));
        Ok((models.len(), has))
    })
}

#[cfg(test)]
mod tests;
