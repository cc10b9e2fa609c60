//! One table of every action with its keys. Help, footer, palette and the user's configuration are all made from it.

mod table;

use std::collections::BTreeMap;

use super::key::Key;
pub use table::BINDINGS;

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
    Prompts,
    Trajectories,
    Train,
    Board,
    Flips,
    Play,
    Runs,
    /// On every layer in which nothing is typed and nothing is asked.
    Layer,
    /// Reading one thing over the whole screen.
    Detail,
    /// Judging answers.
    Judging,
    /// Reviewing rows.
    Reviewing,
    /// Choosing a remedy for a wrong row.
    Mending,
    /// What is wrong with the rows.
    Problems,
    /// What a run made of train rows.
    Grown,
    /// Reading a frequency table.
    Counts,
    /// On the map.
    Map,
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
            Self::Prompts => "2 prompts",
            Self::Trajectories => "3 trajectories",
            Self::Train => "4 train",
            Self::Board => "5 board: candidates",
            Self::Flips => "5 board: comparison",
            Self::Play => "6 playground",
            Self::Runs => "7 runs",
            Self::Layer => "on every layer",
            Self::Detail => "reading a detail",
            Self::Judging => "judging answers",
            Self::Reviewing => "reviewing rows",
            Self::Mending => "mending a wrong row",
            Self::Problems => "what is wrong with the rows",
            Self::Grown => "what a run made of rows",
            Self::Map => "on the map",
            Self::Counts => "reading a frequency table",
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
    ShowPrompts,
    ShowTrajectories,
    ShowTrain,
    ShowBoard,
    ShowPlay,
    ShowRuns,
    Undo,
    NextTheme,
    ImportData,
    BuildStrata,
    LaunchPrompt,
    LaunchTrajectory,
    SortExamples,
    ToggleExample,
    EditExample,
    EditExampleInput,
    MergeExamples,
    TryExample,
    Distill,
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
    SplitStratum,
    MergeStrata,
    FoldGroup,
    ShowChoice,
    SortStrata,
    Sample,
    Search,
    PickRow,
    Mark,
    MarkNamed,
    Problems,
    Exclude,
    ExcludeCopies,
    Preview,
    Gold,
    Note,
    FilterStratum,
    FilterPart,
    SortRows,
    CountRows,
    Views,
    ExportRows,
    ExportExamples,
    ImportExamples,
    OpenMap,
    Histogram,
    MapCorner,
    MapColour,
    MapKey,
    MapLayout,
    SortTable,
    TurnTable,
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
    TryPrompts,
    TrySlice,
    LivePrompts,
    EditPrompt,
    ForkVersion,
    AdoptVersion,
    RollBack,
    NameVersion,
    KillLane,
    ClausesOf,
    Economize,
    ShowFlips,
    Pick,
    Swap,
    ByStratum,
    RenameCandidate,
    CandidateDetail,
    JudgeQueue,
    JudgeChoice,
    /// The so many-th verdict, from 1.
    Verdict(u8),
    /// Review rows.
    Review,
    /// The scaling curve: would more rows pay?
    Scaling,
    /// Rows are made of train rows.
    Grow,
    /// What a run made goes into the data.
    AcceptGrown,
    /// What runs made of train rows.
    ShowGrown,
    AcceptAllGrown,
    WithdrawGrown,
    WithdrawAllGrown,
    FilterGrown,
    AcceptGold,
    SkipItem,
    ShowGold,
    SortBoard,
    TurnBoard,
    Volume,
    ParetoPicture,
    LadderView,
    TimelineView,
    Remedies,
    StartRemedy,
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
    Complete,
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
