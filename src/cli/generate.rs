//! `tunebench generate`: one generation, its text as it comes.

use std::io::{Read as _, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};

use super::output::{Exit, Output};
use crate::backend::{Answer, Ask, Backend as _, Finish, Heard, LocalModel, Prompt, Settings, device};
use crate::domain::candidate::{Constraint, Decoding};
use crate::domain::settings::DeviceChoice;
use crate::model::chat::ChatTemplate;
use crate::model::constraint;
use crate::model::decode::Draft;
use crate::model::tokenizer::Tokenizer;
use crate::model::{Decoder, Lora, ModelError, files};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A Hugging Face folder: config.json, tokenizer.json, *.safetensors
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// A LoRA adapter in PEFT's format
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// A smaller model with the same tokenizer that guesses tokens ahead: the same greedy answer, sooner
    #[arg(long, value_name = "DIR")]
    draft: Option<PathBuf>,
    /// What the user says; - reads it from stdin
    #[arg(long)]
    prompt: String,
    /// Tokens of the answer, at most
    #[arg(long, default_value_t = 128)]
    max_tokens: usize,
    /// 0 takes the likeliest token each time
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Draw among this many of the likeliest tokens
    #[arg(long)]
    top_k: Option<usize>,
    /// Draw among the likeliest tokens that have this probability together
    #[arg(long)]
    top_p: Option<f32>,
    /// Leave out tokens that are less likely than this share of the likeliest
    #[arg(long)]
    min_p: Option<f32>,
    /// Above 1: tokens of prompt and answer become less likely
    #[arg(long, value_name = "PENALTY")]
    repetition_penalty: Option<f32>,
    /// End the answer before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Of the draws; the same seed draws the same
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Say how likely each token was, with so many of the likeliest in its place
    #[arg(long, value_name = "N")]
    logprobs: Option<usize>,
    #[command(flatten)]
    form: Form,
    /// The prompt as it stands, without the model's chat template
    #[arg(long)]
    raw: bool,
    /// Threads (default: all)
    #[arg(long)]
    threads: Option<usize>,
    /// Where to compute: auto, cpu or cuda:0
    #[arg(long, default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
}

/// What the answer must look like.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct Form {
    /// The answer is JSON of the schema in this file
    #[arg(long, value_name = "FILE")]
    json_schema: Option<PathBuf>,
    /// The whole answer matches this regular expression
    #[arg(long)]
    regex: Option<String>,
    /// The answer is one of these, each with its probability
    #[arg(long, value_name = "A,B,C", value_delimiter = ',', conflicts_with_all = ["logprobs", "stop"])]
    labels: Vec<String>,
}

/// Tokens that a draft model guesses at once.
const GUESSED: usize = 4;
/// Bytes of a draft model's keys and values at most.
const DRAFT_CACHE: usize = 256 << 20;

/// The draft model in `draft`, whose tokenizer must be that of the model in `dir`.
fn draft_of(dir: &Path, draft: &Path) -> Result<Draft, Exit> {
    files::folder(draft).map_err(usage)?;
    let tokenizer = |dir: &Path| {
        let file = dir.join("tokenizer.json");
        std::fs::read(&file).map_err(|e| Exit::usage(format!("{}: {e}", file.display())))
    };
    if tokenizer(dir)? != tokenizer(draft)? {
        return Err(Exit::usage(format!(
            "{}: its tokenizer.json is not that of {}; a draft model must read and write the same tokens",
            draft.display(),
            dir.display()
        )));
    }
    let decoder = Arc::new(Decoder::load(draft).map_err(usage)?);
    Ok(Draft { decoder, tokens: GUESSED, kv_bytes: DRAFT_CACHE })
}

/// Of the likeliest tokens at each place, at most so many are shown.
const MOST_LOGPROBS: usize = 100;

