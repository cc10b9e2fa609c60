//! Answers for a person to judge, one after the other: whose they are, and what the judge said of them, is not shown.

use ratatui::layout::Rect;

use super::Layer;
use super::form::Form;
use super::view::boxed;
use crate::domain::api::{Request, Response};
use crate::domain::judge::{Agreement, Queue};
use crate::domain::words::counted;
use crate::tui::app::{App, Link, Mood, Purpose, moved};
use crate::tui::keymap::Action;
use crate::tui::theme::Role;
use crate::tui::widgets::{Painter, Piece, text};

/// Rows of every stratum in a queue.
const PER: usize = 5;
/// What the form calls them.
pub const DISPUTED: &str = "disputed";
/// Lines of a text.
const LINES: usize = 600;

/// Which answers are to be judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JudgeAsk {
    /// None: the only one, or that of `[eval] judge`.
    pub judge: Option<String>,
    /// None: the user of the engine.
    pub annotator: Option<String>,
    /// Rows of every stratum.
    pub per: usize,
    /// Only rows on which candidates, the judge or people part, or the judge is torn.
    pub disagreement: bool,
}

impl Default for JudgeAsk {
    fn default() -> Self {
        Self { judge: None, annotator: None, per: PER, disagreement: false }
    }
}

/// A queue under judging.
#[derive(Clone, Debug, Default)]
pub struct Judging {
    queue: Queue,
    /// Place in the queue; its length when all was shown.
    at: usize,
    gold: bool,
    scroll: usize,
    /// Places that were judged, in that order.
    said: Vec<usize>,
    /// Verdicts that the engine has not confirmed yet.
    open: usize,
    /// When the queue is done.
    agreement: Option<Agreement>,
}

impl Judging {
    pub fn new(queue: Queue) -> Self {
        Self { queue, ..Self::default() }
    }

    fn is_done(&self) -> bool {
        self.at >= self.queue.items.len()
    }

    fn go_to(&mut self, at: usize) {
        (self.at, self.gold, self.scroll) = (at, false, 0);
    }

    /// Judged by this annotator, before and now.
    fn judged(&self) -> usize {
        self.queue.done + self.said.len()
    }

    /// More answers than were sent at once.
    fn has_more(&self) -> bool {
        !self.said.is_empty() && self.queue.done + self.queue.items.len() < self.queue.total
    }
}

impl App {
    /// Asks for the answers that are to be judged, as was chosen last; a choice among several judges comes first.
    pub(crate) fn judge_queue(&mut self) {
        if self.judge_ask.is_none() && self.judges().len() > 1 {
            return self.judge_form();
        }
        let JudgeAsk { judge, annotator, per, disagreement } = self.judge_ask.clone().unwrap_or_default();
        self.ask(Purpose::JudgeQueue, Request::JudgeQueue { judge, annotator, per, disagreement });
    }

    fn judges(&self) -> &[String] {
        match &self.link {
            Link::Up { status } => &status.judges,
            _ => &[],
        }
    }

    /// Which judge, whose verdicts, how many rows, and which.
    pub(crate) fn judge_form(&mut self) {
        let form = Form::judging(self.judges().to_vec(), &self.judge_ask.clone().unwrap_or_default());
        self.layers.push(Layer::Form(form));
    }

    pub(crate) fn judge_form_sent(&mut self, values: &[(String, String)]) {
        let value = |name: &str| values.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        self.judge_ask = Some(JudgeAsk {
            judge: value("judge"),
            annotator: value("annotator"),
            per: value("per").and_then(|per| per.parse().ok()).unwrap_or(PER),
            disagreement: value("rows").is_some_and(|rows| rows == DISPUTED),
        });
        self.judge_queue();
    }

    fn judging(&mut self) -> Option<&mut Judging> {
        self.layers.iter_mut().rev().find_map(|layer| match layer {
            Layer::Judging(judging) => Some(judging),
            _ => None,
        })
    }

    pub(crate) fn act_judging(&mut self, action: Action, page: usize) {
        let Some(judging) = self.judging() else { return };
        match action {
            Action::Back => drop(self.layers.pop()),
            Action::Verdict(number) => {
                let word = judging.queue.verdicts.get(usize::from(number).saturating_sub(1)).cloned();
                let item = judging.queue.items.get(judging.at).map(|item| item.item.clone());
                if let (Some(verdict), Some(item)) = (word, item) {
                    let (judge, annotator) = (judging.queue.judge.clone(), judging.queue.annotator.clone());
                    let request = Request::JudgeSay {
                        judge: Some(judge),
                        annotator: Some(annotator),
                        item: item.clone(),
                        verdict,
                    };
                    let asked = self.ask(Purpose::JudgeSay(item), request).is_some();
                    if let Some(judging) = self.judging().filter(|_| asked) {
                        judging.said.push(judging.at);
                        judging.open += 1;
                        judging.go_to(judging.at + 1);
                    }
                }
            }
            Action::SkipItem if !judging.is_done() => {
                judging.go_to(judging.at + 1);
                self.judged_on();
            }
            Action::ShowGold => judging.gold = !judging.gold,
            // The last decision must be ours.
            Action::Undo if judging.open == 0 => match judging.said.pop() {
                Some(at) => {
                    judging.go_to(at);
                    judging.agreement = None;
                    self.ask(Purpose::Undo, Request::Undo);
                }
                None => self.notice(Mood::Plain, "nothing was judged here yet"),
            },
            _ => judging.scroll = moved(judging.scroll, action, page, LINES * 4),
        }
    }

