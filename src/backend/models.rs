//! Loaded models by what they are: each base once, its adapters beside it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::mpsc::UnboundedReceiver;

use super::forms::Forms;
use super::resident::{Event, Figures, Refused, Resident, Stepper};
use super::{Ask, AskId, BackendError, Lane, LocalModel, Progress, Prompt, Settings, device};
use crate::domain::candidate::{AdapterRef, ModelRef, ModelSource};
use crate::domain::resident::Bounds;
use crate::domain::words::bytes;
use crate::machine;
use crate::model::chat::{ChatTemplate, Message, conversation_text, open_tokens};
use crate::model::tokenizer::Tokenizer;
use crate::model::{Decoder, Lora, ModelConfig, ModelError};

/// Adapters held beside a base; the one that was asked for least lately goes.
const ADAPTERS: usize = 16;
/// The name of the lane without an adapter.
const BASE: &str = "";

/// Reads questions as the model will: their text, their tokens, whether they fit.
#[derive(Debug)]
pub struct Reader {
    tokenizer: Arc<Tokenizer>,
    template: Option<Arc<ChatTemplate>>,
    forms: Arc<Forms>,
    /// Tokens of prompt and answer together.
    pub context: usize,
}

impl Reader {
    fn of(model: &LocalModel) -> Self {
        Self {
            tokenizer: model.tokenizer().clone(),
            template: model.template().cloned(),
            forms: model.forms().clone(),
            context: model.decoder().config.max_positions,
        }
    }

    /// Whether the model can be told of tools.
    pub fn knows_tools(&self) -> bool {
        self.template.as_ref().is_some_and(|template| template.knows_tools())
    }

    /// The text that the model reads, chat template and all.
    ///
    /// # Errors
    /// A template that refuses the conversation.
    pub fn text(&self, ask: &Ask) -> Result<String, ModelError> {
        let template = self.template.as_deref();
        match &ask.prompt {
            Prompt::Text(text) => Ok(text.clone()),
            Prompt::Turn(text) => conversation_text(template, &[Message::user(text.as_str())], &ask.tools),
            Prompt::Chat(turns) => conversation_text(template, turns, &ask.tools),
        }
    }

    /// Whether the model can answer in the form that is asked for.
    ///
    /// # Errors
    /// A form that is wrong or that the model cannot write.
    pub fn check_form(&self, ask: &Ask) -> Result<(), ModelError> {
        ask.constraint.as_ref().map_or(Ok(()), |form| self.forms.check(form))
    }

    /// Number of tokens of the question.
    ///
    /// # Errors
    /// As [`Reader::text`].
    pub fn count(&self, ask: &Ask) -> Result<usize, ModelError> {
        let template = self.template.as_deref().filter(|_| !matches!(ask.prompt, Prompt::Text(_)));
        Ok(open_tokens(&self.tokenizer, template, &self.text(ask)?)?.len())
    }
}

/// A model that can be asked, and whoever holds it.
#[derive(Clone, Debug)]
pub struct Answerer {
    resident: Resident,
    lane: String,
    pub reader: Arc<Reader>,
}

impl Answerer {
    /// # Errors
    /// As [`Resident::submit_all`].
    pub fn submit_all(&self, asks: Vec<Ask>) -> Result<Vec<UnboundedReceiver<Event>>, Refused> {
        self.resident.submit_all(&self.lane, asks)
    }

    /// # Errors
    /// As [`Resident::submit`].
    pub fn submit(&self, ask: Ask) -> Result<UnboundedReceiver<Event>, Refused> {
        self.resident.submit(&self.lane, ask)
    }
}

struct Loaded {
    hash: String,
    resident: Resident,
    reader: Arc<Reader>,
    /// Last asked for.
    at: Instant,
    /// Lanes of adapters, the one last asked for at the end.
    adapters: Vec<String>,
}

/// The models of a resident run.
pub struct Models {
    bounds: Bounds,
    /// Bases held at once, at most.
    most: usize,
    threads: Mutex<usize>,
    /// Held while a model is loaded, so that two who ask at once do not load it twice.
    loading: Mutex<()>,
    /// Held for a moment only: whoever looks at it must not wait for a model that is just being read.
    loaded: Mutex<Vec<Loaded>>,
}

