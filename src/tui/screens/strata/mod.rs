//! Screen 1: strata, their rows, one row, the map.

mod decide;
pub mod view;
mod views;

pub use decide::STAR;

use std::collections::{BTreeMap, BTreeSet};

use ratatui::layout::Rect;

use super::{WIDE, body_of};
use crate::domain::api::{RowDetail, RowPage, RowQuery, RowSummary};
use crate::domain::board::{StrataGroup, StrataView, Stratum};
use crate::domain::row::Part;
use crate::tui::app::moved;
use crate::tui::app::{App, Mood};
use crate::tui::keymap::{Action, Context};
use crate::tui::layers::form::Form;
use crate::tui::layers::{Confirmed, Layer, TextPurpose};
use crate::tui::widgets::window::{Window, scroll};

/// Where the focus is. `Map` takes it only where panes share one place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pane {
    #[default]
    List,
    Rows,
    Row,
    Map,
}

impl Pane {
    const ALL: [(&'static str, Self); 4] =
        [("strata", Self::List), ("rows", Self::Rows), ("row", Self::Row), ("map", Self::Map)];
}

/// How strata are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    #[default]
    Size,
    /// Most rows to gain first.
    Lag,
    Name,
}

impl Order {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Lag => "lag",
            Self::Name => "name",
        }
    }
}

/// A line of the list.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Entry<'a> {
    All(usize),
    /// With its place in the view, which the map's points name.
    Stratum(usize, &'a Stratum),
    /// A heading over its strata.
    Group(&'a StrataGroup),
    Outliers(usize),
    NearDuplicates(usize),
}

impl<'a> Entry<'a> {
    fn id(&self) -> Option<&'a str> {
        match self {
            Self::Stratum(_, s) => Some(&s.id),
            Self::Group(g) => Some(&g.id),
            _ => None,
        }
    }
}

#[derive(Debug, Default)]
pub struct StrataState {
    pub view: Option<StrataView>,
    pub order: Order,
    pub selected: usize,
    /// The stratum that another one is to be put together with: its id.
    pub merging: Option<String>,
    /// Groups whose strata are not shown.
    pub folded: BTreeSet<String>,
    pub pane: Pane,
    /// What the rows pane shows, and its title.
    pub query: RowQuery,
    pub scope: String,
    /// The keys that rows were counted by last.
    pub counted: String,
    /// Rows picked for decisions on several at once.
    pub picked: BTreeSet<String>,
    /// Losses of the rows of one training step, where it is those that are shown.
    pub losses: BTreeMap<String, f32>,
    pub window: Window<RowSummary>,
    /// Rows were fetched at least once for this query.
    pub loaded: bool,
    pub rows_stale: bool,
    /// The one question for rows under way.
    pub rows_tag: Option<u64>,
    pub detail: Option<RowDetail>,
    detail_tag: Option<(u64, String)>,
    /// What is known of the row may have changed: it is read again, and the old one shown until then.
    detail_stale: bool,
    /// The row that could not be read: it is not asked for again until the selection moves.
    detail_failed: Option<String>,
    rows_failed: bool,
    pub detail_scroll: usize,
}

/// How far a stratum is behind what the best candidate could reach: rows wrong per eval row, times its size.
pub fn lag(stratum: &Stratum) -> Option<f64> {
    stratum.best.or(stratum.base).map(|score| (1.0 - score) * stratum.rows as f64)
}

impl StrataState {
    pub const fn context(&self) -> Context {
        match self.pane {
            Pane::List | Pane::Map => Context::Strata,
            Pane::Rows | Pane::Row => Context::Rows,
        }
    }

