//! One candidate's answer as it comes, and what a person said of it.

use crate::domain::outcome::StageOutcome;
use crate::domain::play::{PlayBody, PlayToken, Playing};

/// A stage of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StageRun {
    pub name: String,
    pub prompt: String,
    /// What the model said so far; at the end what the stage made of it.
    pub text: String,
    /// At its end.
    pub outcome: Option<StageOutcome>,
    pub tokens: Vec<PlayToken>,
}

/// Where an answer stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Standing {
    /// Nothing was heard yet; why, where that is known.
    #[default]
    Waiting,
    WaitingFor(String),
    Streaming,
    Done(String),
    Failed(String),
}

/// Time to the first token, time per token after it, tokens read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    pub ttft_ms: Option<f64>,
    pub per_token_ms: Option<f64>,
    pub tokens_in: u64,
    pub tokens_out: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Number of its question.
    pub id: u64,
    /// The candidate's name, as it was asked for until the engine says which one that is.
    pub candidate: String,
    /// What was asked, and of which row.
    pub row: Option<String>,
    pub input: String,
    pub gold: Option<String>,
    pub labels: Vec<String>,
    /// Names of the candidate's stages.
    pub plan: Vec<String>,
    /// Stages that have begun.
    pub stages: Vec<StageRun>,
    pub standing: Standing,
    pub asked_ms: u64,
    /// When its first token was heard.
    pub first_ms: Option<u64>,
    pub good: Option<bool>,
    pub edit: Option<String>,
}

impl Answer {
    pub fn new(id: u64, candidate: String, row: Option<String>, input: String, now_ms: u64) -> Self {
        Self { id, candidate, row, input, asked_ms: now_ms, ..Self::default() }
    }

    pub const fn is_open(&self) -> bool {
        !matches!(self.standing, Standing::Done(_) | Standing::Failed(_))
    }

    /// What was answered, at its end.
    pub fn output(&self) -> Option<&str> {
        if let Standing::Done(output) = &self.standing { Some(output) } else { None }
    }

    pub fn accepted(&mut self, playing: Playing) {
        self.candidate = playing.candidate;
        (self.row, self.input, self.gold) = (playing.row, playing.input, playing.gold);
        (self.labels, self.plan) = (playing.labels, playing.stages);
    }

    pub fn fail(&mut self, error: String) {
        if self.is_open() {
            self.standing = Standing::Failed(error);
        }
    }

    /// A piece of news. What comes after the end is no news.
    pub fn heard(&mut self, body: PlayBody, now_ms: u64) {
        if !self.is_open() {
            return;
        }
        match body {
            PlayBody::Waiting { why } => self.standing = Standing::WaitingFor(why),
            PlayBody::Prompt { stage, prompt } => {
                self.standing = Standing::Streaming;
                // Asked again: what it said before could not be read.
                let run = self.stage(stage.clone());
                *run = StageRun { name: stage, prompt, ..StageRun::default() };
            }
            PlayBody::Piece { stage, text } => {
                self.standing = Standing::Streaming;
                self.first_ms.get_or_insert(now_ms);
                self.stage(stage).text.push_str(&text);
            }
            PlayBody::Stage { outcome, tokens } => {
                self.standing = Standing::Streaming;
                let run = self.stage(outcome.stage.clone());
                if !outcome.output.is_empty() || outcome.skipped {
                    run.text.clone_from(&outcome.output);
                }
                (run.outcome, run.tokens) = (Some(outcome), tokens);
            }
            PlayBody::Done { output } => self.standing = Standing::Done(output),
            PlayBody::Failed { error } => self.standing = Standing::Failed(error),
        }
    }

    /// The stage of this name, which begins now if it has not.
    fn stage(&mut self, name: String) -> &mut StageRun {
        let at = self.stages.iter().position(|s| s.name == name).unwrap_or_else(|| {
            self.stages.push(StageRun { name, ..StageRun::default() });
            self.stages.len() - 1
        });
        &mut self.stages[at]
    }

