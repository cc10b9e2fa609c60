//! The `lr-range` run: how the loss goes as the learning rate rises (Smith 2015, arXiv:1506.01186, section 3.3).
//!
//! A fresh model takes the steps that a training would take, with the rate rising in equal ratios from `lr_min` to `lr_max`; it
//! ends when the loss diverges. The model is thrown away: no checkpoint, no artifact but the figures.
//!
//! Two rules read the curve. *Steepest descent*: the rate at which the smoothed loss falls fastest over the logarithm of the rate
//! (fastai's `lr_find`, "steep"). *A tenth of the minimum*: where the loss is lowest, training is already close to diverging, so
//! one tenth of that rate (fastai's `lr_find`, "minimum"). The smaller of the two is suggested.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, ensure};

use super::device;
use super::examples;
use super::fit::{Example, in_rows};
use super::order::Order;
use super::step::{means, optimizer};
use super::subject::Subject;
use crate::domain::event::EventBody;
use crate::domain::report::{Control, Reporter, RunInputs};
use crate::domain::row::Part;
use crate::domain::run::RunResult;
use crate::domain::settings::{RangeSettings, Recompute, TrainSettings};
use crate::model::Base;
use crate::model::trainable::{Sequence, Settled, Trainable};

/// Weight of the moving average by which divergence is told.
const SMOOTHING: f64 = 0.9;
/// Steps before divergence is looked for.
const SETTLE: usize = 10;

/// One step: its rate and its loss.
pub type Point = (f64, f64);

/// How the test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Whole,
    /// The loss went above four times its lowest and above where it began, or was no number.
    Diverged,
    Stopped,
    Cancelled,
}

/// What the curve says. Rates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Suggestion {
    pub steepest: f64,
    /// Where the smoothed loss is lowest.
    pub minimum: f64,
    /// The smaller of `steepest` and a tenth of `minimum`, to two digits.
    pub suggested: f64,
    /// The loss was still falling at the end of the curve.
    pub still_falling: bool,
}

/// Test the run's stage. Only the train part is read.
pub fn run(
    settings: &TrainSettings,
    range: &RangeSettings,
    inputs: &RunInputs,
    reporter: &mut dyn Reporter,
) -> anyhow::Result<RunResult> {
    super::run::check(settings)?;
    check(range)?;
    let spec = &inputs.spec;
    let subject = Subject::new(spec, settings)?;
    let Base { decoder, .. } = Base::load(&subject.base, settings.method.is_quantized())?;
    let max_length = settings.max_length.min(decoder.config.max_positions);
    let rows = inputs.rows.iter().filter(|row| row.part == Some(Part::Train));
    let train = examples::build(rows, &subject, max_length, settings.turns);
    for message in train.warnings("train", max_length) {
        reporter.event(EventBody::Warning { message })?;
    }
    for message in examples::mask_gate(&train, &inputs.rows, &subject)? {
        reporter.event(EventBody::Log { message })?;
    }
    let mut model = subject.start(settings, decoder, spec.threads, None)?;
    let chosen = device::choose(&model, settings, reporter)?;
    device::place(&mut model, chosen, reporter)?;
    if settings.recompute == Recompute::Always {
        model.grant_activations(0);
    }
    let (points, end) = sweep(&mut model, &train.examples, settings, range, reporter)?;
    if end == End::Cancelled {
        return Ok(RunResult { stopped: true, ..RunResult::default() });
    }
    let mut metrics = BTreeMap::from([("steps".to_owned(), points.len() as f64)]);
    if let (End::Diverged, Some((rate, _))) = (end, points.last()) {
        metrics.insert("diverged_learning_rate".into(), *rate);
        let message = format!("the loss diverges at a learning rate of {rate:.1e}: the test ends here");
        reporter.event(EventBody::Log { message })?;
    }
    match suggest(&points) {
        Some(Suggestion { steepest, minimum, suggested, still_falling }) => {
            metrics.extend([
                ("suggested_learning_rate".to_owned(), suggested),
                ("steepest_learning_rate".to_owned(), steepest),
                ("minimum_learning_rate".to_owned(), minimum),
            ]);
            let message = format!(
                "suggested learning rate {suggested:.1e}: the smaller of the steepest descent ({steepest:.1e}) and a tenth of the \
                 rate of the lowest loss ({minimum:.1e}); after Smith 2015, arXiv:1506.01186"
            );
            reporter.event(EventBody::Log { message })?;
            if still_falling && end == End::Whole {
                let message = format!(
                    "the loss still falls at lr_max = {:.1e}: a higher lr_max would show where it turns",
                    range.lr_max
                );
                reporter.event(EventBody::Warning { message })?;
            }
        }
        None => {
            let message = format!(
                "the loss falls at none of these rates, so none is suggested: {} steps from {:.1e} to {:.1e}; take more steps, \
                 or look at the rows' gold",
                points.len(),
                range.lr_min,
                range.lr_max
            );
            reporter.event(EventBody::Warning { message })?;
        }
    }
    Ok(RunResult { metrics, candidate: None, stopped: end == End::Stopped, part: None })
}

