//! The state of the screens. [`App::update`] takes a message and returns effects; nothing here reads a clock, a file or a socket.

mod actions;
mod answers;
mod update;

pub(crate) use actions::moved;

use std::collections::{BTreeMap, BTreeSet};

use super::config::Settings;
use super::key::Key;
use super::keymap::{Context, Keymap};
use super::layers::Layer;
use super::layers::complete::Completing;
use super::layers::judging::JudgeAsk;
use super::screens::board::BoardState;
use super::screens::play::PlayState;
use super::screens::prompts::PromptsState;
use super::screens::runs::RunsState;
use super::screens::strata::StrataState;
use super::screens::train::TrainState;
use super::screens::trajectories::TrajectoriesState;
use super::series::RunSeries;
use super::signs::Signs;
use super::theme::{Theme, bundled};
use super::widgets::Look;
use crate::domain::api::{EngineStatus, FromEngine, Request, RowQuery, ToEngine, View};
use crate::domain::example::ExampleQuery;
use crate::domain::map::Layout;
use crate::domain::problem::ProblemKind;
use crate::domain::review::ReviewAsk;
use crate::domain::run::{RunAction, RunKind, RunRecord};
use crate::domain::sample::Wanted;

/// What happens to the state.
#[derive(Clone, Debug)]
pub enum Message {
    Key(Key),
    Paste(String),
    Resize(u16, u16),
    Engine(FromEngine),
    /// The user's configuration was read, or read again.
    Settings(Settings),
    /// The user's editor was closed, or could not be opened.
    Edited(Result<(), String>),
    /// Time passed while something on screen counts it.
    Tick,
}

/// What the state asks of the world.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Send(ToEngine),
    /// Leave; runs go on.
    Quit,
    /// Give the terminal back to the shell until it says otherwise.
    Suspend,
    /// Open a file in the user's editor, which gets the terminal meanwhile.
    Edit(std::path::PathBuf),
    /// Draw everything anew.
    Redraw,
}

/// The screens that exist, with the numbers of the design.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Screen {
    Strata,
    Prompts,
    Trajectories,
    Train,
    Board,
    Play,
    Runs,
}

impl Screen {
    pub const ALL: [(char, &'static str, Self); 7] = [
        ('1', "Strata", Self::Strata),
        ('2', "Prompts", Self::Prompts),
        ('3', "Trajectories", Self::Trajectories),
        ('4', "Train", Self::Train),
        ('5', "Board", Self::Board),
        ('6', "Playground", Self::Play),
        ('7', "Runs", Self::Runs),
    ];
}

/// The connection to the engine.
#[derive(Clone, Debug, PartialEq)]
pub enum Link {
    Connecting { since_ms: u64 },
    Up { status: EngineStatus },
    Lost { reason: String, since_ms: u64 },
}

/// How a notice is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Good,
    Plain,
    /// Stays until it is closed.
    Bad,
}

/// A line that tells what happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub mood: Mood,
    pub text: String,
    /// How many questions to the engine failed in a row, the newest of which this tells of; 0 of other news.
    pub failed: usize,
}

