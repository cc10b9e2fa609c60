//! The frequency table of a key, or of several crossed, over the rows that are shown; enter narrows the rows to a line of it.

use ratatui::layout::Rect;

use super::view::boxed;
use super::{Layer, TextPurpose};
use crate::domain::api::{Request, RowQuery};
use crate::domain::count::{AUTO, Counts, GROUPS_MAX, Group, bins, crossed};
use crate::domain::filter::{ANY, Filter, Op, Test, quoted, term};
use crate::domain::views::joined;
use crate::domain::words::noun;
use crate::tui::app::{App, Mood, Purpose, moved};
use crate::tui::keymap::Action;
use crate::tui::screens::{empty, strata::Pane};
use crate::tui::theme::Role;
use crate::tui::widgets::window::scroll;
use crate::tui::widgets::{Painter, number, text};

/// The layer's state.
#[derive(Clone, Debug)]
pub struct Table {
    /// The rows that are counted.
    query: RowQuery,
    scope: String,
    by: Vec<String>,
    /// None while they are being counted.
    found: Option<Result<Counts, String>>,
    /// Places of the groups, as they are shown.
    order: Vec<usize>,
    /// None: the engine's order, the most common first.
    sorted: Option<Column>,
    turned: bool,
    selected: usize,
}

/// What the table can be ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Value(usize),
    Rows,
    Base,
    Best,
}

impl Table {
    fn columns(&self) -> Vec<Column> {
        let values = (0..self.by.len()).map(Column::Value);
        let scored = match &self.found {
            Some(Ok(counts)) => {
                [counts.base.as_ref().map(|_| Column::Base), counts.best.as_ref().map(|_| Column::Best)]
            }
            _ => [None, None],
        };
        values.chain([Column::Rows]).chain(scored.into_iter().flatten()).collect()
    }

    fn groups(&self) -> &[Group] {
        match &self.found {
            Some(Ok(counts)) => &counts.groups,
            _ => &[],
        }
    }

    fn group(&self) -> Option<&Group> {
        self.groups().get(*self.order.get(self.selected)?)
    }

    fn sort(&mut self) {
        let mut order: Vec<usize> = (0..self.groups().len()).collect();
        if let Some(by) = self.sorted {
            let groups = self.groups();
            let number = |at: usize| groups.get(at).and_then(|g| figure(g, by));
            let words = |at: usize| match by {
                Column::Value(i) => groups.get(at).and_then(|g| g.values.get(i)?.clone()),
                _ => None,
            };
            let turn = |o: std::cmp::Ordering| if self.turned { o.reverse() } else { o };
            order.sort_by(|&a, &b| match (number(a), number(b)) {
                // The largest count first, but values from the smallest on.
                (Some(a), Some(b)) if matches!(by, Column::Value(_)) => turn(a.total_cmp(&b)),
                (Some(a), Some(b)) => turn(b.total_cmp(&a)),
                (None, None) => turn(words(a).cmp(&words(b))),
                // What has no figure comes after what has.
                (a, b) => b.is_some().cmp(&a.is_some()),
            });
        } else if self.turned {
            order.reverse();
        }
        self.order = order;
    }
}

fn accuracy((right, of): (usize, usize)) -> Option<f64> {
    (of > 0).then(|| right as f64 / of as f64)
}

fn figure(group: &Group, by: Column) -> Option<f64> {
    match by {
        Column::Value(i) => crate::domain::filter::number(group.values.get(i)?.as_deref()?),
        Column::Rows => Some(group.rows as f64),
        Column::Base => accuracy(group.base),
        Column::Best => accuracy(group.best),
    }
}

/// The keys of `intent x turns x len/20`, or separated by blanks alone; quotes hold a key with blanks.
pub fn keys(text: &str) -> Vec<String> {
    let words = Filter::parse(text)
        .terms
        .into_iter()
        .map(|term| match term.test {
            Test::Word(word) if term.negated => format!("-{word}"),
            Test::Word(word) => word,
            Test::Key { .. } => text.get(term.span).unwrap_or_default().to_owned(),
        })
        .collect();
    crossed(words)
}

