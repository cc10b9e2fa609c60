//! What the engine knows, in memory: runs and decisions. All of it can be rebuilt from the run folders and the journal.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

use super::candidates::CandidateCache;
use super::export_rows::Exports;
use super::rows::RowCache;
use super::saved::Watching;
use super::sets::SetsCache;
use super::standing::BoardCache;
use super::strata::StrataCache;
use super::{feedback, grow, ingest, outcomes};
use crate::domain::api::{EngineStatus, Failure, FileNews};
use crate::domain::honest::Look;
use crate::domain::keys::{KeyNeed, Keys};
use crate::domain::run::{RunKind, RunRecord, RunState};
use crate::domain::settings::shown;
use crate::domain::words::counted;
use crate::store::journal::Decisions;
use crate::store::{Store, StoredRun};
use crate::worker::folder::{RunFolder, now_ms};

/// One run, as the engine holds it.
#[derive(Clone, Debug)]
pub struct Run {
    pub record: RunRecord,
    pub folder: RunFolder,
    /// Byte offset in `events.jsonl` after the last event in the record.
    pub offset: u64,
    /// Some (seq, byte offset after it), so that a page of a long history is found without reading all before it.
    pub pages: BTreeMap<u64, u64>,
    /// [`State::version`] at the last change.
    pub version: u64,
    /// Is in the hands of the supervisor: a worker lives, or is being started.
    pub active: bool,
    /// The run that must be done before this one can be frozen.
    pub needs: Option<String>,
    /// What its models need; known once it is frozen.
    pub needs_keys: Vec<KeyNeed>,
    /// When its worker was asked to cancel it.
    pub cancelled: Option<Instant>,
}

/// Behind the engine's lock; held for moments only.
#[derive(Debug, Default)]
pub struct State {
    pub runs: HashMap<String, Run>,
    /// Keys by run, while it is queued or under way. They are nowhere else.
    pub keys: HashMap<String, Keys>,
    pub decisions: Decisions,
    /// Looks at the reserve, by the journal.
    pub looks: Vec<Look>,
    pub notices: Vec<String>,
    pub clients: usize,
    /// Clients that ever attached.
    pub visits: u64,
    /// Counts every change.
    pub version: u64,
    /// [`State::version`] when the board, or the strata, may have changed last.
    pub board_version: u64,
    pub strata_version: u64,
    /// What became of each file that was saved while somebody followed, with [`State::version`] then.
    pub files: BTreeMap<String, (u64, FileNews)>,
    /// The supervisor is to end (the engine leaves).
    pub leaving: bool,
}

impl State {
    /// Records, oldest first.
    pub fn records(&self) -> Vec<RunRecord> {
        let mut records: Vec<RunRecord> = self.runs.values().map(|r| r.record.clone()).collect();
        records.sort_by(|a, b| (a.created_ms, &a.run).cmp(&(b.created_ms, &b.run)));
        records
    }

    /// Keys that a queued run needs and nobody has given since the engine began.
    pub fn missing_keys(&self, run: &Run) -> Vec<KeyNeed> {
        if run.active || run.record.state != RunState::Queued {
            return Vec::new();
        }
        self.keys.get(&run.record.run).cloned().unwrap_or_default().missing(&run.needs_keys)
    }

    /// A run is queued or under way. A resident that has begun does without an engine: the next one finds it; and a run that
    /// waits for keys loses nothing.
    pub fn is_busy(&self) -> Option<String> {
        let on_its_own =
            |r: &Run| r.record.kind.is_resident() && r.active && r.record.state != RunState::Queued;
        self.runs
            .values()
            .filter(|r| (r.active || !r.record.state.is_final()) && !on_its_own(r))
            .filter(|r| self.missing_keys(r).is_empty())
            .min_by_key(|r| r.record.created_ms)
            .map(|r| format!("{} is {}", r.record.run, r.record.state))
    }
}

/// The engine of one workspace.
#[derive(Debug)]
pub struct Engine {
    pub root: PathBuf,
    pub state_dir: PathBuf,
    /// This program, for starting workers.
    pub program: PathBuf,
    pub started_ms: u64,
    pub threads: usize,
    pub store: Store,
    state: Mutex<State>,
    /// Wakes the supervisor.
    pub wake: Condvar,
    changed: watch::Sender<u64>,
    /// One launch at a time: two must not both find that strata are missing.
    pub launching: Mutex<()>,
    /// One at a time takes made rows into the data, or out of it.
    pub accepting: Mutex<()>,
    pub sets_cache: Mutex<SetsCache>,
    /// One import of outcomes at a time.
    pub importing: Mutex<()>,
    pub row_cache: Mutex<RowCache>,
    pub board_cache: Mutex<BoardCache>,
    /// One at a time works the board out.
    pub board_working: Mutex<()>,
    pub candidate_cache: Mutex<CandidateCache>,
    pub strata_cache: Mutex<StrataCache>,
    pub watching: Mutex<Watching>,
    /// One at a time writes the files made of people's feedback.
    pub feedback: Mutex<()>,
    /// One at a time looks for the playground's worker, and starts it.
    pub playing: Mutex<()>,
    /// One trial of prompts at a time.
    pub trying: Mutex<()>,
    pub exports: Mutex<Exports>,
    /// How far the pass that looks for what is wrong with the rows is; none of none while there is no such.
    pub looking: Mutex<(usize, usize)>,
    /// Numbers of questions in the playground.
    pub questions: AtomicU64,
}

