//! The ladder: the best candidate of every rung, what it added over the rung below, and whether the next one is worth it.
//!
//! The advice follows from what was measured, and every reason is shown:
//!
//! ```text
//! goals met                                              done
//! no baseline, or the last step not proven               measure: what, and how
//! answers that cannot be read, prompts that still fix    stay
//! examples helped, prompts have levelled off, a goal of  climb
//! cost or latency that a shorter prompt would meet
//! ```

use super::metric::Metric;
use super::rows;
use super::trilemma::standing;
use crate::domain::board::{BoardRow, Comparison};
use crate::domain::candidate::Candidate;
use crate::domain::ladder::{Advice, Ladder, RUNGS, Reason, Rung, Step, Verdict};
use crate::domain::outcome::Outcome;
use crate::domain::words::counted;

/// Rows of the train part with a gold from which on LoRA has something to learn from.
const ENOUGH_TO_TRAIN: usize = 50;
/// Share of the wrong rows that cannot be read from which on the prompt is the first thing to mend.
const UNREAD: f64 = 0.2;

/// A candidate that may stand on the ladder.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    pub row: &'a BoardRow,
    pub candidate: &'a Candidate,
}

/// What is known beside the candidates.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    /// Rows of the eval part.
    pub eval_rows: usize,
    /// Rows of the train part that have a gold.
    pub train_rows: usize,
}

/// The rung of a candidate: its own, but a later pipeline of the workspace that differs from the first baseline in its prompts alone stands
/// on `prompt`. None for what is on no rung (made elsewhere, or of a name that is not known).
pub fn rung_of(candidate: &Candidate, baseline: &Candidate) -> Option<&'static str> {
    let own = RUNGS.into_iter().find(|r| *r == candidate.rung)?;
    if own != RUNGS[0] || candidate.stages.len() != baseline.stages.len() {
        return Some(own);
    }
    let mut prompts_differ = false;
    let alike = candidate.stages.iter().zip(&baseline.stages).all(|(a, b)| {
        prompts_differ |= a.prompt != b.prompt;
        let mut a = a.clone();
        (a.prompt, a.prompt_name) = (b.prompt.clone(), b.prompt_name.clone());
        a == *b
    });
    Some(if alike && prompts_differ { RUNGS[1] } else { own })
}

/// Outcomes by the place of their entry, and two entries (A, then B) held against each other: where they are asked for only.
#[expect(missing_debug_implementations, reason = "two functions")]
pub struct Evidence<'a> {
    pub outcomes: &'a dyn Fn(usize) -> Option<Vec<Outcome>>,
    pub held: &'a dyn Fn(usize, usize) -> Option<Comparison>,
}

