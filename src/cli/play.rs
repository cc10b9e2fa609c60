//! `tunebench play A [B] --input TEXT|--row ID`: the playground without a screen.

use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::ask::{ask_with_keys, block_on, connect, unexpected};
use super::output::{Exit, Output};
use crate::domain::api::{Push, Request, Response};
use crate::domain::keys::Keys;
use crate::domain::outcome::StageOutcome;
use crate::domain::play::{PlayAsk, PlayBody, PlayInput, PlayToken, Playing};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Who answers, one or two: a candidate's name, the start of its id, RUN or RUN@STEP (default: the pipeline as it stands)
    #[arg(num_args = 0..=2, value_name = "CANDIDATE")]
    candidates: Vec<String>,
    /// What is asked; - reads it from stdin
    #[arg(long, conflicts_with = "row", required_unless_present = "row")]
    input: Option<String>,
    /// A row of the data, by its id
    #[arg(long)]
    row: Option<String>,
    /// In place of the stages' own; 0 takes the likeliest token each time
    #[arg(long)]
    temperature: Option<f32>,
    /// Of each stage's answer, in place of the stages' own
    #[arg(long)]
    max_tokens: Option<usize>,
    /// Tell each token's probability, with so many others in its place (with --json)
    #[arg(long, value_name = "N")]
    logprobs: Option<usize>,
    /// Send the keys that the workspace names to the endpoints that it names them for, without being asked
    #[arg(long)]
    trust: bool,
}

/// What became of one question.
#[derive(Default)]
struct Heard {
    playing: Playing,
    prompts: Vec<(String, String)>,
    stages: Vec<(StageOutcome, Vec<PlayToken>)>,
    end: Option<Result<String, String>>,
}

pub fn run(args: Args, root: &Path, out: &Output) -> super::CommandResult {
    let input = match (args.row, args.input.as_deref()) {
        (Some(id), _) => PlayInput::Row { id },
        (None, Some("-")) => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(|e| {
                Exit::usage(format!("the input on standard input: {e}; it must be UTF-8 text"))
            })?;
            PlayInput::Typed { text }
        }
        (None, text) => PlayInput::Typed { text: text.unwrap_or_default().to_owned() },
    };
    let mut who: Vec<Option<String>> = args.candidates.into_iter().map(Some).collect();
    if who.is_empty() {
        who.push(None);
    }
    let question = |(id, candidate): (usize, Option<String>)| PlayAsk {
        id: id as u64,
        candidate,
        input: input.clone(),
        temperature: args.temperature,
        max_tokens: args.max_tokens,
        sample: 0,
        logprobs: args.logprobs,
    };
    let questions: Vec<PlayAsk> = who.into_iter().enumerate().map(question).collect();
    let answers = block_on(hear(questions, root, args.trust, out))?;
    let failed = answers.iter().any(|answer| matches!(answer.end, Some(Err(_)) | None));
    out.result(&json!({ "answers": answers.iter().map(shown).collect::<Vec<_>>() }), || {
        answers.iter().map(|answer| words(answer, answers.len() > 1)).collect::<Vec<_>>().join("\n")
    });
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Ask, and hear until all have ended.
async fn hear(questions: Vec<PlayAsk>, root: &Path, agreed: bool, out: &Output) -> Result<Vec<Heard>, Exit> {
    let client = connect(root).await?;
    let mut answers: Vec<Heard> = Vec::new();
    for question in questions {
        let request = Request::Play { question, keys: Keys::default() };
        let Response::Playing { playing } = ask_with_keys(&client, root, request, agreed).await? else {
            return Err(unexpected());
        };
        answers.push(Heard { playing, ..Heard::default() });
    }
    while answers.iter().any(|answer| answer.end.is_none()) {
        let Some(push) = client.push().await else {
            return Err(Exit::failed("the engine ended in mid-answer; `.tunebench/engine.log` says why"));
        };
        let Push::Play { events } = push else { continue };
        for event in events {
            let Some(answer) = usize::try_from(event.id).ok().and_then(|at| answers.get_mut(at)) else {
                continue;
            };
            match event.body {
                PlayBody::Waiting { why } => out.say(&format!("{}: {why}", answer.playing.candidate)),
                PlayBody::Prompt { stage, prompt } => {
                    answer.prompts.retain(|(of, _)| *of != stage);
                    answer.prompts.push((stage, prompt));
                }
                PlayBody::Piece { .. } => {}
                PlayBody::Stage { outcome, tokens } => answer.stages.push((outcome, tokens)),
                PlayBody::Done { output } => answer.end = Some(Ok(output)),
                PlayBody::Failed { error } => answer.end = Some(Err(error)),
            }
        }
    }
    Ok(answers)
}

fn shown(answer: &Heard) -> Value {
    let stage = |(outcome, tokens): &(StageOutcome, Vec<PlayToken>)| {
        let prompt = answer.prompts.iter().find(|(of, _)| *of == outcome.stage).map(|(_, prompt)| prompt);
        let mut value = json!(outcome);
        if let Value::Object(fields) = &mut value {
            fields.insert("prompt".into(), json!(prompt));
            if !tokens.is_empty() {
                fields.insert("tokens".into(), json!(tokens));
            }
        }
        value
    };
    let (output, error) = match &answer.end {
        Some(Ok(output)) => (Some(output), None),
        Some(Err(error)) => (None, Some(error)),
        None => (None, None),
    };
    json!({
        "candidate": answer.playing.candidate,
        "row": answer.playing.row,
        "gold": answer.playing.gold,
        "output": output,
        "error": error,
        "stages": answer.stages.iter().map(stage).collect::<Vec<_>>(),
    })
}

fn words(answer: &Heard, named: bool) -> String {
    let text = match &answer.end {
        Some(Ok(output)) => output.clone(),
        Some(Err(error)) => format!("(failed: {error})"),
        None => "(no answer)".into(),
    };
    if !named {
        return text;
    }
    let first = answer.stages.iter().find(|(o, _)| !o.skipped).map(|(o, _)| o.ttft_ms).unwrap_or_default();
    let out: u64 = answer.stages.iter().map(|(o, _)| o.tokens_out).sum();
    format!(
        "{} (first token {first:.0} ms, {out} tokens)\n  {}",
        answer.playing.candidate,
        text.replace('\n', "\n  ")
    )
}
