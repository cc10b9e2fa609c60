//! Finding: for rows that the pipeline gets wrong, the smallest set of worked examples that turns the answer to gold.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::asking::{Asker, Given, Question, Said};
use super::ddmin::Ddmin;
use crate::domain::candidate::{Candidate, OutputKind};
use crate::domain::example::{EXAMPLE_FORMAT, Example, Form, Found, Source};
use crate::domain::row::{Part, RunRow};
use crate::domain::trajectory::{Search, Searching, TrajectoryNews, TrajectorySettings};
use crate::embed::Source as Embeds;
use crate::retrieve::{Index, Query, same_text};

/// Sets of examples are proposed in this order.
const NEIGHBOURS: &str = "neighbours";
const SAME_ANSWER: &str = "same answer";
const OWN_TRACES: &str = "own traces";

/// The stages for which there are examples, with an index over all that there are.
pub struct Pool {
    /// By the place of the stage; none: not tuned, or without examples.
    pub stages: Vec<Option<Index>>,
}

/// What a stage should say on a row: its own gold; the row's, where it is the last one and has no field of its own.
fn stage_gold(candidate: &Candidate, at: usize, row: &RunRow) -> Option<String> {
    let stage = candidate.stages.get(at)?;
    let last = at + 1 == candidate.stages.len();
    if stage.gold.is_some() {
        stage.own_gold(&row.fields)
    } else if last {
        row.gold.clone()
    } else {
        None
    }
}

impl Pool {
    /// Worked examples of the train rows: the golden answers, and what the pipeline itself said where it was right (`said`, by row).
    pub fn new(
        candidate: &Candidate,
        settings: &TrajectorySettings,
        rows: &[&RunRow],
        said: &HashMap<&str, Said>,
        run: &str,
        embedder: &Arc<Embeds>,
    ) -> anyhow::Result<Self> {
        let stages = candidate.stages.iter().enumerate().map(|(at, stage)| {
            if !settings.stages.is_empty() && !settings.stages.contains(&stage.name) {
                return Ok(None);
            }
            let mut examples: BTreeMap<String, Arc<Example>> = BTreeMap::new();
            // Whatever else a list of rows holds: only what may be learned from becomes an example.
            for row in rows.iter().filter(|row| row.part == Some(Part::Train)) {
                let own = said.get(row.id.as_str());
                let of_stage = |name: &str| {
                    let (_, output) = own?.stages.iter().find(|(stage, _)| stage == name)?;
                    Some(output.clone())
                };
                let gold = stage_gold(candidate, at, row).map(|gold| (gold, Source::Gold));
                let trace = own.filter(|said| said.right).and_then(|_| of_stage(&stage.name));
                let outputs: BTreeMap<String, String> = candidate.stages[..at]
                    .iter()
                    .enumerate()
                    .filter_map(|(before, earlier)| {
                        let output =
                            stage_gold(candidate, before, row).or_else(|| of_stage(&earlier.name))?;
                        Some((earlier.name.clone(), output))
                    })
                    .collect();
                for (answer, source) in gold.into_iter().chain(trace.map(|t| (t, Source::Trace))) {
                    if answer.trim().is_empty() || row.input.trim().is_empty() {
                        continue;
                    }
                    let id = Example::id_of(&stage.name, &row.input, &answer);
                    examples.entry(id.clone()).or_insert_with(|| {
                        Arc::new(Example {
                            format: EXAMPLE_FORMAT,
                            id,
                            stage: stage.name.clone(),
                            input: row.input.clone(),
                            answer,
                            outputs: outputs.clone(),
                            fields: row.fields.clone(),
                            stratum: row.stratum.clone(),
                            row: Some(row.id.clone()),
                            source,
                            run: run.to_owned(),
                            enabled: true,
                            ..Example::default()
                        })
                    });
                }
            }
            if examples.is_empty() {
                return Ok(None);
            }
            Index::new(examples.into_values(), embedder.clone()).map(Some)
        });
        let stages: Result<Vec<Option<Index>>, String> = stages.collect();
        Ok(Self { stages: stages.map_err(anyhow::Error::msg)? })
    }

    pub fn is_empty(&self) -> bool {
        self.stages.iter().all(Option::is_none)
    }

