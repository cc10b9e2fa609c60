//! One table of every action with its keys. Help, footer, palette and the user's configuration are all made from it.

use std::collections::BTreeMap;

use super::key::Key;

/// Where the focus is. A key is looked up in the contexts of the focus from the innermost outward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Context {
    /// Works everywhere, even while typing.
    Always,
    Global,
    /// Moving within lists and panes.
    Nav,
    Strata,
    Rows,
    Train,
    Board,
    Flips,
    Play,
    Runs,
    /// Reading one thing over the whole screen.
    Detail,
    /// Judging answers.
    Judging,
    /// A line is being typed.
    Text,
    /// Several lines are being written.
    Compose,
    Form,
    Picker,
    Confirm,
}

impl Context {
    /// Its heading in the help.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Global => "everywhere",
            Self::Nav => "moving",
            Self::Strata => "1 strata: the list of strata",
            Self::Rows => "1 strata: rows",
            Self::Train => "4 train",
            Self::Board => "5 board: candidates",
            Self::Flips => "5 board: comparison",
            Self::Play => "6 playground",
            Self::Runs => "7 runs",
            Self::Detail => "reading a detail",
            Self::Judging => "judging answers",
            Self::Text => "typing a line",
            Self::Compose => "writing a text",
            Self::Form => "filling in a form",
            Self::Picker => "choosing from a list",
            Self::Confirm => "answering a question",
        }
    }
}

/// Everything that a key or the palette can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    Interrupt,
    Suspend,
    Redraw,
    Quit,
    Help,
    Palette,
    Back,
    NextScreen,
    PreviousScreen,
    ShowStrata,
    ShowTrain,
    ShowBoard,
    ShowPlay,
    ShowRuns,
    Undo,
    NextTheme,
    ImportData,
    BuildStrata,
    LaunchTrain,
    LaunchEval,
    ImportOutcomes,
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
    Open,
    NextPane,
    PreviousPane,
    RenameStratum,
    SortStrata,
    Sample,
    Search,
    Mark,
    MarkNamed,
    Gold,
    Note,
    FilterStratum,
    FilterPart,
    SortRows,
    CursorLeft,
    CursorRight,
    CursorFarLeft,
    CursorFarRight,
    Pause,
    Resume,
    Checkpoint,
    StopAndKeep,
    CancelRun,
    Smooth,
    LogScale,
    ZoomIn,
    ZoomOut,
    Overlay,
    DropHopeless,
    ChooseRun,
    StepRows,
    Steer,
    Branch,
    Doctor,
    RangeTest,
    ShowFlips,
    Pick,
    Swap,
    ByStratum,
    RenameCandidate,
    CandidateDetail,
    JudgeQueue,
    /// The so many-th verdict, from 1.
    Verdict(u8),
    SkipItem,
    ShowGold,
    SortBoard,
    TurnBoard,
    Volume,
    ParetoPicture,
    LadderView,
    TimelineView,
    FilterFlips,
    FlipRows,
    Trace,
    Difference,
    PlayRow,
    PlayCandidate,
    Compose,
    ChooseCandidate,
    AskAgain,
    PlaySettings,
    NextRow,
    PreviousRow,
    PlayRows,
    CancelAnswer,
    Why,
    ThumbUp,
    ThumbDown,
    EditAnswer,
    Accept,
    Newline,
    FieldNext,
    FieldPrevious,
    Yes,
    No,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Binding {
    pub context: Context,
    pub action: Action,
    /// Its name in `keys.toml`.
    pub name: &'static str,
    /// Keys unless the user says otherwise, separated by spaces; empty: only in the palette.
    keys: &'static str,
    /// For the footer; empty: not shown there.
    pub label: &'static str,
    /// For help and palette.
    pub help: &'static str,
}

const fn b(
    context: Context,
    action: Action,
    name: &'static str,
    keys: &'static str,
    label: &'static str,
    help: &'static str,
) -> Binding {
    Binding { context, action, name, keys, label, help }
}

use Action as A;
use Context as C;

