//! Requests to endpoints, counted where they go out, and how many may.
//!
//! An answer may take several requests: one that failed is sent again. A budget of calls is one of requests, so it is held here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Shared by all who send on one account.
#[derive(Clone, Debug)]
pub struct Meter(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    sent: AtomicU64,
    /// So many may be sent in all.
    most: AtomicU64,
    refused: AtomicU64,
}

impl Default for Meter {
    fn default() -> Self {
        Self(Arc::new(Counts {
            sent: AtomicU64::new(0),
            most: AtomicU64::new(u64::MAX),
            refused: AtomicU64::new(0),
        }))
    }
}

impl Meter {
    /// Whether one more may be sent; it counts as sent then.
    pub fn take(&self) -> bool {
        let most = self.0.most.load(Ordering::Relaxed);
        let one_more = |sent: u64| (sent < most).then_some(sent + 1);
        let taken = self.0.sent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok();
        if !taken {
            self.0.refused.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    pub fn sent(&self) -> u64 {
        self.0.sent.load(Ordering::Relaxed)
    }

    /// From now on so many more may be sent. None: as many as one likes.
    pub fn allow(&self, more: Option<u64>) {
        let most = more.map_or(u64::MAX, |more| self.sent().saturating_add(more));
        self.0.most.store(most, Ordering::Relaxed);
        self.0.refused.store(0, Ordering::Relaxed);
    }

    /// Requests were held back since the last allowance.
    pub fn held_back(&self) -> bool {
        self.0.refused.load(Ordering::Relaxed) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_allowance_goes_out_whoever_sends() {
        let meter = Meter::default();
        assert!((0..5).all(|_| meter.take()) && !meter.held_back());
        meter.allow(Some(100));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let meter = meter.clone();
                std::thread::spawn(move || (0..50).filter(|_| meter.take()).count())
            })
            .collect();
        let taken: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!((taken, meter.sent(), meter.held_back()), (100, 105, true));
        meter.allow(None);
        assert!(meter.take() && !meter.held_back());
    }
}
