//! The texts that a run of kind `grow` made: which ones a filter means, a window on them, one of them beside the rows that it was made of.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::taken;
use crate::domain::api::Failure;
use crate::domain::filter::{ANY, Filter, Op, Test};
use crate::domain::grow::{Check, GROWN, Grown, GrownAsk, GrownPage, Made, Method, Parent, Tally};
use crate::domain::row::RunRow;
use crate::domain::run::{Job, RunKind};
use crate::domain::words::nearest;
use crate::engine::rows::cut;
use crate::engine::state::{Engine, bad_input, failed, no_run};
use crate::store::lines;
use crate::worker::folder::RunFolder;

/// Texts that one answer lists, and its bytes, about.
const WINDOW: usize = 200;
const BYTES: usize = 400 << 10;
/// Characters of a text, of an answer or gold, and of all of them where a list's line is wanted.
const TEXT: usize = 2_000;
const ANSWER: usize = 500;
const BRIEF: usize = 160;
/// Rows that a text is shown beside.
const PARENTS: usize = 12;

/// What a filter over made texts may name.
const KEYS: [&str; 8] = ["fell", "stratum", "gold", "answer", "parent", "id", "likeness", "nearest"];
/// Words that are no words of the text.
const KEPT: &str = "kept";
const REFUSED: &str = "refused";
const ACCEPTED: &str = "accepted";

/// Which of a run's texts are meant.
pub struct Wanted {
    filter: Filter,
    /// It says where they fell, or which they are: what a person may overrule is overruled.
    names: bool,
}

fn is_check(word: &str) -> bool {
    Check::ALL.iter().any(|check| check.name() == word)
}

impl Wanted {
    /// Reads a filter: `kept`, `refused`, `accepted`, where texts fell (`disputed`, `leak`, ...), keys, and words of the text.
    pub fn read(filter: &str) -> Result<Self, Failure> {
        let filter = Filter::parse(filter);
        for term in &filter.terms {
            let Test::Key { key, op, values } = &term.test else { continue };
            if !KEYS.contains(&key.as_str()) {
                let near =
                    nearest(key, KEYS).map(|near| format!(", the nearest is `{near}`")).unwrap_or_default();
                return Err(bad_input(format!(
                    "a made text has no `{key}`{near}; a filter here is made of {KEPT}, {REFUSED}, {ACCEPTED}, {}, {}: and words of the text",
                    Check::ALL.map(Check::name).join(", "),
                    KEYS.join(":, ")
                )));
            }
            let number = matches!(key.as_str(), "likeness" | "nearest");
            if op.orders() && !number {
                return Err(bad_input(format!("`{key}` is no number; write {key}:VALUE")));
            }
            let wrong = values.iter().find(|v| *v != ANY && crate::domain::filter::number(v).is_none());
            if let Some(value) = wrong.filter(|_| number) {
                return Err(bad_input(format!("`{key}` is a number, and `{value}` is none")));
            }
        }
        let names = filter.terms.iter().filter(|term| !term.negated).any(|term| match &term.test {
            Test::Word(word) => word == KEPT || is_check(word),
            Test::Key { key, .. } => key == "fell" || key == "id",
        });
        Ok(Self { filter, names })
    }

    pub fn fits(&self, one: &Grown, accepted: bool) -> bool {
        let contains = |text: &str, wanted: &str| text.to_lowercase().contains(&wanted.to_lowercase());
        let some = |text: &Option<String>, wanted: &str| text.as_ref().is_some_and(|t| contains(t, wanted));
        let fell = one.fell.map_or(KEPT, Check::name);
        self.filter.terms.iter().all(|term| {
            let holds = match &term.test {
                Test::Word(word) if word == KEPT || is_check(word) => fell == word,
                Test::Word(word) if word == REFUSED => one.fell.is_some(),
                Test::Word(word) if word == ACCEPTED => accepted,
                Test::Word(word) => contains(&one.text, word),
                Test::Key { key, op, values } => values.iter().any(|value| match key.as_str() {
                    "fell" => fell == value || value == ANY && one.fell.is_some(),
                    "stratum" => some(&one.stratum, value),
                    "gold" => some(&one.gold, value),
                    "answer" => some(&one.answer, value),
                    "parent" => one.parents.iter().any(|parent| parent == value),
                    "likeness" => scores(one.likeness, *op, value),
                    "nearest" => scores(one.nearest, *op, value),
                    _ => one.id == *value,
                }),
            };
            holds != term.negated
        })
    }

    /// It fell, and may be taken in all the same, but this filter does not name what it fell at.
    pub const fn names(&self) -> bool {
        self.names
    }

    /// Of those meant: one that can be taken in.
    pub fn admits(&self, one: &Grown) -> bool {
        !one.row.is_empty() && one.fell.is_none_or(|check| self.names && check.may_be_overruled())
    }
}

