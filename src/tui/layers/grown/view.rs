//! Draws the made texts.

use ratatui::layout::Rect;

use super::{FILTERS, Pane, Texts};
use crate::domain::diff::{self, Change};
use crate::domain::grow::{GrownPage, Made, Parent};
use crate::domain::run::{RunRecord, RunState};
use crate::domain::words::noun;
use crate::tui::app::App;
use crate::tui::layers::view::boxed;
use crate::tui::screens::runs::state_sign;
use crate::tui::screens::runs::view::state_role;
use crate::tui::screens::{WIDE, body_of, empty};
use crate::tui::theme::Role;
use crate::tui::widgets::{Painter, Piece, diff::wrapped, number, text};

/// Lines over the list: how the run stands, its figures, what is shown.
const HEAD: u16 = 3;
/// Share of the words of both texts that must be the same for a word-by-word difference to say something.
const COMMON: f64 = 0.15;

/// Rows of the list on a screen of this size.
pub fn list_height(size: (u16, u16), pane: Pane) -> usize {
    let inside = body_of(size).height.saturating_sub(2 + HEAD);
    let rows = if size.0 >= WIDE || pane == Pane::Text { inside } else { inside / 2 };
    usize::from(rows.max(1))
}

/// Lines of the text that one step of a page goes over.
pub fn text_height(size: (u16, u16)) -> usize {
    usize::from(body_of(size).height.saturating_sub(HEAD + 6).max(1))
}

/// ```text
/// wide: figures over | list | text beside its parents |     narrow: figures, list, text; or the text alone
/// ```
pub fn draw(app: &App, p: &mut Painter<'_>, body: Rect, texts: &Texts) {
    let Some(run) = &texts.run else {
        let inner = boxed(p, body, 160, body.height, "made texts");
        let text = "no run has made rows yet: + on screen 1 has a model paraphrase train rows, play who writes them, or go back from their golds; every text is checked, and what holds is taken in from here";
        p.paragraph(
            Rect { x: inner.x + 1, width: inner.width.saturating_sub(2), ..inner },
            1,
            text,
            Role::Dim,
        );
        return;
    };
    let dot = p.look.signs.dot;
    let by = texts
        .page
        .as_ref()
        .map(|page| format!(" {dot} {} by {}, checked by {}", page.method, page.maker, page.checker));
    let title = format!("made texts {dot} {run}{}", by.unwrap_or_default());
    let inner = boxed(p, body, 200, body.height, &title);
    head(app, p, inner, texts, app.run(run));
    let rest = Rect { y: inner.y + HEAD, height: inner.height.saturating_sub(HEAD), ..inner };
    if let Some(why) = &texts.error {
        let y = p.paragraph(rest, 1, why, Role::Bad);
        p.put(rest, 0, y + 1, rest.width, "/ changes the filter, f shows all", Role::Dim);
        return;
    }
    let Some(page) = &texts.page else {
        return empty(p, rest, "reading what was made ...");
    };
    if page.total == 0 {
        return empty(p, rest, &none(texts, page, app.run(run)));
    }
    let height = list_height(app.size, texts.pane) as u16;
    if body.width >= WIDE {
        let left = (rest.width * 2 / 5).clamp(40, 80);
        list(p, Rect { width: left, ..rest }, texts);
        let line = p.look.signs.border.vertical_left;
        for y in 0..rest.height {
            p.put(rest, left, y, 1, line, Role::Border);
        }
        detail(p, Rect { x: rest.x + left + 2, width: rest.width.saturating_sub(left + 2), ..rest }, texts);
    } else if texts.pane == Pane::Text {
        detail(p, rest, texts);
    } else {
        list(p, Rect { height, ..rest }, texts);
        let line = p.look.signs.border.horizontal_top.repeat(usize::from(rest.width));
        p.put(rest, 0, height, rest.width, &line, Role::Border);
        let below = rest.height.saturating_sub(height + 1);
        detail(p, Rect { y: rest.y + height + 1, height: below, ..rest }, texts);
    }
}

