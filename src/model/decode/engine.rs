//! The scheduler: who computes what in the next pass.
//!
//! Each pass takes the next token of every answer under way and fills up with chunks of prompts, so that new requests join while
//! others are answered (continuous batching, Yu et al. 2022, Orca). A request whose beginning is just being computed for another
//! one waits for that. When blocks run out, the youngest request gives its up and is computed again later.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::time::Instant;

use super::batch::{Feed, Next, Wants};
use super::compute::{Compute, OnGpu};
use super::forks::{Forks, Scoring};
use super::held::Held;
use super::pages::{Pages, common};
use super::sequence::{Done, Job, Lane, Request, RequestId, Sequence, Work};
use super::speculation::{DraftModel, Drafter, Lookup, Speculation};
use crate::model::sampling::{Choice, Chosen};
use crate::model::{Decoder, Lora, ModelError};
use crate::ops::Par;

/// How much is done at once.
#[derive(Clone, Debug)]
pub struct Settings {
    pub threads: usize,
    /// None: the CPU.
    pub gpu: Option<OnGpu>,
    /// Bytes of keys and values at most; they are taken as they are needed.
    pub kv_bytes: usize,
    /// The same on a GPU, where they are taken at the start; none: half of what is free there.
    pub gpu_kv_bytes: Option<usize>,
    /// Requests under way at once, at most; the others wait.
    pub requests: usize,
    /// Tokens of a pass at most: bounds its memory, and how long an answer's next token waits for somebody's prompt.
    pub chunk: usize,
    pub speculation: Speculation,
}

impl Settings {
    pub fn threads(threads: usize) -> Self {
        Self { threads, ..Self::default() }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            threads: 1,
            gpu: None,
            kv_bytes: 1 << 30,
            gpu_kv_bytes: None,
            requests: 128,
            chunk: 512,
            speculation: Speculation::default(),
        }
    }
}

/// What came of a step.
#[derive(Debug)]
pub enum Event {
    /// The next token of an answer.
    Token(RequestId, Chosen),
    Done(RequestId, Done),
    Scored(RequestId, Done, Box<dyn Scoring>),
    Failed(RequestId, ModelError),
}

/// An answer, without the token that ended it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generation {
    pub tokens: Vec<u32>,
    pub done: Done,
}

/// Fewer tokens are computed twice rather than waited for.
const WORTH_WAITING: usize = 16;
/// Tokens of a pass up to which guesses are made: with more, computing takes longer than reading the weights.
const GUESSING: usize = 16;

/// One decoder and its adapters, answering many requests.
#[derive(Debug)]
pub struct Engine<'a> {
    decoder: Held<'a, Decoder>,
    adapters: BTreeMap<u32, Held<'a, Lora>>,
    lanes: u32,
    pages: Pages,
    compute: Compute,
    waiting: VecDeque<Sequence>,
    /// In the order in which they came.
    running: Vec<Sequence>,
    draft: Option<DraftModel>,
    settings: Settings,
    requests: u64,
    /// Tokens that went through the model, and passes.
    pub(super) computed: (u64, u64),
}

impl<'a> Engine<'a> {
    /// # Errors
    /// A draft model that does not go with the decoder; no room on the GPU.
    pub fn new(decoder: impl Into<Held<'a, Decoder>>, settings: Settings) -> Result<Self, ModelError> {
        let decoder = decoder.into();
        let draft = settings.speculation.draft.as_ref();
        let gpu = settings.gpu.as_ref();
        let draft = draft.map(|draft| DraftModel::new(draft, &decoder, gpu)).transpose()?;
        let (compute, pages) = Compute::new(&decoder, &settings)?;
        Ok(Self {
            pages,
            compute,
            decoder,
            adapters: BTreeMap::new(),
            lanes: 0,
            waiting: VecDeque::new(),
            running: Vec::new(),
            draft,
            settings,
            requests: 0,
            computed: (0, 0),
        })
    }

    #[cfg(test)]
    pub(super) fn with_pages(mut self, pages: Pages) -> Self {
        self.pages = pages;
        self
    }

    /// On a device, with so many blocks of `block` tokens.
    #[cfg(test)]
    pub(super) fn with_device_blocks(mut self, block: usize, count: usize) -> Self {
        self.compute = self.compute.with_blocks(&self.decoder, block, count);
        self.with_pages(Pages::new(block, count))
    }

    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// A GPU computes.
    pub fn on_gpu(&self) -> bool {
        self.settings.gpu.is_some()
    }

