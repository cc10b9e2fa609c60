//! What people say of answers in the playground: which decisions that is, and the files that are made of it.
//!
//! ```text
//! feedback/rows.jsonl         inputs that were typed and then given an answer: one more source of the data
//! feedback/preferences.jsonl  for every edit: prompt, chosen (the edit), rejected (the output)
//! ```
//! Both are rebuilt from the journal whenever they differ from it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::PoisonError;

use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::rows;
use super::state::{Engine, bad_input};
use crate::data::feedback::{fields, row_id};
use crate::domain::api::{Decision, Failure};
use crate::domain::play::Feedback;
use crate::store::files;
use crate::store::journal::Decisions;
use crate::workspace::{FEEDBACK, Workspace};

/// Feedback shown of one row, and characters of each of its texts.
const SHOWN: usize = 50;
const SHOWN_TEXT: usize = 2000;

/// The decision that a piece of feedback is: an edit is the gold of its row as well, and that of a row of its own where the input was
/// typed.
pub fn decision(engine: &Engine, mut feedback: Feedback) -> Result<Decision, Failure> {
    let Some(edit) = feedback.edit.clone() else { return Ok(Decision::Feedback(feedback)) };
    if edit.trim().is_empty() {
        return Err(bad_input("an empty answer is no golden answer"));
    }
    if feedback.row.is_none() {
        // What stands in the data already keeps its part: it must not come in again as a row to train on.
        feedback.row = row_with(engine, &feedback.input);
    }
    let row = feedback.row.clone().unwrap_or_else(|| row_id(&feedback.input));
    let gold = Decision::Gold { row, gold: Some(edit) };
    Ok(Decision::Together { decisions: vec![Decision::Feedback(feedback), gold] })
}

/// The row of the sources with this input.
fn row_with(engine: &Engine, input: &str) -> Option<String> {
    let loaded = rows::loaded(engine).ok()?;
    let data = &loaded.dataset;
    let found = (0..data.len())
        .into_par_iter()
        .find_first(|at| !data.is_feedback(*at) && loaded.text(*at).0.trim() == input.trim());
    found.map(|at| data.id(at).to_owned())
}

/// What was said of answers to a row, for people to read.
pub fn on(decisions: &Decisions, row: &str) -> Vec<Feedback> {
    let mine = |f: &&Feedback| match &f.row {
        Some(of) => of == row,
        None => row.starts_with("feedback-") && row_id(&f.input) == row,
    };
    let short = |text: &str| rows::cut(text, SHOWN_TEXT).into_owned();
    let shown = decisions.feedback.values().filter(mine).take(SHOWN);
    shown
        .map(|f| Feedback {
            output: short(&f.output),
            edit: f.edit.as_deref().map(short),
            input: String::new(),
            ..f.clone()
        })
        .collect()
}

/// Bring the files up to what was decided.
pub fn write(engine: &Engine) -> io::Result<()> {
    let _one = engine.feedback.lock().unwrap_or_else(PoisonError::into_inner);
    let path = engine.root.join(FEEDBACK);
    let pairs = path.with_file_name("preferences.jsonl");
    let decisions = engine.read(|state| {
        let none = state.decisions.feedback.is_empty();
        (!none || path.exists() || pairs.exists()).then(|| state.decisions.clone())
    });
    let Some(decisions) = decisions else { return Ok(()) };
    // Which fields `[data]` names; a workspace.toml that cannot be read leaves the files as they are.
    let Ok((ws, _)) = Workspace::open(&engine.root) else { return Ok(()) };
    let mut typed: BTreeMap<String, &str> = BTreeMap::new();
    for f in decisions.feedback.values().filter(|f| f.row.is_none() && f.edit.is_some()) {
        typed.insert(row_id(&f.input), &f.input);
    }
    let rows = typed.into_iter().map(|(id, input)| {
        let gold = decisions.gold.get(&id).map(String::as_str);
        let mut fields = fields(&ws.config.data, input, gold);
        let of_input = decisions.feedback.values().filter(|f| f.row.is_none() && f.input == input);
        let rejected: Vec<&str> =
            of_input.filter(|f| f.preferred().is_some()).map(|f| f.output.as_str()).collect();
        if !rejected.is_empty() {
            fields.insert("corrected".into(), json!(rejected));
        }
        fields
    });
    let preferences = decisions.feedback.values().filter_map(|f| {
        let pair = json!({
            "prompt": f.input,
            "chosen": f.preferred()?,
            "rejected": f.output,
            "row": f.row.clone().unwrap_or_else(|| row_id(&f.input)),
            "candidate": f.candidate,
        });
        if let Value::Object(pair) = pair { Some(pair) } else { None }
    });
    put(&path, rows)?;
    put(&pairs, preferences)
}

