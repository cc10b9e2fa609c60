//! A model of this machine: its answers are made together, in one engine.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::forms::{Forms, decoding};
use super::growing::Growing;
use super::{Answer, Ask, Backend, BackendError, Heard, Listener, Prompt, TokenLogprob};
use crate::domain::candidate::{AdapterRef, ModelRef};
use crate::machine;
use crate::model::chat::{ChatTemplate, Message, conversation_text, open_tokens, prompt_tokens};
use crate::model::decode::{Engine, Event, Lookup, Speculation};
use crate::model::labels::LabelScores;
use crate::model::tokenizer::Tokenizer;
use crate::model::{Base, Decoder, Lora, ModelError};

pub use crate::model::decode::{Lane, RequestId as AskId, Settings};

/// What became of a question in one step.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// Text that follows what was given before, and the tokens that came since, where their log-probabilities were asked for.
    Piece { text: String, tokens: Vec<TokenLogprob> },
    /// The end: the whole answer. Nothing more comes.
    Done(Result<Answer, BackendError>),
}

/// Weights, adapters, tokenizer and chat template that answer together.
#[derive(Debug)]
pub struct LocalModel {
    engine: Engine<'static>,
    lane: Lane,
    tokenizer: Arc<Tokenizer>,
    template: Option<Arc<ChatTemplate>>,
    forms: Arc<Forms>,
    answers: BTreeMap<AskId, Growing>,
    /// Of where it answers.
    told: Option<String>,
}

/// Tokens are guessed from the text so far, where that pays. Keys and values of one answer to the end of the model's context fit, as far as a quarter of the free memory reaches; they take
/// memory as they come.
fn with_room(settings: Settings, decoder: &Decoder) -> Settings {
    let c = &decoder.config;
    let context = 2 * size_of::<f32>() * c.layers * c.kv_heads * c.head_dim * c.max_positions;
    let spare = usize::try_from(machine::available_memory() / 4).unwrap_or(usize::MAX);
    let speculation = Speculation { lookup: Some(Lookup::default()), ..settings.speculation };
    Settings { kv_bytes: settings.kv_bytes.max(context.min(spare)), speculation, ..settings }
}

impl LocalModel {
    /// Opens the model's folder, with an adapter in PEFT's format.
    ///
    /// # Errors
    /// A folder that holds no model, or no adapter of it; settings that do not go with it.
    pub fn open(
        dir: &Path,
        model: &ModelRef,
        adapter: Option<&AdapterRef>,
        settings: Settings,
    ) -> Result<Self, ModelError> {
        let decoder = Base::open(dir, &model.hash, false)?.decoder;
        let adapter = adapter.map(|a| Lora::load_peft(Path::new(&a.path), &decoder)).transpose()?;
        Self::new(decoder, adapter, Tokenizer::load(dir)?, ChatTemplate::load(dir)?, settings)
    }

    /// From parts that are loaded already; training asks its own weights in this way.
    ///
    /// # Errors
    /// An adapter or a draft model that does not go with the decoder.
    pub fn new(
        decoder: Arc<Decoder>,
        adapter: Option<Lora>,
        tokenizer: Tokenizer,
        template: Option<ChatTemplate>,
        settings: Settings,
    ) -> Result<Self, ModelError> {
        let settings = with_room(settings, &decoder);
        let mut engine = Engine::new(decoder, settings)?;
        let lane = adapter.map_or(Ok(Lane::BASE), |adapter| engine.add_lane(Arc::new(adapter)))?;
        let (tokenizer, template) = (Arc::new(tokenizer), template.map(Arc::new));
        let forms = Arc::new(Forms::new(tokenizer.clone(), template.clone()));
        Ok(Self { engine, lane, tokenizer, template, forms, answers: BTreeMap::new(), told: None })
    }

    /// With what a person should know of where it answers.
    pub fn telling(mut self, told: Option<String>) -> Self {
        self.told = told;
        self
    }

    pub fn decoder(&self) -> &Decoder {
        self.engine.decoder()
    }

    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    pub(super) fn forms(&self) -> &Arc<Forms> {
        &self.forms
    }

    pub fn template(&self) -> Option<&Arc<ChatTemplate>> {
        self.template.as_ref()
    }

    /// Threads of the steps from now on.
    pub fn use_threads(&mut self, threads: usize) {
        self.engine.use_threads(threads);
    }

    /// The lane of the adapter that it was opened with, or the base's.
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// One more adapter on the same base.
    ///
    /// # Errors
    /// An adapter of another model.
    pub fn add_adapter(&mut self, adapter: Lora) -> Result<Lane, ModelError> {
        self.engine.add_lane(Arc::new(adapter))
    }

