//! The filter language of lists: `stratum:"card arrival" base:wrong len>40 -mark:reviewed "lost card"`.
//!
//! ```text
//! filter = term*                    all must hold
//! term   = ["-"] test               "-" negates
//! test   = key op values | word     a word stands anywhere in the text
//! op     = ":" | "=" | "<" | "<=" | ">" | ">="
//! values = value ("," value)*       one of them must fit; `*` fits whatever is there
//! key, value, word: bare, or in double quotes (then with any character; a quote is written twice)
//! ```
//! Reading never fails: while one types, every beginning of a filter means something. What a key stands for, whoever owns the list decides.

use std::fmt;
use std::ops::Range;

/// Terms that must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    pub negated: bool,
    pub test: Test,
    /// Bytes of the text that it was read from.
    pub span: Range<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    Word(String),
    Key { key: String, op: Op, values: Vec<String> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// `:`, contains or is, as the key's kind wants it.
    Fits,
    /// `=`, is.
    Is,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

impl Op {
    const SIGNS: [(&'static str, Self); 6] = [
        (">=", Self::GreaterEqual),
        ("<=", Self::LessEqual),
        (">", Self::Greater),
        ("<", Self::Less),
        ("=", Self::Is),
        (":", Self::Fits),
    ];

    pub fn sign(self) -> &'static str {
        Self::SIGNS.iter().find(|(_, op)| *op == self).map_or(":", |(sign, _)| sign)
    }

    /// Whether the order of the two is the one asked for; not a number fits nothing.
    pub fn holds(self, got: f64, wanted: f64) -> bool {
        match self {
            Self::Fits | Self::Is => got == wanted,
            Self::Less => got < wanted,
            Self::LessEqual => got <= wanted,
            Self::Greater => got > wanted,
            Self::GreaterEqual => got >= wanted,
        }
    }

    /// The values are compared by size.
    pub const fn orders(self) -> bool {
        !matches!(self, Self::Fits | Self::Is)
    }
}

/// Fits whatever is there.
pub const ANY: &str = "*";

impl Filter {
    /// Reads a filter.
    pub fn parse(text: &str) -> Self {
        Self::read(text).0
    }

    /// Reads a filter, and tells where its words, keys and values stand.
    pub(super) fn read(text: &str) -> (Self, Vec<Spot>) {
        let mut reader = Reader { text, at: 0, spots: Vec::new() };
        let mut terms = Vec::new();
        while let Some(term) = reader.term() {
            terms.push(term);
        }
        (Self { terms }, reader.spots)
    }

    pub const fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }
}

/// What other languages write and this one reads as words to look for: `or` and `and` between terms with keys, and parentheses around one.
/// Says where it stands, in characters from 1, and how it is written here.
pub fn misread(text: &str) -> Option<String> {
    let terms = Filter::parse(text).terms;
    let has_key = |at: Option<usize>| {
        at.and_then(|at| terms.get(at)).is_some_and(|t| matches!(t.test, Test::Key { .. }))
    };
    terms.iter().enumerate().find_map(|(i, term)| {
        let raw = text.get(term.span.clone()).filter(|_| matches!(term.test, Test::Word(_)))?;
        let between = has_key(i.checked_sub(1)) && has_key(Some(i + 1));
        let inner = raw.trim_start_matches(['-', '(']);
        let (what, instead) = match raw.to_lowercase().as_str() {
            "or" | "||" | "|" if between => (raw, "all terms must hold; one of several values is `gold:a,b`"),
            "and" | "&&" | "&" if between => (raw, "all terms must hold: leave it out"),
            "not" if has_key(Some(i + 1)) => (raw, "a dash negates: `-gold:a`"),
            _ if inner.len() < raw.trim_start_matches('-').len()
                && matches!(
                    Filter::parse(inner).terms.first(),
                    Some(Term { test: Test::Key { .. }, .. })
                ) =>
            {
                (
                    "(",
                    "there are no parentheses; all terms must hold, and one of several values is `gold:a,b`",
                )
            }
            _ => return None,
        };
        let column = text.get(..term.span.start)?.chars().count() + 1;
        Some(format!(
            "column {column}: `{what}` is read as a word: {instead}; to look for it, put it in double quotes"
        ))
    })
}

/// A number as people write it: `40`, `.8`, `1e-4`, `80%`, `10k`, `2.5M`.
pub fn number(text: &str) -> Option<f64> {
    let text = text.trim();
    let (digits, scale) = match text.char_indices().next_back()? {
        (at, '%') => (&text[..at], 0.01),
        (at, 'k') => (&text[..at], 1e3),
        (at, 'M') => (&text[..at], 1e6),
        _ => (text, 1.0),
    };
    // Rust reads `nan`, `inf` and `infinity`, too.
    if digits.chars().any(|c| c.is_alphabetic() && c != 'e' && c != 'E') {
        return None;
    }
    digits.parse::<f64>().ok().map(|n| n * scale)
}

/// Bytes of the text that hold one thing, quotes included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub span: Range<usize>,
    pub of: SpotOf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SpotOf {
    Word,
    Key,
    /// A value of this key.
    Value(String, Op),
}