/// The ladder over the candidates of a board, oldest first, on the eval part.
pub fn ladder(entries: &[Entry<'_>], primary: &Metric, facts: Facts, evidence: &Evidence<'_>) -> Ladder {
    let value = |at: usize| standing(entries[at].row, &primary.name, facts.eval_rows);
    let Some(baseline) = entries.iter().position(|e| e.candidate.rung == RUNGS[0]) else {
        return Ladder { rungs: Vec::new(), advice: no_baseline() };
    };
    let rungs_of: Vec<Option<&str>> =
        entries.iter().map(|e| rung_of(e.candidate, entries[baseline].candidate)).collect();
    let step = |below: usize, above: usize| {
        let c = (evidence.held)(below, above).filter(|c| c.n > 0)?;
        Some(Step {
            over: entries[below].row.candidate.clone(),
            n: c.n,
            delta: c.delta,
            ci95: c.ci95,
            p_value: c.p_value,
            fixed: c.fixed,
            regressed: c.regressed,
            churned: c.churned,
            needed: c.needed,
        })
    };
    let mut ladder = Ladder::default();
    let mut best: Vec<usize> = Vec::new();
    for rung in RUNGS {
        let on: Vec<usize> = (0..entries.len()).filter(|at| rungs_of[*at] == Some(rung)).collect();
        let best_of = on.iter().copied().filter(|at| value(*at).is_some());
        // Of equals the first.
        let first_best = best_of.rev().max_by(|a, b| {
            value(*a).unwrap_or(f64::NEG_INFINITY).total_cmp(&value(*b).unwrap_or(f64::NEG_INFINITY))
        });
        let Some(at) = first_best else { continue };
        let row = entries[at].row;
        ladder.rungs.push(Rung {
            rung: rung.to_owned(),
            candidate: row.candidate.clone(),
            value: row.metrics.get(&primary.name).copied(),
            n: row.n,
            candidates: on.len(),
            step: best.last().and_then(|below| step(*below, at)),
        });
        best.push(at);
    }
    let Some(&top) = best.last() else {
        ladder.advice = no_baseline();
        return ladder;
    };
    // The two newest prompts: do changes of the prompt still fix rows?
    let prompts: Vec<usize> = (0..entries.len())
        .filter(|at| rungs_of[*at] == Some(RUNGS[1]) || *at == baseline)
        .filter(|at| value(*at).is_some())
        .collect();
    let last_prompt = prompts.split_last().and_then(|(newest, before)| {
        let best_before = before.iter().copied().max_by(|a, b| {
            value(*a).unwrap_or(f64::NEG_INFINITY).total_cmp(&value(*b).unwrap_or(f64::NEG_INFINITY))
        })?;
        step(best_before, *newest)
    });
    let unread = (evidence.outcomes)(top).map(|all| unread(&all, primary)).unwrap_or_default();
    ladder.advice = advise(&ladder.rungs, entries[top].row, last_prompt.as_ref(), unread, facts);
    ladder
}

/// Wrong rows, and how many of them could not be read.
fn unread(outcomes: &[Outcome], primary: &Metric) -> (usize, usize) {
    let wrong =
        outcomes.iter().filter(|o| rows::value(primary, o).and_then(|v| primary.right(v)) == Some(false));
    wrong.fold((0, 0), |(n, bad), o| {
        (n + 1, bad + usize::from(o.error.is_none() && !o.stages.is_empty() && !rows::readable(o)))
    })
}

fn no_baseline() -> Advice {
    Advice {
        verdict: Verdict::Measure,
        rung: Some(RUNGS[0].to_owned()),
        reasons: vec![Reason {
            says: Verdict::Measure,
            text: "no baseline on (at least half of) the eval rows: every rung is held against it".into(),
        }],
        run: command(RUNGS[0]),
    }
}

/// How a rung is climbed with this program.
fn command(rung: &str) -> Option<String> {
    let text = match rung {
        "baseline" => "tunebench run eval",
        "prompt" => "edit the prompt of a stage, then tunebench run eval",
        "lora" => "tunebench run train",
        _ => return None,
    };
    Some(text.to_owned())
}

/// The next rung that can be climbed.
fn next(rung: &str) -> Option<&'static str> {
    let at = RUNGS.iter().position(|r| *r == rung)?;
    RUNGS.into_iter().skip(at + 1).find(|r| command(r).is_some())
}

