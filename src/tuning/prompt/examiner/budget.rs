//! Calls, tokens, dollars and seconds: what was spent, and what may still be.

use std::time::{Duration, Instant};

use super::{Examiner as _, Halt, Live, Phase};
use crate::domain::candidate::{ModelRef, ModelSource, StageCandidate};
use crate::domain::outcome::Outcome;
use crate::domain::report::Control;
use crate::domain::settings::Budget;
use crate::tuning::prompt::log::{Kept, Said};

/// Seconds of work: of earlier lives as the log has them, and of this one from its first question on.
pub(super) struct Clock {
    pub(super) before: f64,
    pub(super) since: Option<Instant>,
    /// Not worked: paused.
    pub(super) idle: Duration,
}

impl Clock {
    pub(super) fn now(&self) -> f64 {
        self.before
            + self.since.map_or(0.0, |since| (since.elapsed().saturating_sub(self.idle)).as_secs_f64())
    }
}

impl Live<'_> {
    /// Seconds of work of this life.
    pub fn worked(&self) -> f64 {
        self.clock.now() - self.clock.before
    }

    /// Look for requests; a pause is no work.
    pub(super) fn poll(&mut self) -> Result<(), Halt> {
        let began = Instant::now();
        let control = self.reporter.poll_control()?;
        self.clock.idle += began.elapsed();
        match control {
            Control::Cancel => Err(Halt::Cancelled),
            Control::Stop if self.phase == Phase::Loop => Err(Halt::Stopped),
            // Every answer is on disk already.
            Control::Stop | Control::Continue | Control::Checkpoint => Ok(()),
        }
    }

    /// Calls left for now: what is kept for the last comparison is more where calls were repeated so far. None: there is no limit.
    pub(super) fn left(&self) -> Option<u64> {
        let limit = self.budget.calls.filter(|_| self.phase != Phase::Beyond)?;
        let kept = if self.phase == Phase::Loop { self.reserve() } else { 0 };
        Some(limit.saturating_sub(self.spend().calls).saturating_sub(kept))
    }

    fn reserve(&self) -> u64 {
        let each = self.spend().calls as f64 / self.questions.max(1) as f64;
        (self.reserved as f64 * each.max(1.0)).ceil() as u64
    }

    /// So many of `wanted` questions, of at most `each` calls, can be put now. The last comparison goes on with fewer.
    pub(super) fn room(&self, wanted: usize, each: u64) -> Result<usize, Halt> {
        if self.phase != Phase::Comparison {
            return self.afford(wanted as u64 * each).map(|()| wanted);
        }
        let room = self.left().map_or(wanted as u64, |left| left / each.max(1));
        if room == 0 {
            return Err(Halt::Budget("calls".to_owned()));
        }
        Ok(wanted.min(usize::try_from(room).unwrap_or(wanted)))
    }

    /// Ask, and count what goes out beside a call for each answer; no more goes out than the budget has left. `most`: the calls that are
    /// expected, of which `local` at most go to no endpoint. `work` returns the calls of endpoints that its answers count.
    pub(super) fn metered<T>(
        &mut self,
        most: u64,
        local: u64,
        work: impl FnOnce(&mut Self) -> Result<(T, u64), Halt>,
    ) -> Result<T, Halt> {
        if most == local {
            return work(self).map(|(done, _)| done);
        }
        self.log.keep_asking(most)?;
        let before = self.access.meter.sent();
        self.access.meter.allow(self.left().map(|left| left.saturating_sub(local)));
        let done = work(self);
        let sent = i64::try_from(self.access.meter.sent() - before).unwrap_or(i64::MAX);
        let counted = done.as_ref().map_or(0, |(_, counted)| i64::try_from(*counted).unwrap_or(0));
        let held_back = self.access.meter.held_back();
        self.access.meter.allow(None);
        self.extra += sent - counted;
        self.log.keep_asked(sent - counted)?;
        let (done, _) = done?;
        if held_back { Err(Halt::Budget("calls".to_owned())) } else { Ok(done) }
    }

    /// Whether `calls` more, and the reserve, are within the budget, by what calls cost so far.
    pub(super) fn afford(&self, calls: u64) -> Result<(), Halt> {
        if self.phase != Phase::Loop {
            return Ok(());
        }
        let spent = self.spend();
        let wanted = (calls + self.reserve()) as f64;
        let per_call = |sum: f64| if spent.calls > 0 { sum / spent.calls as f64 } else { 0.0 };
        let over = |sum: f64, limit: f64| sum + per_call(sum) * wanted > limit;
        let refused = |what: &str| Err(Halt::Budget(what.to_owned()));
        match self.budget {
            Budget { calls: Some(limit), .. } if spent.calls as f64 + wanted > limit as f64 => {
                refused("calls")
            }
            Budget { tokens: Some(limit), .. } if over(spent.tokens as f64, limit as f64) => {
                refused("tokens")
            }
            Budget { usd: Some(limit), .. } if over(spent.usd, limit) => refused("usd"),
            Budget { seconds: Some(limit), .. } if over(spent.seconds, limit as f64) => refused("seconds"),
            _ => Ok(()),
        }
    }

    /// From here on it is work.
    pub(super) fn start_clock(&mut self) {
        if self.clock.since.is_none() {
            self.clock.since = Some(Instant::now());
            self.clock.idle = Duration::ZERO;
        }
    }

    /// An answer of an earlier life.
    pub(super) fn heard_before(&mut self, at: f64) {
        if self.clock.since.is_none() {
            self.clock.before = self.clock.before.max(at);
        }
    }

    pub(super) fn pay_row(&mut self, kept: &Kept) {
        for stage in kept.outcome.stages.iter().filter(|stage| !stage.skipped) {
            let all = 1 + u64::from(stage.retries);
            let cached = u64::from(stage.cached).min(all);
            self.spend.calls += all - cached;
            self.questions += u64::from(cached < all);
            self.spend.cached += cached;
            self.spend.tokens += (stage.tokens_in + stage.tokens_out) * (all - cached) / all;
        }
        self.spend.usd += kept.usd;
    }

    pub(super) fn pay_critic(&mut self, said: &Said) {
        if said.cached {
            self.spend.cached += 1;
        } else {
            self.spend.calls += 1;
            self.questions += 1;
            self.spend.tokens += said.tokens;
            self.spend.usd += said.usd;
        }
    }

    /// Dollars of a row's answers that were worked for.
    pub(super) fn usd(&self, outcome: &Outcome) -> f64 {
        let of = |stage: &StageCandidate| {
            let ran = outcome.stages.iter().find(|s| s.stage == stage.name && !s.skipped)?;
            let worked = 1.0 - f64::from(ran.cached) / f64::from(1 + ran.retries);
            Some(price(&stage.model, ran.tokens_in, ran.tokens_out, ran.ms) * worked)
        };
        self.candidate.stages.iter().filter_map(of).sum()
    }
}

pub(super) fn is_endpoint(model: &ModelRef) -> bool {
    matches!(model.source, ModelSource::Endpoint { .. })
}

/// Dollars of an answer.
pub(super) fn price(model: &ModelRef, tokens_in: u64, tokens_out: u64, ms: f64) -> f64 {
    let tokens = tokens_in as f64 * model.usd_per_million_input.unwrap_or(0.0)
        + tokens_out as f64 * model.usd_per_million_output.unwrap_or(0.0);
    tokens / 1e6 + model.usd_per_hour.unwrap_or(0.0) * ms / 3_600_000.0
}