/// What a spot that ends with the text says so far.
pub(super) fn value_of(text: &str) -> String {
    Reader { text, at: 0, spots: Vec::new() }.value("")
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    spots: Vec<Spot>,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn skip(&mut self, wanted: &str) -> bool {
        let found = self.rest().starts_with(wanted);
        self.at += if found { wanted.len() } else { 0 };
        found
    }

    fn op(&mut self) -> Option<Op> {
        let (sign, op) = Op::SIGNS.into_iter().find(|(sign, _)| self.rest().starts_with(sign))?;
        self.at += sign.len();
        Some(op)
    }

    fn term(&mut self) -> Option<Term> {
        self.at += self.rest().len() - self.rest().trim_start().len();
        let start = self.at;
        let first = self.rest().chars().next()?;
        // A dash alone, or before a blank, is a word.
        let negated =
            first == '-' && self.rest()[1..].chars().next().is_some_and(|c| !c.is_whitespace() && c != '-');
        self.at += usize::from(negated);
        let test = self.key().unwrap_or_else(|| {
            let start = self.at;
            let word = self.value("");
            self.spots.push(Spot { span: start..self.at, of: SpotOf::Word });
            Test::Word(word)
        });
        Some(Term { negated, test, span: start..self.at })
    }

    /// A key with its values; none, and nothing read, where a word stands.
    fn key(&mut self) -> Option<Test> {
        let start = self.at;
        let quoted = self.rest().starts_with('"');
        let key = if quoted { self.value("") } else { self.bare(|c| !is_key(c)) };
        let end = self.at;
        let op = if key.is_empty() { None } else { self.op() };
        let Some(op) = op else {
            self.at = start;
            return None;
        };
        self.spots.push(Spot { span: start..end, of: SpotOf::Key });
        let mut values = Vec::new();
        loop {
            let start = self.at;
            let value = self.value(",");
            self.spots.push(Spot { span: start..self.at, of: SpotOf::Value(key.clone(), op) });
            // `gold=""` asks for what is empty; `gold=` is not written to its end.
            let nothing = op == Op::Is && self.text.get(start..self.at) == Some("\"\"");
            if !value.is_empty() || nothing {
                values.push(value);
            }
            if !self.skip(",") {
                return Some(Test::Key { key, op, values });
            }
        }
    }

    /// To the next blank or one of `ends`; in quotes, to the closing one, or to the end of the text.
    fn value(&mut self, ends: &str) -> String {
        if !self.skip("\"") {
            return self.bare(|c| c.is_whitespace() || ends.contains(c));
        }
        let mut value = String::new();
        loop {
            value += &self.bare(|c| c == '"');
            if !self.skip("\"") || !self.skip("\"") {
                return value;
            }
            value.push('"');
        }
    }

    fn bare(&mut self, ends: impl Fn(char) -> bool) -> String {
        let text = self.rest();
        let text = text[..text.find(ends).unwrap_or(text.len())].to_owned();
        self.at += text.len();
        text
    }
}

fn is_key(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '#' | '@')
}

/// In quotes where it would not be read as one value otherwise.
pub fn quoted(value: &str) -> String {
    let plain = !value.is_empty()
        && value.chars().all(|c| !c.is_whitespace() && !matches!(c, '"' | ',' | ':' | '=' | '<' | '>'))
        && !value.starts_with('-');
    if plain { value.to_owned() } else { format!("\"{}\"", value.replace('"', "\"\"")) }
}

/// Words of other languages, see [`misread`].
const FOREIGN: [&str; 7] = ["or", "||", "|", "and", "&&", "&", "not"];

/// A word as it is written: in quotes where it would be taken for another language.
fn word_text(word: &str) -> String {
    if FOREIGN.contains(&word.to_lowercase().as_str()) || word.starts_with('(') {
        format!("\"{}\"", word.replace('"', "\"\""))
    } else {
        quoted(word)
    }
}

/// A key as it is written: in quotes where it would not be read as one otherwise.
pub fn key_text(key: &str) -> String {
    if key.chars().all(is_key) && !key.starts_with('-') && !key.is_empty() {
        key.to_owned()
    } else {
        format!("\"{}\"", key.replace('"', "\"\""))
    }
}