    /// Forgets an adapter; its questions that are not answered yet get an error.
    pub fn remove_adapter(&mut self, lane: Lane) {
        self.engine.remove_lane(lane);
    }

    /// Hands in a question for one of the lanes; [`LocalModel::step`] answers it together with all others.
    ///
    /// # Errors
    /// A prompt that cannot be made or is too long; settings that make no sense; a lane that is not there.
    pub fn submit(&mut self, lane: Lane, ask: &Ask) -> Result<AskId, BackendError> {
        let mut submit = || {
            let prompt = self.prompt(ask)?;
            let growing = Growing::new(self.tokenizer.clone(), decoding(ask), prompt.clone());
            Ok((self.engine.submit(self.forms.request(lane, ask, prompt)?)?, growing))
        };
        let (id, growing) = submit().map_err(|e: ModelError| BackendError(e.to_string()))?;
        self.answers.insert(id, growing);
        Ok(id)
    }

    /// Ends a question: the rest of its answer is not made, and nothing more comes of it.
    pub fn cancel(&mut self, id: AskId) {
        self.engine.cancel(id);
        self.answers.remove(&id);
    }

    /// As [`LocalModel::cancel`]; what there is of the answer.
    fn broken(&mut self, id: AskId) -> Option<Answer> {
        // One that has just ended is no more under way: its own end tells it.
        let done = self.engine.cancel(id)?;
        Some(self.answers.remove(&id)?.broken(&done))
    }

    /// Nothing is waiting or under way.
    pub fn is_idle(&self) -> bool {
        self.engine.is_idle()
    }

    /// Questions that wait, and that are being answered.
    pub fn load(&self) -> (usize, usize) {
        self.engine.load()
    }

    /// One pass over the model, for all who are under way, and what came of it.
    pub fn step(&mut self) -> Vec<(AskId, Progress)> {
        let mut progress = Vec::new();
        for event in self.engine.step() {
            match event {
                Event::Token(id, token) => {
                    let Some(answer) = self.answers.get_mut(&id) else { continue };
                    match answer.push(token.id, self.forms.logprob(&token)) {
                        Ok(Some(piece)) => progress.push((id, piece)),
                        Ok(None) => {}
                        Err(e) => {
                            self.cancel(id);
                            progress.push((id, failed(&e)));
                            continue;
                        }
                    }
                    // Where it has ended by itself as well, that comes next.
                    if self.answers.get(&id).is_some_and(Growing::stopped)
                        && let Some(done) = self.engine.cancel(id)
                        && let Some(answer) = self.answers.remove(&id)
                    {
                        finished(id, answer.finish(&done), &mut progress);
                    }
                }
                Event::Done(id, done) => {
                    let Some(answer) = self.answers.remove(&id) else { continue };
                    finished(id, answer.finish(&done), &mut progress);
                }
                Event::Scored(id, done, scoring) => {
                    let Some(answer) = self.answers.remove(&id) else { continue };
                    let scoring: Box<dyn std::any::Any> = scoring;
                    let Some(scores) = scoring.downcast_ref::<LabelScores>() else { continue };
                    finished(id, answer.label(scores, &done), &mut progress);
                }
                Event::Failed(id, e) => {
                    self.answers.remove(&id);
                    progress.push((id, failed(&e)));
                }
            }
        }
        progress
    }

    fn prompt(&self, ask: &Ask) -> Result<Vec<u32>, ModelError> {
        let template = self.template.as_deref();
        match &ask.prompt {
            Prompt::Turn(text) if !ask.tools.is_empty() => {
                let turn = [Message::user(text)];
                open_tokens(&self.tokenizer, template, &conversation_text(template, &turn, &ask.tools)?)
            }
            Prompt::Turn(text) => prompt_tokens(&self.tokenizer, template, text),
            Prompt::Text(text) => prompt_tokens(&self.tokenizer, None, text),
            Prompt::Chat(messages) => {
                open_tokens(&self.tokenizer, template, &conversation_text(template, messages, &ask.tools)?)
            }
        }
    }
}

/// The end of an answer, with the text that is told with it.
fn finished(
    id: AskId,
    end: Result<(Option<Progress>, Answer), ModelError>,
    progress: &mut Vec<(AskId, Progress)>,
) {
    match end {
        Ok((rest, answer)) => {
            progress.extend(rest.map(|piece| (id, piece)));
            progress.push((id, Progress::Done(Ok(answer))));
        }
        Err(e) => progress.push((id, failed(&e))),
    }
}

