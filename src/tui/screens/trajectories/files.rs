//! Stores of examples to files and back, from screen 3.

use crate::domain::api::{FILE_THERE, Failure, Request, Response};
use crate::tui::app::{App, Link, Mood, Purpose};
use crate::tui::layers::{Confirmed, Layer, TextPurpose};

impl App {
    /// Asks for the file that the store is written to.
    pub(super) fn ask_export_examples(&mut self) {
        match self.example_store() {
            Some(store) => {
                let start = format!("{store}.jsonl");
                self.type_line(
                    format!("write the store {store} to"),
                    start,
                    TextPurpose::ExportExamples { store },
                );
            }
            None => self.notice(Mood::Plain, "there is no store of examples yet; t looks for some"),
        }
    }

    pub(super) fn ask_import_examples(&mut self) {
        self.type_line("take a store in from", "", TextPurpose::ImportExamples);
    }

    /// A name without a folder stands in the workspace's.
    fn file_here(&self, text: &str) -> Option<String> {
        let Link::Up { status } = &self.link else { return None };
        let text = text.trim();
        (!text.is_empty())
            .then(|| if text.starts_with('/') { text.to_owned() } else { format!("{}/{text}", status.root) })
    }

    pub(crate) fn export_examples(&mut self, store: String, text: &str) {
        let Some(file) = self.file_here(text) else { return };
        let request =
            Request::ExportExamples { store: Some(store.clone()), file: file.clone(), force: false };
        self.ask(Purpose::ExportExamples { store, file }, request);
    }

    /// `FILE`, or `FILE as NAME`.
    pub(crate) fn import_examples(&mut self, text: &str) {
        let (file, name) = match text.rsplit_once(" as ") {
            Some((file, name)) => (file, Some(name.trim().to_owned())),
            None => (text, None),
        };
        let Some(file) = self.file_here(file) else { return };
        let stem = std::path::Path::new(&file).file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let name = name.or(stem).unwrap_or_default();
        self.ask(Purpose::ImportExamples(name.clone()), Request::ImportExamples { file, name });
    }

    pub(crate) fn examples_answered(&mut self, purpose: Purpose, response: Response) {
        match (purpose, response) {
            (Purpose::ImportExamples(name), Response::Done { message }) => {
                self.notice(Mood::Good, message);
                self.show_store(name);
                self.trajectories.refresh();
            }
            (_, Response::ExportedExamples { store, examples, file }) => {
                self.notice(Mood::Good, format!("{examples} examples of {store} are in {file}"));
            }
            _ => {}
        }
    }

    /// Where a file is in the way, whether it may be replaced.
    pub(crate) fn export_examples_failed(&mut self, store: String, file: String, error: &Failure) {
        if !error.message.contains(FILE_THERE) {
            return self.notice(Mood::Bad, format!("could not write the examples: {}", error.message));
        }
        let question = format!("{file} is there already. Replace it?");
        let request = Request::ExportExamples { store: Some(store.clone()), file: file.clone(), force: true };
        let (purpose, again) = (Purpose::ExportExamples { store, file }, Box::new(request));
        self.layers.push(Layer::Confirm { question, then: Confirmed::Launch { purpose, again } });
    }
}
