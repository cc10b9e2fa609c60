//! From a request to its reply: read, asked, and answered whole or in a stream.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Json, Response};
use futures_util::stream;
use rand::Rng as _;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::error::ApiError;
use super::listen::Counted;
use super::reply::{DONE, Head, Usage, event};
use super::request::{Api, Wanted, read};
use super::{App, BODY, BODY_PATIENCE, Offer, now, tools};
use crate::backend::resident::{Event, Refused};
use crate::backend::{Answer, Ask, BackendError, Prompt};

/// Answers a request. When the client goes, this is dropped, and with it the question.
pub async fn answer(app: Arc<App>, api: Api, request: Request) -> Result<Response, ApiError> {
    // First counted, then looked at the door: a server that stops waits for whoever came in.
    let counted = Counted::new(&app.under_way);
    if let Some(closed) = app.closed() {
        return Err(closed);
    }
    let body = body(request).await?;
    let seed = rand::rng().random();
    let wanted = spawn_blocking(move || read(api, &body, seed)).await.map_err(internal)??;
    let offer = app.offer(&wanted.model)?.clone();
    let Wanted { asks, samples, stream, include_usage, model } = wanted;
    let asks = check(&offer, api, asks, samples).await?;
    let first = &asks[0];
    let (with_logprobs, with_tools) = (first.logprobs.is_some(), !first.tools.is_empty());
    let id: u128 = rand::rng().random();
    let prefix = if api == Api::Chat { "chatcmpl" } else { "cmpl" };
    let head = Head {
        api,
        id: format!("{prefix}-{id:032x}"),
        created: now(),
        model,
        fingerprint: offer.fingerprint.clone(),
        samples,
    };
    let answers = offer.answerer.submit_all(asks).map_err(refused)?;
    // What a question may look like was judged before.
    let failed = |error: BackendError| ApiError::failed(error.0);
    if !stream {
        let mut whole = Vec::new();
        for from in answers {
            whole.push(finished(from, with_tools).await.map_err(failed)?);
        }
        return Ok(Json(head.whole(&whole, with_logprobs)).into_response());
    }
    let mut merged = merge(answers);
    // So that a question that cannot be answered is an error in the ordinary way.
    let first = match merged.recv().await {
        Some((_, Event::Failed(error))) => return Err(failed(error)),
        Some(first) => first,
        None => return Err(ApiError::failed("the model is gone")),
    };
    let mut parts = Parts::new(head, with_tools, include_usage, merged, counted);
    parts.take(first);
    let body = Body::from_stream(stream::unfold(parts, |mut parts| async move {
        let part = parts.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(part)), parts))
    }));
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

async fn body(request: Request) -> Result<Bytes, ApiError> {
    let declared =
        request.headers().get(header::CONTENT_LENGTH).and_then(|n| n.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|n| n > BODY) {
        return Err(ApiError::too_large(BODY));
    }
    match timeout(BODY_PATIENCE, axum::body::to_bytes(request.into_body(), BODY)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) => {
            // The limit is told from a cut body by its source alone.
            let too_large =
                std::error::Error::source(&error).is_some_and(|e| e.to_string().contains("limit"));
            Err(if too_large {
                ApiError::too_large(BODY)
            } else {
                ApiError::bad_request("the body broke off")
            })
        }
        Err(_) => Err(ApiError::timeout()),
    }
}

/// What the model can be asked: turns only with a template, tools only where the template knows them, prompts that fit.
async fn check(offer: &Offer, api: Api, asks: Vec<Ask>, samples: usize) -> Result<Vec<Ask>, ApiError> {
    let reader = offer.answerer.reader.clone();
    let param = if api == Api::Chat { "messages" } else { "prompt" };
    let judge = move || {
        let told = asks.first().is_some_and(|ask| {
            let Prompt::Chat(turns) = &ask.prompt else { return false };
            !ask.tools.is_empty()
                || turns.iter().any(|turn| turn.role == "tool" || !turn.tool_calls.is_empty())
        });
        if told && !reader.knows_tools() {
            let message = "the chat template of this model knows no tools; send none, or `tool_choice` none";
            return Err(ApiError::unsupported("tools", message));
        }
        if let Some(ask) = asks.first() {
            reader.check_form(ask).map_err(|e| ApiError::invalid("response_format", e.to_string()))?;
        }
        for ask in asks.iter().step_by(samples.max(1)) {
            let tokens = reader.count(ask).map_err(|e| ApiError::invalid(param, e.to_string()))?;
            if tokens >= reader.context {
                return Err(ApiError::too_long(param, tokens, reader.context));
            }
            if tokens == 0 {
                return Err(ApiError::invalid(
                    param,
                    "the prompt is empty, and this model begins with no token of its own",
                ));
            }
        }
        Ok(asks)
    };
    spawn_blocking(judge).await.map_err(internal)?
}