    pub fn fill(&mut self, view: StrataView) {
        let before = self.view.as_ref().map(|v| v.rows);
        // The selection stays on the stratum that was selected, on a part of it that was split off, or on what it became a part of again;
        // where none of these is there, at its place in the list.
        let id = self.selected_id().map(str::to_owned);
        let cluster = self.selected_stratum().map(|s| s.cluster.clone());
        self.view = Some(view);
        let entries = self.entries();
        let same = entries.iter().position(|e| e.id().is_some() && e.id() == id.as_deref());
        let kin = |of: &str| {
            let part = |whole: &str, part: &str| part.strip_prefix(whole).is_some_and(|r| r.starts_with('.'));
            let kin = |s: &Stratum| part(of, &s.cluster) || part(&s.cluster, of);
            entries.iter().position(|e| matches!(e, Entry::Stratum(_, s) if kin(s)))
        };
        let at = same.or_else(|| kin(cluster.as_deref().filter(|c| !c.is_empty())?));
        self.selected = at.unwrap_or(self.selected);
        self.selected = self.selected.min(self.entries().len().saturating_sub(1));
        if self.is_gone(&self.query) || before.is_none() && self.scope.is_empty() {
            self.show_selected();
        } else {
            self.changed();
        }
    }

    /// The query asks for a stratum or a group that the list has not.
    fn is_gone(&self, query: &RowQuery) -> bool {
        self.view.as_ref().is_some_and(|view| {
            let no_stratum = |id: &String| view.strata.iter().all(|s| s.id != *id);
            let no_group = |id: &String| view.groups.iter().all(|g| g.id != *id);
            query.stratum.as_ref().is_some_and(no_stratum) || query.group.as_ref().is_some_and(no_group)
        })
    }

    /// The rows may be others now: they are read again, those too that could not be read.
    pub fn changed(&mut self) {
        self.rows_stale = true;
        (self.rows_failed, self.detail_failed) = (false, None);
    }