/// Why there is nothing to show.
fn none(texts: &Texts, page: &GrownPage, run: Option<&RunRecord>) -> String {
    if page.counts.made > 0 {
        let filter = if texts.filter == "accepted" {
            "nothing is taken in yet: a takes a text in".into()
        } else {
            format!("none of {} fits `{}`", number::count(page.counts.made), texts.filter)
        };
        return format!("{filter}; f shows all");
    }
    match run.map(|run| run.state) {
        Some(RunState::Queued) => "nothing is made yet: the run waits for its turn".into(),
        Some(state) if state.is_final() => "it made nothing; its log on screen 7 says why".into(),
        _ => "nothing is made yet; what is verified appears here".into(),
    }
}

fn figure(run: Option<&RunRecord>, name: &str) -> f64 {
    run.and_then(|run| run.metrics.get(name)).copied().unwrap_or(0.0)
}

/// How the run stands; what it made and spent; which of its texts are shown.
fn head(app: &App, p: &mut Painter<'_>, area: Rect, texts: &Texts, run: Option<&RunRecord>) {
    let signs = &p.look.signs;
    let mut x = 0;
    match run {
        Some(run) => {
            let state = format!("{} {}", state_sign(signs, run.state), run.state);
            x += p.put(area, x, 0, 20, &state, state_role(run.state)) + 1;
            let progress = run.progress.as_ref().filter(|g| g.total > 0 && !run.state.is_final());
            if let Some(progress) = progress {
                let width = if area.width >= WIDE { 20 } else { 10 };
                let share = progress.done as f64 / progress.total as f64;
                p.bar(area, x, 0, width, share, Role::Good);
                x += width + 1;
                let left = progress.eta_ms.map(|ms| format!(", {} left", number::duration(ms)));
                let words = format!("{} of {}{} ", progress.done, progress.total, left.unwrap_or_default());
                x += p.put(area, x, 0, 34, &words, Role::Text);
            } else if let Some(took) = run.took_ms(app.now_ms) {
                x += p.put(area, x, 0, 12, &format!("{} ", number::duration(took)), Role::Dim);
            }
        }
        None => x += p.put(area, x, 0, 12, "starting ", Role::Dim),
    }
    let (calls, tokens, usd) = (figure(run, "calls"), figure(run, "tokens"), figure(run, "usd"));
    if calls > 0.0 {
        let cost = if usd > 0.0 { format!(", ${usd:.2}") } else { String::new() };
        let dot = p.look.signs.dot;
        let words =
            format!("{dot} {} calls, {} tokens{cost}", number::count(calls as usize), number::short(tokens));
        p.put(area, x, 0, area.width.saturating_sub(x), &words, Role::Dim);
    }
    made(p, area, texts, run);
    shown(p, area, texts);
}

/// What became of the texts.
fn made(p: &mut Painter<'_>, area: Rect, texts: &Texts, run: Option<&RunRecord>) {
    let dot = p.look.signs.dot;
    let counts = texts.page.as_ref().map(|page| &page.counts);
    let of = |known: Option<usize>, name: &str| known.unwrap_or_else(|| figure(run, name) as usize);
    let (made, kept) = (of(counts.map(|c| c.made), "made"), of(counts.map(|c| c.kept), "kept"));
    let mut pieces: Vec<Piece> = vec![
        (format!("{} made ", number::count(made)), Role::Text),
        (format!("{dot} {} kept", number::count(kept)), Role::Good),
    ];
    let accepted = texts.page.as_ref().and_then(|page| page.accepted.as_ref()).map_or(0, |a| a.rows);
    if accepted > 0 {
        pieces.push((format!(" ({} in the data)", number::count(accepted)), Role::Text));
    }
    let fell: Vec<String> = counts
        .iter()
        .flat_map(|counts| &counts.fell)
        .map(|(check, n)| format!("{} {check}", number::count(*n)))
        .collect();
    if !fell.is_empty() {
        pieces.push((format!(" {dot} fell: {}", fell.join(", ")), Role::Text));
    }
    p.pieces(area, 0, 1, &pieces);
}

