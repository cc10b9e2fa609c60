//! A model that stays: a thread owns it, and answers questions that come while others are being answered.
//!
//! Questions wait in a bounded line. Whoever asked gets the answer in pieces on a channel; dropping the receiver takes the
//! question back, wherever it is.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use thiserror::Error;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::{Answer, Ask, BackendError, Lane, TokenLogprob};
use crate::domain::candidate::AdapterRef;
use crate::domain::resident::Bounds;

pub use figures::Figures;

/// What an engine of answers did in a step, for one question.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// More of the answer. What has been told is never taken back.
    Text { text: String, tokens: Vec<TokenLogprob> },
    /// The whole answer. Nothing follows.
    Finished(Box<Answer>),
    /// No answer. Nothing follows.
    Failed(BackendError),
}

/// Answers many questions at once, a step at a time. A lane is the base alone, or with an adapter.
pub trait Stepper {
    /// # Errors
    /// An adapter that cannot be read, or does not fit the base.
    fn add_lane(&mut self, adapter: &AdapterRef) -> Result<Lane, BackendError>;

    /// Takes an adapter away that no question is on.
    fn remove_lane(&mut self, lane: Lane);

    /// Takes a question up under a number of the caller's.
    ///
    /// # Errors
    /// A question that cannot be answered.
    fn submit(&mut self, number: u64, lane: Lane, ask: &Ask) -> Result<(), BackendError>;

    /// Goes on with all questions taken up, on so many threads.
    fn step(&mut self, threads: usize) -> Vec<(u64, Event)>;

    /// Forgets a question.
    fn cancel(&mut self, number: u64);
}

/// Why a question was not taken.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refused {
    #[error("{0} questions wait already; ask again in a moment")]
    Full(usize),
    #[error("no model `{0}` is loaded")]
    NoLane(String),
    #[error("the model is being unloaded")]
    Closing,
    /// The thread that owned the model broke down, and why.
    #[error("{0}")]
    Broken(String),
}

struct Waiting {
    lane: Lane,
    ask: Ask,
    to: UnboundedSender<Event>,
    since: Instant,
}

enum Order {
    Add(String, AdapterRef, oneshot::Sender<Result<(), BackendError>>),
    Remove(String),
}

#[derive(Default)]
struct Line {
    waiting: VecDeque<Waiting>,
    orders: Vec<Order>,
    lanes: Vec<(String, Lane)>,
    under_way: usize,
    threads: usize,
    closing: bool,
    broken: Option<String>,
    figures: Figures,
}

struct Shared {
    line: Mutex<Line>,
    wake: Condvar,
    bounds: Bounds,
}

impl Shared {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way to a model's thread. The thread ends when it is closed, or the last of these is dropped.
#[derive(Clone)]
pub struct Resident {
    shared: Arc<Shared>,
    last: Arc<Closer>,
}

/// Ends the thread with the last handle.
struct Closer(Arc<Shared>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.line().closing = true;
        self.0.wake.notify_all();
    }
}

impl std::fmt::Debug for Resident {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resident").field("bounds", &self.shared.bounds).finish_non_exhaustive()
    }
}

impl Resident {
    /// Starts the thread. `open` loads the model on it; its base is called so.
    ///
    /// # Errors
    /// What `open` says, or a thread that cannot be made.
    pub fn start<S: Stepper>(
        base: &str,
        threads: usize,
        bounds: Bounds,
        open: impl FnOnce() -> Result<S, BackendError> + Send + 'static,
    ) -> Result<Self, BackendError> {
        let line =
            Line { lanes: vec![(base.to_owned(), Lane::BASE)], threads: threads.max(1), ..Line::default() };
        let shared = Arc::new(Shared { line: Mutex::new(line), wake: Condvar::new(), bounds });
        let (told, opened) = std::sync::mpsc::channel();
        let mine = shared.clone();
        let work = move || match open() {
            Err(error) => drop(told.send(Err(error))),
            Ok(stepper) => {
                let _ = told.send(Ok(()));
                drop(told);
                live(&mine, stepper);
            }
        };
        std::thread::Builder::new()
            .name("model".into())
            .stack_size(8 << 20)
            .spawn(work)
            .map_err(|e| BackendError(format!("no thread for the model: {e}")))?;
        opened
            .recv()
            .unwrap_or_else(|_| Err(BackendError("the model's thread broke down while loading".into())))?;
        Ok(Self { last: Arc::new(Closer(shared.clone())), shared })
    }

