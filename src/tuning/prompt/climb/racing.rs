//! Newcomers against each other: on few rows first, and on more as long as it is not told who is better.

use super::Climb;
use crate::domain::event::EventBody;
use crate::domain::prompt::{Fate, Lane, PromptNews};
use crate::tuning::prompt::examiner::{Examiner, Halt};
use crate::tuning::prompt::race::{Bet, Drawn, is_out_of_reach, order};

/// Rows of a round of a race.
const ROUND: std::ops::RangeInclusive<usize> = 5..=16;
/// Rows on which ideas that cost nothing are screened before the first race.
const SCREEN: usize = 10;
/// A budget of fewer calls, of each stage, is too small for that.
const SCREENED_FROM: u64 = 800;

/// A newcomer in a race.
struct Runner {
    node: usize,
    bet: Bet,
    sum: f64,
    seen: usize,
    runs: bool,
}

impl Climb<'_> {
    /// Ideas that cost nothing are many: before the first race all of a proposer's stock is asked on a few rows, and the best of it
    /// enters. A model may know a task by one name of many, which a fan-out would come to late or never.
    pub(super) fn screen(&mut self, race: &[usize], examiner: &mut dyn Examiner) -> Result<Vec<usize>, Halt> {
        let few = self.settings.budget.calls.is_some_and(|n| n < SCREENED_FROM * self.stages.len() as u64);
        let mut screened = Vec::new();
        for at in 0..self.proposers.len() {
            let stock = if few { 0 } else { self.proposers[at].stock() * self.tuned.len() };
            if stock == 0 {
                continue;
            }
            for draft in self.drafts(at, &vec![0; stock], stock, examiner)? {
                if let Some(node) = self.admit(1, Some(at), draft) {
                    examiner.tell(PromptNews::Version { version: self.nodes[node].told() })?;
                    screened.push(node);
                }
            }
        }
        let rows: Vec<usize> = race.iter().copied().take(SCREEN).collect();
        examiner.begin(self.phase(1, "screening"), screened.len() * rows.len());
        for &node in &screened {
            self.ask(node, &rows, examiner)?;
        }
        screened.sort_by(|&a, &b| self.rank(a, b, &rows).then(a.cmp(&b)));
        let out = screened.split_off(screened.len().min((self.plan.fan_out / 4).max(1)));
        if !out.is_empty() {
            let message = format!(
                "{} wordings were screened on {} rows: {} enter the race",
                screened.len() + out.len(),
                rows.len(),
                screened.len()
            );
            examiner.say(EventBody::Log { message })?;
        }
        for node in out {
            self.nodes[node].version.fate = Fate::Dropped;
            self.nodes[node].version.selected = self.score(node, &rows);
            self.learn(1, node, &rows);
            // It never came to a race, so it says nothing of what its proposer wins there.
            if let Some(at) = self.nodes[node].proposer {
                self.records[at].0 -= 1;
            }
        }
        Ok(screened)
    }

    /// Newcomers against the incumbents on the rows of a race; those that are best on them survive.
    pub(super) fn race(
        &mut self,
        epoch: usize,
        race: &[usize],
        newcomers: &[usize],
        examiner: &mut dyn Examiner,
    ) -> Result<(), Halt> {
        let n = race.len();
        let incumbents = self.survivors.clone();
        let mean = |climb: &Self, node: usize| climb.score(node, race).map_or(0.0, |score| score.mean);
        let mut means: Vec<f64> = incumbents.iter().map(|node| mean(self, *node)).collect();
        let best = incumbents
            .iter()
            .copied()
            .max_by(|a, b| mean(self, *a).total_cmp(&mean(self, *b)).then(b.cmp(a)));
        let best = best.unwrap_or(0);
        means.sort_by(|a, b| b.total_cmp(a));
        let least = means.get(self.settings.survivors.saturating_sub(1)).copied();
        let differ = |row: usize| {
            let mut scores =
                incumbents.iter().filter_map(|node| Some(self.nodes.get(*node)?.marks.get(&row)?.score));
            let first = scores.next();
            scores.any(|score| Some(score) != first)
        };
        let telling: Vec<(usize, bool)> = race.iter().map(|&row| (row, differ(row))).collect();
        let drawn = order(&telling, &mut self.rng);
        let mut runners: Vec<Runner> = newcomers
            .iter()
            .map(|&node| Runner { node, bet: Bet::new(n), sum: 0.0, seen: 0, runs: true })
            .collect();
        for (round, block) in drawn.chunks((n / 6).clamp(*ROUND.start(), *ROUND.end())).enumerate() {
            let rows: Vec<usize> = block.iter().map(|d| d.row).collect();
            let running = runners.iter().filter(|runner| runner.runs);
            let open = running.map(|runner| self.unknown(runner.node, &rows)).sum();
            examiner.begin(self.phase(epoch, &format!("race, round {}", round + 1)), open);
            for runner in &mut runners {
                if !runner.runs {
                    continue;
                }
                self.ask(runner.node, &rows, examiner)?;
                for d in block {
                    let of = |node: usize| self.nodes[node].marks.get(&d.row).map_or(0.0, |mark| mark.score);
                    let own = of(runner.node);
                    runner.sum += own;
                    runner.seen += 1;
                    runner.bet.see(of(best) - own, *d);
                }
                let hopeless = least.is_some_and(|least| is_out_of_reach(runner.sum, runner.seen, n, least));
                let dear = self
                    .settings
                    .max_usd_per_1k
                    .is_some_and(|most| self.nodes[runner.node].usd_per_1k() > most);
                if runner.bet.lost() || hopeless || dear {
                    runner.runs = false;
                    self.nodes[runner.node].version.fate = if dear { Fate::Dear } else { Fate::Dropped };
                }
            }
            let seen: usize = (n / 6).clamp(*ROUND.start(), *ROUND.end()) * round + block.len();
            self.tell_race(epoch, round + 1, (seen, n), &incumbents, &runners, &drawn[..seen], examiner)?;
            for killed in self.take_changes(epoch, examiner)? {
                if let Some(runner) = runners.iter_mut().find(|runner| runner.node == killed) {
                    runner.runs = false;
                    self.nodes[killed].version.fate = Fate::Dropped;
                }
            }
            if runners.iter().all(|runner| !runner.runs) {
                break;
            }
        }
        // Somebody may have been killed.
        let incumbents: Vec<usize> =
            incumbents.into_iter().filter(|node| self.survivors.contains(node)).collect();
        for runner in &mut runners {
            if runner.runs && !self.keeps_late_pins(runner.node) {
                runner.runs = false;
                self.nodes[runner.node].version.fate = Fate::Beaten;
            }
        }
        for runner in &runners {
            let seen: Vec<usize> = drawn[..runner.seen].iter().map(|d| d.row).collect();
            self.nodes[runner.node].version.selected = self.score(runner.node, &seen);
            self.learn(epoch, runner.node, &seen);
        }
        // Who ran it all, the best first; of equal ones the shorter, then the older.
        let mut standing: Vec<usize> =
            incumbents.iter().copied().chain(runners.iter().filter(|r| r.runs).map(|r| r.node)).collect();
        for &node in &incumbents {
            self.nodes[node].version.selected = self.score(node, race);
        }
        standing.sort_by(|&a, &b| {
            self.rank(a, b, race).then(self.nodes[a].length().cmp(&self.nodes[b].length())).then(a.cmp(&b))
        });
        let beaten = standing.split_off(self.settings.survivors.min(standing.len()));
        for &node in &standing {
            let version = &mut self.nodes[node].version;
            let is_new = version.fate == Fate::Open;
            version.fate = Fate::Survived;
            if let Some(at) = self.nodes[node].proposer.filter(|_| is_new) {
                self.records[at].1 += 1;
            }
        }
        for node in beaten {
            self.nodes[node].version.fate = Fate::Beaten;
        }
        self.survivors = standing;
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "one call")]
    fn tell_race(
        &self,
        epoch: usize,
        round: usize,
        (seen, of): (usize, usize),
        incumbents: &[usize],
        runners: &[Runner],
        drawn: &[Drawn],
        examiner: &mut dyn Examiner,
    ) -> Result<(), Halt> {
        let rows: Vec<usize> = drawn.iter().map(|d| d.row).collect();
        let lane = |node: usize, runs: bool, n: usize| Lane {
            version: self.nodes[node].version.id.clone(),
            score: self.score(node, &rows[..n.min(rows.len())]).unwrap_or_default(),
            runs,
        };
        let mut lanes: Vec<Lane> = incumbents.iter().map(|&node| lane(node, true, rows.len())).collect();
        lanes.extend(runners.iter().map(|r| lane(r.node, r.runs, r.seen)));
        let (budget, spend) = (self.budget, examiner.spend());
        examiner.tell(PromptNews::Race { epoch, round, rows: seen, of, lanes, budget, spend })?;
        let phase = self.phase(epoch, "race");
        examiner.say(EventBody::Progress { phase, done: seen as u64, total: of as u64, eta_ms: None })
    }
}