    /// The nearest for a row at a stage. Another row with the very same text is no help that says anything.
    fn propose(
        &self,
        at: usize,
        row: &RunRow,
        settings: &TrajectorySettings,
        also: &(dyn Fn(&Example) -> bool + Sync),
    ) -> anyhow::Result<Vec<Arc<Example>>> {
        let Some(Some(index)) = self.stages.get(at) else { return Ok(Vec::new()) };
        let skip = |e: &Example| same_text(&e.input, &row.input) || !also(e);
        let query = Query {
            stratum: row.stratum.as_deref(),
            row: Some(&row.id),
            skip: Some(&skip),
            ..Query::text(&row.input)
        };
        let how = settings.retrieval(settings.shots, Form::Text);
        let hits = index.retrieve(&query, &how).map_err(anyhow::Error::msg)?;
        Ok(hits.into_iter().map(|hit| hit.example).collect())
    }

    /// The nearest at every stage.
    pub fn neighbours(&self, row: &RunRow, settings: &TrajectorySettings) -> anyhow::Result<Given> {
        (0..self.stages.len()).map(|at| self.propose(at, row, settings, &|_| true)).collect()
    }
}

/// Where the search for a row stands.
enum State {
    /// Proposals that are still to be tried, the next one last.
    Trying(Vec<(String, Given)>),
    Minimizing {
        /// Stage and example of each element.
        elements: Vec<(usize, Arc<Example>)>,
        ddmin: Ddmin,
    },
    Over,
}

struct Hunt<'r> {
    row: &'r RunRow,
    search: Search,
    state: State,
    asked: Option<Given>,
}

fn given(stages: usize, elements: &[(usize, Arc<Example>)], which: &[usize]) -> Given {
    let mut given = vec![Vec::new(); stages];
    for (at, example) in which.iter().filter_map(|i| elements.get(*i)) {
        given[*at].push(example.clone());
    }
    given
}

impl<'r> Hunt<'r> {
    fn new(
        pool: &Pool,
        candidate: &Candidate,
        settings: &TrajectorySettings,
        row: &'r RunRow,
        said: &Said,
    ) -> anyhow::Result<Self> {
        // A stage that said what it should is not what went wrong.
        let suspects: Vec<usize> = (0..candidate.stages.len())
            .filter(|&at| pool.stages[at].is_some())
            .filter(|&at| {
                let name = &candidate.stages[at].name;
                let output = said.stages.iter().find(|(stage, _)| stage == name).map(|(_, output)| output);
                stage_gold(candidate, at, row).as_ref() != output || output.is_none()
            })
            .collect();
        let mut proposals: Vec<(String, Given)> = Vec::new();
        let mut seen: BTreeSet<Vec<String>> = BTreeSet::new();
        for kind in [NEIGHBOURS, SAME_ANSWER, OWN_TRACES] {
            let of_stage = |at: usize| -> anyhow::Result<Vec<Arc<Example>>> {
                let gold = stage_gold(candidate, at, row);
                let choice = matches!(candidate.stages[at].output, OutputKind::Label | OutputKind::Tool);
                match kind {
                    NEIGHBOURS => pool.propose(at, row, settings, &|_| true),
                    SAME_ANSWER if choice => {
                        pool.propose(at, row, settings, &|e| Some(&e.answer) == gold.as_ref())
                    }
                    OWN_TRACES if !choice => pool.propose(at, row, settings, &|e| e.source == Source::Trace),
                    _ => Ok(Vec::new()),
                }
            };
            let mut all: Given = vec![Vec::new(); candidate.stages.len()];
            let mut sets: Vec<Given> = Vec::new();
            for &at in &suspects {
                let examples = of_stage(at)?;
                let mut alone: Given = vec![Vec::new(); candidate.stages.len()];
                alone[at].clone_from(&examples);
                all[at] = examples;
                sets.push(alone);
            }
            if suspects.len() > 1 {
                sets.push(all);
            }
            for set in sets {
                let ids: Vec<String> = set.iter().flatten().map(|e| e.id.clone()).collect();
                if !ids.is_empty() && seen.insert(ids) {
                    proposals.push((kind.to_owned(), set));
                }
            }
        }
        proposals.reverse();
        let search = Search {
            row: row.id.clone(),
            wrong: said.output.clone(),
            gold: row.gold.clone().unwrap_or_default(),
            ..Search::default()
        };
        Ok(Self { row, search, state: State::Trying(proposals), asked: None })
    }

    /// What is to be asked next; none when the search is over.
    fn next(&mut self, stages: usize) -> Option<Given> {
        let next = match &mut self.state {
            State::Trying(proposals) => proposals.last().map(|(_, given)| given.clone()),
            State::Minimizing { elements, ddmin } => ddmin.next().map(|set| given(stages, elements, &set)),
            State::Over => None,
        };
        if next.is_none() {
            self.settle();
        }
        self.asked.clone_from(&next);
        next
    }

