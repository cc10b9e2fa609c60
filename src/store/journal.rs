//! The journal of human decisions, `journal.jsonl`: `{seq, t, actor, op, args, inverse}`, append-only.
//!
//! It is the truth; [`Decisions`] is what it amounts to. Undo is an entry that takes back another one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::lines::{self, Appender};
use crate::domain::api::{Decision, PromptFile, PromptsKept};
use crate::domain::example::ExampleEdit;
use crate::domain::grow::Accepted;
use crate::domain::honest::Look;
use crate::domain::judge::PersonVerdict;
use crate::domain::play::Feedback;
use crate::domain::problem::EXCLUDED;
use crate::domain::review::Review;
use crate::domain::strata::Act;
use crate::domain::views::SavedView;

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Counts from 1.
    pub seq: u64,
    /// Milliseconds since the Unix epoch.
    pub t: u64,
    /// Who decided: the user's name.
    pub actor: String,
    /// A decision's own name, `undo`, or `import`.
    pub op: String,
    pub args: Value,
    /// What takes it back, where something can.
    #[serde(default)]
    pub inverse: Option<Value>,
}

impl Entry {
    /// What the entry does to the decisions. None for entries that are only a record (`import`).
    pub fn effect(&self) -> Option<Decision> {
        let args = if self.op == "undo" { self.args.get("effect")?.clone() } else { self.args.clone() };
        serde_json::from_value(args).ok()
    }

    /// For `undo`: the entry taken back.
    pub fn undoes(&self) -> Option<u64> {
        (self.op == "undo").then(|| self.args.get("seq")?.as_u64()).flatten()
    }
}

/// All that people have decided, as it stands now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decisions {
    pub marks: BTreeMap<String, BTreeSet<String>>,
    pub gold: BTreeMap<String, String>,
    pub notes: BTreeMap<String, String>,
    /// Names by id, of older versions.
    pub strata: BTreeMap<String, String>,
    /// Splits, merges and names of strata, in their order.
    pub acts: BTreeMap<u64, Act>,
    pub candidates: BTreeMap<String, String>,
    /// Tags of versions of prompts, and the last adoption by file.
    pub prompts: PromptsKept,
    /// Outcomes made elsewhere: the folder of each candidate's.
    pub outcomes: BTreeMap<String, String>,
    /// Rows that runs made and that are in the data, by run.
    pub grown: BTreeMap<String, Accepted>,
    /// By [`Feedback::answer`].
    pub feedback: BTreeMap<String, Feedback>,
    /// By [`PersonVerdict::key`].
    pub verdicts: BTreeMap<String, PersonVerdict>,
    /// Saved views, by name.
    pub views: BTreeMap<String, SavedView>,
    /// By [`Review::key`].
    pub reviews: BTreeMap<String, Review>,
    /// By store and example.
    pub examples: BTreeMap<(String, String), ExampleEdit>,
}

impl Decisions {
    /// Rows that people left out.
    pub fn excluded(&self) -> impl Iterator<Item = &str> {
        self.marks.iter().filter(|(_, marks)| marks.contains(EXCLUDED)).map(|(row, _)| row.as_str())
    }

