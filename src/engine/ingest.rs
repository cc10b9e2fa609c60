//! From a run's folder to its record: events folded in order, each once.

use std::collections::BTreeMap;
use std::io;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::state::Run;
use crate::domain::event::{Event, EventBody};
use crate::domain::grow::UNMADE;
use crate::domain::run::{Job, Progress, RunKind, RunRecord, RunState};
use crate::domain::steer::Origin;
use crate::domain::sweep::Group;
use crate::store::StoredRun;
use crate::store::lines;
use crate::worker::folder::RunFolder;

/// Most bytes of events read at once.
const BUDGET: u64 = 1 << 20;
/// Events between two entries of [`Run::pages`].
const PAGE_EVERY: u64 = 512;
/// An event line longer than this is not sent over the socket.
const EVENT_MAX: usize = 512 << 10;

/// `launch.json`: what was asked for, before it is frozen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LaunchFile {
    pub kind: RunKind,
    pub created_ms: u64,
    pub set: Vec<(String, String)>,
    /// The checkpoint that a branch starts from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Origin>,
    /// The run that must be done first.
    #[serde(default)]
    pub needs: Option<String>,
    /// The sweep that it was launched with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Group>,
}

/// A run as its folder tells it, from where the store left it.
pub fn load(id: &str, folder: RunFolder, stored: Option<StoredRun>) -> anyhow::Result<Run> {
    let launch = std::fs::read(folder.launch())
        .with_context(|| format!("cannot read {}", folder.launch().display()))?;
    let launch: LaunchFile = serde_json::from_slice(&launch)
        .with_context(|| format!("{} is damaged", folder.launch().display()))?;
    let fresh = || StoredRun {
        record: RunRecord {
            run: id.to_owned(),
            kind: launch.kind,
            state: RunState::Queued,
            created_ms: launch.created_ms,
            started_ms: None,
            ended_ms: None,
            ran_ms: 0,
            told_ms: 0,
            settings: launch.set.clone(),
            from: launch.from.clone(),
            findings: Vec::new(),
            group: None,
            progress: None,
            metrics: BTreeMap::new(),
            candidate: None,
            message: None,
            resumable: false,
            last_seq: 0,
        },
        offset: 0,
    };
    // A file shorter than what was read of it is another file.
    let length = std::fs::metadata(folder.events()).map_or(0, |m| m.len());
    let stored = stored.filter(|s| s.offset <= length && s.record.run == id).unwrap_or_else(fresh);
    let needs = if folder.spec().exists() { None } else { launch.needs.clone() };
    let mut run = Run {
        // It can change after the launch.
        record: RunRecord { group: launch.group, ..stored.record },
        folder,
        offset: stored.offset,
        pages: BTreeMap::new(),
        version: 0,
        active: false,
        needs,
        needs_keys: Vec::new(),
        cancelled: None,
    };
    loop {
        let before = run.offset;
        advance(&mut run)?;
        if run.offset == before {
            break;
        }
    }
    if run.record.candidate.is_none() || !run.record.state.is_final() {
        read_candidate(&mut run);
    }
    if let Some(needs) = &run.needs
        && run.record.state == RunState::Queued
    {
        run.record.message = Some(format!("waits for {needs}, which gives every row its part"));
    }
    settle(&mut run);
    Ok(run)
}

/// Read on from the run's offset, at most [`BUDGET`] bytes.
pub fn advance(run: &mut Run) -> io::Result<()> {
    let Run { record, pages, .. } = run;
    let was_final = record.state.is_final();
    run.offset = lines::read_from(&run.folder.events(), run.offset, BUDGET, |line, after| {
        // A line of a newer version is passed over.
        if let Ok(event) = serde_json::from_slice::<Event>(line)
            && event.seq > record.last_seq
        {
            fold(record, &event);
            if event.seq % PAGE_EVERY == 0 {
                pages.insert(event.seq, after);
            }
        }
        true
    })?;
    if run.record.state.is_final() != was_final {
        settle(run);
    }
    Ok(())
}