/// The table. Within a context the order is that of the footer.
#[rustfmt::skip]
pub const BINDINGS: &[Binding] = &[
    b(C::Always, A::Interrupt, "interrupt", "ctrl-c", "", "Leave at once; runs go on"),
    b(C::Always, A::Suspend, "suspend", "ctrl-z", "", "Stop the screen and go back to the shell; `fg` returns"),
    b(C::Always, A::Redraw, "redraw", "ctrl-l", "", "Draw the whole screen anew"),

    b(C::Global, A::Help, "help", "? f1", "help", "All keys of this screen"),
    b(C::Global, A::Palette, "palette", ":", "palette", "Find any action by its name"),
    b(C::Global, A::Quit, "quit", "q", "leave", "Leave; runs go on without you"),
    b(C::Global, A::Back, "back", "esc", "", "Close the top layer, or go one pane back"),
    b(C::Global, A::NextScreen, "screen.next", "tab", "", "Next screen"),
    b(C::Global, A::PreviousScreen, "screen.previous", "shift-tab", "", "Previous screen"),
    b(C::Global, A::ShowStrata, "screen.strata", "1", "", "Strata: the data by slices"),
    b(C::Global, A::ShowTrain, "screen.train", "4", "", "Train: a training run's curve"),
    b(C::Global, A::ShowBoard, "screen.board", "5", "", "Board: every candidate on every metric"),
    b(C::Global, A::ShowPlay, "screen.playground", "6", "", "Playground: two candidates side by side"),
    b(C::Global, A::ShowRuns, "screen.runs", "7", "", "Runs: everything that was launched"),
    b(C::Global, A::Undo, "undo", "u", "", "Take the last decision back (mark, gold, note, name, import, what was said of an answer)"),
    b(C::Global, A::NextTheme, "theme.next", "ctrl-t", "", "Next theme"),
    b(C::Global, A::ImportData, "data.import", "", "", "Import the data sources again"),

    b(C::Nav, A::Up, "up", "up ctrl-p", "", "Up"),
    b(C::Nav, A::Down, "down", "down ctrl-n", "", "Down"),
    b(C::Nav, A::PageUp, "page.up", "pgup ctrl-b", "", "A page up"),
    b(C::Nav, A::PageDown, "page.down", "pgdn ctrl-f", "", "A page down"),
    b(C::Nav, A::First, "first", "home", "", "To the start"),
    b(C::Nav, A::Last, "last", "end", "", "To the end"),
    b(C::Nav, A::NextPane, "pane.next", "right w", "", "Next pane"),
    b(C::Nav, A::PreviousPane, "pane.previous", "left W", "", "Previous pane"),

    b(C::Strata, A::Open, "open", "enter", "rows", "Open what is selected"),
    b(C::Strata, A::RenameStratum, "stratum.name", "n", "name", "Give the stratum a name"),
    b(C::Strata, A::SortStrata, "strata.sort", "o", "order", "Order strata by size, lag or name"),
    b(C::Strata, A::Sample, "strata.sample", "s", "sample", "Draw a sample: some rows of every stratum"),
    b(C::Strata, A::Search, "search", "/", "search", "Search"),
    b(C::Strata, A::LaunchEval, "run.eval", "e", "eval", "Evaluate a candidate"),
    b(C::Strata, A::LaunchTrain, "run.train", "t", "train", "Train a LoRA adapter"),
    b(C::Strata, A::BuildStrata, "run.strata", "b", "build", "Build the strata: embed, cluster, name"),

    b(C::Rows, A::Open, "open", "enter", "read", "Open what is selected"),
    b(C::Rows, A::Mark, "row.mark", "m", "mark", "Mark the row with a star, or take the star away"),
    b(C::Rows, A::Gold, "row.gold", "g", "gold", "Give the row a golden answer (empty: back to the file's)"),
    b(C::Rows, A::Note, "row.note", "n", "note", "Write a note on the row"),
    b(C::Rows, A::Undo, "undo", "u", "undo", "Take the last decision back (mark, gold, note, name, import, what was said of an answer)"),
    b(C::Rows, A::FilterStratum, "rows.stratum", "f", "stratum", "Only rows of this row's stratum; again: all rows"),
    b(C::Rows, A::PlayRow, "play.row", "a", "ask", "Ask this row in the playground"),
    b(C::Rows, A::Search, "search", "/", "search", "Search"),
    b(C::Rows, A::Sample, "strata.sample", "s", "sample", "Draw a sample: some rows of every stratum"),
    b(C::Rows, A::SortRows, "rows.sort", "o", "order", "Order rows: as in the file, wrong ones first, by length, by id"),
    b(C::Rows, A::FilterPart, "rows.part", "p", "part", "Only rows of one part: train, dev, eval; again: all"),
    b(C::Rows, A::Trace, "row.trace", "T", "trace", "The row through the stages: prompts, answers, tools, tokens, time"),
    b(C::Rows, A::MarkNamed, "row.mark-named", "M", "", "Mark the row with a word of your own"),
    b(C::Rows, A::LaunchEval, "run.eval", "e", "", "Evaluate a candidate"),
    b(C::Rows, A::LaunchTrain, "run.train", "t", "", "Train a LoRA adapter"),

    b(C::Train, A::Pause, "run.pause", "p", "pause", "Pause the run; again: go on"),
    b(C::Train, A::Resume, "run.resume", "R", "resume", "Resume the run, paused or from its last checkpoint"),
    b(C::Train, A::Checkpoint, "run.checkpoint", "c", "checkpoint", "Write a checkpoint now"),
    b(C::Train, A::StopAndKeep, "run.stop", "S", "stop+keep", "Finish now with a checkpoint and keep the results"),
    b(C::Train, A::CancelRun, "run.cancel", "k", "cancel", "Cancel the run"),
    b(C::Train, A::StepRows, "train.rows", "enter", "rows", "Open the rows of the step under the cursor"),
    b(C::Train, A::Steer, "train.steer", "a", "adjust", "Change the run from its next step on: learning rate, weights of strata"),
    b(C::Train, A::Branch, "train.branch", "b", "branch", "A new run from the checkpoint under the cursor, or from the best one"),
    b(C::Train, A::Doctor, "train.doctor", "d", "doctor", "What the doctor finds, and its remedy"),
    b(C::Train, A::LaunchTrain, "run.train", "t", "train", "Train a LoRA adapter"),
    b(C::Train, A::RangeTest, "train.range", "L", "rate test", "Test learning rates: which one is best to train with"),
    b(C::Train, A::ChooseRun, "train.run", "r", "run", "Choose the run to show"),
    b(C::Train, A::ShowFlips, "train.flips", "f", "flips", "Show which rows the run fixed and broke"),
    b(C::Train, A::Smooth, "chart.smooth", "e", "smooth", "Smooth the curve (moving average), or not"),
    b(C::Train, A::LogScale, "chart.log", "l", "log", "Logarithmic scale, or linear"),
    b(C::Train, A::ZoomIn, "chart.zoom-in", "z +", "zoom", "Zoom in at the cursor"),
    b(C::Train, A::ZoomOut, "chart.zoom-out", "Z minus", "", "Zoom out"),
    b(C::Train, A::Overlay, "chart.overlay", "o", "overlay", "Draw another run's curve too, or take it away"),
    b(C::Train, A::DropHopeless, "train.drop", "D", "", "Stop the runs of the sweep that fall behind from now on, or leave them alone"),
    b(C::Train, A::CursorLeft, "chart.left", "left", "", "Cursor one step back"),
    b(C::Train, A::CursorRight, "chart.right", "right", "", "Cursor one step on"),
    b(C::Train, A::CursorFarLeft, "chart.far-left", "home", "", "Cursor a tenth of the chart back"),
    b(C::Train, A::CursorFarRight, "chart.far-right", "end", "", "Cursor a tenth of the chart on"),

    b(C::Board, A::Pick, "board.compare", "c space", "compare", "Choose a candidate for the comparison: first A, then B"),
    b(C::Board, A::Open, "open", "enter", "vs base", "Open what is selected"),
    b(C::Board, A::SortBoard, "board.sort", "o", "order", "Order the candidates by a column; the same again: the other way round"),
    b(C::Board, A::Volume, "board.volume", "v", "volume", "Rows a month: what each candidate costs, and when training has paid"),
    b(C::Board, A::ParetoPicture, "board.pareto", "p", "pareto", "The picture of quality over latency or cost, and who is dominated"),
    b(C::Board, A::LadderView, "board.ladder", "l", "ladder", "The ladder in full: what each rung added, and whether the next one is worth it"),
    b(C::Board, A::TimelineView, "board.timeline", "h", "history", "Strata over candidates in time; of a trained candidate its run: loss, checkpoints and flips"),
    b(C::Board, A::Search, "search", "/", "filter", "Search"),
    b(C::Board, A::TurnBoard, "board.turn", "O", "", "The other end of the order first"),
    b(C::Board, A::Swap, "board.swap", "x", "swap", "Swap A and B"),
    b(C::Board, A::ByStratum, "board.strata", "s", "strata", "The comparison by stratum, or by rows"),
    b(C::Board, A::PlayCandidate, "play.candidate", "a", "ask", "Let this candidate answer in the playground"),
    b(C::Board, A::CandidateDetail, "board.detail", "m", "detail", "The candidate in detail: classes, calibration, fields, tools, stages, strata"),
    b(C::Board, A::RenameCandidate, "board.name", "n", "name", "Rename the candidate"),
    b(C::Board, A::LaunchEval, "run.eval", "e", "eval", "Evaluate a candidate"),
    b(C::Board, A::LaunchTrain, "run.train", "t", "train", "Train a LoRA adapter"),
    b(C::Board, A::ImportOutcomes, "board.import", "i", "import", "Put results made elsewhere on the board"),
    b(C::Board, A::JudgeQueue, "judge.queue", "j", "", "Judge answers yourself, without seeing whose they are"),

    b(C::Flips, A::Open, "open", "enter", "detail", "Open what is selected"),
    b(C::Flips, A::FilterFlips, "flips.filter", "f", "kind", "Only regressed, fixed or churned rows; again: all"),
    b(C::Flips, A::ByStratum, "board.strata", "s", "strata", "The comparison by stratum, or by rows"),
    b(C::Flips, A::Swap, "board.swap", "x", "swap", "Swap A and B"),
    b(C::Flips, A::FlipRows, "flips.rows", "r", "rows", "Open all these rows on the strata screen"),
    b(C::Flips, A::PlayRow, "play.row", "a", "ask", "Ask this row in the playground"),

    b(C::Play, A::Compose, "play.compose", "i enter", "ask", "Write an input and ask it"),
    b(C::Play, A::ChooseCandidate, "play.choose", "c n", "candidate", "Choose who answers on this side"),
    b(C::Play, A::AskAgain, "play.again", "r", "again", "Ask the same again: another answer where the temperature is above 0"),
    b(C::Play, A::ThumbUp, "play.good", "+", "good", "The answer is good; again: nothing is said"),
    b(C::Play, A::ThumbDown, "play.bad", "minus", "bad", "The answer is bad; again: nothing is said"),
    b(C::Play, A::EditAnswer, "play.edit", "e", "edit", "Correct the answer: becomes the gold, and is preferred to it"),
    b(C::Play, A::Gold, "row.gold", "g", "gold", "Give the row a golden answer (empty: back to the file's)"),
    b(C::Play, A::Why, "play.why", "w", "why", "The rendered prompts, and every token with its probability"),
    b(C::Play, A::NextRow, "play.next", "]", "next row", "Ask the next row of those on the strata screen"),
    b(C::Play, A::PreviousRow, "play.previous", "[", "", "Ask the row before of those on the strata screen"),
    b(C::Play, A::PlaySettings, "play.settings", "s", "settings", "Temperature and tokens at most, in place of the stages' own"),
    b(C::Play, A::CancelAnswer, "play.cancel", "k", "break off", "Break off the answers under way"),
    b(C::Play, A::Swap, "board.swap", "x", "swap", "Swap A and B"),
    b(C::Play, A::PlayRows, "play.open", "o", "row", "Open the row that was asked on the strata screen"),
    b(C::Play, A::Undo, "undo", "u", "undo", "Take the last decision back (mark, gold, note, name, import, what was said of an answer)"),

    b(C::Flips, A::Trace, "row.trace", "T", "trace", "The row through the stages: prompts, answers, tools, tokens, time"),

    b(C::Runs, A::Open, "open", "enter", "open", "Open what is selected"),
    b(C::Runs, A::Pause, "run.pause", "p", "pause", "Pause the run; again: go on"),
    b(C::Runs, A::Resume, "run.resume", "r R", "resume", "Resume the run, paused or from its last checkpoint"),
    b(C::Runs, A::Checkpoint, "run.checkpoint", "c", "checkpoint", "Write a checkpoint now"),
    b(C::Runs, A::StopAndKeep, "run.stop", "S", "stop+keep", "Finish now with a checkpoint and keep the results"),
    b(C::Runs, A::CancelRun, "run.cancel", "k", "cancel", "Cancel the run"),
    b(C::Runs, A::Pick, "runs.pick", "space", "pick", "Pick the run for a difference"),
    b(C::Runs, A::Difference, "runs.difference", "d", "difference", "Difference of the settings of two picked runs"),
    b(C::Runs, A::Search, "search", "/", "filter", "Search"),
    b(C::Runs, A::LaunchTrain, "run.train", "t", "train", "Train a LoRA adapter"),
    b(C::Runs, A::LaunchEval, "run.eval", "e", "eval", "Evaluate a candidate"),

    b(C::Detail, A::Back, "back", "esc enter q", "close", "Close the top layer, or go one pane back"),
    b(C::Detail, A::Trace, "row.trace", "T", "", "The row through the stages: prompts, answers, tools, tokens, time"),
    b(C::Judging, A::Verdict(1), "judge.verdict-1", "1", "", "The worst verdict"),
    b(C::Judging, A::Verdict(2), "judge.verdict-2", "2", "", "The second verdict"),
    b(C::Judging, A::Verdict(3), "judge.verdict-3", "3", "", "The third verdict"),
    b(C::Judging, A::Verdict(4), "judge.verdict-4", "4", "", "The fourth verdict"),
    b(C::Judging, A::Verdict(5), "judge.verdict-5", "5", "", "The fifth verdict"),
    b(C::Judging, A::Verdict(6), "judge.verdict-6", "6", "", "The sixth verdict"),
    b(C::Judging, A::Verdict(7), "judge.verdict-7", "7", "", "The seventh verdict"),
    b(C::Judging, A::Verdict(8), "judge.verdict-8", "8", "", "The eighth verdict"),
    b(C::Judging, A::Verdict(9), "judge.verdict-9", "9", "", "The ninth verdict"),
    b(C::Judging, A::SkipItem, "judge.skip", "s", "skip", "Leave this answer for later"),
    b(C::Judging, A::ShowGold, "judge.gold", "g", "gold", "Show the golden answer, or hide it"),
    b(C::Judging, A::Undo, "undo", "u", "undo", "Take the last decision back (mark, gold, note, name, import, what was said of an answer)"),
    b(C::Judging, A::Back, "back", "esc q", "close", "Close the top layer, or go one pane back"),
    b(C::Text, A::Accept, "accept", "enter", "accept", "Accept what was typed"),
    b(C::Text, A::Back, "back", "esc", "give up", "Close the top layer, or go one pane back"),
    b(C::Compose, A::Accept, "accept", "enter", "done", "Accept what was typed"),
    b(C::Compose, A::Newline, "newline", "ctrl-j alt-enter", "new line", "Begin a new line"),
    b(C::Compose, A::Back, "back", "esc", "give up", "Close the top layer, or go one pane back"),
    b(C::Form, A::Accept, "accept", "enter", "launch", "Accept what was typed"),
    b(C::Form, A::FieldNext, "field.next", "down tab", "next field", "Next field"),
    b(C::Form, A::FieldPrevious, "field.previous", "up shift-tab", "", "Previous field"),
    b(C::Form, A::Back, "back", "esc", "give up", "Close the top layer, or go one pane back"),
    b(C::Picker, A::Accept, "accept", "enter", "choose", "Accept what was typed"),
    b(C::Picker, A::Up, "up", "up ctrl-p", "", "Up"),
    b(C::Picker, A::Down, "down", "down ctrl-n", "", "Down"),
    b(C::Picker, A::PageUp, "page.up", "pgup", "", "A page up"),
    b(C::Picker, A::PageDown, "page.down", "pgdn", "", "A page down"),
    b(C::Picker, A::Back, "back", "esc", "close", "Close the top layer, or go one pane back"),
    b(C::Confirm, A::Yes, "yes", "y", "yes", "Yes"),
    b(C::Confirm, A::No, "no", "n esc", "no", "No"),
];

