//! Vectors of texts by an endpoint's `/embeddings`, as OpenAI's servers have it.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use reqwest::StatusCode;
use reqwest::header::AUTHORIZATION;
use serde::Deserialize;
use tokio::time::timeout;

use super::call::{Trouble, chain};
use super::limit::{PATIENCE, TRIES, backoff, retry_after};
use super::reply::error_text;
use super::{BEAT, BackendError, Endpoint, runtime};

/// Texts of a request.
const TEXTS: usize = 64;
/// Bytes of an answer: a vector of 4,096 numbers takes some 90 kB as JSON.
const BODY_MAX: usize = 64 << 20;

#[derive(Deserialize)]
struct Body {
    data: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    index: Option<usize>,
    embedding: Vec<f32>,
}

impl Endpoint {
    /// One vector for each text, in their order; all of one length. `waits` is asked, while nothing comes, whether somebody still waits for
    /// them; none where nobody does.
    ///
    /// # Errors
    /// The first request that failed, in words; a server that answers with something else.
    pub fn embeddings(
        &self,
        texts: &[&str],
        waits: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Vec<Vec<f32>>>, BackendError> {
        let fault = |words: &str| BackendError(format!("the model `{}`: {words}", self.name));
        if self.limits.mask_pii {
            return Err(fault(
                "mask_pii is set, and vectors of masked texts would say something else; embed by another model",
            ));
        }
        runtime()?.block_on(async {
            let width = self.limits.max_in_flight.unwrap_or(super::IN_FLIGHT).max(1);
            let work = stream::iter(texts.chunks(TEXTS)).map(|texts| self.embed(texts)).buffered(width);
            let mut work = std::pin::pin!(work);
            let mut all: Vec<Vec<f32>> = Vec::with_capacity(texts.len());
            loop {
                let found = match timeout(BEAT, work.next()).await {
                    Ok(Some(found)) => found?,
                    Ok(None) => return Ok(Some(all)),
                    Err(_) if waits() => continue,
                    Err(_) => return Ok(None),
                };
                all.extend(found);
                if all.first().is_some_and(|first| all.last().is_some_and(|last| first.len() != last.len())) {
                    return Err(fault("its vectors have different lengths"));
                }
            }
        })
    }

    /// One request, as often as it takes.
    async fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, BackendError> {
        let said = |words: &str| {
            BackendError(format!("the model `{}` at {}: {words}", self.name, self.address.origin()))
        };
        let per_minute = |n: usize| u32::try_from(n.max(1)).unwrap_or(u32::MAX);
        let every = self.limits.requests_per_minute.map(|n| Duration::from_secs(60) / per_minute(n));
        let (mut tried, mut patience) = (0, PATIENCE);
        loop {
            self.limiter.turn(every).await;
            let (words, after) = match self.embed_once(texts).await {
                Ok(vectors) => return Ok(vectors),
                Err(Trouble::Passing(words, after)) => (words, after),
                Err(Trouble::Row(words) | Trouble::Lasting(words)) => return Err(said(&words)),
                Err(Trouble::Learned(_)) => return Err(said("it refused the request")),
            };
            tried += 1;
            let own = backoff(self.first_wait, tried, rand::random());
            let wait = after.map_or(own, |after| after.max(own / 4));
            if tried >= TRIES || wait > patience {
                return Err(said(&format!("{words} (asked {tried} times)")));
            }
            patience -= wait;
            if after.is_some() {
                self.limiter.close(wait);
            }
            tokio::time::sleep(wait).await;
        }
    }

    async fn embed_once(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, Trouble> {
        let asked = serde_json::json!({ "model": self.model, "input": texts, "encoding_format": "float" });
        let mut post = self.client.post(self.address.below("embeddings")).json(&asked);
        if let Some(header) = &self.header {
            post = post.header(AUTHORIZATION, header.clone());
        }
        // A slow server is not given more to do.
        let late = || Trouble::Row(format!("no answer came within {} s", self.times.first.as_secs()));
        let line = |words: &str| self.secret.line(words);
        let exchange = async {
            let unreachable = |e: reqwest::Error| {
                Trouble::Passing(line(&format!("it cannot be reached: {}", chain(&e.without_url()))), None)
            };
            let mut response = post.send().await.map_err(unreachable)?;
            let (status, after) =
                (response.status(), response.headers().get(reqwest::header::RETRY_AFTER).cloned());
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
                body.extend_from_slice(&chunk);
                if body.len() > BODY_MAX {
                    let words = format!("an answer of at most {} MiB was expected", BODY_MAX >> 20);
                    return Err(Trouble::Lasting(words));
                }
            }
            if status == StatusCode::OK {
                return Ok(body);
            }
            let text = error_text(&body).unwrap_or_else(|| String::from_utf8_lossy(&body).into_owned());
            let words = format!("it answered {status}: {}", line(&text));
            Err(match status.as_u16() {
                429 | 500 | 502 | 503 | 504 => {
                    let after = after
                        .and_then(|value| retry_after(value.to_str().ok()?, std::time::SystemTime::now()));
                    Trouble::Passing(words, after)
                }
                404 => Trouble::Lasting(format!(
                    "{words}; is its address right (does it end in /v1?), and has it embeddings by `{}`?",
                    self.model
                )),
                _ => Trouble::Lasting(words),
            })
        };
        let body = timeout(self.times.first, exchange).await.map_err(|_| late())??;
        vectors(&body, texts.len()).map_err(|words| Trouble::Lasting(line(&words)))
    }
}

/// The vectors of an answer, in the order of the texts.
fn vectors(body: &[u8], n: usize) -> Result<Vec<Vec<f32>>, String> {
    let expected = "a list `data` of objects with `embedding` was expected";
    let body: Body = serde_json::from_slice(body).map_err(|e| format!("{expected}: {e}"))?;
    if body.data.len() != n {
        return Err(format!("{n} vectors were expected, and {} came", body.data.len()));
    }
    let mut found: Vec<Option<Vec<f32>>> = vec![None; n];
    for (at, item) in body.data.into_iter().enumerate() {
        let at = item.index.unwrap_or(at);
        if item.embedding.is_empty() || item.embedding.iter().any(|x| !x.is_finite()) {
            return Err(format!("vector {at} is empty or no list of finite numbers"));
        }
        match found.get_mut(at) {
            Some(place @ None) => *place = Some(item.embedding),
            _ => {
                return Err(format!(
                    "the vectors' numbers are not those of the texts: {at} stands twice or is none of {n}"
                ));
            }
        }
    }
    Ok(found.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_come_in_the_order_of_the_texts_or_not_at_all() {
        let swapped = br#"{"data": [{"index": 1, "embedding": [0, 1]}, {"index": 0, "embedding": [1, 0]}], "usage": {}}"#;
        assert_eq!(vectors(swapped, 2).unwrap(), [[1.0, 0.0], [0.0, 1.0]]);
        let plain = br#"{"data": [{"embedding": [1]}, {"embedding": [2]}]}"#;
        assert_eq!(vectors(plain, 2).unwrap(), [[1.0], [2.0]]);
        for wrong in [
            &b"{}"[..],
            b"[]",
            b"\xff",
            br#"{"data": [{"embedding": [1]}]}"#,
            br#"{"data": [{"index": 0, "embedding": [1]}, {"index": 0, "embedding": [1]}]}"#,
            br#"{"data": [{"index": 0, "embedding": [1]}, {"index": 7, "embedding": [1]}]}"#,
            br#"{"data": [{"embedding": []}, {"embedding": [1]}]}"#,
            br#"{"data": [{"embedding": [1e300]}, {"embedding": [1]}]}"#,
            br#"{"data": [{"embedding": "AAAA"}, {"embedding": [1]}]}"#,
        ] {
            assert!(vectors(wrong, 2).is_err(), "{}", String::from_utf8_lossy(wrong));
        }
    }
}