/// What a question to the engine was asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Purpose {
    Rows(RowQuery),
    Row(String),
    /// What a filter could go on with.
    Complete(String),
    Sample,
    Count {
        query: Box<RowQuery>,
        by: Vec<String>,
    },
    Views,
    /// The map by this key.
    Map(String, Layout),
    /// Rows into a file; how many are written, of how many.
    Export {
        query: Box<RowQuery>,
        file: String,
        done: Option<(usize, usize)>,
    },
    ExportProgress(String),
    ReadingProgress,
    Status,
    Launch(RunKind),
    Control(String, RunAction),
    Sweep,
    /// The sweep whose hopeless runs are dropped, or not.
    DropHopeless(String),
    /// Changes of a run.
    Steer(String),
    Compare(String, String),
    /// Of a run, or of all candidates.
    Timeline(Option<String>),
    /// A candidate's detail.
    Detail(String),
    Power,
    PromptTree,
    /// The version of that address.
    PromptVersion(String),
    TryPrompts,
    /// A version is written into the prompt files, to be edited there.
    Fork(String),
    Trace {
        of: String,
        row: String,
    },
    Remedies {
        row: String,
        candidate: Option<String>,
    },
    /// A row as it would be trained on.
    Preview(String),
    /// A window on the texts that a run made.
    Grown {
        run: String,
        filter: String,
    },
    /// One of them, whole.
    GrownText {
        run: String,
        at: usize,
    },
    /// What is wrong with the rows, and rows of a kind.
    Problems(Option<ProblemKind>),
    StepRows {
        run: String,
        step: u64,
    },
    /// A window on the examples of a store.
    Examples(String, ExampleQuery),
    Trajectory(String),
    /// What is retrieved for this input.
    SearchExamples(String),
    ExportExamples {
        store: String,
        file: String,
    },
    /// Under this name.
    ImportExamples(String),
    /// A decision; the text says which.
    Decide(String),
    /// A question in the playground, to whom.
    Play(u64, String),
    PlayCancel,
    /// What was said of the answer to question so-and-so.
    Say(u64),
    Undo,
    JudgeQueue,
    /// A verdict on this item.
    JudgeSay(String),
    Agreement,
    ReviewQueue,
    /// An opinion on this row.
    ReviewSay(String),
    ReviewAgreement,
    Scaling,
    Import,
    ImportOutcomes(String),
}

impl Purpose {
    /// What is being waited for, or what could not be done.
    pub fn words(&self) -> String {
        match self {
            Self::Rows(_) => "read the rows".into(),
            Self::Row(id) => format!("read row {id}"),
            Self::Complete(_) => "read what the filter could go on with".into(),
            Self::Sample => "draw a sample".into(),
            Self::Count { by, .. } => format!("count by {}", by.join(" x ")),
            Self::Views => "list the views".into(),
            Self::Map(by, _) => format!("read the map by {by}"),
            Self::Export { file, done: Some((done, total @ 1..)), .. } => {
                format!("write {file}: {:.0}%", 100.0 * *done as f64 / *total as f64)
            }
            Self::Export { file, .. } => format!("write {file}"),
            Self::ExportProgress(file) => format!("tell how far {file} is"),
            Self::ReadingProgress => "tell how far the search is".into(),
            Self::Status => "ask how the engine is".into(),
            Self::Launch(kind) => format!("start the {kind} run"),
            Self::Sweep => "start the sweep".into(),
            Self::DropHopeless(group) => format!("change {group}"),
            Self::Control(run, action) => format!("{} {run}", action_name(*action)),
            Self::Steer(run) => format!("change {run}"),
            Self::Compare(a, b) => format!("compare {a} with {b}"),
            Self::Timeline(_) => "read the timeline".into(),
            Self::Detail(candidate) => format!("read the detail of {candidate}"),
            Self::PromptTree => "read the versions of the prompts".into(),
            Self::PromptVersion(of) => format!("read {of}"),
            Self::TryPrompts => "try the prompts".into(),
            Self::Fork(what) => what.clone(),
            Self::Power => "reckon what the rows can show".into(),
            Self::Trace { of, row } => format!("read the trace of row {row} by {of}"),
            Self::Remedies { row, .. } => format!("price remedies for row {row}"),
            Self::Preview(row) => format!("render row {row}"),
            Self::Grown { run, .. } | Self::GrownText { run, .. } => format!("read what {run} made"),
            Self::Problems(_) => "look for what is wrong with the rows".into(),
            Self::StepRows { run, step } => format!("find the rows of step {step} of {run}"),
            Self::Examples(store, _) => format!("read the examples of {store}"),
            Self::Trajectory(run) => format!("read what {run} found"),
            Self::SearchExamples(_) => "search the examples".into(),
            Self::ExportExamples { file, .. } => format!("write {file}"),
            Self::ImportExamples(name) => format!("take the store {name} in"),
            Self::Decide(what) => what.clone(),
            Self::Play(_, who) => format!("ask {who}"),
            Self::PlayCancel => "break the answer off".into(),
            Self::Say(_) => "keep what you said of the answer".into(),
            Self::Undo => "undo".into(),
            Self::JudgeQueue => "ask for answers to judge".into(),
            Self::JudgeSay(_) => "keep the verdict".into(),
            Self::Agreement => "hold the judge against people".into(),
            Self::ReviewQueue => "ask for rows to review".into(),
            Self::ReviewSay(row) => format!("keep the opinion on row {row}"),
            Self::Scaling => "read the scaling curve".into(),
            Self::ReviewAgreement => "hold the opinions together".into(),
            Self::Import => "import the data".into(),
            Self::ImportOutcomes(file) => format!("import outcomes from {file}"),
        }
    }

