//! A template as clauses that may be edited and fixed parts that may not.
//!
//! A clause is a sentence or a line of plain text outside of every block. Lines with a tag, blocks with all that is in them, and
//! clauses with pinned words are fixed: no edit of clauses can lose a variable or a pin, or tear a block.

use super::guards::holds_pin;

/// Marks of a block that tuning itself put there; it is fixed as a whole, and can be replaced as a whole.
const OPEN: [&str; 2] = ["{# examples #}", "{# labels #}"];
const CLOSE: [&str; 2] = ["{# /examples #}", "{# /labels #}"];

/// Which of the blocks that tuning puts into prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    Examples = 0,
    Labels = 1,
}

impl Block {
    /// A part that is such a block: which, and what stands in it.
    pub fn of(part: &str) -> Option<(Self, &str)> {
        [Self::Examples, Self::Labels].into_iter().find_map(|block| {
            let inner =
                part.trim().strip_prefix(OPEN[block as usize])?.strip_suffix(CLOSE[block as usize])?;
            Some((block, inner.trim()))
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Fixed(String),
    Clause(String),
}

impl Part {
    pub fn text(&self) -> &str {
        match self {
            Self::Fixed(text) | Self::Clause(text) => text,
        }
    }
}

/// Their concatenation is the template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clauses {
    pub parts: Vec<Part>,
}

impl Clauses {
    pub fn parse(template: &str, pins: &[String]) -> Self {
        let mut parts = Vec::new();
        let mut depth = 0usize;
        for line in pieces(template) {
            let before = depth;
            let tags = tags(line);
            for tag in &tags {
                depth = step(depth, tag);
            }
            if before > 0 || depth > 0 || !tags.is_empty() {
                // A block, or a run of lines with tags, is one part.
                match parts.last_mut() {
                    Some(Part::Fixed(text)) if before > 0 => text.push_str(line),
                    _ => parts.push(Part::Fixed(line.to_owned())),
                }
            } else {
                for clause in sentences(line) {
                    match parts.last_mut() {
                        Some(Part::Fixed(text) | Part::Clause(text)) if clause.trim().is_empty() => {
                            text.push_str(clause);
                        }
                        _ if clause.trim().is_empty() || holds_pin(clause, pins) => {
                            parts.push(Part::Fixed(clause.to_owned()));
                        }
                        _ => parts.push(Part::Clause(clause.to_owned())),
                    }
                }
            }
        }
        Self { parts }
    }

    pub fn text(&self) -> String {
        self.parts.iter().map(Part::text).collect()
    }

    /// Places of the clauses.
    pub fn clauses(&self) -> Vec<usize> {
        let is_clause = |(i, part): (usize, &Part)| matches!(part, Part::Clause(_)).then_some(i);
        self.parts.iter().enumerate().filter_map(is_clause).collect()
    }

    /// The words of a clause, without the white space after it.
    pub fn core(&self, at: usize) -> &str {
        self.parts.get(at).map_or("", |part| part.text().trim())
    }

    /// Put other words in the place of a clause's; the white space around stays.
    pub fn set_core(&mut self, at: usize, words: &str) {
        if let Some(Part::Clause(text)) = self.parts.get_mut(at) {
            let start = text.len() - text.trim_start().len();
            let end = text.trim_end().len().max(start);
            *text = format!("{}{words}{}", &text[..start], &text[end..]);
        }
    }

    /// Take a clause out. White space that parted what is around stays with the part before.
    pub fn delete(&mut self, at: usize) {
        if !matches!(self.parts.get(at), Some(Part::Clause(_))) {
            return;
        }
        let gone = self.parts.remove(at);
        let space = &gone.text()[gone.text().trim_end().len()..];
        if let Some(Part::Clause(before) | Part::Fixed(before)) =
            at.checked_sub(1).and_then(|i| self.parts.get_mut(i))
            && space.contains('\n')
            && !before.ends_with('\n')
        {
            before.push_str(space);
        }
    }

    pub fn swap(&mut self, a: usize, b: usize) {
        let (first, second) = (self.core(a).to_owned(), self.core(b).to_owned());
        self.set_core(a, &second);
        self.set_core(b, &first);
    }

    /// The first part that holds the input: what tells the model what to do goes before it.
    pub fn input_at(&self) -> usize {
        let holds = |part: &Part| matches!(part, Part::Fixed(text) if text.contains("input"));
        self.parts.iter().position(holds).unwrap_or(0)
    }

    /// Put a paragraph before the part `at` (after all, where there is none).
    pub fn insert(&mut self, at: usize, words: &str) {
        let at = at.min(self.parts.len());
        if at > 0
            && let Some(Part::Clause(before) | Part::Fixed(before)) = self.parts.get_mut(at - 1)
            && !before.ends_with('\n')
        {
            before.push_str("\n\n");
        }
        let end = if at == self.parts.len() { "" } else { "\n\n" };
        self.parts.insert(at, Part::Clause(format!("{}{end}", words.trim())));
    }

    /// Whether the template has such a block.
    pub fn has_block(&self, block: Block) -> bool {
        self.parts.iter().any(|part| part.text().contains(OPEN[block as usize]))
    }

    /// Put a block in, before the input, in the place of the one that is there; or take it out.
    pub fn set_block(&mut self, block: Block, text: Option<&str>) {
        let found = self.parts.iter().position(|part| part.text().contains(OPEN[block as usize]));
        let at = match found {
            Some(at) => {
                self.parts.remove(at);
                at
            }
            None => self.input_at(),
        };
        if let Some(text) = text {
            self.insert(at, &format!("{}\n{}\n{}", OPEN[block as usize], text.trim(), CLOSE[block as usize]));
        }
    }
}

/// Lines, where a tag that goes over several lines keeps them together.
fn pieces(template: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let (mut start, mut at) = (0, 0);
    while let Some(newline) = template[at..].find('\n').map(|i| at + i) {
        at = newline + 1;
        if !ends_in_a_tag(&template[start..at]) {
            pieces.push(&template[start..at]);
            start = at;
        }
    }
    if start < template.len() {
        pieces.push(&template[start..]);
    }
    pieces
}

fn close_of(open: &str) -> &'static str {
    match open {
        "{{" => "}}",
        "{%" => "%}",
        _ => "#}",
    }
}

/// The next tag's place and its first two letters.
fn next_tag(text: &str) -> Option<(usize, &str)> {
    ["{{", "{%", "{#"].into_iter().filter_map(|open| text.find(open).map(|at| (at, open))).min()
}

fn ends_in_a_tag(text: &str) -> bool {
    let mut rest = text;
    while let Some((at, open)) = next_tag(rest) {
        match rest[at + 2..].find(close_of(open)) {
            Some(end) => rest = &rest[at + 2 + end + 2..],
            None => return true,
        }
    }
    false
}

/// The tags of a piece, whole.
fn tags(text: &str) -> Vec<&str> {
    let (mut rest, mut found) = (text, Vec::new());
    while let Some((at, open)) = next_tag(rest) {
        let end = rest[at + 2..].find(close_of(open)).map_or(rest.len(), |end| at + 2 + end + 2);
        found.push(&rest[at..end]);
        rest = &rest[end..];
    }
    found
}

/// How deep in blocks the template is after a tag.
fn step(depth: usize, tag: &str) -> usize {
    if OPEN.contains(&tag) {
        return depth + 1;
    }
    if CLOSE.contains(&tag) {
        return depth.saturating_sub(1);
    }
    let Some(inner) = tag.strip_prefix("{%") else { return depth };
    let inner =
        inner.trim_end_matches("%}").trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace());
    let word = inner.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
    match word {
        "if" | "for" | "macro" | "call" | "filter" | "with" | "raw" | "autoescape" | "block" => depth + 1,
        "set" if !inner.contains('=') => depth + 1,
        end if end.starts_with("end") => depth.saturating_sub(1),
        _ => depth,
    }
}

