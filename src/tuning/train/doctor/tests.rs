//! The rules on made-up series with known trouble, and on series that real runs told (`tests/fixtures/doctor`).

use super::*;
use crate::domain::rng::SplitMix64;

/// A run under construction: `loss` and `norm` by step, an evaluation every tenth of the run.
struct Made {
    total: u64,
    noise: f64,
    loss: fn(f64) -> f64,
    dev: fn(f64) -> f64,
    change: fn(&mut Seen),
}

impl Default for Made {
    /// Healthy: falls fast, then slowly; the dev loss follows.
    fn default() -> Self {
        Self {
            total: 400,
            noise: 0.15,
            loss: |x| 0.3 + 2.0 * (-8.0 * x).exp(),
            dev: |x| 0.4 + 2.0 * (-8.0 * x).exp() - 0.05 * x,
            change: |_| {},
        }
    }
}

impl Made {
    fn events(&self, seed: u64) -> Vec<EventBody> {
        let mut rng = SplitMix64::new(seed);
        let mut events =
            vec![EventBody::Eval { step: 0, loss: Some((self.dev)(0.0)), metrics: Default::default() }];
        for step in 1..=self.total {
            let x = step as f64 / self.total as f64;
            // Sum of uniforms: near enough to normal.
            let noise: f64 = (0..6).map(|_| rng.unit() - 0.5).sum::<f64>() * self.noise * 2.0_f64.sqrt();
            let loss = (self.loss)(x);
            let mut seen = Seen {
                step,
                epoch: 4.0 * x,
                loss: (loss + noise * loss.min(1.0)).max(0.001),
                lr: 2e-4 * (1.0 + (std::f64::consts::PI * x).cos()) / 2.0,
                grad_norm: 0.3 + loss * (0.5 + rng.unit()),
                tokens: 500,
                padding: 0,
                ms: 100.0,
                wait_ms: 0.3,
            };
            (self.change)(&mut seen);
            let Seen { epoch, loss, lr, grad_norm, tokens, padding, ms, wait_ms, .. } = seen;
            events.push(EventBody::Step {
                step,
                total: self.total,
                epoch,
                loss,
                lr,
                grad_norm,
                tokens,
                trained_tokens: 20,
                padding,
                ms,
                wait_ms,
                rows: Vec::new(),
                losses: Vec::new(),
            });
            if step % (self.total / 10) == 0 {
                events.push(EventBody::Eval { step, loss: Some((self.dev)(x)), metrics: Default::default() });
            }
        }
        events
    }
}

fn sample(step: u64, row: usize, ended: bool) -> EventBody {
    let row = row.to_string();
    EventBody::Sample { step, row, output: String::new(), gold: None, correct: None, ended: Some(ended) }
}

/// What a doctor tells over a whole run: rules that began, each with its step.
fn told(events: &[EventBody]) -> Vec<(u64, Rule)> {
    let mut doctor = Doctor::default();
    let mut told = Vec::new();
    for event in events {
        doctor.see(event);
        let evaluated = matches!(event, EventBody::Eval { .. });
        for news in doctor.news(evaluated) {
            if let EventBody::Finding { step, holds: true, finding } = news
                && told.iter().all(|(_, rule)| *rule != finding.rule)
            {
                told.push((step, finding.rule));
            }
        }
    }
    told
}

#[test]
fn a_healthy_run_has_no_finding_whatever_its_noise_and_length() {
    for total in [40, 120, 400, 2000] {
        for noise in [0.02, 0.15, 0.5] {
            for seed in 0..20 {
                let events = Made { total, noise, ..Made::default() }.events(seed);
                assert_eq!(told(&events), [], "{total} steps, noise {noise}, seed {seed}");
            }
        }
    }
}

