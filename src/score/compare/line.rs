//! A line of `outcomes.jsonl` as a comparison needs it.
//!
//! A line as we write it (fields in their order, nothing between them) is scanned, and nothing is built of what a comparison does not look
//! at; any other line is read whole. The scan looks at every byte and takes no line that the whole reading refuses: which lines count does
//! not depend on it.

use std::borrow::Cow;

use super::super::metric::Metric;
use super::super::rows;
use crate::domain::outcome::Outcome;
use crate::domain::row::Part;

/// What a comparison needs of an outcome.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fields<'a> {
    pub row: Cow<'a, str>,
    pub row_hash: Cow<'a, str>,
    pub part: Option<Part>,
    pub stratum: Option<Cow<'a, str>>,
    pub sample: u32,
    pub output: Cow<'a, str>,
    pub correct: Option<bool>,
    /// The metric's value.
    pub score: Option<f64>,
}

impl<'a> Fields<'a> {
    pub fn of(outcome: &'a Outcome, metric: &Metric) -> Self {
        Self {
            row: (&outcome.row).into(),
            row_hash: (&outcome.row_hash).into(),
            part: outcome.part,
            stratum: outcome.stratum.as_deref().map(Cow::Borrowed),
            sample: outcome.sample,
            output: (&outcome.output).into(),
            correct: outcome.correct,
            score: rows::value(metric, outcome),
        }
    }

    fn into_owned(self) -> Fields<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        Fields {
            row: owned(self.row),
            row_hash: owned(self.row_hash),
            part: self.part,
            stratum: self.stratum.map(owned),
            sample: self.sample,
            output: owned(self.output),
            correct: self.correct,
            score: self.score,
        }
    }
}

/// A line without its newline; none where it is no outcome.
pub(super) fn fields<'a>(line: &'a [u8], metric: &Metric) -> Option<Fields<'a>> {
    if let Some(found) = std::str::from_utf8(line).ok().and_then(|line| scan(line, metric.key())) {
        return Some(found);
    }
    let outcome: Outcome = serde_json::from_slice(line).ok()?;
    Some(Fields::of(&outcome, metric).into_owned())
}

/// None: the line is to be read whole.
fn scan<'a>(line: &'a str, key: &str) -> Option<Fields<'a>> {
    let mut s = Scan { text: line, at: 0 };
    s.expect("{\"row\":")?;
    let row = s.string()?.text()?;
    s.expect(",\"row_hash\":")?;
    let row_hash = s.string()?.text()?;
    s.expect(",\"part\":")?;
    let part = if s.has("null") {
        None
    } else {
        let name = s.string()?;
        Some(*Part::ALL.iter().find(|part| part.name() == name.inner)?)
    };
    let stratum = if s.has(",\"stratum\":") { Some(s.string()?.text()?) } else { None };
    s.expect(",\"sample\":")?;
    let sample = u32::try_from(s.whole()?).ok()?;
    s.expect(",\"output\":")?;
    let output = s.string()?.text()?;
    s.optional(",\"gold\":", Scan::string)?;
    s.expect(",\"correct\":")?;
    let correct = if s.has("null") { None } else { Some(s.boolean()?) };
    let mut score = None;
    if s.has(",\"scores\":{") {
        loop {
            let name = s.string()?.plain()?;
            s.expect(":")?;
            let number = s.number()?;
            if name == key {
                // By the parser that reads whole lines: to the last bit the same.
                score = Some(serde_json::from_str(number).ok()?);
            }
            if s.ends("}")? {
                break;
            }
        }
    }
    // Else it is worked out from what is not looked at here.
    score?;
    if s.has(",\"unscored\":{") {
        loop {
            s.string()?;
            s.expect(":")?;
            s.string()?;
            if s.ends("}")? {
                break;
            }
        }
    }
    if s.has(",\"stages\":[") {
        loop {
            s.stage()?;
            if s.ends("]")? {
                break;
            }
        }
    }
    s.optional(",\"latency_ms\":", Scan::number)?;
    s.optional(",\"error\":", Scan::string)?;
    s.expect("}")?;
    let whole = s.at == line.len();
    whole.then_some(Fields { row, row_hash, part, stratum, sample, output, correct, score })
}

/// A string as it stands between its quotes.
struct Quoted<'a> {
    inner: &'a str,
    /// With the quotes.
    outer: &'a str,
    escaped: bool,
}

impl<'a> Quoted<'a> {
    fn text(self) -> Option<Cow<'a, str>> {
        if self.escaped {
            return serde_json::from_str::<String>(self.outer).ok().map(Cow::Owned);
        }
        Some(Cow::Borrowed(self.inner))
    }

    fn plain(self) -> Option<&'a str> {
        (!self.escaped).then_some(self.inner)
    }
}

struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    fn has(&mut self, what: &str) -> bool {
        let there = self.rest().starts_with(what.as_bytes());
        self.at += if there { what.len() } else { 0 };
        there
    }

    fn expect(&mut self, what: &str) -> Option<()> {
        self.has(what).then_some(())
    }

    /// A comma, or the end of what is being listed.
    fn ends(&mut self, end: &str) -> Option<bool> {
        if self.has(end) { Some(true) } else { self.expect(",").map(|()| false) }
    }

    /// A field that may be missing.
    fn optional<T>(&mut self, name: &str, value: impl FnOnce(&mut Self) -> Option<T>) -> Option<()> {
        if self.has(name) { value(self).map(|_| ()) } else { Some(()) }
    }

    fn string(&mut self) -> Option<Quoted<'a>> {
        let start = self.at;
        self.expect("\"")?;
        let (mut escaped, mut by_number) = (false, false);
        loop {
            self.at += special(self.rest())?;
            match self.rest() {
                [b'"', ..] => break,
                [b'\\', b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => escaped = true,
                [b'\\', b'u', ..] => (escaped, by_number) = (true, true),
                // A control character, or an escape that is none.
                _ => return None,
            }
            self.at += 2;
        }
        self.at += 1;
        let outer = self.text.get(start..self.at)?;
        let inner = outer.get(1..outer.len() - 1)?;
        // Four digits may be half a character.
        if by_number && serde_json::from_str::<String>(outer).is_err() {
            return None;
        }
        Some(Quoted { inner, outer, escaped })
    }

    fn digits(&mut self) -> usize {
        let n = self.rest().iter().take_while(|b| b.is_ascii_digit()).count();
        self.at += n;
        n
    }

    /// No negative number, and none of 20 digits.
    fn whole(&mut self) -> Option<u64> {
        let start = self.at;
        let n = self.digits();
        let text = self.text.get(start..self.at)?;
        let plain = (1..20).contains(&n) && (n == 1 || !text.starts_with('0'));
        if plain { text.parse().ok() } else { None }
    }

    fn small(&mut self) -> Option<u32> {
        u32::try_from(self.whole()?).ok()
    }

    /// A number that is finite whatever its digits are.
    fn number(&mut self) -> Option<&'a str> {
        let start = self.at;
        self.has("-");
        let zero = self.rest().first() == Some(&b'0');
        let n = self.digits();
        if n == 0 || n > 30 || (zero && n > 1) {
            return None;
        }
        if self.has(".") && self.digits() == 0 {
            return None;
        }
        if self.has("e") || self.has("E") {
            let _ = self.has("-") || self.has("+");
            if !(1..3).contains(&self.digits()) {
                return None;
            }
        }
        self.text.get(start..self.at)
    }

    fn boolean(&mut self) -> Option<bool> {
        if self.has("true") { Some(true) } else { self.expect("false").map(|()| false) }
    }

    /// A stage's outcome.
    fn stage(&mut self) -> Option<()> {
        self.expect("{\"stage\":")?;
        self.string()?;
        self.expect(",\"output\":")?;
        self.string()?;
        self.expect(",\"tokens_in\":")?;
        self.whole()?;
        self.expect(",\"tokens_out\":")?;
        self.whole()?;
        self.expect(",\"ttft_ms\":")?;
        self.number()?;
        self.expect(",\"ms\":")?;
        self.number()?;
        self.expect(",\"format_ok\":")?;
        self.boolean()?;
        self.expect(",\"retries\":")?;
        self.small()?;
        self.optional(",\"skipped\":", Self::boolean)?;
        self.optional(",\"cached\":", Self::small)?;
        self.optional(",\"masked\":", Self::small)?;
        self.optional(",\"waited_ms\":", Self::number)?;
        self.optional(",\"estimated\":", Self::boolean)?;
        self.optional(",\"probability\":", Self::number)?;
        self.expect("}")
    }
}

/// Place of the first quote, backslash or control character; eight bytes at a time (Mycroft's test for a zero byte: what lies
/// below the first byte that it finds is right, and only that is looked at).
fn special(bytes: &[u8]) -> Option<usize> {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = LOW << 7;
    let (eights, rest) = bytes.as_chunks::<8>();
    for (n, eight) in eights.iter().enumerate() {
        let word = u64::from_le_bytes(*eight);
        let below = |word: u64, bound: u64| word.wrapping_sub(LOW * bound) & !word & HIGH;
        let is = |byte: u8| below(word ^ (LOW * u64::from(byte)), 1);
        let found = is(b'"') | is(b'\\') | below(word, 0x20);
        if found != 0 {
            return Some(8 * n + found.trailing_zeros() as usize / 8);
        }
    }
    let at = rest.iter().position(|b| matches!(b, b'"' | b'\\' | 0..0x20))?;
    Some(8 * eights.len() + at)
}

#[cfg(test)]
pub(super) mod tests;
