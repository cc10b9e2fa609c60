//! What is wrong with the rows: the kinds with their counts, then the rows of one, duplicates beside what they are like.

use ratatui::layout::Rect;

use super::view::boxed;
use super::{Confirmed, Layer};
use crate::domain::api::{Decision, Request, RowQuery};
use crate::domain::problem::{EXCLUDED, ProblemKind, Problems, RowProblem};
use crate::domain::words::noun;
use crate::tui::app::{App, Mood, Purpose, moved};
use crate::tui::keymap::Action;
use crate::tui::screens::strata::{Pane, STAR};
use crate::tui::theme::Role;
use crate::tui::widgets::window::{Window, scroll};
use crate::tui::widgets::{Painter, Piece, diff, number, text};

/// The layer's state.
#[derive(Clone, Debug, Default)]
pub struct Wrong {
    /// None while rows are looked at for the first time.
    pub found: Option<Result<Problems, String>>,
    pub selected: usize,
    /// The kind whose rows are shown.
    pub kind: Option<ProblemKind>,
    pub rows: Window<RowProblem>,
    /// The one question under way.
    asked: Option<u64>,
}

impl Wrong {
    fn problems(&self) -> Option<&Problems> {
        self.found.as_ref()?.as_ref().ok()
    }

    /// The kind under the cursor; none on the line of rows that are left out.
    fn under_cursor(&self) -> Option<ProblemKind> {
        Some(self.problems()?.kinds.get(self.selected)?.kind)
    }

    /// Lines of the list of kinds.
    fn lines(&self) -> usize {
        self.problems().map_or(0, |p| p.kinds.len() + usize::from(p.excluded > 0))
    }
}

/// Rows of the list, over what the selected one says.
fn list_height(height: usize) -> usize {
    height.saturating_sub(1) / 2
}

impl App {
    pub(crate) fn open_problems(&mut self) {
        self.layers.push(Layer::Problems(Wrong::default()));
        self.ask_problems(0);
    }

    fn wrong(&mut self) -> Option<&mut Wrong> {
        self.layers.iter_mut().rev().find_map(|layer| match layer {
            Layer::Problems(wrong) => Some(wrong),
            _ => None,
        })
    }

    fn ask_problems(&mut self, offset: usize) {
        let Some(wrong) = self.wrong() else { return };
        let kind = wrong.kind;
        let query = RowQuery { offset, count: Window::<RowProblem>::CHUNK, ..RowQuery::default() };
        let tag = self.ask(Purpose::Problems(kind), Request::Problems { kind, query });
        if let Some(wrong) = self.wrong() {
            wrong.asked = tag;
        }
    }

    /// What was decided may have changed what is listed.
    pub(crate) fn refresh_problems(&mut self) {
        if let Some(offset) = self.wrong().map(|wrong| wrong.rows.offset) {
            self.ask_problems(offset);
        }
    }

    /// Whether rows are listed rather than kinds.
    pub(crate) fn lists_problem_rows(&self) -> bool {
        matches!(self.layers.last(), Some(Layer::Problems(wrong)) if wrong.kind.is_some())
    }

    pub(crate) fn problems_arrived(
        &mut self,
        tag: u64,
        kind: Option<ProblemKind>,
        found: Result<Problems, String>,
    ) {
        let Some(wrong) = self.wrong() else { return };
        if wrong.asked.is_some_and(|asked| asked != tag) || wrong.kind != kind {
            return;
        }
        wrong.asked = None;
        if let (Ok(found), Some(_)) = (&found, kind) {
            wrong.rows.fill(found.total, found.offset, found.found.clone());
        }
        wrong.found = Some(found);
        wrong.selected = wrong.selected.min(wrong.lines().saturating_sub(1));
    }