#[test]
fn a_run_that_has_learned_all_there_is_has_no_finding() {
    for seed in 0..20 {
        let made = Made {
            noise: 0.9,
            loss: |x| 0.01 + 3.0 * (-30.0 * x).exp(),
            dev: |x| 0.05 + 3.0 * (-20.0 * x).exp() + 0.01 * x,
            ..Made::default()
        };
        let rules: Vec<Rule> = told(&made.events(seed)).into_iter().map(|(_, rule)| rule).collect();
        assert!(rules.iter().all(|rule| *rule == Rule::EvalFlat), "seed {seed}: {rules:?}");
    }
}

#[test]
fn trouble_is_found_and_nothing_else() {
    let cases: [(&str, Made, &[Rule]); 8] = [
        (
            "rises again",
            Made { loss: |x| if x < 0.4 { 2.3 - 4.0 * x } else { 0.7 + 3.0 * (x - 0.4) }, ..Made::default() },
            &[Rule::LossOscillates],
        ),
        (
            "diverges from the start",
            Made { loss: |x| 2.0 + 4.0 * x, ..Made::default() },
            &[Rule::LossOscillates],
        ),
        (
            "up and down",
            Made {
                noise: 0.02,
                change: |s| s.loss += if s.step % 2 == 0 { 0.4 } else { 0.0 },
                ..Made::default()
            },
            &[Rule::LossOscillates],
        ),
        (
            "straight and slow",
            Made { noise: 0.03, loss: |x| 2.3 - 0.2 * x, dev: |x| 2.3 - 0.2 * x, ..Made::default() },
            &[Rule::Slow],
        ),
        (
            "gradient jumps",
            Made {
                change: |s| {
                    if s.step == 211 {
                        s.grad_norm *= 60.0;
                    }
                },
                ..Made::default()
            },
            &[Rule::GradientJumps],
        ),
        (
            "overfits",
            Made {
                loss: |x| 0.02 + 2.0 * (-6.0 * x).exp(),
                dev: |x| 0.5 + 2.0 * (-15.0 * x).exp() + 0.6 * x,
                ..Made::default()
            },
            &[Rule::Overfitting],
        ),
        ("pads", Made { change: |s| s.padding = 200, ..Made::default() }, &[Rule::Padding]),
        ("waits", Made { change: |s| s.wait_ms = 60.0, ..Made::default() }, &[Rule::InputBound]),
    ];
    for (name, made, want) in cases {
        for seed in 0..10 {
            let rules: Vec<Rule> = told(&made.events(seed)).into_iter().map(|(_, rule)| rule).collect();
            assert_eq!(rules, want, "{name}, seed {seed}");
        }
    }
}

#[test]
fn a_flat_dev_loss_is_worth_a_word_only_while_much_of_the_run_is_left() {
    let flat = |from: f64| -> fn(f64) -> f64 {
        if from < 0.5 { |x| 0.4 + 2.0 * (-40.0 * x).exp() } else { |x| 2.0 - 1.6 * (x / 0.6).min(1.0) }
    };
    let early = told(&Made { dev: flat(0.1), ..Made::default() }.events(1));
    assert!(matches!(early[..], [(step, Rule::EvalFlat)] if step <= 240), "{early:?}");
    assert_eq!(told(&Made { dev: flat(0.6), ..Made::default() }.events(1)), []);
}

#[test]
fn rows_that_run_on_are_found_at_the_second_evaluation_in_a_row() {
    let mut events = Vec::new();
    for event in (Made::default()).events(1) {
        let at = if let EventBody::Eval { step, .. } = event { Some(step) } else { None };
        events.push(event);
        if let Some(step) = at {
            // Before the first step nothing ends, at steps 40 and 200 nothing, at 240 and later half.
            let ends = |row: usize| match step {
                0 | 40 | 200 => false,
                240.. => row < 3,
                _ => true,
            };
            events.extend((0..6).map(|row| sample(step, row, ends(row))));
        }
    }
    let found = told(&events);
    assert!(matches!(found[..], [(241..=280, Rule::NoStop)]), "{found:?}");
}

