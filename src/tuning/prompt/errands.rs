//! What a prompt run does besides climbing: which clause fixed and broke which rows, and the same score for fewer tokens.
//!
//! Clauses are judged by ablation: the prompt without each of them on the same rows. Economy tries, one after the other, what leaves the
//! words of the model's task alone (white space, fields that are empty, tables of examples and of lists, what never changes before what does, so that a
//! server's prefix cache holds it), then drops clause after clause. An edit stays when it broke no more rows than it fixed.

use std::fmt::Write as _;

use super::clauses::{Block, Clauses, Part};
use super::climb::{Climb, compared};
use super::examiner::{Examiner, Halt};
use super::proposer::Draft;
use super::{Node, Texts, lists};
use crate::domain::event::EventBody;
use crate::domain::prompt::{ClauseEffect, ClauseReport, Fate, PromptGain, PromptNews};
use crate::domain::row::RunRow;

/// Words of a clause that its edit is called by.
const SHORT: usize = 60;

/// A part that can be left out: its place, or a block that tuning put there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Clause(usize),
    Block(Block),
}

fn pieces(clauses: &Clauses) -> Vec<Piece> {
    let blocks = [Block::Examples, Block::Labels].into_iter().filter(|block| clauses.has_block(*block));
    clauses.clauses().into_iter().map(Piece::Clause).chain(blocks.map(Piece::Block)).collect()
}

fn words_of(clauses: &Clauses, piece: Piece) -> String {
    match piece {
        Piece::Clause(at) => clauses.core(at).to_owned(),
        Piece::Block(block) => clauses
            .parts
            .iter()
            .find_map(|part| Block::of(part.text()).filter(|(of, _)| *of == block))
            .map_or_else(String::new, |(_, inner)| inner.to_owned()),
    }
}

fn without(clauses: &Clauses, piece: Piece) -> String {
    let mut less = clauses.clone();
    match piece {
        Piece::Clause(at) => less.delete(at),
        Piece::Block(block) => less.set_block(block, None),
    }
    less.text()
}

fn short(words: &str) -> String {
    let line = words.split_whitespace().collect::<Vec<_>>().join(" ");
    let cut: String = line.chars().take(SHORT).collect();
    if cut.len() < line.len() { format!("{cut}...") } else { cut }
}