fn check(range: &RangeSettings) -> anyhow::Result<()> {
    let RangeSettings { lr_min, lr_max, steps } = *range;
    ensure!(
        lr_min.is_finite() && lr_max.is_finite() && lr_min > 0.0 && lr_min < lr_max,
        "lr_min = {lr_min}, lr_max = {lr_max}: expected two rates above 0, the second one larger"
    );
    ensure!(steps >= 10, "steps = {steps}: a curve needs at least 10");
    Ok(())
}

/// The rate of step `step` (from 1): `lr_min` at the first, `lr_max` at the last, equal ratios between.
fn rate(range: &RangeSettings, step: u64) -> f64 {
    let share = (step - 1) as f64 / (range.steps.max(2) - 1) as f64;
    range.lr_min * (range.lr_max / range.lr_min).powf(share)
}

/// Take the steps on `model`, which is of no use afterwards.
pub fn sweep(
    model: &mut Trainable,
    train: &[Example],
    settings: &TrainSettings,
    range: &RangeSettings,
    reporter: &mut dyn Reporter,
) -> anyhow::Result<(Vec<Point>, End)> {
    ensure!(!train.is_empty(), "no row to train on");
    let mut order = Order::new(train.len(), settings);
    let mut points: Vec<Point> = Vec::new();
    let mut watch = Watch::default();
    for step in 1..=range.steps {
        let begun = Instant::now();
        let batches = order.step(step, |row| train.get(row).map_or(0, |e| e.sequence.tokens.len()));
        let batches: Vec<Vec<&Example>> =
            batches.iter().map(|rows| rows.iter().filter_map(|&row| train.get(row)).collect()).collect();
        let examples = || batches.iter().flatten().copied();
        let trained: usize = examples().map(|e| e.sequence.targets()).sum();
        let tokens: usize = examples().map(|e| e.sequence.tokens.len()).sum();
        model.zero_grad();
        for batch in &batches {
            match reporter.poll_control()? {
                Control::Continue | Control::Checkpoint => {}
                Control::Stop => return Ok((points, End::Stopped)),
                Control::Cancel => return Ok((points, End::Cancelled)),
            }
            let rows: Vec<&Sequence> = batch.iter().map(|e| &e.sequence).collect();
            let scale = 1.0 / trained.max(1) as f32;
            model.accumulate(&rows, scale).with_context(|| in_rows(batch))?;
        }
        let Settled { loss_sum, row_losses, grad_norm } = model.settle()?;
        let (loss, lr) = (loss_sum / trained.max(1) as f64, rate(range, step));
        if !loss.is_finite() || !grad_norm.is_finite() {
            return Ok((points, End::Diverged));
        }
        model.step(&optimizer(settings, lr), settings.max_grad_norm as f32);
        points.push((lr, loss));
        reporter.event(EventBody::Step {
            step,
            total: range.steps,
            epoch: order.epochs_after(step),
            loss,
            lr,
            grad_norm,
            tokens: tokens as u64,
            trained_tokens: trained as u64,
            padding: 0,
            ms: begun.elapsed().as_secs_f64() * 1e3,
            wait_ms: 0.0,
            rows: examples().map(|e| e.row.clone()).collect(),
            losses: means(&row_losses, examples()),
        })?;
        if watch.diverges(loss) {
            return Ok((points, End::Diverged));
        }
    }
    Ok((points, End::Whole))
}

