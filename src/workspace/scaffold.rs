//! The files of a new workspace, with comments for the person who goes on from there.

use super::config::Task;
use crate::domain::words::steers;

/// What is known when a workspace is made.
#[derive(Clone, Debug)]
pub struct Scaffold {
    pub name: String,
    pub task: Task,
    /// Paths as they are to be written.
    pub data: Vec<String>,
    pub model: String,
    /// Template; none: what the data's shape offers, which the note says.
    pub input: Option<String>,
    pub gold: Option<String>,
    /// Comment on input and gold where the shape offers them.
    pub shape_note: Option<String>,
    pub dimensions: Vec<String>,
    /// Labels seen, for the prompt of a classification.
    pub labels: Vec<String>,
    /// Tokens of the answer, where the model leaves fewer than the task would have.
    pub room: Option<usize>,
}

/// A prompt with more labels than this would be mostly labels.
const MAX_LABELS: usize = 100;

impl Scaffold {
    pub const fn stage(&self) -> &'static str {
        match self.task {
            Task::Classification => "classify",
            Task::Extraction => "extract",
            Task::Generation => "answer",
            Task::Agent => "act",
        }
    }

    /// `prompts/STAGE.md`.
    pub fn prompt_path(&self) -> String {
        format!("prompts/{}.md", self.stage())
    }

    /// The first prompt: what the task needs, nothing more.
    pub fn prompt(&self) -> String {
        match self.task {
            Task::Classification if self.lists_labels() => {
                // A label with control characters is damage of the data, and no prompt file may hold it.
                let sound = self.labels.iter().filter(|label| !label.contains(steers));
                let labels: Vec<String> = sound.map(|l| format!("- {}", verbatim(l))).collect();
                format!(
                    "{{{{ input }}}}\n\nAnswer with exactly one of these labels and nothing else:\n{}\n",
                    labels.join("\n")
                )
            }
            Task::Classification => "{{ input }}\n\nAnswer with the label and nothing else.\n".into(),
            Task::Extraction => "{{ input }}\n\nAnswer with the JSON object and nothing else.\n".into(),
            Task::Generation | Task::Agent => "{{ input }}\n".into(),
        }
    }

    const fn output(&self) -> &'static str {
        match self.task {
            Task::Classification => "label",
            Task::Extraction => "json",
            Task::Generation | Task::Agent => "text",
        }
    }

    /// The prompt names every label.
    pub fn lists_labels(&self) -> bool {
        self.task == Task::Classification && !self.labels.is_empty() && self.labels.len() <= MAX_LABELS
    }

    /// `max_tokens` of the stage.
    pub fn max_tokens(&self) -> usize {
        self.room.unwrap_or_else(|| self.max_tokens_for(&self.labels))
    }

    /// What answers of the task take, with such labels.
    pub fn max_tokens_for(&self, labels: &[String]) -> usize {
        match self.task {
            // A token is rarely less than two letters of a label.
            Task::Classification => {
                labels.iter().map(|l| l.chars().count() / 2 + 4).max().unwrap_or(16).clamp(8, 64)
            }
            Task::Extraction => 256,
            Task::Generation | Task::Agent => 256,
        }
    }

    /// `workspace.toml`.
    pub fn toml(&self) -> String {
        let sources: Vec<String> = self.data.iter().map(|s| quote(s)).collect();
        let dimensions: Vec<String> = self.dimensions.iter().map(|s| quote(s)).collect();
        let (primary, metrics) = match self.task {
            Task::Classification => {
                ("accuracy", "[\"accuracy\", \"macro_f1\", \"format_error_rate\", \"latency_p95_ms\"]")
            }
            Task::Extraction => {
                ("accuracy", "[\"accuracy\", \"json_valid\", \"json_fields\", \"latency_p95_ms\"]")
            }
            Task::Generation | Task::Agent => {
                ("normalized", "[\"normalized\", \"exact\", \"latency_p95_ms\"]")
            }
        };
        let mut file = File::default();
        file.text("# A tunebench workspace. Paths are relative to this file. Secrets never stand here.");
        file.text("# `tunebench check` says what is wrong, with the line.\n\n[workspace]");
        file.line(&format!("name = {}", quote(&self.name)), "");
        file.line(
            &format!("task = \"{}\"", self.task.name()),
            "classification | extraction | generation | agent",
        );
        file.text("\n# What \"done\" means; the board shows pass or fail against each. Take the marks away to use it.");
        file.text(&format!("# [[goal]]\n# metric = \"{primary}\"\n# at_least = 0.90\n\n[data]"));
        file.line(&format!("source = [{}]", sources.join(", ")), "jsonl, json, csv, tsv, parquet");
        if let Some(note) = &self.shape_note {
            file.text(&format!("# {note}"));
        }
        let (line, comment) = match &self.input {
            Some(input) => (
                format!("input = {}", quote(input)),
                "what the pipeline gets: a template over the row's fields",
            ),
            None => {
                ("# input = \"{{ field }}\"".to_owned(), "a template here goes before what the shape offers")
            }
        };
        file.line(&line, comment);
        let gold = self
            .gold
            .as_ref()
            .map_or_else(|| "# gold = \"field\"".into(), |g| format!("gold = {}", quote(g)));
        file.line(&gold, "field with the golden answer");
        file.line(&format!("dimensions = [{}]", dimensions.join(", ")), "fields whose values make strata");
        file.line("[data.split]", "the rest is train");
        file.line("eval = 0.15", "the board");
        file.line("dev = 0.10", "whatever chooses: early stopping, racing");
        file.line("reserve = 0.10", "final claims only");
        file.line(
            "# group = \"customer\"",
            "rows with the same value stay together; near duplicates do anyhow",
        );
        file.line("seed = 7", "");
        file.text("\n[models.base]");
        file.line(
            &format!("path = {}", quote(&self.model)),
            "a Hugging Face folder: config.json, tokenizer.json, *.safetensors",
        );
        file.text("\n[[stage]]");
        file.line(&format!("name = \"{}\"", self.stage()), "");
        file.line("model = \"base\"", "");
        file.line(
            &format!("prompt = {}", quote(&self.prompt_path())),
            "a template; {{ input }} is the row's input",
        );
        file.line(&format!("output = \"{}\"", self.output()), "label | json | text | tool");
        file.line(&format!("max_tokens = {}", self.max_tokens()), "");
        file.text("\n[eval]");
        file.line(&format!("primary = \"{primary}\""), "says which rows are right");
        file.line(&format!("metrics = {metrics}"), "");
        file.text("\n[tuning.train]");
        file.line(&format!("stage = \"{}\"", self.stage()), "");
        file.line("prompt = \"bare\"", "bare (input only) | same (the stage's prompt) | a file");
        file.line("method = \"lora\"", "lora | rslora | dora | qlora | qdora | full");
        file.text("rank = 16\nalpha = 32\ntargets = \"all-linear\"\nlearning_rate = 2e-4\nepochs = 4");
        file.0
    }
}