    /// Threads of the passes from now on.
    pub fn use_threads(&mut self, threads: usize) {
        self.settings.threads = threads;
    }

    /// One more adapter beside the base.
    ///
    /// # Errors
    /// An adapter of another model.
    pub fn add_lane(&mut self, adapter: impl Into<Held<'a, Lora>>) -> Result<Lane, ModelError> {
        let adapter = adapter.into();
        adapter.check(&self.decoder)?;
        self.lanes += 1;
        self.adapters.insert(self.lanes, adapter);
        Ok(Lane(self.lanes))
    }

    /// Takes an adapter away; requests that still want it fail in the next step.
    pub fn remove_lane(&mut self, lane: Lane) {
        if self.adapters.remove(&lane.0).is_none() {
            return;
        }
        let (gone, running) = self.running.drain(..).partition(|s| s.lane == lane.0);
        self.running = running;
        let gone: Vec<Sequence> = gone;
        for sequence in gone {
            let sequence = self.withdraw(sequence);
            self.waiting.push_back(sequence);
        }
        self.pages.forget(lane.0);
        self.compute.forget(lane.0);
    }

    /// Hands in a request.
    ///
    /// # Errors
    /// An empty prompt, one with tokens beyond the vocabulary, one that leaves no room for an answer in the model's context or in the
    /// cache; a lane that is not there.
    pub fn submit(&mut self, request: Request) -> Result<RequestId, ModelError> {
        let Request { lane, prompt, work } = request;
        let wrong = |what: String| Err(ModelError::Request(what));
        if lane != Lane::BASE && !self.adapters.contains_key(&lane.0) {
            return wrong("the adapter that was asked for is not there any more".into());
        }
        let (n, context) = (prompt.len(), self.decoder.config.max_positions);
        if n == 0 {
            return wrong("no token to read: the prompt is empty".into());
        }
        if n >= context {
            return wrong(format!(
                "the prompt has {n} tokens and the model's context {context}, so there is no room for an answer; shorten the prompt"
            ));
        }
        self.decoder.check_tokens(&prompt, 0)?;
        if n >= self.pages.capacity() {
            return wrong(format!(
                "the prompt has {n} tokens and the cache of keys and values room for {}; shorten the prompt or give the model more memory",
                self.pages.capacity()
            ));
        }
        let (job, most) = match work {
            Work::Generate { chooser, max_tokens, eos } => {
                let Speculation { lookup, draft } = &self.settings.speculation;
                let guesses = lookup.map_or(0, |l| l.tokens).max(draft.as_ref().map_or(0, |d| d.tokens));
                // A drawn token is seldom the guessed one.
                let drafter = (chooser.is_greedy() && guesses > 0).then(|| Drafter::new(guesses));
                (Job::Generate { chooser, eos, drafter }, n + max_tokens.min(context - n))
            }
            Work::Score(scoring) => (Job::Score(Forks::new(scoring)), n),
        };
        let id = RequestId(self.requests);
        self.requests += 1;
        self.waiting.push_back(Sequence {
            id,
            lane: lane.0,
            tokens: prompt,
            most,
            table: Default::default(),
            job,
            behind: None,
            submitted: Instant::now(),
            done: Done::default(),
        });
        Ok(id)
    }

    /// Ends a request; nothing more comes of it. What it took so far, if it was not over yet.
    pub fn cancel(&mut self, id: RequestId) -> Option<Done> {
        let sequence = if let Some(at) = self.waiting.iter().position(|s| s.id == id) {
            self.waiting.remove(at)?
        } else {
            let at = self.running.iter().position(|s| s.id == id)?;
            self.running.remove(at)
        };
        let done = Done { ms: sequence.ms(), ..sequence.done };
        self.close(sequence);
        Some(done)
    }

    /// Nothing is waiting or under way.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Requests that wait, and that are under way.
    pub fn load(&self) -> (usize, usize) {
        (self.waiting.len(), self.running.len())
    }

    /// One pass, for all who are under way.
    pub fn step(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        self.admit(&mut events);
        let parts = self.plan(&mut events);
        self.compute(parts, &mut events);
        events
    }