    /// The lines of the list, in their order.
    pub fn entries(&self) -> Vec<Entry<'_>> {
        let Some(view) = &self.view else { return Vec::new() };
        let mut strata: Vec<(usize, &Stratum)> = view.strata.iter().enumerate().collect();
        match self.order {
            Order::Size => strata.sort_by_key(|(_, s)| std::cmp::Reverse(s.rows)),
            Order::Lag => {
                strata.sort_by(|a, b| lag(b.1).unwrap_or(-1.0).total_cmp(&lag(a.1).unwrap_or(-1.0)));
            }
            Order::Name => strata.sort_by(|a, b| a.1.name.cmp(&b.1.name)),
        }
        let mut entries = vec![Entry::All(view.rows)];
        for group in self.groups(view) {
            entries.push(Entry::Group(group));
            if !self.folded.contains(&group.id) {
                let of = strata.iter().filter(|(_, s)| s.group == group.id);
                entries.extend(of.map(|&(i, s)| Entry::Stratum(i, s)));
            }
        }
        let alone = |s: &Stratum| !view.groups.iter().any(|g| g.id == s.group);
        entries.extend(strata.into_iter().filter(|(_, s)| alone(s)).map(|(i, s)| Entry::Stratum(i, s)));
        if view.outliers > 0 {
            entries.push(Entry::Outliers(view.outliers));
        }
        if view.near_duplicates > 0 {
            entries.push(Entry::NearDuplicates(view.near_duplicates));
        }
        entries
    }

    /// In the order of the strata.
    fn groups<'a>(&self, view: &'a StrataView) -> Vec<&'a StrataGroup> {
        let mut groups: Vec<&StrataGroup> = view.groups.iter().collect();
        let gain =
            |g: &StrataGroup| -> f64 { view.strata.iter().filter(|s| s.group == g.id).filter_map(lag).sum() };
        match self.order {
            Order::Size => groups.sort_by_key(|g| std::cmp::Reverse(g.rows)),
            Order::Lag => groups.sort_by(|a, b| gain(b).total_cmp(&gain(a))),
            Order::Name => groups.sort_by(|a, b| a.name.cmp(&b.name)),
        }
        groups
    }

    /// Id of the selected stratum or group.
    fn selected_id(&self) -> Option<&str> {
        let entries = self.entries();
        let id = entries.get(self.selected)?.id()?;
        let view = self.view.as_ref()?;
        let ids = view.strata.iter().map(|s| &s.id).chain(view.groups.iter().map(|g| &g.id));
        ids.map(String::as_str).find(|known| *known == id)
    }

    fn selected_name(&self) -> Option<(String, String)> {
        match self.entries().get(self.selected)? {
            Entry::Stratum(_, s) => Some((s.id.clone(), s.name.clone())),
            Entry::Group(g) => Some((g.id.clone(), g.name.clone())),
            _ => None,
        }
    }

    fn fold(&mut self) -> bool {
        let Some(Entry::Group(group)) = self.entries().get(self.selected).copied() else { return false };
        let id = group.id.clone();
        if !self.folded.remove(&id) {
            self.folded.insert(id);
        }
        true
    }

    pub fn selected_stratum(&self) -> Option<&Stratum> {
        match self.entries().get(self.selected) {
            Some(Entry::Stratum(_, s)) => Some(s),
            _ => None,
        }
    }

    /// The cluster of a stratum: hands split and merge clusters, whatever dimensions cross them.
    fn cluster_words(&self, stratum: &Stratum) -> String {
        let of = self.view.iter().flat_map(|v| &v.strata).filter(|s| s.cluster == stratum.cluster).count();
        let suffix: String =
            stratum.dimensions.iter().map(|(name, value)| format!(" · {name}={value}")).collect();
        let name = stratum.name.strip_suffix(&suffix).unwrap_or(&stratum.name);
        match of {
            0 | 1 => format!("\"{}\"", stratum.name),
            _ => format!("\"{name}\" (all its {of} strata)"),
        }
    }

    /// The name of a stratum by its id.
    pub fn stratum_name<'a>(&'a self, id: &'a str) -> &'a str {
        let found = self.view.as_ref().and_then(|v| v.strata.iter().find(|s| s.id == id));
        found.map_or(id, |s| s.name.as_str())
    }

    /// The rows of the selected line.
    fn show_selected(&mut self) {
        let keep = RowQuery { sort: self.query.sort.clone(), part: self.query.part, ..RowQuery::default() };
        let (query, scope) = match self.entries().get(self.selected) {
            Some(Entry::Stratum(_, s)) => (RowQuery { stratum: Some(s.id.clone()), ..keep }, s.name.clone()),
            Some(Entry::Group(g)) => (RowQuery { group: Some(g.id.clone()), ..keep }, g.name.clone()),
            Some(Entry::Outliers(_)) => {
                (RowQuery { flag: Some("outliers".into()), ..keep }, "outliers".into())
            }
            Some(Entry::NearDuplicates(_)) => {
                (RowQuery { flag: Some("near-duplicates".into()), ..keep }, "near-duplicates".into())
            }
            Some(Entry::All(_)) | None => (keep, "all rows".into()),
        };
        self.show(query, scope);
    }

    /// Other rows in the rows pane.
    pub fn show(&mut self, query: RowQuery, scope: String) {
        if self.query != query || self.scope != scope {
            (self.query, self.scope) = (query, scope);
            self.losses.clear();
            self.picked.clear();
            self.window = Window::default();
            self.detail = None;
            self.loaded = false;
            self.rows_failed = false;
        }
    }

    /// The rows with words in their text, within what is shown.
    pub fn search(&mut self, text: String) {
        let query = RowQuery { text, ..self.query.clone() };
        let scope = self.scope.clone();
        self.show(query, scope);
        self.pane = Pane::Rows;
    }

    /// The picked rows in the order of their ids; the row itself where none is.
    pub fn picked_or(&self, row: String) -> Vec<String> {
        if self.picked.is_empty() { vec![row] } else { self.picked.iter().cloned().collect() }
    }

    pub fn has_mark(&self, row: &str, mark: &str) -> bool {
        let detail = self.detail.as_ref().filter(|d| d.id == row).map(|d| d.marks.iter().any(|m| m == mark));
        detail.unwrap_or_else(|| {
            self.window.rows.iter().find(|r| r.id == row).is_some_and(|r| r.marks.iter().any(|m| m == mark))
        })
    }

    /// The rows to ask for now: one question at a time, always for what is shown by then.
    pub fn wants_rows(&mut self, height: usize) -> Option<RowQuery> {
        if self.view.is_none() || self.rows_tag.is_some() || self.rows_failed {
            return None;
        }
        let offset = if !self.loaded {
            0
        } else if self.rows_stale {
            self.window.offset
        } else {
            self.window.missing(height)?
        };
        self.detail_stale |= self.rows_stale;
        self.rows_stale = false;
        Some(RowQuery { offset, count: Window::<RowSummary>::CHUNK, ..self.query.clone() })
    }

    /// The row to ask for now: the selected one, when it is not here.
    pub fn wants_row(&self) -> Option<String> {
        let id = &self.window.current()?.id;
        let here = self.detail.as_ref().is_some_and(|d| d.id == *id);
        // It may be among the rows no more.
        if here && (self.rows_stale || self.rows_tag.is_some()) {
            return None;
        }
        ((!here || self.detail_stale) && self.detail_tag.is_none() && self.detail_failed.as_ref() != Some(id))
            .then(|| id.clone())
    }

    pub fn row_asked(&mut self, tag: Option<u64>, id: String) {
        self.detail_tag = tag.map(|tag| (tag, id));
        self.detail_stale = false;
    }

    pub fn rows_arrived(&mut self, tag: u64, query: &RowQuery, page: RowPage) {
        if self.rows_tag == Some(tag) {
            self.rows_tag = None;
        }
        let asked = RowQuery { offset: 0, count: 0, ..query.clone() };
        if asked == (RowQuery { offset: 0, count: 0, ..self.query.clone() }) {
            self.window.fill(page.total, page.offset, page.rows);
            self.loaded = true;
            self.detail_failed = None;
        }
    }

    pub fn row_arrived(&mut self, tag: u64, row: RowDetail) {
        if self.detail_tag.as_ref().is_some_and(|(t, _)| *t == tag) {
            self.detail_tag = None;
        }
        if self.window.current().is_some_and(|r| r.id == row.id) {
            if self.detail.as_ref().is_none_or(|d| d.id != row.id) {
                self.detail_scroll = 0;
            }
            self.detail = Some(row);
        }
    }

    pub fn request_failed(&mut self, tag: u64) {
        if self.rows_tag == Some(tag) {
            self.rows_tag = None;
            self.rows_failed = true;
        }
        if let Some((_, id)) = self.detail_tag.take_if(|(t, _)| *t == tag) {
            self.detail_failed = Some(id);
        }
    }

    /// The stratum that was asked about has been merged, split or renamed away. Where the list still has it, a new one is on its way and says
    /// what it became; else all rows.
    pub fn stratum_gone(&mut self, query: &RowQuery) {
        if self.is_gone(query) {
            self.selected = 0;
            self.show_selected();
        }
    }

    /// The connection is gone or new: nothing is under way any more.
    pub fn forget_requests(&mut self) {
        (self.rows_tag, self.detail_tag, self.detail_failed) = (None, None, None);
        self.rows_failed = false;
        self.rows_stale = true;
    }

    /// One pane back; from the rows of a step, a sample or a search first to the rows of the stratum.
    pub fn back(&mut self) {
        match self.pane {
            Pane::Row | Pane::Map => self.pane = Pane::Rows,
            Pane::Rows if !self.picked.is_empty() => self.picked.clear(),
            Pane::Rows if self.query.ids.is_some() || !self.query.text.is_empty() => self.show_selected(),
            Pane::Rows => self.pane = Pane::List,
            Pane::List => self.merging = None,
        }
    }

    fn select(&mut self, to: usize) {
        self.selected = to.min(self.entries().len().saturating_sub(1));
        self.show_selected();
    }
}

