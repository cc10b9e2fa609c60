//! The response cache: a backend in front of another one that remembers its answers by everything that decides them.
//!
//! Greedy answers are remembered always; sampled ones are told apart by seed and sample number. Errors and answers that were broken off
//! are not remembered. Nothing here can fail a question: where the cache cannot be used, the model is asked.

mod segments;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Answer, Ask, Backend, BackendError, Finish, Heard, Listener};
use crate::domain::candidate::{AdapterRef, ModelRef, ModelSource};
use crate::domain::settings::CachePlace;
use crate::model::chat::ChatTemplate;
pub use segments::{Cache, Key, Survey, clear, repair, survey};

/// Part of every key: an answer that another version would have given differently is not found any more. Raise it when that happens.
const FORMAT: &str = "tunebench answers 1";

/// Longer answers are not kept.
const LONGEST: usize = 1 << 20;

/// A backend behind the cache.
pub struct Cached {
    inner: Box<dyn Backend>,
    cache: Arc<Cache>,
    /// Hashed into every key: the model, the adapter, whether personal data is masked.
    identity: String,
    /// The chat template prints the date, so that the same question is another one tomorrow.
    dated: bool,
    fresh: bool,
}

impl Cached {
    /// `inner`, which is this model with this adapter, behind the cache of `place`; `inner` itself where that cannot be opened.
    pub fn wrap(
        inner: Box<dyn Backend>,
        model: &ModelRef,
        adapter: Option<&AdapterRef>,
        place: &CachePlace,
    ) -> Box<dyn Backend> {
        match Cache::open(place) {
            Ok(cache) => Box::new(Self::new(inner, model, adapter, cache)),
            Err(error) => {
                tracing::warn!("no response cache: {}: {error}", place.dir.display());
                inner
            }
        }
    }

    fn new(
        inner: Box<dyn Backend>,
        model: &ModelRef,
        adapter: Option<&AdapterRef>,
        cache: Arc<Cache>,
    ) -> Self {
        let adapter = adapter.map_or("", |a| a.hash.as_str());
        let mut identity = format!("{FORMAT}\n{}\n{adapter}\n{}", model.hash, model.limits.mask_pii);
        if !inner.variant().is_empty() {
            identity += &format!("\n{}", inner.variant());
        }
        let dated = match &model.source {
            ModelSource::Local { path } => {
                ChatTemplate::load(Path::new(path)).ok().flatten().is_some_and(|t| t.is_dated())
            }
            ModelSource::Endpoint { .. } => false,
        };
        Self { inner, cache, identity, dated, fresh: false }
    }

    /// BLAKE3 of the identity and of the whole question as JSON, cut to 16 bytes.
    fn key(&self, ask: &Ask) -> Option<Key> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.identity.as_bytes());
        if self.dated {
            let days =
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400);
            hasher.update(&days.to_le_bytes());
        }
        hasher.update(b"\n");
        serde_json::to_writer(&mut hasher, ask).ok()?;
        hasher.finalize().as_bytes().first_chunk().copied()
    }
}

