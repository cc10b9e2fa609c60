//! Curves in braille: two by four dots a cell, least and greatest value of every dot column kept, so that no spike is lost.

use ratatui::layout::Rect;

use super::{Painter, number, text};
use crate::tui::theme::Role;

/// What one dot column of a curve holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Column {
    pub first: f64,
    pub last: f64,
    pub min: f64,
    pub max: f64,
}

/// What a dot column shows: nothing (no point fell there), a gap (a point that is no number), or values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bin {
    Empty,
    Gap,
    Values(Column),
}

/// Points, sorted by x, gathered into `n` columns over `range` (both ends included).
pub fn columns(points: &[(f64, f64)], range: (f64, f64), n: usize) -> Vec<Bin> {
    let mut bins = vec![Bin::Empty; n];
    let span = range.1 - range.0;
    if n == 0 || span.is_nan() || span < 0.0 {
        return bins;
    }
    let from = points.partition_point(|(x, _)| *x < range.0);
    for &(x, y) in points[from..].iter().take_while(|(x, _)| *x <= range.1) {
        let at = if span == 0.0 { 0.0 } else { (x - range.0) / span * (n - 1) as f64 };
        let Some(bin) = bins.get_mut(at.round() as usize) else { continue };
        *bin = match *bin {
            Bin::Values(c) if y.is_finite() => {
                Bin::Values(Column { last: y, min: c.min.min(y), max: c.max.max(y), ..c })
            }
            _ if y.is_finite() => Bin::Values(Column { first: y, last: y, min: y, max: y }),
            Bin::Values(c) => Bin::Values(c),
            _ => Bin::Gap,
        };
    }
    bins
}

/// Exponential moving average, corrected for its start (Kingma & Ba 2014, section 3): what is no number stays a gap and leaves the mean alone.
pub fn smooth(points: &[(f64, f64)], weight: f64) -> Vec<(f64, f64)> {
    let (mut mean, mut mass) = (0.0, 0.0);
    points
        .iter()
        .map(|&(x, y)| {
            if !y.is_finite() {
                return (x, y);
            }
            mean = weight * mean + (1.0 - weight) * y;
            mass = weight * mass + (1.0 - weight);
            (x, mean / mass)
        })
        .collect()
}

/// The least of 1, 2, 5, 10, ... x 10^k that is not below `value`.
pub fn nice_above(value: f64) -> f64 {
    if !(value.is_finite() && value > 0.0) {
        return 1.0;
    }
    let unit = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|m| m * unit)
        .find(|n| *n >= value * (1.0 - 1e-9))
        .unwrap_or(unit * 10.0)
}

/// A vertical axis with round ends, so that it seldom moves while a curve grows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    pub lo: f64,
    pub hi: f64,
    pub log: bool,
    step: f64,
}

impl Scale {
    /// An axis that holds all finite `values` (on a logarithmic one: all positive ones).
    pub fn over(values: impl IntoIterator<Item = f64>, log: bool) -> Self {
        let usable = values.into_iter().filter(|v| v.is_finite() && (!log || *v > 0.0));
        let (min, max) = usable.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
        if min > max {
            return Self { lo: if log { 0.1 } else { 0.0 }, hi: 1.0, log, step: 0.5 };
        }
        if log {
            let hi = nice_above(max);
            // The greatest 1-2-5 number that is not above the least value.
            let unit = 10_f64.powf(min.log10().floor());
            let lo = [5.0, 2.0, 1.0]
                .into_iter()
                .map(|m| m * unit)
                .find(|n| *n <= min * (1.0 + 1e-9))
                .unwrap_or(unit);
            return Self { lo, hi: if hi > lo { hi } else { lo * 10.0 }, log, step: 0.0 };
        }
        let span = if max > min { max - min } else { max.abs().max(1e-9) };
        let step = nice_above(span / 4.0);
        let lo = (min / step + 1e-9).floor() * step;
        let hi = (max / step - 1e-9).ceil() * step;
        Self { lo, hi: if hi > lo { hi } else { lo + step }, log, step }
    }