/// The term `key op value`.
pub fn term(key: &str, op: Op, value: &str) -> String {
    format!("{}{}{}", key_text(key), op.sign(), quoted(value))
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.terms.iter().enumerate() {
            let (blank, dash) = (if i > 0 { " " } else { "" }, if term.negated { "-" } else { "" });
            match &term.test {
                Test::Word(word) => write!(f, "{blank}{dash}{}", word_text(word))?,
                Test::Key { key, op, values } => {
                    let values: Vec<String> = values.iter().map(|v| quoted(v)).collect();
                    write!(f, "{blank}{dash}{}{}{}", key_text(key), op.sign(), values.join(","))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn word(text: &str) -> Test {
        Test::Word(text.into())
    }

    fn key(key: &str, op: Op, values: &[&str]) -> Test {
        Test::Key { key: key.into(), op, values: values.iter().map(|v| (*v).to_owned()).collect() }
    }

    fn tests(text: &str) -> Vec<(bool, Test)> {
        Filter::parse(text).terms.into_iter().map(|t| (t.negated, t.test)).collect()
    }

    #[test]
    fn terms_are_keys_words_and_phrases() {
        assert_eq!(
            tests(r#"stratum:"card arrival" base:wrong len>40 -mark:reviewed,star "lost card" -x"#),
            [
                (false, key("stratum", Op::Fits, &["card arrival"])),
                (false, key("base", Op::Fits, &["wrong"])),
                (false, key("len", Op::Greater, &["40"])),
                (true, key("mark", Op::Fits, &["reviewed", "star"])),
                (false, word("lost card")),
                (true, word("x")),
            ]
        );
        assert_eq!(
            tests("a>=1 b<=2 c=d"),
            [
                (false, key("a", Op::GreaterEqual, &["1"])),
                (false, key("b", Op::LessEqual, &["2"])),
                (false, key("c", Op::Is, &["d"])),
            ]
        );
        assert_eq!(
            tests(r#""customer id":7 "say ""hi""" gold:"a, b",c"#),
            [
                (false, key("customer id", Op::Fits, &["7"])),
                (false, word(r#"say "hi""#)),
                (false, key("gold", Op::Fits, &["a, b", "c"])),
            ]
        );
    }

    #[test]
    fn every_beginning_of_a_filter_means_something() {
        assert_eq!(tests("-"), [(false, word("-"))]);
        assert_eq!(tests("- a"), [(false, word("-")), (false, word("a"))]);
        assert_eq!(tests("mark:"), [(false, key("mark", Op::Fits, &[]))]);
        assert_eq!(tests("mark:a,"), [(false, key("mark", Op::Fits, &["a"]))]);
        assert_eq!(tests(":x"), [(false, word(":x"))]);
        assert_eq!(tests("\"open"), [(false, word("open"))]);
        assert_eq!(tests("(a|b)"), [(false, word("(a|b)"))]);
        assert!(tests("  ").is_empty());
    }

    #[test]
    fn what_other_languages_write_is_told_apart_from_words() {
        for (text, want) in [
            (
                "gold:app or gold:cards",
                "column 10: `or` is read as a word: all terms must hold; one of several",
            ),
            ("ä:b OR c:d", "column 5: `OR`"),
            ("a:b && c>1", "column 5: `&&` is read as a word: all terms must hold: leave it out"),
            ("not a:b", "column 1: `not` is read as a word: a dash negates"),
            ("(gold:app x)", "column 1: `(` is read as a word: there are no parentheses"),
            ("x -(gold:app)", "column 3: `(`"),
        ] {
            let told = misread(text).unwrap_or_default();
            assert!(told.starts_with(want), "{text}: {told}");
        }
        for fine in
            ["this or that", "a:b or", "a:b \"or\" c:d", "(a|b)", "(soon) a:b", "not now", "a:b,c -d:e", ":)"]
        {
            assert_eq!(misread(fine), None, "{fine}");
        }
    }

    #[test]
    fn empty_quotes_ask_for_what_is_empty() {
        assert_eq!(tests("gold=\"\""), [(false, key("gold", Op::Is, &[""]))]);
        assert_eq!(tests("gold=\""), [(false, key("gold", Op::Is, &[]))]);
        assert_eq!(tests("gold:\"\""), [(false, key("gold", Op::Fits, &[]))]);
    }

    #[test]
    fn numbers_are_read_as_people_write_them() {
        for (text, want) in [
            ("40", Some(40.0)),
            (".8", Some(0.8)),
            ("80%", Some(0.8)),
            ("1e-4", Some(1e-4)),
            ("10k", Some(10_000.0)),
            ("2.5M", Some(2_500_000.0)),
            ("", None),
            ("k", None),
            ("nan", None),
            ("inf", None),
            ("ten", None),
        ] {
            let got = number(text);
            let near = got.zip(want).map(|(got, want)| (got - want).abs() < 1e-9 * want.abs());
            assert_eq!(near, want.map(|_| true), "{text}: {got:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(text in ".{0,60}") {
            let filter = Filter::parse(&text);
            for term in &filter.terms {
                prop_assert!(text.get(term.span.clone()).is_some());
            }
            let again = Filter::parse(&filter.to_string());
            let plain = |f: &Filter| f.terms.iter().map(|t| (t.negated, t.test.clone())).collect::<Vec<_>>();
            prop_assert_eq!(plain(&filter), plain(&again), "{}", filter);
        }

        #[test]
        fn what_is_written_of_keys_is_read_again(text in "(-?[a-c\"]{1,3}[:=<>]{1,2}[a-b\", -]{0,6} ){0,3}") {
            let filter = Filter::parse(&text);
            let again = Filter::parse(&filter.to_string());
            let plain = |f: &Filter| f.terms.iter().map(|t| (t.negated, t.test.clone())).collect::<Vec<_>>();
            prop_assert_eq!(plain(&filter), plain(&again), "{}", filter);
        }
    }
}
