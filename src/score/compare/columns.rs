//! Outcomes column by column: what a comparison looks at, in a tenth of the room that whole outcomes take.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use rayon::prelude::*;

use super::super::metric::Metric;
use super::line::{self, Fields};
use crate::domain::outcome::Outcome;
use crate::domain::row::Part;

/// In the place of a stratum's number.
pub(super) const NO_STRATUM: u32 = u32::MAX;
/// Outcomes in memory that are put into columns at once, and rows that are paired at once.
pub(super) const AT_ONCE: usize = 8 << 10;

/// The last outcome of each (row, sample), in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Columns {
    /// Each row's id, then its content hash.
    text: String,
    rows: Vec<Row>,
    /// Names of the strata, by their numbers.
    strata: Vec<String>,
    /// Hash of (row, sample) and place in `rows`, ascending.
    by_hash: Vec<(u64, usize)>,
}

#[derive(Clone, Debug, PartialEq)]
struct Row {
    /// In the text: where the id begins, where it ends, where the content hash ends.
    start: usize,
    id: usize,
    end: usize,
    sample: u32,
    stratum: u32,
    score: Option<f64>,
    /// Of a wrong answer, by its content: is the other side's wrong in the same way?
    answer: [u8; 16],
    /// Where the whole outcome stands.
    at: u64,
    part: Option<Part>,
    correct: Option<bool>,
}

/// A row as it stands in the columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub id: &'a str,
    pub hash: &'a str,
    pub sample: u32,
    pub stratum: u32,
    pub score: Option<f64>,
    pub answer: [u8; 16],
    pub at: u64,
}

impl View<'_> {
    /// The same sample of the same row at the same content.
    pub fn same_as(&self, other: &View<'_>) -> bool {
        self.sample == other.sample && self.id == other.id && self.hash == other.hash
    }
}

impl Columns {
    /// Each outcome stands at its place in the slice.
    pub fn of(outcomes: &[Outcome], metric: &Metric) -> Self {
        let piece = |(nth, outcomes): (usize, &[Outcome])| {
            let mut piece = Piece::default();
            for (i, outcome) in outcomes.iter().enumerate() {
                piece.push(&Fields::of(outcome, metric), (nth * AT_ONCE + i) as u64, metric);
            }
            piece
        };
        Self::joined(outcomes.par_chunks(AT_ONCE).enumerate().map(piece).collect())
    }

    /// Pieces in their order.
    pub fn joined(pieces: Vec<Piece>) -> Self {
        let mut all = Self::default();
        let total = |of: fn(&Columns) -> usize| pieces.iter().map(|piece| of(&piece.columns)).sum::<usize>();
        all.text.reserve_exact(total(|c| c.text.len()));
        all.rows.reserve_exact(total(|c| c.rows.len()));
        all.by_hash.reserve_exact(total(|c| c.rows.len()));
        let mut known = HashMap::new();
        for Piece { columns, .. } in pieces {
            let numbers: Vec<u32> =
                columns.strata.into_iter().map(|name| number(&mut known, &mut all.strata, name)).collect();
            let (shift, place) = (all.text.len(), all.rows.len());
            all.text.push_str(&columns.text);
            all.by_hash.extend(columns.by_hash.into_iter().map(|(hash, at)| (hash, at + place)));
            all.rows.extend(columns.rows.into_iter().map(|row| Row {
                start: row.start + shift,
                id: row.id + shift,
                end: row.end + shift,
                stratum: numbers.get(row.stratum as usize).copied().unwrap_or(NO_STRATUM),
                ..row
            }));
        }
        all.by_hash.par_sort_unstable();
        all.keep_the_last();
        all
    }

    /// Drop outcomes that a later one of the same row and sample replaces.
    fn keep_the_last(&mut self) {
        let mut gone = Vec::new();
        for same in self.by_hash.chunk_by(|a, b| a.0 == b.0).filter(|same| same.len() > 1) {
            for (nth, (_, at)) in same.iter().enumerate() {
                let key = |at: usize| self.view(at).map(|row| (row.id, row.sample));
                if same.iter().skip(nth + 1).any(|(_, later)| key(*later) == key(*at)) {
                    gone.push(*at);
                }
            }
        }
        self.drop_rows(gone);
    }

    /// Without the rows of these ids.
    pub fn leave_out(&mut self, gone: &dyn Fn(&str) -> bool) {
        let gone = (0..self.rows.len()).filter(|at| self.view(*at).is_some_and(|row| gone(row.id))).collect();
        self.drop_rows(gone);
    }

    /// By their places.
    fn drop_rows(&mut self, mut gone: Vec<usize>) {
        if gone.is_empty() {
            return;
        }
        gone.sort_unstable();
        // How many before it are gone; none where it is itself.
        let moved = |at: usize| gone.binary_search(&at).err().map(|before| at - before);
        self.by_hash = self.by_hash.iter().filter_map(|(hash, at)| Some((*hash, moved(*at)?))).collect();
        let mut at = 0;
        self.rows.retain(|_| {
            at += 1;
            moved(at - 1).is_some()
        });
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn strata(&self) -> &[String] {
        &self.strata
    }

    pub(super) fn by_hash(&self) -> &[(u64, usize)] {
        &self.by_hash
    }

    pub(super) fn view(&self, place: usize) -> Option<View<'_>> {
        let row = self.rows.get(place)?;
        Some(View {
            id: self.text.get(row.start..row.id)?,
            hash: self.text.get(row.id..row.end)?,
            sample: row.sample,
            stratum: row.stratum,
            score: row.score,
            answer: row.answer,
            at: row.at,
        })
    }