/// Tells divergence while the test runs, by a moving average of the losses, corrected for its start.
#[derive(Clone, Copy, Debug, Default)]
struct Watch {
    seen: usize,
    mean: f64,
    mass: f64,
    first: f64,
    lowest: f64,
}

impl Watch {
    /// The loss is above four times its lowest (fastai's rule), and above where it began: a low loss wavers by more than itself.
    fn diverges(&mut self, loss: f64) -> bool {
        self.mean = SMOOTHING * self.mean + (1.0 - SMOOTHING) * loss;
        self.mass = SMOOTHING * self.mass + (1.0 - SMOOTHING);
        let smoothed = self.mean / self.mass;
        if self.seen == 0 {
            (self.first, self.lowest) = (smoothed, smoothed);
        }
        self.seen += 1;
        self.lowest = self.lowest.min(smoothed);
        self.seen > SETTLE && smoothed > 4.0 * self.lowest && smoothed > self.first
    }
}

/// What the curve suggests; none where the loss does not fall beyond its noise.
///
/// Smoothing is by a centred mean, which, unlike a moving average that only looks back, moves nothing to higher rates.
pub fn suggest(points: &[Point]) -> Option<Suggestion> {
    let n = points.len();
    if n < SETTLE {
        return None;
    }
    let half = (n / 20).max(1);
    let window = |at: usize, half: usize| points.get(at.saturating_sub(half)..(at + half + 1).min(n));
    let smooth: Vec<f64> = (0..n)
        .map(|at| window(at, half).map_or(0.0, |w| w.iter().map(|p| p.1).sum::<f64>() / w.len() as f64))
        .collect();
    let (lowest, level) = smooth.iter().copied().enumerate().min_by(|a, b| a.1.total_cmp(&b.1))?;
    // Noise of a step, from neighbours: their difference has twice its variance.
    let changes: Vec<f64> =
        points.windows(2).filter_map(|w| Some(w.get(1)?.1 - w.first()?.1)).take(lowest.max(SETTLE)).collect();
    let noise = (changes.iter().map(|c| c * c).sum::<f64>() / changes.len().max(1) as f64 / 2.0).sqrt();
    let error = noise * (2.0 / (2 * half + 1) as f64).sqrt();
    if smooth.first()? - level <= 3.0 * error {
        return None;
    }
    // Slope over log rate, by least squares around each point: steps are equally far apart there.
    let reach = (n / 12).max(2);
    let falls = |at: usize| {
        let from = at.saturating_sub(reach);
        smooth.get(from..(at + reach + 1).min(lowest + 1)).map_or(0.0, |w| super::doctor::slope(w).per_step)
    };
    let steepest = (0..=lowest).min_by(|a, b| falls(*a).total_cmp(&falls(*b)))?;
    let (steepest, minimum) = (points.get(steepest)?.0, points.get(lowest)?.0);
    let suggested = steepest.min(minimum / 10.0);
    Some(Suggestion {
        steepest,
        minimum,
        suggested: two_digits(suggested),
        still_falling: lowest + 1 + half >= n,
    })
}