/// Where the panes stand: list, map, rows, row. Those that share one place have the same area; the map may be absent.
pub struct Panes {
    pub list: Rect,
    pub map: Option<Rect>,
    pub rows: Rect,
    pub row: Rect,
    pub wide: bool,
}

/// ```text
/// wide: | list | rows |     narrow: one of list, rows over row, row, map
///       | map  | row  |
/// ```
pub fn layout(body: Rect) -> Panes {
    if body.width < WIDE {
        let rows = Rect { height: body.height * 11 / 20, ..body };
        let row = Rect { y: body.y + rows.height, height: body.height - rows.height, ..body };
        return Panes { list: body, map: None, rows, row, wide: false };
    }
    let left = (body.width * 2 / 5).min(64);
    let map_height = if body.height >= 24 { (body.height / 3).min(16) } else { 0 };
    let column = Rect { width: left, ..body };
    let right = Rect { x: body.x + left, width: body.width - left, ..body };
    let rows_height = right.height / 2;
    Panes {
        list: Rect { height: body.height - map_height, ..column },
        map: (map_height > 0).then(|| Rect { y: body.bottom() - map_height, height: map_height, ..column }),
        rows: Rect { height: rows_height, ..right },
        row: Rect { y: right.y + rows_height, height: right.height - rows_height, ..right },
        wide: true,
    }
}

