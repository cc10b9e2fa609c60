//! A made-up workspace: what `tunebench bench frame` draws, and what the tests of the screens look at. No figure here is a measurement.

mod board;
mod data;
mod grown;
pub mod prompts;
mod remedies;
mod talk;
mod timeline;
mod training;
pub mod trajectories;

use super::app::{App, Effect, Message};
use super::config::Settings;
use super::keymap::Keymap;
use super::signs::Signs;
use super::theme::{BUNDLED, bundled};
use crate::domain::api::{
    EngineStatus, Failure, FromEngine, ImportReport, PromptsKept, Push, Request, Response, ToEngine, View,
};
use crate::domain::board::Board;
use crate::domain::complete::Completion;
use crate::domain::event::Event;
use crate::domain::imported::ImportedFile;
use crate::domain::sample::{Picked, Sample};
use data::trace;

pub use board::{board, comparison, detail, large_board, power};
pub use data::{row, rows, strata};
pub use talk::{agreement, play_events, playing, queue, review, reviewed, scaling};
pub use timeline::timeline;
pub use training::{run, runs, step, steps, training};

/// The clock of the sample: 2026-01-01T00:00:00Z.
pub const NOW_MS: u64 = 1_767_225_600_000;

const TOPICS: [(&str, usize, f64, f64); 8] = [
    ("card arrival", 812, 0.41, 0.93),
    ("cash withdrawal fee", 640, 0.77, 0.95),
    ("top-up failed", 502, 0.12, 0.58),
    ("refund not showing", 488, 0.55, 0.81),
    ("change of address", 377, 0.83, 0.97),
    ("lost or stolen card", 301, 0.62, 0.9),
    ("exchange rate", 180, 0.44, 0.79),
    ("verify identity", 96, 0.5, 0.75),
];

const TEAMS: [&str; 5] = ["delivery", "card_lost", "refund", "transfer", "payments"];