fn scores(got: Option<f64>, op: Op, value: &str) -> bool {
    got.is_some_and(|got| {
        value == ANY || crate::domain::filter::number(value).is_some_and(|n| op.holds(got, n))
    })
}

/// A run that grew rows, by its name.
pub fn folder_of(engine: &Engine, run: &str) -> Result<RunFolder, Failure> {
    let found = engine.read(|s| s.runs.get(run).map(|r| (r.record.kind, r.folder.clone())));
    match found.ok_or_else(|| no_run(run))? {
        (RunKind::Grow, folder) => Ok(folder),
        (kind, _) => Err(bad_input(format!("{run} is a run of kind {kind}; only `grow` makes rows"))),
    }
}

fn path_of(folder: &RunFolder) -> PathBuf {
    folder.dir().join(GROWN)
}

fn unread(path: &Path, error: &std::io::Error) -> Failure {
    failed(format!("{}: {error}", path.display()))
}

/// What `look` makes of the run's texts so far, in their order; those that give nothing are left out.
pub fn each<T: Send>(
    folder: &RunFolder,
    look: impl Fn(&[u8], u64, Grown) -> Option<T> + Sync,
) -> Result<Vec<T>, Failure> {
    let path = path_of(folder);
    let pieces = lines::in_pieces(&path, |piece, start| {
        let (mut found, mut at) = (Vec::new(), start);
        for line in piece.split_inclusive(|b| *b == b'\n') {
            let begins = at;
            at += line.len() as u64;
            if let Ok(one) = serde_json::from_slice::<Grown>(line) {
                found.extend(look(line, begins, one));
            }
        }
        found
    });
    Ok(pieces.map_err(|e| unread(&path, &e))?.into_iter().flatten().collect())
}

/// What is known of a text without keeping it.
struct Line {
    begins: u64,
    fell: Option<Check>,
    fits: bool,
    /// It could be taken in, and is not.
    open: bool,
    accepted: bool,
}

/// A window on what a run made, or one text whole.
pub fn page(engine: &Engine, ask: &GrownAsk) -> Result<GrownPage, Failure> {
    let folder = folder_of(engine, &ask.run)?;
    let wanted = Wanted::read(&ask.filter)?;
    let accepted = taken::ids(engine, &ask.run);
    let all = each(&folder, |_, begins, one| {
        let accepted = accepted.contains(one.id.as_str());
        let fits = wanted.fits(&one, accepted);
        let open = fits && !accepted && wanted.admits(&one);
        Some(Line { begins, fell: one.fell, fits, open, accepted })
    })?;
    let mut counts = Tally::default();
    for line in &all {
        counts.add(line.fell);
    }
    let fitting: Vec<usize> = (0..all.len()).filter(|at| all.get(*at).is_some_and(|l| l.fits)).collect();
    let shown = match ask.at {
        Some(at) => vec![at],
        None => fitting.iter().copied().skip(ask.offset).take(ask.count.min(WINDOW)).collect(),
    };
    let (mut rows, mut room) = (Vec::with_capacity(shown.len()), BYTES);
    if !shown.is_empty() {
        let path = path_of(&folder);
        let file = File::open(&path).map_err(|e| unread(&path, &e))?;
        for at in shown {
            let Some(line) = all.get(at) else { continue };
            let text = lines::line_at(&file, line.begins).map_err(|e| unread(&path, &e))?;
            // Made anew in the meantime: the next question sees it.
            let Ok(one) = serde_json::from_slice::<Grown>(&text) else { continue };
            let made = Made { at, accepted: line.accepted, one: told(one, ask.brief) };
            let size = serde_json::to_vec(&made).map_or(usize::MAX, |bytes| bytes.len());
            if size > room {
                break;
            }
            room -= size;
            rows.push(made);
        }
    }
    let parents = match (ask.at, rows.first()) {
        (Some(_), Some(made)) => parents(&folder, &made.one.parents)?,
        _ => Vec::new(),
    };
    let spec = folder.read_spec().ok();
    let (method, maker) = match spec.as_ref().map(|spec| &spec.job) {
        Some(Job::Grow { grow, maker, .. }) => (grow.method, maker.name.clone()),
        _ => (Method::default(), String::new()),
    };
    Ok(GrownPage {
        run: ask.run.clone(),
        method,
        maker,
        checker: spec.and_then(|spec| spec.candidate).map(|c| c.name).unwrap_or_default(),
        counts,
        accepted: engine.read(|s| s.decisions.grown.get(&ask.run).cloned()),
        file: taken::file_of(&ask.run),
        total: fitting.len(),
        open: all.iter().filter(|line| line.open).count(),
        offset: ask.offset.min(fitting.len()),
        rows,
        parents,
    })
}