/// The filter that admits the rows of a line.
pub fn narrow(by: &[String], group: &Group) -> String {
    let terms = by.iter().zip(&group.values).map(|(written, value)| {
        let (key, width) = bins(written);
        match (value.as_deref(), width) {
            (None | Some(""), _) => format!("-{}", term(key, Op::Fits, ANY)),
            (Some(from), Some(width)) => match from.parse::<f64>() {
                Ok(start) => {
                    let (from, to) = (start.to_string(), (start + width).to_string());
                    format!("{} {}", term(key, Op::GreaterEqual, &from), term(key, Op::Less, &to))
                }
                Err(_) => term(key, Op::Is, from),
            },
            // The engine cuts long values.
            (Some(value), None) => match value.strip_suffix('…') {
                Some(start) => term(key, Op::Fits, start),
                None => term(key, Op::Is, value),
            },
        }
    });
    terms.collect::<Vec<_>>().join(" ")
}

impl App {
    /// Asks for the keys to count.
    pub(crate) fn ask_counts(&mut self) {
        let start = self.strata.counted.clone();
        self.type_line("count the rows by", start, TextPurpose::CountBy);
    }

    pub(crate) fn count_rows(&mut self, text: &str) {
        let by = keys(text);
        self.strata.counted = by.iter().map(|key| quoted(key)).collect::<Vec<_>>().join(" x ");
        self.count_by(by);
    }

    /// The numbers of one key, in bins of a round width.
    pub(crate) fn histogram(&mut self, text: &str) {
        let by = keys(if text.trim().is_empty() { "len" } else { text }).into_iter().take(1);
        self.count_by(by.map(|key| if bins(&key).1.is_some() { key } else { key + AUTO }).collect());
    }

    fn count_by(&mut self, by: Vec<String>) {
        if by.is_empty() {
            self.notice(Mood::Plain, "name a key to count by, such as stratum or len/20");
            return;
        }
        let query = RowQuery { offset: 0, count: 0, ..self.strata.query.clone() };
        let request = Request::Count { query: query.clone(), by: by.clone(), limit: GROUPS_MAX };
        self.ask(Purpose::Count { query: Box::new(query.clone()), by: by.clone() }, request);
        self.layers.push(Layer::Counts(Table {
            query,
            scope: self.strata.scope.clone(),
            by,
            found: None,
            order: Vec::new(),
            sorted: None,
            turned: false,
            selected: 0,
        }));
    }

    pub(crate) fn counts_arrived(&mut self, query: &RowQuery, by: &[String], found: Result<Counts, String>) {
        let table = self.layers.iter_mut().rev().find_map(|layer| match layer {
            Layer::Counts(table) if table.query == *query && table.by == by => Some(table),
            _ => None,
        });
        if let Some(table) = table {
            // The engine chose the bins.
            if let Ok(counts) = &found {
                table.by.clone_from(&counts.by);
            }
            table.found = Some(found);
            table.sort();
        }
    }

    pub(crate) fn act_counts(&mut self, action: Action, height: usize) {
        let Some(Layer::Counts(table)) = self.layers.last_mut() else { return };
        match action {
            Action::Back => drop(self.layers.pop()),
            Action::SortTable => {
                let columns = table.columns();
                let at = table.sorted.and_then(|by| columns.iter().position(|c| *c == by));
                table.sorted = columns.get(at.map_or(0, |at| at + 1)).copied();
                (table.turned, table.selected) = (false, 0);
                table.sort();
            }
            Action::TurnTable => {
                (table.turned, table.selected) = (!table.turned, 0);
                table.sort();
            }
            Action::Open => {
                let Some(group) = table.group() else { return };
                let query = RowQuery {
                    text: joined(&table.query.text, &narrow(&table.by, group)),
                    ..table.query.clone()
                };
                let scope = table.scope.clone();
                self.layers.pop();
                self.strata.show(query, scope);
                self.strata.pane = Pane::Rows;
            }
            _ => {
                let last = table.order.len().saturating_sub(1);
                table.selected = moved(table.selected, action, height, usize::MAX).min(last);
            }
        }
    }
}

