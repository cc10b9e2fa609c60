//! `tunebench generate`: one generation, its text as it comes.

use std::io::{Read as _, Write as _};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use super::output::{Exit, Output};
use crate::domain::candidate::Decoding;
use crate::model::chat::{ChatTemplate, prompt_tokens};
use crate::model::decode::{Engine, Generation, Lane, Request, Settings};
use crate::model::tokenizer::{TextStream, Tokenizer};
use crate::model::{Decoder, Lora, ModelError, files};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A Hugging Face folder: config.json, tokenizer.json, *.safetensors
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// A LoRA adapter in PEFT's format
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
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
    /// Of the draws; the same seed draws the same
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The prompt as it stands, without the model's chat template
    #[arg(long)]
    raw: bool,
    /// Threads (default: all)
    #[arg(long)]
    threads: Option<usize>,
}

pub fn run(args: Args, out: &Output) -> super::CommandResult {
    let dir = &args.model;
    files::folder(dir).map_err(usage)?;
    let tokenizer = Tokenizer::load(dir).map_err(usage)?;
    let template = if args.raw { None } else { ChatTemplate::load(dir).map_err(usage)? };
    let text = if args.prompt == "-" {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(|e| Exit::usage(format!("the prompt on standard input: {e}; it must be UTF-8 text")))?;
        text
    } else {
        args.prompt
    };
    let prompt = prompt_tokens(&tokenizer, template.as_ref(), &text).map_err(usage)?;
    let decoder = Decoder::load(dir).map_err(usage)?;
    let adapter = args.adapter.map(|a| Lora::load_peft(&a, &decoder)).transpose().map_err(usage)?;
    let decoding = Decoding {
        max_tokens: args.max_tokens,
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        seed: args.seed,
        ..Decoding::default()
    };

    let mut stream = TextStream::new(&tokenizer);
    let mut stdout = std::io::stdout().lock();
    let mut trouble = None;
    let mut show = |piece: Result<String, ModelError>| match piece {
        Err(e) => {
            trouble = Some(e);
            ControlFlow::Break(())
        }
        Ok(_) if out.json => ControlFlow::Continue(()),
        // A closed pipe (`| head`) is the reader's wish: no more is made.
        Ok(piece) => match stdout.write_all(printable(&piece).as_bytes()).and_then(|()| stdout.flush()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        },
    };
    let settings = Settings::threads(args.threads.unwrap_or_else(threads));
    let mut engine = Engine::new(&decoder, settings).map_err(usage)?;
    let lane = match &adapter {
        Some(adapter) => engine.add_lane(adapter).map_err(usage)?,
        None => Lane::BASE,
    };
    let prompt_tokens = prompt.len();
    let request = Request::generate(lane, prompt, &decoding, tokenizer.eos()).map_err(usage)?;
    let made = engine.run(vec![request], &mut |_, id| show(stream.push(id)));
    let made = made.into_iter().next().unwrap_or_else(|| Ok(Generation::default())).map_err(usage)?;
    let _ = show(stream.finish());
    drop(stdout);
    if let Some(error) = trouble {
        return Err(usage(error));
    }
    let text = tokenizer.decode(&made.tokens).map_err(usage)?;
    let value = json!({
        "text": text,
        "tokens": made.done.steps,
        "ttft_ms": made.done.ttft_ms,
        "tpot_ms": made.done.tpot_ms(),
        "prompt_tokens": prompt_tokens,
        "ended": made.done.ended,
    });
    out.result(&value, String::new);
    Ok(ExitCode::SUCCESS)
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