/// `[all] kept refused accepted`, or what was typed; how many that are, and how many are picked.
fn shown(p: &mut Painter<'_>, area: Rect, texts: &Texts) {
    let mut pieces: Vec<Piece> = Vec::new();
    let typed = !FILTERS.contains(&texts.filter.as_str());
    for name in FILTERS {
        let label = if name.is_empty() { "all" } else { name };
        if name == texts.filter {
            pieces.push((format!("[{label}] "), Role::Key));
        } else {
            pieces.push((format!(" {label}  "), Role::Dim));
        }
    }
    if typed {
        pieces.push((format!("[{}]", texts.filter), Role::Key));
    }
    p.pieces(Rect { width: area.width.saturating_sub(24), ..area }, 0, 2, &pieces);
    let mut words = Vec::new();
    if !texts.picked.is_empty() {
        words.push(format!("{} picked", texts.picked.len()));
    }
    if let Some(page) = &texts.page {
        let at = if page.total == 0 { 0 } else { texts.window.selected + 1 };
        words.push(format!("{} of {}", number::count(at), number::count(page.total)));
    }
    p.put_right(area, area.width, 2, 24, &words.join(", "), Role::Dim);
}

/// Sign, word and role of what became of a text.
fn fate(p: &Painter<'_>, made: &Made) -> (&'static str, &'static str, Role) {
    let signs = &p.look.signs;
    match made.one.fell {
        _ if made.accepted => (signs.star, "in data", Role::Good),
        None => (signs.right, "kept", Role::Good),
        Some(check) if check.may_be_overruled() => (signs.warning, check.name(), Role::Warning),
        Some(check) => (signs.wrong, check.name(), Role::Bad),
    }
}

fn list(p: &mut Painter<'_>, area: Rect, texts: &Texts) {
    let height = usize::from(area.height);
    let window = &texts.window;
    let top = window.top(height);
    let golds = window.rows.iter().take(200).filter_map(|made| made.one.gold.as_deref());
    let gold = golds.map(|gold| text::width(&text::clean(gold))).max().unwrap_or(0).clamp(4, 14) as u16;
    for i in 0..height.min(window.total.saturating_sub(top)) {
        let (y, selected) = (i as u16, top + i == window.selected);
        let role = |plain| if selected { Role::Selected } else { plain };
        if selected {
            p.highlight(area, y, Role::Selected);
            let pointer = p.look.signs.pointer;
            p.put(area, 0, y, 1, pointer, Role::Selected);
        }
        let Some(made) = window.get(top + i) else {
            let ellipsis = p.look.signs.ellipsis;
            p.put(area, 2, y, 3, ellipsis, role(Role::Dim));
            continue;
        };
        if texts.picked.contains(&made.one.id) {
            p.put(area, 1, y, 1, "*", role(Role::Key));
        }
        let (sign, word, plain) = fate(p, made);
        p.put(area, 2, y, 12, &format!("{sign} {word}"), role(plain));
        p.put(area, 15, y, gold, made.one.gold.as_deref().unwrap_or("-"), role(Role::Dim));
        let x = 16 + gold;
        p.put(area, x, y, area.width.saturating_sub(x), &made.one.text, role(Role::Text));
    }
}

