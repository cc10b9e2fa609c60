//! What an action does to the layer on top.

use super::moved;
use crate::domain::api::{Failure, Request, Response, ToEngine};
use crate::domain::run::RunAction;
use crate::domain::strata::ByHand;
use crate::tui::app::{App, Effect, Purpose};
use crate::tui::keymap::Action;
use crate::tui::layers::{Confirmed, Layer};
use crate::tui::screens::play::why;

impl App {
    pub(super) fn act_layer(&mut self, action: Action) {
        match (action, self.layers.last()) {
            (Action::Help, Some(Layer::Help { .. })) => return drop(self.layers.pop()),
            (Action::Help | Action::NextTheme, _) => {
                self.act_global(action);
                return;
            }
            _ => {}
        }
        let height = usize::from(self.size.1.saturating_sub(6).max(1));
        let flips = self.board.flips().len();
        if let Some(Layer::Why { side, token, scroll }) = self.layers.last().cloned() {
            return self.act_why(action, side, token, scroll, height);
        }
        if matches!(self.layers.last(), Some(Layer::Judging(_))) {
            return self.act_judging(action, height);
        }
        if matches!(self.layers.last(), Some(Layer::Map(_))) {
            return self.act_map(action);
        }
        if matches!(self.layers.last(), Some(Layer::Counts(_))) {
            return self.act_counts(action, height);
        }
        if matches!(self.layers.last(), Some(Layer::Reviewing(_))) {
            return self.act_reviewing(action, height);
        }
        if matches!(self.layers.last(), Some(Layer::Mending(_))) {
            return self.act_mending(action);
        }
        if matches!(self.layers.last(), Some(Layer::Preview(_))) {
            return self.act_preview(action, height);
        }
        if matches!(self.layers.last(), Some(Layer::Problems(_))) {
            return self.act_problems(action, height);
        }
        if matches!(self.layers.last(), Some(Layer::Grown(_))) {
            return self.act_grown(action);
        }
        match action {
            Action::Complete => return self.take_completion(),
            Action::Up | Action::Down if self.completes().is_some() => {
                return self.completing.step(action);
            }
            Action::Accept if self.completing_refused() => return,
            _ => {}
        }
        let Some(layer) = self.layers.last_mut() else { return };
        match layer {
            Layer::Help { scroll, .. } | Layer::Difference { scroll, .. } => match action {
                Action::Back => drop(self.layers.pop()),
                _ => *scroll = moved(*scroll, action, height, 500),
            },
            Layer::Trace(view) => match action {
                Action::Back => drop(self.layers.pop()),
                Action::Remedies => {
                    let (row, of) = (view.row.clone(), view.of.get(view.at).cloned());
                    self.open_remedies(row, of);
                }
                Action::NextPane | Action::PreviousPane => self.turn_trace(action == Action::NextPane),
                _ => view.scroll = moved(view.scroll, action, height, 5000),
            },
            Layer::Choice => {
                if action == Action::Back {
                    self.layers.pop();
                }
            }
            Layer::Detail(view) => match action {
                Action::Back => drop(self.layers.pop()),
                _ => view.scroll = moved(view.scroll, action, height, 5000),
            },
            Layer::Board(layer) => {
                let layer = *layer;
                self.act_board_layer(layer, action, height);
            }
            Layer::Flip { scroll } => match action {
                Action::Back => drop(self.layers.pop()),
                Action::Trace => self.trace_flip(),
                Action::Remedies => self.mend_flip(),
                // The arrows walk through the flips, pages scroll within one.
                Action::Up => {
                    *scroll = 0;
                    self.board.flip = self.board.flip.saturating_sub(1);
                }
                Action::Down => {
                    *scroll = 0;
                    self.board.flip = (self.board.flip + 1).min(flips.saturating_sub(1));
                }
                _ => *scroll = moved(*scroll, action, height, 500),
            },
            Layer::Confirm { then, .. } => {
                let then = then.clone();
                self.layers.pop();
                match (then, action == Action::Yes) {
                    (Confirmed::Cancel(run), true) => self.control(run, RunAction::Cancel),
                    (Confirmed::ExcludeCopies(kind), true) => self.exclude_copies(kind),
                    (Confirmed::Decide { words, decision }, true) => self.decide(words, decision),
                    (Confirmed::AcceptGrown { run, filter, withdraw }, true) => {
                        self.accept_made(run, filter, withdraw);
                    }
                    (Confirmed::Trust { purpose, again, needs }, true) => {
                        self.outbox.push(Effect::Send(ToEngine::Trust { needs }));
                        self.ask(purpose, *again);
                    }
                    (Confirmed::Launch { purpose, again }, true) => drop(self.ask(purpose, *again)),
                    (Confirmed::Launch { .. }, false) => {}
                    (Confirmed::Trust { purpose, .. }, false) => {
                        let error = Failure::new(2, "no key was sent");
                        self.answer(0, purpose, Response::Error { error });
                    }
                    (Confirmed::Replace { query, file }, true) => self.export(query, file, true),
                    (Confirmed::Merge { a, b }, true) => {
                        let words = format!("merge {a} and {b}");
                        self.strata.merging = None;
                        self.ask(Purpose::Decide(words), Request::ByHand { by_hand: ByHand::Merge { a, b } });
                    }
                    (
                        Confirmed::Cancel(_)
                        | Confirmed::ExcludeCopies(_)
                        | Confirmed::Decide { .. }
                        | Confirmed::AcceptGrown { .. }
                        | Confirmed::Merge { .. }
                        | Confirmed::Replace { .. },
                        false,
                    ) => {}
                }
            }
            Layer::Picker(picker) => match action {
                Action::Back => drop(self.layers.pop()),
                Action::Accept => {
                    let choice = picker.chosen();
                    self.layers.pop();
                    if let Some(choice) = choice {
                        self.chosen(choice);
                    }
                }
                _ => picker.go(moved(picker.selected, action, height, usize::MAX)),
            },
            Layer::Text { input, purpose, .. } => match action {
                Action::Accept => {
                    let (text, purpose) = (input.text().trim().to_owned(), purpose.clone());
                    self.layers.pop();
                    self.typed(purpose, text);
                }
                Action::Back => {
                    let purpose = purpose.clone();
                    self.layers.pop();
                    self.gave_up(&purpose);
                }
                _ => {}
            },
            Layer::Compose(compose) => match action {
                Action::Accept => {
                    let (purpose, text) = (compose.purpose.clone(), compose.area.text().to_owned());
                    self.layers.pop();
                    self.composed(purpose, text);
                }
                Action::Newline => compose.area.insert("\n"),
                Action::Back => drop(self.layers.pop()),
                _ => {}
            },
            // Above.
            Layer::Why { .. }
            | Layer::Judging(_)
            | Layer::Mending(_)
            | Layer::Reviewing(_)
            | Layer::Problems(_)
            | Layer::Grown(_)
            | Layer::Counts(_)
            | Layer::Map(_)
            | Layer::Preview(_) => {}
            Layer::Form(form) => match action {
                Action::Back => drop(self.layers.pop()),
                Action::FieldNext => form.step(1),
                Action::FieldPrevious => form.step(-1),
                Action::Accept => {
                    if let Some(values) = form.submit() {
                        let purpose = form.purpose.clone();
                        self.layers.pop();
                        self.submitted(purpose, values);
                    }
                }
                _ => {}
            },
        }
    }

    fn act_why(&mut self, action: Action, side: usize, token: Option<usize>, scroll: usize, page: usize) {
        let answer = self.play.sides.get(side).and_then(|side| side.answer.clone());
        let (Some(answer), false) = (answer, action == Action::Back) else {
            self.layers.pop();
            return;
        };
        let last = answer.tokens().count().saturating_sub(1);
        let (to, wanted) = match action {
            Action::NextPane => (token.map(|at| (at + 1).min(last)), None),
            Action::PreviousPane => (token.map(|at| at.saturating_sub(1)), None),
            _ => (token, Some(moved(scroll, action, page, usize::MAX))),
        };
        let scroll = why::scrolled(self, &answer, to, wanted, scroll);
        if let Some(layer) = self.layers.last_mut() {
            *layer = Layer::Why { side, token: to, scroll };
        }
    }
}
