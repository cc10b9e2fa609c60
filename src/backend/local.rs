//! A model of this machine: its answers are made together, in one engine.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::{Answer, Ask, Backend, BackendError, Finish, Heard, Listener, Prompt};
use crate::domain::candidate::{AdapterRef, ModelRef};
use crate::model::chat::{ChatTemplate, Message, conversation_text, open_tokens, prompt_tokens};
use crate::model::generate::Generator;
use crate::model::tokenizer::{TextStream, Tokenizer};
use crate::model::{Base, Decoder, Lora, ModelError};
use crate::ops::Par;

/// Which weights answer: those of the base, or these with one of its adapters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane(pub(super) u32);

impl Lane {
    /// Without an adapter.
    pub const BASE: Self = Self(0);
}

/// A question that was handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AskId(u64);

/// What became of a question in one step.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// Text that follows what was given before.
    Piece(String),
    /// The end: the whole answer. Nothing more comes.
    Done(Result<Answer, BackendError>),
}

/// Weights, adapters, tokenizer and chat template that answer together.
#[derive(Debug)]
pub struct LocalModel {
    decoder: Arc<Decoder>,
    /// By lane, from lane 1.
    adapters: Vec<Option<Lora>>,
    lane: Lane,
    tokenizer: Arc<Tokenizer>,
    template: Option<ChatTemplate>,
    threads: usize,
    waiting: VecDeque<(AskId, Lane, Ask, Vec<u32>)>,
    next: u64,
}

impl LocalModel {
    /// Opens the model's folder, with an adapter in PEFT's format.
    pub fn open(
        dir: &Path,
        model: &ModelRef,
        adapter: Option<&AdapterRef>,
        threads: usize,
    ) -> Result<Self, ModelError> {
        let decoder = Base::open(dir, &model.hash, false)?.decoder;
        let adapter = adapter.map(|a| Lora::load_peft(Path::new(&a.path), &decoder)).transpose()?;
        Ok(Self::new(decoder, adapter, Tokenizer::load(dir)?, ChatTemplate::load(dir)?, threads))
    }

    /// From parts that are loaded already; training asks its own weights in this way.
    pub fn new(
        decoder: Arc<Decoder>,
        adapter: Option<Lora>,
        tokenizer: Tokenizer,
        template: Option<ChatTemplate>,
        threads: usize,
    ) -> Self {
        let mut model = Self {
            decoder,
            adapters: Vec::new(),
            lane: Lane::BASE,
            tokenizer: Arc::new(tokenizer),
            template,
            threads,
            waiting: VecDeque::new(),
            next: 0,
        };
        if let Some(adapter) = adapter {
            model.lane = model.add_adapter(adapter);
        }
        model
    }

    /// The lane of the adapter that it was opened with, or the base's.
    pub fn lane(&self) -> Lane {
        self.lane
    }

    pub fn decoder(&self) -> &Arc<Decoder> {
        &self.decoder
    }

    /// Threads of the steps from now on.
    pub fn use_threads(&mut self, threads: usize) {
        self.threads = threads;
    }

    /// One more adapter on the same base.
    pub fn add_adapter(&mut self, adapter: Lora) -> Lane {
        self.adapters.push(Some(adapter));
        Lane(self.adapters.len() as u32)
    }

    /// Forgets an adapter; its questions that are not answered yet get an error.
    pub fn remove_adapter(&mut self, lane: Lane) {
        if let Some(adapter) = (lane.0 as usize).checked_sub(1).and_then(|at| self.adapters.get_mut(at)) {
            *adapter = None;
        }
    }

    /// Hands in a question for one of the lanes; [`LocalModel::step`] answers it together with all others.
    ///
    /// # Errors
    /// A prompt that cannot be made; settings that make no sense; a lane that is not there.
    pub fn submit(&mut self, lane: Lane, ask: &Ask) -> Result<AskId, BackendError> {
        let prompt = self.prompt(ask).map_err(|e| BackendError(e.to_string()))?;
        let id = AskId(self.next);
        self.next += 1;
        self.waiting.push_back((id, lane, ask.clone(), prompt));
        Ok(id)
    }

    /// Ends a question: the rest of its answer is not made, and nothing more comes of it.
    pub fn cancel(&mut self, id: AskId) {
        self.waiting.retain(|w| w.0 != id);
    }

    /// Nothing is waiting or under way.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// One pass over the model, for all who are under way; what came of it, in the order of their asking.
    pub fn step(&mut self) -> Vec<(AskId, Progress)> {
        let Some((id, lane, ask, prompt)) = self.waiting.pop_front() else { return Vec::new() };
        let mut pieces = Vec::new();
        let answer = self.one(lane, &ask, &prompt, &mut |piece| pieces.push(piece));
        let mut events: Vec<_> = pieces.into_iter().map(|p| (id, Progress::Piece(p))).collect();
        events.push((id, Progress::Done(answer.map_err(|e| BackendError(e.to_string())))));
        events
    }