    /// Answers all of `requests`, in their order; `hear` gets every token as it comes (place of the request, token) and may break
    /// that answer off.
    pub fn run(
        &mut self,
        requests: Vec<Request>,
        hear: &mut dyn FnMut(usize, u32) -> ControlFlow<()>,
    ) -> Vec<Result<Generation, ModelError>> {
        let mut ids = BTreeMap::new();
        let mut made: Vec<Result<Generation, ModelError>> = Vec::with_capacity(requests.len());
        for request in requests {
            made.push(self.submit(request).map(|id| {
                ids.insert(id, made.len());
                Generation::default()
            }));
        }
        while !self.is_idle() {
            for event in self.step() {
                let (id, end) = match event {
                    Event::Token(id, Chosen { id: token, .. }) => {
                        let Some(&at) = ids.get(&id) else { continue };
                        if let Ok(made) = &mut made[at] {
                            made.tokens.push(token);
                        }
                        if hear(at, token).is_continue() {
                            continue;
                        }
                        (id, Ok(self.cancel(id).unwrap_or_default()))
                    }
                    Event::Done(id, done) | Event::Scored(id, done, _) => (id, Ok(done)),
                    Event::Failed(id, error) => (id, Err(error)),
                };
                if let Some(at) = ids.remove(&id) {
                    match (end, &mut made[at]) {
                        (Ok(done), Ok(made)) => made.done = done,
                        (Err(error), made) => *made = Err(error),
                        (Ok(_), Err(_)) => {}
                    }
                }
            }
        }
        made
    }

    /// Starts those who wait, as far as there is room.
    fn admit(&mut self, events: &mut Vec<Event>) {
        let mut still = VecDeque::new();
        let mut owed: usize = self.running.iter().map(|s| self.owed(s)).sum();
        while let Some(mut sequence) = self.waiting.pop_front() {
            if sequence.lane != 0 && !self.adapters.contains_key(&sequence.lane) {
                let gone = "the adapter of this question was taken away before it was answered";
                events.push(Event::Failed(sequence.id, ModelError::Request(gone.into())));
                continue;
            }
            if matches!(sequence.job, Job::Generate { .. }) && sequence.tokens.len() >= sequence.most {
                sequence.done.ms = sequence.ms();
                events.push(Event::Done(sequence.id, sequence.done));
                continue;
            }
            if self.running.len() >= self.settings.requests {
                still.push_back(sequence);
                break;
            }
            if self.is_behind(&mut sequence) {
                still.push_back(sequence);
                continue;
            }
            sequence.table = self.pages.open(sequence.lane, &sequence.tokens);
            let needed = self.owed(&sequence);
            if self.pages.available() < owed + needed && !self.running.is_empty() {
                let sequence = self.withdraw(sequence);
                still.push_back(sequence);
                break;
            }
            owed += needed;
            if sequence.done.steps == 0 {
                sequence.done.shared = sequence.table.len();
            }
            let at = self.running.partition_point(|s| s.id < sequence.id);
            self.running.insert(at, sequence);
        }
        still.append(&mut self.waiting);
        self.waiting = still;
    }

    /// Blocks that it will still need for what is known of it.
    fn owed(&self, sequence: &Sequence) -> usize {
        self.pages.blocks_for(sequence.tokens.len()).saturating_sub(sequence.table.blocks().len())
    }

    /// Whether somebody is just computing what it begins with.
    fn is_behind(&self, sequence: &mut Sequence) -> bool {
        if let Some((id, n)) = sequence.behind.take()
            && self.running.iter().any(|s| s.id == id && s.table.len() < n)
        {
            sequence.behind = Some((id, n));
            return true;
        }
        let own = &sequence.tokens[..sequence.tokens.len() - 1];
        let ahead = self.running.iter().filter(|s| s.lane == sequence.lane && s.pending() > 1);
        let Some((n, before)) = ahead.map(|s| (common(&s.tokens, own), s)).max_by_key(|(n, _)| *n) else {
            return false;
        };
        // What is there by now may be from somebody else.
        if before.table.len() < n && self.pages.known(sequence.lane, own) + WORTH_WAITING <= n {
            sequence.behind = Some((before.id, n));
        }
        sequence.behind.is_some()
    }

