//! The doctor: rules over the series of a run's events. [`examine`] is a pure function of a [`Series`]; [`Doctor`] remembers what
//! it has told, so that a finding is told when it begins and when it ends, not at every step.
//!
//! A false alarm costs more than a miss: it teaches people to look away. So a rule asks for a change that is large beside the
//! noise of the steps (medians and their standard errors, not single values) and large beside what the run has gained so far.

use crate::domain::event::EventBody;
use crate::domain::finding::{Finding, Remedy, Rule};
use crate::domain::steer::Change;
pub(super) use robust::slope;
use robust::{Slope, autocorrelation, median, spread};

mod robust;

/// Steps that a rule about single steps looks back.
const RECENT: usize = 20;
/// Steps without a sign of it before a finding is withdrawn.
const PATIENCE: u64 = 10;

/// One step, as the rules need it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Seen {
    step: u64,
    epoch: f64,
    loss: f64,
    lr: f64,
    grad_norm: f64,
    tokens: u64,
    padding: u64,
    ms: f64,
    wait_ms: f64,
}

/// What a run has told so far.
#[derive(Clone, Debug, Default)]
pub struct Series {
    total: u64,
    steps: Vec<Seen>,
    /// Place in `steps` from which the rows are drawn as they are now: losses before are of another mixture.
    mixture: usize,
    /// Step and dev loss.
    evals: Vec<(u64, f64)>,
    /// Step, fixed rows that ended by themselves, fixed rows of which that is known.
    endings: Vec<(u64, usize, usize)>,
}

impl Series {
    /// Take in one event. Steps that are taken again replace those that were.
    pub fn see(&mut self, event: &EventBody) {
        match *event {
            EventBody::Step {
                step, total, epoch, loss, lr, grad_norm, tokens, padding, ms, wait_ms, ..
            } => {
                self.steps.truncate(self.steps.partition_point(|s| s.step < step));
                self.mixture = self.mixture.min(self.steps.len());
                self.evals.retain(|e| e.0 < step);
                self.endings.retain(|e| e.0 < step);
                self.total = total;
                self.steps.push(Seen { step, epoch, loss, lr, grad_norm, tokens, padding, ms, wait_ms });
            }
            EventBody::Eval { step, loss: Some(loss), .. } => {
                self.evals.retain(|e| e.0 < step);
                self.evals.push((step, loss));
            }
            EventBody::Sample { step, ended: Some(ended), .. } => {
                self.endings.retain(|e| e.0 <= step);
                if self.endings.last().is_none_or(|e| e.0 < step) {
                    self.endings.push((step, 0, 0));
                }
                if let Some(last) = self.endings.last_mut() {
                    last.1 += usize::from(ended);
                    last.2 += 1;
                }
            }
            EventBody::Change { change: Change::Weight { .. }, refused: None, .. } => {
                self.mixture = self.steps.len();
            }
            _ => {}
        }
    }

    fn last_step(&self) -> u64 {
        self.steps.last().map_or(0, |s| s.step)
    }

    /// The losses since the rows are drawn as they are now.
    fn losses(&self) -> Vec<f64> {
        self.steps.iter().skip(self.mixture).map(|s| s.loss).collect()
    }

    fn recent(&self, n: usize) -> &[Seen] {
        self.steps.get(self.steps.len().saturating_sub(n)..).unwrap_or_default()
    }

    /// Median loss of the `RECENT` steps up to `step`.
    fn level_at(&self, step: u64) -> Option<f64> {
        let until = self.steps.partition_point(|s| s.step <= step);
        let losses: Vec<f64> =
            self.steps.get(until.saturating_sub(RECENT)..until)?.iter().map(|s| s.loss).collect();
        (losses.len() >= 5).then(|| median(&losses))
    }

    /// How many steps lie between two looks: long runs are looked at as often as short ones, not more.
    fn stride(&self) -> usize {
        1 + self.steps.len() / 200
    }
}

/// Every rule that holds, the worst first.
pub fn examine(series: &Series) -> Vec<Finding> {
    let oscillates = loss_oscillates(series);
    let slow = if oscillates.is_none() { slow(series) } else { None };
    let overfitting = overfitting(series);
    let flat = if overfitting.is_none() && slow.is_none() { eval_flat(series) } else { None };
    let found = [
        oscillates,
        gradient_jumps(series),
        no_stop(series),
        overfitting,
        flat,
        slow,
        input_bound(series),
        padding(series),
    ];
    found.into_iter().flatten().collect()
}