    fn prompt(&self, ask: &Ask) -> Result<Vec<u32>, ModelError> {
        match &ask.prompt {
            Prompt::Turn(text) if !ask.tools.is_empty() => {
                let (template, turn) = (self.template.as_ref(), [Message::user(text)]);
                open_tokens(&self.tokenizer, template, &conversation_text(template, &turn, &ask.tools)?)
            }
            Prompt::Turn(text) => prompt_tokens(&self.tokenizer, self.template.as_ref(), text),
            Prompt::Text(text) => prompt_tokens(&self.tokenizer, None, text),
            Prompt::Chat(messages) => {
                let template = self.template.as_ref();
                open_tokens(&self.tokenizer, template, &conversation_text(template, messages, &ask.tools)?)
            }
        }
    }

    fn one(
        &self,
        lane: Lane,
        ask: &Ask,
        prompt: &[u32],
        hear: &mut dyn FnMut(String),
    ) -> Result<Answer, ModelError> {
        let adapter = match (lane.0 as usize).checked_sub(1) {
            None => None,
            Some(at) => Some(self.adapters.get(at).and_then(Option::as_ref).ok_or_else(|| {
                ModelError::Request("the adapter that was asked for is not there any more".into())
            })?),
        };
        let mut stream = TextStream::new(&*self.tokenizer);
        let mut failed = None;
        let made = Generator::new(&self.decoder).generate(
            &self.decoder,
            adapter,
            self.tokenizer.eos(),
            prompt,
            &ask.decoding,
            Par::threads(self.threads),
            &mut |token| match stream.push(token) {
                Ok(piece) => {
                    if !piece.is_empty() {
                        hear(piece);
                    }
                    ControlFlow::Continue(())
                }
                Err(e) => {
                    failed = Some(e);
                    ControlFlow::Break(())
                }
            },
        )?;
        if let Some(e) = failed {
            return Err(e);
        }
        let rest = stream.finish()?;
        if !rest.is_empty() {
            hear(rest);
        }
        Ok(Answer {
            text: self.tokenizer.decode(&made.tokens)?,
            tokens_in: prompt.len() as u64,
            tokens_out: made.steps as u64,
            ttft_ms: made.ttft_ms,
            ms: made.ms,
            finish: if made.ended { Finish::Stop } else { Finish::Length },
            ..Answer::default()
        })
    }
}

impl Backend for LocalModel {
    fn stream(&mut self, asks: &[Ask], listener: &mut Listener<'_>) -> Vec<Result<Answer, BackendError>> {
        let ids: Vec<_> = asks.iter().map(|ask| self.submit(self.lane, ask)).collect();
        let place = |id: AskId| ids.iter().position(|i| i.as_ref().is_ok_and(|i| *i == id));
        let mut texts = vec![String::new(); asks.len()];
        let mut answers: Vec<_> = ids.iter().map(|id| id.as_ref().err().cloned().map(Err)).collect();
        while answers.iter().any(Option::is_none) && !self.is_idle() {
            for (id, progress) in self.step() {
                let Some(i) = place(id).filter(|i| answers[*i].is_none()) else { continue };
                match progress {
                    Progress::Piece(piece) => {
                        texts[i].push_str(&piece);
                        if listener(i, Heard::Piece(&piece)).is_break() {
                            self.cancel(id);
                            let text = std::mem::take(&mut texts[i]);
                            let answer = Answer { text, finish: Finish::Broken, ..Answer::default() };
                            let _ = listener(i, Heard::Done(&answer));
                            answers[i] = Some(Ok(answer));
                        }
                    }
                    Progress::Done(answer) => {
                        if let Ok(answer) = &answer {
                            let _ = listener(i, Heard::Done(answer));
                        }
                        answers[i] = Some(answer);
                    }
                }
            }
        }
        let lost = || Err(BackendError("the model ended without this answer".into()));
        answers.into_iter().map(|a| a.unwrap_or_else(lost)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::Access;
    use super::*;
    use crate::domain::candidate::{Decoding, Limits, ModelSource};

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name)
    }

    fn model(dir: &Path) -> ModelRef {
        ModelRef {
            name: "base".into(),
            source: ModelSource::Local { path: dir.display().to_string() },
            hash: "h".into(),
            usd_per_million_input: None,
            usd_per_million_output: None,
            usd_per_hour: None,
            limits: Limits::default(),
        }
    }

    fn ask(text: &str, temperature: f32) -> Ask {
        let decoding = Decoding { max_tokens: 6, temperature, seed: 3, ..Decoding::default() };
        Ask::turn(text, decoding)
    }

    fn open(dir: &Path, threads: usize) -> Box<dyn Backend> {
        super::super::open(&model(dir), None, &Access::threads(threads)).unwrap()
    }