/// Lines with their comments below each other.
#[derive(Default)]
struct File(String);

impl File {
    fn text(&mut self, text: &str) {
        self.0.push_str(text);
        self.0.push('\n');
    }

    fn line(&mut self, line: &str, comment: &str) {
        match comment {
            "" => self.text(line),
            _ => self.text(&format!("{line:<27} # {comment}")),
        }
    }
}

/// A TOML string.
fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Text that is no template, whatever it holds.
fn verbatim(text: &str) -> String {
    if !text.contains('{') {
        return text.to_owned();
    }
    format!("{{{{ {} }}}}", serde_json::Value::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Workspace;

    #[test]
    fn every_scaffold_is_a_valid_workspace_and_prompt() {
        for task in Task::ALL {
            let scaffold = Scaffold {
                name: "a \"name\"\u{7f}\\".into(),
                task,
                data: vec!["da'ta.jsonl".into()],
                model: "model \"x\"".into(),
                input: (task == Task::Extraction).then(|| "{{ row[\"a b\"] }}\n".into()),
                gold: (task == Task::Classification).then(|| "team".into()),
                shape_note: Some("shape".into()),
                dimensions: vec!["chan\"nel".into()],
                labels: ["a {{ b }}", "{% c", "x\u{0}y\u{1b}[2J", "\"d{#"].map(String::from).into(),
                room: None,
            };
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(dir.path().join("prompts")).unwrap();
            std::fs::create_dir_all(dir.path().join("model \"x\"")).unwrap();
            std::fs::write(dir.path().join("da'ta.jsonl"), "").unwrap();
            std::fs::write(dir.path().join("workspace.toml"), scaffold.toml()).unwrap();
            std::fs::write(dir.path().join(scaffold.prompt_path()), scaffold.prompt()).unwrap();
            let ws = Workspace::load(dir.path()).unwrap();
            assert_eq!((ws.config.name, ws.config.task), (scaffold.name.clone(), task));
            assert_eq!(ws.config.data.dimensions, scaffold.dimensions);
            if task == Task::Classification {
                let env = minijinja::Environment::new();
                let text = env.render_str(&scaffold.prompt(), minijinja::context! { input => "in" }).unwrap();
                assert!(text.contains("- a {{ b }}\n- {% c\n- \"d{#"), "{text}");
            }
        }
    }
}