pub fn run(args: Args, out: &Output) -> super::CommandResult {
    let ask = ask(&args)?;
    let dir = &args.model;
    files::folder(dir).map_err(usage)?;
    let tokenizer = Tokenizer::load(dir).map_err(usage)?;
    let template = if args.raw { None } else { ChatTemplate::load(dir).map_err(usage)? };
    let decoder = Decoder::load(dir).map_err(usage)?;
    let adapter = args.adapter.as_ref().map(|a| Lora::load_peft(a, &decoder)).transpose().map_err(usage)?;
    let threads = args.threads.unwrap_or_else(threads);
    let settings = Settings { requests: 1, ..Settings::threads(threads) };
    let (mut settings, said) = device::settings_for(dir, args.device, settings).map_err(Exit::usage)?;
    if let Some(said) = said {
        out.say(&said);
    }
    settings.speculation.draft = args.draft.as_deref().map(|draft| draft_of(dir, draft)).transpose()?;
    let mut model =
        LocalModel::new(Arc::new(decoder), adapter, tokenizer, template, settings).map_err(usage)?;

    let mut stdout = std::io::stdout().lock();
    let mut show = |_: usize, heard: Heard<'_>| match heard {
        Heard::Piece(piece) if !out.json => {
            // A closed pipe (`| head`) is the reader's wish: no more is made.
            match stdout.write_all(printable(piece).as_bytes()).and_then(|()| stdout.flush()) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        }
        _ => ControlFlow::Continue(()),
    };
    let answer = model.stream(std::slice::from_ref(&ask), &mut show).into_iter().next();
    drop(stdout);
    let answer = answer
        .ok_or_else(|| Exit::failed("the model gave no answer"))?
        .map_err(|e| Exit::usage(e.to_string()))?;
    if answer.finish == Finish::Length && ask.constraint.is_some() {
        out.say("the answer was cut off before it had its form: raise --max-tokens");
    }
    out.result(&value(&answer), || details(&answer));
    Ok(ExitCode::SUCCESS)
}

fn ask(args: &Args) -> Result<Ask, Exit> {
    let text = if args.prompt == "-" {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(|e| Exit::usage(format!("the prompt on standard input: {e}; it must be UTF-8 text")))?;
        text
    } else {
        args.prompt.clone()
    };
    let decoding = Decoding {
        max_tokens: args.max_tokens,
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        repetition_penalty: args.repetition_penalty,
        stop: args.stop.clone(),
        seed: args.seed,
    };
    if args.logprobs.is_some_and(|n| n > MOST_LOGPROBS) {
        return Err(Exit::usage(format!("--logprobs: at most {MOST_LOGPROBS} of the likeliest are shown")));
    }
    let form = args.form.constraint()?;
    if let Some(form) = &form {
        constraint::check(form).map_err(usage)?;
    }
    let prompt = if args.raw { Prompt::Text(text) } else { Prompt::Turn(text) };
    Ok(Ask { prompt, constraint: form, logprobs: args.logprobs, ..Ask::turn("", decoding) })
}

impl Form {
    fn constraint(&self) -> Result<Option<Constraint>, Exit> {
        if let Some(file) = &self.json_schema {
            return schema(file).map(|schema| Some(Constraint::Schema(schema)));
        }
        if let Some(regex) = &self.regex {
            return Ok(Some(Constraint::Regex(regex.clone())));
        }
        Ok((!self.labels.is_empty()).then(|| Constraint::Labels(self.labels.clone())))
    }
}

fn schema(file: &Path) -> Result<Value, Exit> {
    let text = std::fs::read_to_string(file).map_err(|e| Exit::usage(format!("{}: {e}", file.display())))?;
    serde_json::from_str(&text)
        .map_err(|e| Exit::usage(format!("{}:{}: not valid JSON: {e}", file.display(), e.line())))
}

fn value(answer: &Answer) -> Value {
    let after_first = answer.tokens_out.saturating_sub(1);
    let tpot = if after_first == 0 { 0.0 } else { (answer.ms - answer.ttft_ms) / after_first as f64 };
    let mut value = json!({
        "text": answer.text,
        "tokens": answer.tokens_out,
        "ttft_ms": answer.ttft_ms,
        "tpot_ms": tpot,
        "prompt_tokens": answer.tokens_in,
        "ended": answer.finish == Finish::Stop,
        "finish": answer.finish,
    });
    if !answer.logprobs.is_empty() {
        value["logprobs"] = json!(answer.logprobs);
    }
    if !answer.labels.is_empty() {
        value["labels"] =
            answer.labels.iter().map(|(l, p)| json!({ "label": l, "probability": p })).collect();
    }
    value
}

/// What stands under the text for people: probabilities, where they were asked for.
fn details(answer: &Answer) -> String {
    let mut lines = Vec::new();
    for token in &answer.logprobs {
        let others: Vec<String> =
            token.top.iter().map(|(text, logprob)| format!("{text:?} {:.4}", logprob.exp())).collect();
        lines.push(format!("{:?}  {:.4}  {}", token.text, token.logprob.exp(), others.join("  ")));
    }
    for (label, probability) in &answer.labels {
        lines.push(format!("{probability:.4}  {label}"));
    }
    if lines.is_empty() { String::new() } else { format!("\n\n{}", lines.join("\n")) }
}

/// What cannot be read or asked is bad input.
pub(super) fn usage(error: ModelError) -> Exit {
    Exit::usage(error.to_string())
}

pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Text of a model must not steer the terminal: no control characters but newline and tab.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mb\u{9b}2J\r\n\tc\u{7}"), "a[31mb2J\n\tc");
    }
}