    /// What may have to read all rows first.
    pub const fn reads_all(&self) -> bool {
        matches!(
            self,
            Self::Rows(_)
                | Self::Complete(_)
                | Self::Sample
                | Self::Count { .. }
                | Self::Map(..)
                | Self::Problems(_)
                | Self::ReviewQueue
        )
    }

    /// Whether asking again after a lost connection could do something twice.
    const fn changes_things(&self) -> bool {
        !matches!(
            self,
            Self::Rows(_)
                | Self::Row(_)
                | Self::Complete(_)
                | Self::Sample
                | Self::Count { .. }
                | Self::Views
                | Self::Map(..)
                | Self::ExportProgress(_)
                | Self::ReadingProgress
                | Self::Status
                | Self::Compare(..)
                | Self::Timeline(_)
                | Self::Grown { .. }
                | Self::GrownText { .. }
                | Self::Problems(_)
                | Self::Preview(_)
                | Self::Detail(_)
                | Self::PromptTree
                | Self::PromptVersion(_)
                | Self::TryPrompts
                | Self::Trace { .. }
                | Self::Remedies { .. }
                | Self::StepRows { .. }
                | Self::Examples(..)
                | Self::Trajectory(_)
                | Self::SearchExamples(_)
                | Self::Play(..)
                | Self::PlayCancel
                | Self::JudgeQueue
                | Self::Agreement
                | Self::ReviewQueue
                | Self::ReviewAgreement
                | Self::Scaling
        )
    }
}

pub const fn action_name(action: RunAction) -> &'static str {
    match action {
        RunAction::Pause => "pause",
        RunAction::Resume => "resume",
        RunAction::Checkpoint => "checkpoint",
        RunAction::Stop => "stop",
        RunAction::Cancel => "cancel",
    }
}

/// A question under way.
#[derive(Clone, Debug, PartialEq)]
pub struct Pending {
    pub purpose: Purpose,
    /// What was asked, where it may have to be asked again with keys.
    pub again: Option<Request>,
    pub since_ms: u64,
}

/// Everything that the screens show.
#[derive(Debug)]
pub struct App {
    pub size: (u16, u16),
    pub now_ms: u64,
    pub look: Look,
    pub themes: Vec<Theme>,
    pub keymap: Keymap,
    pub screen: Screen,
    /// From below; the last one has the keys.
    pub layers: Vec<Layer>,
    pub link: Link,
    /// What the filter being typed could go on with.
    pub completing: Completing,
    pub notices: Vec<Notice>,
    /// How far the search for what is wrong with the rows is, in percent.
    pub looked: Option<usize>,
    pub pending: BTreeMap<u64, Pending>,
    /// Newest first; none until the engine has told.
    pub runs: Option<Vec<RunRecord>>,
    pub series: BTreeMap<String, RunSeries>,
    pub strata: StrataState,
    pub prompts: PromptsState,
    pub trajectories: TrajectoriesState,
    pub train: TrainState,
    pub board: BoardState,
    pub runs_screen: RunsState,
    pub play: PlayState,
    /// Which answers were chosen to be judged.
    pub judge_ask: Option<JudgeAsk>,
    pub review_ask: ReviewAsk,
    /// What the newest scaling curve says.
    pub scaled: Vec<String>,
    /// What was drawn last.
    pub sample_ask: Wanted,
    /// What the eval rows can show and cost, for the form of an evaluation.
    pub power: Vec<String>,
    /// Views followed, runs with `after` as it was asked.
    followed: BTreeMap<View, View>,
    next_tag: u64,
    outbox: Vec<Effect>,
}

