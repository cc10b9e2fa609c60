//! Measuring on the dev part: how many examples, from which store, what each did, and what the store is without some.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::asking::{Asker, Given, Question, Said};
use crate::domain::example::{Effect, Example, Form, Retrieval};
use crate::domain::row::RunRow;
use crate::domain::trajectory::Measured;
use crate::domain::words::counted;
use crate::retrieve::{Index, NEAR_DUPLICATE, Query};
use crate::score::stats::{mcnemar_exact, paired_difference};

/// The dev rows and what was said of them without examples.
pub struct Dev<'r> {
    pub rows: Vec<&'r RunRow>,
    pub without: Vec<Said>,
}

/// A way of using examples.
#[derive(Clone)]
pub struct Way {
    pub name: String,
    /// By the place of the stage.
    pub stages: Vec<Option<Index>>,
    pub how: Retrieval,
}

/// What it did, row by row.
pub struct Tried {
    pub measured: Measured,
    pub given: Vec<Given>,
    pub said: Vec<Said>,
}

impl Way {
    fn given(&self, row: &RunRow) -> anyhow::Result<(Given, bool)> {
        let mut near = false;
        let given = self
            .stages
            .iter()
            .map(|index| {
                let Some(index) = index else { return Ok(Vec::new()) };
                let query =
                    Query { stratum: row.stratum.as_deref(), row: Some(&row.id), ..Query::text(&row.input) };
                let hits = index.retrieve(&query, &self.how).map_err(anyhow::Error::msg)?;
                near |= hits.iter().any(|hit| hit.why.near_duplicate);
                Ok(hits.into_iter().map(|hit| hit.example).collect())
            })
            .collect::<anyhow::Result<_>>()?;
        Ok((given, near))
    }
}

impl Dev<'_> {
    pub fn baseline(&self) -> Measured {
        measured("none", 0, &self.without, &self.without, 0)
    }

    /// All dev rows in one way; none where the run ended on the way.
    pub fn try_way(&self, asker: &mut Asker<'_>, way: &Way) -> anyhow::Result<Option<Tried>> {
        let ways: Vec<&Way> = vec![way; self.rows.len()];
        self.try_ways(asker, &ways)
    }

    /// Each row in its own way.
    fn try_ways(&self, asker: &mut Asker<'_>, ways: &[&Way]) -> anyhow::Result<Option<Tried>> {
        let Some(first) = ways.first() else { return Ok(None) };
        let mut near = 0;
        let mut given = Vec::with_capacity(self.rows.len());
        for (row, way) in self.rows.iter().zip(ways) {
            let (set, duplicate) = way.given(row)?;
            near += usize::from(duplicate);
            given.push(set);
        }
        let questions: Vec<Question<'_>> = self
            .rows
            .iter()
            .zip(&given)
            .map(|(row, given)| Question { row, given: given.clone(), form: first.how.form })
            .collect();
        let phase = format!("dev, {} of {}", first.how.shots, first.name);
        let said = asker.ask(&phase, &questions)?;
        let Some(said) = said.into_iter().collect::<Option<Vec<Said>>>() else { return Ok(None) };
        let measured = measured(&first.name, first.how.shots, &self.without, &said, near);
        Ok(Some(Tried { measured, given, said }))
    }

    /// What each example did in `tried`: where a row flipped, each of its examples is left out in turn. An example without which the row
    /// flips back has fixed (or broken) it; where no single one is needed, the one shown nearest to the input is taken for all.
    pub fn effects(
        &self,
        asker: &mut Asker<'_>,
        tried: &Tried,
        form: Form,
    ) -> anyhow::Result<Vec<BTreeMap<String, Effect>>> {
        let mut questions = Vec::new();
        let mut of: Vec<(usize, String)> = Vec::new();
        for (i, row) in self.rows.iter().enumerate() {
            if self.without[i].right == tried.said[i].right {
                continue;
            }
            let count: usize = tried.given[i].iter().map(Vec::len).sum();
            for (at, examples) in tried.given[i].iter().enumerate().filter(|_| count > 1) {
                for (place, example) in examples.iter().enumerate() {
                    let mut given = tried.given[i].clone();
                    given[at].remove(place);
                    questions.push(Question { row, given, form });
                    of.push((i, example.id.clone()));
                }
            }
        }
        let answers = asker.ask("lift and harm", &questions)?;
        let mut needed: HashMap<usize, Vec<String>> = HashMap::new();
        for ((i, id), said) in of.into_iter().zip(answers) {
            if said.is_some_and(|said| said.right == self.without[i].right) {
                needed.entry(i).or_default().push(id);
            }
        }
        Ok((0..self.rows.len())
            .map(|i| {
                let shown = || tried.given[i].iter().flatten();
                let mut effects: BTreeMap<String, Effect> =
                    shown().map(|e| (e.id.clone(), Effect { uses: 1, ..Effect::default() })).collect();
                let (before, after) = (self.without[i].right, tried.said[i].right);
                if before != after {
                    let nearest = || shown().next_back().map(|e| e.id.clone()).into_iter().collect();
                    for id in needed.get(&i).cloned().unwrap_or_else(nearest) {
                        let effect = effects.entry(id).or_default();
                        if after {
                            effect.fixed = 1;
                        } else {
                            effect.broken = 1;
                        }
                    }
                }
                effects
            })
            .collect())
    }

    /// Each half of the rows with what the examples did on the other half: what ranks an example has not seen the row that it is ranked
    /// for.
    pub fn try_crossed(
        &self,
        asker: &mut Asker<'_>,
        way: &Way,
        effects: &[BTreeMap<String, Effect>],
    ) -> anyhow::Result<Option<Tried>> {
        let half = |i: usize| blake3::hash(self.rows[i].id.as_bytes()).as_bytes()[0] & 1;
        let halves: Vec<Way> = [0, 1]
            .map(|h| {
                let others = (0..self.rows.len()).filter(|&i| half(i) != h);
                let known = gather(others.map(|i| (self.rows[i], &effects[i])));
                with_effects(way, &known)
            })
            .to_vec();
        let ways: Vec<&Way> = (0..self.rows.len()).map(|i| &halves[usize::from(half(i))]).collect();
        self.try_ways(asker, &ways)
    }

    /// All that is known of what the examples did, by example and stratum.
    pub fn gathered(&self, effects: &[BTreeMap<String, Effect>]) -> Known {
        gather(self.rows.iter().copied().zip(effects))
    }
}

