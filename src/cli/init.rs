//! `tunebench init DIR`: scaffold a workspace from a data file.

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use super::output::{Exit, Output};
use crate::data::{self, Guess, Shape};
use crate::domain::candidate::{Decoding, ModelSource, OutputKind};
use crate::domain::words::counted;
use crate::model::config::ModelConfig;
use crate::model::files;
use crate::tuning::check;
use crate::workspace::scaffold::Scaffold;
use crate::workspace::{FILE, Workspace, nearest};

/// The empty folder that stands for a model that is still to come.
const NO_MODEL: &str = "model";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of the new workspace; made if it is not there
    dir: PathBuf,
    /// Data: jsonl, json, csv, tsv or parquet
    #[arg(long, required = true, value_name = "FILE", num_args = 1..)]
    data: Vec<PathBuf>,
    /// Model: a Hugging Face folder. Without one the data can be looked at, and no run can start that asks a model
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// What the pipeline gets: a field, or a template over fields (default: guessed)
    #[arg(long, value_name = "FIELD")]
    input: Option<String>,
    /// Field with the golden answer (default: guessed)
    #[arg(long, value_name = "FIELD")]
    gold: Option<String>,
}

pub fn run(args: Args, out: &Output) -> super::CommandResult {
    let file = args.dir.join(FILE);
    if fs::symlink_metadata(&file).is_ok() {
        return Err(Exit::usage(format!(
            "{} is there already; edit it, or choose another folder",
            file.display()
        )));
    }
    if let Some(model) = &args.model {
        files::folder(model).map_err(|e| Exit::usage(e.to_string()))?;
        ModelConfig::load(model).map_err(|e| Exit::usage(e.to_string()))?;
    }

    let (mut rows, mut empty) = (0, Vec::new());
    let mut sample = data::Sample::default();
    for path in &args.data {
        let shown = path.display().to_string();
        if !path.is_file() {
            return Err(Exit::usage(format!("{shown} is no file; name the data file with --data")));
        }
        let seen =
            data::survey(path, &shown).map_err(|e| Exit { code: e.exit_code(), message: e.to_string() })?;
        rows += seen.rows.saturating_sub(seen.bad_total as u64);
        if seen.sample.rows.is_empty() {
            empty.push(format!("{shown}: {}", seen.no_row()));
        }
        sample.merge(seen.sample);
        for bad in &seen.bad {
            out.say(&format!("bad row: {}:{}: {}", bad.file, bad.line, data::clean(&bad.reason)));
        }
        if seen.bad_total > 0 {
            out.say(&format!(
                "{} seen; `tunebench data import` will set all of them aside",
                counted(seen.bad_total, "bad row")
            ));
        }
    }
    if sample.rows.is_empty() {
        return Err(Exit::usage(empty.join("\n")));
    }
    let input = told_input(&args, &sample)?;
    let mut guess = data::guess(&sample, input.as_deref(), args.gold.as_deref());
    let scaffold = write(&args, &mut guess, &sample)?;
    say(&args, out, rows, &guess, &scaffold);
    Ok(ExitCode::SUCCESS)
}

