//! Drawing of screen 3: the list, one example, what is tried.

use ratatui::layout::Rect;

use super::{Pane, layout, run_view};
use crate::domain::example::{Example, Found, Shown};
use crate::tui::app::App;
use crate::tui::keymap::{Action, Context};
use crate::tui::screens::play::answer::{Answer, Standing};
use crate::tui::screens::{empty, pane_tabs};
use crate::tui::theme::Role;
use crate::tui::widgets::window::Window;
use crate::tui::widgets::{Painter, Piece, number, text};

/// Lines of a text that are shown in one piece.
const LINES: usize = 400;

pub fn draw(app: &App, p: &mut Painter<'_>, area: Rect) {
    let panes = layout(area, app.trajectories.pane);
    let title = |pane: Pane, rest: String| {
        let names: Vec<&str> = Pane::ALL.iter().map(|(name, _)| *name).collect();
        let at = Pane::ALL.iter().position(|(_, known)| *known == pane).unwrap_or(0);
        let name = if panes.alone() { pane_tabs(&names, at) } else { names[at].to_owned() };
        format!("{name}{rest}")
    };
    if let Some(area) = panes.list {
        list(app, p, area, &title);
    }
    if let Some(area) = panes.example {
        let focused = app.trajectories.pane == Pane::Example;
        let inner = p.pane(area, &title(Pane::Example, String::new()), focused);
        example(app, p, inner);
    }
    if let Some(area) = panes.attempt {
        let inner = p.pane(area, &title(Pane::Try, String::new()), app.trajectories.pane == Pane::Try);
        attempt(app, p, inner);
    }
    if let Some(area) = panes.run {
        run_view::draw(app, p, area, &title);
    }
}

fn key(app: &App, action: Action) -> String {
    app.keymap.key_for(&[Context::Trajectories, Context::Global], action)
}

fn list(app: &App, p: &mut Painter<'_>, area: Rect, title: &dyn Fn(Pane, String) -> String) {
    let state = &app.trajectories;
    let store = app.example_store();
    let dot = p.look.signs.dot;
    let mut rest = String::new();
    if let Some(store) = &store {
        rest = format!(" {dot} {store}");
        if state.loaded {
            rest.push_str(&format!(" ({}) by {}", number::count(state.window.total), state.sort_name()));
        }
        if !state.filter.is_empty() {
            rest.push_str(&format!(" {dot} {}", state.filter));
        }
        if !state.picked.is_empty() {
            rest.push_str(&format!(" {dot} {} picked", state.picked.len()));
        }
    }
    let inner = p.pane(area, &title(Pane::List, rest), state.pane == Pane::List);
    let Some(store) = store else {
        let text = format!(
            "There are no worked examples yet. {} looks for them: for each row that goes wrong, the smallest set that turns the answer to gold.",
            key(app, Action::LaunchTrajectory)
        );
        return empty(p, inner, &text);
    };
    if !state.loaded {
        let under_way = app.run(&store).is_some_and(|r| !r.state.is_final());
        let text = match &state.failed {
            Some(why) => why.clone(),
            None if under_way => "the run writes its examples at its end; r shows another store".into(),
            None if app.connected() => "reading the examples ...".into(),
            None => "connecting ...".into(),
        };
        return empty(p, inner, &text);
    }
    if state.window.total == 0 {
        let text = if state.filter.is_empty() {
            "the store is empty"
        } else {
            "no example passes the filter; esc clears it"
        };
        return empty(p, inner, text);
    }
    rows(app, p, inner, &state.window);
}

/// Widths of the figures.
const FIGURES: [(&str, u16); 4] = [("fixed", 5), ("broke", 5), ("uses", 5), ("found", 5)];