    /// Where a value stands between the ends, 0 below and 1 above; none for what the axis cannot show.
    pub fn place(&self, value: f64) -> Option<f64> {
        let at = if self.log {
            if value <= 0.0 {
                return None;
            }
            (value / self.lo).ln() / (self.hi / self.lo).ln()
        } else {
            (value - self.lo) / (self.hi - self.lo)
        };
        at.is_finite().then_some(at.clamp(0.0, 1.0))
    }

    /// Round values to write beside the axis, from below.
    pub fn ticks(&self) -> Vec<f64> {
        let mut ticks = Vec::new();
        if self.log {
            let mut unit = 10_f64.powf(self.lo.log10().floor());
            while unit <= self.hi && ticks.len() < 40 {
                ticks.extend(
                    [1.0, 2.0, 5.0]
                        .map(|m| m * unit)
                        .into_iter()
                        .filter(|t| *t >= self.lo * (1.0 - 1e-9) && *t <= self.hi * (1.0 + 1e-9)),
                );
                unit *= 10.0;
            }
        } else {
            let n = ((self.hi - self.lo) / self.step).round().clamp(1.0, 40.0) as usize;
            ticks.extend((0..=n).map(|i| {
                let tick = self.lo + i as f64 * self.step;
                if tick.abs() < self.step * 1e-6 { 0.0 } else { tick }
            }));
        }
        ticks
    }
}

/// A curve.
#[derive(Clone, Debug)]
pub struct Line {
    /// Sorted by x.
    pub points: Vec<(f64, f64)>,
    pub role: Role,
}

/// A sign at a point.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    pub x: f64,
    pub y: f64,
    pub sign: &'static str,
    pub role: Role,
}

/// What is drawn: later lines over earlier ones, marks over lines.
#[derive(Clone, Debug)]
pub struct Chart {
    pub range: (f64, f64),
    pub scale: Scale,
    pub lines: Vec<Line>,
    pub marks: Vec<Mark>,
    /// Points that nothing joins, below the lines.
    pub dots: Vec<(f64, f64, Role)>,
    pub cursor: Option<f64>,
    /// x is a power of ten: 2 is written as 100.
    pub powers: bool,
}

/// Cells left of the plot, for the labels of the vertical axis.
pub const GUTTER: u16 = 7;

