//! The pass over the rows.
//!
//! In memory while it goes on: of each row 1 byte of flags, 8 of the input's hash, 8 and 4 a band for near duplicates (18 bands by default):
//! 89 MB of a million rows, and some thousand rows at a time. What it finds is kept with the index, so that it is found once.

use rayon::prelude::*;
use serde_json::{Map, Value};

use super::{characters, personal};
use crate::data::{Column, DataError, Dataset, Of};
use crate::domain::problem::ProblemKind;
use crate::domain::settings::Likeness;
use crate::strata::duplicates::{ALONE, Sketch, Sketches};

/// Goes up when the same rows are found to have other problems.
const VERSION: u32 = 1;
/// Rows that a thread takes at a time, and that wait for each other.
const CHUNK: usize = 1024;
const WINDOW: usize = 32 * CHUNK;

/// Which row is too long for the models that are asked.
pub trait Limits: Sync {
    /// Tells these limits from every other.
    fn key(&self) -> String;
    /// Why this row does not fit.
    fn exceeded(&self, fields: &Map<String, Value>, input: &str) -> Option<String>;
}

/// Kinds that a row's own text shows, each a bit.
const OF_TEXT: [ProblemKind; 5] = [
    ProblemKind::EmptyInput,
    ProblemKind::TooLong,
    ProblemKind::Template,
    ProblemKind::OddCharacters,
    ProblemKind::Pii,
];

/// What the pass found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    flags: Vec<u8>,
    /// First row with the same input, but for white space; [`ALONE`] without another.
    same: Vec<u32>,
    /// First row of the group that is nearly the same.
    near: Vec<u32>,
}

/// One row's part.
struct Seen {
    flags: u8,
    same: u64,
    sketch: Sketch,
}

impl Scan {
    /// Reads what was kept, or goes over all rows.
    ///
    /// # Errors
    /// Data that has changed meanwhile.
    pub fn of(
        data: &Dataset,
        likeness: Likeness,
        limits: Option<&dyn Limits>,
        tell: &dyn Fn(usize),
    ) -> Result<Self, DataError> {
        let name = format!(
            "problems {VERSION} {} {} {}",
            likeness.threshold,
            likeness.ngram,
            limits.map(Limits::key).unwrap_or_default()
        );
        if let Some(kept) = data.found(&name)
            && let Some(scan) = Self::read(&kept)
        {
            return Ok(scan);
        }
        let scan = Self::go(data, likeness, limits, tell)?;
        data.keep(&name, (0..scan.flags.len()).map(|at| scan.line(at)))?;
        Ok(scan)
    }

    /// Goes over all rows.
    fn go(
        data: &Dataset,
        likeness: Likeness,
        limits: Option<&dyn Limits>,
        tell: &dyn Fn(usize),
    ) -> Result<Self, DataError> {
        let n = data.len();
        let mut sketches = Sketches::new(likeness, n);
        let (mut flags, mut hashes) = (Vec::with_capacity(n), Vec::with_capacity(n));
        for window in (0..n).step_by(WINDOW) {
            tell(window);
            let chunks: Vec<usize> = (window..n.min(window + WINDOW)).step_by(CHUNK).collect();
            let seen: Vec<Vec<Seen>> = chunks
                .into_par_iter()
                .map(|first| {
                    let mut seen = Vec::with_capacity(CHUNK);
                    data.each_row(first..n.min(first + CHUNK), None, &mut |at, fields| {
                        seen.push(look(data, at, &fields, limits, &sketches));
                    })?;
                    Ok(seen)
                })
                .collect::<Result<_, DataError>>()?;
            for row in seen.into_iter().flatten() {
                flags.push(row.flags);
                hashes.push(row.same);
                sketches.push(&row.sketch);
            }
        }
        let inputs = data.columns(&[Of::Input])?;
        let text = |at: usize| inputs.first().and_then(|inputs| inputs.get(at)).unwrap_or_default();
        let near = sketches.groups(&text, &|band| tell(n + n * band / sketches.bands()));
        Ok(Self { flags, same: groups(&hashes), near })
    }

    /// None for a row without a problem.
    fn line(&self, at: usize) -> Option<String> {
        let place = |of: u32| if of == ALONE { "-".to_owned() } else { of.to_string() };
        let (flags, same, near) = (self.flags[at], self.same[at], self.near[at]);
        let clean = flags == 0 && same == ALONE && near == ALONE;
        (!clean).then(|| format!("{flags} {} {}", place(same), place(near)))
    }

