//! Pictures as inline SVG. Colours and strokes are the page's classes; shapes tell apart what colours tell apart.

use super::blocks::{Chart, line};
use super::html::escape;
use crate::domain::board::{Comparison, StratumDelta};
use crate::domain::words::number;

const WIDTH: f64 = 800.0;
/// Room for names on the left, and for figures on the right.
const LEFT: f64 = 220.0;
const RIGHT: f64 = 70.0;
/// Height of a line of a list.
const STEP: f64 = 22.0;
const TOP: f64 = 12.0;
/// Height of a plane of points.
const PLANE: f64 = 320.0;
/// Characters of a name; the whole is told where one points at it.
const NAME: usize = 30;
/// Strata in a picture.
const STRATA: usize = 40;

pub(super) struct Point {
    pub label: String,
    pub x: f64,
    pub y: f64,
    pub ci95: Option<[f64; 2]>,
}

/// From figures to places.
struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    log: bool,
}

impl Scale {
    /// Over all `values`, with a little room at the ends. Figures that differ by more than a factor of 30 stand on a logarithmic scale
    /// where `log` lets them.
    fn over(values: impl Iterator<Item = f64>, from: f64, to: f64, log: bool) -> Option<Self> {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|v| v.is_finite()) {
            (low, high) = (low.min(value), high.max(value));
        }
        if low > high {
            return None;
        }
        let log = log && low > 0.0 && high / low > 30.0;
        if log {
            return Some(Self { low: low.ln() - 0.1, high: high.ln() + 0.1, from, to, log });
        }
        let room = if high > low { (high - low) * 0.06 } else { high.abs().max(1.0) * 0.1 };
        Some(Self { low: low - room, high: high + room, from, to, log })
    }

    fn at(&self, value: f64) -> f64 {
        let value = if self.log { value.max(f64::MIN_POSITIVE).ln() } else { value };
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// Round figures on the scale: steps of 1, 2 or 5 times a power of ten; powers of ten with their 2 and 5 on a logarithmic one.
    fn ticks(&self) -> Vec<f64> {
        if self.log {
            let powers = (self.low / std::f64::consts::LN_10).floor() as i32
                ..=(self.high / std::f64::consts::LN_10).ceil() as i32;
            let all = powers.flat_map(|p| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(p)));
            return all.filter(|t| (self.low..=self.high).contains(&t.ln())).collect();
        }
        let span = self.high - self.low;
        let power = 10f64.powf((span / 5.0).log10().floor());
        let step =
            [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| span / s <= 6.0).unwrap_or(span);
        let first = (self.low / step).ceil() as i64;
        (first..first + 12).map(|i| i as f64 * step).take_while(|t| *t <= self.high).collect()
    }
}

fn f(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

fn segment(x1: f64, y1: f64, x2: f64, y2: f64, class: &str) -> String {
    let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    format!("<line{class} x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\"/>\n", f(x1), f(y1), f(x2), f(y2))
}

fn text(x: f64, y: f64, class: &str, words: &str) -> String {
    format!("<text class=\"{class}\" x=\"{}\" y=\"{}\">{}</text>\n", f(x), f(y), escape(&line(words)))
}

fn name(x: f64, y: f64, words: &str) -> String {
    let whole = line(words);
    let short: String = whole.chars().take(NAME).collect();
    let short = if short == whole { short } else { format!("{short}\u{2026}") };
    let (whole, short) = (escape(&whole), escape(&short));
    format!("<text class=\"end\" x=\"{}\" y=\"{}\"><title>{whole}</title>{short}</text>\n", f(x), f(y))
}

fn svg(height: f64, about: &str, inner: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n{inner}</svg>",
        f(WIDTH),
        f(height),
        escape(&line(about))
    )
}

/// Figures under a scale that runs from left to right, with a line up from each.
fn ground(scale: &Scale, top: f64, bottom: f64) -> String {
    scale
        .ticks()
        .into_iter()
        .map(|tick| {
            let x = scale.at(tick);
            segment(x, top, x, bottom, "grid") + &text(x, bottom + 16.0, "middle faint", &tick_name(tick))
        })
        .collect()
}

fn tick_name(tick: f64) -> String {
    // 0.30000000000000004
    let rounded = (tick * 1e9).round() / 1e9;
    if rounded.abs() >= 1e6 || (rounded != 0.0 && rounded.abs() < 1e-4) {
        number(tick)
    } else {
        rounded.to_string()
    }
}

