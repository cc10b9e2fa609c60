//! What a new text must not say: what other rows say (duplicates), and above all what rows say that are scored on (leaks).

use crate::domain::grow::{Check, Other};
use crate::domain::row::Part;
use crate::domain::settings::Likeness;
use crate::embed::{Embedder, Vectors, dot};
use crate::strata::duplicates::Near;
use crate::strata::leaks::{Rule, Scored};

/// Vectors of the built-in embedder nearer than this are suspected. A row that somebody wrote may stand beside such a one; one that is made
/// need not.
pub const COSINE: f32 = 0.95;

/// All rows of the data, and what was made so far.
#[derive(Debug)]
pub struct Guard {
    texts: Vec<Text>,
    near: Near,
    /// Places of the rows that are scored on.
    scored: Vec<usize>,
    overlaps: Scored,
    embedder: Embedder,
    /// Of the rows that are scored on, in their order; with the share of each text that its vector expresses.
    vectors: (Vectors, Vec<f32>),
}

#[derive(Debug)]
struct Text {
    id: String,
    part: Option<Part>,
    made: bool,
    input: String,
}

impl Guard {
    /// `embedder` is fitted on these rows.
    pub fn new(others: Vec<Other>, likeness: Likeness, embedder: Embedder) -> Self {
        let scored: Vec<usize> =
            others.iter().enumerate().filter(|(_, other)| other.is_scored()).map(|(at, _)| at).collect();
        let learned: Vec<usize> =
            others.iter().enumerate().filter(|(_, other)| !other.is_scored()).map(|(at, _)| at).collect();
        let inputs: Vec<&str> = others.iter().map(|other| other.input.as_str()).collect();
        let near = Near::of(&inputs, likeness);
        let of = |places: &[usize], i: usize| places.get(i).and_then(|at| inputs.get(*at)).copied();
        let text = |i: usize| of(&scored, i).unwrap_or_default();
        let mut overlaps = Scored::new((scored.len(), &text), Rule::default());
        // A phrase of the trade stands in many rows that people wrote.
        overlaps.forget_common((learned.len(), &|i| of(&learned, i).unwrap_or_default()));
        let wanted: Vec<&str> = (0..scored.len()).map(text).collect();
        let vectors = embedder.embed_with_fit(&wanted);
        let texts = others
            .into_iter()
            .map(|other| Text { id: other.id, part: other.part, made: false, input: other.input })
            .collect();
        Self { texts, near, scored, overlaps, embedder, vectors }
    }

    fn text(&self, at: usize) -> &str {
        self.texts.get(at).map_or("", |text| text.input.as_str())
    }

    /// How near a text is in meaning to the nearest of others, 0 to 1, as the built-in embedder has it.
    pub fn likeness(&self, new: &str, others: &[&str]) -> f64 {
        let (own, share) = self.embedder.embed_with_fit(&[new]);
        let share = share.first().copied().unwrap_or(0.0);
        let (vectors, shares) = self.embedder.embed_with_fit(others);
        let each = vectors.rows().zip(shares).map(|(row, of)| weighed(dot(own.row(0), row), share, of));
        f64::from(each.fold(0.0, f32::max))
    }

    /// Where a new text falls, and why.
    pub fn refuses(&self, new: &str) -> Option<(Check, String)> {
        if let Some((at, likeness)) = self.near.find(new, &|at| self.text(at)) {
            let known = self.texts.get(at)?;
            let how = if likeness >= 1.0 {
                "the same text as".to_owned()
            } else {
                format!("nearly ({likeness:.2}) the same text as")
            };
            return Some(match known.part.filter(|part| *part != Part::Train) {
                Some(part) => (Check::Leak, format!("{how} row {} of the {} part", known.id, part.name())),
                None if known.made => (Check::Duplicate, format!("{how} {}, made before", known.id)),
                None => (Check::Duplicate, format!("{how} row {}", known.id)),
            });
        }
        let row = |i: usize| self.scored.get(i).and_then(|at| self.texts.get(*at));
        let part = |text: &Text| text.part.map_or("", Part::name);
        let scored = |i: usize| row(i).map_or("", |text| text.input.as_str());
        let overlap = self.overlaps.overlaps(&scored, (1, &|_| new)).into_iter().next();
        if let Some((overlap, known)) = overlap.and_then(|o| Some((o, row(o.scored as usize)?))) {
            let words = format!(
                "{}% of row {} of the {} part, by words in a row",
                overlap.percent,
                known.id,
                part(known)
            );
            return Some((Check::Leak, words));
        }
        let (vector, share) = self.embedder.embed_with_fit(&[new]);
        let (own, share) = (vector.row(0), share.first().copied().unwrap_or(0.0));
        let (vectors, shares) = &self.vectors;
        let nearest = (0..vectors.len())
            .zip(shares)
            .map(|(i, of)| (i, weighed(dot(own, vectors.row(i)), share, *of)))
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .filter(|(_, cosine)| *cosine >= COSINE)?;
        let known = row(nearest.0)?;
        Some((
            Check::Leak,
            format!("cosine {:.3} with row {} of the {} part", nearest.1, known.id, part(known)),
        ))
    }