    /// Id, content hash, part and whether it was right, of every outcome.
    pub fn right(&self) -> impl Iterator<Item = (&str, &str, Option<Part>, Option<bool>)> {
        self.rows.iter().enumerate().filter_map(|(place, row)| {
            let view = self.view(place)?;
            Some((view.id, view.hash, row.part, row.correct))
        })
    }
}

fn number(known: &mut HashMap<String, u32>, names: &mut Vec<String>, name: String) -> u32 {
    if let Some(number) = known.get(&name) {
        return *number;
    }
    let next = names.len() as u32;
    names.push(name.clone());
    known.insert(name, next);
    next
}

/// Columns of some outcomes of a file.
#[derive(Debug, Default)]
pub struct Piece {
    columns: Columns,
    known: HashMap<String, u32>,
}

impl Piece {
    /// Lines with their newlines, the first at byte `offset` of its file; each outcome stands at the byte where its line begins. Lines
    /// that are no outcomes are passed over.
    pub fn of_lines(lines: &[u8], offset: u64, metric: &Metric) -> Self {
        let mut piece = Self::default();
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', lines) {
            if let Some(fields) = lines.get(start..end).and_then(|line| line::fields(line, metric)) {
                piece.push(&fields, offset + start as u64, metric);
            }
            start = end + 1;
        }
        piece
    }

    fn push(&mut self, fields: &Fields<'_>, at: u64, metric: &Metric) {
        let columns = &mut self.columns;
        let start = columns.text.len();
        columns.text.push_str(&fields.row);
        let id = columns.text.len();
        columns.text.push_str(&fields.row_hash);
        let stratum = match fields.stratum.as_deref() {
            None => NO_STRATUM,
            Some(name) => match self.known.get(name) {
                Some(number) => *number,
                None => number(&mut self.known, &mut columns.strata, name.to_owned()),
            },
        };
        let mut answer = [0; 16];
        if fields.score.and_then(|score| metric.right(score)) == Some(false) {
            answer.copy_from_slice(&blake3::hash(fields.output.trim().as_bytes()).as_bytes()[..16]);
        }
        let mut hasher = DefaultHasher::new();
        (&*fields.row, fields.sample).hash(&mut hasher);
        columns.by_hash.push((hasher.finish(), columns.rows.len()));
        columns.rows.push(Row {
            start,
            id,
            end: columns.text.len(),
            sample: fields.sample,
            stratum,
            score: fields.score,
            answer,
            at,
            part: fields.part,
            correct: fields.correct,
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::line::tests::outcome;
    use super::*;

    #[test]
    fn the_last_outcome_of_a_row_and_sample_counts() {
        let metric = Metric::comparable("accuracy").unwrap();
        let one = |row: &str, hash: &str, sample, score: f64| Outcome {
            row: row.into(),
            row_hash: hash.into(),
            sample,
            scores: [("accuracy".to_owned(), score)].into(),
            ..Outcome::default()
        };
        let all =
            [one("a", "x", 0, 0.0), one("b", "x", 0, 1.0), one("a", "y", 0, 1.0), one("a", "y", 1, 0.0)];
        let columns = Columns::of(&all, &metric);
        let kept: Vec<_> = (0..columns.len())
            .filter_map(|i| columns.view(i))
            .map(|r| (r.id, r.hash, r.sample, r.at))
            .collect();
        assert_eq!(kept, [("b", "x", 0, 1), ("a", "y", 0, 2), ("a", "y", 1, 3)]);
        assert!(columns.by_hash.iter().all(|(_, at)| *at < 3) && columns.by_hash.len() == 3);
    }

    proptest! {
        /// In whatever pieces the lines come, the columns are those of the outcomes.
        #[test]
        fn pieces_make_no_difference(outcomes in prop::collection::vec(outcome(), 0..12), cut in 1..4usize) {
            let metric = Metric::comparable("accuracy").unwrap();
            let lines: Vec<String> = outcomes.iter().map(|o| serde_json::to_string(o).unwrap() + "\n").collect();
            let read: Vec<Outcome> = lines.iter().map(|l| serde_json::from_str(l).unwrap()).collect();
            let mut offset = 0;
            let pieces = lines.chunks(cut).map(|some| {
                let bytes = some.concat();
                let piece = Piece::of_lines(bytes.as_bytes(), offset, &metric);
                offset += bytes.len() as u64;
                piece
            }).collect();
            let mut got = Columns::joined(pieces);
            // A file's outcomes stand at bytes, those in memory at places.
            let starts: Vec<u64> = lines.iter().scan(0, |at, l| { let start = *at; *at += l.len() as u64; Some(start) }).collect();
            for row in &mut got.rows {
                row.at = starts.iter().position(|at| *at == row.at).unwrap() as u64;
            }
            prop_assert_eq!(got, Columns::of(&read, &metric));
        }
    }
}