    fn read(kept: &Column) -> Option<Self> {
        let mut scan = Self { flags: Vec::new(), same: Vec::new(), near: Vec::new() };
        for at in 0..kept.len() {
            let mut parts = kept.get(at).unwrap_or("0 - -").split(' ');
            let place = |text: Option<&str>| match text? {
                "-" => Some(ALONE),
                number => number.parse().ok().filter(|of| (*of as usize) < kept.len()),
            };
            scan.flags.push(parts.next()?.parse().ok()?);
            scan.same.push(place(parts.next())?);
            scan.near.push(place(parts.next())?);
        }
        Some(scan)
    }

    pub const fn len(&self) -> usize {
        self.flags.len()
    }

    pub const fn is_empty(&self) -> bool {
        self.flags.is_empty()
    }

    /// The row's own text shows this.
    pub fn has(&self, at: usize, kind: ProblemKind) -> bool {
        bit(kind).is_some_and(|bit| self.flags.get(at).is_some_and(|flags| flags & bit != 0))
    }

    /// First row with the same input, where there is another.
    pub fn same(&self, at: usize) -> Option<u32> {
        self.same.get(at).copied().filter(|of| *of != ALONE)
    }

    /// First row of the group of those that are nearly the same.
    pub fn near(&self, at: usize) -> Option<u32> {
        self.near.get(at).copied().filter(|of| *of != ALONE)
    }
}

fn bit(kind: ProblemKind) -> Option<u8> {
    OF_TEXT.iter().position(|of| *of == kind).map(|at| 1 << at)
}

fn look(
    data: &Dataset,
    at: usize,
    fields: &Map<String, Value>,
    limits: Option<&dyn Limits>,
    sketches: &Sketches,
) -> Seen {
    let (input, gold) = match data.resolved(at, fields) {
        Ok(resolved) => resolved,
        Err(_) => {
            return Seen { flags: bit(ProblemKind::Template).unwrap_or(0), same: 0, sketch: sketches.of("") };
        }
    };
    let texts = [Some(&input), gold.as_ref()];
    let any = |odd: &dyn Fn(&str) -> bool| texts.into_iter().flatten().any(|text| odd(text));
    let has = |kind: ProblemKind| match kind {
        ProblemKind::EmptyInput => empty(&input),
        ProblemKind::TooLong => limits.is_some_and(|limits| limits.exceeded(fields, &input).is_some()),
        ProblemKind::Template => data.misfit(at, fields).is_some(),
        ProblemKind::OddCharacters => any(&|text| !characters::odd(text, 1).is_empty()),
        ProblemKind::Pii => any(&|text| !personal::personal(text, 1).is_empty()),
        _ => false,
    };
    let flags = OF_TEXT.into_iter().filter(|kind| has(*kind)).filter_map(bit).fold(0, |all, bit| all | bit);
    let same = if empty(&input) { 0 } else { hash(&input) };
    Seen { flags, same, sketch: sketches.of(&input) }
}

/// Says nothing: blanks and invisible characters only.
pub fn empty(text: &str) -> bool {
    let silent = |c: char| {
        c.is_whitespace()
            || c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}' | '\u{00ad}')
    };
    text.chars().all(silent)
}

/// Of a text whose white space is a blank each; never 0.
fn hash(text: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for word in text.split_whitespace() {
        hasher.update(word.as_bytes()).update(b" ");
    }
    hasher.finalize().as_bytes().first_chunk().map_or(1, |bytes| u64::from_le_bytes(*bytes)).max(1)
}

/// The first row with the same hash, where there is another; 0 is nobody's.
fn groups(hashes: &[u64]) -> Vec<u32> {
    let mut first = vec![ALONE; hashes.len()];
    let mut order: Vec<u32> = (0..hashes.len() as u32).filter(|&at| hashes[at as usize] != 0).collect();
    order.par_sort_unstable_by_key(|&at| (hashes[at as usize], at));
    for same in
        order.chunk_by(|a, b| hashes[*a as usize] == hashes[*b as usize]).filter(|same| same.len() > 1)
    {
        for &at in same {
            first[at as usize] = same[0];
        }
    }
    first
}
