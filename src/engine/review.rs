//! Rows for people to review: the same rows for every annotator, in an order of each one's own; what others said is hidden until both have
//! decided. The first opinion takes effect at once; where a second parts from it, the row waits in a list to be settled.

use std::collections::{BTreeMap, BTreeSet};

use super::queue::{annotator, lot};
use super::rows::{self, Loaded, cut};
use super::sample;
use super::state::{Engine, bad_input};
use crate::domain::api::{Decision, Failure, RowQuery};
use crate::domain::problem::EXCLUDED;
use crate::domain::review::{
    Apart, Opinion, Pair, Progress, Review, ReviewAsk, ReviewItem, ReviewQueue, RowAgreement, SETTLED,
};
use crate::domain::sample::{Mode, Wanted};
use crate::score::{agreement, alpha};

/// Characters of each text of an item, and of all of an answer together.
const TEXT_MAX: usize = 16_000;
const ALL_MAX: usize = 400_000;
/// Rows in the list to settle, and characters of their inputs.
const APART: usize = 200;
const INPUT: usize = 400;
/// Of the bootstrap.
const SEED: u64 = 7;

/// Opinions on rows whose content is still what it was, by row.
fn opinions(engine: &Engine, loaded: &Loaded) -> BTreeMap<String, Vec<Review>> {
    let all: Vec<Review> = engine.read(|s| s.decisions.reviews.values().cloned().collect());
    let mut by_row: BTreeMap<String, Vec<Review>> = BTreeMap::new();
    for review in all {
        let now = loaded.dataset.find(&review.row).map(|at| loaded.dataset.hash(at));
        if now.as_ref() == Some(&review.row_hash) {
            by_row.entry(review.row.clone()).or_default().push(review);
        }
    }
    by_row
}

/// The gold that is shown: once others have decided, as it stands in the file, since the one that holds may be theirs.
fn shown(engine: &Engine, loaded: &Loaded, at: usize, hidden: bool) -> Option<String> {
    let decided = engine.read(|s| s.decisions.gold.get(loaded.dataset.id(at)).cloned());
    decided.filter(|_| !hidden).or_else(|| loaded.text(at).1)
}

/// What is left for the annotator.
pub fn queue(engine: &Engine, ask: &ReviewAsk) -> Result<ReviewQueue, Failure> {
    let name = annotator(ask.annotator.as_deref())?;
    let wanted = Wanted {
        mode: Mode::PerStratum,
        n: ask.per.max(1),
        seed: ask.seed,
        filter: ask.filter.clone(),
        part: None,
    };
    let (loaded, mut chosen, said) = if ask.second {
        // All rows that others decided on, not a sample of all rows.
        let query = RowQuery { text: wanted.filter, ..RowQuery::default() };
        let (loaded, places) = rows::places(engine, &query)?;
        let said = opinions(engine, &loaded);
        let by_others = |id: &str| {
            said.get(id).is_some_and(|all| all.iter().any(|r| r.annotator != name && r.annotator != SETTLED))
        };
        let places = places.iter().map(|&at| at as usize);
        let chosen: Vec<usize> = places.filter(|at| by_others(loaded.dataset.id(*at))).collect();
        (loaded, chosen, said)
    } else {
        let (loaded, all, _) = sample::pick(engine, &wanted)?;
        let said = opinions(engine, &loaded);
        (loaded, all.into_iter().map(|(at, _)| at).collect(), said)
    };
    let stratum =
        |at: usize| loaded.stratum(at).and_then(|s| loaded.strata.as_ref()?.name(s)).unwrap_or_default();
    let decided = |at: usize| {
        said.get(loaded.dataset.id(at)).is_some_and(|all| all.iter().any(|r| r.annotator == name))
    };
    let mut strata: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for &at in &chosen {
        let counts = strata.entry(stratum(at)).or_default();
        counts.0 += usize::from(decided(at));
        counts.1 += 1;
    }
    let total = chosen.len();
    chosen.retain(|&at| !decided(at));
    chosen.sort_by_key(|&at| lot(&[&name, "review", loaded.dataset.id(at)]));
    let (mut items, mut room) = (Vec::new(), ALL_MAX);
    for &at in &chosen {
        let id = loaded.dataset.id(at);
        let (input, _) = loaded.text(at);
        let gold = shown(engine, &loaded, at, said.get(id).is_some_and(|all| !all.is_empty()));
        let text = |text: &str| cut(text, TEXT_MAX).into_owned();
        let (marks, note) = engine.read(|s| {
            let marks = s.decisions.marks.get(id).map(|m| m.iter().cloned().collect()).unwrap_or_default();
            (marks, s.decisions.notes.get(id).map(|note| text(note)))
        });
        let item = ReviewItem {
            row: id.to_owned(),
            stratum: stratum(at),
            input: text(&input),
            gold: gold.as_deref().map(text),
            marks,
            note,
        };
        let size = item.input.len() + item.gold.as_ref().map_or(0, String::len) + id.len() + 400;
        if size > room && !items.is_empty() {
            break;
        }
        room = room.saturating_sub(size);
        items.push(item);
    }
    let progress = |(stratum, (done, total))| Progress { stratum, done, total };
    Ok(ReviewQueue {
        annotator: name,
        done: total - chosen.len(),
        total,
        strata: strata.into_iter().map(progress).collect(),
        items,
    })
}