/// Dots of a braille cell by row and column (Unicode 28xx).
const DOTS: [[u8; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];

/// Dots over cells.
#[derive(Debug)]
pub struct Grid {
    width: usize,
    height: usize,
    cells: Vec<(u8, Role)>,
}

impl Grid {
    pub fn new(width: u16, height: u16) -> Self {
        let (width, height) = (usize::from(width), usize::from(height));
        Self { width, height, cells: vec![(0, Role::Text); width * height] }
    }

    /// Sets the dot at column `x` of 2 x width and row `y` of 4 x height, from above.
    pub fn dot(&mut self, x: usize, y: usize, role: Role) {
        if x < self.width * 2 && y < self.height * 4 {
            let cell = &mut self.cells[y / 4 * self.width + x / 2];
            *cell = (cell.0 | DOTS[y % 4][x % 2], role);
        }
    }

    /// A straight line between two dots.
    fn line(&mut self, (x0, y0): (usize, usize), (x1, y1): (usize, usize), role: Role) {
        let steps = x0.abs_diff(x1).max(y0.abs_diff(y1)).max(1);
        let between = |a: usize, b: usize, i: usize| {
            (a as f64 + (b as f64 - a as f64) * i as f64 / steps as f64).round() as usize
        };
        for i in 0..=steps {
            self.dot(between(x0, x1, i), between(y0, y1, i), role);
        }
    }

    pub fn draw(&self, p: &mut Painter<'_>, area: Rect) {
        for (i, (dots, role)) in self.cells.iter().enumerate().filter(|(_, (dots, _))| *dots != 0) {
            let symbol = if p.look.signs.ascii {
                ascii_dots(*dots)
            } else {
                char::from_u32(0x2800 + u32::from(*dots)).unwrap_or('?')
            };
            p.put(
                area,
                (i % self.width) as u16,
                (i / self.width) as u16,
                1,
                symbol.encode_utf8(&mut [0; 4]),
                *role,
            );
        }
    }
}

/// The ASCII character that comes nearest to a cell's dots.
const fn ascii_dots(dots: u8) -> char {
    let above = dots & (0x01 | 0x08 | 0x02 | 0x10) != 0;
    let below = dots & (0x04 | 0x20 | 0x40 | 0x80) != 0;
    let tall = dots & (0x01 | 0x08) != 0 && dots & (0x40 | 0x80) != 0;
    match (above, below) {
        _ if tall => '|',
        (true, true) => ':',
        (true, false) => '\'',
        _ => '.',
    }
}

fn two_digits(value: f64) -> f64 {
    format!("{value:.1e}").parse().unwrap_or(value)
}

impl Chart {
    fn column_of(&self, x: f64, n: usize) -> Option<usize> {
        let span = self.range.1 - self.range.0;
        let at = if span == 0.0 { 0.0 } else { (x - self.range.0) / span };
        (at.is_finite() && (-1e-9..=1.0 + 1e-9).contains(&at)).then(|| (at * (n - 1) as f64).round() as usize)
    }

    /// Axis labels left and below, the plot in the rest.
    pub fn draw(&self, p: &mut Painter<'_>, area: Rect) {
        if area.width < GUTTER + 8 || area.height < 3 {
            return;
        }
        let plot = Rect::new(area.x + GUTTER, area.y, area.width - GUTTER, area.height - 1);
        let (columns_n, rows_n) = (usize::from(plot.width) * 2, usize::from(plot.height) * 4);
        let row = |value: f64| {
            self.scale.place(value).map(|at| ((1.0 - at) * (rows_n - 1) as f64).round() as usize)
        };

        let mut taken: Option<u16> = None;
        for tick in self.scale.ticks().into_iter().rev() {
            let Some(y) = row(tick).map(|y| (y / 4) as u16) else { continue };
            if taken.is_none_or(|above| y > above + 1) {
                p.put_right(area, GUTTER - 1, y, GUTTER - 1, &number::tick(tick), Role::Axis);
                p.put(area, GUTTER - 1, y, 1, if p.look.signs.ascii { "+" } else { "┤" }, Role::Axis);
                taken = Some(y);
            }
        }
        let bottom = area.height - 1;
        let labels = [self.range.0, f64::midpoint(self.range.0, self.range.1), self.range.1].map(|x| {
            if self.powers { number::tick(two_digits(10_f64.powf(x))) } else { number::tick(x.round()) }
        });
        p.put(area, GUTTER, bottom, 8, &labels[0], Role::Axis);
        if area.width > GUTTER + 30 {
            let middle = GUTTER + plot.width / 2 - (text::width(&labels[1]) / 2) as u16;
            p.put(area, middle, bottom, 8, &labels[1], Role::Axis);
        }
        p.put_right(area, area.width, bottom, 8, &labels[2], Role::Axis);

        if let Some(x) = self.cursor.and_then(|x| self.column_of(x, columns_n)) {
            let sign = p.look.signs.cursor;
            for y in 0..plot.height {
                p.put(plot, (x / 2) as u16, y, 1, sign, Role::Axis);
            }
        }
        let mut scatter = Grid::new(plot.width, plot.height);
        for (x, y, role) in &self.dots {
            if let (Some(x), Some(y)) = (self.column_of(*x, columns_n), row(*y)) {
                scatter.dot(x, y, *role);
            }
        }
        scatter.draw(p, plot);
        for line in &self.lines {
            // One grid a line: a cell belongs to the line drawn last.
            let mut grid = Grid::new(plot.width, plot.height);
            let mut before: Option<(usize, f64)> = None;
            for (x, bin) in columns(&line.points, self.range, columns_n).into_iter().enumerate() {
                match bin {
                    Bin::Empty => {}
                    Bin::Gap => before = None,
                    Bin::Values(c) => {
                        if let (Some(lo), Some(hi)) = (row(c.min), row(c.max)) {
                            grid.line((x, lo), (x, hi), line.role);
                        }
                        if let Some((bx, by)) = before
                            && let (Some(from), Some(to)) = (row(by), row(c.first))
                        {
                            grid.line((bx, from), (x, to), line.role);
                        }
                        before = Some((x, c.last));
                    }
                }
            }
            grid.draw(p, plot);
        }
        for mark in &self.marks {
            if let (Some(x), Some(y)) = (self.column_of(mark.x, columns_n), row(mark.y)) {
                p.put(plot, (x / 2) as u16, (y / 4) as u16, 1, mark.sign, mark.role);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_single_spike_among_a_hundred_thousand_points_survives() {
        let mut points: Vec<(f64, f64)> = (0..100_000).map(|i| (f64::from(i), 1.0)).collect();
        points[54_321].1 = 9.0;
        let top = columns(&points, (0.0, 99_999.0), 140)
            .into_iter()
            .filter_map(|b| if let Bin::Values(c) = b { Some(c.max) } else { None })
            .fold(0.0, f64::max);
        assert_eq!(top, 9.0);
    }

    #[test]
    fn what_is_no_number_is_a_gap() {
        let points = [(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0)];
        assert_eq!(columns(&points, (0.0, 2.0), 3)[1], Bin::Gap);
        let smoothed = smooth(&points, 0.6);
        assert!(smoothed[1].1.is_nan() && smoothed[2].1.is_finite());
    }

    #[test]
    fn smoothing_starts_at_the_first_value() {
        assert_eq!(smooth(&[(0.0, 2.0), (1.0, 2.0)], 0.9), [(0.0, 2.0), (1.0, 2.0)]);
    }

    #[test]
    fn axes_end_on_round_numbers_and_hold_every_value() {
        let linear = Scale::over([0.37, 2.14, f64::NAN], false);
        assert_eq!((linear.lo, linear.hi), (0.0, 2.5));
        assert_eq!(linear.ticks(), [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]);
        let log = Scale::over([0.037, 2.14, 0.0, -1.0], true);
        assert_eq!((log.lo, log.hi), (0.02, 5.0));
        assert_eq!(log.place(0.0), None);
        assert_eq!(Scale::over([], false).place(0.5), Some(0.5));
        let flat = Scale::over([3.0, 3.0], false);
        assert!(flat.lo <= 3.0 && flat.hi >= 3.0 && flat.hi > flat.lo);
    }

    #[test]
    fn nice_numbers_are_not_below() {
        assert_eq!([0.03, 1.0, 1.1, 6.0, 612.0].map(nice_above), [0.05, 1.0, 2.0, 10.0, 1000.0]);
    }

    proptest! {
        #[test]
        fn columns_keep_the_extremes(ys in proptest::collection::vec(-1e6_f64..1e6, 1..300), n in 1_usize..50) {
            let points: Vec<(f64, f64)> = ys.iter().enumerate().map(|(i, y)| (i as f64, *y)).collect();
            let bins = columns(&points, (0.0, (ys.len() - 1) as f64), n);
            let (lo, hi) = bins.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), bin| match bin {
                Bin::Values(c) => (a.min(c.min), b.max(c.max)),
                _ => (a, b),
            });
            prop_assert_eq!(lo, ys.iter().copied().fold(f64::INFINITY, f64::min));
            prop_assert_eq!(hi, ys.iter().copied().fold(f64::NEG_INFINITY, f64::max));
        }

        #[test]
        fn a_scale_holds_what_it_was_made_over(a in -1e9_f64..1e9, b in -1e9_f64..1e9) {
            let s = Scale::over([a, b], false);
            let slack = (s.hi - s.lo) * 1e-6;
            prop_assert!(s.lo - slack <= a.min(b) && a.max(b) <= s.hi + slack, "{s:?}");
            prop_assert!(s.ticks().len() < 12);
        }
    }
}
