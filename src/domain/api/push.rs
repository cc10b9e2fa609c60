//! What the engine tells by itself: its state, what a client follows, and what it is sent of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Request, Response};
use crate::domain::board::{Board, StrataView};
use crate::domain::event::Event;
use crate::domain::keys::KeyNeed;
use crate::domain::play::PlayEvent;
use crate::domain::row::Quarantined;
use crate::domain::run::RunRecord;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EngineStatus {
    pub version: String,
    pub pid: u32,
    pub workspace: String,
    pub root: String,
    pub clients: usize,
    pub started_ms: u64,
    /// What the runs work on: `CPU, 2 threads` or the GPU's name.
    pub device: String,
    /// Told once: what is missing, what was repaired.
    pub notices: Vec<String>,
    /// `[tuning]` as it stands, key by key; empty where `workspace.toml` cannot be read.
    #[serde(default)]
    pub tuning: BTreeMap<String, String>,
    /// Names of its judges, the one that is meant where none is named first.
    #[serde(default)]
    pub judges: Vec<String>,
}

/// What `data import` found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImportReport {
    pub rows: usize,
    pub bytes: u64,
    pub seconds: f64,
    /// Of the process that indexed.
    pub peak_mib: f64,
    pub cached: bool,
    /// The first 1,000.
    pub quarantined: Vec<Quarantined>,
    pub quarantined_total: usize,
    /// `jsonl/records`, `csv/prompt-completion`, ...
    pub format: String,
    /// What a person should know, such as ids that are not unique.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// What a client can follow.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "view", rename_all = "snake_case")]
pub enum View {
    Runs,
    /// The record and every event above `after`.
    Run {
        run: String,
        after: u64,
    },
    Board,
    Strata,
    /// Files of the workspace that people save: `workspace.toml`, prompts, data. They are watched while somebody follows.
    Files,
}

/// What a saved file led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileNews {
    /// Relative to the workspace where it lies in it.
    pub file: String,
    /// It cannot be used as it stands.
    pub problem: bool,
    /// Begins with the file's name.
    pub text: String,
}

/// What the engine pushes to those who subscribed: a snapshot first, then deltas.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "push", rename_all = "snake_case")]
pub enum Push {
    /// Replaces all that was known of the runs.
    Runs {
        runs: Vec<RunRecord>,
    },
    /// One run is new or changed.
    RunChanged {
        run: RunRecord,
    },
    /// Events of a followed run, in order and without gaps.
    Events {
        run: String,
        events: Vec<Event>,
    },
    /// Replaces all that was known of the board. More of its rows may follow.
    Board {
        board: Board,
    },
    /// Rows that are new or changed, told by their id; of the rest of the board all holds.
    BoardRows {
        board: Board,
    },
    Strata {
        view: StrataView,
    },
    /// Files that were saved; as a snapshot only those that cannot be used.
    Files {
        news: Vec<FileNews>,
    },
    /// News of this client's questions in the playground, in order.
    Play {
        events: Vec<PlayEvent>,
    },
}

/// From the screens to whoever holds the connection.
#[derive(Clone, Debug, PartialEq)]
pub enum ToEngine {
    /// Answered by [`FromEngine::Answer`] with the same tag.
    Ask {
        tag: u64,
        request: Request,
    },
    Follow {
        view: View,
    },
    Unfollow {
        view: View,
    },
    /// A person agreed that these keys are sent. Whoever holds the connection remembers it; the engine is not told.
    Trust {
        needs: Vec<KeyNeed>,
    },
}

/// From whoever holds the connection to the screens.
#[derive(Clone, Debug, PartialEq)]
pub enum FromEngine {
    Connected {
        status: EngineStatus,
    },
    /// The engine is gone; a reconnect is being tried.
    Lost {
        reason: String,
    },
    Answer {
        tag: u64,
        response: Response,
    },
    Push {
        push: Push,
    },
}