impl App {
    pub fn new(size: (u16, u16), signs: Signs, now_ms: u64) -> Self {
        Self {
            size,
            now_ms,
            look: Look { theme: bundled("dark"), signs },
            themes: Vec::new(),
            keymap: Keymap::default(),
            screen: Screen::Strata,
            layers: Vec::new(),
            completing: Completing::default(),
            link: Link::Connecting { since_ms: now_ms },
            notices: Vec::new(),
            looked: None,
            pending: BTreeMap::new(),
            runs: None,
            series: BTreeMap::new(),
            strata: StrataState::default(),
            prompts: PromptsState::default(),
            trajectories: TrajectoriesState::default(),
            train: TrainState::default(),
            board: BoardState::default(),
            runs_screen: RunsState::default(),
            play: PlayState::default(),
            judge_ask: None,
            review_ask: ReviewAsk::default(),
            scaled: Vec::new(),
            sample_ask: Wanted { n: 3, ..Wanted::default() },
            power: Vec::new(),
            followed: BTreeMap::new(),
            next_tag: 1,
            outbox: Vec::new(),
        }
    }

    /// The contexts in which a key is looked up, innermost first.
    pub fn contexts(&self) -> Vec<Context> {
        match self.layers.last() {
            Some(layer) => layer.contexts(),
            None => {
                let pane = match self.screen {
                    Screen::Strata => self.strata.context(),
                    Screen::Prompts => Context::Prompts,
                    Screen::Trajectories => Context::Trajectories,
                    Screen::Train => Context::Train,
                    Screen::Board => self.board.context(),
                    Screen::Play => Context::Play,
                    Screen::Runs => Context::Runs,
                };
                vec![pane, Context::Nav, Context::Global, Context::Always]
            }
        }
    }

    pub const fn connected(&self) -> bool {
        matches!(self.link, Link::Up { .. })
    }

    pub fn runs(&self) -> &[RunRecord] {
        self.runs.as_deref().unwrap_or_default()
    }

    pub fn run(&self, id: &str) -> Option<&RunRecord> {
        self.runs().iter().find(|r| r.run == id)
    }

    /// Runs under way, for the header.
    pub fn under_way(&self) -> impl Iterator<Item = &RunRecord> {
        self.runs().iter().filter(|r| !r.state.is_final())
    }

    /// How often the screen changes by time alone; none: never.
    pub fn tick_ms(&self) -> Option<u64> {
        let waits = self.screen == Screen::Play && self.play.open().any(|a| a.first_ms.is_none());
        if !self.connected() || !self.pending.is_empty() || waits {
            Some(1000)
        } else if self.screen == Screen::Runs && !self.runs().is_empty() {
            // Ages are shown in minutes.
            Some(60_000)
        } else {
            None
        }
    }

    /// Asks how far the reading is that is waited for.
    pub(super) fn follow_reading(&mut self) {
        let waits = |of: fn(&Purpose) -> bool| self.pending.values().any(|p| of(&p.purpose));
        if !waits(Purpose::reads_all) {
            self.looked = None;
        } else if !waits(|purpose| matches!(purpose, Purpose::ReadingProgress)) {
            self.ask(Purpose::ReadingProgress, Request::ReadingProgress);
        }
    }

    pub fn notice(&mut self, mood: Mood, text: impl Into<String>) {
        self.show_notice(Notice { mood, text: text.into(), failed: 0 });
    }