impl Backend for Cached {
    fn stream(&mut self, asks: &[Ask], listener: &mut Listener<'_>) -> Vec<Result<Answer, BackendError>> {
        let keys: Vec<Option<Key>> = asks.iter().map(|ask| self.key(ask)).collect();
        let mut answers: Vec<Option<Result<Answer, BackendError>>> = asks.iter().map(|_| None).collect();
        // Questions to ask, and those that repeat one of them.
        let mut open: Vec<usize> = Vec::new();
        let mut repeats: Vec<(usize, usize)> = Vec::new();
        if self.fresh {
            open.extend(0..asks.len());
        } else {
            self.cache.refresh();
            let mut first: HashMap<Key, usize> = HashMap::new();
            for (i, key) in keys.iter().enumerate() {
                let found = key.as_ref().and_then(|key| self.cache.get(key));
                if let Some(answer) = found.and_then(|json| serde_json::from_slice::<Answer>(&json).ok()) {
                    let answer = Answer { cached: true, ..answer };
                    say(listener, i, &answer);
                    answers[i] = Some(Ok(answer));
                    continue;
                }
                match key.and_then(|key| first.get(&key).copied()) {
                    Some(place) => repeats.push((i, place)),
                    None => {
                        first.extend(key.map(|key| (key, open.len())));
                        open.push(i);
                    }
                }
            }
        }

        let cache = &self.cache;
        // Each answer is kept as it ends: a kill in the middle of a batch loses none that was paid for.
        let mut hear = |at: usize, heard: Heard<'_>| {
            let i = open.get(at).copied().unwrap_or(at);
            if let (Heard::Done(answer), Some(Some(key))) = (heard, keys.get(i)) {
                keep(cache, *key, answer);
            }
            listener(i, heard)
        };
        let got = if open.len() == asks.len() {
            self.inner.stream(asks, &mut hear)
        } else if open.is_empty() {
            Vec::new()
        } else {
            let asked: Vec<Ask> = open.iter().map(|&i| asks[i].clone()).collect();
            self.inner.stream(&asked, &mut hear)
        };
        for (i, place) in repeats {
            if let Some(answer) = got.get(place) {
                let again = answer.clone().map(|a| Answer { cached: a.finish != Finish::Broken, ..a });
                if let Ok(answer) = &again {
                    say(listener, i, answer);
                }
                answers[i] = Some(again);
            }
        }
        for (i, answer) in open.into_iter().zip(got) {
            answers[i] = Some(answer);
        }
        if !self.fresh {
            let hits = answers.iter().flatten().filter(|a| a.as_ref().is_ok_and(|a| a.cached)).count();
            self.cache.count(hits as u64, (asks.len() - hits) as u64);
        }
        let lost = || Err(BackendError("the model gave no answer to this row".into()));
        answers.into_iter().map(|a| a.unwrap_or_else(lost)).collect()
    }

    fn width(&self) -> usize {
        self.inner.width()
    }

    fn told(&self) -> Option<String> {
        self.inner.told()
    }

    fn set_fresh(&mut self, fresh: bool) {
        self.fresh = fresh;
        self.inner.set_fresh(fresh);
    }
}

/// Remember an answer that is whole.
fn keep(cache: &Cache, key: Key, answer: &Answer) {
    if answer.finish != Finish::Broken
        && let Ok(json) = serde_json::to_vec(answer)
        && json.len() <= LONGEST
    {
        cache.put(key, &json);
    }
}

