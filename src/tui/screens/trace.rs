//! One row through the stages of a candidate: what each was asked, what it said, what a tool answered.

use ratatui::layout::Rect;

use crate::domain::api::Request;
use crate::domain::trace::{RowTrace, StageTrace};
use crate::tui::app::{App, Mood, Purpose};
use crate::tui::layers::Layer;
use crate::tui::layers::view::boxed;
use crate::tui::theme::Role;
use crate::tui::widgets::{Painter, number, text};

/// Lines of one text at most; the rest is for `runs trace`.
const LINES_MAX: usize = 400;

/// The layer's state: which row, whose answers can be looked at, and what came of the one that is looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceView {
    pub row: String,
    /// Names of candidates.
    pub of: Vec<String>,
    pub at: usize,
    /// None while it is being read.
    pub found: Option<Result<(String, RowTrace), String>>,
    pub scroll: usize,
}

impl App {
    /// Opens the trace of a row, at the last of these candidates.
    pub(crate) fn open_trace(&mut self, row: String, of: Vec<String>) {
        if of.is_empty() {
            self.notice(Mood::Plain, "no candidate has answered this row yet");
            return;
        }
        let at = of.len() - 1;
        self.layers.push(Layer::Trace(TraceView { row, of, at, found: None, scroll: 0 }));
        self.ask_trace();
    }

    /// Another candidate's trace of the same row.
    pub(crate) fn turn_trace(&mut self, forward: bool) {
        if let Some(Layer::Trace(view)) = self.layers.last_mut()
            && view.of.len() > 1
        {
            let by = if forward { 1 } else { view.of.len() - 1 };
            view.at = (view.at + by) % view.of.len();
            (view.found, view.scroll) = (None, 0);
            self.ask_trace();
        }
    }

    fn ask_trace(&mut self) {
        let Some(Layer::Trace(view)) = self.layers.last() else { return };
        let Some(of) = view.of.get(view.at).cloned() else { return };
        let row = view.row.clone();
        self.ask(Purpose::Trace { of: of.clone(), row: row.clone() }, Request::Trace { of, row });
    }

    /// What was asked for is here, unless another one is looked at by now.
    pub(crate) fn trace_arrived(&mut self, of: &str, row: &str, found: Result<(String, RowTrace), String>) {
        for layer in &mut self.layers {
            if let Layer::Trace(view) = layer
                && view.row == row
                && view.of.get(view.at).is_some_and(|name| name == of)
            {
                view.found = Some(found);
                return;
            }
        }
    }
}

pub fn draw(p: &mut Painter<'_>, body: Rect, view: &TraceView) {
    let of = view.of.get(view.at).map_or("", String::as_str);
    let others = match view.of.len() {
        0 | 1 => String::new(),
        n => format!(" ({} of {n}; left/right: others)", view.at + 1),
    };
    let title = format!("trace {} row {} {} {of}{others}", p.look.signs.dot, view.row, p.look.signs.dot);
    let inner = boxed(p, body, 120, body.height, &title);
    let mut lines: Vec<(String, Role)> = Vec::new();
    let width = usize::from(inner.width);
    let mut say = |indent: usize, text: &str, role: Role| {
        for line in text::wrap(text, width.saturating_sub(indent).max(1), LINES_MAX) {
            lines.push((format!("{:indent$}{line}", ""), role));
        }
    };
    match &view.found {
        None => say(0, "reading the trace ...", Role::Dim),
        Some(Err(why)) => say(0, why, Role::Bad),
        Some(Ok((run, trace))) => {
            say(0, &format!("from {run}"), Role::Dim);
            for stage in &trace.stages {
                say(0, "", Role::Text);
                stage_lines(stage, &mut say);
            }
        }
    }
    let height = usize::from(inner.height);
    let from = view.scroll.min(lines.len().saturating_sub(height));
    for (y, (line, role)) in lines.iter().skip(from).take(height).enumerate() {
        p.put(inner, 0, y as u16, inner.width, line, *role);
    }
    if lines.len() > from + height {
        p.put_right(inner, inner.width, inner.height.saturating_sub(1), 12, " more: pgdn ", Role::Key);
    }
}

fn stage_lines(stage: &StageTrace, say: &mut dyn FnMut(usize, &str, Role)) {
    if stage.skipped {
        say(0, &format!("{}: skipped, its `when` does not hold", stage.stage), Role::Dim);
        return;
    }
    say(0, &stage.stage, Role::Title);
    if !stage.prompt.is_empty() {
        say(2, &stage.prompt, Role::Text);
    }
    for (i, attempt) in stage.attempts.iter().enumerate() {
        if i > 0 && i + 1 == stage.attempts.len() && stage.left_out > 0 {
            say(2, &format!("({} more tries are left out)", stage.left_out), Role::Dim);
        }
        let cached = if attempt.cached { ", cached" } else { "" };
        let again = if i > 0 { "asked again: " } else { "" };
        say(
            2,
            &format!(
                "{again}{} in, {} out, {} ms{cached}",
                attempt.tokens_in,
                attempt.tokens_out,
                number::short(attempt.ms)
            ),
            Role::Dim,
        );
        say(2, &attempt.answer, if attempt.problem.is_none() { Role::Good } else { Role::Warning });
        if let Some(problem) = &attempt.problem {
            say(2, &format!("not readable: {problem}"), Role::Bad);
        }
        if !attempt.labels.is_empty() {
            let labels: Vec<String> =
                attempt.labels.iter().take(5).map(|(l, p)| format!("{l} {}", number::share(*p, 3))).collect();
            say(2, &labels.join(", "), Role::Dim);
        }
    }
    if let Some(result) = &stage.result {
        say(2, &format!("the tool answers {result}"), Role::Text);
    }
    if let Some(error) = &stage.error {
        say(2, error, Role::Bad);
    }
}
