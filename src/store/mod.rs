//! The embedded store and the journal, behind one thread. The only module that names sled.
//!
//! The store is an index: everything in it can be rebuilt from the journal and the run folders. It holds small records
//! only (sled 0.34 turns values over about 128 KiB into files that are never freed), and each acknowledged write is flushed.

pub mod files;
pub mod frames;
pub mod journal;
pub mod lines;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::domain::api::Decision;
use crate::domain::honest::Look;
use crate::domain::run::RunRecord;
use journal::{Decisions, Entry, Journal};

/// Version of what stands in the store; another one is rebuilt.
const SCHEMA: u64 = 1;
/// Longest value.
const VALUE_MAX: usize = 4 << 10;
/// sled's own default is 1 GiB.
const CACHE_BYTES: u64 = 32 << 20;
/// How long another process may take to give the store back.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);

/// What is kept of a run: its record, and how far its event file was read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredRun {
    pub record: RunRecord,
    /// Byte offset in `events.jsonl` after the last event that is in the record.
    pub offset: u64,
}

/// What stands in the store when it is opened.
#[derive(Debug, Default)]
pub struct Contents {
    pub decisions: Decisions,
    /// Looks at the reserve.
    pub looks: Vec<Look>,
    pub runs: Vec<StoredRun>,
    /// What a person should be told: repairs, damage.
    pub notices: Vec<String>,
}

type Job = Box<dyn FnOnce(&mut Inner) + Send>;

/// Handle on the store's thread. Calls block until the thread has done them; it ends when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct Store {
    jobs: mpsc::Sender<Job>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    db: sled::Db,
    journal: Journal,
    decisions: Decisions,
}

impl Store {
    /// Open `store/` and `journal.jsonl` in the state folder. A store that is damaged, or of another schema, is moved aside or emptied and
    /// filled from the journal; runs must then be read from their folders (they are missing in [`Contents`]).
    pub fn open(state_dir: &Path) -> io::Result<(Self, Contents)> {
        let (jobs, todo) = mpsc::channel::<Job>();
        let (opened, wait) = mpsc::channel();
        let dir = state_dir.to_owned();
        thread::Builder::new().name("store".into()).spawn(move || {
            let mut inner = match Inner::open(&dir) {
                Ok((inner, contents)) => {
                    let _ = opened.send(Ok(contents));
                    inner
                }
                Err(error) => {
                    let _ = opened.send(Err(error));
                    return;
                }
            };
            for job in todo {
                job(&mut inner);
            }
            let _ = inner.db.flush();
        })?;
        let contents = wait.recv().map_err(|_| gone())??;
        Ok((Self { jobs }, contents))
    }

    fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Inner) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (done, wait) = mpsc::channel();
        let job: Job = Box::new(move |inner| {
            // sled panics on some kinds of damage; the thread must outlive that.
            let result = catch_unwind(AssertUnwindSafe(|| work(inner))).unwrap_or_else(|_| {
                Err(io::Error::other("the store is damaged; run `tunebench doctor --repair`"))
            });
            let _ = done.send(result);
        });
        self.jobs.send(job).map_err(|_| gone())?;
        wait.recv().map_err(|_| gone())?
    }

    /// Journal, fsync, store, flush; then the state after it.
    pub fn decide(&self, t: u64, decision: Decision) -> io::Result<Decisions> {
        self.call(move |inner| {
            let inverse = inner.decisions.inverse(&decision);
            let args = serde_json::to_value(&decision)?;
            let op = args.get("op").and_then(Value::as_str).unwrap_or("decide").to_owned();
            let entry = inner.journal.append(t, &op, args, Some(serde_json::to_value(inverse)?))?;
            inner.take_in(&entry)?;
            Ok(inner.decisions.clone())
        })
    }

    /// Take back the newest decision that still stands. None when there is none.
    pub fn undo(&self, t: u64) -> io::Result<Option<(Entry, Decisions)>> {
        self.call(move |inner| {
            let Some(last) = inner.journal.undoable()? else { return Ok(None) };
            let effect = last.inverse.clone().unwrap_or(Value::Null);
            let entry =
                inner.journal.append(t, "undo", json!({ "seq": last.seq, "effect": effect }), None)?;
            inner.take_in(&entry)?;
            Ok(Some((last, inner.decisions.clone())))
        })
    }

    /// An entry that is only a record (`import`).
    pub fn record(&self, t: u64, op: &'static str, args: Value) -> io::Result<()> {
        self.call(move |inner| {
            let entry = inner.journal.append(t, op, args, None)?;
            inner.take_in(&entry)
        })
    }

    /// Keep what is known of a run. `flush` where it must survive at once; else it can be read from the run folder again.
    pub fn put_run(&self, run: StoredRun, flush: bool) -> io::Result<()> {
        self.call(move |inner| {
            let key = format!("run/{}", run.record.run);
            let value = serde_json::to_vec(&run)?;
            if value.len() > VALUE_MAX {
                inner.db.remove(key).map_err(sled_error)?;
            } else {
                inner.db.insert(key, value).map_err(sled_error)?;
            }
            if flush {
                inner.db.flush().map_err(sled_error)?;
            }
            Ok(())
        })
    }

    /// Empty the store and fill it from the journal. Runs are to be put again by the caller.
    pub fn rebuild(&self) -> io::Result<(Decisions, Vec<String>)> {
        self.call(|inner| {
            let mut notices = Vec::new();
            inner.rebuild(&mut notices)?;
            Ok((inner.decisions.clone(), notices))
        })
    }
}

