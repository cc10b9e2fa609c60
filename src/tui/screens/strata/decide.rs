//! What a person decides on the selected row: mark, gold, note.

use crate::domain::api::Decision;
use crate::domain::problem::EXCLUDED;
use crate::tui::app::{App, Mood};
use crate::tui::keymap::Action;
use crate::tui::layers::TextPurpose;

/// The mark that one key sets.
pub const STAR: &str = "star";

impl App {
    pub(super) fn act_row(&mut self, action: Action) {
        let Some(row) = self.strata.window.current().map(|r| r.id.clone()) else {
            self.notice(Mood::Plain, "there is no row here");
            return;
        };
        let detail = self.strata.detail.as_ref().filter(|d| d.id == row);
        match action {
            Action::Mark => {
                let on = !self.strata.has_mark(&row, STAR);
                self.decide(format!("mark row {row}"), Decision::Mark { row, mark: STAR.into(), on });
            }
            Action::Preview => self.open_preview(row),
            Action::Exclude => {
                let on = !self.strata.has_mark(&row, EXCLUDED);
                self.exclude_row(row, on);
            }
            Action::MarkNamed => self.type_line(format!("mark row {row} as"), "", TextPurpose::Mark { row }),
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
}
