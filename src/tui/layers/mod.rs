//! What lies over a screen: help, palette, lines and forms being filled in, questions, details. Esc closes the top one.

pub mod complete;
pub mod compose;
pub mod counts;
pub mod form;
pub mod grown;
pub mod judging;
pub mod map;
pub mod picker;
pub mod preview;
pub mod problems;
pub mod remedies;
pub mod reviewing;
pub mod view;

use super::app::Purpose;
use super::key::Key;
use super::keymap::Context;
use super::screens::board::BoardLayer;
use super::screens::board::classes::DetailView;
use super::screens::trace::TraceView;
use super::widgets::input::TextInput;
use compose::Compose;
use counts::Table;
use form::Form;
use grown::Texts;
use judging::Judging;
use map::Map;
use picker::Picker;
use preview::Previewed;
use problems::Wrong;
use remedies::Mending;
use reviewing::Reviewing;

use crate::domain::api::{Decision, Request, RowQuery};
use crate::domain::keys::KeyNeed;
use crate::domain::problem::ProblemKind;

/// One layer.
#[derive(Clone, Debug)]
pub enum Layer {
    /// Keys of the contexts from which help was called.
    Help {
        scroll: usize,
        contexts: Vec<Context>,
    },
    Picker(Picker),
    Text {
        title: String,
        input: TextInput,
        purpose: TextPurpose,
    },
    Compose(Compose),
    Form(Form),
    Confirm {
        question: String,
        then: Confirmed,
    },
    /// The selected flip of the comparison: gold, A, B and their difference.
    Flip {
        scroll: usize,
    },
    /// The picture of the board, its ladder.
    Board(BoardLayer),
    /// The settings of two runs.
    Difference {
        a: String,
        b: String,
        scroll: usize,
    },
    /// The answer of a side of the playground: prompts, tokens, the one under the cursor.
    Why {
        side: usize,
        token: Option<usize>,
        scroll: usize,
    },
    /// How the number of clusters was found.
    Choice,
    /// A row through the stages.
    Trace(TraceView),
    /// A candidate's detail.
    Detail(DetailView),
    /// Answers for a person to judge.
    Judging(Judging),
    /// Rows for a person to review.
    Reviewing(Reviewing),
    /// Remedies for a wrong row.
    Mending(Mending),
    /// A row as it would be trained on.
    Preview(Previewed),
    /// What is wrong with the rows.
    Problems(Wrong),
    /// What a run made of train rows.
    Grown(Box<Texts>),
    /// A frequency table.
    Counts(Table),
    /// The map of the rows.
    Map(Map),
}

/// What a typed line is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextPurpose {
    SearchRows,
    FilterExamples,
    /// Texts that a run made.
    FilterGrown,
    /// Another limit of a trajectory run's budget.
    Budget {
        run: String,
    },
    /// Follows as one types; giving up brings the filter from before back.
    FilterRuns {
        before: String,
    },
    /// Follows as one types; giving up brings the filter from before back.
    FilterBoard {
        before: String,
    },
    /// Rows a month.
    Volume,
    /// The keys of a frequency table.
    CountBy,
    /// The key of a histogram.
    Histogram,
    /// The key that colours the map.
    MapBy,
    /// A name for what the rows pane shows.
    SaveView,
    /// The file for the rows.
    ExportRows,
    /// The file for a store of examples.
    ExportExamples {
        store: String,
    },
    /// The file of a store, and its name.
    ImportExamples,
    Mark {
        row: String,
    },
    Gold {
        row: String,
    },
    Note {
        row: String,
    },
    /// Of a row under review.
    ReviewGold {
        row: String,
    },
    NameStratum {
        stratum: String,
    },
    /// Into how many parts.
    SplitStratum {
        stratum: String,
    },
    /// By the hash of its texts.
    NameVersion {
        version: String,
    },
    NameCandidate {
        candidate: String,
    },
    /// Who answers on a side of the playground.
    Player {
        side: usize,
    },
}

/// What happens after a yes.
#[derive(Clone, Debug, PartialEq)]
pub enum Confirmed {
    Cancel(String),
    /// Of each group of duplicates all but the first are left out.
    ExcludeCopies(ProblemKind),
    /// One decision on many rows.
    Decide {
        words: String,
        decision: Decision,
    },
    /// Rows that this run made and the filter means go into the data, or out of it.
    AcceptGrown {
        run: String,
        filter: String,
        withdraw: bool,
    },
    /// A file is written over.
    Replace {
        query: RowQuery,
        file: String,
    },
    /// What was refused is asked for again, with what lets it go on.
    Launch {
        purpose: Purpose,
        again: Box<Request>,
    },
    /// Two strata are to be one.
    Merge {
        a: String,
        b: String,
    },
    /// These keys may be sent; what needs them is asked again.
    Trust {
        purpose: Purpose,
        again: Box<Request>,
        needs: Vec<KeyNeed>,
    },
}

impl Layer {
    pub fn text(title: impl Into<String>, start: impl Into<String>, purpose: TextPurpose) -> Self {
        Self::Text { title: title.into(), input: TextInput::new(start), purpose }
    }

    pub fn contexts(&self) -> Vec<Context> {
        match self {
            Self::Help { .. }
            | Self::Flip { .. }
            | Self::Board(_)
            | Self::Difference { .. }
            | Self::Why { .. }
            | Self::Choice
            | Self::Trace(_)
            | Self::Preview(_)
            | Self::Detail(_) => {
                vec![Context::Detail, Context::Nav, Context::Layer, Context::Always]
            }
            Self::Judging(_) => vec![Context::Judging, Context::Nav, Context::Layer, Context::Always],
            Self::Reviewing(_) => vec![Context::Reviewing, Context::Nav, Context::Layer, Context::Always],
            Self::Mending(_) => vec![Context::Mending, Context::Layer, Context::Always],
            Self::Problems(_) => vec![Context::Problems, Context::Nav, Context::Layer, Context::Always],
            Self::Grown(_) => vec![Context::Grown, Context::Nav, Context::Layer, Context::Always],
            Self::Map(_) => vec![Context::Map, Context::Nav, Context::Layer, Context::Always],
            Self::Counts(_) => vec![Context::Counts, Context::Nav, Context::Layer, Context::Always],
            Self::Picker(_) => vec![Context::Picker, Context::Always],
            Self::Text { .. } => vec![Context::Text, Context::Always],
            Self::Compose(_) => vec![Context::Compose, Context::Always],
            Self::Form(_) => vec![Context::Form, Context::Always],
            Self::Confirm { .. } => vec![Context::Confirm, Context::Always],
        }
    }

    /// The line being typed.
    pub fn input(&mut self) -> Option<&mut TextInput> {
        match self {
            Self::Picker(picker) => Some(&mut picker.input),
            Self::Text { input, .. } => Some(input),
            Self::Form(form) => form.input(),
            _ => None,
        }
    }

    /// Pasted text, where something is being typed.
    pub fn paste(&mut self, text: &str) -> bool {
        if let Self::Compose(compose) = self {
            compose.area.insert(text);
            return true;
        }
        self.input().map(|input| input.insert(text)).is_some()
    }

    /// A key that is no action: typing. True when something changed.
    pub fn key(&mut self, key: Key) -> bool {
        match self {
            Self::Form(form) => return form.key(key),
            Self::Compose(compose) => return compose.key(key),
            _ => {}
        }
        self.input().is_some_and(|input| input.key(key))
    }
}
