//! Where personal data stands in a text, by its form.
//!
//! | kind | form |
//! | --- | --- |
//! | URL | `scheme://user@...` or `scheme://user:password@...`, to its end |
//! | EMAIL | `local@domain.tld` |
//! | IBAN | two letters, two digits, 11 to 30 letters and digits, in groups of four or none; remainder 1 modulo 97 (ISO 13616) |
//! | CARD | 13 to 19 digits, in groups or none, that pass Luhn's check (ISO/IEC 7812) |
//! | IP | an IPv4 or IPv6 address |
//! | PHONE | `+` and 7 to 15 digits (E.164); 9 to 15 digits in groups that begin with 0; 3-3-4 digits |
//! | NUMBER | 8 or more digits in a row; 12 or more in groups; 3-2-4 digits |
//!
//! More is taken for personal than is: what goes out too much cannot be called back. No piece holds a quotation mark, a
//! backslash or a control character, so pieces can be put into JSON as they are.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Url,
    Email,
    Iban,
    Card,
    Ip,
    Phone,
    Number,
}

impl Kind {
    /// In the order in which they are looked for: what is found first keeps its place.
    pub const ALL: [Self; 7] =
        [Self::Url, Self::Email, Self::Iban, Self::Card, Self::Ip, Self::Phone, Self::Number];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Url => "URL",
            Self::Email => "EMAIL",
            Self::Iban => "IBAN",
            Self::Card => "CARD",
            Self::Ip => "IP",
            Self::Phone => "PHONE",
            Self::Number => "NUMBER",
        }
    }
}

/// Bytes `from..to` of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub from: usize,
    pub to: usize,
    pub kind: Kind,
}

/// All of them, in their order, none in another.
pub fn pieces(text: &str) -> Vec<Piece> {
    let mut taken: BTreeMap<usize, Piece> = BTreeMap::new();
    for kind in Kind::ALL {
        let spans = match kind {
            Kind::Url => urls(text),
            Kind::Email => emails(text),
            Kind::Iban => ibans(text),
            Kind::Card => cards(text),
            Kind::Ip => addresses(text),
            Kind::Phone => phones(text),
            Kind::Number => numbers(text),
        };
        for (from, to) in spans {
            let before = taken.range(..to).next_back();
            if from < to && before.is_none_or(|(_, piece)| piece.to <= from) {
                taken.insert(from, Piece { from, to, kind });
            }
        }
    }
    taken.into_values().collect()
}

type Span = (usize, usize);

fn before(text: &str, at: usize) -> Option<char> {
    text[..at].chars().next_back()
}

fn after(text: &str, at: usize) -> Option<char> {
    text[at..].chars().next()
}

/// A word does not go on here.
fn ends(at: Option<char>) -> bool {
    at.is_none_or(|c| !c.is_alphanumeric())
}

fn urls(text: &str) -> Vec<Span> {
    let scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '.' | '-');
    let stop = |c: char| c.is_whitespace() || c.is_control() || "\"'`<>\\".contains(c);
    let spans = text.match_indices("://").filter_map(|(at, _)| {
        let head = &text[..at];
        let from = head.trim_end_matches(scheme).len();
        let from = from + head[from..].find(|c: char| c.is_ascii_alphabetic())?;
        let rest = &text[at + 3..];
        let rest = rest.split(stop).next().unwrap_or_default();
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        (host.find('@')? > 0).then_some(())?;
        let rest = rest.trim_end_matches(|c| ".,;:!?)]}".contains(c));
        Some((from, at + 3 + rest.len()))
    });
    spans.collect()
}

fn emails(text: &str) -> Vec<Span> {
    let spans = text.match_indices('@').filter_map(|(at, _)| {
        let head = &text[..at];
        let from = head.trim_end_matches(|c: char| c.is_alphanumeric() || "._%+-".contains(c)).len();
        let from = from + head[from..].find(|c: char| c.is_alphanumeric() || c == '_')?;
        let rest = &text[at + 1..];
        let domain = rest.split(|c: char| !(c.is_alphanumeric() || c == '.' || c == '-')).next()?;
        let domain = domain.split("..").next()?.trim_end_matches(['.', '-']);
        let (host, top) = domain.rsplit_once('.')?;
        let named = top.starts_with("xn--") || top.chars().all(char::is_alphabetic);
        let whole = !host.is_empty() && !host.starts_with('.') && top.chars().count() >= 2;
        (named && whole).then_some((from, at + 1 + domain.len()))
    });
    spans.collect()
}

