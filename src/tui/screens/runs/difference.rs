//! The difference of two runs: settings and results side by side, those that differ first.

use std::collections::BTreeSet;

use ratatui::layout::Rect;

use crate::domain::run::RunRecord;
use crate::tui::app::App;
use crate::tui::layers::view::boxed;
use crate::tui::screens::short_key;
use crate::tui::theme::Role;
use crate::tui::widgets::{Painter, number};

/// Name, A's value, B's value. A setting that one run left alone stands as in `workspace.toml`.
pub fn lines(a: &RunRecord, b: &RunRecord) -> Vec<(String, String, String)> {
    let mut lines = vec![
        ("kind".to_owned(), a.kind.to_string(), b.kind.to_string()),
        ("state".to_owned(), a.state.to_string(), b.state.to_string()),
    ];
    let keys: BTreeSet<&String> = a.settings.iter().chain(&b.settings).map(|(k, _)| k).collect();
    let value = |run: &RunRecord, key: &str| {
        run.settings.iter().find(|(k, _)| k == key).map_or("(workspace.toml)".to_owned(), |(_, v)| v.clone())
    };
    lines.extend(keys.into_iter().map(|k| (short_key(k).to_owned(), value(a, k), value(b, k))));
    let names: BTreeSet<&String> = a.metrics.keys().chain(b.metrics.keys()).collect();
    let metric =
        |run: &RunRecord, name: &str| run.metrics.get(name).map_or("-".to_owned(), |v| number::short(*v));
    lines.extend(names.into_iter().map(|n| (n.clone(), metric(a, n), metric(b, n))));
    // A stable sort: what differs first, each part in its order.
    lines.sort_by_key(|(_, a, b)| a == b);
    lines
}

pub fn draw(app: &App, p: &mut Painter<'_>, body: Rect, a: &str, b: &str, from: usize) {
    let inner = boxed(p, body, 90, body.height, "difference of two runs");
    let (Some(run_a), Some(run_b)) = (app.run(a), app.run(b)) else {
        p.put(inner, 1, 0, inner.width, "one of the runs is not known any more", Role::Dim);
        return;
    };
    let column = inner.width / 3;
    p.put(inner, column, 0, column - 1, a, Role::Title);
    p.put(inner, 2 * column, 0, column, b, Role::Title);
    let lines = lines(run_a, run_b);
    let height = usize::from(inner.height.saturating_sub(1));
    let from = from.min(lines.len().saturating_sub(height));
    for (y, (name, left, right)) in lines.iter().skip(from).take(height).enumerate() {
        let y = y as u16 + 1;
        let (sign, role) = if left == right { (" ", Role::Dim) } else { ("*", Role::Text) };
        p.put(inner, 0, y, 1, sign, Role::Warning);
        p.put(inner, 2, y, column.saturating_sub(3), name, role);
        p.put(inner, column, y, column - 1, left, role);
        p.put(inner, 2 * column, y, column, right, role);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::run::{RunKind, RunState};
    use crate::tui::sample;

    #[test]
    fn what_differs_comes_first() {
        let mut a = sample::run("a", RunKind::Train, RunState::Done);
        let mut b = a.clone();
        a.settings =
            vec![("tuning.train.rank".into(), "8".into()), ("tuning.train.epochs".into(), "2".into())];
        b.settings = vec![("tuning.train.epochs".into(), "2".into())];
        (a.metrics, b.metrics) = Default::default();
        let lines = lines(&a, &b);
        assert_eq!(lines[0], ("rank".into(), "8".into(), "(workspace.toml)".into()));
        assert!(lines[1..].iter().all(|(_, a, b)| a == b));
    }
}