    /// What each of the running computes next, with room for it.
    fn plan(&mut self, events: &mut Vec<Event>) -> Vec<Part> {
        let mut wanted: Vec<Part> =
            self.running.iter().map(|s| Part { new: s.pending().min(1), ..Part::default() }).collect();
        self.guess(&mut wanted);
        let taken: usize = wanted.iter().map(|p| p.new + p.guess.len()).sum();
        let mut room = self.settings.chunk.saturating_sub(taken);
        // Forks come whole or wait for the next pass; those of the oldest come in any case.
        let mut first = true;
        for (part, sequence) in wanted.iter_mut().zip(&self.running) {
            let Job::Score(forks) = &sequence.job else { continue };
            if sequence.pending() == 0 {
                part.waits = !first && forks.tokens.len() > room;
                first = false;
                room = room.saturating_sub(if part.waits { 0 } else { forks.tokens.len() });
            }
        }
        for (part, sequence) in wanted.iter_mut().zip(&self.running) {
            let more = sequence.pending().saturating_sub(1).min(room);
            part.new += more;
            room -= more;
        }
        let mut at = 0;
        while at < self.running.len() {
            let alone = self.running.len() == 1;
            let part = &mut wanted[at];
            let sequence = &mut self.running[at];
            let len = sequence.table.len() + part.new;
            if self.pages.grow(&mut sequence.table, len + part.guess.len()).is_ok() {
                at += 1;
            } else if !part.guess.is_empty() {
                part.guess.clear();
            } else if alone {
                let message = format!(
                    "prompt and answer have come to {len} tokens, and the cache of keys and values has room for {}; give the model more memory, or ask for shorter answers",
                    self.pages.capacity()
                );
                events.push(Event::Failed(sequence.id, ModelError::Request(message)));
                let sequence = self.running.remove(at);
                self.close(sequence);
            } else if let Some(youngest) = self.running.pop() {
                let youngest = self.withdraw(youngest);
                self.waiting.push_front(youngest);
            }
        }
        wanted.truncate(self.running.len());
        wanted
    }

    /// Guesses for those who are at their next token.
    fn guess(&mut self, parts: &mut [Part]) {
        let Speculation { lookup, .. } = self.settings.speculation.clone();
        let busy = self.running.iter().map(|s| s.pending().max(1)).sum::<usize>();
        if busy >= GUESSING {
            return;
        }
        let share = (GUESSING - busy) / self.running.len().max(1);
        let mut asked = Vec::new();
        for (at, sequence) in self.running.iter_mut().enumerate() {
            let left = sequence.most - sequence.tokens.len();
            let pending = sequence.pending();
            let Job::Generate { drafter: Some(drafter), .. } = &mut sequence.job else { continue };
            if pending != 1 || left < 2 {
                continue;
            }
            let n = drafter.wants().min(share).min(left - 1);
            if n == 0 {
                continue;
            }
            parts[at].guess = lookup.map(|l: Lookup| l.guess(&sequence.tokens, n)).unwrap_or_default();
            if parts[at].guess.is_empty() {
                asked.push((at, n));
            }
        }
        if let Some(draft) = &mut self.draft {
            let texts: Vec<_> = asked
                .iter()
                .map(|&(at, n)| {
                    (self.running[at].id, self.running[at].tokens.as_slice(), n.min(draft.tokens))
                })
                .collect();
            let guesses = draft.guess(&texts, self.settings.chunk, Par::threads(self.settings.threads));
            for ((at, _), guess) in asked.into_iter().zip(guesses) {
                parts[at].guess = guess;
            }
        }
    }

