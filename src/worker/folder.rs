//! The run folder: the hand-over between engine and worker, and the truth about a run.
//!
//! ```text
//! launch.json    what was asked for (the engine freezes it into spec.json when what it needs is there)
//! spec.json      frozen: settings, candidate, ordered row ids with content hashes
//! inputs/        rows.jsonl, set-NAME.jsonl, and manifest.json with the hash of every file beside it; start/, the checkpoint of a branch
//! events.jsonl   outcomes.jsonl   sets/NAME/outcomes.jsonl   traces/rows.jsonl   state.json   worker.log
//! steered.jsonl  what was asked of it in mid-run, a change a line, in the order of asking
//! checkpoints/step-NNNNNN/   artifacts/   control.sock   lock
//! ```

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::domain::event::{Event, EventBody};
use crate::domain::keys::Keys;
use crate::domain::metric::Metric;
use crate::domain::outcome::Outcome;
use crate::domain::report::RunInputs;
use crate::domain::row::RunRow;
use crate::domain::run::{Job, RUN_FORMAT, RunResult, RunSpec, RunState};
use crate::domain::sets::SetInputs;
use crate::domain::steer::Change;
use crate::domain::trace::RowTrace;
use crate::score::compare::{Columns, Piece};
use crate::store::files::{self, Lock};
use crate::store::lines::{self, Appender};

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// `state.json`: where the run stands, by rename.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StateFile {
    pub state: RunState,
    #[serde(default)]
    pub message: Option<String>,
    pub pid: u32,
    pub t_ms: u64,
    /// The sequence number of the event that says the same.
    pub seq: u64,
}

/// Paths of one run.
#[derive(Clone, Debug)]
pub struct RunFolder {
    dir: PathBuf,
}