fn rows(app: &App, p: &mut Painter<'_>, inner: Rect, window: &Window<Example>) {
    let state = &app.trajectories;
    let mut x = 2;
    for (head, width) in FIGURES {
        p.put_right(inner, x + width, 0, width, head, Role::Dim);
        x += width + 1;
    }
    let answers = window.rows.iter().map(|e| text::width(&text::clean(&e.answer))).max().unwrap_or(6);
    let answer_width = (answers as u16).clamp(6, (inner.width / 5).max(8));
    let stratum_width = if inner.width >= 76 { 13 } else { 0 };
    p.put(inner, x, 0, answer_width, "answer", Role::Dim);
    let stratum_x = x + answer_width + 1;
    if stratum_width > 0 {
        p.put(inner, stratum_x, 0, stratum_width, "stratum", Role::Dim);
    }
    let input_x = if stratum_width > 0 { stratum_x + stratum_width + 1 } else { stratum_x };
    p.put(inner, input_x, 0, inner.width, "input", Role::Dim);
    let list = Rect { y: inner.y + 1, height: inner.height.saturating_sub(1), ..inner };
    let height = usize::from(list.height);
    let top = window.top(height);
    for y in 0..height.min(window.total.saturating_sub(top)) {
        let at = top + y;
        let (y, here) = (y as u16, at == window.selected);
        let Some(example) = window.get(at) else {
            p.put(list, 2, y, 20, p.look.signs.ellipsis, Role::Dim);
            continue;
        };
        let plain = match (here, example.enabled) {
            (true, _) => Role::Selected,
            (false, true) => Role::Text,
            (false, false) => Role::Dim,
        };
        if here {
            p.highlight(list, y, Role::Selected);
            p.put(list, 0, y, 1, p.look.signs.pointer, plain);
        }
        let mark = if state.picked.contains(&example.id) {
            p.look.signs.star
        } else if !example.enabled {
            p.look.signs.wrong
        } else if state.edited.contains(&example.id) {
            p.look.signs.delta
        } else {
            " "
        };
        p.put(list, 1, y, 1, mark, plain);
        let total = example.total();
        let mut x = 2;
        for (value, (_, width)) in
            [total.fixed, total.broken, total.uses, example.found_rows].into_iter().zip(FIGURES)
        {
            let text = if value == 0 { "-".to_owned() } else { number::count(value as usize) };
            p.put_right(list, x + width, y, width, &text, plain);
            x += width + 1;
        }
        p.put(list, x, y, answer_width, &example.answer, plain);
        if stratum_width > 0 {
            let stratum = example.stratum.as_deref().unwrap_or_default();
            p.put(list, stratum_x, y, stratum_width, stratum, plain);
        }
        p.put(list, input_x, y, list.width.saturating_sub(input_x), &example.input, plain);
    }
}

/// Lines of text in a pane, wrapped; scrolled.
struct Lines {
    width: usize,
    lines: Vec<Vec<Piece>>,
}

impl Lines {
    fn new(width: u16) -> Self {
        Self { width: usize::from(width), lines: Vec::new() }
    }

    fn say(&mut self, indent: usize, said: &str, role: Role) {
        let room = self.width.saturating_sub(indent);
        for line in text::wrap(said, room, LINES) {
            self.lines.push(vec![(format!("{}{line}", " ".repeat(indent)), role)]);
        }
    }

    fn gap(&mut self) {
        self.lines.push(Vec::new());
    }

    fn draw(&self, p: &mut Painter<'_>, inner: Rect, scroll: usize) {
        let height = usize::from(inner.height);
        let most = self.lines.len().saturating_sub(height);
        let top = scroll.min(most);
        for (y, line) in self.lines.iter().skip(top).take(height).enumerate() {
            p.pieces(inner, 0, y as u16, line);
        }
        if top < most && height > 0 {
            p.put_right(inner, inner.width, inner.height - 1, 6, " more ", Role::Key);
        }
    }
}

/// An example, what it did, and how it was found.
fn example(app: &App, p: &mut Painter<'_>, inner: Rect) {
    let state = &app.trajectories;
    let Some(example) = state.window.current().filter(|_| state.loaded) else {
        return empty(p, inner, "no example is selected");
    };
    let dot = p.look.signs.dot;
    let mut lines = Lines::new(inner.width);
    let mut about = format!("{} {dot} {} {dot} {}", example.id, example.stage, origin(example));
    if !example.enabled {
        about.push_str(&format!(" {dot} disabled: it is not shown"));
    }
    if state.edited.contains(&example.id) {
        about.push_str(&format!(" {dot} changed by hand"));
    }
    lines.say(0, &about, Role::Dim);
    lines.say(0, "input", Role::Title);
    lines.say(1, &example.input, Role::Text);
    for (stage, output) in &example.outputs {
        lines.say(0, &format!("{stage} said"), Role::Title);
        lines.say(1, output, Role::Text);
    }
    lines.say(0, "answer", Role::Title);
    lines.say(1, &example.answer, Role::Good);
    lines.say(0, "what it did", Role::Title);
    let total = example.total();
    if total.uses == 0 {
        lines.say(1, "it was shown for no dev row", Role::Dim);
    } else {
        let words =
            format!("shown for {}: fixed {}, broke {}", rows_of(total.uses), total.fixed, total.broken);
        lines.say(1, &words, if total.broken > total.fixed { Role::Bad } else { Role::Text });
        let mut by: Vec<_> = example.effect.iter().filter(|(_, e)| e.fixed + e.broken > 0).collect();
        by.sort_by_key(|(_, e)| std::cmp::Reverse(e.fixed + e.broken));
        for (stratum, effect) in by.into_iter().take(5) {
            let value = example.value(Some(stratum));
            let name = if stratum.is_empty() { "no stratum" } else { stratum };
            lines.say(
                1,
                &format!(
                    "{name}: +{} -{} of {}, worth {value:+.2}",
                    effect.fixed, effect.broken, effect.uses
                ),
                Role::Dim,
            );
        }
    }
    lines.say(0, "how it was found", Role::Title);
    if example.found.is_empty() {
        lines.say(1, "in no smallest set: it is one of the rows with gold", Role::Dim);
    }
    for found in &example.found {
        how(&mut lines, p, found);
    }
    let more = (example.found_rows as usize).saturating_sub(example.found.len());
    if more > 0 {
        lines.say(1, &format!("and {} more", rows_of(more as u32)), Role::Dim);
    }
    lines.draw(p, inner, if state.pane == Pane::Example { state.scroll } else { 0 });
}