    pub(crate) fn act_problems(&mut self, action: Action, height: usize) {
        let Some(Layer::Problems(wrong)) = self.layers.last_mut() else { return };
        if wrong.kind.is_some() {
            return self.act_problem_rows(action, list_height(height));
        }
        match action {
            Action::Back => drop(self.layers.pop()),
            Action::Undo => drop(self.ask(Purpose::Undo, Request::Undo)),
            Action::Open | Action::FlipRows => {
                let (kind, rows) = (wrong.under_cursor(), wrong.lines() > 0);
                match (kind, action) {
                    (Some(kind), Action::Open) => {
                        (wrong.kind, wrong.rows) = (Some(kind), Window::default());
                        self.ask_problems(0);
                    }
                    (Some(kind), _) => self.problem_rows(&format!("problem:{kind}")),
                    (None, _) if rows => self.problem_rows(&format!("mark:{EXCLUDED}")),
                    (None, _) => {}
                }
            }
            Action::ExcludeCopies => {
                let kind = wrong.under_cursor();
                self.ask_to_exclude_copies(kind);
            }
            _ => wrong.selected = moved(wrong.selected, action, height, wrong.lines().saturating_sub(1)),
        }
    }

    fn act_problem_rows(&mut self, action: Action, height: usize) {
        let Some(Layer::Problems(wrong)) = self.layers.last_mut() else { return };
        let (kind, row) = (wrong.kind, wrong.rows.current().cloned());
        match (action, row) {
            (Action::Back, _) => {
                (wrong.kind, wrong.rows) = (None, Window::default());
                self.ask_problems(0);
            }
            (Action::Undo, _) => drop(self.ask(Purpose::Undo, Request::Undo)),
            (Action::ExcludeCopies, _) => self.ask_to_exclude_copies(kind),
            (Action::Open, Some(row)) => {
                let title = format!("{}: {}", kind.map_or("", ProblemKind::name), row.id);
                let ids = [Some(row.id.clone()), row.group.filter(|first| *first != row.id)];
                self.show_rows(title, ids.into_iter().flatten().collect());
            }
            (Action::FlipRows, _) => {
                if let Some(kind) = kind {
                    self.problem_rows(&format!("problem:{kind}"));
                }
            }
            (Action::Exclude, Some(row)) => self.exclude_row(row.id, !row.excluded),
            (Action::Mark, Some(row)) => {
                let (words, mark) = (format!("mark row {}", row.id), STAR.to_owned());
                self.decide(words, Decision::Mark { row: row.id, mark, on: true });
            }
            _ => {
                let to = moved(wrong.rows.selected, action, height, usize::MAX - 1);
                wrong.rows.go(to, height);
                if let (Some(offset), None) = (wrong.rows.missing(height), wrong.asked) {
                    self.ask_problems(offset);
                }
            }
        }
    }

    /// Leaves a row out of learning and scoring, or takes it in again.
    pub(crate) fn exclude_row(&mut self, row: String, on: bool) {
        let words = format!("{} row {row}", if on { "leave out" } else { "take in" });
        self.decide(words, Decision::Mark { row, mark: EXCLUDED.to_owned(), on });
    }

    fn ask_to_exclude_copies(&mut self, kind: Option<ProblemKind>) {
        let copies = |k: &ProblemKind| matches!(k, ProblemKind::ExactDuplicate | ProblemKind::NearDuplicate);
        let Some(kind) = kind.filter(copies) else {
            self.notice(Mood::Plain, "only of duplicates can all but the first of each group be left out");
            return;
        };
        let Some(wrong) = self.wrong() else { return };
        let count = wrong.problems().and_then(|p| p.kinds.iter().find(|c| c.kind == kind)).copied();
        let (rows, groups) = count.map_or((0, 0), |c| (c.rows, c.groups.unwrap_or(0)));
        let question = format!(
            "Leave {} of {kind} out of learning and scoring? The first of each of the {groups} {} stays. u takes it back as one.",
            number::count(rows.saturating_sub(groups)),
            noun(groups, "group")
        );
        self.layers.push(Layer::Confirm { question, then: Confirmed::ExcludeCopies(kind) });
    }