/// ```text
/// intent        turns    rows  share            base  best
/// card arrival  2         812  24.1% ███▌       .41   .93
/// ```
pub fn draw(p: &mut Painter<'_>, body: Rect, table: &Table) {
    let by = table.by.join(" x ");
    let inner = boxed(p, body, 130, body.height, &format!("{by} of {}", table.scope));
    let counts = match &table.found {
        None => return empty(p, inner, "counting ..."),
        Some(Err(why)) => {
            p.paragraph(inner, 1, why, Role::Bad);
            return;
        }
        Some(Ok(counts)) => counts,
    };
    if !table.query.text.is_empty() {
        let filter = format!("with {}", table.query.text);
        p.put(inner, 0, inner.height - 1, inner.width / 2, &filter, Role::Dim);
    }
    let shown = match counts.distinct.saturating_sub(counts.groups.len()) {
        0 => String::new(),
        more => format!(", the {} most common; {} more", counts.groups.len(), number::count(more)),
    };
    let told = |n: usize, one: &str| format!("{} {}", number::count(n), noun(n, one));
    let values = told(counts.distinct, if table.by.len() > 1 { "combination" } else { "value" });
    let sum = format!("{} in {values}{shown}", told(counts.rows, "row"));
    let room = if table.query.text.is_empty() { inner.width } else { inner.width / 2 };
    p.put_right(inner, inner.width, inner.height - 1, room, &sum, Role::Dim);

    let scored = [(Column::Base, &counts.base), (Column::Best, &counts.best)];
    let scored: Vec<Column> = scored.into_iter().filter(|(_, name)| name.is_some()).map(|(c, _)| c).collect();
    let wanted: Vec<u16> = (0..table.by.len())
        .map(|i| {
            let widest = counts.groups.iter().take(200).filter_map(|g| g.values.get(i)?.as_deref());
            let widest = widest.map(|v| text::width(&text::clean(v))).max().unwrap_or(6);
            let head = table.by.get(i).map_or(0, |key| text::width(&text::clean(key)) + 2);
            widest.max(head).max(6) as u16
        })
        .collect();
    // rows, share, bar, accuracies; the bar gives way to values that would be cut off.
    let figures = |bar: u16| 9 + 7 + bar + 1 + 8 * scored.len() as u16;
    let room = |bar: u16| inner.width.saturating_sub(figures(bar) + 2 + wanted.len() as u16);
    let all: u16 = wanted.iter().sum();
    let bar = [if inner.width >= 76 { 12 } else { 6 }, 6, 0].into_iter().find(|bar| all <= room(*bar));
    let bar = bar.unwrap_or(0);
    let widths = shared_out(&wanted, room(bar));
    // As the engine orders them.
    let binned = table.by.first().is_some_and(|key| bins(key).1.is_some());
    let first = if binned { Column::Value(0) } else { Column::Rows };
    let head = |column: Column, name: &str| {
        let by = table.sorted.map_or(column == first, |by| by == column);
        let down = table.turned == matches!(column, Column::Value(_));
        let sign = match (by, down) {
            (false, _) => "",
            (true, true) => " v",
            (true, false) => " ^",
        };
        (format!("{name}{sign}"), if by { Role::Title } else { Role::Dim })
    };
    let mut x = 2;
    for (i, (key, width)) in table.by.iter().zip(&widths).enumerate() {
        let (name, role) = head(Column::Value(i), key);
        p.put(inner, x, 0, *width, &name, role);
        x += width + 1;
    }
    let figures_at = x;
    let (name, role) = head(Column::Rows, "rows");
    p.put_right(inner, x + 8, 0, 8, &name, role);
    p.put_right(inner, x + 15, 0, 6, "share", Role::Dim);
    for (i, column) in scored.iter().enumerate() {
        let (name, role) = head(*column, if *column == Column::Base { "base" } else { "best" });
        p.put_right(inner, x + 16 + bar + 8 * (i as u16 + 1), 0, 7, &name, role);
    }

    let list = Rect { y: inner.y + 1, height: inner.height.saturating_sub(2), ..inner };
    if table.order.is_empty() {
        return empty(p, list, "no row fits");
    }
    let height = usize::from(list.height);
    let top = scroll(0, table.selected, height);
    let most = counts.groups.iter().map(|g| g.rows).max().unwrap_or(1).max(1);
    for (y, (i, at)) in table.order.iter().enumerate().skip(top).take(height).enumerate() {
        let Some(group) = counts.groups.get(*at) else { continue };
        let (y, selected) = (y as u16, i == table.selected);
        let role = |plain| if selected { Role::Selected } else { plain };
        if selected {
            p.highlight(list, y, Role::Selected);
            let pointer = p.look.signs.pointer;
            p.put(list, 0, y, 1, pointer, Role::Selected);
        }
        let mut x = 2;
        for (value, width) in group.values.iter().zip(&widths) {
            let (value, plain) = value.as_deref().map_or(("(none)", Role::Dim), |v| (v, Role::Text));
            // What sets strata apart often stands at their ends.
            p.put(
                list,
                x,
                y,
                *width,
                &text::cut_middle(value, usize::from(*width), p.look.signs.ellipsis),
                role(plain),
            );
            x += width + 1;
        }
        let share = group.rows as f64 / counts.rows.max(1) as f64;
        p.put_right(list, figures_at + 8, y, 8, &number::count(group.rows), role(Role::Text));
        p.put_right(list, figures_at + 15, y, 6, &format!("{:.1}%", 100.0 * share), role(Role::Text));
        let full = group.rows as f64 / most as f64;
        p.bar(list, figures_at + 16, y, bar, full, role(Role::Curve));
        for (i, column) in scored.iter().enumerate() {
            let (right, of) = if *column == Column::Base { group.base } else { group.best };
            // Counts where so few were scored that a share would mislead.
            let told = match of {
                0 => "-".to_owned(),
                1..30 => format!("{right}/{of}"),
                _ => number::share(right as f64 / of as f64, 2),
            };
            p.put_right(list, figures_at + 16 + bar + 8 * (i as u16 + 1), y, 7, &told, role(Role::Text));
        }
    }
}

