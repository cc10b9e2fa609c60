//! Saved views of the rows, and the rows that are shown written into a file.

use std::collections::BTreeMap;

use crate::domain::api::{Decision, FILE_THERE, Failure, Request, RowQuery};
use crate::domain::views::{self, SavedView};
use crate::tui::app::{App, Link, Mood, Purpose};
use crate::tui::layers::picker::{Choice, Item, Picker};
use crate::tui::layers::{Confirmed, Layer, TextPurpose};
use crate::tui::screens::strata::Pane;
use crate::tui::widgets::number;

impl App {
    pub(crate) fn ask_views(&mut self) {
        self.ask(Purpose::Views, Request::Views);
    }

    /// Every view, and what can be done with them.
    pub(crate) fn views_arrived(&mut self, views: BTreeMap<String, SavedView>) {
        let about = |view: &SavedView| {
            let mut parts = vec![view.scope.clone(), view.query.text.clone()];
            parts.extend(view.query.part.map(|p| p.name().to_owned()));
            if !view.query.sort.is_empty() {
                parts.push(format!("by {}", view.query.sort));
            }
            parts.retain(|p| !p.is_empty());
            parts.join("  ")
        };
        let item = |label: String, aside: &str, choice| Item { label, aside: aside.into(), choice };
        let mut items: Vec<Item> = Vec::new();
        for (name, view) in &views {
            let label = format!("{name}   {}", about(view));
            items.push(item(label, "", Choice::View(name.clone(), Box::new(view.clone()))));
        }
        items.push(item("save what is shown as a view".into(), "save", Choice::SaveView));
        for name in views.keys() {
            let label = format!("delete the view {name}");
            items.push(item(label, "delete", Choice::DeleteView(name.clone())));
        }
        self.layers.push(Layer::Picker(Picker::new("views of the rows", items)));
    }

    pub(crate) fn show_view(&mut self, name: &str, view: &SavedView) {
        let scope = if view.scope.is_empty() { name.to_owned() } else { view.scope.clone() };
        self.strata.show(view.query.clone(), scope);
        self.strata.pane = Pane::Rows;
    }

    pub(crate) fn save_view(&mut self, text: &str) {
        match views::name(text) {
            Ok(name) => {
                let view = SavedView::new(&self.strata.query, &self.strata.scope);
                let words = format!("save the view {name}");
                self.decide(words, Decision::View { name: name.to_owned(), view: Some(Box::new(view)) });
            }
            Err(why) => self.notice(Mood::Bad, why),
        }
    }

    pub(crate) fn delete_view(&mut self, name: String) {
        self.decide(format!("delete the view {name}"), Decision::View { name, view: None });
    }

    /// Asks for the file.
    pub(crate) fn ask_export(&mut self) {
        if !self.strata.loaded {
            self.notice(Mood::Plain, "the rows are still being read");
            return;
        }
        let title = format!("write {} rows to", number::count(self.strata.window.total));
        self.type_line(title, "rows.jsonl", TextPurpose::ExportRows);
    }

    /// A name without a folder stands in the workspace's.
    pub(crate) fn export_typed(&mut self, text: &str) {
        let (Link::Up { status }, false) = (&self.link, text.is_empty()) else { return };
        let file = if text.starts_with('/') { text.to_owned() } else { format!("{}/{text}", status.root) };
        let query = RowQuery { offset: 0, count: 0, ..self.strata.query.clone() };
        self.export(query, file, false);
    }

    pub(crate) fn export(&mut self, query: RowQuery, file: String, force: bool) {
        let purpose = Purpose::Export { query: Box::new(query.clone()), file: file.clone(), done: None };
        self.ask(purpose, Request::ExportRows { query, file, force });
    }

    pub(crate) fn export_failed(&mut self, query: RowQuery, file: String, error: &Failure) {
        if error.message.contains(FILE_THERE) {
            let question = format!("{file} is there already. Replace it?");
            self.layers.push(Layer::Confirm { question, then: Confirmed::Replace { query, file } });
        } else {
            self.notice(Mood::Bad, format!("could not write the rows: {}", error.message));
        }
    }

    /// Asks how far a file under way is.
    pub(crate) fn follow_export(&mut self) {
        let asking = self.pending.values().any(|p| matches!(p.purpose, Purpose::ExportProgress(_)));
        let file = self.pending.values().find_map(|p| match &p.purpose {
            Purpose::Export { file, .. } => Some(file.clone()),
            _ => None,
        });
        if let (Some(file), false) = (file, asking) {
            self.ask(Purpose::ExportProgress(file.clone()), Request::ExportProgress { file });
        }
    }

    pub(crate) fn export_progress(&mut self, of: &str, rows: (usize, usize)) {
        for pending in self.pending.values_mut() {
            if let Purpose::Export { file, done, .. } = &mut pending.purpose
                && file == of
            {
                *done = Some(rows);
            }
        }
    }
}
