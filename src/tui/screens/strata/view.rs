//! Draws screen 1.

use ratatui::layout::Rect;

use super::decide::STAR;
use super::{Entry, Pane, Panes, StrataState, layout, list_top};
use crate::domain::api::RowSummary;
use crate::domain::board::Stratum;
use crate::domain::run::RunKind;
use crate::domain::strata::ActState;
use crate::tui::app::{App, Link};
use crate::tui::keymap::{Action, Context};
use crate::tui::layers::view::boxed;
use crate::tui::screens::{empty, pane_tabs};
use crate::tui::theme::Role;
use crate::tui::widgets::chart::Grid;
use crate::tui::widgets::{Painter, number, text};

pub fn draw(app: &App, p: &mut Painter<'_>, body: Rect) {
    let panes = layout(body);
    let state = &app.strata;
    if panes.wide {
        list(app, p, panes.list, None);
        if let Some(area) = panes.map {
            map(state, p, area, None);
        }
        rows(app, p, panes.rows, None);
        row(app, p, panes.row, None);
        return;
    }
    let names = Pane::ALL.map(|(name, _)| name);
    let tabs = |active| Some(pane_tabs(&names, active));
    match state.pane {
        Pane::List => list(app, p, panes.list, tabs(0)),
        Pane::Rows => {
            let Panes { rows: above, row: below, .. } = panes;
            rows(app, p, above, tabs(1));
            row(app, p, below, None);
        }
        Pane::Row => row(app, p, body, tabs(2)),
        Pane::Map => map(state, p, body, tabs(3)),
    }
}

fn titled(tabs: Option<String>, title: String) -> String {
    match tabs {
        Some(tabs) if title.is_empty() => tabs,
        Some(tabs) => format!("{tabs}  {title}"),
        None => title,
    }
}

fn list(app: &App, p: &mut Painter<'_>, area: Rect, tabs: Option<String>) {
    let state = &app.strata;
    let focused = state.pane == Pane::List;
    let Some(view) = &state.view else {
        let inner = p.pane(area, &tabs.unwrap_or_else(|| "strata".into()), focused);
        let text = match &app.link {
            Link::Connecting { since_ms } => {
                let waited = app.now_ms.saturating_sub(*since_ms);
                let waited =
                    if waited >= 1000 { format!(" ({})", number::duration(waited)) } else { String::new() };
                format!("connecting ...{waited}")
            }
            Link::Lost { .. } => "no connection to the engine yet; it is being tried again".into(),
            Link::Up { .. } => "reading the strata ...".into(),
        };
        return empty(p, inner, &text);
    };
    let order = state.order.name();
    let title = if tabs.is_some() {
        format!("{} by {order}", view.strata.len())
    } else {
        format!("strata ({}) by {order}", view.strata.len())
    };
    let inner = p.pane(area, &titled(tabs, title), focused);
    let scored = view.base.is_some() || view.best.is_some();
    let figures = if scored { 20 } else { 8 };
    let name_width = inner.width.saturating_sub(figures + 3);
    let head = if scored { "rows  base  best   " } else { "rows " };
    p.put_right(inner, inner.width, 0, figures, head, Role::Dim);
    let lost = view.by_hand.iter().filter(|told| told.state == ActState::Failed).count();
    let told: Vec<String> = [
        (lost > 0).then(|| format!("{lost} by hand not found")),
        (view.quarantined > 0).then(|| format!("{} quarantined", number::count(view.quarantined))),
    ]
    .into_iter()
    .flatten()
    .collect();
    p.put(inner, 0, 0, name_width, &told.join(", "), Role::Warning);
    let list = Rect { y: inner.y + 1, height: inner.height.saturating_sub(1), ..inner };
    let (hint, height) =
        if view.strata.is_empty() { (4, list.height.saturating_sub(4)) } else { (0, list.height) };
    let entries = state.entries();
    let worst = lagging(&entries);
    let top = list_top(state.selected, usize::from(height));
    for (y, (i, entry)) in entries.iter().enumerate().skip(top).take(usize::from(height)).enumerate() {
        let (y, selected) = (y as u16, i == state.selected);
        let role = if selected { Role::Selected } else { Role::Text };
        if selected {
            p.highlight(list, y, role);
            let pointer = p.look.signs.pointer;
            p.put(list, 0, y, 1, pointer, role);
        }
        let (name, rows) = match entry {
            Entry::All(n) => ("all rows", *n),
            Entry::Stratum(_, s) => (s.name.as_str(), s.rows),
            Entry::Group(g) => (g.name.as_str(), g.rows),
            Entry::Outliers(n) => ("outliers", *n),
            Entry::NearDuplicates(n) => ("near-duplicates", *n),
        };
        if matches!(entry, Entry::Stratum(_, s) if state.merging.as_ref() == Some(&s.id)) {
            let sign = p.look.signs.bullet;
            p.put(list, 1, y, 1, sign, role);
        }
        // Strata stand under the heading of their group.
        let (indent, sign) = match entry {
            Entry::Group(g) => (2, fold_sign(p, state.folded.contains(&g.id))),
            Entry::Stratum(_, s) if view.groups.iter().any(|g| g.id == s.group) => (2, ""),
            _ => (0, ""),
        };
        p.put(list, 2, y, 1, sign, role);
        let heading = matches!(entry, Entry::Group(_)) && !selected;
        let name_role = if heading { Role::Title } else { role };
        p.put(list, 2 + indent, y, name_width.saturating_sub(indent), name, name_role);
        let end = list.width.saturating_sub(if scored { 14 } else { 1 });
        let rows = number::count(rows);
        p.put_right(list, end, y, rows.len().max(7) as u16, &rows, role);
        if let (Entry::Stratum(at, s), true) = (entry, scored) {
            scores(p, list, y, s, role, worst == Some(*at));
        }
    }
    if hint > 0 {
        let area = Rect { y: list.y + height, height: hint, ..list };
        let key = |action| app.keymap.key_for(&[Context::Strata, Context::Global], action);
        let text = if view.rows == 0 {
            format!(
                "no rows: press {} and choose \"Import the data sources again\"",
                app.keymap.key_for(&[Context::Global], Action::Palette)
            )
        } else if let Some(run) = app.under_way().find(|r| r.kind == RunKind::Strata) {
            let how = match &run.progress {
                Some(p) if p.total > 0 => format!("{} {} of {}", p.phase, p.done, p.total),
                _ => run.message.clone().unwrap_or_else(|| run.state.to_string()),
            };
            format!("{} builds the strata: {how}", run.run)
        } else {
            format!("no strata yet: {} builds them (embed, cluster, name)", key(Action::BuildStrata))
        };
        p.paragraph(area, 0, &text, Role::Dim);
    }
}