#[test]
fn a_finding_ends_when_its_cause_is_gone_and_begins_again_with_it() {
    let made = Made {
        change: |s| {
            if (100..150).contains(&s.step) || s.step > 300 {
                s.padding = 400;
            }
        },
        ..Made::default()
    };
    let mut doctor = Doctor::default();
    let mut turns = Vec::new();
    for event in made.events(1) {
        doctor.see(&event);
        for news in doctor.news(matches!(event, EventBody::Eval { .. })) {
            if let EventBody::Finding { holds, .. } = news {
                turns.push(holds);
            }
        }
    }
    turns.dedup();
    assert_eq!(turns, [true, false, true]);
}

#[test]
fn what_the_loss_was_under_other_weights_is_no_reproach() {
    // Only the hard stratum is drawn from step 200 on: the loss doubles, and that is what was asked for.
    let made = Made {
        loss: |x| if x < 0.5 { 0.3 + 2.0 * (-8.0 * x).exp() } else { 1.2 - 0.4 * (x - 0.5) },
        ..Made::default()
    };
    let mut events = made.events(3);
    assert!(told(&events).iter().any(|(_, rule)| *rule == Rule::LossOscillates), "without the change it is");
    let at = events.iter().position(|e| matches!(e, EventBody::Step { step: 200, .. })).unwrap();
    events
        .insert(at, EventBody::Change { step: 200, change: "weight:hard=9".parse().unwrap(), refused: None });
    assert_eq!(told(&events), []);
}

#[test]
fn steps_taken_again_are_looked_at_once() {
    let events = Made::default().events(5);
    let (mut once, mut again) = (Series::default(), Series::default());
    for event in &events {
        once.see(event);
    }
    let half = events.iter().position(|e| matches!(e, EventBody::Step { step: 200, .. })).unwrap();
    for event in events[..half + 30].iter().chain(&events[half..]) {
        again.see(event);
    }
    assert_eq!((once.steps, once.evals), (again.steps, again.evals));
}

#[test]
fn what_is_not_finite_names_rows_and_the_way_back() {
    let finding = not_finite(7, f64::NAN, 1.0, 0.5, "its rows: a, b", Some(4));
    assert!(finding.evidence.contains("step 7: loss NaN") && finding.evidence.contains("a, b"));
    assert_eq!(finding.remedy, Some(Remedy::Branch { times: 0.3 }));
    assert_eq!(not_finite(7, 1.0, f64::INFINITY, 0.5, "", None).remedy, None);
}

/// A series that a real run told.
fn real(name: &str) -> Vec<EventBody> {
    #[derive(serde::Deserialize)]
    struct Told {
        total: u64,
        steps: Vec<[f64; 5]>,
        evals: Vec<(u64, f64)>,
    }
    let path = format!("{}/tests/fixtures/doctor/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let told: Told = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let eval = |at: u64| {
        let found = told.evals.iter().find(|(step, _)| *step == at);
        found.map(|&(step, loss)| EventBody::Eval { step, loss: Some(loss), metrics: Default::default() })
    };
    let mut events: Vec<EventBody> = eval(0).into_iter().collect();
    for (step, &[loss, grad_norm, lr, epoch, ms]) in (1..).zip(&told.steps) {
        events.push(EventBody::Step {
            step,
            total: told.total,
            epoch,
            loss,
            lr,
            grad_norm,
            tokens: 500,
            trained_tokens: 20,
            padding: 0,
            ms,
            wait_ms: 0.0,
            rows: Vec::new(),
            losses: Vec::new(),
        });
        events.extend(eval(step));
    }
    events
}

#[test]
fn runs_of_the_demo_get_truthful_findings_only() {
    let rules = |name| told(&real(name)).into_iter().map(|(_, rule)| rule).collect::<Vec<_>>();
    assert_eq!(rules("healthy"), [], "the demo as it stands");
    // A rate of 0.1: after forty steps every row gets the same answer; one gradient of 257 times the usual, and nothing moves.
    assert_eq!(rules("hot"), [Rule::GradientJumps, Rule::EvalFlat]);
    // A rate of 3e-6: the dev loss goes from 2.231 to 2.210, and stands still where the schedule ends.
    assert_eq!(rules("slow"), [Rule::Slow, Rule::EvalFlat]);
}