impl RunFolder {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }
    pub fn dir(&self) -> &Path {
        &self.dir
    }
    pub fn launch(&self) -> PathBuf {
        self.dir.join("launch.json")
    }
    pub fn spec(&self) -> PathBuf {
        self.dir.join("spec.json")
    }
    pub fn inputs(&self) -> PathBuf {
        self.dir.join("inputs")
    }
    pub fn rows(&self) -> PathBuf {
        self.dir.join("inputs/rows.jsonl")
    }
    /// The checkpoint that the run starts from, as it was at the launch.
    pub fn start(&self) -> PathBuf {
        self.dir.join("inputs/start")
    }
    pub fn manifest(&self) -> PathBuf {
        self.dir.join("inputs/manifest.json")
    }
    pub fn events(&self) -> PathBuf {
        self.dir.join("events.jsonl")
    }
    pub fn outcomes(&self) -> PathBuf {
        self.dir.join("outcomes.jsonl")
    }
    /// What was answered on a set, as a folder of its own: only its outcomes are there.
    pub fn set(&self, name: &str) -> Self {
        Self { dir: self.dir.join("sets").join(name) }
    }
    /// What the file of a set's rows in `inputs/` is called.
    pub fn set_rows(name: &str) -> String {
        format!("set-{name}.jsonl")
    }
    pub fn traces(&self) -> PathBuf {
        self.dir.join("traces/rows.jsonl")
    }
    pub fn state(&self) -> PathBuf {
        self.dir.join("state.json")
    }
    pub fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }
    pub fn log(&self) -> PathBuf {
        self.dir.join("worker.log")
    }
    pub fn checkpoints(&self) -> PathBuf {
        self.dir.join("checkpoints")
    }
    pub fn artifacts(&self) -> PathBuf {
        self.dir.join("artifacts")
    }
    pub fn result(&self) -> PathBuf {
        self.dir.join("artifacts/result.json")
    }
    fn steered(&self) -> PathBuf {
        self.dir.join("steered.jsonl")
    }

    /// Ask the run for changes: on disk when this returns, and taken by the life that it has or the next one.
    pub fn steer(&self, changes: &[Change]) -> io::Result<()> {
        lines::append_durably(&self.steered(), changes)
    }

    /// What was asked for behind byte `from`, and the byte behind it.
    pub(super) fn asked(&self, from: u64) -> io::Result<(Vec<Change>, u64)> {
        let path = self.steered();
        let mut asked = Vec::new();
        if fs::metadata(&path).map_or(0, |m| m.len()) == from {
            return Ok((asked, from));
        }
        let mut unknown = None;
        let to = lines::read_from(&path, from, u64::MAX, |line, _| {
            match serde_json::from_slice(line) {
                Ok(change) => asked.push(change),
                Err(error) => unknown = Some(error),
            }
            unknown.is_none()
        })?;
        match unknown {
            // Passed over, it would put what follows under another number.
            Some(error) => Err(io::Error::other(format!("{}: a line is no change: {error}", path.display()))),
            None => Ok((asked, to)),
        }
    }

    /// Where the control socket really is (a short path when the folder's is too long).
    pub fn control(&self) -> io::Result<PathBuf> {
        files::socket_path(&self.dir.join("control.sock"))
    }

    /// What clients of a `serve` run must bring.
    pub fn token(&self) -> PathBuf {
        self.dir.join("token")
    }

    /// Where a playground's worker listens.
    pub fn play(&self) -> io::Result<PathBuf> {
        files::socket_path(&self.dir.join("play.sock"))
    }

    /// A worker lives.
    pub fn is_locked(&self) -> bool {
        Lock::is_held(&self.lock())
    }

    pub fn read_state(&self) -> Option<StateFile> {
        serde_json::from_slice(&fs::read(self.state()).ok()?).ok()
    }

    pub fn read_spec(&self) -> anyhow::Result<RunSpec> {
        let path = self.spec();
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let spec: RunSpec = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is no run's specification", path.display()))?;
        ensure!(
            spec.format == RUN_FORMAT,
            "{} has format {}, this version reads {RUN_FORMAT}",
            path.display(),
            spec.format
        );
        Ok(spec)
    }

    pub fn read_result(&self) -> Option<RunResult> {
        serde_json::from_slice(&fs::read(self.result()).ok()?).ok()
    }

    /// The last outcome of each (row, sample).
    pub fn read_outcomes(&self) -> io::Result<Vec<Outcome>> {
        let (mut all, _) = lines::read_all_long::<Outcome>(&self.outcomes())?;
        let mut seen = HashSet::with_capacity(all.len());
        let mut last: Vec<bool> = all.iter().rev().map(|o| seen.insert((o.row.as_str(), o.sample))).collect();
        drop(seen);
        // From the end, as the flags were found.
        all.retain(|_| last.pop().unwrap_or(false));
        Ok(all)
    }

    /// [`Self::read_outcomes`], but only what comparing by `metric` takes.
    pub fn read_columns(&self, metric: &Metric) -> io::Result<Columns> {
        let pieces = lines::in_pieces(&self.outcomes(), |lines, at| Piece::of_lines(lines, at, metric))?;
        Ok(Columns::joined(pieces))
    }

    /// The last trace of a row; none where it left none.
    pub fn read_trace(&self, row: &str) -> anyhow::Result<Option<RowTrace>> {
        // Lines begin with their row: only the row's own are parsed.
        let begins = format!("{{\"row\":{},", serde_json::to_string(row)?);
        let mut found = None;
        lines::read_from(&self.traces(), 0, u64::MAX, |line, _| {
            if line.starts_with(begins.as_bytes()) {
                found = serde_json::from_slice(line).ok().or(found.take());
            }
            true
        })?;
        Ok(found)
    }

    /// What a tuning run told before: steps (without their rows), evaluations, samples (without their texts) and changes.
    fn read_history(&self) -> io::Result<Vec<EventBody>> {
        let mut history = Vec::new();
        if !self.events().exists() {
            return Ok(history);
        }
        lines::read_from(&self.events(), 0, u64::MAX, |line, _| {
            let Ok(mut body) = serde_json::from_slice::<Event>(line).map(|event| event.body) else {
                // A line of a newer version is passed over.
                return true;
            };
            match &mut body {
                EventBody::Step { rows, losses, .. } => (*rows, *losses) = (Vec::new(), Vec::new()),
                EventBody::Sample { row, output, gold, .. } => {
                    (*row, *output, *gold) = (String::new(), String::new(), None);
                }
                EventBody::Eval { .. } | EventBody::Change { .. } | EventBody::Prompt(_) => {}
                _ => return true,
            }
            history.push(body);
            true
        })?;
        Ok(history)
    }

    /// Complete checkpoints, oldest first: (step, folder).
    pub fn list_checkpoints(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let entries = match fs::read_dir(self.checkpoints()) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(step) = name.strip_prefix("step-").and_then(|s| s.parse().ok()) {
                found.push((step, entry.path()));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// The checkpoint that was marked as the best one.
    pub fn best_checkpoint(&self) -> Option<PathBuf> {
        let name = fs::read_to_string(self.checkpoints().join("best")).ok()?;
        Some(self.checkpoints().join(name.trim())).filter(|path| path.is_dir())
    }

    /// Write the frozen specification and its inputs. `spec.json` comes last: where it is, all is.
    pub fn freeze(&self, spec: &RunSpec, rows: &[RunRow]) -> io::Result<()> {
        self.freeze_with(spec, rows, &[])
    }

    /// The same with further files beside the rows, by name.
    pub fn freeze_with(&self, spec: &RunSpec, rows: &[RunRow], more: &[(String, Vec<u8>)]) -> io::Result<()> {
        let rows = self.write_rows(&mut |write| rows.iter().try_for_each(write))?;
        self.freeze_rest(spec, rows, more)
    }

    /// Write `inputs/rows.jsonl` row by row; its hash. `each` is handed what writes a row.
    pub fn write_rows(
        &self,
        each: &mut dyn FnMut(&mut dyn FnMut(&RunRow) -> io::Result<()>) -> io::Result<()>,
    ) -> io::Result<String> {
        files::private_dir(&self.inputs())?;
        let temporary = self.inputs().join(".rows.jsonl.tmp");
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        let (mut hasher, mut line) = (blake3::Hasher::new(), Vec::new());
        each(&mut |row| {
            line.clear();
            serde_json::to_writer(&mut line, row)?;
            line.push(b'\n');
            hasher.update(&line);
            file.write_all(&line)
        })?;
        file.flush()?;
        file.get_ref().sync_all()?;
        fs::rename(&temporary, self.rows())?;
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// The specification of rows that [`Self::write_rows`] wrote, whose hash that is.
    pub fn freeze_rest(&self, spec: &RunSpec, rows: String, more: &[(String, Vec<u8>)]) -> io::Result<()> {
        let hash = |bytes: &[u8]| blake3::hash(bytes).to_hex().to_string();
        let mut manifest = BTreeMap::from([("rows.jsonl".to_owned(), rows)]);
        for (name, bytes) in more {
            manifest.insert(name.clone(), hash(bytes));
            files::write_atomic(&self.inputs().join(name), bytes)?;
        }
        let mut spec = spec.clone();
        for stage in spec.candidate.iter_mut().flat_map(|c| &mut c.stages) {
            let Some(examples) = &mut stage.examples else { continue };
            let name = format!("examples-{}.jsonl", examples.hash.get(..16).unwrap_or(&examples.hash));
            let path = self.inputs().join(&name);
            if let Entry::Vacant(entry) = manifest.entry(name) {
                let bytes = fs::read(&examples.path)?;
                if blake3::hash(&bytes).to_hex().as_str() != examples.hash {
                    let why = format!("{} was changed since it was measured", examples.path);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, why));
                }
                files::write_atomic(&path, &bytes)?;
                entry.insert(examples.hash.clone());
            }
            examples.path = path.display().to_string();
        }
        files::write_json(&self.manifest(), &manifest)?;
        files::write_json(&self.spec(), &spec)
    }

    /// Put a checkpoint into `inputs/start`, so that its run may remove it: by links where they can be made (a checkpoint's files
    /// are never written again), else by copies.
    pub fn keep_start(&self, checkpoint: &Path) -> io::Result<()> {
        files::private_dir(&self.inputs())?;
        let start = self.start();
        fs::create_dir(&start)?;
        for entry in fs::read_dir(checkpoint)? {
            let entry = entry?;
            let to = start.join(entry.file_name());
            if fs::hard_link(entry.path(), &to).is_err() {
                fs::copy(entry.path(), &to)?;
            }
        }
        files::sync_tree(&start)
    }

    /// Everything a run starts from, checked against its hashes.
    pub fn read_inputs(&self) -> anyhow::Result<RunInputs> {
        let mut spec = self.read_spec()?;
        // The workspace may have moved since.
        for stage in spec.candidate.iter_mut().flat_map(|c| &mut c.stages) {
            if let Some(examples) = &mut stage.examples
                && let Some(name) = Path::new(&examples.path).file_name()
            {
                examples.path = self.inputs().join(name).display().to_string();
            }
        }
        let manifest: BTreeMap<String, String> = serde_json::from_slice(&fs::read(self.manifest())?)
            .with_context(|| format!("{} is damaged", self.manifest().display()))?;
        for (name, expected) in &manifest {
            ensure!(!name.contains('/'), "inputs/manifest.json names `{name}`, which leads out of inputs/");
            let path = self.inputs().join(name);
            let mut hasher = blake3::Hasher::new();
            let file = fs::File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
            hasher.update_reader(file).with_context(|| format!("cannot read {}", path.display()))?;
            ensure!(
                hasher.finalize().to_hex().as_str() == expected,
                "{} was changed after the launch (its hash differs from inputs/manifest.json)",
                path.display()
            );
        }
        ensure!(manifest.contains_key("rows.jsonl"), "inputs/manifest.json does not name rows.jsonl");
        // A strata run has all rows there are, and reads them some at a time.
        let streams = matches!(spec.job, Job::Strata(_));
        let (rows, bad) = if streams { (Vec::new(), 0) } else { lines::read_all::<RunRow>(&self.rows())? };
        if !streams && (bad > 0 || rows.len() != spec.rows.len()) {
            bail!(
                "inputs/rows.jsonl has {} readable rows and {bad} others, spec.json lists {}",
                rows.len(),
                spec.rows.len()
            );
        }
        if let Some(at) =
            (0..rows.len()).find(|&i| rows[i].id != spec.rows[i].id || rows[i].hash != spec.rows[i].hash)
        {
            bail!(
                "inputs/rows.jsonl line {}: row `{}` is not the row that spec.json lists there",
                at + 1,
                rows[at].id
            );
        }
        let outcomes = match spec.job {
            Job::Eval(_) | Job::Judge(_) => self.read_outcomes()?,
            // It knows itself whose outcomes these are.
            Job::Prompt { .. } | Job::Grow { .. } => Vec::new(),
            // What a training run scored before it was resumed belongs to weights that are no more.
            Job::Trajectory { .. }
            | Job::Train { .. }
            | Job::LrRange { .. }
            | Job::Strata(_)
            | Job::Serve(_)
            | Job::Playground(_) => {
                for stale in [self.outcomes(), self.traces()] {
                    if stale.exists() {
                        fs::remove_file(stale)?;
                    }
                }
                Vec::new()
            }
        };
        let mut sets = Vec::new();
        for set in &spec.sets {
            let name = Self::set_rows(&set.name);
            ensure!(manifest.contains_key(&name), "inputs/manifest.json does not name {name}");
            let (rows, bad) = lines::read_all::<RunRow>(&self.inputs().join(&name))?;
            ensure!(bad == 0, "inputs/{name} has {bad} lines that are no rows");
            let folder = self.set(&set.name);
            let done = match spec.job {
                Job::Eval(_) => folder.read_outcomes()?,
                // As above.
                _ if folder.outcomes().exists() => {
                    fs::remove_file(folder.outcomes())?;
                    Vec::new()
                }
                _ => Vec::new(),
            };
            sets.push(SetInputs { set: set.clone(), rows, done });
        }
        let resume_from = self.list_checkpoints()?.pop().map(|(_, path)| path);
        let tells = matches!(spec.job, Job::Train { .. } | Job::Prompt { .. } | Job::Trajectory { .. });
        let history = if tells { self.read_history()? } else { Vec::new() };
        let keys = Keys::default();
        // `.tunebench/runs/RUN`: the cache is the only thing outside its folder that a run writes.
        let runs = self.dir.parent().filter(|runs| runs.file_name().is_some_and(|name| name == "runs"));
        let cache = runs.and_then(Path::parent).and_then(|state_dir| spec.cache.place(state_dir));
        Ok(RunInputs { dir: self.dir.clone(), spec, rows, resume_from, outcomes, keys, cache, sets, history })
    }

    /// End (or queue) a run that has no living worker: one event, then `state.json`. Does nothing and returns false when a worker lives.
    pub fn set_state_without_worker(&self, state: RunState, message: Option<String>) -> io::Result<bool> {
        let Some(_lock) = Lock::take_within(&self.lock(), "engine", Duration::from_millis(500))? else {
            return Ok(false);
        };
        let mut events = EventLog::open(&self.events())?;
        let event = events.append(EventBody::State { state, message: message.clone() })?;
        events.sync()?;
        self.write_state(state, message, &event, 0)?;
        Ok(true)
    }

    pub(super) fn write_state(
        &self,
        state: RunState,
        message: Option<String>,
        event: &Event,
        pid: u32,
    ) -> io::Result<()> {
        files::write_json(&self.state(), &StateFile { state, message, pid, t_ms: event.t_ms, seq: event.seq })
    }
}

