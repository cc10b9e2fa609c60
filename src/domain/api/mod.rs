//! What a client asks of the engine and what it gets: requests, responses, views.
//! Framing and sockets are the engine's (`engine::protocol`).

mod decision;
mod push;
mod rows;

use std::collections::BTreeMap;

pub use decision::{Decision, PICKED_MAX, PromptFile, PromptsKept};
pub use push::{EngineStatus, FileNews, FromEngine, ImportReport, Push, ToEngine, View};
pub use rows::{RowDetail, RowPage, RowQuery, RowSummary};
use serde::{Deserialize, Serialize};

use crate::domain::board::{Board, Comparison, StrataView};
use crate::domain::complete::Completion;
use crate::domain::count::Counts;
use crate::domain::detail::Detail;
use crate::domain::event::Event;
use crate::domain::example::{ExamplePage, ExampleQuery, FoundExamples};
use crate::domain::grow::{GrownAsk, GrownPage};
use crate::domain::imported::{ImportAs, Imported, ImportedFile};
use crate::domain::judge::{Agreement, Pairwise, Queue};
use crate::domain::keys::{KeyNeed, Keys};
use crate::domain::leak::Leaks;
use crate::domain::map::{Layout, MapView};
use crate::domain::play::{PlayAsk, Playing};
use crate::domain::power::Power;
use crate::domain::preview::Preview;
use crate::domain::problem::{ProblemKind, Problems};
use crate::domain::remedy::Remedies;
use crate::domain::review::{Opinion, ReviewAsk, ReviewQueue, RowAgreement};
use crate::domain::row::Part;
use crate::domain::run::{RunAction, RunKind, RunRecord};
use crate::domain::sample::{Sample, SampleAsk};
use crate::domain::scaling::Scaling;
use crate::domain::steer::Change;
use crate::domain::strata::ByHand;
use crate::domain::sweep::Axis;
use crate::domain::timeline::Timeline;
use crate::domain::trace::RowTrace;
use crate::domain::trajectory::TrajectoryView;
use crate::domain::versions::{FoundVersion, Slice, Trial, VersionTree};
use crate::domain::views::SavedView;

/// Version of the protocol; client and engine must agree.
pub const PROTOCOL: u32 = 1;

/// What [`Request::Rows`] begins with where the stratum that was asked for is gone: the client shows all rows again.
pub const STRATUM_GONE: &str = "no stratum";