fn failed(error: &ModelError) -> Progress {
    Progress::Done(Err(BackendError(error.to_string())))
}

impl Backend for LocalModel {
    fn stream(&mut self, asks: &[Ask], listener: &mut Listener<'_>) -> Vec<Result<Answer, BackendError>> {
        let mut places = BTreeMap::new();
        let mut answers: Vec<Option<Result<Answer, BackendError>>> = Vec::with_capacity(asks.len());
        for (i, ask) in asks.iter().enumerate() {
            answers.push(match self.submit(self.lane, ask) {
                Ok(id) => {
                    places.insert(id, i);
                    None
                }
                Err(e) => Some(Err(e)),
            });
        }
        while !places.is_empty() && !self.is_idle() {
            for (id, progress) in self.step() {
                let Some(&i) = places.get(&id) else { continue };
                match progress {
                    Progress::Piece { text, .. } => {
                        if listener(i, Heard::Piece(&text)).is_break()
                            && let Some(answer) = self.broken(id)
                        {
                            places.remove(&id);
                            answers[i] = Some(Ok(answer));
                        }
                    }
                    Progress::Done(answer) => {
                        places.remove(&id);
                        answers[i] = Some(answer);
                    }
                }
                if let Some(Ok(answer)) = &answers[i] {
                    let _ = listener(i, Heard::Done(answer));
                }
            }
        }
        let lost = || Err(BackendError("the model ended without this answer".into()));
        answers.into_iter().map(|a| a.unwrap_or_else(lost)).collect()
    }

