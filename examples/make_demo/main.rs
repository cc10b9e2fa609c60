//! Makes the demo workspace's data and its base model from nothing: `cargo run --release --example make_demo -- all`.
//!
//! Everything follows from `workspaces/demo/recipe/lexicon.toml` and fixed seeds.

mod desk;
mod lessons;
mod lexicon;
mod messages;
mod planner;
mod pretrain;
mod random;
mod tokens;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use lexicon::Lexicon;

/// Texts that the tokenizer is trained on.
const TOKENIZER_TEXTS: usize = 20_000;
const TOKENIZER_SEED: u64 = 11;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let demo = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/workspaces/demo"));
    let (what, to) = match args.as_slice() {
        [what] => (what.as_str(), demo),
        [what, to] => (what.as_str(), PathBuf::from(to)),
        [what, to, _] if what == "planner" => (what.as_str(), PathBuf::from(to)),
        _ => bail!(
            "usage: make_demo data|truth|tokenizer|model|all|planner|show [DIR]   (default: workspaces/demo, of the planner workspaces/planner; \
             planner DIR ROWS makes more of it)"
        ),
    };
    let words = Lexicon::load()?;
    match what {
        "data" => data(&words, &to, false),
        "truth" => data(&words, &to, true),
        "tokenizer" => tokenizer(&words, &to),
        "show" => show(&words),
        "planner" => {
            let n = args.get(2).map_or(Ok(planner::ROWS), |n| n.parse().context("ROWS must be a number"))?;
            planner(&words, args.get(1).map(PathBuf::from), n)
        }
        "model" => model(&words, &to),
        "all" => {
            data(&words, &to, false)?;
            tokenizer(&words, &to)?;
            model(&words, &to)
        }
        _ => bail!("`{what}` is none of: data, truth, tokenizer, model, all, planner, show"),
    }
}

/// With `truth` a file of its own, which says who should have handled each message.
fn data(words: &Lexicon, to: &Path, truth: bool) -> anyhow::Result<()> {
    let file = to.join(if truth { "data/truth.jsonl" } else { "data/messages.jsonl" });
    let rows = desk::rows(words);
    write(&file, &desk::jsonl(&rows, truth)?)?;
    println!("{}: {} rows", file.display(), rows.len());
    Ok(())
}

fn planner(words: &Lexicon, to: Option<PathBuf>, n: usize) -> anyhow::Result<()> {
    let to = to.unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/workspaces/planner")));
    write(&to.join("data/messages.jsonl"), &planner::jsonl(&planner::rows(words, n))?)?;
    for (name, text) in planner::tools(words)? {
        write(&to.join(name), &text)?;
    }
    println!("{}: {n} rows, two tools", to.display());
    Ok(())
}

fn tokenizer(words: &Lexicon, to: &Path) -> anyhow::Result<()> {
    let file = to.join("model/tokenizer.json");
    let desk: BTreeSet<String> = desk::rows(words).into_iter().map(|row| row.message).collect();
    let mut teacher = lessons::Teacher::new(words, TOKENIZER_SEED);
    let mut texts = Vec::with_capacity(TOKENIZER_TEXTS);
    for _ in 0..TOKENIZER_TEXTS {
        let lesson = teacher.lesson(1.0);
        ensure!(
            lesson.messages.iter().all(|m| !desk.contains(m)),
            "a message of the demo's data is in the text"
        );
        texts.push(lesson.text());
    }
    std::fs::create_dir_all(to.join("model"))?;
    tokens::train(texts, &file)?;
    println!("{}", file.display());
    Ok(())
}

fn model(words: &Lexicon, to: &Path) -> anyhow::Result<()> {
    let desk: BTreeSet<String> = desk::rows(words).into_iter().map(|row| row.message).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    pretrain::train(words, &desk, &to.join("model"), threads)
}

/// A few rows and lessons, to read; learned text stands in brackets.
fn show(words: &Lexicon) -> anyhow::Result<()> {
    print!("{}", desk::jsonl(&desk::rows(words)[..20], false)?);
    let mut teacher = lessons::Teacher::new(words, 1);
    for way in [0.0, 0.5, 1.0, 1.0, 1.0, 1.0] {
        let lesson = teacher.lesson(way);
        let mut text = lesson.text();
        for answer in lesson.answers().iter().rev() {
            text.insert(answer.end, ']');
            text.insert(answer.start, '[');
        }
        println!("---- {way}\n{text}");
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}
