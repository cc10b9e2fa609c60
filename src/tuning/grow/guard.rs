//! What a new text must not say: what other rows say (duplicates), and above all what rows say that are scored on (leaks).

use rayon::prelude::*;

use crate::domain::grow::{Check, Other};
use crate::domain::row::{Part, RunRow};
use crate::domain::settings::Likeness;
use crate::domain::words::counted;
use crate::embed::{Source, Step, Vectors, dot};
use crate::strata::duplicates::Near;
use crate::strata::leaks::{Rule, Scored};

/// Vectors of the built-in embedder nearer than this are suspected; those of a model at the least. A row that somebody wrote may stand beside such
/// a one; one that is made need not.
pub const COSINE: f32 = 0.95;
/// A model's vectors may all lie close together. Then it is what this share of the train rows stay below, who are no leaks: people wrote them.
const SHARE: f64 = 0.995;
/// Never more than this: what says the same is nearer still.
const COSINE_MOST: f32 = 0.999;
/// Train rows that are held against those that are scored on, for that share: at least and at most, and the pairs in all.
const SAMPLE: (usize, usize) = (20, 1_000);
const PAIRS: usize = 20_000_000;
/// Rows whose pairs tell how near those with other golds are.
const STRANGERS: usize = 200;

/// All rows of the data, and what was made so far.
#[derive(Debug)]
pub struct Guard {
    texts: Vec<Text>,
    near: Near,
    /// Places of the rows that are scored on.
    scored: Vec<usize>,
    overlaps: Scored,
    source: Source,
    /// Of the rows that are scored on, in their order; with the share of each text that its vector expresses.
    vectors: (Vectors, Vec<f32>),
    leak: f32,
    /// Where that is from.
    by_rows: Option<usize>,
}

/// What came of holding a text against the others.
#[derive(Debug, Default, PartialEq)]
pub struct Held {
    pub refused: Option<(Check, String)>,
    /// Cosine with the nearest row that is scored on, where it was asked.
    pub nearest: Option<f64>,
}

#[derive(Debug)]
struct Text {
    id: String,
    part: Option<Part>,
    made: bool,
    input: String,
}

impl Guard {
    /// `leak` is the cosine from which on a text is one; none: by the embedder. `each` hears how far a model is, of how many texts;
    /// it returns false to end early, which gives none.
    ///
    /// # Errors
    /// Why the model could not embed, in words, with its name.
    pub fn new(
        others: Vec<Other>,
        likeness: Likeness,
        source: Source,
        leak: Option<f64>,
        each: &mut dyn FnMut(Step, usize) -> bool,
    ) -> Result<Option<Self>, String> {
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
        let asks = leak.is_none() && source.builtin().is_none() && !scored.is_empty();
        let most = if asks { (PAIRS / scored.len()).clamp(SAMPLE.0, SAMPLE.1) } else { 0 };
        let step = learned.len().div_ceil(most.max(1)).max(1);
        let sample: Vec<&str> =
            (0..learned.len()).step_by(step).take(most).filter_map(|i| of(&learned, i)).collect();
        let (total, first) = (wanted.len() + sample.len(), wanted.len());
        let Some(vectors) = embedded(&source, &wanted, &mut |step| each(step, total))? else {
            return Ok(None);
        };
        let Some(written) = embedded(&source, &sample, &mut |step| each(step.behind(first), total))? else {
            return Ok(None);
        };
        let mut found: Vec<f32> = (0..written.0.len())
            .into_par_iter()
            .filter_map(|i| Some(nearest_of(&vectors, written.0.row(i), *written.1.get(i)?)?.1))
            .collect();
        found.sort_by(f32::total_cmp);
        let by_rows = (found.len() >= SAMPLE.0).then_some(found.len());
        let at = ((found.len() as f64 * SHARE) as usize).min(found.len().saturating_sub(1));
        let by = by_rows.and(found.get(at)).map_or(COSINE, |cosine| cosine.clamp(COSINE, COSINE_MOST));
        let leak_at = leak.map_or(by, |cosine| cosine as f32);
        let texts = others
            .into_iter()
            .map(|other| Text { id: other.id, part: other.part, made: false, input: other.input })
            .collect();
        Ok(Some(Self { texts, near, scored, overlaps, source, vectors, leak: leak_at, by_rows }))
    }