    fn texts(answers: Vec<Result<Answer, BackendError>>) -> Vec<String> {
        answers.into_iter().map(|a| a.unwrap().text).collect()
    }

    #[test]
    fn answers_are_those_of_transformers_in_the_order_of_the_questions() {
        for name in ["llama", "mistral", "qwen2", "qwen3"] {
            let text = std::fs::read_to_string(fixture(name).join("reference.json")).unwrap();
            let reference: serde_json::Value = serde_json::from_str(&text).unwrap();
            let answers = reference["answers"].as_array().unwrap();
            let asks: Vec<Ask> = answers
                .iter()
                .map(|a| {
                    let decoding = Decoding { max_tokens: 24, ..Decoding::default() };
                    Ask::turn(a["text"].as_str().unwrap(), decoding)
                })
                .collect();
            let got = open(&fixture(name), 2).answer(&asks);
            for (got, want) in got.into_iter().zip(answers) {
                let got = got.unwrap();
                assert_eq!(got.text, want["decoded"].as_str().unwrap(), "{name}");
                assert_eq!(got.tokens_in, want["tokens"].as_array().unwrap().len() as u64);
                assert_eq!(got.tokens_out, want["greedy"].as_array().unwrap().len() as u64);
                assert!(got.ttft_ms > 0.0 && got.ms >= got.ttft_ms);
            }
        }
    }

    #[test]
    fn an_answer_depends_on_neither_threads_nor_neighbours() {
        let dir = fixture("qwen2");
        let asks: Vec<Ask> =
            (0..23).map(|i| ask(&format!("card {} and {}", i % 5, i * 7), [0.0, 0.9][i % 2])).collect();
        let alone: Vec<String> =
            asks.iter().flat_map(|a| texts(open(&dir, 1).answer(std::slice::from_ref(a)))).collect();
        for threads in [1, 2, 3, 50] {
            let mut backend = open(&dir, threads);
            assert_eq!(texts(backend.answer(&asks)), alone, "{threads} threads");
            assert_eq!(texts(backend.answer(&asks[7..])), alone[7..], "{threads} threads, again");
        }
        assert!(open(&dir, 2).answer(&[]).is_empty());
    }

    #[test]
    fn a_row_that_cannot_be_answered_is_an_error_of_that_row_only() {
        let mut backend = open(&fixture("qwen2"), 2);
        let mut wrong = ask("card", 0.0);
        wrong.decoding.temperature = -1.0;
        let got =
            backend.answer(&[ask("card", 0.0), ask(&"card ".repeat(200), 0.0), wrong, ask("card", 0.0)]);
        assert_eq!(got[0].as_ref().unwrap().text, got[3].as_ref().unwrap().text);
        assert!(got[1].as_ref().unwrap_err().to_string().contains("context"));
        assert!(got[2].as_ref().unwrap_err().to_string().contains("temperature"));
    }

    #[test]
    fn an_adapter_changes_answers_and_the_base_is_shared() {
        let dir = fixture("qwen2");
        let base = LocalModel::open(&dir, &model(&dir), None, 1).unwrap();
        let mut lora =
            Lora::init(&base.decoder, 4, 64.0, &crate::domain::settings::Targets::default(), 5).unwrap();
        lora.values_mut().iter_mut().enumerate().for_each(|(i, v)| *v = (i % 13) as f32 / 13.0 - 0.5);
        let folder = tempfile::tempdir().unwrap();
        lora.save_peft(folder.path(), None).unwrap();
        let adapter = AdapterRef { path: folder.path().display().to_string(), hash: "a".into() };
        let mut tuned = LocalModel::open(&dir, &model(&dir), Some(&adapter), 1).unwrap();
        assert!(Arc::ptr_eq(&base.decoder, &tuned.decoder));
        let mut base = base;
        let asks = [ask("My card was declined", 0.0)];
        assert_ne!(texts(base.answer(&asks)), texts(tuned.answer(&asks)));
        let error = LocalModel::open(
            &dir,
            &model(&dir),
            Some(&AdapterRef { path: "/absent".into(), hash: String::new() }),
            1,
        );
        assert!(error.unwrap_err().to_string().contains("/absent"));
    }

    #[test]
    fn what_cannot_be_opened_says_why() {
        let say = |m: &ModelRef| super::super::open(m, None, &Access::threads(1)).err().unwrap().to_string();
        assert!(say(&model(Path::new("/no/such/folder"))).contains("/no/such/folder"));
        let endpoint =
            ModelSource::Endpoint { endpoint: "http://x/v1".into(), model: "m".into(), api_key_env: None };
        let message = say(&ModelRef { source: endpoint, ..model(Path::new("")) });
        assert!(message.contains("base") && message.contains("endpoint"), "{message}");
    }
}