/// What was named must be there. Hands back the template for the input, where one was named.
fn told_input(args: &Args, sample: &data::Sample) -> Result<Option<String>, Exit> {
    let mut known: Vec<String> = sample.rows.iter().flat_map(|r| r.keys().cloned()).collect();
    known.sort_unstable();
    known.dedup();
    if let Some(gold) = &args.gold
        && !sample.rows.iter().any(|row| data::field(row, gold).is_some())
    {
        let near = nearest(gold, known.iter().map(String::as_str)).map(|n| format!("; did you mean `{n}`?"));
        let hint = near.unwrap_or_else(|| format!("; fields: {}", known.join(", ")));
        return Err(Exit::usage(format!("--gold {gold}: no sampled row has this field{hint}")));
    }
    let Some(input) = &args.input else { return Ok(None) };
    if known.contains(input) {
        return Ok(Some(data::template_of(input)));
    }
    if !input.contains("{{") && !input.contains("{%") {
        let near = nearest(input, known.iter().map(String::as_str)).map(|n| format!("; did you mean `{n}`?"));
        let hint = near.unwrap_or_else(|| format!("; fields: {}", known.join(", ")));
        return Err(Exit::usage(format!("--input {input}: no sampled row has this field{hint}")));
    }
    data::Resolver::new(Some(input), None, &Guess::default())
        .map_err(|e| Exit::usage(format!("--input: {e}")))?;
    match data::unknown_fields(input, &known).into_iter().next() {
        Some(message) => Err(Exit::usage(format!("--input: {message}"))),
        None => Ok(Some(input.clone())),
    }
}

fn write(args: &Args, guess: &mut Guess, sample: &data::Sample) -> Result<Scaffold, Exit> {
    fs::create_dir_all(args.dir.join("prompts"))?;
    let root = fs::canonicalize(&args.dir)?;
    let data = args.data.iter().map(|p| relative(&root, p)).collect::<Result<_, _>>()?;
    let (input, gold) = guess.shape.offers();
    let name = root.file_name().map_or_else(|| "workspace".into(), |n| n.to_string_lossy().into_owned());
    let shape_note = (guess.shape != Shape::Records).then(|| {
        let gold = gold.unwrap_or("none");
        format!("shape {}: input is {}, gold is {gold}", guess.shape.name(), input.unwrap_or("none"))
    });
    let model = match &args.model {
        Some(model) => relative(&root, model)?,
        None => {
            fs::create_dir_all(root.join(NO_MODEL))?;
            NO_MODEL.to_owned()
        }
    };
    let mut scaffold = Scaffold {
        name,
        task: guess.task,
        data,
        model,
        input: guess.input.clone(),
        gold: guess.gold.clone(),
        shape_note,
        dimensions: guess.dimensions.clone(),
        labels: guess.labels.clone(),
        room: None,
    };
    let prompt = root.join(scaffold.prompt_path());
    let own = fs::read_to_string(&prompt).ok();
    guess.why.extend(match &args.model {
        Some(model) => fit(&mut scaffold, own.as_deref(), model, guess, sample)?,
        None => vec![format!(
            "model: none yet; data, strata and problems can be looked at; before a run, put a model's files into {NO_MODEL}/ or name its folder in {FILE}"
        )],
    });
    // A prompt that a person has written already stays.
    if fs::symlink_metadata(&prompt).is_err() {
        create(&prompt, &scaffold.prompt())?;
    }
    create(&root.join(FILE), &scaffold.toml())?;
    Workspace::load(&root).map_err(|e| Exit::failed(format!("the new workspace does not load:\n{e}")))?;
    Ok(scaffold)
}