impl Models {
    pub fn new(threads: usize, bounds: Bounds, most: usize) -> Self {
        let threads = Mutex::new(threads.max(1));
        Self { bounds, most: most.max(1), threads, loading: Mutex::default(), loaded: Mutex::default() }
    }

    fn loaded(&self) -> MutexGuard<'_, Vec<Loaded>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The model, loaded now where it is not yet. Where that are more bases than may be held, the one that was asked for least
    /// lately goes, when its answers are given.
    ///
    /// # Errors
    /// A model behind an endpoint; files that cannot be read; an adapter that does not fit.
    pub fn open(&self, model: &ModelRef, adapter: Option<&AdapterRef>) -> Result<Answerer, BackendError> {
        let _one_at_a_time = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        let at = self.place(model)?;
        let (resident, reader, lane) = {
            let mut loaded = self.loaded();
            let base = &mut loaded[at];
            base.at = Instant::now();
            let lane = adapter.map_or_else(|| BASE.to_owned(), |a| format!("{} {}", a.hash, a.path));
            (base.resident.clone(), base.reader.clone(), lane)
        };
        if let Some(adapter) = adapter {
            if !resident.lanes().contains(&lane) {
                resident.add_lane(&lane, adapter)?;
            }
            let adapters = &mut self.loaded()[at].adapters;
            adapters.retain(|known| *known != lane);
            adapters.push(lane.clone());
            if adapters.len() > ADAPTERS {
                resident.remove_lane(&adapters.remove(0));
            }
        }
        Ok(Answerer { resident, lane, reader })
    }

    /// Where it stands in the list, loaded now if need be. Whoever calls holds `loading`: only then the list changes.
    fn place(&self, model: &ModelRef) -> Result<usize, BackendError> {
        let oldest = {
            let mut loaded = self.loaded();
            loaded.retain(|base| base.resident.fault().is_none());
            if let Some(at) = loaded.iter().position(|base| base.hash == model.hash) {
                return Ok(at);
            }
            // A base that a question still holds stays: a pipeline opens those of all its stages first.
            let free = |i: &usize| loaded[*i].resident.is_held_once();
            let oldest = (0..loaded.len()).filter(free).min_by_key(|i| loaded[*i].at);
            oldest.filter(|_| loaded.len() >= self.most).map(|at| loaded.remove(at))
        };
        if let Some(oldest) = oldest {
            oldest.resident.close();
        }
        let fresh = self.load(model)?;
        let mut loaded = self.loaded();
        fresh.resident.use_threads(*self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        loaded.push(fresh);
        Ok(loaded.len() - 1)
    }

    /// It is loaded, so that opening it takes no time.
    pub fn holds(&self, model: &ModelRef) -> bool {
        self.loaded().iter().any(|base| base.hash == model.hash)
    }

    fn load(&self, model: &ModelRef) -> Result<Loaded, BackendError> {
        let ModelSource::Local { path } = &model.source else {
            return Err(BackendError(format!("the model `{}` is behind an endpoint, not here", model.name)));
        };
        let failed = {
            let name = model.name.clone();
            move |e: ModelError| BackendError(format!("the model `{name}` cannot be opened: {e}"))
        };
        let threads = *self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let footprint = Footprint::of(Path::new(path), &self.bounds).map_err(&failed)?;
        let available = machine::available_memory();
        if footprint.weights > available {
            return Err(BackendError(format!(
                "the model `{}` takes {} and {} are free; wait for the run that has the memory, or stop it",
                model.name,
                bytes(footprint.weights),
                bytes(available)
            )));
        }
        let kv_bytes = footprint.cache as usize;
        let gpu_kv_bytes = Some(kv_bytes);
        let settings =
            Settings { kv_bytes, gpu_kv_bytes, requests: self.bounds.at_once, ..Settings::threads(threads) };
        let (wanted, path) = (model.clone(), path.clone());
        let (give, reader) = std::sync::mpsc::channel();
        let open = move || {
            let dir = Path::new(&path);
            let (settings, said) = device::settings_for(dir, wanted.device, settings)
                .map_err(|why| failed(ModelError::Request(why)))?;
            let model = LocalModel::open(dir, &wanted, None, settings).map_err(failed)?;
            if let Some(said) = said {
                tracing::info!("the model `{}`: {said}", wanted.name);
            }
            let _ = give.send(Reader::of(&model));
            Ok(Local { model, numbers: HashMap::new() })
        };
        let resident = Resident::start(BASE, threads, self.bounds, open)?;
        let reader = reader.recv().map_err(|_| BackendError("the model's thread is gone".into()))?;
        let reader = Arc::new(reader);
        let (hash, at) = (model.hash.clone(), Instant::now());
        Ok(Loaded { hash, resident, reader, at, adapters: Vec::new() })
    }

    /// Threads from the next step on.
    pub fn use_threads(&self, threads: usize) {
        *self.threads.lock().unwrap_or_else(PoisonError::into_inner) = threads.max(1);
        for base in self.loaded().iter() {
            base.resident.use_threads(threads);
        }
    }

    pub fn figures(&self) -> Figures {
        self.loaded().iter().fold(Figures::default(), |sum, base| sum.and(base.resident.figures()))
    }

    /// Questions that wait or are being answered.
    pub fn busy(&self) -> usize {
        self.loaded()
            .iter()
            .map(|base| base.resident.load())
            .map(|(waiting, under_way)| waiting + under_way)
            .sum()
    }

    /// What broke one of them.
    pub fn fault(&self) -> Option<String> {
        self.loaded().iter().find_map(|base| base.resident.fault())
    }

    /// Takes no more questions.
    pub fn close(&self) {
        for base in self.loaded().iter() {
            base.resident.close();
        }
    }
}

/// Bytes that a model takes to answer with: its weights as they are computed with, and at most so many for keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    pub weights: u64,
    pub cache: u64,
}

