//! How often an endpoint is asked: one pace for all backends of the process that go to the same origin, and how long to wait
//! before it is asked again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Requests in all for one question.
pub const TRIES: u32 = 6;
/// All waiting between the tries of one question.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Before the second try; doubles with each further one.
pub const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Longest wait that we choose ourselves.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// A token bucket of depth one: no minute holds more requests than it may, whenever it begins.
#[derive(Debug, Default)]
struct Pace {
    /// When the bucket has its token again.
    next: Option<Instant>,
    /// The server asked to be left alone until then.
    closed: Option<Instant>,
}

impl Pace {
    /// When the next request may go; its turn is taken. `every`: time between two, none: as many as one likes.
    fn turn(&mut self, now: Instant, every: Option<Duration>) -> Instant {
        let open = self.closed.map_or(now, |closed| closed.max(now));
        let Some(every) = every else { return open };
        let at = self.next.map_or(open, |next| next.max(open));
        self.next = Some(at + every);
        at
    }

    fn close(&mut self, until: Instant) {
        self.closed = Some(self.closed.map_or(until, |before| before.max(until)));
    }
}

/// The pace of one origin.
#[derive(Clone, Debug, Default)]
pub struct Limiter(Arc<Mutex<Pace>>);

impl Limiter {
    /// That of all who ask this origin.
    pub fn of(origin: &str) -> Self {
        static ALL: OnceLock<Mutex<HashMap<String, Limiter>>> = OnceLock::new();
        let mut all = ALL.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(origin.to_owned()).or_default().clone()
    }

    fn pace(&self) -> std::sync::MutexGuard<'_, Pace> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for its turn.
    pub async fn turn(&self, every: Option<Duration>) {
        let at = self.pace().turn(Instant::now(), every);
        tokio::time::sleep_until(at).await;
    }

    /// Nobody asks before `wait` is over.
    pub fn close(&self, wait: Duration) {
        self.pace().close(Instant::now() + wait);
    }
}

/// Before try `tries + 1`: doubled each time, between half of it and the whole, so that many do not come back at once.
pub fn backoff(first: Duration, tries: u32, random: f64) -> Duration {
    let whole = first.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(LONGEST_WAIT);
    whole.mul_f64(0.5 + 0.5 * random.clamp(0.0, 1.0))
}

/// `Retry-After`, as seconds or as a date (RFC 9110, section 10.2.3).
pub fn retry_after(header: &str, now: SystemTime) -> Option<Duration> {
    let header = header.trim();
    if let Ok(seconds) = header.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = httpdate::parse_http_date(header).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_minute_holds_more_requests_than_it_may_and_a_closed_origin_waits() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let every = Some(Duration::from_secs(6));
        let after = |at: Instant| at.duration_since(now).as_secs();
        assert_eq!((0..3).map(|_| after(pace.turn(now, every))).collect::<Vec<_>>(), [0, 6, 12]);
        assert_eq!(after(pace.turn(now, None)), 0, "another model of the origin has no limit");
        let later = now + Duration::from_secs(100);
        assert_eq!(after(pace.turn(later, every)), 100, "what was not used is not saved up");
        pace.close(now + Duration::from_secs(200));
        pace.close(now + Duration::from_secs(150));
        assert_eq!((after(pace.turn(later, None)), after(pace.turn(later, every))), (200, 200));
    }

    #[test]
    fn backends_of_one_origin_share_its_pace() {
        let (a, b) = (Limiter::of("http://limit.test"), Limiter::of("http://limit.test"));
        assert!(Arc::ptr_eq(&a.0, &b.0));
        assert!(!Arc::ptr_eq(&a.0, &Limiter::of("http://other.test").0));
    }

    #[test]
    fn waits_double_up_to_a_limit_and_differ() {
        let wait = |tries, random| backoff(Duration::from_millis(500), tries, random).as_millis();
        assert_eq!([wait(1, 1.0), wait(2, 1.0), wait(3, 1.0), wait(40, 1.0)], [500, 1000, 2000, 30_000]);
        assert_eq!(wait(1, 0.0), 250);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777 - 7);
        let after = |header: &str| retry_after(header, now).map(|d| d.as_secs());
        assert_eq!(after(" 3 "), Some(3));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(7));
        assert_eq!(after("Wed, 06 Nov 1974 08:49:37 GMT"), Some(0));
        for none in ["-1", "soon", "", "1e300", "NaN", "inf"] {
            assert_eq!(after(none), None, "{none}");
        }
    }
}
