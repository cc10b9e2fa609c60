//! What a person decides on the selected row: mark, gold, note.

use super::rows_height;
use crate::domain::api::{Decision, PICKED_MAX};
use crate::domain::problem::EXCLUDED;
use crate::tui::app::{App, Mood};
use crate::tui::keymap::Action;
use crate::tui::layers::{Confirmed, Layer, TextPurpose};
use crate::tui::widgets::number;

/// More rows than these are not decided on before a question.
const ASK_ABOVE: usize = 20;

/// The mark that one key sets.
pub const STAR: &str = "star";

impl App {
    pub(super) fn act_row(&mut self, action: Action) {
        let Some(row) = self.strata.window.current().map(|r| r.id.clone()) else {
            self.notice(Mood::Plain, "there is no row here");
            return;
        };
        let detail = self.strata.detail.as_ref().filter(|d| d.id == row);
        let picked = self.strata.picked.len();
        match action {
            Action::PickRow => {
                if !self.strata.picked.remove(&row) {
                    if picked >= PICKED_MAX {
                        self.notice(Mood::Plain, format!("{PICKED_MAX} rows are picked, and no more can be"));
                        return;
                    }
                    self.strata.picked.insert(row);
                }
                let height = rows_height(self.size);
                self.strata.window.step(1, height);
            }
            Action::Preview => self.open_preview(row),
            Action::Mark => self.mark(row, STAR.into()),
            Action::MarkNamed if picked > 0 => {
                self.type_line(format!("mark {picked} picked rows as"), "", TextPurpose::Mark { row });
            }
            Action::Exclude => self.mark(row, EXCLUDED.into()),
            Action::MarkNamed => self.type_line(format!("mark row {row} as"), "", TextPurpose::Mark { row }),
            Action::Gold if picked > 0 => {
                self.type_line(
                    format!("golden answer of {picked} picked rows"),
                    "",
                    TextPurpose::Gold { row },
                );
            }
            Action::Gold => {
                let gold = detail
                    .and_then(|d| d.gold.clone())
                    .or_else(|| self.strata.window.current().and_then(|r| r.gold.clone()));
                self.type_line(
                    format!("golden answer of row {row}"),
                    gold.unwrap_or_default(),
                    TextPurpose::Gold { row },
                );
            }
            Action::Trace => match detail {
                Some(detail) => {
                    let of = detail.answers.iter().map(|(candidate, _, _)| candidate.clone()).collect();
                    self.open_trace(row, of);
                }
                None => self.notice(Mood::Plain, "the row is still being read"),
            },
            Action::Remedies => self.open_remedies(row, None),
            Action::Note => match detail {
                Some(detail) => {
                    let note = detail.note.clone().unwrap_or_default();
                    self.type_line(format!("note on row {row}"), note, TextPurpose::Note { row });
                }
                // Without the old note an empty line would wipe it out.
                None => self.notice(Mood::Plain, "the row is still being read"),
            },
            _ => {}
        }
    }

    /// A mark on the row, or on all that are picked; where all have it, it is taken away.
    pub(crate) fn mark(&mut self, row: String, mark: String) {
        let rows = self.strata.picked_or(row);
        let on = !rows.iter().all(|row| self.strata.has_mark(row, &mark));
        let each = |row: &String| Decision::Mark { row: row.clone(), mark: mark.clone(), on };
        self.decide_on(&rows, "mark", each);
    }

    /// A golden answer for the row, or for all that are picked.
    pub(crate) fn give_gold(&mut self, row: String, gold: Option<String>) {
        let rows = self.strata.picked_or(row);
        self.decide_on(&rows, "set the gold of", |row| Decision::Gold {
            row: row.clone(),
            gold: gold.clone(),
        });
    }

    /// One decision on each row; several are taken back as one.
    fn decide_on(&mut self, rows: &[String], what: &str, each: impl Fn(&String) -> Decision) {
        match rows {
            [row] => self.decide(format!("{what} row {row}"), each(row)),
            rows => {
                let decisions: Vec<Decision> = rows.iter().map(each).collect();
                let first = decisions.first().cloned();
                let decision = Decision::Together { decisions };
                let words = format!("{what} {} rows", rows.len());
                if rows.len() <= ASK_ABOVE {
                    return self.decide(words, decision);
                }
                let n = number::count(rows.len());
                let question = match first {
                    Some(Decision::Mark { mark, on: true, .. }) if mark == EXCLUDED => {
                        format!("Leave {n} rows out of learning and scoring?")
                    }
                    Some(Decision::Mark { mark, on: false, .. }) if mark == EXCLUDED => {
                        format!("Take {n} rows in again?")
                    }
                    Some(Decision::Mark { mark, on, .. }) => {
                        format!(
                            "{} the mark `{mark}` {} {n} rows?",
                            if on { "Set" } else { "Take" },
                            if on { "on" } else { "off" }
                        )
                    }
                    Some(Decision::Gold { gold: Some(gold), .. }) => {
                        format!("Make `{gold}` the gold of {n} rows?")
                    }
                    Some(Decision::Gold { gold: None, .. }) => {
                        format!("Give {n} rows their files' gold again?")
                    }
                    _ => format!("Decide on {n} rows?"),
                };
                let question = format!("{question} u takes all of it back as one.");
                let then = Confirmed::Decide { words, decision };
                self.layers.push(Layer::Confirm { question, then });
            }
        }
    }
}
