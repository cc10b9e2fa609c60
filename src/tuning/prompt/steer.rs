//! What people change while a prompt run runs: hints, pins, lanes, the budget, lessons.
//!
//! Changes are taken before an epoch and between the rounds of a race, and stand in the log by the number of that look: a run that is
//! taken up again makes each where it was made before.

use super::climb::Climb;
use super::examiner::{Examiner, Halt};
use super::guards::holds_pin;
use super::proposer::Draft;
use crate::domain::event::EventBody;
use crate::domain::prompt::{Fate, Lesson, PromptNews};
use crate::domain::steer::{Change, Limit};

/// Words of a hint that its edit is called by.
const SHORT: usize = 48;

impl Climb<'_> {
    /// Do what was asked for since the last look. Returns the versions that are to leave a race.
    pub(super) fn take_changes(
        &mut self,
        epoch: usize,
        examiner: &mut dyn Examiner,
    ) -> Result<Vec<usize>, Halt> {
        let mut killed = Vec::new();
        for change in examiner.steer()? {
            let done = match &change {
                Change::Hint(words) => {
                    self.hints.push(words.clone());
                    self.hints_due.push(words.clone());
                    Ok(())
                }
                Change::Pin(words) => self.pin(words),
                Change::Kill(version) => self.kill(version).map(|node| killed.push(node)),
                Change::Budget(limit) => {
                    self.raise(*limit);
                    examiner.set_budget(self.budget);
                    Ok(())
                }
                Change::Lesson { version, words } => match self.teach(epoch, version, words) {
                    Ok(Some(lesson)) => {
                        examiner.tell(PromptNews::Lesson { lesson })?;
                        Ok(())
                    }
                    Ok(None) => Ok(()),
                    Err(why) => Err(why),
                },
                Change::LearningRate(_) | Change::LearningRateTimes(_) | Change::Weight { .. } => {
                    Err("only a training takes it".to_owned())
                }
                Change::PerRow(_) => Err("only a run that grows rows takes it".to_owned()),
            };
            examiner.say(EventBody::Change { step: epoch as u64, change, refused: done.err() })?;
        }
        Ok(killed)
    }

    /// Words that must stay from now on. Survivors that have lost them go.
    fn pin(&mut self, words: &str) -> Result<(), String> {
        let pin = [words.to_owned()];
        let holds = |climb: &Self, node: usize, stage: &str| {
            climb.nodes.get(node).and_then(|n| n.texts.get(stage)).is_some_and(|text| holds_pin(text, &pin))
        };
        let stages: Vec<String> = self
            .tuned
            .iter()
            .filter(|stage| self.survivors.iter().any(|node| holds(self, *node, stage)))
            .cloned()
            .collect();
        if stages.is_empty() {
            return Err("the words stand in none of the versions that survive".into());
        }
        for stage in stages {
            if let Some(guard) = self.guards.get_mut(&stage) {
                guard.pin(words);
            }
            self.pins.entry(stage.clone()).or_default().push(words.to_owned());
            let (stay, go): (Vec<usize>, Vec<usize>) =
                self.survivors.iter().partition(|node| holds(self, **node, &stage));
            self.survivors = stay;
            for node in go {
                self.nodes[node].version.fate = Fate::Beaten;
            }
            self.late_pins.push((stage, words.to_owned()));
        }
        Ok(())
    }

    /// The version holds all that was pinned in mid-run.
    pub(super) fn keeps_late_pins(&self, node: usize) -> bool {
        let texts = self.nodes.get(node).map(|node| &node.texts);
        self.late_pins.iter().all(|(stage, words)| {
            texts
                .and_then(|texts| texts.get(stage))
                .is_some_and(|text| holds_pin(text, std::slice::from_ref(words)))
        })
    }

    fn kill(&mut self, version: &str) -> Result<usize, String> {
        let node = self
            .nodes
            .iter()
            .position(|node| node.version.id == version)
            .ok_or_else(|| format!("there is no version {version}"))?;
        if let Some(at) = self.survivors.iter().position(|other| *other == node) {
            if self.survivors.len() == 1 {
                return Err(format!("{version} is the only one that is left"));
            }
            self.survivors.remove(at);
            self.nodes[node].version.fate = Fate::Dropped;
        } else if self.nodes[node].version.fate != Fate::Open {
            return Err(format!("{version} has left the race already"));
        }
        Ok(node)
    }

    /// Another limit. Where a small budget had cut epochs, there may be some more now.
    fn raise(&mut self, limit: Limit) {
        match limit {
            Limit::Calls(n) => self.budget.calls = Some(n),
            Limit::Tokens(n) => self.budget.tokens = Some(n),
            Limit::Usd(usd) => self.budget.usd = Some(usd),
            Limit::Seconds(n) => self.budget.seconds = Some(n),
        }
        self.plan.extend(self.settings.epochs);
    }

    fn teach(&mut self, epoch: usize, version: &str, words: &str) -> Result<Option<Lesson>, String> {
        let lessons = &mut self.memory.lessons;
        let known = lessons.iter().position(|lesson| lesson.version == version);
        if words.is_empty() {
            let at = known.ok_or_else(|| format!("nothing was learned of {version}"))?;
            let forgotten = Lesson { edit: String::new(), ..lessons.remove(at) };
            return Ok(Some(forgotten));
        }
        if let Some(lesson) = known.and_then(|at| lessons.get_mut(at)) {
            words.clone_into(&mut lesson.edit);
            return Ok(Some(lesson.clone()));
        }
        if !self.nodes.iter().any(|node| node.version.id == version) {
            return Err(format!("there is no version {version}"));
        }
        let lesson = Lesson {
            epoch,
            version: version.to_owned(),
            proposer: "a person".into(),
            edit: words.to_owned(),
            gain: 0.0,
            n: 0,
        };
        lessons.push(lesson.clone());
        Ok(Some(lesson))
    }

    /// New hints as clauses of the best survivor, one for each stage that is tuned.
    pub(super) fn hinted(&mut self) -> Vec<Draft> {
        let mut drafts = Vec::new();
        let Some(&parent) = self.survivors.first() else { return drafts };
        for hint in std::mem::take(&mut self.hints_due) {
            for stage in &self.tuned {
                let pins = self.pins.get(stage).map_or(&[][..], Vec::as_slice);
                let Some(text) = self.nodes.get(parent).and_then(|node| node.texts.get(stage)) else {
                    continue;
                };
                let mut clauses = super::clauses::Clauses::parse(text, pins);
                clauses.insert(clauses.input_at(), &hint);
                let mut texts = self.nodes[parent].texts.clone();
                texts.insert(stage.clone(), clauses.text());
                let short: String = hint.chars().take(SHORT).collect();
                drafts.push(Draft { texts, parents: vec![parent], edit: format!("hint: {short}") });
            }
        }
        drafts
    }
}
