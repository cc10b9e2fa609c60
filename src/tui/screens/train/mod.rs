//! Screen 4: a training run's curve, figures, fixed rows, warnings and log.

pub mod steer;
pub mod sweep;
pub mod view;

use crate::domain::api::Request;
use crate::domain::run::{RunKind, RunRecord};
use crate::tui::app::{App, Mood, Purpose, Screen, moved};
use crate::tui::keymap::Action;
use crate::tui::layers::Layer;
use crate::tui::layers::picker::{Choice, Picker};
use crate::tui::series::RunSeries;
use crate::tui::widgets::chart::nice_above;

/// What the lower pane shows where there is room for one only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pane {
    #[default]
    Samples,
    Figures,
    Log,
    Sweep,
}

#[derive(Debug, Default)]
pub struct TrainState {
    /// The run that somebody chose; none: the newest.
    pub shown: Option<String>,
    /// Runs drawn too, at most four.
    pub overlays: Vec<String>,
    /// Not with the curves of its sweep either.
    pub alone: bool,
    pub smooth: bool,
    pub log_scale: bool,
    /// Steps from, to; none: all.
    pub zoom: Option<(f64, f64)>,
    /// The step under the cursor; none: the last.
    pub cursor: Option<u64>,
    pub pane: Pane,
    pub scroll: usize,
}

/// Weight of the moving average.
pub const SMOOTHING: f64 = 0.9;

impl TrainState {
    /// Overlaid runs have a sign each.
    const MAX_OVERLAYS: usize = 4;

    pub fn toggle_overlay(&mut self, run: String) {
        if let Some(at) = self.overlays.iter().position(|r| *r == run) {
            self.overlays.remove(at);
        } else {
            if self.overlays.len() == Self::MAX_OVERLAYS {
                self.overlays.remove(0);
            }
            self.overlays.push(run);
        }
    }

    /// First the cursor goes, then the zoom, then what lies over the curve.
    pub fn back(&mut self) {
        if self.cursor.take().is_none() && self.zoom.take().is_none() {
            self.alone = self.overlays.is_empty();
            self.overlays.clear();
        }
    }
}

/// The steps that the chart shows: the zoom, or all, up to a round number so that the axis seldom moves.
pub fn range(state: &TrainState, series: &RunSeries, others: &[&RunSeries]) -> (f64, f64) {
    if let Some(zoom) = state.zoom {
        return zoom;
    }
    let last = |s: &RunSeries| s.steps.last().map_or(0, |p| p.step).max(s.evals.last().map_or(0, |e| e.step));
    let newest = others.iter().map(|s| last(s)).chain([last(series)]).max().unwrap_or(0);
    let total = others.iter().map(|s| s.total).chain([series.total]).max().unwrap_or(0);
    let round = nice_above(newest.max(10) as f64);
    let end = if total > 0 && total >= newest && (total as f64) < round { total as f64 } else { round };
    (0.0, end.max(1.0))
}

impl App {
    /// Training runs and range tests, newest first.
    pub fn training_runs(&self) -> impl Iterator<Item = &RunRecord> {
        self.runs().iter().filter(|r| matches!(r.kind, RunKind::Train | RunKind::LrRange))
    }

    /// The run that the screen shows: the chosen one, else one under way, else the newest.
    pub fn shown_run(&self) -> Option<String> {
        let chosen = self.train.shown.clone().filter(|id| self.runs.is_none() || self.run(id).is_some());
        let under_way = || self.training_runs().find(|r| !r.state.is_final());
        chosen.or_else(|| under_way().or_else(|| self.training_runs().next()).map(|r| r.run.clone()))
    }

    pub fn show_training(&mut self, run: String) {
        self.screen = Screen::Train;
        if self.train.shown.as_ref() != Some(&run) {
            self.train.overlays.retain(|r| *r != run);
            (self.train.cursor, self.train.zoom, self.train.scroll) = (None, None, 0);
            self.train.alone = false;
            self.train.shown = Some(run);
        }
    }

    pub(crate) fn act_train(&mut self, action: Action) {
        let shown = self.shown_run();
        if self.act_steer(shown.as_ref(), action) {
            return;
        }
        match action {
            Action::Smooth => self.train.smooth = !self.train.smooth,
            Action::LogScale => self.train.log_scale = !self.train.log_scale,
            Action::NextPane | Action::PreviousPane => {
                let mut panes = vec![Pane::Samples, Pane::Figures, Pane::Log];
                if !self.sweep().is_empty() {
                    panes.push(Pane::Sweep);
                }
                let at = panes.iter().position(|pane| *pane == self.train.pane).unwrap_or(0);
                let by = if action == Action::NextPane { 1 } else { panes.len() - 1 };
                self.train.pane = panes[(at + by) % panes.len()];
                self.train.scroll = 0;
            }
            Action::DropHopeless => self.toggle_drop(),
            Action::Up | Action::Down | Action::PageUp | Action::PageDown => {
                // The log is read from its end: up goes back in time.
                let back = match action {
                    Action::Up => Action::Down,
                    Action::Down => Action::Up,
                    Action::PageUp => Action::PageDown,
                    _ => Action::PageUp,
                };
                self.train.scroll = moved(self.train.scroll, back, 8, 1000);
            }
            Action::ChooseRun => {
                let picker = Picker::runs("show a training run", self.training_runs(), Choice::ShowRun);
                self.layers.push(Layer::Picker(picker));
            }
            Action::Overlay => {
                let kind = shown.as_ref().and_then(|id| self.run(id)).map(|r| r.kind);
                let others =
                    self.training_runs().filter(|r| Some(&r.run) != shown.as_ref() && Some(r.kind) == kind);
                let picker = Picker::runs("draw another run's curve too", others, Choice::Overlay);
                if picker.items.is_empty() {
                    self.notice(Mood::Plain, "there is no other training run to draw");
                } else {
                    self.layers.push(Layer::Picker(picker));
                }
            }
            Action::CursorLeft
            | Action::CursorRight
            | Action::CursorFarLeft
            | Action::CursorFarRight
            | Action::ZoomIn
            | Action::ZoomOut => {
                if let Some(series) = shown.as_ref().and_then(|id| self.series.get(id)) {
                    cursor(&mut self.train, series, action);
                }
            }
            Action::StepRows => self.step_rows(shown),
            Action::ShowFlips => {
                match shown.as_ref().and_then(|id| self.run(id)).and_then(|r| r.candidate.clone()) {
                    Some(candidate) => {
                        self.screen = Screen::Board;
                        self.compare_with_baseline(&candidate);
                    }
                    None => self.notice(
                        Mood::Plain,
                        "the run is scored at its end; then f shows what it fixed and broke",
                    ),
                }
            }
            _ => self.act_run(shown, action),
        }
    }