fn internal(error: tokio::task::JoinError) -> ApiError {
    ApiError::failed(format!("internal error: {error}"))
}

fn refused(why: Refused) -> ApiError {
    match why {
        Refused::Full(_) => ApiError::full(why.to_string()),
        Refused::Closing => ApiError::unavailable(why.to_string()),
        Refused::NoLane(_) | Refused::Broken(_) => ApiError::failed(why.to_string()),
    }
}

/// The whole answer.
async fn finished(mut from: UnboundedReceiver<Event>, with_tools: bool) -> Result<Answer, BackendError> {
    while let Some(event) = from.recv().await {
        match event {
            Event::Text { .. } => {}
            Event::Finished(answer) => return Ok(with_calls(*answer, with_tools)),
            Event::Failed(error) => return Err(error),
        }
    }
    Err(BackendError("the model is gone".into()))
}

fn with_calls(mut answer: Answer, with_tools: bool) -> Answer {
    if with_tools && answer.tool_calls.is_empty() {
        (answer.text, answer.tool_calls) = tools::split(&answer.text);
    }
    answer
}

/// Events of several answers in one line. When it is dropped, so are they.
fn merge(answers: Vec<UnboundedReceiver<Event>>) -> UnboundedReceiver<(usize, Event)> {
    let (to, merged) = unbounded_channel();
    for (index, mut from) in answers.into_iter().enumerate() {
        let to = to.clone();
        tokio::spawn(async move {
            loop {
                let event = tokio::select! {
                    event = from.recv() => event,
                    () = to.closed() => return,
                };
                let Some(event) = event else { return };
                if to.send((index, event)).is_err() {
                    return;
                }
            }
        });
    }
    merged
}

/// A stream's parts, made as they are taken.
struct Parts {
    head: Head,
    with_tools: bool,
    include_usage: bool,
    from: UnboundedReceiver<(usize, Event)>,
    /// Ready to go out.
    ready: VecDeque<String>,
    /// Characters and tokens told of each answer; none before its first.
    told: Vec<Option<(usize, usize)>>,
    usage: Usage,
    ended: bool,
    _counted: Counted,
}

impl Parts {
    fn new(
        head: Head,
        with_tools: bool,
        include_usage: bool,
        from: UnboundedReceiver<(usize, Event)>,
        counted: Counted,
    ) -> Self {
        Self {
            head,
            with_tools,
            include_usage,
            from,
            ready: VecDeque::new(),
            told: Vec::new(),
            usage: Usage::default(),
            ended: false,
            _counted: counted,
        }
    }

    async fn next(&mut self) -> Option<String> {
        while self.ready.is_empty() && !self.ended {
            match self.from.recv().await {
                Some(event) => self.take(event),
                None => self.end(),
            }
        }
        self.ready.pop_front()
    }

    fn take(&mut self, (index, event_of_model): (usize, Event)) {
        if self.told.len() <= index {
            self.told.resize(index + 1, None);
        }
        if self.told[index].is_none() && !matches!(event_of_model, Event::Failed(_)) {
            self.told[index] = Some((0, 0));
            self.ready.extend(self.head.opening(index).map(|part| event(&part)));
        }
        let (characters, tokens_told) = self.told[index].unwrap_or_default();
        match event_of_model {
            // Whether it is a call of a tool is known at its end.
            Event::Text { .. } if self.with_tools => {}
            Event::Text { text, tokens } => {
                self.ready.push_back(event(&self.head.piece(index, &text, &tokens, characters)));
                self.told[index] = Some((characters + text.chars().count(), tokens_told + tokens.len()));
            }
            Event::Finished(answer) => {
                self.usage.add(index, self.head.samples, &answer);
                let answer = with_calls(*answer, self.with_tools);
                if self.with_tools && !answer.text.is_empty() {
                    self.ready.push_back(event(&self.head.piece(index, &answer.text, &[], 0)));
                }
                let rest = answer.logprobs.get(tokens_told..).unwrap_or_default();
                self.ready.push_back(event(&self.head.closing(index, &answer, rest)));
            }
            Event::Failed(error) => {
                // The status is out already: the stream ends with the error and without its last word.
                self.ready.push_back(event(&ApiError::failed(error.0).body()));
                self.ended = true;
            }
        }
    }

    fn end(&mut self) {
        if self.include_usage {
            self.ready.push_back(event(&self.head.usage(self.usage)));
        }
        self.ready.push_back(DONE.to_owned());
        self.ended = true;
    }
}