    /// Puts an adapter beside the base under a name. Answers under way go on meanwhile, but for the time it takes to read.
    ///
    /// # Errors
    /// An adapter that cannot be read or does not fit; a thread that is gone.
    pub fn add_lane(&self, name: &str, adapter: &AdapterRef) -> Result<(), BackendError> {
        let (told, done) = oneshot::channel();
        {
            let mut line = self.shared.line();
            if line.lanes.iter().any(|(known, _)| known == name) {
                return Err(BackendError(format!("`{name}` is loaded already")));
            }
            if let Some(why) = gone(&line) {
                return Err(BackendError(why.to_string()));
            }
            line.orders.push(Order::Add(name.to_owned(), adapter.clone(), told));
        }
        self.shared.wake.notify_all();
        done.blocking_recv().unwrap_or_else(|_| Err(BackendError("the model was unloaded".into())))
    }

    /// Takes an adapter away, unless a question waits for it or is being answered by it.
    pub fn remove_lane(&self, name: &str) {
        self.shared.line().orders.push(Order::Remove(name.to_owned()));
        self.shared.wake.notify_all();
    }

    /// Names of the lanes, the base first.
    pub fn lanes(&self) -> Vec<String> {
        self.shared.line().lanes.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Asks; the answer comes in pieces. Dropping the receiver takes the question back.
    ///
    /// # Errors
    /// The line is full, or there is no such lane; nothing was asked.
    pub fn submit(&self, lane: &str, ask: Ask) -> Result<UnboundedReceiver<Event>, Refused> {
        self.submit_all(lane, vec![ask]).map(|mut all| all.remove(0))
    }

    /// Asks several questions, or none of them where not all find room.
    ///
    /// # Errors
    /// As [`Resident::submit`].
    pub fn submit_all(&self, lane: &str, asks: Vec<Ask>) -> Result<Vec<UnboundedReceiver<Event>>, Refused> {
        let mut line = self.shared.line();
        if let Some(why) = gone(&line) {
            return Err(why);
        }
        let Some(&(_, place)) = line.lanes.iter().find(|(name, _)| name == lane) else {
            return Err(Refused::NoLane(lane.to_owned()));
        };
        line.waiting.retain(|w| !w.to.is_closed());
        // Those that can be taken up at once do not wait.
        let free = self.shared.bounds.at_once.saturating_sub(line.under_way);
        let room = (self.shared.bounds.waiting + free).saturating_sub(line.waiting.len());
        if asks.len() > room {
            line.figures.refused += asks.len() as u64;
            return Err(Refused::Full(line.waiting.len()));
        }
        let since = Instant::now();
        let receivers = asks
            .into_iter()
            .map(|ask| {
                let (to, receiver) = unbounded_channel();
                line.waiting.push_back(Waiting { lane: place, ask, to, since });
                receiver
            })
            .collect();
        drop(line);
        self.shared.wake.notify_all();
        Ok(receivers)
    }

    /// Threads for the steps from now on.
    pub fn use_threads(&self, threads: usize) {
        self.shared.line().threads = threads.max(1);
    }

    /// Nobody holds it but who asks.
    pub(super) fn is_held_once(&self) -> bool {
        Arc::strong_count(&self.last) == 1
    }

    /// Takes no more questions; the thread ends when those it has are answered.
    pub fn close(&self) {
        self.shared.line().closing = true;
        self.shared.wake.notify_all();
    }

    /// Questions that wait, and that are being answered.
    pub fn load(&self) -> (usize, usize) {
        let line = self.shared.line();
        (line.waiting.len(), line.under_way)
    }

    /// What broke the thread, if it did.
    pub fn fault(&self) -> Option<String> {
        self.shared.line().broken.clone()
    }

    pub fn figures(&self) -> Figures {
        let line = self.shared.line();
        let mut figures = line.figures.clone();
        (figures.waiting, figures.under_way) = (line.waiting.len(), line.under_way);
        figures
    }
}

fn gone(line: &Line) -> Option<Refused> {
    match &line.broken {
        Some(why) => Some(Refused::Broken(why.clone())),
        None => line.closing.then_some(Refused::Closing),
    }
}

/// A question that the stepper has.
struct UnderWay {
    number: u64,
    lane: Lane,
    to: UnboundedSender<Event>,
    since: Instant,
    began: bool,
}

/// The thread's life. A panic of the model is its end, told to all who wait.
fn live(shared: &Shared, mut stepper: impl Stepper) {
    let mut under_way: Vec<UnderWay> = Vec::new();
    let lived = catch_unwind(AssertUnwindSafe(|| {
        let mut number = 0;
        while let Some((orders, asked, threads)) = next(shared, &mut under_way, &mut stepper) {
            for order in orders {
                match order {
                    Order::Add(name, adapter, told) => {
                        let added = stepper.add_lane(&adapter);
                        if let Ok(place) = added {
                            shared.line().lanes.push((name, place));
                        }
                        let _ = told.send(added.map(drop));
                    }
                    Order::Remove(name) => {
                        let mut line = shared.line();
                        let Some(at) = line.lanes.iter().position(|(known, _)| *known == name) else {
                            continue;
                        };
                        let place = line.lanes[at].1;
                        let wanted = line.waiting.iter().chain(&asked).any(|one| one.lane == place)
                            || under_way.iter().any(|one| one.lane == place);
                        if !wanted && place != Lane::BASE {
                            line.lanes.remove(at);
                            stepper.remove_lane(place);
                        }
                    }
                }
            }
            for Waiting { lane, ask, to, since } in asked {
                number += 1;
                match stepper.submit(number, lane, &ask) {
                    Ok(()) => under_way.push(UnderWay { number, lane, to, since, began: false }),
                    Err(error) => {
                        let _ = to.send(Event::Failed(error));
                        shared.line().figures.failed += 1;
                    }
                }
            }
            let events = if under_way.is_empty() { Vec::new() } else { stepper.step(threads) };
            tell(shared, &mut under_way, events);
        }
    }));
    let mut line = shared.line();
    if let Err(panic) = lived {
        let said = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        let why = format!("internal error of the model's thread: {}", said.unwrap_or("unknown panic"));
        for UnderWay { to, .. } in under_way {
            let _ = to.send(Event::Failed(BackendError(why.clone())));
        }
        line.broken = Some(why);
    }
    line.closing = true;
    line.under_way = 0;
    let why = line.broken.clone().unwrap_or_else(|| Refused::Closing.to_string());
    for Waiting { to, .. } in line.waiting.drain(..) {
        let _ = to.send(Event::Failed(BackendError(why.clone())));
    }
    line.orders.clear();
}

/// What to do next; waits while there is nothing. None: all is answered and no more will come.
fn next(
    shared: &Shared,
    under_way: &mut Vec<UnderWay>,
    stepper: &mut impl Stepper,
) -> Option<(Vec<Order>, Vec<Waiting>, usize)> {
    let mut line = shared.line();
    loop {
        let before = under_way.len() + line.waiting.len();
        under_way.retain(|one| {
            let wanted = !one.to.is_closed();
            if !wanted {
                stepper.cancel(one.number);
            }
            wanted
        });
        line.waiting.retain(|one| !one.to.is_closed());
        line.figures.cancelled += (before - under_way.len() - line.waiting.len()) as u64;
        line.under_way = under_way.len();
        let orders = std::mem::take(&mut line.orders);
        let free = shared.bounds.at_once.max(1).saturating_sub(under_way.len());
        let n = free.min(line.waiting.len());
        let asked: Vec<Waiting> = line.waiting.drain(..n).collect();
        if !orders.is_empty() || !asked.is_empty() || !under_way.is_empty() {
            line.under_way += asked.len();
            return Some((orders, asked, line.threads));
        }
        if line.closing {
            return None;
        }
        line = shared.wake.wait(line).unwrap_or_else(PoisonError::into_inner);
    }
}

/// Hands out what a step made.
fn tell(shared: &Shared, under_way: &mut Vec<UnderWay>, events: Vec<(u64, Event)>) {
    let mut line = shared.line();
    for (number, event) in events {
        let Some(at) = under_way.iter().position(|one| one.number == number) else { continue };
        let one = &mut under_way[at];
        if !one.began && !matches!(event, Event::Failed(_)) {
            one.began = true;
            line.figures.first_token(one.since.elapsed());
        }
        let last = match &event {
            Event::Text { .. } => false,
            Event::Finished(answer) => {
                line.figures.finished(answer);
                true
            }
            Event::Failed(_) => {
                line.figures.failed += 1;
                true
            }
        };
        let _ = one.to.send(event);
        if last {
            under_way.swap_remove(at);
        }
    }
    line.under_way = under_way.len();
}

mod figures {
    //! How a resident fares.

