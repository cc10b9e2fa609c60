//! A model of this machine: rows spread over threads, each with its own cache.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Answer, Ask, Backend, BackendError, Finish, Listener, Prompt};
use crate::domain::candidate::{AdapterRef, ModelRef};
use crate::model::chat::{ChatTemplate, Message, conversation_tokens, prompt_tokens, tool_tokens};
use crate::model::generate::Generator;
use crate::model::tokenizer::Tokenizer;
use crate::model::{Base, Decoder, Lora, ModelError};
use crate::ops::Par;

/// Weights, adapter, tokenizer and chat template that answer together.
#[derive(Debug)]
pub struct LocalModel {
    decoder: Arc<Decoder>,
    adapter: Option<Lora>,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    /// One for each thread, kept between batches: prompts of one stage begin alike.
    generators: Vec<Generator>,
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
        let generators = (0..threads.max(1)).map(|_| Generator::new(&decoder)).collect();
        Self { decoder, adapter, tokenizer, template, generators }
    }

    fn prompt(&self, ask: &Ask) -> Result<Vec<u32>, ModelError> {
        match &ask.prompt {
            Prompt::Turn(text) if !ask.tools.is_empty() => {
                tool_tokens(&self.tokenizer, self.template.as_ref(), &[Message::user(text)], &ask.tools)
            }
            Prompt::Turn(text) => prompt_tokens(&self.tokenizer, self.template.as_ref(), text),
            Prompt::Text(text) => prompt_tokens(&self.tokenizer, None, text),
            Prompt::Chat(messages) => match &self.template {
                Some(template) if !ask.tools.is_empty() => {
                    tool_tokens(&self.tokenizer, Some(template), messages, &ask.tools)
                }
                Some(template) => conversation_tokens(&self.tokenizer, Some(template), messages),
                None => Err(ModelError::Request(
                    "the model has no chat template, so it cannot be asked with turns of a conversation"
                        .into(),
                )),
            },
        }
    }

    fn one(
        &self,
        generator: &mut Generator,
        ask: &Ask,
        prompt: &[u32],
        par: Par,
    ) -> Result<Answer, ModelError> {
        let made = generator.generate(
            &self.decoder,
            self.adapter.as_ref(),
            self.tokenizer.eos(),
            prompt,
            &ask.decoding,
            par,
            &mut |_| ControlFlow::Continue(()),
        )?;
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
        let prompts: Vec<Result<Vec<u32>, ModelError>> = asks.iter().map(|ask| self.prompt(ask)).collect();
        let mut answers: Vec<Option<Result<Answer, BackendError>>> = asks.iter().map(|_| None).collect();
        let mut work: Vec<(usize, &[u32])> = Vec::new();
        for (i, prompt) in prompts.iter().enumerate() {
            match prompt {
                Ok(prompt) => work.push((i, prompt)),
                Err(e) => answers[i] = Some(Err(BackendError(e.to_string()))),
            }
        }
        // Neighbours in this order share most of their beginning, and with it the cache.
        work.sort_by_key(|(_, prompt)| *prompt);
        let mut generators = std::mem::take(&mut self.generators);
        let threads = generators.len();
        let workers = threads.min(work.len()).max(1);
        // Fewer questions than threads: the threads work inside the operations instead.
        let par = Par::threads(threads / workers);
        // Short stretches, so that no thread is left with all the long answers.
        let stretch = work.len().div_ceil(workers * 8).max(1);
        let (next, model, queue) = (AtomicUsize::new(0), &*self, &work);
        let take = |generator: &mut Generator| {
            let mut done = Vec::new();
            loop {
                let from = next.fetch_add(stretch, Ordering::Relaxed);
                let Some(part) = queue.get(from..queue.len().min(from + stretch)).filter(|p| !p.is_empty())
                else {
                    return done;
                };
                for &(i, prompt) in part {
                    let answer = model.one(generator, &asks[i], prompt, par);
                    done.push((i, answer.map_err(|e| BackendError(e.to_string()))));
                }
            }
        };
        let done: Vec<_> = match generators.as_mut_slice() {
            [only] => take(only),
            many => std::thread::scope(|scope| {
                let threads: Vec<_> = many[..workers].iter_mut().map(|g| scope.spawn(|| take(g))).collect();
                threads.into_iter().flat_map(|t| t.join().unwrap_or_default()).collect()
            }),
        };
        for (i, answer) in done {
            if let Ok(answer) = &answer {
                let _ = listener(i, &answer.text);
            }
            answers[i] = Some(answer);
        }
        self.generators = generators;
        let lost = || Err(BackendError("the thread that answered this row broke down".into()));
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