/// Of a heading.
const fn fold_sign(p: &Painter<'_>, folded: bool) -> &'static str {
    match (p.look.signs.ascii, folded) {
        (true, true) => "+",
        (true, false) => "-",
        (false, true) => "\u{25b8}",
        (false, false) => "\u{25be}",
    }
}

/// How the number of clusters was found: every number that was tried, with its silhouette.
pub fn choice(app: &App, p: &mut Painter<'_>, body: Rect) {
    let choice = app.strata.view.as_ref().map(|v| v.choice.clone()).unwrap_or_default();
    let height = (choice.tried.len() as u16 + 6).min(body.height);
    let inner = boxed(p, body, 66, height, "how many clusters");
    if choice.tried.is_empty() {
        let why = if choice.k == 0 {
            "no strata have been built yet"
        } else {
            "the number was given, or there are too few rows to try several"
        };
        p.put(inner, 1, 0, inner.width.saturating_sub(1), why, Role::Dim);
        return;
    }
    let chosen = format!("{} clusters: {}", choice.k, choice.criterion);
    p.put(inner, 1, 0, inner.width.saturating_sub(1), &chosen, Role::Title);
    p.put(inner, 3, 1, 30, "tried  mean silhouette", Role::Dim);
    let most = choice.tried.iter().map(|(_, s)| *s).fold(0.0, f64::max);
    let lines = usize::from(inner.height.saturating_sub(3));
    for (y, (k, silhouette)) in choice.tried.iter().take(lines).enumerate() {
        let (y, here) = (y as u16 + 2, *k == choice.k);
        let role = if here { Role::Good } else { Role::Text };
        if here {
            let pointer = p.look.signs.pointer;
            p.put(inner, 1, y, 1, pointer, role);
        }
        p.put_right(inner, 8, y, 5, &k.to_string(), role);
        p.put_right(inner, 16, y, 6, &format!("{silhouette:.3}"), role);
        let share = if most > 0.0 { silhouette.max(0.0) / most } else { 0.0 };
        p.bar(inner, 18, y, inner.width.saturating_sub(20), share, role);
    }
    let hint = "tunebench strata build --k N takes another number";
    p.put(inner, 1, inner.height.saturating_sub(1), inner.width.saturating_sub(1), hint, Role::Dim);
}

/// The stratum furthest behind, where there is anything to gain: its place in the view.
fn lagging(entries: &[Entry<'_>]) -> Option<usize> {
    let lags = entries.iter().filter_map(|e| match e {
        Entry::Stratum(i, s) => super::lag(s).map(|lag| (*i, lag)),
        _ => None,
    });
    lags.max_by(|a, b| a.1.total_cmp(&b.1)).filter(|(_, lag)| *lag > 0.0).map(|(i, _)| i)
}

/// `.41 ▅ .93 !`; counts where so few rows were scored that shares would mislead.
fn scores(p: &mut Painter<'_>, list: Rect, y: u16, s: &Stratum, role: Role, worst: bool) {
    let x = list.width.saturating_sub(13);
    let show = |score: Option<f64>| match score {
        None => "  - ".to_owned(),
        Some(v) if s.scored < 30 => format!("{:>2.0}/{}", v * s.scored as f64, s.scored),
        Some(v) => number::share(v, 2),
    };
    if let Some(best) = s.best.or(s.base) {
        let level = p.look.signs.level(best);
        p.put(list, x + 6, y, 1, level, if role == Role::Selected { role } else { Role::Good });
    }
    p.put_right(list, x + 5, y, 5, &show(s.base), role);
    p.put_right(list, x + 12, y, 5, &show(s.best), role);
    if worst {
        let sign = p.look.signs.warning;
        p.put(list, list.width - 1, y, 1, sign, if role == Role::Selected { role } else { Role::Warning });
    }
}

fn map(state: &StrataState, p: &mut Painter<'_>, area: Rect, tabs: Option<String>) {
    let inner = p.pane(area, &tabs.unwrap_or_else(|| "map".into()), state.pane == Pane::Map);
    let Some(view) = state.view.as_ref().filter(|v| !v.map.is_empty()) else {
        return empty(p, inner, "the map comes with the strata");
    };
    let chosen = state
        .entries()
        .get(state.selected)
        .and_then(|e| if let Entry::Stratum(i, _) = e { Some(*i) } else { None });
    let place = |v: f32, n: u16| {
        let at = (f32::midpoint(v.clamp(-1.0, 1.0), 1.0) * f32::from(n.saturating_sub(1))).round();
        if at.is_finite() { at as usize } else { 0 }
    };
    let mut grid = Grid::new(inner.width, inner.height);
    for (x, y, stratum) in &view.map {
        grid.dot(place(*x, inner.width * 2), place(*y, inner.height * 4), Role::series(*stratum));
    }
    grid.draw(p, inner);
    // The selected stratum is told by a sign, not by its colour.
    let sign = p.look.signs.bullet;
    for (x, y, stratum) in &view.map {
        if Some(*stratum) == chosen {
            p.put(inner, place(*x, inner.width) as u16, place(*y, inner.height) as u16, 1, sign, Role::Title);
        }
    }
}

/// An answer with its sign.
pub fn answer(p: &Painter<'_>, answer: Option<&(String, Option<bool>)>) -> (String, Role) {
    match answer {
        None => ("-".into(), Role::Dim),
        Some((text, Some(true))) => (format!("{} {text}", p.look.signs.right), Role::Good),
        Some((text, Some(false))) => (format!("{} {text}", p.look.signs.wrong), Role::Bad),
        Some((text, None)) => (format!("{} {text}", p.look.signs.open), Role::Text),
    }
}

fn marks(p: &Painter<'_>, row: &RowSummary) -> String {
    let star = row.marks.iter().any(|m| m == STAR);
    let others = row.marks.iter().filter(|m| *m != STAR).count();
    let mut text = String::new();
    text.push_str(if star { p.look.signs.star } else { " " });
    text.push(if row.has_note { 'n' } else { ' ' });
    if others > 0 {
        text.push_str(&format!("+{others}"));
    }
    text
}

fn rows(app: &App, p: &mut Painter<'_>, area: Rect, tabs: Option<String>) {
    let state = &app.strata;
    let mut title = state.scope.clone();
    if let Some(part) = state.query.part {
        title.push_str(&format!(", {}", part.name()));
    }
    if state.loaded {
        title.push_str(&format!(" ({})", number::count(state.window.total)));
    }
    if !state.query.sort.is_empty() {
        title.push_str(&format!(" by {}", state.query.sort));
    }
    if !state.picked.is_empty() {
        title.push_str(&format!(", {} picked", number::count(state.picked.len())));
    }
    // Last, since it may be long and is cut off first.
    if !state.query.text.is_empty() {
        title.push_str(&format!(", with {}", state.query.text));
    }
    let inner = p.pane(area, &titled(tabs, title), state.pane == Pane::Rows);
    if inner.width < 30 || inner.height < 2 {
        return;
    }
    if !state.loaded {
        let text = if state.view.is_none() { "" } else { "reading rows ..." };
        return empty(p, inner, text);
    }
    if state.window.total == 0 {
        let none = app.strata.view.as_ref().is_some_and(|view| view.rows == 0);
        let why = if none { "the data has no rows" } else { "no row fits; esc shows all rows again" };
        return empty(p, inner, why);
    }
    // id, gold, base, best, length, marks, text: what does not fit goes first from the right, text takes what is left.
    let view = state.view.as_ref();
    let (base_name, best_name) = (view.and_then(|v| v.base.as_deref()), view.and_then(|v| v.best.as_deref()));
    let answers = u16::from(base_name.is_some()) + u16::from(best_name.is_some() && best_name != base_name);
    let id_width = state
        .window
        .rows
        .iter()
        .take(50)
        .map(|r| text::width(&r.id))
        .max()
        .unwrap_or(4)
        .clamp(4, if inner.width >= 110 { 16 } else { 10 }) as u16;
    let answer_width = if inner.width >= 110 { 18 } else { 13 };
    let golds = state.window.rows.iter().take(200).filter_map(|r| r.gold.as_deref());
    let longest = golds.map(|g| text::width(&text::clean(g))).max().unwrap_or(4);
    let gold_width = (longest as u16).clamp(4, (inner.width / 4).min(24));
    let loss_width = if state.losses.is_empty() { 0 } else { 6 };
    let columns = id_width + 3 + loss_width + gold_width + 1 + answers * (answer_width + 1);
    let with_length = inner.width > columns + 30;
    let mut x = 2;
    p.put(inner, x, 0, id_width, "id", Role::Dim);
    x += id_width + 1;
    if loss_width > 0 {
        p.put(inner, x, 0, loss_width, "loss", Role::Dim);
        x += loss_width;
    }
    p.put(inner, x, 0, gold_width, "gold", Role::Dim);
    x += gold_width + 1;
    for name in
        [base_name.map(|_| "base"), best_name.filter(|_| answers > 1).map(|_| "best")].into_iter().flatten()
    {
        p.put(inner, x, 0, answer_width, name, Role::Dim);
        x += answer_width + 1;
    }
    if with_length {
        p.put(inner, x + 1, 0, 4, " len", Role::Dim);
        x += 6;
    }
    p.put(inner, x, 0, 5, "marks", Role::Dim);
    p.put(inner, x + 6, 0, 10, "text", Role::Dim);

    let list = Rect { y: inner.y + 1, height: inner.height - 1, ..inner };
    let height = usize::from(list.height);
    let top = state.window.top(height);
    for y in 0..height.min(state.window.total - top) {
        let i = top + y;
        let (y, selected) = (y as u16, i == state.window.selected);
        let plain = if selected { Role::Selected } else { Role::Text };
        if selected {
            p.highlight(list, y, plain);
            let pointer = p.look.signs.pointer;
            p.put(list, 0, y, 1, pointer, plain);
        }
        let Some(row) = state.window.get(i) else {
            let ellipsis = p.look.signs.ellipsis;
            p.put(list, 2, y, 3, ellipsis, Role::Dim);
            continue;
        };
        if state.picked.contains(&row.id) {
            let sign = p.look.signs.bullet;
            p.put(list, 1, y, 1, sign, if selected { plain } else { Role::Key });
        }
        let mut x = 2;
        p.put(list, x, y, id_width, &row.id, plain);
        x += id_width + 1;
        if loss_width > 0 {
            let loss = state.losses.get(&row.id).map_or_else(|| "-".into(), |l| number::short(f64::from(*l)));
            p.put(list, x, y, loss_width - 1, &loss, plain);
            x += loss_width;
        }
        p.put(list, x, y, gold_width, row.gold.as_deref().unwrap_or("-"), plain);
        x += gold_width + 1;
        for shown in [base_name.map(|_| &row.base), best_name.filter(|_| answers > 1).map(|_| &row.best)]
            .into_iter()
            .flatten()
        {
            let (text, role) = answer(p, shown.as_ref());
            p.put(list, x, y, answer_width, &text, if selected { plain } else { role });
            x += answer_width + 1;
        }
        if with_length {
            p.put_right(list, x + 5, y, 5, &row.length.to_string(), plain);
            x += 6;
        }
        let text = marks(p, row);
        p.put(list, x, y, 5, &text, if selected { plain } else { Role::Warning });
        x += 6;
        p.put(list, x, y, list.width.saturating_sub(x), &row.text, plain);
    }
}

/// Everything about the selected row, as lines with roles; the input last, since it is the longest.
fn row(app: &App, p: &mut Painter<'_>, area: Rect, tabs: Option<String>) {
    let state = &app.strata;
    let id = state.window.current().map_or("", |r| r.id.as_str());
    let title = if tabs.is_some() { id.to_owned() } else { format!("row {id}") };
    let inner = p.pane(area, &titled(tabs, title), state.pane == Pane::Row);
    let Some(detail) = state.detail.as_ref().filter(|d| d.id == id) else {
        if !id.is_empty() {
            empty(p, inner, "reading the row ...");
        }
        return;
    };
    let width = usize::from(inner.width);
    let mut lines: Vec<(String, Role)> = Vec::new();
    let mut say =
        |text: &str, role: Role| lines.extend(text::wrap(text, width, 400).into_iter().map(|l| (l, role)));
    let mut facts: Vec<String> = Vec::new();
    facts.extend(detail.part.map(|part| part.name().to_owned()));
    facts.extend(detail.stratum.as_deref().map(|s| state.stratum_name(s).to_owned()));
    facts.push(format!("{}:{}", detail.source, detail.line));
    facts.extend(detail.flags.iter().cloned());
    facts.extend(detail.outlier.map(|score| format!("outlier {}", number::share(f64::from(score), 2))));
    say(&facts.join(&format!(" {} ", p.look.signs.dot)), Role::Dim);
    say(&detail.input, Role::Text);
    say("", Role::Text);
    let gold = match (&detail.gold, &detail.gold_in_file) {
        (Some(gold), Some(file)) if gold != file => {
            format!("gold     {gold}   (a person's; the file says {file})")
        }
        (Some(gold), _) => format!("gold     {gold}"),
        (None, _) => "gold     none; g gives one".to_owned(),
    };
    say(&gold, Role::Title);
    for (candidate, text, right) in &detail.answers {
        let (text, role) = answer(p, Some(&(text.clone(), *right)));
        say(&format!("{candidate}: {text}"), role);
    }
    for said in &detail.feedback {
        let thumb = said.good.map(|good| if good { "+ good" } else { "- bad" });
        let edit = said.edit.as_ref().map(|edit| format!("{} {edit}", p.look.signs.arrow));
        let words: Vec<&str> = thumb.into_iter().chain(edit.as_deref()).collect();
        say(&format!("said     {}: {}  {}", said.candidate, said.output, words.join(" ")), Role::Warning);
    }
    if !detail.marks.is_empty() {
        say(&format!("marks    {}", detail.marks.join(", ")), Role::Warning);
    }
    if let Some(note) = &detail.note {
        say(&format!("note     {note}"), Role::Warning);
    }
    for (name, value) in &detail.fields {
        if *value != detail.input {
            say(&format!("{name}: {value}"), Role::Dim);
        }
    }
    let height = usize::from(inner.height);
    let from = state.detail_scroll.min(lines.len().saturating_sub(height));
    for (y, (line, role)) in lines.iter().skip(from).take(height).enumerate() {
        p.put(inner, 0, y as u16, inner.width, line, *role);
    }
    if lines.len() > from + height {
        p.put_right(inner, inner.width, inner.height.saturating_sub(1), 8, " more ", Role::Key);
    }
}
