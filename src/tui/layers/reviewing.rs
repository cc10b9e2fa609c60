//! Rows for a person to review, one after the other: is this their gold? What others said of them is not shown.

use ratatui::layout::Rect;

use super::form::{Field, Form, FormPurpose, Want, field};
use super::view::boxed;
use super::{Layer, TextPurpose};
use crate::domain::api::{Request, Response};
use crate::domain::review::{Opinion, ReviewAsk, ReviewItem, ReviewQueue, RowAgreement};
use crate::domain::words::counted;
use crate::tui::app::{App, Mood, Purpose, moved};
use crate::tui::keymap::Action;
use crate::tui::theme::Role;
use crate::tui::widgets::input::TextInput;
use crate::tui::widgets::{Painter, Piece, text};

/// Lines of a text.
const LINES: usize = 600;
/// What the form calls rows that somebody else has decided on.
pub const SECOND: &str = "second opinions";
/// Strata whose progress is told when all is done, and rows to settle.
const TOLD: usize = 8;

/// A queue under review.
#[derive(Clone, Debug, Default)]
pub struct Reviewing {
    queue: ReviewQueue,
    /// Place in the queue; its length when all was shown.
    at: usize,
    scroll: usize,
    /// Places that were decided on, in that order.
    said: Vec<usize>,
    /// Opinions that the engine has not confirmed yet.
    open: usize,
    /// When the queue is done.
    agreement: Option<RowAgreement>,
}

impl Reviewing {
    pub fn new(queue: ReviewQueue) -> Self {
        Self { queue, ..Self::default() }
    }

    fn is_done(&self) -> bool {
        self.at >= self.queue.items.len()
    }

    fn go_to(&mut self, at: usize) {
        (self.at, self.scroll) = (at, 0);
    }

    fn decided(&self) -> usize {
        self.queue.done + self.said.len()
    }

    fn item(&self) -> Option<&ReviewItem> {
        self.queue.items.get(self.at)
    }

    /// More rows than were sent at once.
    fn has_more(&self) -> bool {
        !self.said.is_empty() && self.queue.done + self.queue.items.len() < self.queue.total
    }

    /// How far the stratum of a row is, with what was said here.
    fn progress(&self, stratum: &str) -> (usize, usize) {
        let known = self.queue.strata.iter().find(|s| s.stratum == stratum);
        let (done, total) = known.map_or((0, 0), |s| (s.done, s.total));
        let items = self.said.iter().filter_map(|at| self.queue.items.get(*at));
        (done + items.filter(|item| item.stratum == stratum).count(), total)
    }
}

impl App {
    /// Which rows, as whom.
    pub(crate) fn review_form(&mut self) {
        let ask = &self.review_ask;
        let filled = |field: Field, value: String| Field { input: TextInput::new(value), ..field };
        let filter = if ask.filter.is_empty() { self.strata.query.text.clone() } else { ask.filter.clone() };
        let fields = vec![
            filled(
                field("per", "of each stratum", "rows of every stratum: 5, 20", Want::Count),
                ask.per.to_string(),
            ),
            Field {
                stands: "all rows".into(),
                ..filled(field("filter", "only", "a filter: part:eval base:wrong", Want::Text), filter)
            },
            Field {
                choices: vec![SECOND.into()],
                stands: "by lot, the same for everybody".into(),
                ..filled(
                    field(
                        "rows",
                        "rows",
                        "second opinions: rows that somebody else has decided on",
                        Want::Choice,
                    ),
                    if ask.second { SECOND.to_owned() } else { String::new() },
                )
            },
            Field {
                stands: "your user name".into(),
                ..filled(
                    field("annotator", "who reviews", "a name; empty: your user name", Want::Text),
                    ask.annotator.clone().unwrap_or_default(),
                )
            },
        ];
        let title = "rows for you to review: is this their gold?";
        self.layers.push(Layer::Form(Form {
            title,
            purpose: FormPurpose::Review,
            fields,
            focus: 0,
            error: None,
        }));
    }

    pub(crate) fn review_form_sent(&mut self, values: &[(String, String)]) {
        let value = |name: &str| values.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let before = ReviewAsk::default();
        self.review_ask = ReviewAsk {
            annotator: value("annotator"),
            per: value("per").and_then(|per| per.parse().ok()).unwrap_or(before.per),
            filter: value("filter").unwrap_or_default(),
            second: value("rows").is_some_and(|rows| rows == SECOND),
            ..before
        };
        self.review_queue();
    }

    fn review_queue(&mut self) {
        let review = self.review_ask.clone();
        self.ask(Purpose::ReviewQueue, Request::ReviewQueue { review });
    }

    fn reviewing(&mut self) -> Option<&mut Reviewing> {
        self.layers.iter_mut().rev().find_map(|layer| match layer {
            Layer::Reviewing(reviewing) => Some(reviewing),
            _ => None,
        })
    }

