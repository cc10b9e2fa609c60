//! A list that narrows while one types: the palette, and choosing a run.

use nucleo_matcher::pattern::{CaseMatching, Normalization, Pattern};
use nucleo_matcher::{Config, Matcher, Utf32Str};

use crate::domain::board::Board;
use crate::domain::finding::Remedy;
use crate::domain::run::RunRecord;
use crate::domain::views::SavedView;
use crate::tui::keymap::{Action, BINDINGS, Binding, Context, Keymap};
use crate::tui::screens::board::columns::Column;
use crate::tui::screens::play::Who;
use crate::tui::widgets::input::TextInput;

/// What was chosen.
#[derive(Clone, Debug, PartialEq)]
pub enum Choice {
    /// An action, and the context in which it has a meaning.
    Action(Context, Action),
    ShowRun(String),
    /// The texts that this run made.
    GrownRun(String),
    /// The versions of this history.
    ShowPrompts(String),
    /// A file of the workspace, in the editor.
    EditFile(String),
    /// A run or an imported store of examples.
    Store(String),
    /// Order the board by it.
    SortBoard(Column),
    Overlay(String),
    /// What the doctor advises for a run.
    Remedy(String, Option<Remedy>),
    /// Who answers on a side of the playground.
    Player(usize, Who),
    /// Somebody whose name is typed.
    OtherPlayer(usize),
    /// Show the rows of a view.
    View(String, Box<SavedView>),
    SaveView,
    DeleteView(String),
    /// The gold of what was asked in question so-and-so.
    GoldOf(u64, String),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    pub label: String,
    /// Shown at the right: keys, state.
    pub aside: String,
    pub choice: Choice,
}

#[derive(Clone, Debug)]
pub struct Picker {
    pub title: String,
    pub input: TextInput,
    pub items: Vec<Item>,
    /// Places in `items` that match, best first.
    pub shown: Vec<usize>,
    pub selected: usize,
}

impl Picker {
    pub fn new(title: &str, items: Vec<Item>) -> Self {
        let shown = (0..items.len()).collect();
        Self { title: title.into(), input: TextInput::default(), items, shown, selected: 0 }
    }

    /// Every action that makes sense by itself and is offered as things stand, each once; those of the contexts one stands in first.
    pub fn palette(keymap: &Keymap, here: &[Context], offers: &dyn Fn(&Binding) -> bool) -> Self {
        let own = |c| {
            !matches!(
                c,
                Context::Nav
                    | Context::Layer
                    | Context::Detail
                    | Context::Judging
                    | Context::Reviewing
                    | Context::Mending
                    | Context::Problems
                    | Context::Grown
                    | Context::Counts
                    | Context::Map
                    | Context::Text
                    | Context::Compose
                    | Context::Form
                    | Context::Picker
                    | Context::Confirm
            )
        };
        let mut items: Vec<Item> = Vec::new();
        for b in BINDINGS
            .iter()
            .filter(|b| own(b.context) && !matches!(b.action, Action::Open | Action::Palette | Action::Back))
            .filter(|b| offers(b))
        {
            // `p` pauses on two screens: one entry each, told apart by the screen where the meaning hangs on it.
            let everywhere = matches!(b.context, Context::Global | Context::Always)
                || matches!(
                    b.action,
                    Action::LaunchEval | Action::LaunchTrain | Action::BuildStrata | Action::ImportOutcomes
                );
            let label =
                if everywhere { b.help.to_owned() } else { format!("{}  ({})", b.help, b.context.title()) };
            if items.iter().any(|i| {
                i.label == label || matches!(i.choice, Choice::Action(_, a) if a == b.action && everywhere)
            }) {
                continue;
            }
            items.push(Item { label, aside: keymap.keys_of(b), choice: Choice::Action(b.context, b.action) });
        }
        let nearness = |item: &Item| match item.choice {
            Choice::Action(context, _) => here.iter().position(|c| *c == context).unwrap_or(here.len()),
            _ => here.len(),
        };
        items.sort_by_key(nearness);
        Self::new("palette: any action", items)
    }

    /// What the board can be ordered by.
    pub fn columns(board: &Board, columns: &[Column]) -> Self {
        let item = |column: &Column| Item {
            label: column.name(board),
            aside: String::new(),
            choice: Choice::SortBoard(column.clone()),
        };
        let all = columns.iter().chain(&[Column::Name, Column::Rung, Column::Age]);
        Self::new("order the board by (the same again: the other way round)", all.map(item).collect())
    }

    /// Training runs, to be shown or drawn too.
    pub fn runs<'a>(
        title: &str,
        runs: impl Iterator<Item = &'a RunRecord>,
        choice: fn(String) -> Choice,
    ) -> Self {
        let item = |r: &RunRecord| {
            let settings: Vec<String> = r
                .settings
                .iter()
                .map(|(k, v)| format!("{}={v}", crate::tui::screens::short_key(k)))
                .collect();
            Item {
                label: format!("{}  {}", r.run, settings.join(" ")),
                aside: r.state.to_string(),
                choice: choice(r.run.clone()),
            }
        };
        Self::new(title, runs.map(item).collect())
    }

    /// Narrows the list to what was typed.
    pub fn search(&mut self) {
        let pattern = Pattern::parse(self.input.text(), CaseMatching::Ignore, Normalization::Smart);
        let mut matcher = Matcher::new(Config::DEFAULT);
        let mut buffer = Vec::new();
        let mut scored: Vec<(u32, usize)> = self
            .items
            .iter()
            .enumerate()
            .filter_map(|(i, item)| {
                pattern.score(Utf32Str::new(&item.label, &mut buffer), &mut matcher).map(|s| (s, i))
            })
            .collect();
        scored.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        self.shown = scored.into_iter().map(|(_, i)| i).collect();
        self.selected = 0;
    }

    pub fn go(&mut self, to: usize) {
        self.selected = to.min(self.shown.len().saturating_sub(1));
    }

    pub fn chosen(&self) -> Option<Choice> {
        self.shown.get(self.selected).and_then(|i| self.items.get(*i)).map(|i| i.choice.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_palette_holds_every_action_once_and_finds_by_letters() {
        let mut palette = Picker::palette(&Keymap::default(), &[Context::Train], &|_| true);
        for b in BINDINGS
            .iter()
            .filter(|b| matches!(b.context, Context::Global | Context::Strata | Context::Train))
        {
            let there =
                palette.items.iter().any(|i| matches!(i.choice, Choice::Action(_, a) if a == b.action));
            assert!(there || matches!(b.action, Action::Open | Action::Palette | Action::Back), "{}", b.name);
        }
        let mut labels: Vec<&str> = palette.items.iter().map(|i| i.label.as_str()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), palette.items.len());
        palette.input.insert("impda");
        palette.search();
        assert_eq!(palette.chosen(), Some(Choice::Action(Context::Global, Action::ImportData)));
        palette.input.insert("zzzz");
        palette.search();
        assert_eq!(palette.chosen(), None);
    }
}