/// A loss or a gradient that is no number. The step was not taken; `checkpoint` is the newest one.
pub fn not_finite(
    step: u64,
    loss: f64,
    grad_norm: f64,
    lr: f64,
    rows: &str,
    checkpoint: Option<u64>,
) -> Finding {
    let what = if loss.is_finite() { format!("gradient norm {grad_norm}") } else { format!("loss {loss}") };
    Finding {
        rule: Rule::NotFinite,
        evidence: format!("step {step}: {what} at learning rate {lr:.1e}; {rows}"),
        advice: match checkpoint {
            Some(_) => "branch from the best checkpoint with a lower learning rate".into(),
            None => "start again with a lower learning rate".into(),
        },
        remedy: checkpoint.map(|_| Remedy::Branch { times: 0.3 }),
    }
}

/// The loss stands clearly above what it had reached, or goes up and down from step to step.
fn loss_oscillates(series: &Series) -> Option<Finding> {
    let losses = series.losses();
    let n = losses.len();
    if n < 2 * RECENT {
        return None;
    }
    let width = (n / 4).clamp(RECENT, 200);
    let now = losses.get(n - width..)?;
    let (first, level) = (median(losses.get(..RECENT / 2)?), median(now));
    let earlier = losses.get(..n - width)?;
    let (at, best) = earlier
        .rchunks_exact(width)
        .enumerate()
        .min_by(|a, b| median(a.1).total_cmp(&median(b.1)))
        .unwrap_or((0, earlier));
    let reached = median(best);
    // The standard error of a median of `w` values is 1.25 sigma / sqrt(w).
    let error = 1.25 * (spread(now).powi(2) + spread(best).powi(2)).sqrt() / (width as f64).sqrt();
    let rise = level - reached;
    let gained = (first - reached).max(0.0);
    let evidence = if rise > 4.0 * error && rise > 0.3 * gained && rise > 0.05 * first {
        let end = earlier.len() - at * width;
        let step = |place: usize| series.steps.get(series.mixture + place).map_or(0, |s| s.step);
        format!(
            "the loss is {level:.3} over the last {width} steps, it was {reached:.3} at steps {} to {}",
            step(end.saturating_sub(best.len())),
            step(end.saturating_sub(1))
        )
    } else {
        let last = losses.get(n - 2 * RECENT..)?;
        let swing = spread(last);
        // Where an epoch has few steps, a row that is in one is not in the other, and that alone makes them alternate.
        let last_seen = series.steps.last()?;
        let many_steps = last_seen.epoch / (last_seen.step.max(1) as f64) < 0.2;
        let r = autocorrelation(last);
        if !(many_steps && r < -0.6 && swing > 0.2 * median(last) && swing > 0.1 * gained.max(0.1)) {
            return None;
        }
        format!(
            "the loss goes up and down from step to step by {swing:.3} around {:.3} (autocorrelation {r:.2})",
            median(last)
        )
    };
    Some(Finding {
        rule: Rule::LossOscillates,
        evidence,
        advice: "the learning rate is too high: take 0.3 of it".into(),
        remedy: Some(Remedy::LearningRate { times: 0.3 }),
    })
}

/// The loss falls in a straight line, and at this speed the run ends not far from where it began. The dev loss tells it without
/// the noise of batches; where it does not, the steps do.
fn slow(series: &Series) -> Option<Finding> {
    let done = series.last_step() as f64 / series.total.max(1) as f64;
    // Late in a run a higher rate gains nothing any more.
    if !(0.2..=0.7).contains(&done) {
        return None;
    }
    let (what, first, now, end) = slow_by_evals(series).or_else(|| slow_by_steps(series))?;
    (end > 0.8 * first && now > 0.2).then(|| Finding {
        rule: Rule::Slow,
        evidence: format!(
            "the {what} went from {first:.3} to {now:.3} in {} steps, in a straight line: about {:.3} at the end",
            series.last_step(),
            end.max(0.0)
        ),
        advice: "a higher learning rate gets further: take three times as much, or make a range test".into(),
        remedy: Some(Remedy::LearningRate { times: 3.0 }),
    })
}