/// Widths of columns that have this room together: what is narrow gets what it wants, and the wide ones share the rest.
fn shared_out(wanted: &[u16], room: u16) -> Vec<u16> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by_key(|i| wanted[*i]);
    let (mut widths, mut left) = (vec![0; wanted.len()], room);
    for (done, i) in order.into_iter().enumerate() {
        widths[i] = wanted[i].min(left / (wanted.len() - done) as u16);
        left -= widths[i];
    }
    widths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_columns_leave_their_room_to_wide_ones() {
        assert_eq!(shared_out(&[40, 6], 40), [34, 6]);
        assert_eq!(shared_out(&[40, 30, 6], 40), [17, 17, 6]);
        assert_eq!(shared_out(&[10, 10], 40), [10, 10]);
        assert_eq!(shared_out(&[10, 10], 5), [2, 3]);
    }

    #[test]
    fn keys_are_crossed_with_an_x_or_a_blank() {
        assert_eq!(keys("intent x turns x len/20"), ["intent", "turns", "len/20"]);
        assert_eq!(keys("stratum base"), ["stratum", "base"]);
        assert_eq!(keys("\"customer id\" x base.answer"), ["customer id", "base.answer"]);
        assert_eq!(keys("x x y"), ["x", "y"], "a key may be called x");
        assert!(keys("  ").is_empty());
    }

    #[test]
    fn a_line_is_the_filter_of_its_values() {
        let by = ["stratum", "len/20", "base", "a b"].map(str::to_owned);
        let values = [Some("card arrival"), Some("40"), None, Some("long …")].map(|v| v.map(str::to_owned));
        let group = Group { values: values.to_vec(), ..Group::default() };
        let filter = narrow(&by, &group);
        assert_eq!(filter, "stratum=\"card arrival\" len>=40 len<60 -base:* \"a b\":\"long \"");
        assert_eq!(Filter::parse(&filter).to_string(), filter);
    }
}