fn gone() -> io::Error {
    io::Error::other("the store's thread has ended")
}

fn sled_error(error: sled::Error) -> io::Error {
    io::Error::other(format!("store: {error}"))
}

fn open_db(path: &Path) -> io::Result<sled::Db> {
    let open = || {
        sled::Config::new()
            .path(path)
            .cache_capacity(CACHE_BYTES)
            // Flushing is ours: the timer would lose up to half a second, and wake an idle process.
            .flush_every_ms(None)
            .open()
    };
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match catch_unwind(AssertUnwindSafe(open)) {
            // An engine that is just leaving gives sled's lock back a moment after its own.
            Ok(Err(sled::Error::Io(e)))
                if e.to_string().contains("acquire lock") && Instant::now() < deadline =>
            {
                thread::sleep(Duration::from_millis(10));
            }
            Ok(result) => return result.map_err(sled_error),
            Err(_) => return Err(io::Error::other("store: damaged (opening it panicked)")),
        }
    }
}

impl Inner {
    fn open(state_dir: &Path) -> io::Result<(Self, Contents)> {
        let dir = state_dir.join("store");
        let mut notices = Vec::new();
        let (journal, cut) = Journal::open(&state_dir.join("journal.jsonl"))?;
        if cut > 0 {
            notices.push(format!("journal: a torn last line of {cut} bytes was cut"));
        }
        let db = match open_db(&dir) {
            Ok(db) => db,
            Err(error) => {
                let aside = free_name(&state_dir.join("store.damaged"));
                std::fs::rename(&dir, &aside)?;
                notices.push(format!(
                    "{error}; it was moved to {} and rebuilt from the journal and the run folders",
                    aside.file_name().unwrap_or_default().to_string_lossy()
                ));
                open_db(&dir)?
            }
        };
        let mut inner = Self { dir, db, journal, decisions: Decisions::default() };
        let runs = match catch_unwind(AssertUnwindSafe(|| inner.load(&mut notices))) {
            Ok(Ok(runs)) => runs,
            Ok(Err(error)) => {
                notices.push(format!("{error}; the store was rebuilt from the journal and the run folders"));
                inner.rebuild(&mut notices)?;
                Vec::new()
            }
            Err(_) => {
                return Err(io::Error::other(format!(
                    "{}: damaged beyond reading; move it aside, it is rebuilt from the journal and the run folders",
                    inner.dir.display()
                )));
            }
        };
        let decisions = inner.decisions.clone();
        let looks = inner.journal.looks()?;
        Ok((inner, Contents { decisions, looks, runs, notices }))
    }

    fn load(&mut self, notices: &mut Vec<String>) -> io::Result<Vec<StoredRun>> {
        let number = |key: &str| -> io::Result<Option<u64>> {
            let value = self.db.get(key).map_err(sled_error)?;
            Ok(value.and_then(|v| serde_json::from_slice(&v).ok()))
        };
        let (schema, seen) = (number("meta/schema")?, number("meta/journal")?.unwrap_or(0));
        if schema.is_none() && self.db.is_empty() {
            self.rebuild(notices)?;
            return Ok(Vec::new());
        }
        if schema != Some(SCHEMA) || seen > self.journal.last_seq() {
            notices.push("the store did not fit the journal and was rebuilt".into());
            self.rebuild(notices)?;
            return Ok(Vec::new());
        }
        for item in self.db.scan_prefix("decision/") {
            let (key, value) = item.map_err(sled_error)?;
            let kept: Kept = serde_json::from_slice(&value)?;
            match kept {
                Kept::Decision(decision) => self.decisions.apply(&decision),
                Kept::InJournal(seq) => {
                    let (entries, _) = self.journal.entries(seq - 1)?;
                    let effect = entries.iter().find(|e| e.seq == seq).and_then(Entry::effect);
                    // Of several that were one, the others may have been decided anew since.
                    each(&effect, &mut |decision| {
                        if decision_key(decision).as_bytes() == key.as_ref() {
                            self.decisions.apply(decision);
                        }
                        Ok(())
                    })?;
                }
            }
        }
        // What was journalled but did not reach the store before the end.
        let (entries, _) = self.journal.entries(seen)?;
        for entry in entries {
            self.take_in(&entry)?;
        }
        let mut runs = Vec::new();
        for item in self.db.scan_prefix("run/") {
            let (_, value) = item.map_err(sled_error)?;
            // A record that an older version wrote is read from its folder again.
            if let Ok(run) = serde_json::from_slice(&value) {
                runs.push(run);
            }
        }
        Ok(runs)
    }