/// By example, then by stratum.
pub type Known = HashMap<String, BTreeMap<String, Effect>>;

fn gather<'a>(rows: impl Iterator<Item = (&'a RunRow, &'a BTreeMap<String, Effect>)>) -> Known {
    let mut known = Known::new();
    for (row, effects) in rows {
        let stratum = row.stratum.clone().unwrap_or_default();
        for (id, effect) in effects {
            known.entry(id.clone()).or_default().entry(stratum.clone()).or_default().add(*effect);
        }
    }
    known
}

/// Breaks more than it fixes, and not by one accident.
pub fn is_harmful(example: &Example) -> bool {
    let total = example.total();
    total.broken >= 2 && total.broken > total.fixed
}

/// The same way over examples that know what they did.
pub fn with_effects(way: &Way, known: &Known) -> Way {
    let knowing = |example: &Arc<Example>| match known.get(&example.id) {
        Some(effect) => Arc::new(Example { effect: effect.clone(), ..Example::clone(example) }),
        None => example.clone(),
    };
    let stages = way.stages.iter().map(|index| Some(index.as_ref()?.with_examples(&knowing))).collect();
    Way { stages, ..way.clone() }
}

/// The same way with some examples disabled: rows that they were not shown for are shown what they were shown before.
pub fn without(way: &Way, gone: &dyn Fn(&Example) -> bool) -> Way {
    let off = |e: &Arc<Example>| {
        if gone(e) { Arc::new(Example { enabled: false, ..Example::clone(e) }) } else { e.clone() }
    };
    let stages = way.stages.iter().map(|index| Some(index.as_ref()?.with_examples(&off))).collect();
    Way { stages, ..way.clone() }
}

fn measured(name: &str, shots: usize, without: &[Said], with: &[Said], near: usize) -> Measured {
    let flips =
        |from: bool| without.iter().zip(with).filter(move |(a, b)| a.right == from && b.right != from);
    let (fixed, broken) = (flips(false).count(), flips(true).count());
    let n = with.len().max(1) as f64;
    Measured {
        store: name.to_owned(),
        shots,
        rows: with.len(),
        right: with.iter().filter(|said| said.right).count(),
        fixed,
        broken,
        tokens_in: with.iter().map(|said| said.tokens_in as f64).sum::<f64>() / n,
        ms: with.iter().map(|said| said.ms).sum::<f64>() / n,
        p_value: mcnemar_exact(fixed, broken),
        ci95: (shots > 0).then(|| paired_difference(fixed, broken, with.len())),
        near_duplicates: near,
    }
}

/// What a person reads of it.
pub fn line(m: &Measured, without: &Measured) -> String {
    let near = if m.near_duplicates > 0 {
        format!(
            "; {} shown an example with {:.0}% of the same words",
            counted(m.near_duplicates, "row"),
            NEAR_DUPLICATE * 100.0
        )
    } else {
        String::new()
    };
    format!(
        "k {:2} of {:8} {:.3} ({}, {} fixed, {} broken), {:.0} tokens ({:+.0}), {:.1} ms a row ({:+.1}){near}",
        m.shots,
        m.store,
        m.accuracy(),
        m.against(without),
        m.fixed,
        m.broken,
        m.tokens_in,
        m.tokens_in - without.tokens_in,
        m.ms,
        m.ms - without.ms
    )
}