    /// The decision that leads back from `decision` to the state as it is now.
    pub fn inverse(&self, decision: &Decision) -> Decision {
        match decision {
            Decision::Mark { row, mark, .. } => Decision::Mark {
                row: row.clone(),
                mark: mark.clone(),
                on: self.marks.get(row).is_some_and(|m| m.contains(mark)),
            },
            Decision::Gold { row, .. } => {
                Decision::Gold { row: row.clone(), gold: self.gold.get(row).cloned() }
            }
            Decision::Note { row, .. } => {
                Decision::Note { row: row.clone(), note: self.notes.get(row).cloned() }
            }
            Decision::NameStratum { stratum, .. } => {
                Decision::NameStratum { stratum: stratum.clone(), name: self.strata.get(stratum).cloned() }
            }
            Decision::Strata { number, .. } => {
                Decision::Strata { number: *number, act: self.acts.get(number).cloned() }
            }
            // An empty name gives the candidate its first name back.
            Decision::NameCandidate { candidate, .. } => Decision::NameCandidate {
                candidate: candidate.clone(),
                name: self.candidates.get(candidate).cloned().unwrap_or_default(),
            },
            Decision::Outcomes { candidate, .. } => Decision::Outcomes {
                candidate: candidate.clone(),
                import: self.outcomes.get(candidate).cloned(),
            },
            Decision::Grown { run, .. } => {
                Decision::Grown { run: run.clone(), accepted: self.grown.get(run).cloned() }
            }
            Decision::Feedback(feedback) => Decision::Feedback(
                self.feedback.get(&feedback.answer()).cloned().unwrap_or_else(|| Feedback {
                    good: None,
                    edit: None,
                    ..feedback.clone()
                }),
            ),
            Decision::AdoptPrompts { files } => Decision::AdoptPrompts {
                files: files
                    .iter()
                    .map(|f| PromptFile { hash: f.before.clone(), before: f.hash.clone(), ..f.clone() })
                    .collect(),
            },
            Decision::TagPrompt { version, .. } => {
                Decision::TagPrompt { version: version.clone(), tag: self.prompts.tags.get(version).cloned() }
            }
            Decision::Verdict(said) => Decision::Verdict(
                self.verdicts
                    .get(&said.key())
                    .cloned()
                    .unwrap_or_else(|| PersonVerdict { verdict: None, ..said.clone() }),
            ),
            Decision::Review(said) => Decision::Review(
                self.reviews
                    .get(&said.key())
                    .cloned()
                    .unwrap_or_else(|| Review { opinion: None, ..said.clone() }),
            ),
            Decision::Example { store, example, .. } => Decision::Example {
                store: store.clone(),
                example: example.clone(),
                edit: self.examples.get(&(store.clone(), example.clone())).cloned().unwrap_or_default(),
            },
            Decision::View { name, .. } => {
                Decision::View { name: name.clone(), view: self.views.get(name).cloned().map(Box::new) }
            }
            Decision::Together { decisions } => {
                // Each from the state that those before it led to; taken back from the last.
                let mut state = self.clone();
                let mut inverses = Vec::with_capacity(decisions.len());
                for decision in decisions {
                    inverses.push(state.inverse(decision));
                    state.apply(decision);
                }
                inverses.reverse();
                Decision::Together { decisions: inverses }
            }
        }
    }

    pub fn apply(&mut self, decision: &Decision) {
        fn set(map: &mut BTreeMap<String, String>, key: &str, value: Option<&String>) {
            match value {
                Some(value) => map.insert(key.to_owned(), value.clone()),
                None => map.remove(key),
            };
        }
        match decision {
            Decision::Mark { row, mark, on: true } => {
                self.marks.entry(row.clone()).or_default().insert(mark.clone());
            }
            Decision::Mark { row, mark, on: false } => {
                if let Some(marks) = self.marks.get_mut(row) {
                    marks.remove(mark);
                    if marks.is_empty() {
                        self.marks.remove(row);
                    }
                }
            }
            Decision::Gold { row, gold } => set(&mut self.gold, row, gold.as_ref()),
            Decision::Note { row, note } => set(&mut self.notes, row, note.as_ref()),
            Decision::NameStratum { stratum, name } => set(&mut self.strata, stratum, name.as_ref()),
            Decision::Strata { number, act: Some(act) } => {
                self.acts.insert(*number, act.clone());
            }
            Decision::Strata { number, act: None } => {
                self.acts.remove(number);
            }
            Decision::NameCandidate { candidate, name } => {
                set(&mut self.candidates, candidate, Some(name).filter(|n| !n.is_empty()));
            }
            Decision::Outcomes { candidate, import } => {
                set(&mut self.outcomes, candidate, import.as_ref());
            }
            Decision::Grown { run, accepted: Some(accepted) } => {
                self.grown.insert(run.clone(), accepted.clone());
            }
            Decision::Grown { run, accepted: None } => {
                self.grown.remove(run);
            }
            Decision::Feedback(feedback) if feedback.says_nothing() => {
                self.feedback.remove(&feedback.answer());
            }
            Decision::Feedback(feedback) => {
                self.feedback.insert(feedback.answer(), feedback.clone());
            }
            Decision::AdoptPrompts { files } => {
                self.prompts.adopted.extend(files.iter().map(|f| (f.file.clone(), f.clone())));
            }
            Decision::TagPrompt { version, tag } => set(&mut self.prompts.tags, version, tag.as_ref()),
            Decision::Example { store, example, edit } => {
                let of = (store.clone(), example.clone());
                if edit.says_nothing() {
                    self.examples.remove(&of);
                } else {
                    self.examples.insert(of, edit.clone());
                }
            }
            Decision::Review(said) if said.opinion.is_none() => {
                self.reviews.remove(&said.key());
            }
            Decision::Review(said) => {
                self.reviews.insert(said.key(), said.clone());
            }
            Decision::Verdict(said) if said.verdict.is_none() => {
                self.verdicts.remove(&said.key());
            }
            Decision::Verdict(said) => {
                self.verdicts.insert(said.key(), said.clone());
            }
            Decision::View { name, view: Some(view) } => {
                self.views.insert(name.clone(), (**view).clone());
            }
            Decision::View { name, view: None } => {
                self.views.remove(name);
            }
            Decision::Together { decisions } => decisions.iter().for_each(|decision| self.apply(decision)),
        }
    }
}

