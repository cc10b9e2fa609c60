//! What a client asks of the engine and what it gets: requests, responses, views.
//! Framing and sockets are the engine's (`engine::protocol`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::board::{Board, Comparison, StrataView};
use super::complete::Completion;
use super::count::Counts;
use super::detail::Detail;
use super::event::Event;
use super::example::{ExampleEdit, ExamplePage, ExampleQuery, FoundExamples};
use super::grow::{Accepted, GrownAsk, GrownPage};
use super::imported::{ImportAs, Imported, ImportedFile};
use super::judge::{Agreement, Pairwise, PersonVerdict, Queue};
use super::keys::{KeyNeed, Keys};
use super::leak::Leaks;
use super::map::{Layout, MapView};
use super::play::{Feedback, PlayAsk, PlayEvent, Playing};
use super::power::Power;
use super::preview::Preview;
use super::problem::{ProblemKind, Problems};
use super::remedy::Remedies;
use super::review::{Opinion, Review, ReviewAsk, ReviewQueue, RowAgreement};
use super::row::{Part, Quarantined};
use super::run::{RunAction, RunKind, RunRecord};
use super::sample::{Sample, SampleAsk};
use super::scaling::Scaling;
use super::steer::Change;
use super::strata::{Act, ByHand};
use super::sweep::Axis;
use super::timeline::Timeline;
use super::trace::RowTrace;
use super::trajectory::TrajectoryView;
use super::versions::{FoundVersion, Slice, Trial, VersionTree};
use super::views::SavedView;

/// Version of the protocol; client and engine must agree.
pub const PROTOCOL: u32 = 1;

/// Rows that one decision is made on at most.
pub const PICKED_MAX: usize = 5_000;

/// What [`Request::ExportRows`] says where a file is in the way: the client asks whether it may be replaced.
pub const FILE_THERE: &str = "is there already";

/// A window on the rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RowQuery {
    /// Only rows of this stratum (its id).
    pub stratum: Option<String>,
    /// Only rows of this group of strata (its id).
    pub group: Option<String>,
    pub part: Option<Part>,
    /// A filter ([`super::filter`]): words of the text, and tests such as `base:wrong` and `len>40`.
    pub text: String,
    /// `outliers` or `near-duplicates`, as flagged by the strata run.
    pub flag: Option<String>,
    /// Only these rows, in this order (rows of a step, flips).
    pub ids: Option<Vec<String>>,
    /// `id`, `length`, `wrong-first`, `outlier`; empty: file order.
    pub sort: String,
    pub offset: usize,
    pub count: usize,
}

/// A row in a list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RowSummary {
    pub id: String,
    pub text: String,
    pub gold: Option<String>,
    /// Answers of the baseline and of the best candidate: text and whether it is right.
    pub base: Option<(String, Option<bool>)>,
    pub best: Option<(String, Option<bool>)>,
    /// Characters of the input.
    pub length: usize,
    pub part: Option<Part>,
    pub stratum: Option<String>,
    pub marks: Vec<String>,
    pub has_note: bool,
}

/// A window of rows, with the size of the whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RowPage {
    pub total: usize,
    pub offset: usize,
    pub rows: Vec<RowSummary>,
}

/// Everything about one row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RowDetail {
    pub id: String,
    pub input: String,
    pub gold: Option<String>,
    /// The gold as it stands in the file, where a person changed it.
    pub gold_in_file: Option<String>,
    pub fields: BTreeMap<String, String>,
    pub part: Option<Part>,
    pub stratum: Option<String>,
    pub marks: Vec<String>,
    pub note: Option<String>,
    pub source: String,
    pub line: u64,
    pub flags: Vec<String>,
    /// How unusual the row is among all, 0 to 1; from 0.5 on it is flagged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier: Option<f32>,
    /// Candidate, answer, right or wrong.
    pub answers: Vec<(String, String, Option<bool>)>,
    /// What people said of answers to it in the playground.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub feedback: Vec<Feedback>,
}

/// What a person decided; each is a journal entry and can be undone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Decision {
    Mark {
        row: String,
        mark: String,
        on: bool,
    },
    /// None takes a person's gold away again.
    Gold {
        row: String,
        gold: Option<String>,
    },
    Note {
        row: String,
        note: Option<String>,
    },
    /// A stratum's name by its id alone, as older versions wrote it. Asked for, it becomes a [`Self::Strata`].
    NameStratum {
        stratum: String,
        name: Option<String>,
    },
    /// Something about the strata, by its number among such decisions; none takes it back. Asked for by [`Request::ByHand`].
    Strata {
        number: u64,
        act: Option<Act>,
    },
    NameCandidate {
        candidate: String,
        name: String,
    },
    /// Outcomes made elsewhere stand on the board under this name; none takes them off it. `import` is the folder they are kept in.
    Outcomes {
        candidate: String,
        import: Option<String>,
    },
    /// What was said of an answer of the playground. The engine adds the gold that an edit is.
    Feedback(Feedback),
    /// Prompt files get these texts. The engine fills in what is missing.
    AdoptPrompts {
        files: Vec<PromptFile>,
    },
    /// A name for a version of prompts, by the hash of its texts; none takes it away.
    TagPrompt {
        version: String,
        tag: Option<String>,
    },
    /// How good an answer is, said without knowing whose it is. Asked for by [`Request::JudgeSay`].
    Verdict(PersonVerdict),
    /// What was decided about an example of a store (a run's, or an imported one's).
    Example {
        store: String,
        example: String,
        edit: ExampleEdit,
    },
    /// A query over rows under a name; none deletes it.
    View {
        name: String,
        view: Option<Box<SavedView>>,
    },
    /// What an annotator says of a row. Asked for by [`Request::ReviewSay`].
    Review(Review),
    /// Rows that a run made are a source of the data; none takes them out. Asked for by [`Request::AcceptGrown`].
    Grown {
        run: String,
        accepted: Option<Accepted>,
    },
    /// Several that are one: taken back as one.
    Together {
        decisions: Vec<Decision>,
    },
}

/// A prompt file that gets another text. Hashes are BLAKE3 of texts that are kept in `.tunebench/prompts/`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PromptFile {
    pub stage: String,
    /// As it stands in workspace.toml.
    pub file: String,
    /// Empty: what it had before the last adoption.
    pub hash: String,
    /// What it had.
    pub before: String,
}

/// What people decided about prompts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PromptsKept {
    /// Names by hash of a version's texts.
    pub tags: BTreeMap<String, String>,
    /// The last adoption, by file.
    pub adopted: BTreeMap<String, PromptFile>,
}

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
    /// How far the pass over all rows is that [`Self::Problems`] waits for.
    ProblemsProgress,
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