impl Engine {
    /// Open the store and take in what the run folders say.
    pub fn open(root: &Path, program: PathBuf) -> anyhow::Result<Arc<Self>> {
        let state_dir = root.join(".tunebench");
        let (store, contents) = Store::open(&state_dir)?;
        let engine = Self {
            root: root.to_owned(),
            state_dir,
            program,
            started_ms: now_ms(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            store,
            state: Mutex::new(State {
                decisions: contents.decisions,
                looks: contents.looks,
                notices: contents.notices,
                ..State::default()
            }),
            wake: Condvar::new(),
            changed: watch::Sender::new(0),
            launching: Mutex::new(()),
            accepting: Mutex::default(),
            sets_cache: Mutex::default(),
            importing: Mutex::default(),
            row_cache: Mutex::default(),
            board_cache: Mutex::default(),
            board_working: Mutex::default(),
            candidate_cache: Mutex::default(),
            strata_cache: Mutex::default(),
            watching: Mutex::default(),
            feedback: Mutex::default(),
            playing: Mutex::default(),
            trying: Mutex::default(),
            exports: Mutex::default(),
            looking: Mutex::default(),
            questions: AtomicU64::new(1),
        };
        engine.load_runs(contents.runs)?;
        engine.write_feedback();
        outcomes::adopt(&engine)?;
        grow::taken::catch_up(&engine)?;
        Ok(Arc::new(engine))
    }

    /// An evaluation is about to look at the reserve.
    pub fn look(&self, look: Look) -> std::io::Result<()> {
        self.store.record(now_ms(), Look::OP, serde_json::to_value(&look)?)?;
        self.update(|state| {
            state.looks.push(look);
            state.board_version = state.version;
        });
        Ok(())
    }

    /// Read every run folder, from where the store says it was left.
    fn load_runs(&self, stored: Vec<StoredRun>) -> anyhow::Result<()> {
        let mut stored: HashMap<String, StoredRun> =
            stored.into_iter().map(|s| (s.record.run.clone(), s)).collect();
        let mut notices = Vec::new();
        for (id, folder) in self.run_folders()? {
            match ingest::load(&id, folder, stored.remove(&id)) {
                Ok(run) => {
                    self.update(|state| {
                        state.runs.insert(id, run);
                    });
                }
                Err(error) => notices.push(format!("run {id} cannot be read and is left out: {error:#}")),
            }
        }
        self.update(|state| state.notices.extend(notices));
        Ok(())
    }

    /// Every folder under `runs/`, by the run's id.
    fn run_folders(&self) -> std::io::Result<Vec<(String, RunFolder)>> {
        let entries = match std::fs::read_dir(self.state_dir.join("runs")) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_dir() && !name.starts_with('.') {
                found.push((name, RunFolder::new(entry.path())));
            }
        }
        Ok(found)
    }