/// The journal's file.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    appender: Appender,
    last_seq: u64,
}

impl Journal {
    /// Open or make it; also says how many bytes of a torn last line were cut.
    pub fn open(path: &Path) -> io::Result<(Self, u64)> {
        let (appender, cut) = Appender::open(path)?;
        let mut last_seq = 0;
        lines::read_from(path, 0, u64::MAX, |line, _| {
            if let Ok(entry) = serde_json::from_slice::<Entry>(line) {
                last_seq = last_seq.max(entry.seq);
            }
            true
        })?;
        Ok((Self { path: path.to_owned(), appender, last_seq }, cut))
    }

    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Every entry above `after`; unreadable lines are counted.
    pub fn entries(&self, after: u64) -> io::Result<(Vec<Entry>, usize)> {
        let (mut entries, bad) = lines::read_all::<Entry>(&self.path)?;
        entries.retain(|e| e.seq > after);
        Ok((entries, bad))
    }

    /// Append durably. The sequence number is given here.
    pub fn append(&mut self, t: u64, op: &str, args: Value, inverse: Option<Value>) -> io::Result<Entry> {
        let entry = Entry { seq: self.last_seq + 1, t, actor: actor(), op: op.to_owned(), args, inverse };
        self.appender.append(&entry)?;
        self.appender.sync()?;
        self.last_seq = entry.seq;
        Ok(entry)
    }

    /// Looks at the reserve, oldest first. No undo takes them back.
    pub fn looks(&self) -> io::Result<Vec<Look>> {
        let (entries, _) = self.entries(0)?;
        let looks = entries.into_iter().filter(|e| e.op == Look::OP);
        Ok(looks.filter_map(|e| serde_json::from_value(e.args).ok()).collect())
    }

    /// The newest decision that no undo has taken back.
    pub fn undoable(&self) -> io::Result<Option<Entry>> {
        let (entries, _) = self.entries(0)?;
        let undone: BTreeSet<u64> = entries.iter().filter_map(Entry::undoes).collect();
        Ok(entries
            .into_iter()
            .rev()
            .find(|e| e.inverse.is_some() && e.op != "undo" && !undone.contains(&e.seq)))
    }
}