fn two_digits(value: f64) -> f64 {
    format!("{value:.1e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range() -> RangeSettings {
        RangeSettings { lr_min: 1e-6, lr_max: 1.0, steps: 100 }
    }

    #[test]
    fn a_loss_far_above_its_lowest_and_its_first_diverges_and_a_spike_does_not() {
        let ends = |losses: Vec<f64>| {
            let mut watch = Watch::default();
            losses.into_iter().position(|loss| watch.diverges(loss))
        };
        let falls = |n: usize| (0..n).map(|i| 2.0 * 0.9_f64.powi(i as i32) + 0.1);
        assert_eq!(ends(falls(60).collect()), None);
        assert_eq!(ends(falls(60).chain([9.0]).chain(falls(60).skip(50)).collect()), None, "one spike");
        let at = ends(falls(60).chain((0..40).map(f64::from)).collect());
        assert!(at.is_some_and(|at| (63..80).contains(&at)), "{at:?}");
        assert_eq!(ends(falls(60).chain([1.5; 100]).collect()), None, "not above where it began");
    }

    #[test]
    fn the_rate_rises_in_equal_ratios() {
        let rates: Vec<f64> = (1..=100).map(|step| rate(&range(), step)).collect();
        assert!((rates[0] / 1e-6 - 1.0).abs() < 1e-12 && (rates[99] - 1.0).abs() < 1e-12);
        assert!(rates.windows(2).all(|w| (w[1] / w[0] - 1e6f64.powf(1.0 / 99.0)).abs() < 1e-9));
    }

    /// A curve that is flat, falls around 1e-3, is lowest at 1e-2 and goes up: a logistic and a hinge over log10 rate.
    fn curve(noise: f64) -> Vec<Point> {
        (1..=100)
            .map(|step| {
                let lr = rate(&range(), step);
                let x = lr.log10();
                let wiggle = noise * ((step * 7919 % 101) as f64 / 50.0 - 1.0);
                (lr, 2.5 - 1.5 / (1.0 + (-(x + 3.0) * 4.0).exp()) + 3.0 * (x + 2.0).max(0.0) + wiggle)
            })
            .collect()
    }

    #[test]
    fn the_smaller_of_steepest_descent_and_a_tenth_of_the_minimum_is_suggested() {
        for noise in [0.0, 0.1] {
            let found = suggest(&curve(noise)).unwrap();
            let off = |rate: f64, want: f64| (rate / want).log10().abs();
            assert!(off(found.steepest, 1e-3) < 0.2, "{found:?}");
            assert!(off(found.minimum, 1e-2) < 0.4, "{found:?}");
            assert_eq!(found.suggested, two_digits(found.steepest.min(found.minimum / 10.0)));
            assert!(!found.still_falling);
        }
    }

    #[test]
    fn a_curve_that_does_not_fall_suggests_nothing() {
        let flat: Vec<Point> = (1..=100)
            .map(|s| (rate(&range(), s), 2.0 + 0.1 * ((s * 7919 % 101) as f64 / 50.0 - 1.0)))
            .collect();
        assert_eq!(suggest(&flat), None);
        let rising: Vec<Point> = (1..=100).map(|s| (rate(&range(), s), 2.0 + s as f64 / 50.0)).collect();
        assert_eq!(suggest(&rising), None);
        assert_eq!(suggest(&[]), None);
    }

    #[test]
    fn a_curve_that_has_not_turned_says_so() {
        let falling: Vec<Point> = (1..=100).map(|s| (rate(&range(), s), 2.0 - s as f64 / 100.0)).collect();
        assert!(suggest(&falling).unwrap().still_falling);
    }

    #[test]
    fn settings_that_make_no_curve_are_refused() {
        for (range, what) in [
            (RangeSettings { lr_min: 1.0, ..range() }, "lr_min"),
            (RangeSettings { lr_max: f64::NAN, ..range() }, "lr_max"),
            (RangeSettings { steps: 9, ..range() }, "steps"),
        ] {
            assert!(check(&range).unwrap_err().to_string().contains(what));
        }
    }
}