/// Let an answer be heard that nobody made now.
fn say(listener: &mut Listener<'_>, i: usize, answer: &Answer) {
    let _ = listener(i, Heard::Piece(&answer.text));
    let _ = listener(i, Heard::Done(answer));
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::ops::ControlFlow;
    use std::rc::Rc;

    use super::*;
    use crate::backend::Prompt;
    use crate::domain::candidate::{Constraint, Decoding, Limits};
    use crate::model::chat::Message;

    type Asked = Rc<RefCell<Vec<Vec<String>>>>;

    /// Says the question and how often it was asked; fails and breaks off on demand.
    struct Counting {
        asked: Asked,
        calls: usize,
    }

    impl Backend for Counting {
        fn stream(&mut self, asks: &[Ask], listener: &mut Listener<'_>) -> Vec<Result<Answer, BackendError>> {
            self.asked.borrow_mut().push(asks.iter().map(|a| a.text().to_owned()).collect());
            asks.iter()
                .enumerate()
                .map(|(i, ask)| {
                    self.calls += 1;
                    let text = format!("{} {}", ask.text(), self.calls);
                    let _ = listener(i, Heard::Piece(&text));
                    let answer = match ask.text() {
                        "boom" => return Err(BackendError("no".into())),
                        "cut" => Answer { text, finish: Finish::Broken, ..Answer::default() },
                        _ => Answer {
                            text,
                            labels: vec![("a".into(), 0.25)],
                            tool_calls: vec![serde_json::json!({ "id": 1 })],
                            logprobs: vec![crate::backend::TokenLogprob {
                                text: "x".into(),
                                logprob: -0.5,
                                top: vec![("y".into(), -1.5)],
                            }],
                            masked: 3,
                            ms: 7.5,
                            ..Answer::default()
                        },
                    };
                    let _ = listener(i, Heard::Done(&answer));
                    Ok(answer)
                })
                .collect()
        }
    }

    fn model(hash: &str) -> ModelRef {
        ModelRef {
            name: "base".into(),
            source: ModelSource::Local { path: "/nowhere".into() },
            hash: hash.into(),
            usd_per_million_input: None,
            usd_per_million_output: None,
            usd_per_hour: None,
            limits: Limits::default(),
            device: Default::default(),
        }
    }

    fn cached(dir: &Path, model: &ModelRef, adapter: Option<&AdapterRef>) -> (Cached, Asked) {
        let asked = Asked::default();
        let cache = Cache::open(&CachePlace { dir: dir.to_owned(), limit: 1 << 30 }).unwrap();
        let inner = Box::new(Counting { asked: asked.clone(), calls: 0 });
        (Cached::new(inner, model, adapter, cache), asked)
    }

    fn ask(text: &str) -> Ask {
        Ask::turn(text, Decoding::default())
    }

    #[test]
    fn an_answer_is_asked_for_once_and_comes_back_whole() {
        let temp = tempfile::tempdir().unwrap();
        let (mut backend, asked) = cached(temp.path(), &model("h"), None);
        let first = backend.answer(&[ask("a"), ask("b"), ask("a")]);
        assert_eq!(*asked.borrow(), [["a", "b"]], "a repeated question is asked once");
        let cached_flags = |answers: &[Result<Answer, BackendError>]| {
            answers.iter().map(|a| a.as_ref().unwrap().cached).collect::<Vec<_>>()
        };
        assert_eq!(cached_flags(&first), [false, false, true]);
        let again = backend.answer(&[ask("b"), ask("a")]);
        assert_eq!(asked.borrow().len(), 1);
        assert_eq!(cached_flags(&again), [true, true]);
        for (was, is) in [(&first[1], &again[0]), (&first[0], &again[1]), (&first[2], &again[1])] {
            let was = Answer { cached: true, ..was.clone().unwrap() };
            assert_eq!(&was, is.as_ref().unwrap());
        }
        // As another process would.
        drop(backend);
        let (mut later, asked) = cached(temp.path(), &model("h"), None);
        assert!(later.answer(&[ask("a")])[0].as_ref().unwrap().cached);
        assert!(asked.borrow().is_empty());
        let seen = survey(temp.path()).unwrap();
        assert_eq!((seen.answers, seen.hits, seen.misses, seen.damaged), (2, 4, 2, 0));
    }

    #[test]
    fn everything_that_decides_an_answer_tells_questions_apart() {
        let temp = tempfile::tempdir().unwrap();
        let base = ask("a");
        let with = |change: fn(&mut Ask)| {
            let mut other = base.clone();
            change(&mut other);
            other
        };
        let asks = [
            base.clone(),
            with(|a| a.prompt = Prompt::Text("a".into())),
            with(|a| a.prompt = Prompt::Chat(vec![Message::user("a")])),
            with(|a| a.prompt = Prompt::Chat(vec![Message::assistant("a")])),
            with(|a| a.sample = 1),
            with(|a| a.logprobs = Some(0)),
            with(|a| a.tools = vec![serde_json::json!({ "type": "function" })]),
            with(|a| a.constraint = Some(Constraint::Json)),
            with(|a| a.constraint = Some(Constraint::Regex("a".into()))),
            with(|a| a.constraint = Some(Constraint::Labels(vec!["a".into()]))),
            with(|a| a.decoding.max_tokens = 3),
            with(|a| a.decoding.temperature = 0.5),
            with(|a| a.decoding.seed = 9),
            with(|a| a.decoding.top_k = Some(4)),
            with(|a| a.decoding.top_p = Some(0.5)),
            with(|a| a.decoding.min_p = Some(0.5)),
            with(|a| a.decoding.repetition_penalty = Some(1.5)),
            with(|a| a.decoding.stop = vec!["x".into()]),
        ];
        let adapter = |hash: &str| AdapterRef { path: "/somewhere".into(), hash: hash.into() };
        let mut masked = model("h");
        masked.limits.mask_pii = true;
        let mut keys = std::collections::BTreeSet::new();
        let identities = [
            (model("h"), None),
            (model("other"), None),
            (masked, None),
            (model("h"), Some(adapter("1"))),
            (model("h"), Some(adapter("2"))),
        ];
        for (model, adapter) in &identities {
            let (backend, _) = cached(temp.path(), model, adapter.as_ref());
            keys.extend(asks.iter().map(|a| backend.key(a).unwrap()));
        }
        assert_eq!(keys.len(), asks.len() * identities.len());
        let (backend, _) = cached(temp.path(), &model("h"), None);
        assert!(keys.contains(&backend.key(&base).unwrap()), "the same question has the same key");
    }

    #[test]
    fn errors_and_broken_answers_are_asked_again() {
        let temp = tempfile::tempdir().unwrap();
        let (mut backend, asked) = cached(temp.path(), &model("h"), None);
        for _ in 0..2 {
            let got = backend.answer(&[ask("boom"), ask("cut"), ask("boom"), ask("cut")]);
            assert!(got[0].is_err() && got[2].is_err());
            assert!(got[1..].iter().flatten().all(|a| !a.cached));
        }
        assert_eq!(*asked.borrow(), [["boom", "cut"], ["boom", "cut"]]);
        assert_eq!(survey(temp.path()).unwrap().answers, 0);
    }

    #[test]
    fn fresh_answers_are_asked_for_and_remembered() {
        let temp = tempfile::tempdir().unwrap();
        let (mut backend, asked) = cached(temp.path(), &model("h"), None);
        backend.set_fresh(true);
        for _ in 0..2 {
            assert!(backend.answer(&[ask("a"), ask("a")]).iter().flatten().all(|a| !a.cached));
        }
        assert_eq!(asked.borrow().len(), 2);
        backend.set_fresh(false);
        assert!(backend.answer(&[ask("a")])[0].as_ref().unwrap().cached);
    }

    #[test]
    fn a_listener_hears_every_question_under_its_own_place() {
        let temp = tempfile::tempdir().unwrap();
        let (mut backend, _) = cached(temp.path(), &model("h"), None);
        backend.answer(&[ask("a")]);
        let (mut pieces, mut done) = (Vec::new(), Vec::new());
        let got = backend.stream(&[ask("a"), ask("b"), ask("c"), ask("b")], &mut |i, heard| {
            match heard {
                Heard::Piece(text) => pieces.push((i, text.to_owned())),
                Heard::Done(answer) => done.push((i, answer.text.clone())),
                Heard::Waiting => {}
            }
            ControlFlow::Continue(())
        });
        pieces.sort();
        done.sort();
        let want: Vec<_> = got.into_iter().map(|a| a.unwrap().text).enumerate().collect();
        assert_eq!(pieces, want);
        assert_eq!(done, want);
    }

    #[test]
    fn an_answer_is_kept_as_it_ends_and_not_when_its_batch_does() {
        struct Dies;
        impl Backend for Dies {
            fn stream(
                &mut self,
                _: &[Ask],
                listener: &mut Listener<'_>,
            ) -> Vec<Result<Answer, BackendError>> {
                let _ = listener(0, Heard::Done(&Answer { text: "paid".into(), ..Answer::default() }));
                panic!("killed in the middle of the batch");
            }
        }
        let temp = tempfile::tempdir().unwrap();
        let place = CachePlace { dir: temp.path().to_owned(), limit: 1 << 30 };
        let mut dies = Cached::wrap(Box::new(Dies), &model("h"), None, &place);
        let batch = [ask("a"), ask("b")];
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| dies.answer(&batch))).unwrap_err();
        let (mut later, asked) = cached(temp.path(), &model("h"), None);
        assert_eq!(later.answer(&batch)[0].as_ref().unwrap().text, "paid");
        assert_eq!(*asked.borrow(), [["b"]]);
    }
}