    fn rebuild(&mut self, notices: &mut Vec<String>) -> io::Result<()> {
        self.db.clear().map_err(sled_error)?;
        self.decisions = Decisions::default();
        let (entries, bad) = self.journal.entries(0)?;
        if bad > 0 {
            notices.push(format!("journal: {bad} lines could not be read and were passed over"));
        }
        let mut batch = sled::Batch::default();
        batch.insert("meta/schema", serde_json::to_vec(&SCHEMA)?);
        for entry in &entries {
            self.stage(&mut batch, entry)?;
        }
        batch.insert("meta/journal", serde_json::to_vec(&self.journal.last_seq())?);
        self.db.apply_batch(batch).map_err(sled_error)?;
        self.db.flush().map_err(sled_error)?;
        Ok(())
    }

    /// Apply one journal entry to memory and store, and flush.
    fn take_in(&mut self, entry: &Entry) -> io::Result<()> {
        let mut batch = sled::Batch::default();
        self.stage(&mut batch, entry)?;
        batch.insert("meta/journal", serde_json::to_vec(&entry.seq)?);
        self.db.apply_batch(batch).map_err(sled_error)?;
        self.db.flush().map_err(sled_error)?;
        Ok(())
    }

    fn stage(&mut self, batch: &mut sled::Batch, entry: &Entry) -> io::Result<()> {
        each(&entry.effect(), &mut |decision| {
            self.decisions.apply(decision);
            let key = decision_key(decision);
            let mut value = serde_json::to_vec(&Kept::Decision(decision.clone()))?;
            if value.len() > VALUE_MAX {
                value = serde_json::to_vec(&Kept::InJournal(entry.seq))?;
            }
            batch.insert(key.as_bytes(), value);
            Ok(())
        })
    }
}

/// Every single decision in what an entry did.
fn each(effect: &Option<Decision>, take: &mut dyn FnMut(&Decision) -> io::Result<()>) -> io::Result<()> {
    match effect {
        None => Ok(()),
        Some(Decision::Together { decisions }) => {
            decisions.iter().try_for_each(|decision| each(&Some(decision.clone()), take))
        }
        Some(decision) => take(decision),
    }
}

/// One key per thing decided on, so that a later decision on it replaces the earlier one.
fn decision_key(decision: &Decision) -> String {
    let (kind, thing) = match decision {
        Decision::Mark { row, mark, .. } => ("mark", format!("{row}\0{mark}")),
        Decision::Gold { row, .. } => ("gold", row.clone()),
        Decision::Note { row, .. } => ("note", row.clone()),
        Decision::NameStratum { stratum, .. } => ("stratum", stratum.clone()),
        Decision::Strata { number, .. } => ("strata-act", number.to_string()),
        Decision::NameCandidate { candidate, .. } => ("candidate", candidate.clone()),
        Decision::Outcomes { candidate, .. } => ("outcomes", candidate.clone()),
        Decision::Grown { run, .. } => ("grown", run.clone()),
        Decision::Feedback(feedback) => ("feedback", feedback.answer()),
        Decision::AdoptPrompts { files } => {
            ("prompts", files.iter().map(|f| f.file.as_str()).collect::<Vec<_>>().join("\0"))
        }
        Decision::TagPrompt { version, .. } => ("prompt-tag", version.clone()),
        Decision::View { name, .. } => ("view", name.clone()),
        Decision::Verdict(said) => ("verdict", said.key()),
        Decision::Review(said) => ("review", said.key()),
        Decision::Example { store, example, .. } => ("example", format!("{store}\0{example}")),
        // Taken apart before.
        Decision::Together { .. } => ("together", String::new()),
    };
    format!("decision/{kind}/{}", blake3::hash(thing.as_bytes()).to_hex())
}

/// A decision in the store; one that is too long stays in the journal.
#[derive(Debug, Serialize, Deserialize)]
enum Kept {
    Decision(Decision),
    InJournal(u64),
}