    pub(crate) fn exclude_copies(&mut self, kind: ProblemKind) {
        let query = RowQuery { text: format!("problem:{kind}"), ..RowQuery::default() };
        let request = Request::Exclude { query, keep_first: true, on: true };
        self.ask(Purpose::Decide("leave duplicates out".into()), request);
    }

    /// The rows that a filter admits, on the strata screen.
    fn problem_rows(&mut self, filter: &str) {
        self.show_rows(filter.to_owned(), Vec::new());
        let query = RowQuery { text: filter.to_owned(), ..RowQuery::default() };
        self.strata.show(query, "all rows".into());
        self.strata.pane = Pane::Rows;
    }
}

pub fn draw(p: &mut Painter<'_>, body: Rect, wrong: &Wrong) {
    match (&wrong.found, wrong.kind) {
        (None, _) => {
            let inner = boxed(p, body, 100, body.height, "what is wrong with the rows");
            p.paragraph(inner, 1, "looking through all rows; once for each state of the data ...", Role::Dim);
        }
        (Some(Err(why)), _) => {
            let inner = boxed(p, body, 100, body.height, "what is wrong with the rows");
            p.paragraph(inner, 1, why, Role::Bad);
        }
        (Some(Ok(found)), None) => kinds(p, body, wrong, found),
        (Some(Ok(found)), Some(kind)) => rows(p, body, wrong, found, kind),
    }
}

/// ```text
/// > near-duplicate     61   20 groups   nearly the same input
/// ```
fn kinds(p: &mut Painter<'_>, body: Rect, wrong: &Wrong, found: &Problems) {
    let title = format!("what is wrong with {} {}", number::count(found.rows), noun(found.rows, "row"));
    let inner = boxed(p, body, 100, body.height, &title);
    let mut lines: Vec<(String, String, String, &str)> = found
        .kinds
        .iter()
        .map(|count| {
            let groups = count.groups.map(|n| format!("{} {}", number::count(n), noun(n, "group")));
            let rows = number::count(count.rows);
            (count.kind.name().to_owned(), rows, groups.unwrap_or_default(), count.kind.help())
        })
        .collect();
    if found.excluded > 0 {
        let rows = number::count(found.excluded);
        lines.push((
            EXCLUDED.to_owned(),
            rows,
            String::new(),
            "left out by hand; enter shows them, x takes one in",
        ));
    }
    if found.kinds.is_empty() {
        p.put(inner, 2, 0, inner.width, "nothing was found", Role::Good);
    }
    let top = u16::from(found.kinds.is_empty());
    for (y, (name, rows, groups, help)) in (top..).zip(&lines) {
        let selected = usize::from(y - top) == wrong.selected;
        let role = if selected { Role::Selected } else { Role::Text };
        if selected {
            p.highlight(inner, y, role);
            let pointer = p.look.signs.pointer;
            p.put(inner, 0, y, 1, pointer, role);
        }
        p.put(inner, 2, y, 17, name, role);
        p.put_right(inner, 26, y, 7, rows, role);
        p.put(inner, 28, y, 14, groups, role);
        let dim = if selected { role } else { Role::Dim };
        p.put(inner, 42, y, inner.width.saturating_sub(42), help, dim);
    }
    let mut y = top + lines.len() as u16 + 1;
    for note in &found.notes {
        y = p.paragraph(inner, y, note, Role::Dim);
    }
}