/// Makes prompt and answer fit the model's context on nine rows of ten; says what was done for it, or what is to be done.
/// `own`: the prompt that a person has written already.
fn fit(
    scaffold: &mut Scaffold,
    own: Option<&str>,
    model: &Path,
    guess: &Guess,
    sample: &data::Sample,
) -> Result<Vec<String>, Exit> {
    /// Fewer tokens hold no answer.
    const LEAST: usize = 4;
    let Ok(resolver) = data::Resolver::new(guess.input.as_deref(), guess.gold.as_deref(), guess) else {
        return Ok(Vec::new());
    };
    let rows = check::Sample::of_fields(&sample.rows, &resolver);
    let measured = |scaffold: &Scaffold| -> Result<(usize, usize), Exit> {
        let text = own.map_or_else(|| scaffold.prompt(), str::to_owned);
        let source = ModelSource::Local { path: model.display().to_string() };
        let stage =
            check::asked(scaffold.stage(), "base", source, &text, OutputKind::default(), Decoding::default());
        let (mut lengths, context) =
            check::first_prompts(&stage, model, &rows).map_err(|e| Exit::usage(e.to_string()))?;
        lengths.even.sort_unstable();
        let at = lengths.even.len() * 9 / 10;
        Ok((lengths.even.get(at).copied().unwrap_or_default(), context))
    };
    let mut done = Vec::new();
    let (mut tokens, context) = measured(scaffold)?;
    if tokens + scaffold.max_tokens() > context && scaffold.lists_labels() && own.is_none() {
        let labels = std::mem::take(&mut scaffold.labels);
        scaffold.room = Some(scaffold.max_tokens_for(&labels));
        done.push(format!(
            "prompt: does not list the {} labels: with them it has {tokens} tokens, the model's context is {context}; a model with a longer context could be told them",
            labels.len()
        ));
        tokens = measured(scaffold)?.0;
    }
    let room = context.saturating_sub(tokens);
    if room < scaffold.max_tokens() {
        if room >= LEAST {
            scaffold.room = Some(room);
            done.push(format!(
                "max_tokens: {room}, what prompts of {tokens} tokens leave of the model's context of {context}"
            ));
        } else {
            done.push(format!(
                "too long: prompts have {tokens} tokens and the model's context is {context}: take a model with a longer context, or a shorter input (--input FIELD)"
            ));
        }
    }
    Ok(done)
}

/// Appears whole or not at all, and never over another file.
fn create(path: &Path, text: &str) -> Result<(), Exit> {
    use std::io::Write as _;
    let temp = path.with_extension("tmp");
    let mut file = fs::File::create(&temp)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    // A link fails where the name is taken; a rename would replace it. Some file systems know no links.
    let linked = match fs::hard_link(&temp, path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists && !path.exists() => fs::rename(&temp, path),
        linked => linked.and_then(|()| fs::remove_file(&temp)),
    };
    linked.map_err(|e| Exit::failed(format!("cannot write {}: {e}", path.display())))
}

/// The path as it is written into the file: relative where they share a folder below the root, else absolute.
fn relative(root: &Path, path: &Path) -> Result<String, Exit> {
    let path = fs::canonicalize(path).map_err(|e| Exit::usage(format!("{}: {e}", path.display())))?;
    let shared = root.components().zip(path.components()).take_while(|(a, b)| a == b).count();
    let written: PathBuf = if shared > 1 {
        let up = root.components().skip(shared).map(|_| Component::ParentDir);
        up.chain(path.components().skip(shared)).collect()
    } else {
        path
    };
    let written = if written.as_os_str().is_empty() { PathBuf::from(".") } else { written };
    written.to_str().map(str::to_owned).ok_or_else(|| {
        Exit::usage(format!("{}: the path is not valid UTF-8 and cannot stand in {FILE}", written.display()))
    })
}

fn say(args: &Args, out: &Output, rows: u64, guess: &Guess, scaffold: &Scaffold) {
    let (own_input, own_gold) = guess.shape.offers();
    let input = guess.input.as_deref().or(own_input);
    let gold = guess.gold.as_deref().or(own_gold);
    let value = json!({
        "rows": rows,
        "task": guess.task.name(),
        "input": input,
        "gold": gold,
        "dimensions": guess.dimensions,
        "shape": guess.shape.name(),
        "why": guess.why,
    });
    out.result(&value, || {
        let dir = args.dir.display();
        let mut text = format!("{}\n", counted(rows as usize, "row"));
        for reason in &guess.why {
            text.push_str(&format!("  {}\n", data::clean_line(reason)));
        }
        text.push_str(&format!(
            "wrote {}\nwrote {}\n",
            args.dir.join(FILE).display(),
            args.dir.join(scaffold.prompt_path()).display()
        ));
        text.push_str(&format!("next: tunebench -C {dir} check, then tunebench -C {dir} data import"));
        text
    });
}