/// A line for each candidate: its value, and the 95% interval around it.
pub(super) fn intervals(metric: &str, points: &[Point], goal: Option<f64>) -> Option<Chart> {
    let values = points.iter().flat_map(|p| [p.y].into_iter().chain(p.ci95.into_iter().flatten()));
    let scale = Scale::over(values.chain(goal), LEFT, WIDTH - RIGHT, false)?;
    let bottom = TOP + STEP * points.len() as f64;
    let mut inner = ground(&scale, TOP, bottom);
    if let Some(goal) = goal {
        inner += &segment(scale.at(goal), TOP, scale.at(goal), bottom, "goal");
    }
    for (at, point) in points.iter().enumerate() {
        let y = TOP + STEP * (at as f64 + 0.5);
        inner += &name(LEFT - 10.0, y + 4.0, &point.label);
        if let Some([low, high]) = point.ci95 {
            let (low, high) = (scale.at(low), scale.at(high));
            inner += &segment(low, y, high, y, "");
            inner += &segment(low, y - 4.0, low, y + 4.0, "");
            inner += &segment(high, y - 4.0, high, y + 4.0, "");
        }
        inner +=
            &format!("<circle class=\"dot\" cx=\"{}\" cy=\"{}\" r=\"4\"/>\n", f(scale.at(point.y)), f(y));
        inner += &text(WIDTH - RIGHT + 10.0, y + 4.0, "faint", &number(point.y));
    }
    let goal = goal.map(|g| format!("; the dashed line is the goal, {}", number(g))).unwrap_or_default();
    let about = format!("The bars are 95% intervals{goal}.");
    let svg = svg(bottom + 24.0, &format!("{metric} of each candidate with its interval"), &inner);
    Some(Chart { title: metric.to_owned(), about, svg })
}

/// Places of the points that no other beats in both: cheaper (or as cheap) and better (or as good), one of them truly.
pub(super) fn pareto(points: &[Point], lower: bool) -> Vec<usize> {
    let better = |a: f64, b: f64| if lower { a < b } else { a > b };
    let beats = |a: &Point, b: &Point| a.x <= b.x && !better(b.y, a.y) && (a.x < b.x || better(a.y, b.y));
    let mut front: Vec<usize> =
        (0..points.len()).filter(|at| !points.iter().any(|other| beats(other, &points[*at]))).collect();
    front.sort_by(|a, b| points[*a].x.total_cmp(&points[*b].x));
    front
}

/// Quality over something that is paid for it. The front is drawn; whoever is behind it is an empty circle.
pub(super) fn front(metric: &str, price: &str, points: &[Point], lower: bool) -> Option<Chart> {
    if points.len() < 2 {
        return None;
    }
    let (left, bottom) = (70.0, TOP + PLANE);
    let across = Scale::over(points.iter().map(|p| p.x), left, WIDTH - 20.0, true)?;
    let up = Scale::over(points.iter().map(|p| p.y), bottom, TOP, false)?;
    let mut inner = ground(&across, TOP, bottom);
    for tick in up.ticks() {
        let y = up.at(tick);
        inner += &segment(left, y, WIDTH - 20.0, y, "grid");
        inner += &text(left - 8.0, y + 4.0, "end faint", &tick_name(tick));
    }
    inner += &text(f64::midpoint(left, WIDTH), bottom + 34.0, "middle faint", price);
    let front = pareto(points, lower);
    // From one point of the front to the next the better quality is not to be had for less.
    let mut corners = Vec::new();
    for pair in front.windows(2) {
        let [a, b] = [&points[pair[0]], &points[pair[1]]];
        corners.extend([(a.x, a.y), (b.x, a.y), (b.x, b.y)]);
    }
    if !corners.is_empty() {
        let corners: Vec<String> =
            corners.into_iter().map(|(x, y)| format!("{},{}", f(across.at(x)), f(up.at(y)))).collect();
        inner += &format!("<polyline class=\"front\" points=\"{}\"/>\n", corners.join(" "));
    }
    for (at, point) in points.iter().enumerate() {
        let (x, y) = (across.at(point.x), up.at(point.y));
        let class = if front.contains(&at) { "dot" } else { "off" };
        let told = format!("{}: {metric} {}, {} {price}", point.label, number(point.y), number(point.x));
        inner += &format!(
            "<circle class=\"{class}\" cx=\"{}\" cy=\"{}\" r=\"5\"><title>{}</title></circle>\n",
            f(x),
            f(y),
            escape(&line(&told))
        );
        let number = point.label.split(' ').next().unwrap_or_default();
        inner += &text(x + 8.0, y - 6.0, "", number);
    }
    let named: Vec<&str> = front.iter().map(|at| points[*at].label.as_str()).collect();
    let about = format!(
        "Numbers are those of the table. On the front, where nothing is both better and cheaper: {}.",
        named.join(", ")
    );
    let title = format!("{metric} over {price}");
    Some(Chart { svg: svg(bottom + 44.0, &title, &inner), title, about })
}