/// What falls, from where, to where, and to where by the end.
type Fall = (&'static str, f64, f64, f64);

fn slow_by_evals(series: &Series) -> Option<Fall> {
    let evals = &series.evals;
    let (first, middle, last) = (evals.first()?, evals.get(evals.len() / 2)?, evals.last()?);
    let falls = evals.windows(2).all(|w| matches!(w, [a, b] if b.1 < a.1));
    let speed = |a: &(u64, f64), b: &(u64, f64)| (a.1 - b.1) / (b.0 - a.0) as f64;
    let straight = evals.len() >= 4 && speed(middle, last) >= 0.6 * speed(first, middle);
    let left = series.total.saturating_sub(last.0) as f64;
    (falls && straight && first.1 - last.1 > 1e-4 * first.1)
        .then(|| ("dev loss", first.1, last.1, last.1 - left * speed(middle, last)))
}

fn slow_by_steps(series: &Series) -> Option<Fall> {
    let top = series.steps.iter().map(|s| s.lr).fold(0.0, f64::max);
    let start = series.steps.iter().position(|s| s.lr >= 0.999 * top)?.max(series.mixture);
    let losses: Vec<f64> = series.steps.get(start..)?.iter().map(|s| s.loss).collect();
    if losses.len() < 2 * RECENT {
        return None;
    }
    let (early, late) = losses.split_at(losses.len() / 2);
    let (a, b) = (slope(early), slope(late));
    let falls = |s: &Slope| s.per_step + 2.5 * s.error < 0.0;
    let straight = b.per_step * late.len() as f64 <= 0.6 * a.per_step * early.len() as f64;
    let first: Vec<f64> = series.steps.iter().take(RECENT / 2).map(|s| s.loss).collect();
    let level = median(late.get(late.len() / 2..)?);
    let left = series.total.saturating_sub(series.last_step()) as f64;
    (falls(&a) && falls(&b) && straight).then(|| ("loss", median(&first), level, level + b.per_step * left))
}

/// A gradient twenty times as large as those before it, and larger than almost all that ever were. (Healthy runs have single
/// rows of twelve times the usual.)
fn gradient_jumps(series: &Series) -> Option<Finding> {
    const BEFORE: usize = 50;
    let norms: Vec<f64> = series.steps.iter().map(|s| s.grad_norm).collect();
    let from = norms.len().saturating_sub(RECENT.max(series.stride())).max(RECENT);
    let jumps: Vec<(usize, f64)> = (from..norms.len())
        .filter_map(|i| {
            let usual = median(norms.get(i.saturating_sub(BEFORE)..i)?);
            let norm = *norms.get(i)?;
            if norm <= 20.0 * usual {
                return None;
            }
            // Late in a run the others have become small, and norms have long tails: a jump is large beside nearly all before.
            let mut before = norms.get(..i)?.to_vec();
            before.sort_by(f64::total_cmp);
            (norm > 2.0 * before.get(before.len() * 99 / 100)?).then_some((i, usual))
        })
        .collect();
    let &(last, usual) = jumps.last()?;
    let seen = series.steps.get(last)?;
    let often = jumps.len() >= 3;
    Some(Finding {
        rule: Rule::GradientJumps,
        evidence: format!(
            "step {}: gradient norm {:.2}, {:.2} before{}",
            seen.step,
            seen.grad_norm,
            usual,
            if often { format!("; {} such steps of the last {RECENT}", jumps.len()) } else { String::new() }
        ),
        advice: if often {
            "the learning rate is too high for these rows: take half of it".into()
        } else {
            "look at the step's rows; clipping (max_grad_norm) limits what one step can do".into()
        },
        remedy: Some(if often {
            Remedy::LearningRate { times: 0.5 }
        } else {
            Remedy::Rows { step: seen.step }
        }),
    })
}

/// The fixed rows run into the limit instead of ending, at two evaluations in a row.
fn no_stop(series: &Series) -> Option<Finding> {
    let trained: Vec<_> = series
        .endings
        .iter()
        .filter(|(step, ..)| *step as f64 >= 0.1 * series.total as f64 && *step > 0)
        .collect();
    let [.., before, last] = trained[..] else { return None };
    let runs_on = |(_, ended, known): &(u64, usize, usize)| *known >= 2 && 2 * ended <= *known;
    (runs_on(before) && runs_on(last)).then(|| Finding {
        rule: Rule::NoStop,
        evidence: format!(
            "{} of {} fixed rows reach max_tokens without the stop token at step {}, {} of {} at step {}",
            before.2 - before.1,
            before.2,
            before.0,
            last.2 - last.1,
            last.2,
            last.0
        ),
        advice: "see in the log's mask gate that the stop token is trained; train longer, or with a higher learning rate".into(),
        remedy: None,
    })
}

/// Evaluations after the best one, and the best: place, step, loss.
fn best_eval(series: &Series) -> Option<(usize, (u64, f64))> {
    let (at, best) = series.evals.iter().enumerate().min_by(|a, b| a.1.1.total_cmp(&b.1.1))?;
    Some((series.evals.len() - 1 - at, *best))
}

/// The dev loss rises over three evaluations while the training loss falls.
fn overfitting(series: &Series) -> Option<Finding> {
    let (since, (best_step, best)) = best_eval(series)?;
    let (first, &(step, now)) = (series.evals.first()?.1, series.evals.last()?);
    if since < 3 || now < 1.02 * best || now < best + 0.005 * first {
        return None;
    }
    let then = series.level_at(best_step.max(RECENT as u64 / 2))?;
    let level = series.level_at(step)?;
    (level < 0.97 * then).then(|| Finding {
        rule: Rule::Overfitting,
        evidence: format!(
            "dev loss {best:.3} at step {best_step}, {now:.3} at step {step}; training loss {then:.3}, then {level:.3}"
        ),
        advice: format!("stop and keep: the model of step {best_step} is used. More rows or dropout help next time"),
        remedy: Some(Remedy::Stop),
    })
}

/// Four evaluations that bring nothing, with a good part of the run still to come.
fn eval_flat(series: &Series) -> Option<Finding> {
    const FLAT: usize = 4;
    let (first, &(step, now)) = (series.evals.first()?.1, series.evals.last()?);
    let split = series.evals.len().checked_sub(FLAT).filter(|n| *n > 0)?;
    let (before, last) = series.evals.split_at(split);
    let lowest = |evals: &[(u64, f64)]| evals.iter().map(|e| e.1).fold(f64::INFINITY, f64::min);
    let (reached, gained) = (lowest(before), lowest(before) - lowest(last));
    let left = 1.0 - step as f64 / series.total.max(1) as f64;
    if gained > (0.01 * reached).max(0.005 * first) || now > 1.02 * reached || left < 0.15 {
        return None;
    }
    Some(Finding {
        rule: Rule::EvalFlat,
        evidence: format!(
            "dev loss {reached:.3} at best up to step {}, {now:.3} at step {step}: {FLAT} evaluations brought nothing",
            before.last()?.0
        ),
        advice: format!("stop and keep: {:.0}% of the steps are still to come", 100.0 * left),
        remedy: Some(Remedy::Stop),
    })
}

/// Time between the steps.
fn input_bound(series: &Series) -> Option<Finding> {
    let recent = series.recent(RECENT);
    let wait: f64 = recent.iter().map(|s| s.wait_ms).sum();
    let all = wait + recent.iter().map(|s| s.ms).sum::<f64>();
    let each = wait / recent.len().max(1) as f64;
    (recent.len() == RECENT && wait > 0.2 * all && each > 2.0).then(|| Finding {
        rule: Rule::InputBound,
        evidence: format!(
            "{:.0}% of the time passes between the steps ({each:.0} ms each)",
            100.0 * wait / all
        ),
        advice: "the disk or another program holds the run up; look for what else writes or computes here"
            .into(),
        remedy: None,
    })
}

/// Tokens that fill up batches.
fn padding(series: &Series) -> Option<Finding> {
    let recent = series.recent(RECENT);
    let padding: u64 = recent.iter().map(|s| s.padding).sum();
    let all = padding + recent.iter().map(|s| s.tokens).sum::<u64>();
    (recent.len() == RECENT && padding * 5 > all).then(|| Finding {
        rule: Rule::Padding,
        evidence: format!(
            "{:.0}% of the tokens of the last {RECENT} steps are padding",
            100.0 * padding as f64 / all as f64
        ),
        advice: "a smaller batch_size with more accumulate brings rows of like length together".into(),
        remedy: None,
    })
}

/// A finding that was told and still holds.
#[derive(Clone, Debug)]
struct Open {
    finding: Finding,
    told: u64,
    held: u64,
}

/// Follows one run.
#[derive(Clone, Debug, Default)]
pub struct Doctor {
    series: Series,
    open: Vec<Open>,
    looked: usize,
}

impl Doctor {
    pub fn see(&mut self, event: &EventBody) {
        self.series.see(event);
    }

    /// What is new since the last call: findings that began, changed much later, or ended.
    pub fn news(&mut self, evaluated: bool) -> Vec<EventBody> {
        let n = self.series.steps.len();
        if !evaluated && n < self.looked + self.series.stride() {
            return Vec::new();
        }
        self.looked = n;
        let step = self.series.last_step();
        let retold = (self.series.total / 20).max(RECENT as u64);
        let mut news = Vec::new();
        for finding in examine(&self.series) {
            let tell = match self.open.iter_mut().find(|open| open.finding.rule == finding.rule) {
                None => {
                    self.open.push(Open { finding: finding.clone(), told: step, held: step });
                    true
                }
                Some(open) => {
                    open.held = step;
                    let tell = open.finding != finding && step >= open.told + retold;
                    if tell {
                        (open.told, open.finding) = (step, finding.clone());
                    }
                    tell
                }
            };
            if tell {
                news.push(EventBody::Finding { step, holds: true, finding });
            }
        }
        self.open.retain(|open| {
            let holds = step < open.held + PATIENCE;
            if !holds {
                news.push(EventBody::Finding { step, holds, finding: open.finding.clone() });
            }
            holds
        });
        news
    }
}

#[cfg(test)]
mod tests;