/// One event into the record.
fn fold(record: &mut RunRecord, event: &Event) {
    record.last_seq = event.seq;
    // Who finds a dead worker does so later: its time ended with its last word.
    let found_dead = matches!(event.body, EventBody::State { state: RunState::Interrupted, .. });
    if record.state == RunState::Running && !found_dead {
        record.ran_ms += event.t_ms.saturating_sub(record.told_ms);
    }
    record.told_ms = event.t_ms;
    match &event.body {
        EventBody::State { state, message } => {
            // A worker that takes the run up again looks anew.
            if record.state.is_final() {
                record.findings.clear();
            }
            record.state = *state;
            record.message.clone_from(message);
            if *state == RunState::Running {
                record.started_ms.get_or_insert(event.t_ms);
            }
            record.ended_ms = state.is_final().then_some(event.t_ms);
        }
        EventBody::Progress { phase, done, total, eta_ms } => {
            record.progress =
                Some(Progress { phase: phase.clone(), done: *done, total: *total, eta_ms: *eta_ms });
        }
        EventBody::Step { step, total, loss, ms, .. } => {
            record.metrics.insert("loss".into(), *loss);
            record.progress = Some(Progress::after_step(record.progress.as_ref(), *step, *total, *ms));
        }
        EventBody::Eval { loss: Some(loss), .. } => {
            record.metrics.insert("eval_loss".into(), *loss);
        }
        EventBody::Figures { metrics } => {
            record.metrics.extend(metrics.iter().map(|(name, value)| (name.clone(), *value)));
        }
        EventBody::Eval { .. }
        | EventBody::Preflight(_)
        | EventBody::Sample { .. }
        | EventBody::Prompt(_)
        | EventBody::Trajectory(_)
        | EventBody::Log { .. }
        | EventBody::Warning { .. }
        | EventBody::Change { .. }
        | EventBody::Checkpoint { .. } => {}
        EventBody::Finding { holds, finding, .. } => {
            record.findings.retain(|known| known.rule != finding.rule);
            if *holds {
                record.findings.push(finding.clone());
                record.findings.sort_by_key(|finding| finding.rule);
            }
        }
    }
}

/// What the folder says once no worker writes to it: result, candidate, whether it can go on.
fn settle(run: &mut Run) {
    let record = &mut run.record;
    record.resumable = match record.state {
        RunState::Interrupted | RunState::Failed => true,
        // It goes on from the answers in its log.
        RunState::Stopped | RunState::Cancelled if record.kind == RunKind::Grow => run.folder.spec().exists(),
        RunState::Stopped | RunState::Cancelled => run.folder.list_checkpoints().is_ok_and(|c| !c.is_empty()),
        RunState::Queued | RunState::Running | RunState::Paused | RunState::Done => false,
    };
    if record.state.has_result()
        && let Some(result) = run.folder.read_result()
    {
        record.metrics.extend(result.metrics);
        if let Some(candidate) = result.candidate {
            record.candidate = Some(candidate.name);
        }
    }
    // Its budget was spent before its end: with another one it goes on.
    if record.kind == RunKind::Grow && record.state == RunState::Done {
        record.resumable = record.metrics.get(UNMADE).is_some_and(|n| *n > 0.0);
    }
}

/// The candidate's name from the frozen specification, and the keys that the run needs. A training run has no name before its
/// end: it starts from that candidate.
pub fn read_candidate(run: &mut Run) {
    if let Ok(spec) = run.folder.read_spec() {
        run.needs_keys = spec.needs_keys();
        run.record.candidate = match spec.job {
            Job::Prompt { .. } | Job::Trajectory { .. } | Job::Train { .. } | Job::LrRange { .. } => None,
            // Who checks is nothing that the run makes.
            Job::Grow { .. } => None,
            Job::Strata(_) | Job::Eval(_) | Job::Judge(_) | Job::Serve(_) | Job::Playground(_) => {
                spec.candidate.map(|c| c.name)
            }
        };
    }
}