/// Rows of the list that fit on a terminal of this size: borders and heading taken off.
pub fn rows_height(size: (u16, u16)) -> usize {
    usize::from(layout(body_of(size)).rows.height.saturating_sub(3))
}

/// First line of the strata list to draw.
pub fn list_top(selected: usize, height: usize) -> usize {
    scroll(0, selected, height)
}

impl App {
    pub(crate) fn act_strata(&mut self, action: Action) {
        let height = rows_height(self.size);
        let state = &mut self.strata;
        match action {
            Action::NextPane | Action::PreviousPane => {
                let panes: &[Pane] = if self.size.0 < WIDE {
                    &[Pane::List, Pane::Rows, Pane::Row, Pane::Map]
                } else {
                    &[Pane::List, Pane::Rows, Pane::Row]
                };
                let at = panes.iter().position(|p| *p == state.pane).unwrap_or(0);
                let by = if action == Action::NextPane { 1 } else { panes.len() - 1 };
                state.pane = panes[(at + by) % panes.len()];
            }
            Action::Up | Action::Down | Action::PageUp | Action::PageDown | Action::First | Action::Last => {
                match state.pane {
                    Pane::List | Pane::Map => {
                        let to = moved(state.selected, action, usize::from(self.size.1 / 2), usize::MAX - 1);
                        state.select(to);
                    }
                    Pane::Rows => {
                        let to = moved(state.window.selected, action, height, usize::MAX - 1);
                        state.window.go(to, height);
                    }
                    Pane::Row => state.detail_scroll = moved(state.detail_scroll, action, height, 2000),
                }
            }
            Action::FoldGroup => {
                if !state.fold() {
                    self.notice(Mood::Plain, "select the heading of a group first");
                }
            }
            Action::Open if state.pane == Pane::List && state.fold() => {}
            Action::ShowChoice => self.layers.push(Layer::Choice),
            Action::Open => {
                state.pane = match state.pane {
                    Pane::List | Pane::Map => Pane::Rows,
                    Pane::Rows | Pane::Row => Pane::Row,
                };
            }
            Action::SortStrata => {
                state.order = match state.order {
                    Order::Size => Order::Lag,
                    Order::Lag => Order::Name,
                    Order::Name => Order::Size,
                };
                state.select(0);
            }
            Action::SortRows => {
                let sort = match state.query.sort.as_str() {
                    "" => "wrong-first",
                    "wrong-first" => "length",
                    "length" => "outlier",
                    "outlier" => "id",
                    _ => "",
                };
                let query = RowQuery { sort: sort.into(), ..state.query.clone() };
                let scope = state.scope.clone();
                state.show(query, scope);
            }
            Action::FilterPart => {
                let part = match state.query.part {
                    None => Some(Part::Train),
                    Some(Part::Train) => Some(Part::Dev),
                    Some(Part::Dev) => Some(Part::Eval),
                    // The reserve is for final claims: nobody browses it by the way.
                    Some(Part::Eval | Part::Reserve) => None,
                };
                let query = RowQuery { part, ..state.query.clone() };
                let scope = state.scope.clone();
                state.show(query, scope);
            }
            Action::FilterStratum => {
                let here = state.window.current().and_then(|r| r.stratum.clone());
                let entries = state.entries();
                let to = match here {
                    Some(id) if state.query.stratum.as_ref() != Some(&id) => entries
                        .iter()
                        .position(|e| matches!(e, Entry::Stratum(_, s) if s.id == id || s.name == id)),
                    _ => Some(0),
                };
                match to {
                    Some(to) => state.select(to),
                    None => self.notice(Mood::Plain, "this row belongs to no stratum; b builds the strata"),
                }
            }
            Action::Search => {
                let text = state.query.text.clone();
                self.type_line("search the rows", text, TextPurpose::SearchRows);
            }
            Action::OpenMap => self.open_map(),
            Action::Histogram => self.type_line("histogram of", "", TextPurpose::Histogram),
            Action::TimelineView => self.open_timeline(),
            Action::CountRows => self.ask_counts(),
            Action::Views => self.ask_views(),
            Action::ExportRows => self.ask_export(),
            Action::PlayRow => {
                let row = self.strata_row();
                self.play_row(row);
            }
            Action::Problems => self.open_problems(),
            Action::Sample => {
                let form = Form::sample(&self.sample_ask, &self.strata.query.text);
                self.layers.push(Layer::Form(form));
            }
            Action::RenameStratum => match state.selected_name() {
                Some((stratum, name)) => {
                    self.type_line("name of the stratum", name, TextPurpose::NameStratum { stratum });
                }
                None => self.notice(Mood::Plain, "select a stratum first"),
            },
            Action::SplitStratum => {
                match state.selected_stratum().map(|s| (s.cluster.clone(), state.cluster_words(s))) {
                    Some((stratum, name)) => {
                        self.type_line(
                            format!("split {name} into"),
                            "2",
                            TextPurpose::SplitStratum { stratum },
                        );
                    }
                    None => self.notice(Mood::Plain, "select a stratum first"),
                }
            }
            Action::MergeStrata => self.merge_strata(),
            _ => self.act_row(action),
        }
    }

    /// The first one is marked, the second one asked about.
    fn merge_strata(&mut self) {
        let state = &mut self.strata;
        let Some(here) = state.selected_stratum().cloned() else {
            return self.notice(Mood::Plain, "select a stratum first");
        };
        let marked = state.merging.take();
        let first =
            state.view.iter().flat_map(|v| &v.strata).find(|s| Some(&s.id) == marked.as_ref()).cloned();
        match first {
            None => {
                state.merging = Some(here.id);
                self.notice(Mood::Plain, "now the other one: X on it merges the two; esc forgets it");
            }
            Some(first) if first.id == here.id => {
                self.notice(Mood::Plain, "not marked any more");
            }
            Some(first) if first.cluster == here.cluster => {
                self.notice(Mood::Plain, "these two are of one cluster: only their metadata tell them apart");
            }
            Some(first) => {
                let question = format!(
                    "Put {} and {} together, now and whenever strata are built? u takes it back.",
                    state.cluster_words(&first),
                    state.cluster_words(&here)
                );
                state.merging = Some(first.id);
                let then = Confirmed::Merge { a: first.cluster, b: here.cluster };
                self.layers.push(Layer::Confirm { question, then });
            }
        }
    }
}