    /// Rebuild the store from the journal and the run folders.
    pub fn repair(&self) -> anyhow::Result<String> {
        let (decisions, notices) = self.store.rebuild()?;
        let folders = self.run_folders()?;
        let mut runs = 0;
        for (id, folder) in folders {
            // What is under way is being followed; its record is written when it ends.
            if self.read(|state| state.runs.get(&id).is_some_and(|r| r.active)) {
                continue;
            }
            let fresh = ingest::load(&id, folder, None)?;
            self.store.put_run(StoredRun { record: fresh.record.clone(), offset: fresh.offset }, false)?;
            self.update(|state| {
                let version = state.version;
                state.runs.insert(id, Run { version, ..fresh });
            });
            runs += 1;
        }
        let marks = decisions.marks.len() + decisions.gold.len() + decisions.notes.len();
        self.update(|state| {
            state.decisions = decisions;
            state.notices.clone_from(&notices);
        });
        self.write_feedback();
        grow::taken::restore(self)?;
        self.update(|state| {
            state.board_version = state.version;
            state.strata_version = state.version;
        });
        let mut message =
            format!("rebuilt the store: {}, decisions on {}", counted(runs, "run"), counted(marks, "row"));
        for notice in notices {
            message.push_str("; ");
            message.push_str(&notice);
        }
        Ok(message)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.lock())
    }

    /// Change something; followers and the supervisor look again.
    pub fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        state.version += 1;
        let result = change(&mut state);
        let version = state.version;
        drop(state);
        self.changed.send_replace(version);
        self.wake.notify_all();
        result
    }

    /// For the supervisor: wait for a change, or for `patience`.
    pub fn wait(&self, seen: u64, patience: Option<std::time::Duration>) -> u64 {
        let mut state = self.lock();
        if state.version == seen {
            state = match patience {
                None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(patience) => {
                    self.wake.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        state.version
    }

    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub fn status(&self) -> EngineStatus {
        // Its name as it stands now; the folder's where the file cannot be read.
        let (workspace, tuning, judges) = crate::workspace::Workspace::open(&self.root).map_or_else(
            |_| {
                let name = self.root.file_name().unwrap_or_default().to_string_lossy().into_owned();
                (name, BTreeMap::new(), Vec::new())
            },
            |(ws, _)| {
                let meant = ws.config.judge_named(None).map(|judge| judge.name.clone());
                let mut judges: Vec<String> = ws.config.judges.iter().map(|j| j.name.clone()).collect();
                judges.sort_by_key(|name| Some(name) != meant.as_ref());
                let mut tuning = shown("tuning.train", &ws.config.tuning.train);
                tuning.extend(shown("tuning.prompt", &ws.config.tuning.prompt));
                tuning.extend(shown("tuning.trajectory", &ws.config.tuning.trajectory));
                tuning.extend(shown("tuning.grow", &ws.config.tuning.grow));
                (ws.config.name, tuning, judges)
            },
        );
        self.read(|state| EngineStatus {
            version: super::protocol::VERSION.into(),
            pid: std::process::id(),
            workspace,
            root: self.root.display().to_string(),
            clients: state.clients,
            started_ms: self.started_ms,
            device: format!("CPU, {}", counted(self.threads, "thread")),
            notices: state.notices.clone(),
            tuning,
            judges,
        })
    }

    pub fn record(&self, run: &str) -> Result<RunRecord, Failure> {
        self.read(|state| state.runs.get(run).map(|r| r.record.clone())).ok_or_else(|| no_run(run))
    }

    /// Read what is new in a run's event file into its record. Returns whether anything was.
    pub fn ingest(&self, run: &str) -> bool {
        let mut state = self.lock();
        let version = state.version + 1;
        let Some(entry) = state.runs.get_mut(run) else { return false };
        let before = (entry.offset, entry.record.state);
        if let Err(error) = ingest::advance(entry) {
            let notice = format!("{run}: its events cannot be read: {error}");
            if !state.notices.contains(&notice) {
                state.notices.push(notice);
            }
            return false;
        }
        if entry.offset == before.0 {
            return false;
        }
        entry.version = version;
        let ended = entry.record.state.is_final() && !before.1.is_final();
        let kind = entry.record.kind;
        let keep = StoredRun { record: entry.record.clone(), offset: entry.offset };
        state.version = version;
        if ended {
            // Whoever resumes it gives them again.
            state.keys.remove(run);
            state.board_version = version;
            if kind == RunKind::Strata {
                state.strata_version = version;
            }
        }
        drop(state);
        // The store is an index: in mid-run it can lag, at a change of state it should not.
        if before.1 != keep.record.state {
            let ended = keep.record.state.is_final();
            if let Err(error) = self.store.put_run(keep, ended) {
                tracing::error!("cannot store the record of {run}: {error}");
            }
        }
        self.changed.send_replace(version);
        true
    }

    /// Take in what people have just decided.
    pub fn decided(&self, decisions: Decisions) {
        self.update(|state| state.decisions = decisions);
        // Before anybody looks at the rows again.
        self.write_feedback();
        self.update(|state| {
            state.board_version = state.version;
            state.strata_version = state.version;
        });
    }

    /// The files made of people's feedback. They can be made again, so that a failure is only told.
    fn write_feedback(&self) {
        if let Err(error) = feedback::write(self) {
            let notice = format!("the rows of people's feedback cannot be written: {error}");
            self.update(|state| {
                if !state.notices.contains(&notice) {
                    state.notices.push(notice);
                }
            });
        }
    }

    /// Where the events after `seq` begin.
    pub fn remember_page(&self, run: &str, seq: u64, offset: u64) {
        if let Some(run) = self.lock().runs.get_mut(run) {
            run.pages.insert(seq, offset);
        }
    }

    /// Put a run without a living worker into a state, in its folder and here.
    pub fn set_run_state(
        &self,
        run: &str,
        state: RunState,
        message: Option<String>,
    ) -> Result<bool, Failure> {
        let folder = self.read(|s| s.runs.get(run).map(|r| r.folder.clone())).ok_or_else(|| no_run(run))?;
        let set =
            folder.set_state_without_worker(state, message).map_err(|e| failed(format!("{run}: {e}")))?;
        while self.ingest(run) {}
        Ok(set)
    }
}

pub fn no_run(run: &str) -> Failure {
    bad_input(format!("no run `{run}`; `tunebench runs` lists them"))
}

/// Refused for want of keys.
pub fn needs_keys(what: &str, needs: Vec<KeyNeed>) -> Failure {
    let named: Vec<String> = needs.iter().map(ToString::to_string).collect();
    let message = format!("{what} needs {}, which was not given", named.join(" and "));
    Failure { needs, ..bad_input(message) }
}

pub fn bad_input(message: impl Into<String>) -> Failure {
    Failure::new(2, message)
}

pub fn failed(message: impl Into<String>) -> Failure {
    Failure::new(1, message)
}