/// The name of whoever runs this, for the record.
pub fn actor() -> String {
    std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "unknown".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::strata::Kin;
    use proptest::prelude::*;

    fn decision() -> impl Strategy<Value = Decision> {
        let row = "[ab]";
        prop_oneof![
            (row, "[xy]", any::<bool>()).prop_map(|(row, mark, on)| Decision::Mark { row, mark, on }),
            (row, prop::option::of("[pq]")).prop_map(|(row, gold)| Decision::Gold { row, gold }),
            (row, prop::option::of("[pq]")).prop_map(|(row, note)| Decision::Note { row, note }),
            (row, prop::option::of("[pq]"))
                .prop_map(|(stratum, name)| Decision::NameStratum { stratum, name }),
            (row, "[pq]").prop_map(|(candidate, name)| Decision::NameCandidate { candidate, name }),
            (0..3_u64, prop::option::of("[pq]")).prop_map(|(number, name)| Decision::Strata {
                number,
                act: name.map(|name| Act::Merge { of: vec![Kin { name, ..Kin::default() }] }),
            }),
            ("[st]", "[pq]", any::<Option<bool>>(), prop::option::of("[xy]")).prop_map(
                |(store, example, enabled, answer)| Decision::Example {
                    store,
                    example,
                    edit: ExampleEdit { answer, enabled, ..ExampleEdit::default() },
                }
            ),
            (row, prop::option::of("[pq]"))
                .prop_map(|(candidate, import)| Decision::Outcomes { candidate, import }),
            (row, prop::option::of("[pq]")).prop_map(|(run, hash)| Decision::Grown {
                run,
                accepted: hash.map(|hash| Accepted { hash, rows: 1 }),
            }),
            (row, prop::option::of("[pq]")).prop_map(|(name, scope)| Decision::View {
                name,
                view: scope.map(|scope| Box::new(SavedView { scope, ..SavedView::default() })),
            }),
            (prop::option::of(row), "[pq]", any::<Option<bool>>(), prop::option::of("[pq]")).prop_map(
                |(row, output, good, edit)| Decision::Feedback(Feedback {
                    row,
                    output,
                    good,
                    edit,
                    ..Feedback::default()
                })
            ),
            ("[ab]", "[xy]", prop::option::of(prop::option::of("[pq]"))).prop_map(
                |(row, annotator, gold)| {
                    let opinion = gold.map(crate::domain::review::Opinion::Gold);
                    Decision::Review(Review { annotator, row, opinion, ..Review::default() })
                }
            ),
            ("[ab]", "[xy]", prop::option::of("[pq]")).prop_map(|(row, annotator, verdict)| {
                Decision::Verdict(PersonVerdict { annotator, row, verdict, ..PersonVerdict::default() })
            }),
        ]
    }

    fn decisions() -> impl Strategy<Value = Decision> {
        prop_oneof![
            3 => decision(),
            1 => prop::collection::vec(decision(), 0..4).prop_map(|decisions| Decision::Together { decisions }),
        ]
    }

    proptest! {
        /// Taking back every decision, newest first, leads to where it began.
        #[test]
        fn inverses_lead_back(decisions in prop::collection::vec(decisions(), 0..40)) {
            let mut state = Decisions::default();
            let mut inverses = Vec::new();
            for d in &decisions {
                inverses.push(state.inverse(d));
                state.apply(d);
            }
            for inverse in inverses.iter().rev() {
                state.apply(inverse);
            }
            prop_assert_eq!(state, Decisions::default());
        }
    }

    #[test]
    fn feedback_reads_back_as_it_was_written() {
        let feedback = Feedback { row: Some("r1".into()), edit: Some("b".into()), ..Feedback::default() };
        let gold = Decision::Gold { row: "r1".into(), gold: Some("b".into()) };
        let both = Decision::Together { decisions: vec![Decision::Feedback(feedback), gold] };
        let text = serde_json::to_string(&both).unwrap();
        assert_eq!(serde_json::from_str::<Decision>(&text).unwrap(), both, "{text}");
    }

    #[test]
    fn sequence_numbers_go_on_after_a_torn_line() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("journal.jsonl");
        let (mut journal, _) = Journal::open(&path).unwrap();
        journal.append(1, "import", Value::Null, None).unwrap();
        journal.append(2, "import", Value::Null, None).unwrap();
        drop(journal);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.truncate(bytes.len() - 3);
        std::fs::write(&path, bytes).unwrap();
        let (mut journal, cut) = Journal::open(&path).unwrap();
        assert!(cut > 0);
        assert_eq!(journal.append(3, "import", Value::Null, None).unwrap().seq, 2);
        assert_eq!(journal.entries(0).unwrap().1, 0);
    }
}