    /// The stage that is answering, with its number and the number of all.
    pub fn current(&self) -> Option<(&str, usize, usize)> {
        let last = self.stages.last().filter(|s| s.outcome.is_none() && self.is_open())?;
        let at = self.plan.iter().position(|name| *name == last.name).unwrap_or(self.stages.len() - 1);
        Some((&last.name, at + 1, self.plan.len().max(self.stages.len())))
    }

    /// As far as they are known; before the first stage has ended, as they were seen from here.
    pub fn figures(&self) -> Figures {
        let outcomes = || self.stages.iter().filter_map(|s| s.outcome.as_ref()).filter(|o| !o.skipped);
        let seen = self.first_ms.map(|first| first.saturating_sub(self.asked_ms) as f64);
        // The first token of a stage is waited for, those after it are written.
        let (mut ms, mut steps) = (0.0, 0);
        for outcome in outcomes() {
            ms += (outcome.ms - outcome.ttft_ms).max(0.0);
            steps += outcome.tokens_out.saturating_sub(1);
        }
        Figures {
            ttft_ms: outcomes().next().map(|o| o.ttft_ms).or(seen),
            per_token_ms: (steps > 0).then(|| ms / steps as f64),
            tokens_in: outcomes().map(|o| o.tokens_in).sum(),
            tokens_out: outcomes().map(|o| o.tokens_out).sum(),
        }
    }

    /// Every token with its probability, and the number of its stage.
    pub fn tokens(&self) -> impl Iterator<Item = (usize, &PlayToken)> {
        self.stages.iter().enumerate().flat_map(|(i, stage)| stage.tokens.iter().map(move |t| (i, t)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(stage: &str, text: &str) -> PlayBody {
        PlayBody::Piece { stage: stage.into(), text: text.into() }
    }

    fn prompt(stage: &str) -> PlayBody {
        PlayBody::Prompt { stage: stage.into(), prompt: "Sort: hello".into() }
    }

    fn end(stage: &str, output: &str, [tokens_out, ttft, ms]: [u64; 3]) -> PlayBody {
        let outcome = StageOutcome {
            stage: stage.into(),
            output: output.into(),
            tokens_in: 10,
            tokens_out,
            ttft_ms: ttft as f64,
            ms: ms as f64,
            ..StageOutcome::default()
        };
        PlayBody::Stage { outcome, tokens: vec![PlayToken::default(); 2] }
    }

    #[test]
    fn stages_follow_one_another_and_a_stage_asked_again_begins_anew() {
        let mut answer = Answer::new(3, "base".into(), None, "hello".into(), 1000);
        answer.accepted(Playing { stages: vec!["route".into(), "solve".into()], ..Playing::default() });
        answer.heard(PlayBody::Waiting { why: "the model is loaded".into() }, 1010);
        assert_eq!(answer.current(), None);
        for body in [prompt("route"), piece("route", "ca"), prompt("route"), piece("route", "car")] {
            answer.heard(body, 1040);
        }
        assert_eq!((answer.stages[0].text.as_str(), answer.current()), ("car", Some(("route", 1, 2))));
        assert_eq!(answer.figures().ttft_ms, Some(40.0), "as seen from here");
        answer.heard(end("route", "cards", [3, 20, 40]), 1050);
        answer.heard(prompt("solve"), 1060);
        answer.heard(piece("solve", "We send "), 1070);
        assert_eq!(answer.current(), Some(("solve", 2, 2)));
        answer.heard(end("solve", "We send one.", [6, 30, 130]), 1080);
        answer.heard(PlayBody::Done { output: "We send one.".into() }, 1090);
        let figures = answer.figures();
        assert_eq!((figures.ttft_ms, figures.tokens_in, figures.tokens_out), (Some(20.0), 20, 9));
        // 20 ms for 2 tokens and 100 ms for 5.
        assert_eq!(figures.per_token_ms, Some(120.0 / 7.0));
        assert_eq!(answer.tokens().map(|(stage, _)| stage).collect::<Vec<_>>(), [0, 0, 1, 1]);
        answer.heard(PlayBody::Failed { error: "late".into() }, 1100);
        assert_eq!(answer.output(), Some("We send one."));
    }
}