impl Climb<'_> {
    /// Rows for ablation: those that select first, then the others that are no eval rows.
    fn ablation_rows(&self) -> Vec<usize> {
        let plan = &self.plan;
        let all = plan.select.iter().chain(&plan.claim).chain(plan.fresh.iter().flatten()).chain(&plan.spare);
        all.copied().take(self.settings.rows).collect()
    }

    fn version(&mut self, parent: usize, draft: Draft, by: &str) -> usize {
        let mut node = Node::new(draft.texts, &mut super::memory::Memory::default());
        node.version.id = format!("v{}", self.nodes.len());
        node.version.parents =
            self.nodes.get(parent).map(|node| node.version.id.clone()).into_iter().collect();
        node.version.epoch = 1;
        by.clone_into(&mut node.version.proposer);
        node.version.edit = draft.edit;
        node.parent = Some(parent);
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn parsed(&self, node: usize, stage: &str) -> Option<Clauses> {
        let text = self.nodes.get(node)?.texts.get(stage)?;
        Some(Clauses::parse(text, self.pins.get(stage).map_or(&[], Vec::as_slice)))
    }

    fn with_text(&self, node: usize, stage: &str, text: String) -> Texts {
        let mut texts = self.nodes.get(node).map(|node| node.texts.clone()).unwrap_or_default();
        texts.insert(stage.to_owned(), text);
        texts
    }

    /// Rows on which `a` is better than `b`, and the other way round.
    fn between(&self, a: usize, b: usize, rows: &[usize]) -> (Vec<String>, Vec<String>) {
        let (mut up, mut down) = (Vec::new(), Vec::new());
        for row in rows {
            let of = |node: usize| self.nodes.get(node).and_then(|n| n.marks.get(row)).map(|m| m.score);
            let (Some(own), Some(other), Some(data)) = (of(a), of(b), self.rows.get(*row)) else { continue };
            if own > other {
                up.push(data.id.clone());
            } else if own < other {
                down.push(data.id.clone());
            }
        }
        (up, down)
    }

    /// What every clause of the start fixed and broke.
    pub fn ablate(&mut self, examiner: &mut dyn Examiner) -> Result<ClauseReport, Halt> {
        let rows = self.ablation_rows();
        examiner.tell(PromptNews::Version { version: self.nodes[0].told() })?;
        examiner.begin("as it stands".to_owned(), rows.len());
        self.ask(0, &rows, examiner)?;
        self.nodes[0].version.selected = self.score(0, &rows);
        let mut todo = Vec::new();
        for stage in self.tuned.clone() {
            let Some(clauses) = self.parsed(0, &stage) else { continue };
            todo.extend(pieces(&clauses).into_iter().map(|piece| (stage.clone(), clauses.clone(), piece)));
        }
        let score = self.score(0, &rows).unwrap_or_default();
        let mut report = ClauseReport { rows: rows.len(), score: score.mean, clauses: Vec::new() };
        let total = todo.len() as u64;
        for (i, (stage, clauses, piece)) in todo.into_iter().enumerate() {
            let words = words_of(&clauses, piece);
            let texts = self.with_text(0, &stage, without(&clauses, piece));
            let edit = format!("without: {}", short(&words));
            let node = self.version(0, Draft { texts, parents: vec![0], edit }, "ablation");
            examiner.begin(format!("clause {} of {total}", i + 1), rows.len());
            self.ask(node, &rows, examiner)?;
            self.nodes[node].version.selected = self.score(node, &rows);
            self.nodes[node].version.fate = Fate::Beaten;
            examiner.tell(PromptNews::Version { version: self.nodes[node].told() })?;
            // With the clause against without it.
            let (fixed, broken) = self.between(0, node, &rows);
            let own = self.score(node, &rows).unwrap_or_default();
            let (_, ci95, ..) = compared(&self.pairs(node, 0, &rows), self.settings.seed);
            report.clauses.push(ClauseEffect {
                stage,
                words,
                delta: score.mean - own.mean,
                ci95: Some(ci95),
                tokens: self.tokens(0, &rows) - self.tokens(node, &rows),
                fixed,
                broken,
            });
            let phase = "clauses".to_owned();
            examiner.say(EventBody::Progress { phase, done: i as u64 + 1, total, eta_ms: None })?;
            examiner.keep(&self.history(examiner))?;
        }
        examiner.tell(PromptNews::Clauses { report: report.short() })?;
        Ok(report)
    }

    /// The same score for fewer tokens. The best version is the last survivor.
    pub fn economize(&mut self, examiner: &mut dyn Examiner) -> Result<(), Halt> {
        let rows = self.plan.select.clone();
        examiner.tell(PromptNews::Version { version: self.nodes[0].told() })?;
        examiner.begin("as it stands".to_owned(), rows.len());
        self.ask(0, &rows, examiner)?;
        self.nodes[0].version.selected = self.score(0, &rows);
        for stage in self.tuned.clone() {
            for edit in FORMATS {
                let best = self.survivors.last().copied().unwrap_or(0);
                let Some(text) = self.nodes.get(best).and_then(|n| n.texts.get(&stage)).cloned() else {
                    continue;
                };
                let Some((text, words)) = self.formatted(&stage, &text, edit) else { continue };
                self.try_economy(best, &stage, text, words, &rows, examiner)?;
            }
            // From the last clause on: what stands first is mostly the task itself.
            let mut left = self
                .parsed(self.survivors.last().copied().unwrap_or(0), &stage)
                .map_or(0, |c| pieces(&c).len());
            while left > 0 {
                left -= 1;
                let best = self.survivors.last().copied().unwrap_or(0);
                let Some(clauses) = self.parsed(best, &stage) else { break };
                let all = pieces(&clauses);
                let Some(piece) = all.get(left).copied() else { continue };
                let words = format!("without: {}", short(&words_of(&clauses, piece)));
                self.try_economy(best, &stage, without(&clauses, piece), words, &rows, examiner)?;
            }
        }
        Ok(())
    }

    fn formatted(&self, stage: &str, text: &str, format: Format) -> Option<(String, String)> {
        let pins = self.pins.get(stage).map_or(&[][..], Vec::as_slice);
        let (new, words) = match format {
            Format::Tidy => (tidy(text), "white space"),
            Format::NoEmptyFields => {
                let learn = self.plan.learn.iter().chain(&self.plan.select);
                let rows: Vec<&RunRow> = learn.filter_map(|at| self.rows.get(*at)).collect();
                (no_empty_fields(text, &rows), "no empty fields")
            }
            Format::Table => (table(text, pins), "examples as a table"),
            Format::Lists => (lists::as_tables(text, pins), "lists as tables"),
            Format::StaticFirst => (static_first(text, pins), "what never changes comes first"),
        };
        (new != text).then(|| (new, words.to_owned()))
    }

    /// The edit stays where it broke no more rows than it fixed.
    fn try_economy(
        &mut self,
        best: usize,
        stage: &str,
        text: String,
        edit: String,
        rows: &[usize],
        examiner: &mut dyn Examiner,
    ) -> Result<(), Halt> {
        if self.guards.get(stage).is_some_and(|guard| guard.refuses(&text).is_some()) {
            return Ok(());
        }
        let texts = self.with_text(best, stage, text);
        let node = self.version(best, Draft { texts, parents: vec![best], edit }, "economy");
        examiner.begin(format!("economy, {}", self.nodes[node].version.id), rows.len());
        self.ask(node, rows, examiner)?;
        self.nodes[node].version.selected = self.score(node, rows);
        let (fixed, broken) = self.between(node, best, rows);
        let holds = broken.len() <= fixed.len();
        self.nodes[node].version.fate = if holds { Fate::Survived } else { Fate::Dropped };
        if holds {
            self.survivors.push(node);
        }
        examiner.tell(PromptNews::Version { version: self.nodes[node].told() })?;
        examiner.keep(&self.history(examiner))
    }

    /// The shortest that held, against the start on rows that chose nothing. It is the answer unless it is shown to be worse.
    pub fn conclude_economy(&mut self, examiner: &mut dyn Examiner) -> Result<usize, Halt> {
        let node = self.survivors.last().copied().unwrap_or(0);
        let mut gain = PromptGain { start_stays: true, economy: true, ..PromptGain::default() };
        let mut answer = 0;
        if node != 0 {
            let claim = self.compare(node, examiner)?;
            gain = PromptGain { economy: true, ..self.gain(node, &claim) };
            let fewer = gain.tokens.is_none_or(|[start, tuned]| tuned <= start);
            // On no rows nothing is shown.
            if gain.n > 0 && gain.delta >= -TOLERATED && gain.ci95[1] >= 0.0 && fewer {
                answer = node;
                gain.start_stays = false;
            }
        }
        self.finish(answer, gain, examiner)?;
        Ok(answer)
    }

    /// Mean tokens of a row's prompts.
    pub(super) fn tokens(&self, node: usize, rows: &[usize]) -> f64 {
        let Some(node) = self.nodes.get(node) else { return 0.0 };
        let all: Vec<f64> = rows.iter().filter_map(|row| Some(node.marks.get(row)?.tokens)).collect();
        all.iter().sum::<f64>() / all.len().max(1) as f64
    }
}