/// The difference of two candidates on a line with 0.
pub(super) fn difference(c: &Comparison, lower: bool) -> Chart {
    let values = [c.delta, c.ci95[0], c.ci95[1], 0.0];
    let title = format!("Difference in {}", c.metric);
    let sound = values.iter().all(|v| v.is_finite());
    let Some(scale) = Scale::over(values.into_iter(), LEFT, WIDTH - RIGHT, false).filter(|_| sound) else {
        return Chart { svg: svg(1.0, &title, ""), title, about: String::new() };
    };
    let (y, bottom) = (TOP + STEP * 0.75, TOP + STEP * 1.5);
    let mut inner = ground(&scale, TOP, bottom);
    inner += &segment(scale.at(0.0), TOP - 4.0, scale.at(0.0), bottom + 2.0, "");
    inner += &name(LEFT - 10.0, y + 4.0, &c.candidates[1]);
    let (low, high) = (scale.at(c.ci95[0]), scale.at(c.ci95[1]));
    inner += &segment(low, y, high, y, "");
    inner += &segment(low, y - 4.0, low, y + 4.0, "");
    inner += &segment(high, y - 4.0, high, y + 4.0, "");
    inner += &format!("<circle class=\"dot\" cx=\"{}\" cy=\"{}\" r=\"4\"/>\n", f(scale.at(c.delta)), f(y));
    inner += &text(WIDTH - RIGHT + 10.0, y + 4.0, "faint", &format!("{:+.3}", c.delta));
    let side = if lower { "left" } else { "right" };
    let about = format!("{} is better where the bar, the 95% interval, lies {side} of 0.", c.candidates[1]);
    Chart { svg: svg(bottom + 24.0, &title, &inner), title, about }
}

/// Each stratum's difference as a bar from 0.
pub(super) fn strata(strata: &[StratumDelta], lower: bool) -> Option<Chart> {
    let delta = |s: &StratumDelta| s.b - s.a;
    let shown: Vec<&StratumDelta> = strata.iter().filter(|s| delta(s).is_finite()).take(STRATA).collect();
    let scale = Scale::over(shown.iter().map(|s| delta(s)).chain([0.0]), LEFT, WIDTH - RIGHT, false)?;
    let bottom = TOP + STEP * shown.len() as f64;
    let mut inner = ground(&scale, TOP, bottom);
    for (at, s) in shown.iter().enumerate() {
        let y = TOP + STEP * at as f64;
        let (zero, end) = (scale.at(0.0), scale.at(delta(s)));
        let class = if (delta(s) > 0.0) == lower { "down" } else { "up" };
        inner += &name(LEFT - 10.0, y + STEP / 2.0 + 4.0, &s.stratum);
        inner += &format!(
            "<rect class=\"{class}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"/>\n",
            f(zero.min(end)),
            f(y + 4.0),
            f((end - zero).abs()),
            f(STEP - 8.0)
        );
        inner += &text(WIDTH - RIGHT + 10.0, y + STEP / 2.0 + 4.0, "faint", &format!("n = {}", s.n));
    }
    inner += &segment(scale.at(0.0), TOP, scale.at(0.0), bottom, "");
    let title = "Difference by stratum".to_owned();
    let left = strata.len() - shown.len();
    let about = match left {
        0 => "The worst loss first.".to_owned(),
        n => format!("The worst loss first; {n} more stand in the table."),
    };
    Some(Chart { svg: svg(bottom + 24.0, &title, &inner), title, about })
}