impl Footprint {
    /// Read from the configuration alone.
    ///
    /// # Errors
    /// A configuration that is missing or not supported.
    pub fn of(dir: &Path, bounds: &Bounds) -> Result<Self, ModelError> {
        let outline = Decoder::outline(ModelConfig::load(dir)?, false)?;
        let of_token = 2 * 4 * outline.config.layers * outline.config.kv_heads * outline.config.head_dim;
        let one = (outline.config.max_positions * of_token) as u64;
        // One answer always has room to its end.
        let most = bounds.cache_mib.map_or(DEFAULT_CACHE, |mib| mib << 20).max(one);
        let cache = most.min(one * bounds.at_once.max(1) as u64);
        Ok(Self { weights: 4 * outline.parameters() as u64, cache })
    }

    pub const fn total(&self) -> u64 {
        self.weights + self.cache
    }
}

/// Memory for keys and values where nobody said otherwise.
const DEFAULT_CACHE: u64 = 1 << 30;

/// A local model, driven by numbers of the resident's.
struct Local {
    model: LocalModel,
    numbers: HashMap<AskId, u64>,
}

impl Stepper for Local {
    fn add_lane(&mut self, adapter: &AdapterRef) -> Result<Lane, BackendError> {
        let lora = Lora::load_peft(Path::new(&adapter.path), self.model.decoder());
        lora.and_then(|lora| self.model.add_adapter(lora)).map_err(|e| BackendError(e.to_string()))
    }

    fn remove_lane(&mut self, lane: Lane) {
        self.model.remove_adapter(lane);
    }

    fn submit(&mut self, number: u64, lane: Lane, ask: &Ask) -> Result<(), BackendError> {
        let id = self.model.submit(lane, ask)?;
        self.numbers.insert(id, number);
        Ok(())
    }