/// Loss on the last comparison up to which a score holds.
const TOLERATED: f64 = 0.01;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Tidy,
    NoEmptyFields,
    Table,
    Lists,
    StaticFirst,
}

const FORMATS: [Format; 5] =
    [Format::Tidy, Format::NoEmptyFields, Format::Table, Format::Lists, Format::StaticFirst];

/// No spaces at the ends of lines, at most one empty line.
fn tidy(text: &str) -> String {
    let mut lines: Vec<&str> = Vec::new();
    for line in text.lines().map(str::trim_end) {
        if !(line.is_empty() && lines.last().is_none_or(|last| last.is_empty())) {
            lines.push(line);
        }
    }
    let mut tidy = lines.join("\n").trim_end().to_owned();
    if text.ends_with('\n') {
        tidy.push('\n');
    }
    tidy
}

/// The only variable of a line, where nothing else than words stands beside it.
fn only_variable(line: &str) -> Option<&str> {
    let (before, rest) = line.split_once("{{")?;
    let (name, after) = rest.split_once("}}")?;
    let name = name.trim();
    let plain = |text: &str| !["{{", "{%", "{#"].iter().any(|tag| text.contains(tag));
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    (is_name && plain(before) && plain(after)).then_some(name)
}

/// Lines with a field that some rows leave empty are left out for those.
fn no_empty_fields(text: &str, rows: &[&RunRow]) -> String {
    let is_empty = |row: &&&RunRow, name: &str| match row.fields.get(name) {
        Some(serde_json::Value::String(text)) => text.trim().is_empty(),
        value => value.is_none_or(serde_json::Value::is_null),
    };
    let mut out = String::with_capacity(text.len());
    let mut depth = 0usize;
    for line in text.split_inclusive('\n') {
        let (opens, closes) =
            (line.matches("{% if").count() + line.matches("{% for").count(), line.matches("{% end").count());
        let field = only_variable(line).filter(|name| {
            // A name that no row has is an earlier stage's output, or the input.
            depth == 0
                && rows.iter().any(|row| row.fields.contains_key(*name))
                && rows.iter().any(|row| is_empty(&row, name))
        });
        match field {
            Some(name) => {
                let _ = write!(out, "{{% if {name} %}}{line}{{% endif %}}");
            }
            None => out.push_str(line),
        }
        depth = (depth + opens).saturating_sub(closes);
    }
    out
}