/// Events of a run above `after`, at most `limit` of them and at most about `bytes` bytes. Also the byte offset after them, and whether there are more.
pub fn events_after(
    folder: &RunFolder,
    from: u64,
    after: u64,
    limit: usize,
    bytes: usize,
) -> io::Result<(Vec<Event>, u64, bool)> {
    let (mut events, mut size, mut more) = (Vec::new(), 0, false);
    let mut offset = from;
    lines::read_from(&folder.events(), from, u64::MAX, |line, next| {
        if events.len() >= limit.max(1) || (size > 0 && size + line.len() > bytes) {
            more = true;
            return false;
        }
        offset = next;
        let Ok(event) = serde_json::from_slice::<Event>(line) else { return true };
        if event.seq <= after {
            return true;
        }
        if line.len() > EVENT_MAX {
            let message = format!("an event of {} bytes is too long to show", line.len());
            events.push(Event { body: EventBody::Warning { message }, ..event });
            return true;
        }
        size += line.len();
        events.push(event);
        true
    })?;
    Ok((events, offset, more))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::files;
    use crate::worker::folder::EventLog;

    fn folder(dir: &std::path::Path) -> RunFolder {
        let folder = RunFolder::new(dir);
        let launch = LaunchFile {
            kind: RunKind::Train,
            created_ms: 1,
            set: Vec::new(),
            from: None,
            needs: None,
            group: None,
        };
        files::write_json(&folder.launch(), &launch).unwrap();
        folder
    }

    fn step(step: u64) -> EventBody {
        EventBody::Step {
            step,
            total: 10,
            epoch: 0.1,
            loss: step as f64,
            lr: 0.1,
            grad_norm: 1.0,
            tokens: 1,
            trained_tokens: 1,
            padding: 0,
            ms: 2.0,
            wait_ms: 0.0,
            rows: Vec::new(),
            losses: Vec::new(),
        }
    }

    #[test]
    fn reading_in_pieces_gives_the_record_of_reading_at_once() {
        let temp = tempfile::tempdir().unwrap();
        let folder = folder(temp.path());
        let mut log = EventLog::open(&folder.events()).unwrap();
        let mut live = load("train-1", folder.clone(), None).unwrap();
        log.append(EventBody::State { state: RunState::Running, message: None }).unwrap();
        for i in 1..=1000 {
            log.append(step(i)).unwrap();
            if i % 7 == 0 {
                advance(&mut live).unwrap();
            }
        }
        advance(&mut live).unwrap();
        let fresh = load("train-1", folder.clone(), None).unwrap();
        assert_eq!(live.record, fresh.record);
        assert_eq!(fresh.record.last_seq, 1001);
        let stored = StoredRun { record: live.record.clone(), offset: live.offset };
        assert_eq!(load("train-1", folder, Some(stored)).unwrap().record, live.record);
    }

    #[test]
    fn a_run_took_the_time_in_which_it_ran() {
        let temp = tempfile::tempdir().unwrap();
        let mut run = load("train-1", folder(temp.path()), None).unwrap();
        assert_eq!(run.record.took_ms(5), None);
        let state = |state| EventBody::State { state, message: None };
        use RunState as S;
        let told = [
            (1_000, state(S::Queued)),
            (2_000, state(S::Running)),
            (2_500, step(1)),
            (3_000, state(S::Paused)),
            (9_000, state(S::Running)),
            (9_100, step(2)),
            // Dead since 9,100, found an hour later, resumed, and waiting again.
            (3_600_000, state(S::Interrupted)),
            (3_700_000, state(S::Queued)),
            (3_800_000, state(S::Running)),
        ];
        for (seq, (t_ms, body)) in (1..).zip(told) {
            fold(&mut run.record, &Event { seq, t_ms, body });
        }
        assert_eq!(run.record.took_ms(3_800_007), Some(1_000 + 100 + 7));
        fold(&mut run.record, &Event { seq: 10, t_ms: 3_800_500, body: state(S::Done) });
        assert_eq!(run.record.took_ms(u64::MAX), Some(1_600));
    }

    #[test]
    fn pages_cover_every_event_once() {
        let temp = tempfile::tempdir().unwrap();
        let folder = folder(temp.path());
        let mut log = EventLog::open(&folder.events()).unwrap();
        for i in 1..=300 {
            log.append(step(i)).unwrap();
        }
        let (mut seen, mut offset, mut after) = (Vec::new(), 0, 0);
        loop {
            let (events, next, more) = events_after(&folder, offset, after, 37, 4000).unwrap();
            seen.extend(events.iter().map(|e| e.seq));
            after = seen.last().copied().unwrap_or(0);
            offset = next;
            if !more {
                break;
            }
        }
        assert_eq!(seen, (1..=300).collect::<Vec<_>>());
    }
}
