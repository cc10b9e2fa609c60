//! `tuning.jsonl`: every answer that a prompt run got (or one that grows rows), in the order in which it came.
//!
//! The loop is a function of its settings, its seed and these answers. A run that is taken up again goes through the loop from its
//! beginning and finds here what was answered before: nothing is asked, paid or drawn twice, whatever killed it and wherever.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::domain::outcome::Outcome;
use crate::domain::steer::Change;
use crate::store::lines::{self, Appender};

/// Name in the run's folder.
pub const FILE: &str = "tuning.jsonl";

/// What an answer of the critic was.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Said {
    /// None: it failed.
    pub text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub cached: bool,
    pub tokens: u64,
    pub usd: f64,
    /// It ended at the limit of its tokens.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "log", rename_all = "lowercase")]
enum Line {
    /// `key` is the hash of a version's texts; `at` are seconds of work before it.
    Row { key: String, at: f64, usd: f64, outcome: Outcome },
    /// `key` is the hash of the question and of its number.
    Critic { key: String, at: f64, said: Said },
    /// So many calls of endpoints are about to be made.
    Asking { calls: u64 },
    /// They were made, and so many more than their answers count (or fewer).
    Asked { extra: i64 },
    /// What a person asked for at a look: most are empty.
    Steer { turn: u64, changes: Vec<Change> },
    /// The candidate whose outcomes stand in `outcomes.jsonl`.
    Final { candidate: String },
}

/// A row's answer, with what it cost.
#[derive(Clone, Debug)]
pub struct Kept {
    pub at: f64,
    pub usd: f64,
    pub outcome: Outcome,
}

#[derive(Debug)]
pub struct Log {
    appender: Appender,
    rows: HashMap<(String, String), Kept>,
    critic: HashMap<String, (f64, Said)>,
    turns: HashMap<u64, Vec<Change>>,
    taken: usize,
    last: Option<String>,
    /// Calls of endpoints beside those of the answers that stand here: repeated ones, and those whose answers an earlier life did not
    /// live to see.
    pub extra: i64,
}

impl Log {
    pub fn open(run_dir: &Path) -> io::Result<Self> {
        let path = run_dir.join(FILE);
        let (appender, _) = Appender::open(&path)?;
        let mut log = Self {
            appender,
            rows: HashMap::new(),
            critic: HashMap::new(),
            turns: HashMap::new(),
            taken: 0,
            last: None,
            extra: 0,
        };
        let mut under_way = 0;
        let (all, _) = lines::read_all::<Line>(&path)?;
        for line in all {
            match line {
                Line::Row { key, at, usd, outcome } => {
                    log.rows.insert((key, outcome.row.clone()), Kept { at, usd, outcome });
                }
                Line::Critic { key, at, said } => {
                    // It is one of those under way.
                    under_way = (under_way - i64::from(!said.cached)).max(0);
                    log.critic.insert(key, (at, said));
                }
                Line::Asking { calls } => {
                    log.extra += under_way;
                    under_way = i64::try_from(calls).unwrap_or(i64::MAX);
                }
                Line::Asked { extra } => {
                    log.extra += extra;
                    under_way = 0;
                }
                Line::Steer { turn, changes } => {
                    log.taken += changes.len();
                    log.turns.insert(turn, changes);
                }
                Line::Final { candidate } => log.last = Some(candidate),
            }
        }
        log.extra += under_way;
        Ok(log)
    }

    pub fn keep_asking(&mut self, calls: u64) -> io::Result<()> {
        self.appender.append(&Line::Asking { calls }).map(drop)
    }

    pub fn keep_asked(&mut self, extra: i64) -> io::Result<()> {
        self.appender.append(&Line::Asked { extra }).map(drop)
    }

    pub fn row(&self, key: &str, row: &str) -> Option<&Kept> {
        self.rows.get(&(key.to_owned(), row.to_owned()))
    }

    pub fn keep_row(&mut self, key: &str, at: f64, usd: f64, outcome: Outcome) -> io::Result<()> {
        let line = Line::Row { key: key.to_owned(), at, usd, outcome };
        self.appender.append(&line).map(drop)
    }

    pub fn critic(&self, key: &str) -> Option<&(f64, Said)> {
        self.critic.get(key)
    }

    pub fn keep_critic(&mut self, key: &str, at: f64, said: Said) -> io::Result<()> {
        self.appender.append(&Line::Critic { key: key.to_owned(), at, said }).map(drop)
    }

    /// Changes of a look of an earlier life.
    pub fn turn(&self, turn: u64) -> Option<&Vec<Change>> {
        self.turns.get(&turn)
    }

    /// How many changes its looks have found.
    pub const fn taken(&self) -> usize {
        self.taken
    }

    pub fn keep_turn(&mut self, turn: u64, changes: Vec<Change>) -> io::Result<()> {
        self.taken += changes.len();
        self.appender.append(&Line::Steer { turn, changes }).map(drop)
    }

    /// The candidate that was being scored when the run was left.
    pub fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }

    pub fn keep_final(&mut self, candidate: &str) -> io::Result<()> {
        self.appender.append(&Line::Final { candidate: candidate.to_owned() })?;
        self.appender.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_a_dead_life_made_are_counted_once_with_the_answers_that_it_kept() {
        let dir = tempfile::tempdir().unwrap();
        let said = |cached| Said { text: Some("yes".into()), cached, ..Said::default() };
        let mut log = Log::open(dir.path()).unwrap();
        log.keep_asking(5).unwrap();
        log.keep_critic("a", 1.0, said(false)).unwrap();
        log.keep_critic("b", 1.0, said(false)).unwrap();
        log.keep_critic("c", 1.0, said(true)).unwrap();
        drop(log);
        // Killed: of five calls two have their answers.
        let mut log = Log::open(dir.path()).unwrap();
        assert_eq!((log.extra, log.critic("a").is_some()), (3, true));
        log.keep_asking(3).unwrap();
        log.keep_critic("d", 2.0, said(false)).unwrap();
        log.keep_asked(1).unwrap();
        drop(log);
        assert_eq!(Log::open(dir.path()).unwrap().extra, 4, "and one that was repeated");
    }
}