/// What [`Request::ExportRows`] says where a file is in the way: the client asks whether it may be replaced.
pub const FILE_THERE: &str = "is there already";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Request {
    Status,
    Import {
        force: bool,
    },
    /// The client has indexed the sources itself: the engine writes that into the journal and looks at the data again.
    Imported,
    Strata,
    /// Cut a stratum up, put two together, name one.
    ByHand {
        by_hand: ByHand,
    },
    /// Draw rows; they can be written to a file and marked.
    Sample {
        sample: SampleAsk,
    },
    Rows {
        query: RowQuery,
    },
    Row {
        id: String,
    },
    /// What could stand at byte `at` of a filter of rows, and what is wrong with it.
    Complete {
        filter: String,
        at: usize,
    },
    /// How often the values of some keys occur among the rows of a query.
    Count {
        query: RowQuery,
        by: Vec<String>,
        limit: usize,
    },
    /// The rows of a query, written to a file: `.jsonl`, `.csv` or `.parquet`.
    ExportRows {
        query: RowQuery,
        /// An absolute path.
        file: String,
        /// Replace what is there.
        force: bool,
    },
    /// What is wrong with the rows of a query, and those of one kind.
    Problems {
        kind: Option<ProblemKind>,
        query: RowQuery,
    },
    /// What a training run with these settings would see of the rows; one of them as tokens.
    Preview {
        row: Option<String>,
        set: Vec<(String, String)>,
    },
    /// Rows that are scored on and stand in what is learned from: pairs from `offset` on.
    Leaks {
        offset: usize,
        count: usize,
    },
    /// Leave the rows of a query out of all learning and scoring, or take them in again.
    Exclude {
        query: RowQuery,
        /// Of each group of duplicates the first one stays.
        keep_first: bool,
        on: bool,
    },
    /// How far the pass over all rows is that an answer waits for: of [`Self::Problems`], or for columns that are missing.
    ReadingProgress,
    /// How far the file that [`Self::ExportRows`] writes is.
    ExportProgress {
        file: String,
    },
    /// The map of the newest strata, its dots told apart by a key.
    Map {
        by: String,
        layout: Layout,
    },
    /// Saved views, by name.
    Views,
    Launch {
        kind: RunKind,
        /// `key=value` over paths of workspace.toml, `candidate`, and `model`.
        set: Vec<(String, String)>,
        /// Values of the environment variables that the workspace's models name. Never written down.
        #[serde(default)]
        keys: Keys,
        /// The checkpoint that a training run branches from: `RUN@STEP`, or `RUN` for its best.
        #[serde(default)]
        from: Option<String>,
    },
    /// Launch several runs: all are checked before the first is made.
    LaunchAll {
        kind: RunKind,
        sets: Vec<Vec<(String, String)>>,
        #[serde(default)]
        keys: Keys,
    },
    /// Launch a training run for every combination of the axes' values.
    Sweep {
        set: Vec<(String, String)>,
        axes: Vec<Axis>,
        drop_hopeless: bool,
        #[serde(default)]
        keys: Keys,
    },
    /// What a sweep over shares of the train rows says of more rows; none: the newest one.
    Scaling {
        group: Option<String>,
    },
    /// What a run of kind `grow` made.
    Grown {
        grown: GrownAsk,
    },
    /// Take what such a run made, as far as the filter admits it, into the data; with `withdraw`, out of it again.
    AcceptGrown {
        run: String,
        filter: String,
        #[serde(default)]
        withdraw: bool,
    },
    /// Stop the runs of a sweep that fall behind from now on, or leave them alone.
    DropHopeless {
        group: String,
        on: bool,
    },
    Control {
        run: String,
        action: RunAction,
        /// To resume a run whose models need some.
        #[serde(default)]
        keys: Keys,
    },
    /// Change a training run while it runs.
    Steer {
        run: String,
        changes: Vec<Change>,
    },
    Runs,
    Run {
        run: String,
    },
    /// Events with `seq` above `after`, at most `limit`.
    Events {
        run: String,
        after: u64,
        limit: usize,
    },
    /// The board with the rows that fit a message; answered by [`Response::Board`].
    Board,
    /// Strata x candidates over time; with a training run, its checkpoints among them.
    Timeline {
        run: Option<String>,
    },
    /// What could be done about a row that a candidate answers wrong (none: the best one that does, else the baseline).
    Remedies {
        row: String,
        candidate: Option<String>,
    },
    /// All that is known of a candidate on the board's rows.
    Detail {
        candidate: String,
    },
    /// The board with the rows from this one on.
    BoardRows {
        from: usize,
    },
    Compare {
        a: String,
        b: String,
        metric: Option<String>,
    },
    /// Several candidates, or all on the board where none is named, each against `a`.
    CompareMany {
        a: String,
        others: Vec<String>,
        metric: Option<String>,
    },
    /// What an evaluation can show and what it costs.
    Power {
        candidate: Option<String>,
        /// A share: 0.05 is 5 points.
        difference: f64,
        #[serde(default)]
        part: Option<Part>,
    },
    ImportOutcomes {
        file: String,
        how: ImportAs,
    },
    /// Candidates whose outcomes were made elsewhere.
    Outcomes,
    /// Rows for an annotator to review.
    ReviewQueue {
        review: ReviewAsk,
    },
    /// An annotator's opinion on a row (none: what is shown stands), or the last word where opinions part.
    ReviewSay {
        annotator: Option<String>,
        row: String,
        opinion: Option<Opinion>,
        settle: bool,
    },
    /// How far annotators agree on rows.
    ReviewAgreement,
    /// Take a candidate whose outcomes were made elsewhere off the board.
    RemoveOutcomes {
        candidate: String,
    },
    /// A row through the stages, as a candidate (or a run) answered it last.
    Trace {
        of: String,
        row: String,
    },
    /// A window on a store of worked examples (none: the newest run's), or the one whose id begins so.
    Examples {
        store: Option<String>,
        id: Option<String>,
        query: ExampleQuery,
    },
    /// What a trajectory run found and measured.
    Trajectory {
        run: String,
    },
    /// What would be retrieved for an input.
    SearchExamples {
        store: Option<String>,
        stage: Option<String>,
        input: String,
        shots: Option<usize>,
        /// For a store whose embedder is an endpoint.
        #[serde(default)]
        keys: Keys,
    },
    ImportExamples {
        file: String,
        name: String,
    },
    /// The store as it stands, one example a line. `force`: a file that is there is replaced.
    ExportExamples {
        store: Option<String>,
        file: String,
        #[serde(default)]
        force: bool,
    },
    Decide {
        decision: Decision,
    },
    /// Tags of versions, and which prompts were adopted.
    Prompts,
    /// The versions of a prompt run, or of those made by hand (`hand`); none: of the newest run.
    PromptTree {
        run: Option<String>,
    },
    /// One version: `RUN:v7`, `v7`, RUN, a tag, the start of a hash; none: the answer of the newest run.
    PromptVersion {
        of: Option<String>,
    },
    /// Try the prompts as they stand in their files on some rows, beside the version before, and keep the version.
    TryPrompts {
        slice: Slice,
        #[serde(default)]
        keys: Keys,
    },
    Undo,
    /// Put a question to a candidate: answered by [`Response::Playing`], and by [`Push::Play`] to this client alone. Its questions end
    /// with its connection.
    Play {
        question: PlayAsk,
        /// As in a launch.
        #[serde(default)]
        keys: Keys,
    },
    /// Break a question of this client off.
    PlayCancel {
        id: u64,
    },
    /// A judge beside people; without a name, the only one or that of `[eval] judge`.
    JudgeAgreement {
        judge: Option<String>,
    },
    /// What came of a run of kind `judge`.
    Pairwise {
        run: String,
    },
    /// Answers for an annotator to judge.
    JudgeQueue {
        judge: Option<String>,
        /// None: the user of the engine.
        annotator: Option<String>,
        /// Rows of each stratum.
        per: usize,
        /// Only rows on which candidates, the judge or people part, or the judge is torn.
        disagreement: bool,
    },
    /// A person's verdict on an answer of a queue.
    JudgeSay {
        judge: Option<String>,
        annotator: Option<String>,
        item: String,
        verdict: String,
    },
    /// Rebuild the store from the journal and the run folders.
    Repair,
    /// Leave when no run is under way and nobody else is attached.
    Leave,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Response {
    Done {
        message: String,
    },
    Status {
        status: EngineStatus,
    },
    Import {
        report: ImportReport,
    },
    Strata {
        view: StrataView,
    },
    Sample {
        sample: Sample,
    },
    ReviewQueue {
        queue: ReviewQueue,
    },
    ReviewAgreement {
        agreement: Box<RowAgreement>,
    },
    Grown {
        page: GrownPage,
    },
    Scaling {
        scaling: Box<Scaling>,
    },
    Rows {
        page: RowPage,
    },
    Row {
        row: RowDetail,
    },
    Counts {
        counts: Counts,
    },
    Problems {
        problems: Problems,
    },
    Leaks {
        leaks: Leaks,
    },
    Preview {
        preview: Box<Preview>,
    },
    Map {
        map: MapView,
    },
    Completion {
        completion: Completion,
    },
    /// Rows written, of so many.
    Progress {
        done: usize,
        total: usize,
    },
    Views {
        views: BTreeMap<String, SavedView>,
    },
    Launched {
        run: String,
    },
    LaunchedAll {
        runs: Vec<String>,
    },
    Swept {
        group: String,
        runs: Vec<String>,
    },
    Runs {
        runs: Vec<RunRecord>,
    },
    Run {
        run: RunRecord,
    },
    Events {
        run: String,
        events: Vec<Event>,
        more: bool,
    },
    Board {
        board: Board,
    },
    Timeline {
        timeline: Timeline,
    },
    Remedies {
        remedies: Remedies,
    },
    Detail {
        detail: Box<Detail>,
    },
    Compare {
        comparison: Comparison,
    },
    ImportedOutcomes {
        imported: ImportedFile,
    },
    Outcomes {
        imported: Vec<Imported>,
    },
    Compared {
        comparisons: Vec<Comparison>,
    },
    Power {
        power: Power,
    },
    Prompts {
        kept: PromptsKept,
    },
    PromptTree {
        tree: VersionTree,
    },
    PromptVersion {
        found: Box<FoundVersion>,
    },
    Tried {
        trial: Box<Trial>,
    },
    Playing {
        playing: Playing,
    },
    Trace {
        run: String,
        trace: RowTrace,
    },
    Agreement {
        agreement: Agreement,
    },
    Queue {
        queue: Queue,
    },
    Pairwise {
        pairwise: Box<Pairwise>,
    },
    Examples {
        page: ExamplePage,
    },
    Trajectory {
        view: Box<TrajectoryView>,
    },
    FoundExamples {
        found: FoundExamples,
    },
    ExportedExamples {
        store: String,
        examples: usize,
        file: String,
    },
    Error {
        error: Failure,
    },
}

/// Why a request failed. `code` is the exit code of a command: 1 the work failed, 2 wrong usage or bad input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub code: u8,
    pub message: String,
    /// With these keys it would not have failed: the client asks whether they may be sent, and tries again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<KeyNeed>,
    /// The run learns from what it is scored on: with `leaks=allow` it would go on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaks: bool,
}

impl Failure {
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), needs: Vec::new(), leaks: false }
    }
}

impl Request {
    /// The keys that go with a request, where some may.
    pub fn keys_mut(&mut self) -> Option<&mut Keys> {
        match self {
            Self::Launch { keys, .. }
            | Self::LaunchAll { keys, .. }
            | Self::Sweep { keys, .. }
            | Self::Play { keys, .. }
            | Self::TryPrompts { keys, .. }
            | Self::SearchExamples { keys, .. }
            | Self::Control { keys, action: RunAction::Resume, .. } => Some(keys),
            _ => None,
        }
    }
}