    fn variant(&self) -> &'static str {
        if self.engine.on_gpu() { "bf16" } else { "" }
    }

    fn told(&self) -> Option<String> {
        self.told.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::path::PathBuf;

    use super::super::{Access, Finish};
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
            device: Default::default(),
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
        let base = LocalModel::open(&dir, &model(&dir), None, Settings::threads(1)).unwrap();
        let mut lora =
            Lora::init(base.engine.decoder(), 4, 64.0, &crate::domain::settings::Targets::default(), 5)
                .unwrap();
        lora.values_mut().iter_mut().enumerate().for_each(|(i, v)| *v = (i % 13) as f32 / 13.0 - 0.5);
        let folder = tempfile::tempdir().unwrap();
        lora.save_peft(folder.path(), None).unwrap();
        let adapter = AdapterRef { path: folder.path().display().to_string(), hash: "a".into() };
        let mut tuned = LocalModel::open(&dir, &model(&dir), Some(&adapter), Settings::threads(1)).unwrap();
        assert!(std::ptr::eq(base.engine.decoder(), tuned.engine.decoder()));
        let mut base = base;
        let asks = [ask("My card was declined", 0.0)];
        assert_ne!(texts(base.answer(&asks)), texts(tuned.answer(&asks)));
        let error = LocalModel::open(
            &dir,
            &model(&dir),
            Some(&AdapterRef { path: "/absent".into(), hash: String::new() }),
            Settings::threads(1),
        );
        assert!(error.unwrap_err().to_string().contains("/absent"));
    }

    #[test]
    fn what_cannot_be_opened_says_why() {
        let say = |m: &ModelRef| super::super::open(m, None, &Access::threads(1)).err().unwrap().to_string();
        assert!(say(&model(Path::new("/no/such/folder"))).contains("/no/such/folder"));
    }

    /// Answers of the demo's model, which has a token for every byte.
    fn demo(asks: &[Ask]) -> Vec<Answer> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("workspaces/demo/model");
        open(&dir, 2).answer(asks).into_iter().map(|a| a.unwrap()).collect()
    }

    #[test]
    fn answers_have_the_form_that_is_asked_for_beside_others_that_have_none() {
        use crate::domain::candidate::Constraint;
        let labels: Vec<String> = ["cash", "card", "card lost", "transfer"].map(String::from).to_vec();
        let schema = serde_json::json!({
            "type": "object",
            "properties": { "team": { "enum": ["cards", "loans"] }, "urgent": { "type": "boolean" } },
            "required": ["team", "urgent"],
            "additionalProperties": false,
        });
        let with = |constraint: Option<Constraint>, temperature: f32| {
            let decoding = Decoding { max_tokens: 60, temperature, seed: 3, ..Decoding::default() };
            Ask { constraint, ..Ask::turn("My card was stolen", decoding) }
        };
        let asks: Vec<Ask> = [0.0, 1.0]
            .into_iter()
            .flat_map(|t| {
                [
                    with(None, t),
                    with(Some(Constraint::Labels(labels.clone())), t),
                    with(Some(Constraint::Regex("[a-c]{3}-[0-9]{2}".into())), t),
                    with(Some(Constraint::Schema(schema.clone())), t),
                ]
            })
            .collect();
        let got = demo(&asks);
        for answers in got.chunks(4) {
            let [plain, label, regex, json] = answers else { panic!() };
            assert!(plain.labels.is_empty());
            assert!(labels.contains(&label.text) && label.finish == Finish::Stop);
            assert_eq!(label.labels.len(), 4);
            assert!((label.labels.iter().map(|(_, p)| p).sum::<f64>() - 1.0).abs() < 1e-9);
            assert!(label.labels.is_sorted_by(|a, b| a.1 >= b.1) && label.tokens_out > 0 && label.ms > 0.0);
            assert_eq!((regex.text.len(), &regex.text[3..4], regex.finish), (6, "-", Finish::Stop));
            let value: serde_json::Value = serde_json::from_str(&json.text).unwrap();
            assert!(value["urgent"].is_boolean() && json.finish == Finish::Stop, "{}", json.text);
        }
        assert_eq!(got[1].text, got[1].labels[0].0, "greedy takes the best");
        // Alone the same.
        for (ask, got) in asks.iter().zip(&got) {
            let alone = demo(std::slice::from_ref(ask)).remove(0);
            assert_eq!((&alone.text, alone.labels.len()), (&got.text, got.labels.len()));
            for (a, b) in alone.labels.iter().zip(&got.labels) {
                assert!(a.0 == b.0 && (a.1 - b.1).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn an_answer_ends_before_a_stop_string_and_tells_how_likely_its_tokens_were() {
        let decoding = Decoding { max_tokens: 24, ..Decoding::default() };
        let dir = fixture("qwen2");
        let ask = Ask { logprobs: Some(3), ..Ask::turn("My card was declined", decoding) };
        let whole = open(&dir, 1).answer(std::slice::from_ref(&ask)).remove(0).unwrap();
        let count = whole.text.chars().count();
        assert!(count > 6, "{}", whole.text);
        assert_eq!(whole.logprobs.iter().map(|t| t.text.as_str()).collect::<String>(), whole.text);
        for token in &whole.logprobs {
            assert_eq!(token.top.len(), 3);
            // Greedy: the likeliest was taken.
            assert_eq!((&token.top[0].0, token.top[0].1), (&token.text, token.logprob));
        }
        let stop: String = whole.text.chars().skip(count / 2).take(3).collect();
        let at = whole.text.find(&stop).unwrap();
        let mut ask = ask;
        ask.decoding.stop = vec!["never".into(), stop.clone()];
        let mut pieces = String::new();
        let short = open(&dir, 1)
            .stream(std::slice::from_ref(&ask), &mut |_, heard| {
                if let Heard::Piece(piece) = heard {
                    pieces.push_str(piece);
                }
                ControlFlow::Continue(())
            })
            .remove(0)
            .unwrap();
        assert_eq!((short.text.as_str(), short.finish), (&whole.text[..at], Finish::Stop));
        assert_eq!(pieces, short.text);
        assert!(short.tokens_out < whole.tokens_out || short.logprobs.len() < whole.logprobs.len());
    }

    #[test]
    fn repeated_drawings_of_a_question_differ() {
        let decoding = Decoding { max_tokens: 12, temperature: 1.5, seed: 3, ..Decoding::default() };
        let asks: Vec<Ask> =
            (0..4).map(|sample| Ask { sample, ..Ask::turn("My card", decoding.clone()) }).collect();
        let got = texts(open(&fixture("qwen2"), 1).answer(&asks));
        assert_eq!(got.iter().collect::<std::collections::BTreeSet<_>>().len(), 4, "{got:?}");
        assert_eq!(got, texts(open(&fixture("qwen2"), 1).answer(&asks)));
    }

    #[test]
    fn a_form_that_is_wrong_is_an_error_of_that_row() {
        use crate::domain::candidate::Constraint;
        let form = |constraint| Ask { constraint: Some(constraint), ..ask("card", 0.0) };
        let asks =
            [form(Constraint::Regex("(".into())), form(Constraint::Labels(Vec::new())), ask("card", 0.0)];
        let got = open(&fixture("qwen2"), 1).answer(&asks);
        assert!(got[0].as_ref().unwrap_err().to_string().contains("regular expression"));
        assert!(got[1].as_ref().unwrap_err().to_string().contains("labels"));
        assert!(got[2].is_ok());
    }
}