/// A deterministic number of 0..1 (SplitMix64).
fn noise(i: u64) -> f64 {
    let mut z = i.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

pub fn status() -> EngineStatus {
    EngineStatus {
        version: "0.1.0".into(),
        pid: 4711,
        workspace: "support-router".into(),
        root: "/home/ada/support-router".into(),
        clients: 1,
        started_ms: NOW_MS - 60_000,
        device: "CPU, 2 threads".into(),
        notices: vec![],
        tuning: tuning(),
        judges: vec!["helpful".into()],
    }
}

fn tuning() -> std::collections::BTreeMap<String, String> {
    use crate::domain::grow::GrowSettings;
    use crate::domain::prompt::PromptSettings;
    use crate::domain::settings::{TrainSettings, shown};
    use crate::domain::trajectory::TrajectorySettings;
    let mut tuning = shown("tuning.train", &TrainSettings::default());
    tuning.extend(shown("tuning.prompt", &PromptSettings { fan_out: 12, ..PromptSettings::default() }));
    tuning.extend(shown("tuning.trajectory", &TrajectorySettings::default()));
    tuning.extend(shown("tuning.grow", &GrowSettings::default()));
    tuning
}

/// What an engine would answer, from this page.
pub fn respond(request: &Request) -> Response {
    match request {
        Request::Status => Response::Status { status: status() },
        Request::Import { .. } | Request::Imported => Response::Import {
            report: ImportReport { rows: 3396, format: "jsonl/records".into(), ..ImportReport::default() },
        },
        Request::Strata => Response::Strata { view: strata() },
        Request::ByHand { .. } => Response::Done { message: "noted".into() },
        Request::Sample { sample: ask } => {
            let row = |i: usize| Picked { id: format!("{i:05}"), ..Picked::default() };
            let rows: Vec<Picked> = (0..ask.wanted.n * 8).map(row).collect();
            let total = rows.len();
            Response::Sample { sample: Sample { mode: ask.wanted.mode, rows, total, ..Sample::default() } }
        }
        Request::Rows { query } => Response::Rows { page: rows(query) },
        Request::Row { id } => Response::Row { row: row(id) },
        Request::Complete { filter, at } => Response::Completion { completion: complete(filter, *at) },
        Request::Count { by, .. } => Response::Counts { counts: data::counts(by) },
        Request::Map { by, layout } => Response::Map { map: data::map(by, *layout) },
        Request::Views => Response::Views { views: data::views() },
        Request::ExportProgress { .. } => Response::Progress { done: 1000, total: 3396 },
        Request::ReadingProgress => Response::Progress { done: 2000, total: 10_188 },
        Request::Problems { kind, query } => Response::Problems { problems: data::problems(*kind, query) },
        Request::Preview { row, .. } => {
            Response::Preview { preview: Box::new(data::preview(row.as_deref().unwrap_or("00000"))) }
        }
        Request::Leaks { .. } => Response::Leaks { leaks: Default::default() },
        Request::Trace { row, .. } => Response::Trace { run: "eval-1".into(), trace: trace(row) },
        Request::LaunchAll { sets, .. } => {
            Response::LaunchedAll { runs: (0..sets.len()).map(|i| format!("eval-{}", i + 20)).collect() }
        }
        Request::Sweep { .. } => {
            Response::Swept { group: "sweep-1".into(), runs: vec!["train-13".into(), "train-14".into()] }
        }
        Request::Scaling { .. } => Response::Scaling { scaling: Box::new(scaling()) },
        Request::Grown { grown } => Response::Grown { page: grown::grown(grown) },
        Request::AcceptGrown { run, .. } => Response::Done {
            message: format!("38 rows in data/grown/{run}.jsonl, a source of the data from now on"),
        },
        Request::DropHopeless { .. } => Response::Done { message: "noted".into() },
        Request::PromptTree { run } => Response::PromptTree { tree: prompts::tree(run.as_deref()) },
        Request::PromptVersion { of } => {
            Response::PromptVersion { found: Box::new(prompts::found(of.as_deref())) }
        }
        Request::TryPrompts { slice, .. } => Response::Tried { trial: Box::new(prompts::trial(slice)) },
        Request::Prompts => Response::Prompts { kept: PromptsKept::default() },
        Request::Launch { kind, .. } => Response::Launched { run: format!("{kind}-13") },
        Request::Runs => Response::Runs { runs: runs() },
        Request::Run { run: id } => match runs().into_iter().find(|r| r.run == *id) {
            Some(run) => Response::Run { run },
            None => Response::Error { error: Failure::new(2, format!("no run {id}")) },
        },
        Request::Events { run, after, limit } => {
            let events: Vec<Event> =
                training(612, 1000).into_iter().filter(|e| e.seq > *after).take(*limit).collect();
            Response::Events { run: run.clone(), events, more: false }
        }
        Request::Board => Response::Board { board: board() },
        Request::Timeline { run } => Response::Timeline { timeline: timeline(run.as_deref()) },
        Request::Remedies { row, candidate } => {
            Response::Remedies { remedies: remedies::remedies(row, candidate.as_deref()) }
        }
        Request::Power { candidate, difference, .. } => {
            Response::Power { power: power(candidate.as_deref(), *difference) }
        }
        Request::BoardRows { .. } => Response::Board { board: Board { rows: vec![], ..board() } },
        Request::CompareMany { a, others, .. } => {
            Response::Compared { comparisons: others.iter().map(|b| comparison(a, b)).collect() }
        }
        Request::Compare { a, b, .. } => Response::Compare { comparison: comparison(a, b) },
        Request::ImportOutcomes { .. } => Response::ImportedOutcomes {
            imported: ImportedFile { rows: 10, matched: 10, ..ImportedFile::default() },
        },
        Request::Outcomes => Response::Outcomes { imported: Vec::new() },
        Request::Play { question, .. } => Response::Playing { playing: playing(question) },
        Request::RemoveOutcomes { .. } | Request::PlayCancel { .. } => {
            Response::Done { message: String::new() }
        }
        Request::Detail { candidate } => Response::Detail { detail: Box::new(detail(candidate)) },
        Request::ReviewQueue { .. } => Response::ReviewQueue { queue: review() },
        Request::ReviewSay { .. } => Response::Done { message: "noted".into() },
        Request::ReviewAgreement => Response::ReviewAgreement { agreement: Box::new(reviewed()) },
        Request::JudgeQueue { .. } => Response::Queue { queue: queue() },
        Request::Pairwise { .. } => Response::Pairwise { pairwise: Box::default() },
        Request::JudgeAgreement { .. } => Response::Agreement { agreement: agreement() },
        Request::Examples { query, .. } => Response::Examples { page: trajectories::examples(query) },
        Request::SearchExamples { input, .. } => {
            Response::FoundExamples { found: trajectories::found(input) }
        }
        Request::Trajectory { run } => Response::Trajectory { view: Box::new(trajectories::view(run)) },
        Request::Control { .. }
        | Request::ImportExamples { .. }
        | Request::ExportExamples { .. }
        | Request::Steer { .. }
        | Request::Decide { .. }
        | Request::JudgeSay { .. }
        | Request::Undo
        | Request::Repair
        | Request::ExportRows { .. }
        | Request::Exclude { .. }
        | Request::Leave => Response::Done { message: String::new() },
    }
}

/// Keys, and the values of every key alike.
fn complete(filter: &str, at: usize) -> Completion {
    use crate::domain::complete::{Suggestion, fitting, place};
    let items = |all: &[(&str, &str)]| -> Vec<Suggestion> {
        all.iter().map(|(text, aside)| Suggestion { text: (*text).into(), aside: (*aside).into() }).collect()
    };
    let Some(place) = place(filter, at) else { return Completion::default() };
    let all = match place.what.key() {
        None => items(&[
            ("stratum", "the stratum's name or id"),
            ("base", "the baseline's outcome: right, wrong, error, unjudged, missing"),
            ("best", "the best candidate's outcome"),
            ("customer id", "a field of the data"),
        ]),
        Some("base" | "best") => items(&[("right", "1,900 rows"), ("wrong", "1,496 rows")]),
        Some("stratum") => {
            items(&[("card arrival (chat)", "812 rows"), ("top-up failed (mail)", "502 rows")])
        }
        Some(_) => Vec::new(),
    };
    let error = filter.contains("basse").then(|| "no row has `basse`, the nearest is `base`".to_owned());
    Completion { items: fitting(all, place.what.typed()), error }
}

/// What an engine would push at first to one who follows a view.
pub fn snapshot(view: &View) -> Push {
    match view {
        View::Runs => Push::Runs { runs: runs() },
        View::Board => Push::Board { board: board() },
        View::Strata => Push::Strata { view: strata() },
        View::Files => Push::Files { news: vec![] },
        View::Run { run, after } if run == prompts::RUN => Push::Events {
            run: run.clone(),
            events: prompts::events().into_iter().filter(|e| e.seq > *after).collect(),
        },
        View::Run { run, .. } if run.starts_with("trajectory") => {
            Push::Events { run: run.clone(), events: trajectories::events() }
        }
        View::Run { run, after } => Push::Events {
            run: run.clone(),
            events: training(612, 1000).into_iter().filter(|e| e.seq > *after).collect(),
        },
    }
}

/// Lets the state and this page talk until nobody has anything to say.
pub fn settle(app: &mut App, effects: Vec<Effect>) {
    let mut queue = effects;
    while let Some(effect) = queue.pop() {
        let news = match effect {
            Effect::Send(ToEngine::Ask { tag, request: Request::Play { question, keys } }) => {
                let events = play_events(&question);
                let request = Request::Play { question, keys };
                let answer = FromEngine::Answer { tag, response: respond(&request) };
                queue.extend(app.update(Message::Engine(answer), NOW_MS));
                FromEngine::Push { push: Push::Play { events } }
            }
            Effect::Send(ToEngine::Ask { tag, request }) => {
                FromEngine::Answer { tag, response: respond(&request) }
            }
            Effect::Send(ToEngine::Follow { view }) => FromEngine::Push { push: snapshot(&view) },
            _ => continue,
        };
        queue.extend(app.update(Message::Engine(news), NOW_MS));
    }
}

/// The settings without any file.
pub fn settings(theme: &str) -> Settings {
    Settings {
        keymap: Keymap::default(),
        themes: BUNDLED.iter().map(|(name, _)| bundled(name)).collect(),
        theme: theme.to_owned(),
        problems: vec![],
    }
}

/// The screens, connected, with everything there.
pub fn app(size: (u16, u16), theme: &str, signs: Signs) -> App {
    let mut app = App::new(size, signs, NOW_MS);
    app.update(Message::Settings(settings(theme)), NOW_MS);
    let effects = app.update(Message::Engine(FromEngine::Connected { status: status() }), NOW_MS);
    settle(&mut app, effects);
    app
}