/// What is known of the text under the cursor; below, the rows that it was made of beside it.
fn detail(p: &mut Painter<'_>, area: Rect, texts: &Texts) {
    let Some(listed) = texts.window.current() else { return };
    let whole = texts.shown.as_ref().filter(|shown| shown.at == listed.at);
    let (made, parents) = match whole.and_then(|shown| shown.found.as_ref()) {
        Some((made, parents)) => (made, parents.as_slice()),
        None => (listed, &[][..]),
    };
    let mut y = facts(p, area, made);
    let one = &made.one;
    if let Some(check) = one.fell {
        let role = if check.may_be_overruled() { Role::Warning } else { Role::Bad };
        let why = if one.why.is_empty() { check.words() } else { &one.why };
        y = p.paragraph(Rect { height: area.height.min(y + 2), ..area }, y, &format!("{check}: {why}"), role);
    }
    let rest = Rect { y: area.y + y, height: area.height.saturating_sub(y), ..area };
    match whole {
        None => drop(p.put(rest, 0, 0, rest.width, "reading it ...", Role::Dim)),
        Some(shown) if shown.found.is_none() => {
            p.put(
                rest,
                0,
                0,
                rest.width,
                "it is not there any more: the run makes its texts anew",
                Role::Dim,
            );
        }
        Some(_) => beside(p, rest, made, parents, texts),
    }
}

/// Label, who said what of it, scores.
fn facts(p: &mut Painter<'_>, area: Rect, made: &Made) -> u16 {
    let (dot, one) = (p.look.signs.dot, &made.one);
    let (sign, word, role) = fate(p, made);
    let mut x = p.put(area, 0, 0, 14, &format!("{sign} {word} "), role);
    let mut told = vec![format!("gold {}", one.gold.as_deref().unwrap_or("-"))];
    if let Some(answer) = one.answer.as_ref().filter(|answer| Some(*answer) != one.gold.as_ref()) {
        told.push(format!("answered {}", text::one_line(answer, " ")));
    }
    if let Some(likeness) = one.likeness {
        told.push(format!("meaning {likeness:.2}"));
    }
    if let Some(nearest) = one.nearest {
        told.push(format!("nearest scored row {nearest:.2}"));
    }
    told.extend(one.stratum.as_ref().map(|stratum| format!("stratum {stratum}")));
    told.extend(Some(&one.id).filter(|id| !id.is_empty()).cloned());
    for fact in told {
        let words = format!("{dot} {fact} ");
        x += p.put(area, x, 0, area.width.saturating_sub(x), &words, Role::Dim);
    }
    1
}

/// Pieces of one side of a difference: what both have, and what only this side has. Blanks alone that both have part nothing.
fn side(pieces: &[(Change, String)], own: Change) -> Vec<Piece> {
    let mine: Vec<&(Change, String)> =
        pieces.iter().filter(|(change, _)| *change == Change::Kept || *change == own).collect();
    let is_own = |i: usize| mine.get(i).is_some_and(|(change, _)| *change == own);
    let mut joined: Vec<(Change, String)> = Vec::new();
    for (i, (change, text)) in mine.iter().enumerate() {
        let between = text.trim().is_empty() && i > 0 && is_own(i - 1) && is_own(i + 1);
        let change = if between { own } else { *change };
        match joined.last_mut() {
            Some((last, known)) if *last == change => known.push_str(text),
            _ => joined.push((change, text.clone())),
        }
    }
    let role = if own == Change::Added { Role::Added } else { Role::Removed };
    let role = |change| if change == Change::Kept { Role::Text } else { role };
    joined.into_iter().map(|(change, text)| (diff::marked(change, &text), role(change))).collect()
}

/// The share of both texts, by characters of words, that is the same.
fn common(pieces: &[(Change, String)]) -> f64 {
    let letters = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).count();
    let (mut same, mut all) = (0, 0);
    for (change, text) in pieces {
        let n = letters(text);
        if *change == Change::Kept {
            same += 2 * n;
            all += 2 * n;
        } else {
            all += n;
        }
    }
    if all == 0 { 0.0 } else { same as f64 / all as f64 }
}

fn plain(text_: &str, width: usize) -> Vec<Vec<Piece>> {
    text::wrap(text_, width, super::LINES).into_iter().map(|line| vec![(line, Role::Text)]).collect()
}