    /// Who embeds.
    pub fn by(&self) -> &str {
        self.source.name()
    }

    /// From which cosine on a text is a leak, and why, for people to read.
    pub fn told(&self) -> String {
        let rows = counted(self.scored.len(), "row");
        let why = self.by_rows.map(|n| {
            format!(
                " ({:.1}% of {} of the train part are below, or {COSINE})",
                100.0 * SHARE,
                counted(n, "row")
            )
        });
        format!(
            "a leak: a cosine of {:.3} by `{}`{} with one of {rows} that are scored on",
            self.leak,
            self.by(),
            why.unwrap_or_default()
        )
    }

    /// The cosine that 95% of pairs of rows with other golds stay below; none where there are too few.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn strangers(&self, rows: &[RunRow]) -> Result<Option<f64>, String> {
        let step = rows.len().div_ceil(STRANGERS).max(1);
        let some: Vec<&RunRow> = rows.iter().step_by(step).filter(|row| row.gold.is_some()).collect();
        let texts: Vec<&str> = some.iter().map(|row| row.input.as_str()).collect();
        let (vectors, shares) = self.source.embed_with_fit(&texts)?;
        let mut all = Vec::new();
        for i in 0..some.len() {
            for j in 0..i {
                let gold = |at: usize| some.get(at).and_then(|row| row.gold.as_deref());
                let share = |at: usize| shares.get(at).copied().unwrap_or(0.0);
                if gold(i) != gold(j) {
                    all.push(weighed(dot(vectors.row(i), vectors.row(j)), share(i), share(j)));
                }
            }
        }
        all.sort_by(f32::total_cmp);
        let at = all.len() * 95 / 100;
        Ok(all.get(at).filter(|_| all.len() >= SAMPLE.0).map(|cosine| f64::from(*cosine)))
    }

    /// Have a model embed these together, which costs less than each when it is asked for.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn prepare(&self, texts: &[&str]) -> Result<(), String> {
        if self.source.builtin().is_none() && !texts.is_empty() {
            self.source.embed(texts, &mut |_| true)?;
        }
        Ok(())
    }

    fn text(&self, at: usize) -> &str {
        self.texts.get(at).map_or("", |text| text.input.as_str())
    }

    /// How near a text is in meaning to the nearest of others, 0 to 1, as the embedder has it.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn likeness(&self, new: &str, others: &[&str]) -> Result<f64, String> {
        let (own, share) = self.source.embed_with_fit(&[new])?;
        let share = share.first().copied().unwrap_or(0.0);
        let others = self.source.embed_with_fit(others)?;
        let nearest = if own.is_empty() { None } else { nearest_of(&others, own.row(0), share) };
        Ok(nearest.map_or(0.0, |(_, cosine)| f64::from(cosine.max(0.0))))
    }

    /// Where a new text falls, and why, and how near it is to what is scored on.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn hold(&self, new: &str) -> Result<Held, String> {
        if let Some(refused) = self.says_what_another_says(new) {
            return Ok(Held { refused: Some(refused), nearest: None });
        }
        let (vector, share) = self.source.embed_with_fit(&[new])?;
        let share = share.first().copied().unwrap_or(0.0);
        let nearest = if vector.is_empty() { None } else { nearest_of(&self.vectors, vector.row(0), share) };
        let Some((at, cosine)) = nearest else { return Ok(Held::default()) };
        let known = self.scored.get(at).and_then(|at| self.texts.get(*at));
        let refused = known.filter(|_| cosine >= self.leak).map(|known| {
            let part = known.part.map_or("", Part::name);
            let why =
                format!("cosine {cosine:.3} by `{}` with row {} of the {part} part", self.by(), known.id);
            (Check::Leak, why)
        });
        Ok(Held { refused, nearest: Some(f64::from(cosine)) })
    }

    /// By its words.
    fn says_what_another_says(&self, new: &str) -> Option<(Check, String)> {
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
        None
    }

    /// It is there from now on.
    pub fn add(&mut self, id: &str, input: &str) {
        self.near.add(input);
        self.texts.push(Text { id: id.to_owned(), part: None, made: true, input: input.to_owned() });
    }
}