/// The list, and below it the selected row; of a group beside its first row, word by word.
fn rows(p: &mut Painter<'_>, body: Rect, wrong: &Wrong, found: &Problems, kind: ProblemKind) {
    let count = found.kinds.iter().find(|c| c.kind == kind);
    let groups =
        count.and_then(|c| c.groups).map(|n| format!(" in {} {}", number::count(n), noun(n, "group")));
    let title = format!(
        "{kind}: {} {}{}",
        number::count(found.total),
        noun(found.total, "row"),
        groups.unwrap_or_default()
    );
    let inner = boxed(p, body, 160, body.height, &title);
    if found.total == 0 {
        p.put(
            inner,
            2,
            0,
            inner.width,
            "no row has this any more; u takes the last decision back",
            Role::Dim,
        );
        return;
    }
    let height = list_height(usize::from(inner.height));
    let top = scroll(wrong.rows.top(height), wrong.rows.selected, height);
    let rows = wrong.rows.rows.iter().take(200);
    let id = rows.map(|row| text::width(&row.id)).max().unwrap_or(4).clamp(4, 14) as u16;
    for i in 0..height.min(wrong.rows.total.saturating_sub(top)) {
        let (y, selected) = (i as u16, top + i == wrong.rows.selected);
        let role = if selected { Role::Selected } else { Role::Text };
        if selected {
            p.highlight(inner, y, role);
            let pointer = p.look.signs.pointer;
            p.put(inner, 0, y, 1, pointer, role);
        }
        let Some(row) = wrong.rows.get(top + i) else {
            let ellipsis = p.look.signs.ellipsis;
            p.put(inner, 2, y, 3, ellipsis, Role::Dim);
            continue;
        };
        // The members of a group stand behind its first row.
        let indent = u16::from(row.like.is_some());
        p.put(inner, 2 + indent, y, id, &row.id, role);
        let part = row.part.map_or("-", crate::domain::row::Part::name);
        p.put(inner, 4 + id, y, 7, part, role);
        let x = 12 + id;
        let used = p.put(inner, x, y, inner.width.saturating_sub(x), &row.reason, role);
        // What is personal need not be read over a shoulder.
        if kind != ProblemKind::Pii {
            let x = x + used + 2;
            let dim = if selected { role } else { Role::Dim };
            p.put(inner, x, y, inner.width.saturating_sub(x), &row.text, dim);
        }
    }
    let below = Rect { y: inner.y + height as u16, height: inner.height - height as u16, ..inner };
    if let Some(row) = wrong.rows.current() {
        detail(p, below, row);
    }
}

fn detail(p: &mut Painter<'_>, area: Rect, row: &RowProblem) {
    let gold =
        |of: &RowProblem| of.gold.as_deref().map_or("no gold".to_owned(), |gold| format!("gold {gold}"));
    let line = p.look.signs.border.horizontal_top.repeat(usize::from(area.width));
    p.put(area, 0, 0, area.width, &line, Role::Border);
    let area = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    let Some((like, first)) = row.like.as_ref().zip(row.group.as_ref()) else {
        p.put(area, 0, 0, area.width, &format!("{}  {}", row.id, gold(row)), Role::Title);
        let y = p.paragraph(area, 1, &row.reason, Role::Warning);
        p.paragraph(area, y, &row.text, Role::Text);
        return;
    };
    let half = area.width.saturating_sub(1) / 2;
    let (left, right) = (Rect { width: half, ..area }, Rect { x: area.x + half + 1, width: half, ..area });
    let bar = p.look.signs.border.vertical_left;
    for y in 0..area.height {
        p.put(area, half, y, 1, bar, Role::Border);
    }
    let title = row.like_gold.as_ref().map_or_else(|| first.clone(), |gold| format!("{first}  gold {gold}"));
    p.put(left, 0, 0, half, &title, Role::Title);
    p.paragraph(left, 1, like, Role::Text);
    p.put(right, 0, 0, half, &format!("{}  {}", row.id, gold(row)), Role::Title);
    let lines: Vec<Vec<Piece>> = diff::wrapped(diff::words(like, &row.text), usize::from(half));
    for (y, line) in (1u16..area.height).zip(&lines) {
        p.pieces(right, 0, y, line);
    }
}