fn ibans(text: &str) -> Vec<Span> {
    let bytes = text.as_bytes();
    let begins = |at: usize| {
        let at = bytes.get(at..at + 4);
        at.is_some_and(|b| {
            b[..2].iter().all(u8::is_ascii_alphabetic) && b[2..].iter().all(u8::is_ascii_digit)
        })
    };
    let mut spans = Vec::new();
    let mut free = 0;
    for from in 0..bytes.len() {
        if from < free || !begins(from) || !ends(before(text, from)) {
            continue;
        }
        let (mut letters, mut at, mut found) = (Vec::new(), from, None);
        while letters.len() < 34 {
            match bytes.get(at) {
                Some(b) if b.is_ascii_alphanumeric() => letters.push(*b),
                Some(b' ') if letters.len() % 4 == 0 => {
                    at += 1;
                    if bytes.get(at).is_some_and(u8::is_ascii_alphanumeric) {
                        continue;
                    }
                    break;
                }
                _ => break,
            }
            at += 1;
            // The longest that fits.
            if letters.len() >= 15 && ends(after(text, at)) && is_iban(&letters) {
                found = Some(at);
            }
        }
        if let Some(to) = found {
            spans.push((from, to));
            free = to;
        }
    }
    spans
}

/// ISO 13616: the first four moved to the end, letters as 10 to 35, the number modulo 97 is 1.
fn is_iban(letters: &[u8]) -> bool {
    let (head, rest) = letters.split_at(4);
    let rest = rest.iter().chain(head).filter_map(|b| (*b as char).to_digit(36));
    rest.fold(0, |sum, value| (if value < 10 { sum * 10 } else { sum * 100 } + value) % 97) == 1
}

/// Groups of digits with one separator between neighbours.
#[derive(Debug, Default)]
struct Run {
    groups: Vec<Span>,
    /// A part of it stands behind or before a decimal point.
    decimal: bool,
}

impl Run {
    fn digits(&self) -> usize {
        self.groups.iter().map(|(from, to)| to - from).sum()
    }

    fn lengths(&self) -> Vec<usize> {
        self.groups.iter().map(|(from, to)| to - from).collect()
    }

    fn span(&self) -> Option<Span> {
        Some((self.groups.first()?.0, self.groups.last()?.1))
    }
}

/// The longest groups of digits with what `between` allows between neighbours.
fn runs(text: &str, between: impl Fn(&str) -> bool) -> Vec<Run> {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let mut all: Vec<Run> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if !digit(at) {
            at += 1;
            continue;
        }
        let from = at;
        while digit(at) {
            at += 1;
        }
        let point = |at: Option<usize>, beyond: Option<usize>| {
            at.is_some_and(|at| bytes.get(at) == Some(&b'.')) && beyond.is_some_and(digit)
        };
        let decimal = point(from.checked_sub(1), from.checked_sub(2)) || point(Some(at), Some(at + 1));
        match all.last_mut() {
            Some(run) if run.groups.last().is_some_and(|(_, to)| between(&text[*to..from])) => {
                run.groups.push((from, at));
                run.decimal |= decimal;
            }
            _ => all.push(Run { groups: vec![(from, at)], decimal }),
        }
    }
    all
}

fn grouped(between: &str) -> bool {
    matches!(between, " " | "-")
}

fn cards(text: &str) -> Vec<Span> {
    let mut spans = Vec::new();
    for run in runs(text, grouped).into_iter().filter(|run| !run.decimal) {
        let mut first = 0;
        while first < run.groups.len() {
            let mut digits: Vec<u8> = Vec::new();
            let mut found = None;
            for (last, &(from, to)) in run.groups.iter().enumerate().skip(first) {
                digits.extend(text.as_bytes()[from..to].iter().map(|b| b - b'0'));
                if digits.len() > 19 {
                    break;
                }
                if digits.len() >= 13 && luhn(&digits) {
                    found = Some(last);
                }
            }
            if let Some(last) = found {
                spans.push((run.groups[first].0, run.groups[last].1));
            }
            first = found.unwrap_or(first) + 1;
        }
    }
    spans
}

