//! The files that `workspace.toml` names: there, of the right kind, and prompts that parse.

use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::config::{Constrain, ModelPlace};
use super::problem::{Problem, Problems};
use super::{Workspace, read_text};
use crate::domain::metric::{Base, Schema};
use crate::domain::tool::Tool;

/// Everything the workspace names and that is not there.
pub(super) fn missing(ws: &Workspace) -> Problems {
    let mut problems = Vec::new();
    let config = &ws.config;
    for (i, source) in config.data.sources.iter().enumerate() {
        let key = format!("data.source.{i}");
        let place = if ws.line_of(&key) > 0 { key } else { "data.source".to_owned() };
        file(ws, &mut problems, &place, Path::new(source), "data file");
    }
    for (name, model) in &config.models {
        if let ModelPlace::Local { path } = &model.place {
            folder(ws, &mut problems, &format!("models.{name}.path"), path);
        }
    }
    for (i, stage) in config.stages.iter().enumerate() {
        if let Some(prompt) = &stage.prompt {
            template(ws, &mut problems, &format!("stage.{i}.prompt"), prompt);
        }
        tools(ws, &mut problems, i, &stage.tools);
        if let Some(Constrain::Schema(path)) = &stage.constrain
            && file(ws, &mut problems, &format!("stage.{i}.constrain.schema"), path, "schema")
            && let Err(found) = read_schema(ws, path)
        {
            problems.extend(found.0);
        }
    }
    for (i, judge) in config.judges.iter().enumerate() {
        for (key, path) in [("rubric", &judge.rubric), ("pairwise", &judge.pairwise)] {
            if let Some(path) = path {
                rubric(ws, &mut problems, &format!("judge.{i}.{key}"), path);
            }
        }
    }
    let train = config.tuning.train.prompt.as_str();
    if !matches!(train, "bare" | "same") {
        template(ws, &mut problems, "tuning.train.prompt", Path::new(train));
    }
    problems.sort();
    problems.dedup();
    Problems(problems)
}

/// Reads the schemas that metrics name (`json_schema:FILE`) into the settings; what is wrong with them.
pub(super) fn take_schemas(ws: &mut Workspace) -> Vec<Problem> {
    let eval = &ws.config.eval;
    let mut found: Vec<(String, String)> = Vec::new();
    for name in eval.metrics.iter().chain(&eval.beside) {
        if let Ok(metric) = eval.known().find(name)
            && metric.entry.base == Base::JsonSchema
            && let Some(path) = metric.argument
            && found.iter().all(|(known, _)| *known != path)
        {
            let goal = ws.config.goals.iter().position(|goal| goal.metric == *name);
            let key = match goal {
                Some(i) if !eval.metrics.contains(name) => format!("goal.{i}.metric"),
                _ => "eval.metrics".to_owned(),
            };
            found.push((path, key));
        }
    }
    let mut problems = Vec::new();
    for (shown, key) in found {
        let path = Path::new(&shown);
        if !file(ws, &mut problems, &key, path, "schema") {
            continue;
        }
        match read_schema(ws, path) {
            Err(found) => problems.extend(found.0),
            Ok(schema) => match Schema::new(&schema) {
                Err(why) => {
                    let message = format!("not a schema that answers can be held against: {why}");
                    problems.push(Problem { file: shown, line: 0, message });
                }
                Ok(_) => {
                    ws.config.eval.schemas.insert(shown, Arc::new(schema));
                }
            },
        }
    }
    problems
}

/// Says where was looked, when that is not plain from what was written.
fn looked_at(ws: &Workspace, path: &Path) -> String {
    let resolved = ws.resolve(path);
    if resolved == path {
        format!("`{}`", path.display())
    } else {
        format!("`{}` (that is {})", path.display(), resolved.display())
    }
}

fn file(ws: &Workspace, problems: &mut Vec<Problem>, key: &str, path: &Path, what: &str) -> bool {
    let shown = looked_at(ws, path);
    let message = match std::fs::metadata(ws.resolve(path)) {
        Ok(meta) if meta.is_file() => return true,
        Ok(meta) if meta.is_dir() => format!("{what} {shown} is a folder; name a file"),
        Ok(_) => format!("{what} {shown} is not a regular file"),
        Err(e) if e.kind() == io::ErrorKind::NotFound => format!("{what} {shown} does not exist"),
        Err(e) => format!("{what} {shown} cannot be read: {e}"),
    };
    problems.push(ws.problem(key, message));
    false
}