/// As much of a text as is told.
fn told(one: Grown, brief: bool) -> Grown {
    let (text, answer) = if brief { (BRIEF, BRIEF) } else { (TEXT, ANSWER) };
    let short = |of: &Option<String>| of.as_deref().map(|text| cut(text, answer).into_owned());
    Grown {
        row: serde_json::Map::new(),
        text: cut(&one.text, text).into_owned(),
        why: cut(&one.why, answer).into_owned(),
        gold: short(&one.gold),
        answer: short(&one.answer),
        ..one
    }
}

/// The rows of these ids, as the run was frozen with them, in this order.
fn parents(folder: &RunFolder, ids: &[String]) -> Result<Vec<Parent>, Failure> {
    let ids: Vec<&String> = ids.iter().take(PARENTS).collect();
    let wanted: HashSet<&str> = ids.iter().map(|id| id.as_str()).collect();
    // An id stands in its row's line as JSON writes it: most lines need not be parsed.
    let needles: Vec<String> = ids.iter().filter_map(|id| serde_json::to_string(id).ok()).collect();
    let path = folder.rows();
    let found = lines::in_pieces(&path, |piece, _| {
        let lines = piece.split(|b| *b == b'\n');
        let may = |line: &&[u8]| needles.iter().any(|needle| holds(line, needle.as_bytes()));
        let rows = lines.filter(may).filter_map(|line| serde_json::from_slice::<RunRow>(line).ok());
        rows.filter(|row| wanted.contains(row.id.as_str())).collect::<Vec<_>>()
    });
    let found: Vec<RunRow> = found.map_err(|e| unread(&path, &e))?.into_iter().flatten().collect();
    let of = |id: &String| {
        let row = found.iter().find(|row| row.id == *id)?;
        Some(Parent {
            id: id.clone(),
            input: cut(&row.input, TEXT).into_owned(),
            gold: row.gold.as_deref().map(|gold| cut(gold, ANSWER).into_owned()),
        })
    };
    Ok(ids.into_iter().filter_map(of).collect())
}

fn holds(line: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(line, needle).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(fell: Option<Check>) -> Grown {
        let mut row = serde_json::Map::new();
        row.insert("text".into(), "Where is it?".into());
        Grown {
            id: "grown-1".into(),
            parents: vec!["r1".into()],
            gold: Some("card_arrival".into()),
            text: "Where is it?".into(),
            nearest: Some(0.4),
            fell,
            row,
            ..Grown::default()
        }
    }

    #[test]
    fn filters_tell_kept_refused_accepted_checks_scores_and_words_apart() {
        let fits = |filter: &str, fell, accepted| Wanted::read(filter).unwrap().fits(&one(fell), accepted);
        for (filter, fell, accepted, want) in [
            ("", Some(Check::Leak), false, true),
            ("kept", None, false, true),
            ("kept", Some(Check::Leak), false, false),
            ("refused", Some(Check::Leak), false, true),
            ("-refused", Some(Check::Leak), false, false),
            ("accepted", None, true, true),
            ("kept -accepted", None, true, false),
            ("disputed", Some(Check::Disputed), false, true),
            ("fell:disputed,leak", Some(Check::Leak), false, true),
            ("nearest>0.3", None, false, true),
            ("nearest>0.5", None, false, false),
            ("likeness>0", None, false, false),
            ("WHERE gold:card parent:r1 id:grown-1,grown-2", None, false, true),
            ("\"is it\" parent:r2", None, false, false),
        ] {
            assert_eq!(fits(filter, fell, accepted), want, "{filter} {fell:?} {accepted}");
        }
        for (filter, why) in [
            ("golf:x", "the nearest is `gold`"),
            ("gold>3", "`gold` is no number"),
            ("nearest>much", "`much` is none"),
        ] {
            let Err(failure) = Wanted::read(filter) else { panic!("{filter}") };
            assert!(failure.code == 2 && failure.message.contains(why), "{}", failure.message);
        }
    }

    #[test]
    fn only_who_names_what_fell_or_where_takes_it_in() {
        let admits = |filter: &str, fell| Wanted::read(filter).unwrap().admits(&one(fell));
        assert!(admits("", None) && admits("gold:card", None));
        for (filter, want) in [
            ("", false),
            ("refused", false),
            ("-disputed", false),
            ("disputed", true),
            ("fell:disputed", true),
            ("id:grown-1", true),
        ] {
            assert_eq!(admits(filter, Some(Check::Disputed)), want, "{filter}");
            assert!(!admits(filter, Some(Check::Leak)), "{filter}: what leaks never");
        }
        let Ok(wanted) = Wanted::read("kept") else { panic!() };
        assert!(
            !wanted.admits(&Grown { row: serde_json::Map::new(), ..one(None) }),
            "no row, nothing to take"
        );
    }
}