    fn tell(&mut self, right: bool) {
        if self.asked.take().is_none() {
            return;
        }
        self.search.tried += 1;
        match &mut self.state {
            State::Trying(proposals) => {
                let Some((kind, set)) = proposals.pop() else { return };
                self.search.proposals.push((kind.clone(), right));
                if right {
                    self.search.proposal = Some(kind);
                    let elements: Vec<(usize, Arc<Example>)> = set
                        .into_iter()
                        .enumerate()
                        .flat_map(|(at, examples)| examples.into_iter().map(move |e| (at, e)))
                        .collect();
                    let ddmin = Ddmin::new(elements.len());
                    self.state = State::Minimizing { elements, ddmin };
                }
            }
            State::Minimizing { ddmin, .. } => ddmin.tell(right),
            State::Over => {}
        }
    }

    /// Take the smallest set that is known; the smallest at all, where the minimization came to its end.
    fn settle(&mut self) -> Vec<Arc<Example>> {
        let state = std::mem::replace(&mut self.state, State::Over);
        if let State::Minimizing { elements, ddmin } = state {
            let set: Vec<Arc<Example>> =
                ddmin.smallest().iter().filter_map(|i| elements.get(*i)).map(|(_, e)| e.clone()).collect();
            self.search.set = set.iter().map(|e| e.id.clone()).collect();
            return set;
        }
        Vec::new()
    }
}

/// What was found.
#[derive(Default)]
pub struct Finds {
    pub searches: Vec<Search>,
    /// Why an example is in the store, by its id.
    pub found: BTreeMap<String, Vec<Found>>,
}

fn tell(asker: &mut Asker<'_>, hunts: &[Hunt<'_>], looked_at: usize) -> anyhow::Result<()> {
    let over = |hunt: &&Hunt<'_>| match &hunt.state {
        State::Trying(proposals) => proposals.is_empty(),
        State::Minimizing { .. } | State::Over => false,
    };
    let turned = hunts.iter().filter(|hunt| hunt.search.proposal.is_some()).count();
    let failed = |hunt: &&Hunt<'_>| {
        hunt.search.proposal.is_none() && (over(hunt) || matches!(hunt.state, State::Over))
    };
    let searching = Searching {
        looked_at,
        wrong: hunts.len(),
        turned,
        failed: hunts.iter().filter(failed).count(),
        tried: hunts.iter().map(|hunt| u64::from(hunt.search.tried)).sum(),
        calls: asker.calls,
    };
    asker.news(TrajectoryNews::Searching(searching))
}

/// Look for the smallest sets of all `wrong` rows (each with what was said of it), side by side.
pub fn find(
    asker: &mut Asker<'_>,
    pool: &Pool,
    candidate: &Candidate,
    settings: &TrajectorySettings,
    form: Form,
    looked_at: usize,
    wrong: &[(&RunRow, Said)],
) -> anyhow::Result<Finds> {
    let stages = candidate.stages.len();
    let mut hunts: Vec<Hunt<'_>> = wrong
        .iter()
        .map(|(row, said)| Hunt::new(pool, candidate, settings, row, said))
        .collect::<anyhow::Result<_>>()?;
    let mut round = 0;
    loop {
        tell(asker, &hunts, looked_at)?;
        let mut places = Vec::new();
        let mut questions = Vec::new();
        for (i, hunt) in hunts.iter_mut().enumerate() {
            if let Some(given) = hunt.next(stages) {
                places.push(i);
                questions.push(Question { row: hunt.row, given, form });
            }
        }
        if questions.is_empty() {
            break;
        }
        round += 1;
        let answers = asker.ask(&format!("finding, round {round}"), &questions)?;
        // An answer is missing where the run ends, or where finding has had its share of the budget.
        let is_over = answers.iter().any(Option::is_none);
        for (i, said) in places.into_iter().zip(answers) {
            if let Some(said) = said {
                hunts[i].tell(said.right);
            }
        }
        if is_over || asker.ended.is_some() {
            break;
        }
    }
    let mut finds = Finds::default();
    for mut hunt in hunts {
        // What is cut short keeps the smallest set so far.
        hunt.settle();
        let search = hunt.search;
        for id in &search.set {
            finds.found.entry(id.clone()).or_default().push(Found {
                row: search.row.clone(),
                wrong: search.wrong.clone(),
                gold: search.gold.clone(),
                proposal: search.proposal.clone().unwrap_or_default(),
                tried: search.tried,
                set: search.set.clone(),
                proposals: search.proposals.clone(),
            });
        }
        finds.searches.push(search);
    }
    Ok(finds)
}