/// ISO/IEC 7812-1, annex B: from the right every second digit doubled, the sum of all digits a multiple of 10.
fn luhn(digits: &[u8]) -> bool {
    let value = |(i, d): (usize, &u8)| match (i % 2, d * 2) {
        (0, _) => u32::from(*d),
        (_, twice) => u32::from(twice / 10 + twice % 10),
    };
    digits.iter().any(|d| *d > 0) && digits.iter().rev().enumerate().map(value).sum::<u32>() % 10 == 0
}

fn addresses(text: &str) -> Vec<Span> {
    let mut spans = Vec::new();
    // What could be of an address, in one piece.
    let part = |c: char| c.is_ascii_hexdigit() || c == ':' || c == '.';
    let mut at = 0;
    while let Some(from) = text[at..].find(part).map(|found| at + found) {
        let to = text[from..].find(|c| !part(c)).map_or(text.len(), |found| from + found);
        at = to;
        if ends(before(text, from)) && ends(after(text, to)) {
            let word = text[from..to].trim_end_matches('.');
            let word = if word.ends_with("::") { word } else { word.trim_end_matches(':') };
            if word.len() >= 6
                && word.contains(|c: char| c.is_ascii_digit())
                && word.parse::<Ipv6Addr>().is_ok()
            {
                spans.push((from, from + word.len()));
                continue;
            }
        }
    }
    for run in runs(text, |between| between == ".") {
        if let Some((from, to)) = run.span()
            && run.groups.len() == 4
            && run.groups.iter().all(|&(from, to)| text[from..to].parse::<u8>().is_ok())
            && ends(before(text, from))
            && ends(after(text, to))
        {
            spans.push((from, to));
        }
    }
    spans
}

fn phones(text: &str) -> Vec<Span> {
    let between = |between: &str| between.len() <= 3 && between.chars().all(|c| " -./()".contains(c));
    let mut spans = Vec::new();
    for run in runs(text, between) {
        let mut first = 0;
        while first < run.groups.len() {
            let groups = &run.groups[first..];
            let last = phone(text, groups);
            if let Some(last) = last {
                let from = opened(text, groups[0].0);
                spans.push((from, groups[last].1));
            }
            first += last.unwrap_or(0) + 1;
        }
    }
    spans
}

/// With the `+` or the parenthesis before the first digit.
fn opened(text: &str, from: usize) -> usize {
    let head = &text[..from];
    let inner = head.strip_suffix('(').unwrap_or(head);
    inner.strip_suffix('+').unwrap_or(inner).len()
}

/// The last of the groups that make up a telephone number which begins with the first one.
fn phone(text: &str, groups: &[Span]) -> Option<usize> {
    let from = groups.first()?.0;
    let head = &text[..opened(text, from)];
    if !ends(head.chars().next_back()) {
        return None;
    }
    let lengths: Vec<usize> = groups.iter().map(|(from, to)| to - from).collect();
    let plus = text[head.len()..from].contains('+');
    // The longest that has so many digits.
    let up_to_15 = |least: usize| {
        let mut digits = 0;
        let sums = lengths.iter().map(|n| {
            digits += n;
            digits
        });
        let fitting = sums.enumerate().take_while(|(_, sum)| *sum <= 15).filter(|(_, sum)| *sum >= least);
        fitting.last().map(|(last, _)| last)
    };
    if plus {
        return up_to_15(7);
    }
    if lengths.starts_with(&[3, 3, 4]) {
        return Some(2);
    }
    if text.as_bytes().get(from) == Some(&b'0') && lengths[0] >= 2 {
        return up_to_15(9).filter(|last| *last > 0);
    }
    None
}

fn numbers(text: &str) -> Vec<Span> {
    let mut spans = Vec::new();
    for run in runs(text, grouped).into_iter().filter(|run| !run.decimal) {
        let lengths = run.lengths();
        let many = run.digits() >= 12 && lengths.iter().all(|n| *n >= 2);
        if (many || lengths == [3, 2, 4])
            && let Some(span) = run.span()
        {
            spans.push(span);
        }
        spans.extend(run.groups.iter().filter(|(from, to)| to - from >= 8));
    }
    spans
}