/// The writing end of `events.jsonl`: sequence numbers go on where they stopped.
#[derive(Debug)]
pub struct EventLog {
    appender: Appender,
    next: u64,
}

impl EventLog {
    pub fn open(path: &Path) -> io::Result<Self> {
        let (appender, _) = Appender::open(path)?;
        let mut next = 1;
        lines::read_from(path, 0, u64::MAX, |line, _| {
            // Only the number is looked at: a line of a newer version counts as well.
            #[derive(Deserialize)]
            struct Numbered {
                seq: u64,
            }
            if let Ok(numbered) = serde_json::from_slice::<Numbered>(line) {
                next = next.max(numbered.seq + 1);
            }
            true
        })?;
        Ok(Self { appender, next })
    }

    pub fn append(&mut self, body: EventBody) -> io::Result<Event> {
        let event = Event { seq: self.next, t_ms: now_ms(), body };
        self.appender.append(&event)?;
        self.next += 1;
        Ok(event)
    }

    pub fn sync(&self) -> io::Result<()> {
        self.appender.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_have_no_gap_after_a_torn_line() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("events.jsonl");
        let mut log = EventLog::open(&path).unwrap();
        for i in 0..5 {
            log.append(EventBody::Log { message: format!("{i}") }).unwrap();
        }
        drop(log);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
        EventLog::open(&path).unwrap().append(EventBody::Log { message: "after".into() }).unwrap();
        let (events, bad) = lines::read_all::<Event>(&path).unwrap();
        assert_eq!(bad, 0);
        assert_eq!(events.iter().map(|e| e.seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_state_set_without_a_worker_is_refused_while_one_lives() {
        let temp = tempfile::tempdir().unwrap();
        let folder = RunFolder::new(temp.path());
        let lock = Lock::try_take(&folder.lock(), "worker").unwrap().unwrap();
        assert!(!folder.set_state_without_worker(RunState::Interrupted, None).unwrap());
        drop(lock);
        assert!(folder.set_state_without_worker(RunState::Interrupted, Some("gone".into())).unwrap());
        assert_eq!(folder.read_state().unwrap().state, RunState::Interrupted);
    }
}