    use std::collections::{BTreeMap, VecDeque};
    use std::time::{Duration, Instant};

    use super::Answer;

    /// First tokens that percentiles are taken over.
    const LATEST: usize = 512;
    /// Time over which tokens per second are counted.
    const RECENT: Duration = Duration::from_secs(10);

    /// Counts since the start, and the latest times.
    #[derive(Clone, Debug, Default)]
    pub struct Figures {
        pub answered: u64,
        pub failed: u64,
        pub cancelled: u64,
        pub refused: u64,
        pub tokens_in: u64,
        pub tokens_out: u64,
        pub waiting: usize,
        pub under_way: usize,
        /// From the asking to the first token, waiting included.
        ttft_ms: VecDeque<f64>,
        /// When answers ended, and how many tokens they had.
        recent: VecDeque<(Instant, u64)>,
    }

    impl Figures {
        pub(super) fn first_token(&mut self, after: Duration) {
            self.ttft_ms.push_back(after.as_secs_f64() * 1e3);
            if self.ttft_ms.len() > LATEST {
                self.ttft_ms.pop_front();
            }
        }

        pub(super) fn finished(&mut self, answer: &Answer) {
            self.answered += 1;
            self.tokens_in += answer.tokens_in;
            self.tokens_out += answer.tokens_out;
            self.recent.push_back((Instant::now(), answer.tokens_out));
            while self.recent.len() > 4096 || self.recent.front().is_some_and(|(at, _)| at.elapsed() > RECENT)
            {
                self.recent.pop_front();
            }
        }