    /// It is there from now on.
    pub fn add(&mut self, id: &str, input: &str) {
        self.near.add(input);
        self.texts.push(Text { id: id.to_owned(), part: None, made: true, input: input.to_owned() });
    }
}

/// A cosine, weighed by what the vectors express of their texts. A text of words that nobody else has is brought to length 1 by the few that
/// are known: its vector says less than that of a text that is expressed as a whole.
fn weighed(cosine: f32, share: f32, of: f32) -> f32 {
    cosine * (share / of.max(1e-6)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retrieve;

    fn other(id: &str, part: Part, input: &str) -> Other {
        Other { id: id.into(), part: Some(part), input: input.into() }
    }

    #[test]
    fn copies_near_copies_and_leaks_are_told_apart_and_what_is_new_passes() {
        let long = "the transfer to my brother in warsaw has been pending for three days and nobody answers";
        let others = vec![
            other("t1", Part::Train, "where is my card, i ordered it two weeks ago"),
            other("e1", Part::Eval, "my refund for the shoes has not arrived"),
            other("d1", Part::Dev, long),
            other("r1", Part::Reserve, "how do i change the pin of my card at the machine"),
        ];
        let embedder = retrieve::fit(others.iter().map(|o| o.input.as_str()));
        let mut guard = Guard::new(others, Likeness::default(), embedder);
        let of = |guard: &Guard, text: &str| guard.refuses(text);
        let (check, why) = of(&guard, "Where is my card? I ordered it two weeks ago!").unwrap();
        assert_eq!((check, why.as_str()), (Check::Duplicate, "the same text as row t1"));
        let (check, why) = of(&guard, "my refund for the shoes has not arrived!!").unwrap();
        assert_eq!((check, why.as_str()), (Check::Leak, "the same text as row e1 of the eval part"));
        let (check, why) = of(&guard, "how do i change the pin of my card at this machine").unwrap();
        assert!(check == Check::Leak && why.contains("r1 of the reserve part"), "{why}");
        let quoted = format!(
            "dear all, i wrote this on monday already and i say it again with much regret now: {long}, so what now, please tell me what to do"
        );
        let (check, why) = of(&guard, &quoted).unwrap();
        assert!(check == Check::Leak && why.contains("d1 of the dev part, by words in a row"), "{why}");
        let fresh = "somebody took money from my account twice for one coffee";
        assert_eq!(of(&guard, fresh), None);
        guard.add("grown-1", fresh);
        let (check, why) = of(&guard, "Somebody took money from my account twice, for one coffee").unwrap();
        assert_eq!((check, why.as_str()), (Check::Duplicate, "the same text as grown-1, made before"));
    }

    #[test]
    fn the_same_words_in_another_order_are_suspected_of_rows_that_are_scored_on_only() {
        let a = "card lost abroad yesterday evening please help";
        let turned = "please help card lost yesterday evening abroad";
        for (part, refused) in [(Part::Eval, true), (Part::Train, false)] {
            let others = vec![
                other("x", part, a),
                other("y", Part::Train, "refund the shoes please"),
                other("z", Part::Train, "lost the app yesterday help"),
            ];
            let embedder = retrieve::fit(others.iter().map(|o| o.input.as_str()));
            let guard = Guard::new(others, Likeness { threshold: 0.95, ngram: 5 }, embedder);
            let cosine = guard.likeness(turned, &[a]);
            let got = guard.refuses(turned);
            assert!(cosine >= f64::from(COSINE), "{cosine}");
            assert_eq!(got.is_some(), refused, "{cosine} {got:?}");
            // Words that nobody else has make a text another one, whatever the few known ones say.
            assert_eq!(guard.refuses("card qwxzv vbnmk plokij hygtf"), None);
        }
    }
}