/// The decision that an opinion is. Only the first one on a row, and what settles it, change its gold.
pub fn say(
    engine: &Engine,
    name: Option<&str>,
    row: &str,
    opinion: Option<Opinion>,
    settle: bool,
) -> Result<Decision, Failure> {
    let name = annotator(name)?;
    let loaded = rows::loaded(engine)?;
    let at = loaded.dataset.find(row).ok_or_else(|| bad_input(format!("no row `{row}`")))?;
    let said = opinions(engine, &loaded).remove(row).unwrap_or_default();
    let others = said.iter().filter(|r| r.annotator != name).count();
    if settle && said.len() < 2 {
        return Err(bad_input(format!("row {row} has not two opinions: there is nothing to settle")));
    }
    let opinion = opinion.unwrap_or_else(|| Opinion::Gold(shown(engine, &loaded, at, others > 0 && !settle)));
    if opinion.word().len() > TEXT_MAX {
        return Err(bad_input(format!("a gold has at most {TEXT_MAX} characters")));
    }
    let review = Review {
        annotator: if settle { SETTLED.to_owned() } else { name },
        row: row.to_owned(),
        row_hash: loaded.dataset.hash(at),
        opinion: Some(opinion.clone()),
    };
    let mut decisions = vec![Decision::Review(review)];
    if settle || others == 0 {
        let (_, in_file) = loaded.text(at);
        let (gold, marked, by_review) = engine.read(|s| {
            let marked = s.decisions.marks.get(row).is_some_and(|marks| marks.contains(EXCLUDED));
            let out = |r: &Review| r.row == row && r.opinion == Some(Opinion::Exclude);
            (s.decisions.gold.get(row).cloned(), marked, s.decisions.reviews.values().any(out))
        });
        if let Opinion::Gold(wanted) = &opinion {
            // What the file says needs no decision of a person's.
            let wanted = wanted.clone().filter(|gold| Some(gold) != in_file.as_ref());
            if wanted != gold {
                decisions.push(Decision::Gold { row: row.to_owned(), gold: wanted });
            }
        }
        let out = opinion == Opinion::Exclude;
        // A row that was left out for another reason, as a duplicate is, stays out.
        if out != marked && (out || by_review) {
            decisions.push(Decision::Mark { row: row.to_owned(), mark: EXCLUDED.into(), on: out });
        }
    }
    Ok(Decision::Together { decisions })
}

/// How far annotators agree, and where they part.
pub fn agreement(engine: &Engine) -> Result<RowAgreement, Failure> {
    let loaded = rows::loaded(engine)?;
    let all = opinions(engine, &loaded);
    let mut found = RowAgreement::default();
    let mut decided: BTreeMap<&str, usize> = BTreeMap::new();
    let mut units: Vec<Vec<&str>> = Vec::new();
    let mut pairs: BTreeMap<(&str, &str), Vec<(&str, &str)>> = BTreeMap::new();
    for (row, reviews) in &all {
        let settled = reviews.iter().any(|r| r.annotator == SETTLED);
        let said: Vec<(&str, &str)> = reviews
            .iter()
            .filter(|r| r.annotator != SETTLED)
            .filter_map(|r| Some((r.annotator.as_str(), r.opinion.as_ref()?.word())))
            .collect();
        for (i, (a, of_a)) in said.iter().enumerate() {
            *decided.entry(a).or_default() += 1;
            for (b, of_b) in &said[i + 1..] {
                // Annotators stand in the order of their names.
                pairs.entry((a, b)).or_default().push((of_a, of_b));
            }
        }
        if said.len() > 1 {
            let words: BTreeSet<&str> = said.iter().map(|(_, word)| *word).collect();
            found.rows += 1;
            found.same += usize::from(words.len() == 1);
            found.settled += usize::from(words.len() > 1 && settled);
            if words.len() > 1 && !settled && found.apart.len() < APART {
                found.apart.push(apart(&loaded, row, &said));
            }
        }
        units.push(said.iter().map(|(_, word)| *word).collect());
    }
    found.alpha = alpha::alpha(&units, SEED);
    found.pairs = pairs.into_iter().map(|((a, b), said)| pair(a, b, &said)).collect();
    found.pairs.sort_by_key(|pair| std::cmp::Reverse(pair.rows));
    found.annotators = decided.into_iter().map(|(name, rows)| (name.to_owned(), rows)).collect();
    Ok(found)
}

fn apart(loaded: &Loaded, row: &str, said: &[(&str, &str)]) -> Apart {
    let at = loaded.dataset.find(row);
    let (input, gold) = at.map(|at| loaded.text(at)).unwrap_or_default();
    let stratum = at.and_then(|at| loaded.stratum(at)).and_then(|s| loaded.strata.as_ref()?.name(s));
    Apart {
        row: row.to_owned(),
        stratum: stratum.unwrap_or_default(),
        input: cut(&input, INPUT).into_owned(),
        gold: gold.map(|gold| cut(&gold, INPUT).into_owned()),
        said: said.iter().map(|(who, word)| ((*who).to_owned(), cut(word, INPUT).into_owned())).collect(),
    }
}

fn pair(a: &str, b: &str, said: &[(&str, &str)]) -> Pair {
    let words: BTreeSet<&str> = said.iter().flat_map(|(a, b)| [*a, *b]).collect();
    let place = |word: &str| words.iter().position(|known| *known == word).unwrap_or_default();
    let mut table = vec![vec![0; words.len()]; words.len()];
    for (a, b) in said {
        table[place(a)][place(b)] += 1;
    }
    Pair {
        a: a.to_owned(),
        b: b.to_owned(),
        rows: said.len(),
        same: said.iter().filter(|(a, b)| a == b).count(),
        kappa: agreement::kappa(&table, false),
    }
}