/// The parents at the left, the nearest first, the new text at the right; words that one has and the other has not are marked.
fn beside(p: &mut Painter<'_>, area: Rect, made: &Made, parents: &[Parent], texts: &Texts) {
    let half = area.width.saturating_sub(3) / 2;
    let width = usize::from(half).max(1);
    let new = text::clean(&made.one.text).into_owned();
    let differ = |parent: &Parent| diff::words(&text::clean(&parent.input), &new);
    let nearest = parents
        .iter()
        .enumerate()
        .map(|(i, parent)| (i, differ(parent)))
        .max_by(|a, b| common(&a.1).total_cmp(&common(&b.1)).then(b.0.cmp(&a.0)));
    let nearest = nearest.filter(|(_, pieces)| common(pieces) >= COMMON);
    let named = |parent: &Parent| -> Vec<Piece> {
        let gold = parent.gold.as_deref().map(|gold| format!("  {gold}")).unwrap_or_default();
        vec![(format!("row {}", text::one_line(&parent.id, " ")), Role::Title), (gold, Role::Dim)]
    };
    let mut left: Vec<Vec<Piece>> = Vec::new();
    let first = nearest.as_ref().map(|(i, _)| *i);
    let order = first.into_iter().chain((0..parents.len()).filter(|i| Some(*i) != first));
    for (i, parent) in order.filter_map(|i| Some((i, parents.get(i)?))) {
        if !left.is_empty() {
            left.push(Vec::new());
        }
        left.push(named(parent));
        match &nearest {
            Some((at, pieces)) if *at == i => left.extend(wrapped(side(pieces, Change::Removed), width)),
            _ => left.extend(plain(&parent.input, width)),
        }
    }
    let unknown = made.one.parents.len().saturating_sub(parents.len());
    if unknown > 0 {
        left.push(vec![(format!("and {unknown} more {}", noun(unknown, "row")), Role::Dim)]);
    }
    let mut right: Vec<Vec<Piece>> = vec![vec![("made".into(), Role::Title)]];
    match &nearest {
        Some((_, pieces)) => right.extend(wrapped(side(pieces, Change::Added), width)),
        None if new.trim().is_empty() => right.push(vec![("(nothing)".into(), Role::Dim)]),
        None => right.extend(plain(&new, width)),
    }
    let height = usize::from(area.height);
    let lines = left.len().max(right.len());
    let from = texts.scroll.min(lines.saturating_sub(height));
    let bar = p.look.signs.border.vertical_left;
    for y in 0..area.height {
        p.put(area, half + 1, y, 1, bar, Role::Border);
    }
    let columns = [Rect { width: half, ..area }, Rect { x: area.x + half + 3, width: half, ..area }];
    for (column, lines) in columns.into_iter().zip([left, right]) {
        for (y, line) in lines.iter().skip(from).take(height).enumerate() {
            p.pieces(column, 0, y as u16, line);
        }
    }
    if lines > from + height {
        let words = if texts.pane == Pane::Text { " more: pgdn " } else { " more: enter " };
        p.put_right(area, area.width, area.height.saturating_sub(1), 14, words, Role::Dim);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_of_a_difference_is_its_whole_text() {
        let pieces = diff::words("send my card to me", "send the card to her now");
        let bare = |own| side(&pieces, own).into_iter().map(|(text, _)| text).collect::<String>();
        assert_eq!(bare(Change::Removed), "send [-my-] card to [-me-]");
        assert_eq!(bare(Change::Added), "send {+the+} card to {+her now+}");
        assert!(common(&pieces) > COMMON);
        let other = side(&diff::words("a b c", "x y c"), Change::Added);
        assert_eq!(other.first().map(|(text, _)| text.as_str()), Some("{+x y+}"));
        assert!(common(&diff::words("nothing at all", "quite other words")) < COMMON);
    }
}
