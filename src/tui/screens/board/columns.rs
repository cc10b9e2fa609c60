//! The columns of the board: what a cell shows, and what it is ordered by. What is not known stands last, whichever way.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use crate::domain::board::{Board, BoardRow};
use crate::domain::metric::Direction;
use crate::domain::trilemma::Pareto;
use crate::tui::signs::Signs;
use crate::tui::theme::Role;
use crate::tui::widgets::{number, text};

/// A column, in the order of their weight: those that do not fit are left out from the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Column {
    Name,
    Rung,
    /// In the order in which they came.
    Age,
    Primary,
    /// On the front, or dominated.
    Pareto,
    Goals,
    Rows,
    P50,
    P95,
    Tokens,
    Usd,
    Month,
    Goodput,
    FirstToken,
    Errors,
    P90,
    P99,
    Rate,
    Metric(String),
    /// Rows that once were fixed: those still right.
    Kept,
    /// A set beside the task.
    Set(String),
}

impl Column {
    /// Those that a board has something for; `volume` says that one was asked for.
    pub fn all(board: &Board, volume: bool) -> Vec<Self> {
        let any = |known: &dyn Fn(&BoardRow) -> bool| board.rows.iter().any(known);
        let mut all = vec![Self::Primary];
        all.extend((board.axes.len() > 1).then_some(Self::Pareto));
        all.extend(any(&|r| !r.goals.is_empty()).then_some(Self::Goals));
        all.push(Self::Rows);
        // What was forgotten shows before what it costs.
        all.extend(any(&|r| r.regression.is_some()).then_some(Self::Kept));
        let sets: BTreeSet<&String> = board.rows.iter().flat_map(|r| r.sets.keys()).collect();
        all.extend(sets.into_iter().cloned().map(Self::Set));
        all.extend([Self::P50, Self::P95, Self::Tokens, Self::Usd]);
        all.extend(volume.then_some(Self::Month));
        all.extend(any(&|r| r.errors > 0).then_some(Self::Errors));
        all.extend(any(&|r| r.trilemma.goodput.is_some()).then_some(Self::Goodput));
        all.extend(any(&|r| r.trilemma.ttft_ms.is_some()).then_some(Self::FirstToken));
        let metrics = board.metrics.iter().filter(|m| **m != board.primary && !m.starts_with("latency_"));
        all.extend(metrics.cloned().map(Self::Metric));
        all.extend([Self::P90, Self::P99]);
        all.extend(any(&|r| r.trilemma.rows_per_s.is_some()).then_some(Self::Rate));
        all
    }

    /// What it can be called, also where nothing is drawn of it.
    pub fn name(&self, board: &Board) -> String {
        match self {
            Self::Name => "name".into(),
            Self::Rung => "rung".into(),
            Self::Age => "as they came".into(),
            Self::Pareto => "front: who nobody dominates".into(),
            Self::FirstToken => "time to first token".into(),
            Self::Goodput => "in time and right".into(),
            Self::Rate => "rows a second".into(),
            Self::Errors => "rows that failed".into(),
            Self::Tokens => "tokens in".into(),
            Self::Rows => "rows scored".into(),
            Self::Kept => "rows once fixed that are still right".into(),
            Self::Set(name) => format!("set {name}"),
            _ => self.head(board),
        }
    }

    pub fn head(&self, board: &Board) -> String {
        match self {
            Self::Name => "candidate",
            Self::Rung => "rung",
            Self::Age => "age",
            Self::Primary => return board.primary.clone(),
            Self::Pareto => "P",
            Self::Goals => "goals",
            Self::Rows => "n",
            Self::P50 => "p50",
            Self::P90 => "p90",
            Self::P95 => "p95",
            Self::P99 => "p99",
            Self::FirstToken => "first",
            Self::Tokens => "tok in/out",
            Self::Usd => "$/1k",
            Self::Month => "$/month",
            Self::Goodput => "in time",
            Self::Rate => "rows/s",
            Self::Errors => "errors",
            Self::Kept => "kept",
            Self::Metric(name) | Self::Set(name) => return name.clone(),
        }
        .into()
    }

    pub fn width(&self, board: &Board) -> u16 {
        match self {
            Self::Primary => 11,
            Self::Pareto => 1,
            Self::Goals => (board.rows.first().map_or(0, |r| r.goals.len()).min(20) as u16 * 2).max(5),
            Self::Rows => 5,
            Self::P50 | Self::P90 | Self::P95 | Self::P99 | Self::FirstToken | Self::Errors => 6,
            Self::Tokens => 10,
            Self::Usd | Self::Rate => 7,
            Self::Month => 9,
            Self::Goodput => 8,
            Self::Metric(name) => (text::width(name) as u16).clamp(6, 18),
            Self::Kept => 7,
            Self::Set(name) => (text::width(name) as u16).clamp(8, 12),
            Self::Name | Self::Rung | Self::Age => 10,
        }
    }