    /// An opinion on the row that is shown; none accepts what stands there.
    fn review_say(&mut self, opinion: Option<Opinion>) {
        let Some(reviewing) = self.reviewing() else { return };
        let Some(row) = reviewing.item().map(|item| item.row.clone()) else { return };
        let annotator = Some(reviewing.queue.annotator.clone());
        let request = Request::ReviewSay { annotator, row: row.clone(), opinion, settle: false };
        let asked = self.ask(Purpose::ReviewSay(row), request).is_some();
        if let Some(reviewing) = self.reviewing().filter(|_| asked) {
            reviewing.said.push(reviewing.at);
            reviewing.open += 1;
            reviewing.go_to(reviewing.at + 1);
        }
    }

    /// A gold was typed for the row under review.
    pub(crate) fn review_gold(&mut self, row: &str, gold: Option<String>) {
        if self.reviewing().and_then(|r| r.item()).is_some_and(|item| item.row == row) {
            self.review_say(Some(Opinion::Gold(gold)));
        }
    }

    fn under_review(&mut self, row: &str) -> Option<&mut ReviewItem> {
        self.reviewing()?.queue.items.iter_mut().find(|item| item.row == row)
    }

    /// A note was written beside.
    pub(crate) fn review_noted(&mut self, row: &str, note: Option<String>) {
        if let Some(item) = self.under_review(row) {
            item.note = note;
        }
    }

    /// A mark was given beside, or taken away.
    pub(crate) fn review_marked(&mut self, row: &str, mark: &str, on: bool) {
        if let Some(item) = self.under_review(row) {
            item.marks.retain(|known| known != mark);
            if on {
                item.marks.push(mark.to_owned());
            }
        }
    }

    /// Whether the row is under review and has the mark there.
    pub(crate) fn review_has_mark(&mut self, row: &str, mark: &str) -> Option<bool> {
        self.under_review(row).map(|item| item.marks.iter().any(|known| known == mark))
    }

    pub(crate) fn act_reviewing(&mut self, action: Action, page: usize) {
        let Some(reviewing) = self.reviewing() else { return };
        let item = reviewing.item().cloned();
        match (action, item) {
            (Action::Back, _) => drop(self.layers.pop()),
            (Action::AcceptGold, Some(_)) => self.review_say(None),
            (Action::Exclude, Some(_)) => self.review_say(Some(Opinion::Exclude)),
            (Action::Gold, Some(item)) => {
                let title = format!("golden answer of row {}", item.row);
                self.type_line(
                    title,
                    item.gold.unwrap_or_default(),
                    TextPurpose::ReviewGold { row: item.row },
                );
            }
            (Action::Note, Some(item)) => {
                let title = format!("note on row {}", item.row);
                self.type_line(title, item.note.unwrap_or_default(), TextPurpose::Note { row: item.row });
            }
            (Action::MarkNamed, Some(item)) => {
                self.type_line(format!("mark row {} as", item.row), "", TextPurpose::Mark { row: item.row });
            }
            (Action::SkipItem, Some(_)) => {
                reviewing.go_to(reviewing.at + 1);
                self.reviewed_on();
            }
            // The last decision must be ours.
            (Action::Undo, _) if reviewing.open == 0 => match reviewing.said.pop() {
                Some(at) => {
                    reviewing.go_to(at);
                    reviewing.agreement = None;
                    self.ask(Purpose::Undo, Request::Undo);
                }
                None => self.notice(Mood::Plain, "nothing was decided here yet"),
            },
            (action, _) => reviewing.scroll = moved(reviewing.scroll, action, page, LINES * 2),
        }
    }

    /// What comes when all that was sent is decided: more of the queue, or how far annotators agree.
    fn reviewed_on(&mut self) {
        let Some(reviewing) = self.reviewing() else { return };
        if !reviewing.is_done() || reviewing.open > 0 || reviewing.agreement.is_some() {
            return;
        }
        if reviewing.has_more() {
            return self.review_queue();
        }
        self.ask(Purpose::ReviewAgreement, Request::ReviewAgreement);
    }

    /// The engine's answer to something that was asked here.
    pub(crate) fn reviewing_answered(&mut self, purpose: &Purpose, response: Response) {
        match (purpose, response) {
            (Purpose::ReviewQueue, Response::ReviewQueue { queue }) => {
                match self.reviewing() {
                    Some(reviewing) => *reviewing = Reviewing::new(queue),
                    None if queue.total == 0 => {
                        let text = if self.review_ask.second {
                            "nobody else has decided on a row yet"
                        } else {
                            "no row fits what is to be reviewed"
                        };
                        return self.notice(Mood::Plain, text);
                    }
                    None => self.layers.push(Layer::Reviewing(Reviewing::new(queue))),
                }
                self.reviewed_on();
            }
            (Purpose::ReviewSay(_), Response::Done { .. }) => {
                if let Some(reviewing) = self.reviewing() {
                    reviewing.open = reviewing.open.saturating_sub(1);
                }
                self.reviewed_on();
            }
            (Purpose::ReviewSay(row), _) => {
                // It was not written down: it is asked about again.
                if let Some(reviewing) = self.reviewing() {
                    reviewing.open = reviewing.open.saturating_sub(1);
                    if let Some(at) = reviewing.queue.items.iter().position(|item| item.row == *row) {
                        reviewing.said.retain(|said| *said != at);
                        reviewing.go_to(at);
                    }
                }
            }
            (Purpose::ReviewAgreement, Response::ReviewAgreement { agreement }) => {
                if let Some(reviewing) = self.reviewing().filter(|reviewing| reviewing.is_done()) {
                    reviewing.agreement = Some(*agreement);
                }
            }
            _ => {}
        }
    }
}