    /// Tells that the engine could not answer. What reads fails again and again while its cause lasts: the newest stands for all.
    pub(super) fn could_not(&mut self, purpose: &Purpose, why: &str) {
        let reads = !purpose.changes_things();
        let before = |n: &&Notice| reads && n.failed > 0;
        let failed = usize::from(reads) + self.notices.iter().find(before).map_or(0, |n| n.failed);
        self.notices.retain(|n| !before(&n));
        let text = format!("could not {}: {why}", purpose.words());
        self.show_notice(Notice { mood: Mood::Bad, text, failed });
    }

    fn show_notice(&mut self, notice: Notice) {
        self.notices.retain(|n| n.mood == Mood::Bad && *n != notice);
        // A hundred failures tell no more than the last few.
        if self.notices.len() >= 5 {
            self.notices.remove(0);
        }
        self.notices.push(notice);
    }

    /// Where the notice stands that is shown: the last failure, so that no news hides it, else the last of all.
    pub fn shown_notice(&self) -> Option<usize> {
        let failure = self.notices.iter().rposition(|n| n.mood == Mood::Bad);
        failure.or_else(|| self.notices.len().checked_sub(1))
    }

    /// Asks the engine; the answer comes back with the purpose. While there is no engine, what changes nothing is left for later.
    pub(super) fn ask(&mut self, purpose: Purpose, request: Request) -> Option<u64> {
        if !self.connected() {
            if purpose.changes_things() {
                self.notice(
                    Mood::Bad,
                    format!(
                        "cannot {} without the engine; wait for the connection and try again",
                        purpose.words()
                    ),
                );
            }
            return None;
        }
        let tag = self.next_tag;
        self.next_tag += 1;
        let mut request = request;
        let again = request.keys_mut().is_some().then(|| request.clone());
        self.pending.insert(tag, Pending { purpose, again, since_ms: self.now_ms });
        self.outbox.push(Effect::Send(ToEngine::Ask { tag, request }));
        Some(tag)
    }

    pub(crate) fn outbox(&mut self, effect: Effect) {
        self.outbox.push(effect);
    }

    /// Follows what the screens show, and nothing else.
    fn sync_follows(&mut self) {
        if !self.connected() {
            return;
        }
        let mut wanted = BTreeSet::from([View::Runs, View::Board, View::Strata, View::Files]);
        let mut runs: Vec<String> = Vec::new();
        if self.screen == Screen::Train {
            runs.extend(self.shown_run());
            runs.extend(self.overlaid());
        }
        if self.screen == Screen::Prompts {
            runs.extend(self.prompt_run());
        }
        if self.screen == Screen::Trajectories {
            runs.extend(self.trajectory_run());
        }
        if self.screen == Screen::Runs {
            runs.extend(self.selected_run());
        }
        wanted.extend(runs.into_iter().map(|run| View::Run { run, after: 0 }));
        let gone: Vec<View> = self.followed.keys().filter(|v| !wanted.contains(v)).cloned().collect();
        for key in gone {
            if let Some(view) = self.followed.remove(&key) {
                self.outbox.push(Effect::Send(ToEngine::Unfollow { view }));
            }
        }
        for key in wanted {
            if !self.followed.contains_key(&key) {
                let view = match &key {
                    View::Run { run, .. } => {
                        View::Run { run: run.clone(), after: self.series.get(run).map_or(0, |s| s.last_seq) }
                    }
                    other => other.clone(),
                };
                self.outbox.push(Effect::Send(ToEngine::Follow { view: view.clone() }));
                self.followed.insert(key, view);
            }
        }
    }

    /// The candidate that others are compared with: the board's baseline, else its first row.
    pub fn baseline(&self) -> Option<String> {
        let rows = &self.board.board.as_ref()?.rows;
        rows.iter().find(|r| r.rung == "baseline").or_else(|| rows.first()).map(|r| r.candidate.clone())
    }
}