    pub fn cell(&self, row: &BoardRow, board: &Board, signs: &Signs) -> (String, Role) {
        let t = &row.trilemma;
        let plain = |known: Option<String>| match known {
            Some(text) => (text, Role::Text),
            None => ("-".into(), Role::Dim),
        };
        let ms = |v: Option<f64>| plain(v.map(number::millis));
        match self {
            Self::Name => (row.candidate.clone(), Role::Text),
            Self::Rung | Self::Age => (row.rung.clone(), Role::Text),
            Self::Primary => primary(row, &board.primary, signs.plus_minus),
            Self::Pareto => pareto_sign(&t.pareto, signs),
            Self::Goals => goals(row, signs),
            Self::Rows => (row.n.to_string(), Role::Text),
            Self::P50 => ms(row.latency_ms.map(|l| l.p50)),
            Self::P90 => ms(row.latency_ms.map(|l| l.p90)),
            Self::P95 => ms(row.latency_ms.map(|l| l.p95)),
            Self::P99 => ms(row.latency_ms.map(|l| l.p99)),
            Self::FirstToken => ms(t.ttft_ms.map(|l| l.p50)),
            Self::Tokens => plain(row.tokens()),
            Self::Usd => plain(row.usd_per_1k.map(|v| format!("{v:.3}"))),
            Self::Month => plain(t.month.and_then(|m| m.usd).map(money)),
            Self::Goodput => plain(t.goodput.map(|g| match g.n {
                0..30 => format!("{}/{}", g.good, g.n),
                _ => number::share(g.share(), 2),
            })),
            Self::Rate => plain(t.rows_per_s.map(number::short)),
            Self::Errors => (row.errors.to_string(), if row.errors > 0 { Role::Bad } else { Role::Text }),
            Self::Metric(name) => plain(row.metrics.get(name).map(|v| number::short(*v))),
            Self::Kept => match &row.regression {
                None => ("-".into(), Role::Dim),
                Some(kept) if kept.kept < kept.of => (format!("{}/{}", kept.kept, kept.of), Role::Warning),
                Some(kept) => (format!("{}/{}", kept.kept, kept.of), Role::Text),
            },
            Self::Set(name) => match row.sets.get(name) {
                None => ("-".into(), Role::Dim),
                Some(score) if score.is_worse() => {
                    (format!("{}{}/{}", signs.warning, score.right, score.n), Role::Bad)
                }
                Some(score) => (format!("{}/{}", score.right, score.n), Role::Text),
            },
        }
    }

    /// What it is ordered by; none where it is not known.
    fn value(&self, row: &BoardRow, board: &Board) -> Option<f64> {
        let t = &row.trilemma;
        let share = |right: usize, n: usize| right as f64 / n as f64;
        match self {
            Self::Name | Self::Rung | Self::Age => None,
            Self::Primary => row.metrics.get(&board.primary).copied(),
            Self::Pareto => match t.pareto {
                Pareto::Front => Some(0.0),
                Pareto::Dominated { .. } => Some(1.0),
                Pareto::Open { .. } => None,
            },
            Self::Goals => {
                (!row.goals.is_empty()).then(|| row.goals.iter().filter(|g| g.state == "pass").count() as f64)
            }
            Self::Rows => Some(row.n as f64),
            Self::P50 => row.latency_ms.map(|l| l.p50),
            Self::P90 => row.latency_ms.map(|l| l.p90),
            Self::P95 => row.latency_ms.map(|l| l.p95),
            Self::P99 => row.latency_ms.map(|l| l.p99),
            Self::FirstToken => t.ttft_ms.map(|l| l.p50),
            Self::Tokens => row.tokens().map(|_| row.tokens_in),
            Self::Usd => row.usd_per_1k,
            Self::Month => t.month.and_then(|m| m.usd),
            Self::Goodput => t.goodput.map(|g| g.share()),
            Self::Rate => t.rows_per_s,
            Self::Errors => Some(row.errors as f64),
            Self::Metric(name) => row.metrics.get(name).copied(),
            Self::Kept => row.regression.as_ref().map(|k| share(k.kept, k.of)),
            Self::Set(name) => row.sets.get(name).map(|s| share(s.right, s.n)),
        }
        .filter(|v| v.is_finite())
    }

    /// The better end stands first.
    fn higher_first(&self, board: &Board) -> bool {
        let better = |name: &str| !lower_is_better(board, name);
        match self {
            Self::Primary => better(&board.primary),
            Self::Metric(name) => better(name),
            Self::Goals | Self::Rows | Self::Goodput | Self::Rate | Self::Kept | Self::Set(_) => true,
            _ => false,
        }
    }