/// The vectors of texts, with the share of each that they express; none where `each` ends it.
fn embedded(
    source: &Source,
    texts: &[&str],
    each: &mut dyn FnMut(Step) -> bool,
) -> Result<Option<(Vectors, Vec<f32>)>, String> {
    if source.builtin().is_some() || texts.is_empty() {
        return source.embed_with_fit(texts).map(Some);
    }
    Ok(source.embed(texts, each)?.map(|vectors| (vectors, vec![1.0; texts.len()])))
}

/// The place of the nearest, and its cosine.
fn nearest_of((vectors, shares): &(Vectors, Vec<f32>), own: &[f32], share: f32) -> Option<(usize, f32)> {
    let each = vectors.rows().zip(shares).map(|(row, of)| weighed(dot(own, row), share, *of));
    each.enumerate().max_by(|a, b| a.1.total_cmp(&b.1))
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

    fn guarded(others: Vec<Other>, likeness: Likeness, source: Source, leak: Option<f64>) -> Guard {
        Guard::new(others, likeness, source, leak, &mut |_, _| true).unwrap().unwrap()
    }

    #[test]
    fn a_models_vectors_say_what_leaks_at_a_cosine_that_its_train_rows_stay_below() {
        let path =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/encoders/bert");
        let mut model =
            crate::pipeline::tests::stage("e", "", crate::domain::candidate::OutputKind::Text, &[]).model;
        model.name = "mini".into();
        model.source = crate::domain::candidate::ModelSource::Local { path: path.display().to_string() };
        let open = || Source::open(&model, &crate::backend::Access::threads(1)).unwrap();
        let nouns = ["card", "app", "refund", "loan", "transfer", "pin", "branch", "fee", "code", "limit"];
        let verbs = ["lost", "blocked", "late", "wrong", "missing"];
        let rows = || {
            let all = nouns.iter().flat_map(|noun| verbs.iter().map(move |verb| (noun, verb)));
            let text =
                |i: usize, noun: &str, verb: &str| format!("row {i}: my {noun} is {verb} since the {i}th");
            all.enumerate()
                .map(|(i, (noun, verb))| {
                    let part = if i % 5 == 0 { Part::Eval } else { Part::Train };
                    other(&format!("r{i}"), part, &text(i, noun, verb))
                })
                .collect::<Vec<_>>()
        };
        let guard = guarded(rows(), Likeness { threshold: 0.99, ngram: 5 }, open(), None);
        assert!(guard.leak >= COSINE && guard.leak <= COSINE_MOST && guard.by_rows == Some(40), "{guard:?}");
        assert!(guard.told().contains("by `mini`") && guard.told().contains("40 rows"), "{}", guard.told());
        // The cosine itself, of no other embedder.
        let text = "nobody told me that the branch in town is closed";
        let cosine = open().embed(&[text, &rows()[5].input], &mut |_| true).unwrap().unwrap();
        let want = f64::from(dot(cosine.row(0), cosine.row(1)));
        let held = guard.hold(text).unwrap();
        assert!(held.nearest.is_some_and(|nearest| nearest >= want - 1e-6), "{held:?} {want}");
        assert!((guard.likeness(text, &[&rows()[5].input]).unwrap() - want).abs() < 1e-5);
        // A threshold of one's own.
        let strict = guarded(
            rows(),
            Likeness { threshold: 0.99, ngram: 5 },
            open(),
            Some(held.nearest.unwrap() - 0.01),
        );
        let (check, why) = strict.hold(text).unwrap().refused.unwrap();
        assert!(check == Check::Leak && why.contains("by `mini` with row"), "{why}");
        // Somebody stops it while it embeds.
        let none = Guard::new(rows(), Likeness::default(), open(), None, &mut |_, _| false).unwrap();
        assert!(none.is_none());
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
        let mut guard = guarded(others, Likeness::default(), embedder.into(), None);
        let of = |guard: &Guard, text: &str| guard.hold(text).unwrap().refused;
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
            let guard = guarded(others, Likeness { threshold: 0.95, ngram: 5 }, embedder.into(), None);
            let cosine = guard.likeness(turned, &[a]).unwrap();
            let got = guard.hold(turned).unwrap().refused;
            assert!(cosine >= f64::from(COSINE), "{cosine}");
            assert_eq!(got.is_some(), refused, "{cosine} {got:?}");
            // Words that nobody else has make a text another one, whatever the few known ones say.
            assert_eq!(guard.hold("card qwxzv vbnmk plokij hygtf").unwrap().refused, None);
        }
    }
}