/// Sentences of a line, each with the white space after it.
fn sentences(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut start = 0;
    let mut ended = false;
    for (at, c) in line.char_indices() {
        if ended && !c.is_whitespace() {
            found.push(&line[start..at]);
            start = at;
            ended = false;
        }
        let next_is_space = line[at + c.len_utf8()..].starts_with(char::is_whitespace);
        ended = (ended && c.is_whitespace()) || (matches!(c, '.' | '!' | '?' | ';') && next_is_space);
    }
    if start < line.len() {
        found.push(&line[start..]);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cores(template: &str) -> Vec<String> {
        let clauses = Clauses::parse(template, &[]);
        clauses.clauses().into_iter().map(|at| clauses.core(at).to_owned()).collect()
    }

    #[test]
    fn sentences_outside_of_blocks_are_clauses_and_lines_with_tags_are_not() {
        let template = "You sort mail. Be brief!\n\n{% if a %}\nIn here. Nothing moves.\n{% endif %}\nFrom {{ input\n }} to you.\nEnd.";
        assert_eq!(cores(template), ["You sort mail.", "Be brief!", "End."]);
    }

    #[test]
    fn a_deleted_clause_leaves_the_paragraphs_apart() {
        let mut clauses = Clauses::parse("One. Two.\n\n{{ input }}", &[]);
        clauses.delete(1);
        assert_eq!(clauses.text(), "One. \n\n{{ input }}");
        clauses.delete(0);
        assert_eq!(clauses.text(), "{{ input }}");
    }

    #[test]
    fn a_block_is_put_in_replaced_and_taken_out() {
        let mut clauses = Clauses::parse("Sort.\n\n{{ input }}", &[]);
        clauses.set_block(Block::Labels, Some("a: x. And y."));
        let with = clauses.text();
        assert_eq!(with, "Sort.\n\n{# labels #}\na: x. And y.\n{# /labels #}\n\n{{ input }}");
        let mut clauses = Clauses::parse(&with, &[]);
        assert_eq!(cores(&with), ["Sort."]);
        clauses.set_block(Block::Labels, Some("b"));
        assert!(clauses.text().contains("\nb\n") && !clauses.text().contains("a: x"));
        let mut clauses = Clauses::parse(&clauses.text(), &[]);
        clauses.set_block(Block::Labels, None);
        assert_eq!(clauses.text().split_whitespace().collect::<Vec<_>>(), ["Sort.", "{{", "input", "}}"]);
    }

    #[test]
    fn a_clause_with_pinned_words_is_fixed() {
        let pins = ["never promise a refund".to_owned()];
        let clauses = Clauses::parse("Be kind. Never  promise a refund. Go on.\n{{ input }}", &pins);
        assert_eq!(clauses.clauses().len(), 2);
    }

    proptest! {
        #[test]
        fn the_parts_of_any_text_are_the_text(template in "([a-z.!? \\n]|\\{\\{|\\}\\}|\\{%|%\\}| if | endif |ü|\\{#|#\\}){0,60}") {
            prop_assert_eq!(Clauses::parse(&template, &[]).text(), template);
        }
    }
}