/// `path`, or `path-2`, `path-3`, ...
fn free_name(path: &Path) -> PathBuf {
    let mut candidate = path.to_owned();
    let mut n = 2;
    while candidate.exists() {
        candidate = PathBuf::from(format!("{}-{n}", path.display()));
        n += 1;
    }
    candidate
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::play::Feedback;

    fn mark(row: &str, on: bool) -> Decision {
        Decision::Mark { row: row.into(), mark: "star".into(), on }
    }

    fn reopen(dir: &Path) -> (Store, Contents) {
        Store::open(dir).unwrap()
    }

    #[test]
    fn decisions_are_there_after_reopening_and_undo_takes_back_one_after_the_other() {
        let temp = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(temp.path()).unwrap();
        store.decide(1, mark("a", true)).unwrap();
        store.decide(2, Decision::Note { row: "a".into(), note: Some("x".repeat(10_000)) }).unwrap();
        store.decide(3, mark("b", true)).unwrap();
        let (undone, decisions) = store.undo(4).unwrap().unwrap();
        assert_eq!(undone.seq, 3);
        assert!(!decisions.marks.contains_key("b"));
        drop(store);
        let (store, contents) = reopen(temp.path());
        assert!(contents.decisions.marks["a"].contains("star"));
        assert_eq!(contents.decisions.notes["a"].len(), 10_000);
        assert!(!contents.decisions.marks.contains_key("b"));
        assert_eq!(store.undo(5).unwrap().unwrap().0.seq, 2);
        assert_eq!(store.undo(6).unwrap().unwrap().0.seq, 1);
        assert!(store.undo(7).unwrap().is_none());
    }

    #[test]
    fn looks_at_the_reserve_are_counted_for_good() {
        let temp = tempfile::tempdir().unwrap();
        let (store, contents) = Store::open(temp.path()).unwrap();
        assert!(contents.looks.is_empty());
        let look = Look { candidate: "c".into(), run: "eval-2".into(), rows: 60 };
        store.record(1, Look::OP, serde_json::to_value(&look).unwrap()).unwrap();
        store.decide(2, mark("a", true)).unwrap();
        assert_eq!(store.undo(3).unwrap().unwrap().0.seq, 2);
        assert!(store.undo(4).unwrap().is_none(), "a look cannot be taken back");
        drop(store);
        assert_eq!(reopen(temp.path()).1.looks, [look]);
    }

    #[test]
    fn several_decisions_that_are_one_are_undone_as_one_and_a_later_one_on_a_part_holds() {
        let temp = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(temp.path()).unwrap();
        // Too long for the store: it stays in the journal, with the gold that was decided with it.
        let feedback = Feedback { output: "x".repeat(9_000), edit: Some("b".into()), ..Feedback::default() };
        let gold = |gold: &str| Decision::Gold { row: "a".into(), gold: Some(gold.into()) };
        let decisions = vec![Decision::Feedback(feedback), gold("b")];
        store.decide(1, Decision::Together { decisions }).unwrap();
        store.decide(2, gold("c")).unwrap();
        drop(store);
        let (store, contents) = reopen(temp.path());
        assert_eq!((contents.decisions.gold["a"].as_str(), contents.decisions.feedback.len()), ("c", 1));
        store.undo(3).unwrap();
        let (_, decisions) = store.undo(4).unwrap().unwrap();
        assert_eq!(decisions, Decisions::default());
        drop(store);
        assert_eq!(reopen(temp.path()).1.decisions, Decisions::default());
    }

    #[test]
    fn a_journalled_decision_that_never_reached_the_store_is_taken_in() {
        let temp = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(temp.path()).unwrap();
        store.decide(1, mark("a", true)).unwrap();
        drop(store);
        drop(reopen(temp.path()));
        let (mut journal, _) = Journal::open(&temp.path().join("journal.jsonl")).unwrap();
        journal.append(2, "mark", serde_json::to_value(mark("b", true)).unwrap(), None).unwrap();
        let (_store, contents) = reopen(temp.path());
        assert_eq!(contents.decisions.marks.len(), 2);
    }

    #[test]
    fn a_damaged_store_is_moved_aside_and_rebuilt_from_the_journal() {
        let temp = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(temp.path()).unwrap();
        for i in 0..50 {
            store.decide(i, mark(&format!("row-{i}"), true)).unwrap();
        }
        drop(store);
        drop(reopen(temp.path()));
        let mut damaged = 0;
        for entry in std::fs::read_dir(temp.path().join("store")).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let length = std::fs::metadata(&path).unwrap().len() as usize;
                std::fs::write(&path, vec![0xa5; length.min(1 << 20)]).unwrap();
                damaged += 1;
            }
        }
        assert!(damaged > 0);
        let (_store, contents) = Store::open(temp.path()).unwrap();
        assert_eq!(contents.decisions.marks.len(), 50);
        assert!(contents.notices.iter().any(|n| n.contains("rebuilt")), "{:?}", contents.notices);
    }
}