        /// Counts of two models together.
        #[must_use]
        pub fn and(mut self, other: Self) -> Self {
            self.answered += other.answered;
            self.failed += other.failed;
            self.cancelled += other.cancelled;
            self.refused += other.refused;
            self.tokens_in += other.tokens_in;
            self.tokens_out += other.tokens_out;
            self.waiting += other.waiting;
            self.under_way += other.under_way;
            self.ttft_ms.extend(other.ttft_ms);
            self.recent.extend(other.recent);
            self
        }

        /// By name, as a run tells them.
        pub fn metrics(&self) -> BTreeMap<String, f64> {
            let recent: u64 =
                self.recent.iter().filter(|(at, _)| at.elapsed() <= RECENT).map(|(_, tokens)| tokens).sum();
            let mut metrics = BTreeMap::from(
                [
                    ("answered", self.answered as f64),
                    ("failed", self.failed as f64),
                    ("cancelled", self.cancelled as f64),
                    ("refused", self.refused as f64),
                    ("tokens_in", self.tokens_in as f64),
                    ("tokens_out", self.tokens_out as f64),
                    ("tokens_per_s", recent as f64 / RECENT.as_secs_f64()),
                    ("waiting", self.waiting as f64),
                    ("under_way", self.under_way as f64),
                ]
                .map(|(name, value)| (name.to_owned(), value)),
            );
            let mut times: Vec<f64> = self.ttft_ms.iter().copied().collect();
            times.sort_by(f64::total_cmp);
            for (name, share) in [("ttft_p50_ms", 0.5), ("ttft_p95_ms", 0.95)] {
                // The nearest rank, as the board's latencies are taken.
                let rank = (share * times.len() as f64).ceil() as usize;
                if let Some(value) = times.get(rank.saturating_sub(1)) {
                    metrics.insert(name.to_owned(), *value);
                }
            }
            metrics
        }
    }
}

#[cfg(test)]
mod tests;
