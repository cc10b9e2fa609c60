//! How fast a run works, and when it will be done.

use std::time::{Duration, Instant};

/// How fast the run works, pauses left out.
pub(super) struct Pace {
    begun: Instant,
    begun_step: u64,
    /// Time spent waiting for people.
    pub(super) idle: Duration,
    /// When progress was last told.
    pub(super) told: Option<Instant>,
}

impl Pace {
    pub(super) fn new(begun_step: u64) -> Self {
        Self { begun: Instant::now(), begun_step, idle: Duration::ZERO, told: None }
    }

    /// Time since the beginning, without waiting.
    pub(super) fn worked(&self) -> Duration {
        self.begun.elapsed().saturating_sub(self.idle)
    }

    /// By the mean over this session, evaluations and checkpoints included.
    pub(super) fn eta_ms(&self, step: u64, total: u64) -> Option<u64> {
        let taken = step.checked_sub(self.begun_step).filter(|&n| n > 0)?;
        let ms_per_step = self.worked().as_secs_f64() * 1e3 / taken as f64;
        Some((ms_per_step * total.saturating_sub(step) as f64) as u64)
    }
}