fn folder(ws: &Workspace, problems: &mut Vec<Problem>, key: &str, path: &Path) {
    let shown = looked_at(ws, path);
    let advice = "a Hugging Face folder with config.json, tokenizer.json and *.safetensors is expected";
    let message = match std::fs::metadata(ws.resolve(path)) {
        Ok(meta) if meta.is_dir() => return,
        Ok(_) => format!("model {shown} is a file; {advice}"),
        Err(e) if e.kind() == io::ErrorKind::NotFound => format!("model {shown} does not exist; {advice}"),
        Err(e) => format!("model {shown} cannot be read: {e}"),
    };
    problems.push(ws.problem(key, message));
}

/// Files of recorded tools, each with a name of its own.
fn tools(ws: &Workspace, problems: &mut Vec<Problem>, stage: usize, paths: &[PathBuf]) {
    let mut names: Vec<String> = Vec::new();
    for (i, path) in paths.iter().enumerate() {
        let key = format!("stage.{stage}.tool.{i}");
        let key = if ws.line_of(&key) > 0 { key } else { format!("stage.{stage}.tool") };
        if !file(ws, problems, &key, path, "tool") {
            continue;
        }
        match read_tool(ws, path) {
            Err(found) => problems.extend(found.0),
            Ok(tool) if names.contains(&tool.name) => {
                let message = format!("`{}` is a second tool called `{}`", path.display(), tool.name);
                problems.push(ws.problem(&key, message));
            }
            Ok(tool) => names.push(tool.name),
        }
    }
}

/// A recorded tool from its file.
pub(super) fn read_tool(ws: &Workspace, path: &Path) -> Result<Tool, Problems> {
    let shown = path.display().to_string();
    let text = read_text(&ws.resolve(path), &shown)?;
    Tool::parse(&text)
        .map_err(|slip| Problems(vec![Problem { file: shown, line: slip.line, message: slip.message }]))
}

/// A JSON Schema from its file, as JSON; what it says is looked at where it is used.
pub(super) fn read_schema(ws: &Workspace, path: &Path) -> Result<serde_json::Value, Problems> {
    let shown = path.display().to_string();
    let text = read_text(&ws.resolve(path), &shown)?;
    serde_json::from_str(&text).map_err(|e| {
        let message = format!("not valid JSON: {e}");
        Problems(vec![Problem { file: shown, line: e.line() as u64, message }])
    })
}

fn template(ws: &Workspace, problems: &mut Vec<Problem>, key: &str, path: &Path) {
    if let Some(text) = parsed(ws, problems, key, path, "prompt")
        && let Some(message) = says_nothing_of_the_row(&text)
    {
        problems.push(Problem { file: path.display().to_string(), line: 1, message: message.into() });
    }
}

/// What a judge goes by; the texts to judge are added to it where it does not say where they belong.
fn rubric(ws: &Workspace, problems: &mut Vec<Problem>, key: &str, path: &Path) {
    if let Some(text) = parsed(ws, problems, key, path, "rubric")
        && text.trim().is_empty()
    {
        let message = "the rubric is empty; say what makes an answer good, and what bad".into();
        problems.push(Problem { file: path.display().to_string(), line: 1, message });
    }
}

/// The text of a template that is there and parses.
fn parsed(ws: &Workspace, problems: &mut Vec<Problem>, key: &str, path: &Path, what: &str) -> Option<String> {
    if !file(ws, problems, key, path, what) {
        return None;
    }
    let shown = path.display().to_string();
    let text = match read_text(&ws.resolve(path), &shown) {
        Err(found) => {
            problems.extend(found.0);
            return None;
        }
        Ok(text) => text,
    };
    if let Err(e) = minijinja::Environment::new().template_from_str(&text) {
        let line = e.line().unwrap_or(0) as u64;
        let detail = e.detail().map_or_else(|| e.kind().to_string(), str::to_owned);
        problems.push(Problem { file: shown, line, message: format!("not a valid template: {detail}") });
        return None;
    }
    Some(text)
}

/// A prompt that is the same for every row can only be a slip.
fn says_nothing_of_the_row(text: &str) -> Option<&'static str> {
    if text.trim().is_empty() {
        return Some("the prompt is empty; it must at least give the model the row's input, {{ input }}");
    }
    let env = minijinja::Environment::new();
    let names = env.template_from_str(text).ok()?.undeclared_variables(false);
    let of_row = |name: &String| {
        !matches!(name.as_str(), "examples" | "labels" | "tools")
            && env.globals().all(|(global, _)| global != name)
    };
    (!names.iter().any(of_row)).then_some(
        "the prompt never mentions the row's input, so that every row would be asked the same; write {{ input }} (or a field's name) where it belongs",
    )
}

/// `a/../b` without the detour.
pub(super) fn tidy(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if matches!(out.components().next_back(), Some(Component::Normal(_))) => {
                out.pop();
            }
            Component::ParentDir if matches!(out.components().next_back(), Some(Component::RootDir)) => {}
            part => out.push(part),
        }
    }
    out
}