    fn compute(&mut self, parts: Vec<Part>, events: &mut Vec<Event>) {
        let tokens: Vec<Vec<u32>> = self
            .running
            .iter()
            .zip(&parts)
            .map(|(s, part)| {
                let new = &s.tokens[s.table.len()..s.table.len() + part.new];
                new.iter().chain(&part.guess).copied().collect()
            })
            .collect();
        let choices: Vec<Option<Choice>> = self
            .running
            .iter_mut()
            .zip(&tokens)
            .map(|(s, tokens)| {
                let last = s.table.len() + tokens.len() >= s.tokens.len();
                let Job::Generate { chooser, .. } = &mut s.job else { return None };
                (self.compute.chooses() && last && !tokens.is_empty())
                    .then(|| chooser.choice(self.decoder.config.vocab))
                    .flatten()
            })
            .collect();
        let feeds: Vec<Feed<'_>> = self
            .running
            .iter()
            .zip(parts.iter().zip(&tokens))
            .zip(&choices)
            .map(|((s, (part, tokens)), choice)| {
                let plain = Feed {
                    table: &s.table,
                    start: s.table.len(),
                    adapter: self.adapters.get(&s.lane).map(|a| &**a),
                    lane: s.lane,
                    tokens,
                    parents: None,
                    wants: Wants::None,
                    choice: choice.as_ref(),
                };
                match &s.job {
                    Job::Score(_) if part.waits => plain,
                    Job::Score(forks) if s.pending() == 0 => {
                        let (tokens, parents) = (&forks.tokens, Some(forks.parents.as_slice()));
                        Feed { tokens, parents, wants: Wants::At(&forks.ends), ..plain }
                    }
                    _ if s.table.len() + tokens.len() < s.tokens.len() => plain,
                    _ if s.pending() == 1 => Feed { wants: Wants::All, ..plain },
                    _ => Feed { wants: Wants::Last, ..plain },
                }
            })
            .collect();
        let par = Par::threads(self.settings.threads);
        self.computed.0 += feeds.iter().map(|f| f.tokens.len() as u64).sum::<u64>();
        self.computed.1 += 1;
        let outcome = match self.compute.pass(&self.decoder, &mut self.pages, &feeds, par) {
            Ok(outcome) => outcome,
            Err(error) => return self.fail_all(&error, events),
        };
        let mut ended = Vec::new();
        for (at, ((sequence, part), tokens)) in self.running.iter_mut().zip(&parts).zip(&tokens).enumerate() {
            let outcome = match &mut sequence.job {
                Job::Score(_) if part.waits => Ok(false),
                Job::Score(forks) if part.new == 0 => forks
                    .take(outcome.logits(at))
                    .and_then(|()| forks.advance(&self.decoder, sequence.tokens.len())),
                Job::Score(forks) => {
                    self.pages.extend(&mut sequence.table, tokens);
                    match outcome.logits(at).next() {
                        Some(row) if forks.prompt.is_none() => {
                            forks.prompt = Some(row.to_vec());
                            sequence.done.ttft_ms = sequence.submitted.elapsed().as_secs_f64() * 1000.0;
                            forks.advance(&self.decoder, sequence.tokens.len())
                        }
                        _ => Ok(false),
                    }
                }
                Job::Generate { .. } => {
                    let right = answer(sequence, outcome.of(at), &part.guess, events);
                    let computed = part.new + right.as_ref().map_or(0, |(right, _)| *right);
                    self.pages.extend(&mut sequence.table, &tokens[..computed]);
                    right.map(|(_, end)| end)
                }
            };
            match outcome {
                Ok(false) => {}
                Ok(true) => ended.push((at, None)),
                Err(error) => ended.push((at, Some(error))),
            }
        }
        for (at, error) in ended.into_iter().rev() {
            let mut sequence = self.running.remove(at);
            sequence.done.ms = sequence.ms();
            let (id, done) = (sequence.id, sequence.done);
            let job = self.close(sequence);
            events.push(match (error, job) {
                (Some(error), _) => Event::Failed(id, error),
                (None, Job::Score(forks)) => Event::Scored(id, done, forks.scoring),
                (None, Job::Generate { .. }) => Event::Done(id, done),
            });
        }
    }

    /// A pass failed: so do all who were in it. Those who wait are tried next.
    fn fail_all(&mut self, error: &ModelError, events: &mut Vec<Event>) {
        for sequence in std::mem::take(&mut self.running) {
            events.push(Event::Failed(sequence.id, ModelError::Request(error.to_string())));
            self.close(sequence);
        }
        // What was to be copied may not have been.
        self.pages.forget_all();
    }

    /// Gives its blocks back.
    fn close(&mut self, sequence: Sequence) -> Job {
        let sequence = self.withdraw(sequence);
        sequence.job
    }

    /// Gives its blocks back; it can be started again.
    fn withdraw(&mut self, mut sequence: Sequence) -> Sequence {
        if let Some(draft) = &mut self.draft {
            draft.close(sequence.id);
        }
        self.pages.close(std::mem::take(&mut sequence.table));
        sequence
    }
}

/// What one of the running computes in a pass.
#[derive(Debug, Default)]
struct Part {
    /// Of its tokens.
    new: usize,
    /// What may follow them.
    guess: Vec<u32>,
    /// Its forks are left for a later pass.
    waits: bool,
}

/// Goes on with an answer: how many of the guesses were right, and whether it ends.
fn answer<'l>(
    sequence: &mut Sequence,
    found: impl Iterator<Item = Next<'l>>,
    guess: &[u32],
    events: &mut Vec<Event>,
) -> Result<(usize, bool), ModelError> {
    let mut right = 0;
    let mut end = false;
    for next in found {
        let Some((chosen, last)) = sequence.choose(next)? else {
            end = true;
            break;
        };
        let as_guessed = guess.get(right) == Some(&chosen.id);
        events.push(Event::Token(sequence.id, chosen));
        end = last;
        if last || !as_guessed {
            break;
        }
        right += 1;
    }
    if let Job::Generate { drafter: Some(drafter), .. } = &mut sequence.job {
        drafter.learn(guess.len(), right);
    }
    Ok((right, end))
}

#[cfg(test)]
mod tests;