/// ```text
/// reviewing . ann . 3 of 40
///   stratum and how far it is, input, gold, marks, note
/// ```
pub fn draw(p: &mut Painter<'_>, body: Rect, reviewing: &Reviewing) {
    let queue = &reviewing.queue;
    let dot = p.look.signs.dot;
    let (done, total) = (reviewing.decided(), queue.total);
    let title = format!("review {dot} {} {dot} {done} of {total} decided", queue.annotator);
    let inner = boxed(p, body, 120, body.height, &title);
    let width = usize::from(inner.width);
    let Some(item) = reviewing.item() else {
        return finished(p, inner, reviewing);
    };
    let mut lines: Vec<Vec<Piece>> = Vec::new();
    let mut say = |heading: &str, text_: &str, role: Role| {
        lines.push(vec![(heading.to_owned(), Role::Title)]);
        lines.extend(text::wrap(text_, width, LINES).into_iter().map(|line| vec![(line, role)]));
        lines.push(Vec::new());
    };
    let (of_stratum, all) = reviewing.progress(&item.stratum);
    let place = format!("{}: {of_stratum} of {all}", text::one_line(&item.stratum, " "));
    say(&format!("row {}", text::one_line(&item.row, " ")), &place, Role::Dim);
    say("input", &item.input, Role::Text);
    say("gold", item.gold.as_deref().unwrap_or("(none)"), Role::Good);
    if !item.marks.is_empty() {
        say("marks", &item.marks.join(", "), Role::Warning);
    }
    if let Some(note) = &item.note {
        say("note", note, Role::Warning);
    }
    let height = usize::from(inner.height);
    let from = reviewing.scroll.min(lines.len().saturating_sub(height));
    for (y, line) in lines.iter().skip(from).take(height).enumerate() {
        p.pieces(inner, 0, y as u16, line);
    }
    if lines.len() > from + height {
        p.put_right(inner, inner.width, inner.height.saturating_sub(1), 12, " more: pgdn ", Role::Dim);
    }
}

/// After the last row: what came of it.
fn finished(p: &mut Painter<'_>, inner: Rect, reviewing: &Reviewing) {
    let left = reviewing.queue.total.saturating_sub(reviewing.decided());
    let head = match left {
        0 => "All of them are decided.".to_owned(),
        n => format!("{} skipped; they come again when the queue is opened.", counted(n, "row")),
    };
    let mut y = p.paragraph(inner, 0, &head, Role::Text) + 1;
    for s in reviewing.queue.strata.iter().take(TOLD) {
        let (done, total) = reviewing.progress(&s.stratum);
        let words = format!("{}: {done} of {total}", text::one_line(&s.stratum, " "));
        p.put(inner, 2, y, inner.width.saturating_sub(2), &words, Role::Dim);
        y += 1;
    }
    let Some(found) = &reviewing.agreement else { return };
    y += 1;
    if found.rows == 0 {
        let words =
            "No row has a second opinion yet: r, with `second opinions` under another name, asks for them.";
        p.paragraph(inner, y, words, Role::Dim);
        return;
    }
    let words = format!("Annotators say the same of {} of {}.", found.same, counted(found.rows, "row"));
    y = p.paragraph(inner, y, &words, Role::Text);
    if let Some(alpha) = found.alpha {
        let [low, high] = alpha.ci95;
        let words = format!("Krippendorff's alpha {:.2} (95% {low:.2} to {high:.2})", alpha.value);
        y = p.paragraph(inner, y, &words, Role::Text);
    }
    for pair in found.pairs.iter().take(3) {
        let Some(kappa) = pair.kappa else { continue };
        let [low, high] = kappa.ci95;
        let (a, b) = (text::one_line(&pair.a, " "), text::one_line(&pair.b, " "));
        let words = format!(
            "{a} and {b} on {}: Cohen's kappa {:.2} (95% {low:.2} to {high:.2})",
            counted(pair.rows, "row"),
            kappa.value
        );
        y = p.paragraph(inner, y, &words, Role::Text);
    }
    if !found.apart.is_empty() {
        y = p.paragraph(inner, y + 1, "To settle (`tunebench data review settle ROW`):", Role::Warning);
    }
    for apart in found.apart.iter().take(TOLD) {
        let said: Vec<String> = apart.said.iter().map(|(who, gold)| format!("{who}: {gold}")).collect();
        let words = format!("{}  {}", apart.row, said.join("; "));
        p.put(inner, 2, y, inner.width.saturating_sub(2), &text::one_line(&words, " "), Role::Text);
        y += 1;
    }
}