/// The table with the user's changes.
#[derive(Clone, Debug)]
pub struct Keymap {
    keys: Vec<Vec<Key>>,
}

impl Default for Keymap {
    fn default() -> Self {
        let keys =
            BINDINGS.iter().map(|b| b.keys.split_whitespace().filter_map(|k| k.parse().ok()).collect());
        Self { keys: keys.collect() }
    }
}

impl Keymap {
    /// The table with other keys for some actions. A name stands for its action in every context.
    ///
    /// # Errors
    /// Names an unknown action with the nearest known one, and keys that mean two things in one place.
    pub fn with(changes: &BTreeMap<String, Vec<Key>>) -> Result<Self, (String, String)> {
        let mut keymap = Self::default();
        for (name, keys) in changes {
            let mut found = false;
            for (binding, slot) in BINDINGS.iter().zip(&mut keymap.keys) {
                if binding.name == name {
                    slot.clone_from(keys);
                    found = true;
                }
            }
            if !found {
                let nearest = BINDINGS
                    .iter()
                    .map(|b| b.name)
                    .max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)))
                    .unwrap_or_default();
                return Err((name.clone(), format!("unknown action `{name}`; the nearest is `{nearest}`")));
            }
        }
        match keymap.clash() {
            Some((key, a, b)) => {
                // Blame the name that the user wrote.
                let name = if changes.contains_key(b.name) { b.name } else { a.name };
                Err((
                    name.to_owned(),
                    format!("`{key}` would mean both `{}` and `{}` in {}", a.name, b.name, b.context.title()),
                ))
            }
            None => Ok(keymap),
        }
    }

    /// Two actions of one context on the same key.
    fn clash(&self) -> Option<(Key, &'static Binding, &'static Binding)> {
        for (i, a) in BINDINGS.iter().enumerate() {
            for (j, b) in BINDINGS.iter().enumerate().skip(i + 1) {
                if a.context == b.context
                    && let Some(key) = self.keys[i].iter().find(|k| self.keys[j].contains(k))
                {
                    return Some((*key, a, b));
                }
            }
        }
        None
    }

    /// What `key` means where the focus is.
    pub fn find(&self, contexts: &[Context], key: Key) -> Option<&'static Binding> {
        contexts.iter().find_map(|context| {
            BINDINGS
                .iter()
                .zip(&self.keys)
                .find(|(b, keys)| b.context == *context && keys.contains(&key))
                .map(|(b, _)| b)
        })
    }

    /// Keys of a row of the table, as shown: `? f1`.
    pub fn keys_of(&self, binding: &Binding) -> String {
        let place = BINDINGS.iter().position(|b| b.context == binding.context && b.action == binding.action);
        place.map_or_else(String::new, |i| {
            self.keys[i].iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        })
    }

    /// The first key of an action in the given contexts, for texts that name a key.
    pub fn key_for(&self, contexts: &[Context], action: Action) -> String {
        let row = contexts.iter().find_map(|c| {
            BINDINGS
                .iter()
                .zip(&self.keys)
                .find(|(b, k)| b.context == *c && b.action == action && !k.is_empty())
        });
        row.and_then(|(_, keys)| keys.first()).map_or_else(|| ":".to_owned(), ToString::to_string)
    }

    /// First key and label of everything that the footer shows for these contexts.
    ///
    /// `offers` says which of them make sense as things stand.
    pub fn footer(
        &self,
        contexts: &[Context],
        offers: &dyn Fn(&Binding) -> bool,
    ) -> Vec<(String, &'static str)> {
        let rows = contexts
            .iter()
            .flat_map(|c| BINDINGS.iter().zip(&self.keys).filter(move |(b, _)| b.context == *c));
        let mut shown: Vec<Action> = Vec::new();
        rows.filter(|(b, keys)| !b.label.is_empty() && !keys.is_empty() && offers(b))
            .filter(|(b, _)| {
                let fresh = !shown.contains(&b.action);
                shown.push(b.action);
                fresh
            })
            .filter_map(|(b, keys)| keys.first().map(|k| (k.to_string(), b.label)))
            .collect()
    }

    /// Rows for the help, by context: heading, then keys and what they do.
    pub fn help(&self, contexts: &[Context]) -> Vec<(Context, Vec<(String, &'static Binding)>)> {
        contexts
            .iter()
            .map(|context| {
                let rows = BINDINGS.iter().filter(|b| b.context == *context);
                (*context, rows.map(|b| (self.keys_of(b), b)).filter(|(keys, _)| !keys.is_empty()).collect())
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_key_can_be_read_and_none_clashes() {
        for binding in BINDINGS {
            for key in binding.keys.split_whitespace() {
                key.parse::<Key>().unwrap_or_else(|e| panic!("{}: {e}", binding.name));
            }
        }
        assert!(Keymap::default().clash().is_none(), "{:?}", Keymap::default().clash());
    }

    #[test]
    fn a_name_stands_for_one_action() {
        for a in BINDINGS {
            for b in BINDINGS {
                assert!(
                    a.name != b.name || a.action == b.action && a.help == b.help,
                    "{} {}",
                    a.name,
                    b.name
                );
            }
        }
    }

    #[test]
    fn a_letter_never_acts_while_a_line_is_typed() {
        let keymap = Keymap::default();
        for c in ' '..='~' {
            for context in [Context::Text, Context::Compose, Context::Form, Context::Picker] {
                assert!(keymap.find(&[context, Context::Always], Key::char(c)).is_none(), "{c}");
            }
        }
    }

    #[test]
    fn ctrl_c_leaves_from_everywhere() {
        for binding in BINDINGS {
            let found = Keymap::default().find(&[binding.context, Context::Always], Key::ctrl('c'));
            assert_eq!(found.map(|b| b.action), Some(Action::Interrupt));
        }
    }

    #[test]
    fn changes_move_an_action_in_every_context_and_show_in_footer_and_help() {
        let keymap = Keymap::with(&BTreeMap::from([("search".into(), vec![Key::ctrl('s')])])).unwrap();
        for context in [Context::Strata, Context::Rows, Context::Runs] {
            assert_eq!(keymap.find(&[context], Key::ctrl('s')).map(|b| b.action), Some(Action::Search));
            assert_eq!(keymap.find(&[context], Key::char('/')).map(|b| b.action), None);
            assert!(keymap.footer(&[context], &|_| true).iter().any(|(k, _)| k == "ctrl-s"));
        }
        assert!(keymap.help(&[Context::Rows])[0].1.iter().any(|(k, _)| k == "ctrl-s"));
    }

    #[test]
    fn mistakes_in_changes_are_named() {
        let (name, error) = Keymap::with(&BTreeMap::from([("row.marc".into(), vec![])])).unwrap_err();
        assert_eq!(
            (name.as_str(), error.as_str()),
            ("row.marc", "unknown action `row.marc`; the nearest is `row.mark`")
        );
        let (name, error) =
            Keymap::with(&BTreeMap::from([("row.mark".into(), vec![Key::char('g')])])).unwrap_err();
        assert_eq!(name, "row.mark");
        assert!(error.contains("row.gold"), "{error}");
    }
}
