//! Screen 2: versions of the prompts, the run that tunes them, and what people write by hand.

pub mod forms;
pub mod race;
pub mod view;

use crate::domain::api::{Decision, PromptFile, Request};
use crate::domain::run::{RunKind, RunRecord};
use crate::domain::versions::{Branch, FoundVersion, HAND, Slice, Trial, TriedRow, VersionTree};
use crate::tui::app::{App, Effect, Mood, Purpose, Screen, moved};
use crate::tui::keymap::Action;
use crate::tui::layers::picker::{Choice, Item, Picker};
use crate::tui::layers::{Layer, TextPurpose};

/// Where the focus is; on a narrow screen it is all that is seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pane {
    #[default]
    Tree,
    Text,
    Rows,
    Race,
}

impl Pane {
    pub const ALL: [(&'static str, Self); 4] =
        [("versions", Self::Tree), ("text", Self::Text), ("rows", Self::Rows), ("race", Self::Race)];
}

#[derive(Debug, Default)]
pub struct PromptsState {
    /// The run that somebody chose, or what was made by hand; none: a run under way, else the newest.
    pub shown: Option<String>,
    pub tree: Option<VersionTree>,
    /// What the tree was asked for, and after how much news.
    tree_asked: Option<(Option<String>, u64)>,
    /// The selected version; none: the answer, or the last one.
    pub selected: Option<String>,
    pub found: Option<FoundVersion>,
    found_asked: Option<(String, u64)>,
    /// Counts what changed without the run's saying so: trials, decisions, saved files.
    stale: u64,
    pub pane: Pane,
    pub scroll: usize,
    pub row: usize,
    /// Compare with this version instead of the parent: its address, once asked for.
    pub against: Option<FoundVersion>,
    pub slice: Slice,
    /// Saved prompts are not tried by themselves.
    pub quiet: bool,
    pub trial: Option<Trial>,
    /// A trial is under way; another one is due after it.
    trying: bool,
    again: bool,
}

impl PromptsState {
    pub fn back(&mut self) {
        if self.pane != Pane::Tree {
            self.pane = Pane::Tree;
        } else if self.against.take().is_none() {
            (self.shown, self.selected) = (None, None);
        }
    }

    /// The connection was lost: what was asked for is not on its way any more.
    pub fn forget_requests(&mut self) {
        (self.tree_asked, self.found_asked) = (None, None);
        (self.trying, self.again) = (false, false);
    }

    /// What is shown may be another by now.
    pub fn stale(&mut self) {
        self.stale += 1;
    }

    /// The selected version: that which somebody chose, else the answer, else the last one.
    pub fn branch(&self) -> Option<&Branch> {
        let tree = self.tree.as_ref()?;
        let chosen = self.selected.as_ref().and_then(|id| tree.versions.iter().find(|b| b.version.id == *id));
        let answer = || tree.versions.iter().find(|b| b.version.fate == crate::domain::prompt::Fate::Final);
        let current = || tree.versions.iter().find(|b| b.current && tree.run == HAND);
        chosen.or_else(answer).or_else(current).or_else(|| tree.versions.last())
    }

    pub fn address(&self) -> Option<String> {
        // While another tree is on its way, what was chosen of it is known already.
        if let (Some(run), Some(id)) = (&self.shown, &self.selected)
            && self.tree.as_ref().is_none_or(|tree| tree.run != *run)
        {
            return Some(format!("{run}:{id}"));
        }
        let branch = self.branch()?;
        Some(format!("{}:{}", self.tree.as_ref()?.run, branch.version.id))
    }

    /// Rows to the right: of the trial where it is of the selected version, else those that the version fixed and broke.
    pub fn rows(&self) -> &[TriedRow] {
        if let Some(trial) = self.shown_trial() {
            return &trial.rows;
        }
        self.found.as_ref().map_or(&[], |found| &found.rows)
    }

    pub fn shown_trial(&self) -> Option<&Trial> {
        let of = format!("{HAND}:{}", self.trial.as_ref()?.version);
        self.trial.as_ref().filter(|_| self.address() == Some(of))
    }

    /// Versions that come from another one stand under it.
    pub fn ordered(&self) -> Vec<&Branch> {
        let Some(tree) = &self.tree else { return Vec::new() };
        let mut ordered = Vec::with_capacity(tree.versions.len());
        let of = |parent: Option<&str>| {
            let known = |id: &str| tree.versions.iter().any(|b| b.version.id == id);
            let own = move |b: &&Branch| {
                let first = b.version.parents.first().map(String::as_str).filter(|id| known(id));
                first == parent
            };
            tree.versions.iter().filter(own).rev().collect::<Vec<_>>()
        };
        let mut open = of(None);
        while let Some(branch) = open.pop() {
            ordered.push(branch);
            // A version is its own parent in no history that we wrote; in another one it must not hang us.
            if ordered.len() > tree.versions.len() {
                break;
            }
            open.extend(of(Some(&branch.version.id)));
        }
        ordered
    }
}

impl App {
    fn prompt_runs(&self) -> impl Iterator<Item = &RunRecord> {
        self.runs().iter().filter(|r| r.kind == RunKind::Prompt)
    }

    /// The run that the screen shows, unless what was made by hand is.
    pub fn prompt_run(&self) -> Option<String> {
        if self.prompts.shown.as_deref() == Some(HAND) {
            return None;
        }
        let chosen = self.prompts.shown.clone().filter(|id| self.runs.is_none() || self.run(id).is_some());
        let under_way = || self.prompt_runs().find(|r| !r.state.is_final());
        chosen.or_else(|| under_way().or_else(|| self.prompt_runs().next()).map(|r| r.run.clone()))
    }

    /// Asks for what the screen shows and does not have.
    pub(crate) fn fetch_prompts(&mut self) {
        if !self.connected() || self.screen != Screen::Prompts || self.runs.is_none() {
            return;
        }
        let run = self.prompt_run().or_else(|| Some(HAND.to_owned()));
        let news = run.as_ref().and_then(|run| self.series.get(run)).map_or(0, |s| s.climb.changes);
        let ended = run.as_ref().and_then(|run| self.run(run)).is_some_and(|r| r.state.is_final());
        let stamp = news + self.prompts.stale + u64::from(ended);
        let asked = (run.clone(), stamp);
        let waiting = |purpose: &dyn Fn(&Purpose) -> bool| self.pending.values().any(|p| purpose(&p.purpose));
        if self.prompts.tree_asked.as_ref() != Some(&asked) && !waiting(&|p| matches!(p, Purpose::PromptTree))
        {
            self.prompts.tree_asked = Some(asked);
            self.ask(Purpose::PromptTree, Request::PromptTree { run });
        }
        let Some(address) = self.prompts.address() else { return };
        let asked = (address.clone(), stamp);
        let waiting = self.pending.values().any(|p| matches!(p.purpose, Purpose::PromptVersion(_)));
        if self.prompts.found_asked.as_ref() != Some(&asked) && !waiting {
            self.prompts.found_asked = Some(asked);
            self.ask(Purpose::PromptVersion(address.clone()), Request::PromptVersion { of: Some(address) });
        }
    }

    pub(crate) fn tree_arrived(&mut self, tree: VersionTree) {
        let other = self.prompts.tree.as_ref().is_none_or(|before| before.run != tree.run);
        self.prompts.tree = Some(tree);
        if other {
            (self.prompts.scroll, self.prompts.row) = (0, 0);
            if self.prompts.branch().is_none_or(|b| Some(&b.version.id) != self.prompts.selected.as_ref()) {
                self.prompts.selected = None;
            }
        }
    }

    pub(crate) fn version_arrived(&mut self, address: &str, found: FoundVersion) {
        if self.prompts.address().as_deref() == Some(address) {
            self.prompts.found = Some(found);
        }
    }

    pub(crate) fn tried(&mut self, trial: Trial) {
        self.prompts.trying = false;
        self.prompts.stale();
        let mood = if trial.failed > 0 { Mood::Bad } else { Mood::Good };
        self.notice(mood, trial.line());
        // Who looks at a run under way is not taken away from it.
        if self.screen == Screen::Prompts {
            self.prompts.shown = Some(HAND.to_owned());
            self.prompts.selected = Some(trial.version.clone());
            self.prompts.row = 0;
        }
        self.prompts.trial = Some(trial);
        if std::mem::take(&mut self.prompts.again) {
            self.try_prompts();
        }
    }

    pub(crate) fn trial_failed(&mut self) {
        self.prompts.trying = false;
        self.prompts.stale();
        if std::mem::take(&mut self.prompts.again) {
            self.try_prompts();
        }
    }

    /// Tries the prompts as they stand in their files; what is saved meanwhile is tried after it.
    fn try_prompts(&mut self) {
        if self.prompts.trying {
            self.prompts.again = true;
            return;
        }
        let request = Request::TryPrompts { slice: self.prompts.slice.clone(), keys: Default::default() };
        self.prompts.trying = self.ask(Purpose::TryPrompts, request).is_some();
    }

    /// A file was saved while the screen is looked at.
    pub(crate) fn prompt_saved(&mut self, file: &str) {
        self.prompts.stale();
        let ours = self.prompts.tree.as_ref().is_some_and(|t| t.files.iter().any(|(_, path)| path == file));
        if ours && self.screen == Screen::Prompts && !self.prompts.quiet {
            self.try_prompts();
        }
    }

    pub fn is_trying(&self) -> bool {
        self.prompts.trying
    }

    pub(crate) fn act_prompts(&mut self, action: Action) {
        let page = usize::from(self.size.1 / 2);
        match action {
            Action::NextPane | Action::PreviousPane => {
                let at = Pane::ALL.iter().position(|(_, pane)| *pane == self.prompts.pane).unwrap_or(0);
                let by = if action == Action::NextPane { 1 } else { Pane::ALL.len() - 1 };
                self.prompts.pane = Pane::ALL[(at + by) % Pane::ALL.len()].1;
            }
            Action::Up | Action::Down | Action::PageUp | Action::PageDown | Action::First | Action::Last => {
                match self.prompts.pane {
                    Pane::Tree => self.walk_versions(action, page),
                    Pane::Rows => {
                        let last = self.prompts.rows().len().saturating_sub(1);
                        self.prompts.row = moved(self.prompts.row, action, page, last).min(last);
                    }
                    Pane::Text | Pane::Race => {
                        self.prompts.scroll = moved(self.prompts.scroll, action, page, 2000);
                    }
                }
            }
            Action::Open => self.open_prompt(),
            Action::ChooseRun => self.choose_history(),
            Action::TryPrompts => self.try_prompts(),
            Action::TrySlice => self.slice_form(),
            Action::LivePrompts => {
                self.prompts.quiet = !self.prompts.quiet;
                let words = if self.prompts.quiet {
                    "saved prompts are kept and not tried by themselves".to_owned()
                } else {
                    format!("a saved prompt is tried at once on {}", self.prompts.slice.words())
                };
                self.notice(Mood::Plain, words);
            }
            Action::EditPrompt => self.edit_prompt(),
            Action::ForkVersion | Action::AdoptVersion => {
                let fork = action == Action::ForkVersion;
                self.adopt_version(fork);
            }
            Action::RollBack => {
                let files = self.prompts.tree.iter().flat_map(|tree| &tree.files);
                let files: Vec<PromptFile> = files
                    .map(|(stage, _)| PromptFile { stage: stage.clone(), ..PromptFile::default() })
                    .collect();
                if files.is_empty() {
                    self.notice(Mood::Plain, "no stage has a prompt file to roll back");
                } else {
                    self.decide("roll the prompts back".into(), Decision::AdoptPrompts { files });
                }
            }
            Action::NameVersion => match self.prompts.found.clone() {
                Some(found) => {
                    let purpose = TextPurpose::NameVersion { version: found.version.hash.clone() };
                    let title = format!("name of {} (empty: none)", found.address());
                    self.type_line(title, found.tag.unwrap_or_default(), purpose);
                }
                None => self.notice(Mood::Plain, "there is no version yet"),
            },
            Action::Difference => self.against_this(),
            Action::Steer => self.prompt_steer_form(None),
            Action::KillLane => self.kill_lane(),
            Action::ClausesOf | Action::Economize => match self.prompts.address() {
                Some(address) => {
                    let task = if action == Action::ClausesOf { "clauses" } else { "economy" };
                    let set = [("candidate", address.as_str()), ("tuning.prompt.task", task)];
                    let set = set.map(|(key, value)| (key.to_owned(), value.to_owned()));
                    self.launch(RunKind::Prompt, set.into(), None);
                }
                None => self.notice(Mood::Plain, "there is no version yet"),
            },
            Action::PlayCandidate => match self.prompts.address() {
                Some(address) => {
                    self.screen = Screen::Play;
                    self.player_chosen(1, crate::tui::screens::play::Who::Named(address));
                }
                None => self.notice(Mood::Plain, "there is no version yet"),
            },
            Action::ShowFlips => {
                match self.prompt_run().and_then(|id| self.run(&id)).and_then(|r| r.candidate.clone()) {
                    Some(candidate) => {
                        self.screen = Screen::Board;
                        self.compare_with_baseline(&candidate);
                    }
                    None => self
                        .notice(Mood::Plain, "the answer of a run is scored at its end; then f compares it"),
                }
            }
            _ => self.act_run(self.prompt_run(), action),
        }
    }

    fn walk_versions(&mut self, action: Action, page: usize) {
        let ids: Vec<String> = self.prompts.ordered().iter().map(|b| b.version.id.clone()).collect();
        let now = self.prompts.branch().map(|b| b.version.id.clone());
        let at = now.and_then(|id| ids.iter().position(|other| *other == id)).unwrap_or(0);
        let last = ids.len().saturating_sub(1);
        self.prompts.selected = ids.get(moved(at, action, page, last).min(last)).cloned();
        (self.prompts.scroll, self.prompts.row) = (0, 0);
    }

    /// From the tree to the text; from a row to all these rows on the strata screen.
    fn open_prompt(&mut self) {
        if self.prompts.pane != Pane::Rows {
            self.prompts.pane = if self.prompts.pane == Pane::Tree { Pane::Text } else { Pane::Rows };
            return;
        }
        let ids: Vec<String> = self.prompts.rows().iter().map(|row| row.id.clone()).collect();
        let address = self.prompts.address().unwrap_or_default();
        if ids.is_empty() {
            self.notice(Mood::Plain, "there are no rows to open");
        } else {
            let at = self.prompts.row;
            self.show_rows(format!("rows on which {address} differs"), ids);
            self.strata.window.selected = at;
        }
    }

    /// Which history is shown.
    fn choose_history(&mut self) {
        let Some(tree) = &self.prompts.tree else {
            return self.notice(Mood::Plain, "the versions are being read");
        };
        let item = |run: &String| Item {
            label: if run == HAND { "what was written by hand".to_owned() } else { run.clone() },
            aside: self.run(run).map_or_else(String::new, |r| r.state.to_string()),
            choice: Choice::ShowPrompts(run.clone()),
        };
        // Those that the tree does not know yet have begun since.
        let begun = self.prompt_runs().map(|r| r.run.clone()).filter(|run| !tree.runs.contains(run));
        let items: Vec<Item> = begun.collect::<Vec<_>>().iter().chain(&tree.runs).map(item).collect();
        if items.is_empty() {
            self.notice(Mood::Plain, "no versions were made yet");
        } else {
            self.layers.push(Layer::Picker(Picker::new("show the versions of", items)));
        }
    }

    pub(crate) fn show_prompts(&mut self, run: String) {
        self.screen = Screen::Prompts;
        if self.prompts.shown.as_ref() != Some(&run) {
            self.prompts.shown = Some(run);
            (self.prompts.selected, self.prompts.scroll, self.prompts.row) = (None, 0, 0);
        }
    }

    /// The file of the stage whose text is shown: the first one that differs from its parent, else the first.
    fn edit_prompt(&mut self) {
        let Some(tree) = &self.prompts.tree else {
            return self.notice(Mood::Plain, "the versions are being read");
        };
        match tree.files.as_slice() {
            [] => self.notice(
                Mood::Bad,
                "no stage has a prompt file; write prompt = \"prompts/NAME.md\" into its table of workspace.toml and make the file",
            ),
            [(_, file)] => self.edit_file(file.clone()),
            files => {
                let item = |(stage, file): &(String, String)| Item {
                    label: stage.clone(),
                    aside: file.clone(),
                    choice: Choice::EditFile(file.clone()),
                };
                let items = files.iter().map(item).collect();
                self.layers.push(Layer::Picker(Picker::new("edit the prompt of", items)));
            }
        }
    }

    pub(crate) fn edit_file(&mut self, file: String) {
        if let crate::tui::app::Link::Up { status } = &self.link {
            let path = std::path::Path::new(&status.root).join(file);
            self.outbox(Effect::Edit(path));
        }
    }

    /// The selected version's texts go into the prompt files; a fork is then edited.
    fn adopt_version(&mut self, fork: bool) {
        let found = self.prompts.found.as_ref().filter(|f| Some(f.address()) == self.prompts.address());
        let Some(found) = found else {
            return self.notice(Mood::Plain, "the version is being read");
        };
        let current = self.prompts.branch().is_some_and(|b| b.current);
        let file = |(stage, text): (&String, &String)| PromptFile {
            stage: stage.clone(),
            hash: blake3::hash(text.as_bytes()).to_hex().to_string(),
            ..PromptFile::default()
        };
        let files: Vec<PromptFile> = found.version.prompts.iter().map(file).collect();
        let words = format!("write {} into the prompt files", found.address());
        match (current, fork) {
            (true, true) => self.edit_prompt(),
            (true, false) => self.notice(Mood::Plain, "its texts stand in the prompt files already"),
            (false, true) => {
                self.ask(
                    Purpose::Fork(words),
                    Request::Decide { decision: Decision::AdoptPrompts { files } },
                );
            }
            (false, false) => self.decide(words, Decision::AdoptPrompts { files }),
        }
    }

    /// The selected version is what others are shown against; again: their parents.
    fn against_this(&mut self) {
        let now = self.prompts.found.clone().filter(|f| Some(f.address()) == self.prompts.address());
        let same = |a: &FoundVersion| now.as_ref().is_some_and(|b| a.address() == b.address());
        match (&self.prompts.against, now.clone()) {
            (Some(before), _) if same(before) => {
                self.prompts.against = None;
                self.notice(Mood::Plain, "versions are shown against their parents");
            }
            (_, Some(now)) => {
                self.notice(
                    Mood::Plain,
                    format!("versions are shown against {}; d on it again: their parents", now.address()),
                );
                self.prompts.against = Some(now);
            }
            _ => self.notice(Mood::Plain, "the version is being read"),
        }
    }
}