/// The lines at `path`, where they are not there already; no lines: no file.
fn put(path: &Path, lines: impl Iterator<Item = Map<String, Value>>) -> io::Result<()> {
    let mut bytes = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut bytes, &line)?;
        bytes.push(b'\n');
    }
    match fs::read(path) {
        Ok(there) if there == bytes && !bytes.is_empty() => Ok(()),
        Ok(_) if bytes.is_empty() => fs::remove_file(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound && bytes.is_empty() => Ok(()),
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => {
            if let Some(dir) = path.parent() {
                files::private_dir(dir)?;
            }
            files::write_atomic(path, &bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::*;
    use crate::domain::api::{Request, Response, RowDetail, RowQuery};
    use crate::domain::row::Part;
    use crate::engine::{parts, requests};

    struct Desk {
        engine: Arc<Engine>,
        root: PathBuf,
        dir: tempfile::TempDir,
    }

    impl Desk {
        /// A workspace with one row, whose input is `hi` and whose gold is `a`.
        fn new() -> Self {
            let dir = crate::workspace::tests::sample();
            let root = dir.path().canonicalize().unwrap();
            fs::create_dir(root.join(".tunebench")).unwrap();
            let engine = Engine::open(&root, "unused".into()).unwrap();
            Self { engine, root, dir }
        }

        fn ask(&self, request: Request) -> Response {
            requests::answer(&self.engine, &Arc::default(), request)
        }

        fn say(&self, row: Option<&str>, input: &str, edit: Option<&str>) -> String {
            let feedback = Feedback {
                row: row.map(str::to_owned),
                input: input.into(),
                candidate: "base".into(),
                output: "wrong".into(),
                good: edit.is_none().then_some(false),
                edit: edit.map(str::to_owned),
            };
            match self.ask(Request::Decide { decision: Decision::Feedback(feedback) }) {
                Response::Done { message } => message,
                Response::Error { error } => error.message,
                other => panic!("{other:?}"),
            }
        }

        fn undo(&self) {
            assert!(matches!(self.ask(Request::Undo), Response::Done { .. }));
        }

        fn rows(&self) -> Vec<(String, Option<String>)> {
            let query = RowQuery { count: 100, ..RowQuery::default() };
            let Response::Rows { page } = self.ask(Request::Rows { query }) else { panic!() };
            page.rows.into_iter().map(|row| (row.text, row.gold)).collect()
        }

        fn row(&self, id: &str) -> RowDetail {
            match self.ask(Request::Row { id: id.into() }) {
                Response::Row { row } => row,
                other => panic!("{other:?}"),
            }
        }

        fn text(&self) -> Option<String> {
            fs::read_to_string(self.root.join(FEEDBACK)).ok()
        }

        fn id_of(&self, at: usize) -> String {
            rows::loaded(&self.engine).unwrap().dataset.id(at).to_owned()
        }
    }

    fn row(input: &str, gold: &str) -> (String, Option<String>) {
        (input.into(), Some(gold.into()))
    }

    #[test]
    fn an_edit_of_a_typed_input_is_a_row_to_train_on_until_it_is_taken_back() {
        let desk = Desk::new();
        let said = desk.say(None, "where is my card?\nit is late", Some("cards"));
        let id = row_id("where is my card?\nit is late");
        assert!(said.contains(&id), "{said}");
        assert_eq!(desk.rows(), [row("hi", "a"), row("where is my card?\nit is late", "cards")]);
        let shown = desk.row(&id);
        assert_eq!((shown.fields["source"].as_str(), shown.source.as_str()), ("feedback", FEEDBACK));
        assert_eq!(shown.fields["message"], "where is my card?\nit is late", "the field that prompts use");
        assert_eq!(shown.feedback.len(), 1);
        // Everything that is new goes to the eval part, but not what people typed.
        let toml = fs::read_to_string(desk.root.join("workspace.toml")).unwrap();
        let toml = toml.replace("eval = 0.15", "eval = 1.0").replace("dev = 0.10", "dev = 0.0");
        fs::write(desk.root.join("workspace.toml"), toml.replace("reserve = 0.10", "reserve = 0.0")).unwrap();
        let loaded = rows::loaded(&desk.engine).unwrap();
        let assigned = parts::assign(&desk.engine, &loaded.ws, &loaded.dataset, None).unwrap();
        assert_eq!(assigned, [Some(Part::Eval), Some(Part::Train)]);
        let again = parts::parts(&desk.engine, &loaded.dataset).unwrap();
        assert_eq!(again, assigned, "written down");

        desk.say(None, "where is my card?\nit is late", Some("delivery"));
        assert_eq!(desk.rows()[1], row("where is my card?\nit is late", "delivery"));
        desk.undo();
        assert_eq!(desk.rows()[1], row("where is my card?\nit is late", "cards"));
        desk.undo();
        assert_eq!((desk.rows(), desk.text()), (vec![row("hi", "a")], None));
    }

    #[test]
    fn an_edit_of_a_row_is_its_gold_and_both_are_taken_back_as_one() {
        let desk = Desk::new();
        let id = desk.id_of(0);
        desk.say(Some(&id), "hi", Some("b"));
        let shown = desk.row(&id);
        assert_eq!((shown.gold.as_deref(), shown.gold_in_file.as_deref()), (Some("b"), Some("a")));
        assert_eq!(shown.feedback[0].edit.as_deref(), Some("b"));
        assert_eq!(desk.text(), None, "no new row");
        let pairs = fs::read_to_string(desk.root.join(".tunebench/feedback/preferences.jsonl")).unwrap();
        let pair: Value = serde_json::from_str(&pairs).unwrap();
        assert_eq!(
            (&pair["chosen"], &pair["rejected"], &pair["row"]),
            (&json!("b"), &json!("wrong"), &json!(id))
        );
        desk.undo();
        let shown = desk.row(&id);
        assert_eq!((shown.gold.as_deref(), shown.feedback.len()), (Some("a"), 0));
    }

    #[test]
    fn a_row_that_is_typed_again_is_that_row() {
        let desk = Desk::new();
        desk.say(None, " hi\n", Some("b"));
        assert_eq!(desk.rows(), [row("hi", "b")]);
        assert_eq!(desk.text(), None);
    }

    #[test]
    fn thumbs_are_kept_and_make_no_rows() {
        let desk = Desk::new();
        desk.say(None, "typed", None);
        assert_eq!((desk.rows().len(), desk.text()), (1, None));
        let id = desk.id_of(0);
        desk.say(Some(&id), "hi", None);
        assert_eq!(desk.row(&id).feedback[0].good, Some(false));
        assert!(desk.say(Some(&id), "hi", Some(" ")).contains("no golden answer"));
    }

    #[test]
    fn the_rows_are_rebuilt_from_the_journal() {
        let desk = Desk::new();
        desk.say(None, "one", Some("a"));
        desk.say(None, "two", Some("b"));
        let text = desk.text().unwrap();
        assert_eq!(text.lines().count(), 2);
        fs::write(desk.root.join(FEEDBACK), "{\"input\": \"forged\"}\n").unwrap();
        assert!(matches!(desk.ask(Request::Repair), Response::Done { .. }));
        assert_eq!(desk.text().as_ref(), Some(&text));
        fs::remove_dir_all(desk.root.join(".tunebench/feedback")).unwrap();
        let Desk { engine, root, dir } = desk;
        drop(engine);
        // The next engine makes them again by itself.
        let engine = Engine::open(&root, "unused".into()).unwrap();
        let desk = Desk { engine, root, dir };
        assert_eq!(desk.text(), Some(text));
        assert_eq!(desk.rows().len(), 3);
    }
}