fn rows_of(n: u32) -> String {
    crate::domain::words::counted(n as usize, "row")
}

fn origin(example: &Example) -> String {
    let mut origin = example.source.name().to_owned();
    if let Some(row) = &example.row {
        origin.push_str(&format!(" of row {row}"));
    }
    if !example.run.is_empty() {
        origin.push_str(&format!(", by {}", example.run));
    }
    if let Some(stratum) = &example.stratum {
        origin.push_str(&format!(", {stratum}"));
    }
    origin
}

/// The wrong answer, what was tried, and the smallest set that turned it to gold.
fn how(lines: &mut Lines, p: &Painter<'_>, found: &Found) {
    let signs = &p.look.signs;
    let wrong = if found.wrong.trim().is_empty() { "nothing that could be read" } else { &found.wrong };
    lines.say(
        1,
        &format!("row {}: {} {wrong} {} {} {}", found.row, signs.wrong, signs.arrow, signs.right, found.gold),
        Role::Text,
    );
    let tried: Vec<String> = found
        .proposals
        .iter()
        .map(|(kind, turned)| format!("{kind} {}", if *turned { signs.right } else { signs.wrong }))
        .collect();
    let tried = if tried.is_empty() { found.proposal.clone() } else { tried.join(", ") };
    let set = match found.set.len() {
        0 | 1 => "this example alone".to_owned(),
        n => format!("this and {} more ({})", n - 1, found.set.join(" ")),
    };
    lines.say(3, &format!("tried {tried}; {} sets in all; smallest: {set}", found.tried), Role::Dim);
}

fn attempt(app: &App, p: &mut Painter<'_>, inner: Rect) {
    let attempt = &app.trajectories.attempt;
    let Some(input) = &attempt.input else {
        let text = format!(
            "{} writes an input, {} takes that of the selected example: what is retrieved for it and why, and the answer with and without",
            key(app, Action::Compose),
            key(app, Action::TryExample)
        );
        return empty(p, inner, &text);
    };
    let mut lines = Lines::new(inner.width);
    lines.say(0, "input", Role::Title);
    lines.say(1, input, Role::Text);
    for (at, name) in ["without", "with"].into_iter().enumerate() {
        if let Some(answer) = &attempt.answers[at] {
            answered(&mut lines, p, name, answer);
        }
    }
    lines.gap();
    match &attempt.found {
        None => lines.say(0, "searching ...", Role::Dim),
        Some(Err(why)) => lines.say(0, why, Role::Bad),
        Some(Ok(found)) if found.hits.is_empty() => {
            lines.say(0, &format!("{}: nothing is retrieved", found.stage), Role::Title);
        }
        Some(Ok(found)) => {
            lines.say(
                0,
                &format!("{}: what is retrieved, in the order of the prompt", found.stage),
                Role::Title,
            );
            for (example, why) in &found.hits {
                lines.say(0, &format!("{} {}", example.answer, reason(why)), Role::Good);
                lines.say(1, &text::one_line(&example.input, p.look.signs.newline), Role::Text);
            }
        }
    }
    lines.draw(p, inner, attempt.scroll);
}

/// Why it is shown: `score .83 = cosine .71, words 12.3, worth +.12`.
fn reason(why: &Shown) -> String {
    let mut parts = vec![format!("cosine {}", number::share(why.similarity, 2))];
    if why.bm25 > 0.0 {
        parts.push(format!("words {:.1}", why.bm25));
    }
    parts.push(format!("lift-harm {:+.2}", why.value));
    if why.near_duplicate {
        parts.push("says nearly the same".into());
    }
    format!("score {:.2} ({})", why.score, parts.join(", "))
}

fn answered(lines: &mut Lines, p: &Painter<'_>, name: &str, answer: &Answer) {
    let signs = &p.look.signs;
    let figures = answer.figures();
    let tokens = if figures.tokens_in > 0 {
        format!(" {} {} tokens", signs.dot, number::count(figures.tokens_in as usize))
    } else {
        String::new()
    };
    lines.say(0, &format!("{name} {} {}{tokens}", signs.dot, answer.candidate), Role::Title);
    match &answer.standing {
        Standing::Waiting => lines.say(1, "waiting ...", Role::Dim),
        Standing::WaitingFor(why) => lines.say(1, why, Role::Dim),
        Standing::Failed(error) => lines.say(1, error, Role::Bad),
        Standing::Done(output) if output.trim().is_empty() => {
            // What the model said could not be read as an answer.
            let said = answer.stages.last().map_or("", |stage| stage.text.as_str());
            let said = if said.trim().is_empty() { "nothing" } else { said };
            lines.say(1, said, Role::Warning);
        }
        Standing::Done(output) => lines.say(1, output, Role::Text),
        Standing::Streaming => {
            lines.say(1, answer.stages.last().map_or("", |stage| stage.text.as_str()), Role::Text);
        }
    }
}