    /// Places in the board, ordered; equals as they came. `turned` puts the other end first.
    pub fn sort(&self, places: &mut [usize], board: &Board, turned: bool) {
        let turn = |o: Ordering| if turned { o.reverse() } else { o };
        let row = |at: usize| board.rows.get(at);
        match self {
            Self::Age if turned => places.reverse(),
            Self::Age => {}
            Self::Name => {
                places
                    .sort_by(|a, b| turn(row(*a).map(|r| &r.candidate).cmp(&row(*b).map(|r| &r.candidate))));
            }
            Self::Rung => {
                let rung = |at: usize| {
                    let name = row(at).map_or("", |r| r.rung.as_str());
                    let known = crate::domain::ladder::RUNGS.iter().position(|r| *r == name);
                    (known.unwrap_or(usize::MAX), name)
                };
                places.sort_by(|a, b| turn(rung(*a).cmp(&rung(*b))));
            }
            _ => {
                let higher = self.higher_first(board);
                let value = |at: usize| row(at).and_then(|r| self.value(r, board));
                places.sort_by(|a, b| match (value(*a), value(*b)) {
                    (Some(a), Some(b)) => turn(if higher { b.total_cmp(&a) } else { a.total_cmp(&b) }),
                    // What is not known comes after what is.
                    (a, b) => b.is_some().cmp(&a.is_some()),
                });
            }
        }
    }
}

pub fn lower_is_better(board: &Board, metric: &str) -> bool {
    board.metric(metric).is_some_and(|m| m.entry.direction == Direction::Lower)
}

fn primary(row: &BoardRow, name: &str, plus_minus: &str) -> (String, Role) {
    let Some(value) = row.metrics.get(name) else { return ("-".into(), Role::Dim) };
    let text = match row.ci95 {
        // A Wilson interval is lopsided near 0 and 1: its longer side is what is claimed.
        Some([lo, hi]) => {
            let half = number::share((hi - value).max(value - lo), 3);
            format!("{} {plus_minus}{half}", number::share(*value, 3))
        }
        None => number::share(*value, 3),
    };
    (text, Role::Text)
}

fn goals(row: &BoardRow, signs: &Signs) -> (String, Role) {
    let sign = |state: &str| match state {
        "pass" => signs.right,
        "fail" => signs.wrong,
        _ => signs.open,
    };
    let text: Vec<&str> = row.goals.iter().map(|g| sign(&g.state)).collect();
    let role = if row.goals.iter().any(|g| g.state == "fail") {
        Role::Bad
    } else if row.goals.iter().all(|g| g.state == "pass") {
        Role::Good
    } else {
        Role::Text
    };
    (text.join(" "), role)
}

/// A full sign on the front, an empty one below it, none where it is not known.
pub fn pareto_sign(pareto: &Pareto, signs: &Signs) -> (String, Role) {
    match pareto {
        Pareto::Front => (signs.bullet.into(), Role::Good),
        Pareto::Dominated { .. } => (signs.open.into(), Role::Dim),
        Pareto::Open { .. } => ("?".into(), Role::Dim),
    }
}

/// `12.40`, `1,204`, `1.23M`.
pub fn money(usd: f64) -> String {
    match usd.abs() {
        a if a < 1e3 => format!("{usd:.2}"),
        a if a < 1e6 => number::count(usd.round().max(0.0) as usize),
        _ => number::short(usd),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::sample;

    fn sorted(column: &Column, board: &Board, turned: bool) -> Vec<String> {
        let mut places: Vec<usize> = (0..board.rows.len()).collect();
        column.sort(&mut places, board, turned);
        places.into_iter().map(|at| board.rows[at].candidate.clone()).collect()
    }

    #[test]
    fn the_better_end_stands_first_and_what_is_not_known_last_either_way() {
        let mut board = sample::board();
        board.rows[0].metrics.insert("accuracy".into(), f64::NAN);
        board.rows[1].latency_ms = None;
        assert_eq!(sorted(&Column::Primary, &board, false), ["lora-12", "lora-11", "route v7", "base"]);
        assert_eq!(sorted(&Column::Primary, &board, true), ["route v7", "lora-11", "lora-12", "base"]);
        assert_eq!(sorted(&Column::P50, &board, false), ["lora-12", "lora-11", "base", "route v7"]);
        assert_eq!(sorted(&Column::P50, &board, true), ["base", "lora-11", "lora-12", "route v7"]);
        assert_eq!(sorted(&Column::Age, &board, true), ["lora-12", "lora-11", "route v7", "base"]);
        let wrong = Column::Metric("format_error_rate".into());
        assert_eq!(sorted(&wrong, &board, false)[0], "lora-12", "of errors the fewest are best");
    }

    #[test]
    fn rungs_stand_in_the_order_of_the_ladder_and_unknown_ones_after() {
        let mut board = sample::board();
        board.rows[2].rung = "a rung of the future".into();
        assert_eq!(sorted(&Column::Rung, &board, false), ["base", "route v7", "lora-12", "lora-11"]);
    }

    #[test]
    fn every_cell_of_an_empty_row_can_be_drawn_and_sorted() {
        let mut board = sample::board();
        board.rows.push(BoardRow { candidate: "nothing".into(), ..BoardRow::default() });
        for column in Column::all(&board, true).into_iter().chain([Column::Name, Column::Age, Column::Rung]) {
            for row in &board.rows {
                column.cell(row, &board, &Signs::unicode());
            }
            assert_eq!(sorted(&column, &board, false).len(), 5);
        }
    }
}