fn advise(
    rungs: &[Rung],
    top: &BoardRow,
    last_prompt: Option<&Step>,
    (wrong, unread): (usize, usize),
    facts: Facts,
) -> Advice {
    let Some(last) = rungs.last() else { return no_baseline() };
    let mut reasons = Vec::new();
    let mut say = |says, text: String| reasons.push(Reason { says, text });
    let (here, above) = (last.rung.as_str(), next(&last.rung));
    let range = |s: &Step| format!("{:+.3} ({:+.3} to {:+.3})", s.delta, s.ci95[0], s.ci95[1]);

    let failed: Vec<_> = top.goals.iter().filter(|g| g.state == "fail").collect();
    let met = !top.goals.is_empty() && top.goals.iter().all(|g| g.state == "pass");
    if met {
        say(Verdict::Done, format!("{} meets every goal", last.candidate));
    }
    let mut proven = true;
    if let Some(step) = &last.step {
        if !step.proven() {
            proven = false;
            let more = match step.needed {
                0 => String::new(),
                n => format!("; {} fixed would prove it", counted(n, "more row")),
            };
            say(
                Verdict::Measure,
                format!(
                    "what {here} added over {} is not proven on {}: {}{more}",
                    step.over,
                    counted(step.n, "row"),
                    range(step)
                ),
            );
        } else if step.delta > 0.0 && here == "trajectory" {
            say(
                Verdict::Climb,
                format!(
                    "examples in the prompt helped: {}; more of them, as training rows, will likely help too",
                    range(step)
                ),
            );
        } else if step.delta < 0.0 {
            say(Verdict::Stay, format!("{here} made it worse than {}: {}", step.over, range(step)));
        }
    }
    if matches!(here, "baseline" | "prompt") {
        match last_prompt {
            None => {
                say(Verdict::Climb, "no other prompt has been tried: the cheapest thing to change".into());
            }
            Some(step) if step.ci95[0] > 0.0 => say(
                Verdict::Stay,
                format!(
                    "the newest prompt still fixes rows: {} fixed, {} regressed, {}",
                    step.fixed,
                    step.regressed,
                    range(step)
                ),
            ),
            Some(step) => say(
                Verdict::Climb,
                format!(
                    "the newest prompt fixed {} and broke {}: no proven gain, {}",
                    step.fixed,
                    step.regressed,
                    range(step)
                ),
            ),
        }
    }
    if wrong > 0 && unread as f64 / wrong as f64 >= UNREAD {
        say(
            Verdict::Stay,
            format!(
                "{unread} of {} could not be read: the prompt, or `constrain`, mends those",
                counted(wrong, "wrong row")
            ),
        );
    }
    if above == Some("lora") {
        let rows = facts.train_rows;
        if rows == 0 {
            say(Verdict::Stay, "no row of the train part has a gold: there is nothing to train on".into());
        } else if rows < ENOUGH_TO_TRAIN {
            say(Verdict::Stay, format!("only {} of the train part with a gold", counted(rows, "row")));
        } else {
            say(
                Verdict::Climb,
                format!("{} of the train part with a gold to train on", counted(rows, "row")),
            );
        }
        let dear: Vec<String> = failed
            .iter()
            .filter(|g| {
                g.metric.starts_with("latency_") || g.metric.starts_with("usd_") || g.metric == "tokens_in"
            })
            .map(|g| format!("{} {}", g.metric, g.want))
            .collect();
        if !dear.is_empty() {
            say(
                Verdict::Climb,
                format!(
                    "{} missed with {:.0} tokens in: a trained model needs no long prompt",
                    dear.join(" and "),
                    top.tokens_in
                ),
            );
        }
    }
    if above.is_none() {
        for goal in &failed {
            let got = goal.got.map_or_else(String::new, |got| format!(" (it is {got:.3})"));
            say(Verdict::Stay, format!("{} {} is missed{got}", goal.metric, goal.want));
        }
    }
    let open: Vec<&str> = top.goals.iter().filter(|g| g.state == "open").map(|g| g.metric.as_str()).collect();
    if !open.is_empty() {
        say(Verdict::Measure, format!("not measured: {}", open.join(", ")));
    }

    let says = |v: Verdict| reasons.iter().filter(|r| r.says == v).count();
    let (verdict, rung) = if met {
        (Verdict::Done, None)
    } else if !proven && last.step.as_ref().is_some_and(|s| s.delta >= 0.0) {
        (Verdict::Measure, Some(here))
    } else {
        match above {
            // The last rung: what is left is to work on it.
            None => (Verdict::Stay, Some(here)),
            // Where little speaks for it, the cheaper rung is the better one.
            Some(_)
                if says(Verdict::Stay) > 0
                    && says(Verdict::Stay) >= says(Verdict::Climb)
                    && here != "baseline" =>
            {
                (Verdict::Stay, Some(here))
            }
            Some(above) => (Verdict::Climb, Some(above)),
        }
    };
    let run = match (verdict, rung) {
        (Verdict::Done, _) | (_, None) => None,
        (Verdict::Measure, Some(_)) => {
            Some("more eval rows: data.split.eval in workspace.toml, then tunebench run eval".to_owned())
        }
        (_, Some(rung)) => command(rung),
    };
    Advice { verdict, rung: rung.map(str::to_owned), reasons, run }
}

/// The ladder for people, line by line: rungs, then the advice and its reasons.
pub fn lines(ladder: &Ladder) -> Vec<String> {
    let mut lines: Vec<String> = ladder
        .rungs
        .iter()
        .map(|rung| {
            let value = rung.value.map_or_else(|| "-".into(), |v| shown(v, rung.n));
            let step = rung.step.as_ref().map_or_else(String::new, |s| {
                format!(
                    ": {:+.3} ({:+.3} to {:+.3}), p {} over {} on {}; fixed {}, regressed {}, churned {}",
                    s.delta,
                    s.ci95[0],
                    s.ci95[1],
                    if s.p_value < 0.001 { "< 0.001".into() } else { format!("= {:.3}", s.p_value) },
                    s.over,
                    counted(s.n, "row"),
                    s.fixed,
                    s.regressed,
                    s.churned
                )
            });
            let best =
                if rung.candidates > 1 { format!(", best of {}", rung.candidates) } else { String::new() };
            format!("{} {value}, {}{best}{step}", rung.rung, rung.candidate)
        })
        .collect();
    lines.push(verdict(&ladder.advice));
    lines.extend(ladder.advice.reasons.iter().map(|r| format!("{}: {}", r.says.name(), r.text)));
    lines.extend(ladder.advice.run.iter().map(|run| format!("to do: {run}")));
    lines
}

/// `is the next rung worth it? climb: lora`
pub fn verdict(advice: &Advice) -> String {
    let rung = advice.rung.as_ref().map_or_else(String::new, |rung| format!(": {rung}"));
    format!("is the next rung worth it? {}{rung}", advice.verdict.name())
}

/// A count below 30 rows.
fn shown(value: f64, n: usize) -> String {
    if n < 30 { format!("{:.0}/{n}", value * n as f64) } else { format!("{value:.3}") }
}

#[cfg(test)]
mod tests;