/// `Input: ...` and `Answer: ...` in one line each.
fn table(text: &str, pins: &[String]) -> String {
    let mut clauses = Clauses::parse(text, pins);
    let inner =
        clauses.parts.iter().find_map(|part| Block::of(part.text()).filter(|(of, _)| *of == Block::Examples));
    let Some((_, inner)) = inner else { return text.to_owned() };
    let mut lines = vec!["input | answer".to_owned()];
    for example in inner.split("\n\n") {
        let Some((input, answer)) =
            example.trim().strip_prefix("Input: ").and_then(|rest| rest.rsplit_once("\nAnswer: "))
        else {
            return text.to_owned();
        };
        let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        lines.push(format!("{} | {}", flat(input), flat(answer)));
    }
    let lines = lines.join("\n");
    clauses.set_block(Block::Examples, Some(&lines));
    clauses.text()
}

/// What holds no variable comes before what does.
fn static_first(text: &str, pins: &[String]) -> String {
    let clauses = Clauses::parse(text, pins);
    let changes = |part: &Part| part.text().contains("{{") || part.text().contains("{%");
    let Some(first) = clauses.parts.iter().position(changes) else { return text.to_owned() };
    let (before, after) = clauses.parts.split_at(first);
    let is_static = |part: &&Part| !changes(part) && !part.text().trim().is_empty();
    let moved: Vec<&Part> = after.iter().filter(is_static).collect();
    if moved.is_empty() {
        return text.to_owned();
    }
    let join = |parts: &[&Part]| parts.iter().map(|part| part.text()).collect::<String>();
    let head = join(&before.iter().collect::<Vec<_>>());
    let tail = join(&after.iter().filter(|part| !is_static(part)).collect::<Vec<_>>());
    let pieces = [head.trim_end(), join(&moved).trim(), tail.trim()].map(str::to_owned);
    let mut all = pieces.into_iter().filter(|piece| !piece.is_empty()).collect::<Vec<_>>().join("\n\n");
    if text.ends_with('\n') {
        all.push('\n');
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::tests::row;

    #[test]
    fn white_space_goes_and_paragraphs_stay() {
        assert_eq!(tidy("\n\nSort it.  \n\n\n\n{{ input }}\n\n"), "Sort it.\n\n{{ input }}\n");
        assert_eq!(tidy("a\n\nb"), "a\n\nb");
    }

    #[test]
    fn lines_with_fields_that_some_rows_lack_are_left_out_for_those() {
        let mut full = row("1", "hello");
        full.fields.insert("channel".into(), "mail".into());
        full.fields.insert("plan".into(), "gold".into());
        let mut bare = row("2", "hello");
        bare.fields.insert("channel".into(), "".into());
        bare.fields.insert("plan".into(), "gold".into());
        let rows = [&full, &bare];
        let text = "Sort it.\nChannel: {{ channel }}\nPlan: {{ plan }}\n{{ input }}\n";
        let want =
            "Sort it.\n{% if channel %}Channel: {{ channel }}\n{% endif %}Plan: {{ plan }}\n{{ input }}\n";
        assert_eq!(no_empty_fields(text, &rows), want);
        // What is in a block, or beside something else, is left alone.
        let other = "{% if plan %}\n{{ channel }}\n{% endif %}\n{{ channel }} {{ plan }}\n";
        assert_eq!(no_empty_fields(other, &rows), other);
    }

    #[test]
    fn examples_become_a_table() {
        let text = "Sort.\n\n{# examples #}\nInput: a\nb\nAnswer: x\n\nInput: c\nAnswer: y\n{# /examples #}\n\n{{ input }}";
        let want = "Sort.\n\n{# examples #}\ninput | answer\na b | x\nc | y\n{# /examples #}\n\n{{ input }}";
        assert_eq!(table(text, &[]), want);
        assert_eq!(table("Sort. {{ input }}", &[]), "Sort. {{ input }}");
    }

    #[test]
    fn what_never_changes_comes_first() {
        let text = "Sort it.\n\n{{ input }}\n\nAnswer with one word. Be brief.\n";
        assert_eq!(static_first(text, &[]), "Sort it.\n\nAnswer with one word. Be brief.\n\n{{ input }}\n");
        let kept = "Sort it.\n\n{{ input }}\n";
        assert_eq!(static_first(kept, &[]), kept);
    }
}