    fn step(&mut self, threads: usize) -> Vec<(u64, Event)> {
        self.model.use_threads(threads);
        let mut events = Vec::new();
        for (id, progress) in self.model.step() {
            let Some(&number) = self.numbers.get(&id) else { continue };
            events.push((
                number,
                match progress {
                    Progress::Piece { text, tokens } => Event::Text { text, tokens },
                    Progress::Done(answer) => {
                        self.numbers.remove(&id);
                        match answer {
                            Ok(answer) => Event::Finished(Box::new(answer)),
                            Err(error) => Event::Failed(error),
                        }
                    }
                },
            ));
        }
        events
    }

    fn cancel(&mut self, number: u64) {
        let id = self.numbers.iter().find(|(_, known)| **known == number).map(|(id, _)| *id);
        if let Some(id) = id {
            self.numbers.remove(&id);
            self.model.cancel(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::candidate::{Decoding, Limits};

    fn fixture(name: &str) -> ModelRef {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name);
        ModelRef {
            name: name.into(),
            source: ModelSource::Local { path: path.display().to_string() },
            hash: name.into(),
            usd_per_million_input: None,
            usd_per_million_output: None,
            usd_per_hour: None,
            limits: Limits::default(),
            device: Default::default(),
        }
    }

    fn ask(text: &str) -> Ask {
        Ask::turn(text, Decoding { max_tokens: 5, ..Decoding::default() })
    }

    fn answer(answerer: &Answerer, ask: Ask) -> super::super::Answer {
        let mut from = answerer.submit(ask).unwrap();
        let mut text = String::new();
        loop {
            match from.blocking_recv().unwrap() {
                Event::Text { text: more, .. } => text += &more,
                Event::Finished(answer) => {
                    assert_eq!(answer.text, text, "the pieces are the whole");
                    return *answer;
                }
                Event::Failed(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn a_base_is_loaded_once_and_its_prompt_is_counted_as_it_is_read() {
        let models = Models::new(1, Bounds::default(), 2);
        let first = models.open(&fixture("qwen2"), None).unwrap();
        let again = models.open(&fixture("qwen2"), None).unwrap();
        assert!(Arc::ptr_eq(&first.reader, &again.reader));
        assert!(first.reader.text(&ask("hello")).unwrap().contains("<|im_start|>user\nhello"));
        for name in ["qwen2", "mistral", "llama", "qwen3"] {
            let answerer = models.open(&fixture(name), None).unwrap();
            let question = ask("My card was declined");
            let counted = answerer.reader.count(&question).unwrap();
            assert_eq!(answer(&answerer, question).tokens_in, counted as u64, "{name}");
        }
        assert_eq!(models.loaded().len(), 2, "the oldest went");
    }

    #[test]
    fn what_cannot_be_opened_says_which_model() {
        let models = Models::new(1, Bounds::default(), 2);
        let nowhere = ModelSource::Local { path: "/no/such".into() };
        let error = models.open(&ModelRef { source: nowhere, ..fixture("qwen2") }, None).unwrap_err();
        assert!(error.0.contains("qwen2") && error.0.contains("/no/such"), "{error}");
        let adapter = AdapterRef { path: "/absent".into(), hash: String::new() };
        let error = models.open(&fixture("llama"), Some(&adapter)).unwrap_err();
        assert!(error.0.contains("/absent"), "{error}");
        let footprint = Footprint::of(Path::new("/no/such"), &Bounds::default());
        assert!(footprint.is_err());
    }

    #[test]
    fn the_footprint_is_that_of_the_loaded_weights() {
        let ModelSource::Local { path } = fixture("qwen3").source else { unreachable!() };
        let dir = Path::new(&path);
        let footprint = Footprint::of(dir, &Bounds { at_once: 2, ..Bounds::default() }).unwrap();
        assert_eq!(footprint.weights, Decoder::load(dir).unwrap().bytes() as u64);
        let one = Footprint::of(dir, &Bounds { at_once: 1, ..Bounds::default() }).unwrap();
        assert_eq!(footprint.cache, 2 * one.cache);
        let least = Footprint::of(dir, &Bounds { cache_mib: Some(0), ..Bounds::default() }).unwrap();
        assert_eq!(least.cache, one.cache, "one answer has room");
    }
}