    /// What comes when all that was sent is judged: more of the queue, or how far judge and people agree.
    fn judged_on(&mut self) {
        let Some(judging) = self.judging() else { return };
        if !judging.is_done() || judging.open > 0 || judging.agreement.is_some() {
            return;
        }
        if judging.has_more() {
            return self.judge_queue();
        }
        let judge = Some(judging.queue.judge.clone());
        self.ask(Purpose::Agreement, Request::JudgeAgreement { judge });
    }

    /// The engine's answer to something that was asked here.
    pub(crate) fn judging_answered(&mut self, purpose: &Purpose, response: Response) {
        match (purpose, response) {
            (Purpose::JudgeQueue, Response::Queue { queue }) => {
                let (none, total) = (queue.items.is_empty(), queue.total);
                match self.judging() {
                    Some(judging) => *judging = Judging::new(queue),
                    None if none && total == 0 => {
                        let disputed = self.judge_ask.as_ref().is_some_and(|ask| ask.disagreement);
                        let text = if disputed {
                            "no row is disputed: candidates, judge and people say the same; J chooses other rows"
                        } else {
                            "no answer on the board is to be judged yet; e evaluates a candidate"
                        };
                        return self.notice(Mood::Plain, text);
                    }
                    None => self.layers.push(Layer::Judging(Judging::new(queue))),
                }
                self.judged_on();
            }
            (Purpose::JudgeSay(_), Response::Done { .. }) => {
                if let Some(judging) = self.judging() {
                    judging.open = judging.open.saturating_sub(1);
                }
                self.judged_on();
            }
            (Purpose::JudgeSay(item), _) => {
                // It was not written down: it is asked about again.
                if let Some(judging) = self.judging() {
                    judging.open = judging.open.saturating_sub(1);
                    if let Some(at) = judging.queue.items.iter().position(|known| known.item == *item) {
                        judging.said.retain(|said| *said != at);
                        judging.go_to(at);
                    }
                }
            }
            (Purpose::Agreement, Response::Agreement { agreement }) => {
                if let Some(judging) = self.judging().filter(|judging| judging.is_done()) {
                    judging.agreement = Some(agreement);
                }
            }
            _ => {}
        }
    }
}

/// ```text
/// judging helpful . ann . 3 of 12
///   input, answer, gold on demand
/// 1 bad  2 fair  3 good
/// ```
pub fn draw(p: &mut Painter<'_>, body: Rect, judging: &Judging) {
    let queue = &judging.queue;
    let dot = p.look.signs.dot;
    let (judged, total) = (judging.judged(), queue.total);
    let title = format!("judging {} {dot} {} {dot} {judged} of {total} judged", queue.judge, queue.annotator);
    let inner = boxed(p, body, 120, body.height, &title);
    let width = usize::from(inner.width);
    let Some(item) = queue.items.get(judging.at) else {
        return done(p, inner, judging);
    };
    let mut lines: Vec<Vec<Piece>> = Vec::new();
    let mut say = |heading: &str, text_: &str, role: Role| {
        lines.push(vec![(heading.to_owned(), Role::Title)]);
        lines.extend(text::wrap(text_, width, LINES).into_iter().map(|line| vec![(line, role)]));
        lines.push(Vec::new());
    };
    say("input", &item.input, Role::Text);
    say("answer", if item.output.trim().is_empty() { "(empty)" } else { &item.output }, Role::Text);
    if judging.gold {
        say("gold", item.gold.as_deref().unwrap_or("none"), Role::Good);
    }
    // The verdicts keep the last line.
    let height = usize::from(inner.height.saturating_sub(2));
    let from = judging.scroll.min(lines.len().saturating_sub(height));
    for (y, line) in lines.iter().skip(from).take(height).enumerate() {
        p.pieces(inner, 0, y as u16, line);
    }
    let last = inner.height.saturating_sub(1);
    if lines.len() > from + height {
        p.put_right(inner, inner.width, last.saturating_sub(1), 12, " more: pgdn ", Role::Dim);
    }
    let mut keys: Vec<Piece> = Vec::new();
    for (i, word) in queue.verdicts.iter().enumerate() {
        keys.push(((i + 1).to_string(), Role::Key));
        keys.push((format!(" {}   ", text::one_line(word, " ")), Role::Text));
    }
    p.pieces(inner, 0, last, &keys);
}

/// After the last answer: what came of it.
fn done(p: &mut Painter<'_>, inner: Rect, judging: &Judging) {
    let left = judging.queue.total.saturating_sub(judging.judged());
    let head = match left {
        0 => "All of them are judged.".to_owned(),
        n => {
            format!("{} skipped; they are asked about again when the queue is opened.", counted(n, "answer"))
        }
    };
    let mut y = p.paragraph(inner, 0, &head, Role::Text) + 1;
    let Some(agreement) = &judging.agreement else { return };
    let words = format!(
        "The judge {} and people say the same of {} of {}.",
        text::one_line(&agreement.judge, " "),
        agreement.same,
        counted(agreement.n, "answer")
    );
    y = p.paragraph(inner, y, &words, Role::Text);
    if let Some(kappa) = agreement.weighted.or(agreement.kappa) {
        let [low, high] = kappa.ci95;
        let words = format!("Cohen's kappa {:.2} (95% {low:.2} to {high:.2})", kappa.value);
        y = p.paragraph(inner, y, &words, Role::Text);
    }
    match &agreement.distrust {
        None => {
            let sign = p.look.signs.right;
            p.paragraph(inner, y + 1, &format!("{sign} It is to be trusted."), Role::Good);
        }
        Some(why) => {
            let sign = p.look.signs.warning;
            let words = format!("{sign} It is not to be trusted yet: {}", text::one_line(why, " "));
            p.paragraph(inner, y + 1, &words, Role::Warning);
        }
    }
}