    fn step_rows(&mut self, shown: Option<String>) {
        let Some(run) = shown else { return self.act_run(None, Action::StepRows) };
        let point = self.series.get(&run).and_then(|s| s.at(self.train.cursor.unwrap_or(u64::MAX)));
        match point.map(|p| (p.step, p.seq)) {
            Some((step, seq)) => {
                let request = Request::Events { run: run.clone(), after: seq.saturating_sub(1), limit: 1 };
                self.ask(Purpose::StepRows { run, step }, request);
            }
            None => self.notice(Mood::Plain, "no step was taken yet"),
        }
    }
}

/// Moves the cursor over the steps there are, and the zoom around it.
fn cursor(state: &mut TrainState, series: &RunSeries, action: Action) {
    let (from, to) = range(state, series, &[]);
    let Some(last) = series.steps.last().map(|s| s.step) else { return };
    let at = state.cursor.unwrap_or(last);
    let tenth = (((to - from) / 10.0) as u64).max(1);
    let place = series.steps.partition_point(|s| s.step <= at);
    match action {
        Action::CursorLeft => {
            state.cursor = series.steps[..place.saturating_sub(1)].last().map(|s| s.step).or(Some(at));
        }
        Action::CursorRight => state.cursor = series.steps.get(place).map(|s| s.step).or(Some(at)),
        Action::CursorFarLeft | Action::CursorFarRight => {
            let to = if action == Action::CursorFarLeft {
                at.saturating_sub(tenth)
            } else {
                (at + tenth).min(last)
            };
            state.cursor = series.at(to).or(series.steps.first()).map(|s| s.step);
        }
        Action::ZoomIn => {
            let width = ((to - from) / 2.0).max(8.0);
            let start = (at as f64 - width / 2.0).max(0.0).round();
            state.zoom = Some((start, start + width.round()));
        }
        _ => {
            if let Some((from, to)) = state.zoom {
                let whole = range(&TrainState::default(), series, &[]).1;
                let width = (to - from) * 2.0;
                let start = (at as f64 - width / 2.0).max(0.0).round();
                state.zoom = (width < whole).then_some((start, start + width));
            }
        }
    }
    // The zoom follows a cursor that walks out of it.
    if let (Some(at), Some((from, to))) = (state.cursor, state.zoom) {
        let at = at as f64;
        let shift = if at < from {
            at - from
        } else if at > to {
            at - to
        } else {
            0.0
        };
        state.zoom = Some((from + shift, to + shift));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::sample;

    fn series(steps: u64, total: u64) -> RunSeries {
        let mut s = RunSeries::default();
        s.push(sample::steps(1..=steps, total));
        s
    }

    #[test]
    fn the_axis_ends_on_round_numbers_and_never_past_the_end_of_the_run() {
        let state = TrainState::default();
        assert_eq!(range(&state, &series(0, 0), &[]), (0.0, 10.0));
        assert_eq!(range(&state, &series(60, 1000), &[]), (0.0, 100.0));
        assert_eq!(range(&state, &series(150, 170), &[]), (0.0, 170.0));
        assert_eq!(range(&state, &series(60, 1000), &[&series(300, 300)]), (0.0, 500.0));
    }

    #[test]
    fn the_cursor_walks_over_steps_and_the_zoom_follows() {
        let s = series(100, 100);
        let mut state = TrainState::default();
        cursor(&mut state, &s, Action::CursorLeft);
        assert_eq!(state.cursor, Some(99));
        cursor(&mut state, &s, Action::CursorRight);
        cursor(&mut state, &s, Action::CursorRight);
        assert_eq!(state.cursor, Some(100));
        cursor(&mut state, &s, Action::ZoomIn);
        let (from, to) = state.zoom.unwrap();
        assert!(to - from <= 50.0 && from <= 100.0 && to >= 100.0);
        for _ in 0..10 {
            cursor(&mut state, &s, Action::CursorFarLeft);
        }
        let (from, to) = state.zoom.unwrap();
        let at = state.cursor.unwrap() as f64;
        assert!(from <= at && at <= to, "{at} in {from}..{to}");
        cursor(&mut state, &s, Action::ZoomOut);
        cursor(&mut state, &s, Action::ZoomOut);
        assert_eq!(state.zoom, None);
    }

    #[test]
    fn a_fifth_overlay_pushes_the_first_out() {
        let mut state = TrainState::default();
        for run in ["a", "b", "c", "d", "e"] {
            state.toggle_overlay(run.into());
        }
        state.toggle_overlay("c".into());
        assert_eq!(state.overlays, ["b", "d", "e"]);
    }
}
