use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::speculation::Draft;
use super::*;
use crate::domain::candidate::Decoding;
use crate::domain::settings::Targets;
use crate::model::ModelConfig;
use crate::model::chat::{ChatTemplate, prompt_tokens};
use crate::model::config::Arch;
use crate::model::oracle::small;
use crate::model::tokenizer::Tokenizer;
use crate::model::tokenizer::tests::{MODELS, fixture, reference};

fn plain(max_tokens: usize) -> Decoding {
    Decoding { max_tokens, ..Decoding::default() }
}

fn request(prompt: &[u32], max_tokens: usize) -> Request {
    Request::generate(Lane::BASE, prompt.to_vec(), &plain(max_tokens), &[]).unwrap()
}

fn engine(decoder: &Decoder) -> Engine<'_> {
    Engine::new(decoder, Settings::default()).unwrap()
}

/// An engine with so many blocks of four tokens.
fn with_blocks(decoder: &Decoder, blocks: usize, settings: Settings) -> Engine<'_> {
    Engine::new(decoder, settings).unwrap().with_pages(Pages::new(4, blocks))
}

fn run(engine: &mut Engine<'_>, requests: Vec<Request>) -> Vec<Vec<u32>> {
    let mut heard: HashMap<usize, Vec<u32>> = HashMap::new();
    let made = engine.run(requests, &mut |at, token| {
        heard.entry(at).or_default().push(token);
        ControlFlow::Continue(())
    });
    let made: Vec<Vec<u32>> = made.into_iter().map(|made| made.unwrap().tokens).collect();
    for (at, made) in made.iter().enumerate() {
        assert_eq!(heard.get(&at).cloned().unwrap_or_default(), *made);
    }
    made
}

/// Without the engine: each token from the logits of the whole text before it.
fn one_by_one(decoder: &Decoder, adapter: Option<&Lora>, prompt: &[u32], n: usize) -> Vec<u32> {
    let mut text = prompt.to_vec();
    for _ in 0..n {
        let logits = decoder.logits_all(&text, adapter, Par::SERIAL).unwrap();
        let last = &logits[logits.len() - decoder.config.vocab..];
        let best = (0..last.len()).rev().max_by(|a, b| last[*a].total_cmp(&last[*b])).unwrap();
        text.push(best as u32);
    }
    text.split_off(prompt.len())
}

fn lookup() -> Speculation {
    Speculation { lookup: Some(Lookup { ngram: 3, tokens: 6 }), draft: None }
}

#[test]
fn greedy_answers_are_those_of_transformers_alone_and_in_a_batch() {
    for name in MODELS {
        let decoder = Decoder::load(&fixture(name)).unwrap();
        let tokenizer = Tokenizer::load(&fixture(name)).unwrap();
        let template = ChatTemplate::load(&fixture(name)).unwrap();
        let answers = reference(name).answers;
        let request = |text: &str| {
            let prompt = prompt_tokens(&tokenizer, template.as_ref(), text).unwrap();
            Request::generate(Lane::BASE, prompt, &plain(24), tokenizer.eos()).unwrap()
        };
        let speculation = lookup();
        let mut engine = Engine::new(&decoder, Settings { speculation, ..Settings::default() }).unwrap();
        let batch = run(&mut engine, answers.iter().map(|a| request(&a.text)).collect());
        for (answer, batch) in answers.iter().zip(batch) {
            let mut tokens = run(&mut super::tests::engine(&decoder), vec![request(&answer.text)]).remove(0);
            assert_eq!(batch, tokens, "{name}");
            assert_eq!(tokenizer.decode(&tokens).unwrap(), answer.decoded, "{name}");
            if tokens.len() < answer.greedy.len() {
                // transformers gives the end token, too.
                tokens.push(*answer.greedy.last().unwrap());
                assert!(tokenizer.eos().contains(answer.greedy.last().unwrap()), "{name}");
            }
            assert_eq!(tokens, answer.greedy, "{name}");
        }
    }
}

/// `tests/reference/answers.py`
#[derive(serde::Deserialize)]
struct Long {
    prompt: Vec<u32>,
    greedy: Vec<u32>,
}

#[test]
fn long_answers_over_several_blocks_are_those_of_transformers() {
    for name in MODELS {
        let decoder = Decoder::load(&fixture(name)).unwrap();
        let text = std::fs::read_to_string(fixture(name).join("answers.json")).unwrap();
        let answers: Vec<Long> = serde_json::from_str(&text).unwrap();
        let asks = || -> Vec<Request> { answers.iter().map(|a| request(&a.prompt, 500)).collect() };
        let wanted: Vec<Vec<u32>> = answers.iter().map(|a| a.greedy.clone()).collect();
        let draft = Some(Draft { decoder: Arc::new(decoder.clone()), tokens: 4, kv_bytes: 1 << 20 });
        for (speculation, threads) in
            [(Speculation::default(), 1), (lookup(), 2), (Speculation { lookup: None, draft }, 2)]
        {
            let settings = Settings { threads, speculation, ..Settings::default() };
            let mut engine = Engine::new(&decoder, settings.clone()).unwrap();
            assert_eq!(run(&mut engine, asks()), wanted, "{name}, together");
            assert_eq!(run(&mut engine, asks()), wanted, "{name}, again");
            // One after the other, in less room than two of them take.
            let mut engine = with_blocks(&decoder, 30, settings);
            for (ask, wanted) in asks().into_iter().zip(&wanted) {
                assert_eq!(run(&mut engine, vec![ask]), std::slice::from_ref(wanted), "{name}, alone");
            }
            assert_eq!(run(&mut engine, asks()), wanted, "{name}, in a small cache");
        }
    }
}

#[test]
fn what_came_before_or_stands_beside_does_not_change_an_answer() {
    let decoder = Decoder::load(&fixture("llama")).unwrap();
    let prompts: Vec<Vec<u32>> = vec![
        (5..25).collect(),
        (5..30).collect(),
        (5..20).chain(60..70).collect(),
        vec![5],
        (5..30).collect(),
        vec![9, 9],
    ];
    let sampled = Decoding { temperature: 0.8, top_p: Some(0.9), seed: 4, ..plain(12) };
    for decoding in [plain(12), sampled] {
        let request = |p: &Vec<u32>| Request::generate(Lane::BASE, p.clone(), &decoding, &[]).unwrap();
        let alone: Vec<Vec<u32>> =
            prompts.iter().map(|p| run(&mut engine(&decoder), vec![request(p)]).remove(0)).collect();
        let mut kept = engine(&decoder);
        for (prompt, alone) in prompts.iter().zip(&alone) {
            assert_eq!(run(&mut kept, vec![request(prompt)]), [alone.as_slice()], "{prompt:?}");
        }
        assert_eq!(run(&mut kept, prompts.iter().map(request).collect()), alone);
    }
}

#[test]
fn what_prompts_begin_with_is_computed_once() {
    let decoder = small(Arch::Qwen2, 2);
    let shared: Vec<u32> = (0..40).map(|i| i * 7 % 53).collect();
    let prompts: Vec<Vec<u32>> = (0..10).map(|i| [&shared[..], &[i, i + 1]].concat()).collect();
    let mut engine = with_blocks(&decoder, 100, Settings { chunk: 16, ..Settings::default() });
    let answers = run(&mut engine, prompts.iter().map(|p| request(p, 3)).collect());
    // The shared part once; of each prompt the rest, and of each answer all but the last token.
    assert_eq!(engine.computed.0, 40 + 10 * 2 + 10 * 2);
    for (prompt, answer) in prompts.iter().zip(answers) {
        assert_eq!(answer, one_by_one(&decoder, None, prompt, 3));
    }
    // The next time nothing but the last token of each.
    engine.computed = (0, 0);
    let again =
        engine.run(prompts.iter().map(|p| request(p, 1)).collect(), &mut |_, _| ControlFlow::Continue(()));
    assert_eq!(engine.computed, (10, 1));
    assert!(again.into_iter().all(|made| made.unwrap().done.shared == 41));
}

#[test]
fn a_long_prompt_does_not_hold_up_the_answers_of_others() {
    let mut decoder = small(Arch::Llama, 1);
    decoder.config.max_positions = 400;
    let mut engine = Engine::new(&decoder, Settings { chunk: 32, ..Settings::default() }).unwrap();
    let short = engine.submit(request(&[1, 2], 8)).unwrap();
    engine.step();
    engine.submit(request(&[3; 300], 1)).unwrap();
    for _ in 0..7 {
        let events = engine.step();
        assert!(events.iter().any(|e| matches!(e, Event::Token(id, _) if *id == short)));
    }
    assert_eq!(engine.load(), (0, 1));
}

#[test]
fn too_few_blocks_make_answers_later_not_other() {
    let decoder = small(Arch::Mistral, 2);
    let prompts: Vec<Vec<u32>> =
        (0..6).map(|i| (0..9 + i).map(|j| (i * 11 + j * 5) % 53).collect()).collect();
    let wanted: Vec<Vec<u32>> = prompts.iter().map(|p| one_by_one(&decoder, None, p, 14)).collect();
    // One sequence has up to 28 tokens, seven blocks.
    for blocks in [7, 9, 16] {
        let mut engine = with_blocks(&decoder, blocks, Settings::default());
        assert_eq!(run(&mut engine, prompts.iter().map(|p| request(p, 14)).collect()), wanted, "{blocks}");
    }
}

#[test]
fn what_can_never_fit_is_an_error_and_the_others_are_answered() {
    let decoder = small(Arch::Llama, 1);
    let mut engine = with_blocks(&decoder, 3, Settings::default());
    let made = engine
        .run(vec![request(&[5; 12], 3), request(&[6; 11], 9), request(&[7; 4], 5)], &mut |_, _| {
            ControlFlow::Continue(())
        });
    assert!(made[0].as_ref().unwrap_err().to_string().contains("room for 12"));
    assert!(made[1].as_ref().unwrap_err().to_string().contains("more memory"));
    assert_eq!(made[2].as_ref().unwrap().tokens, one_by_one(&decoder, None, &[7; 4], 5));
}

#[test]
fn a_request_that_makes_no_sense_is_refused_and_the_next_one_works() {
    let decoder = Decoder::load(&fixture("qwen2")).unwrap();
    let context = decoder.config.max_positions;
    let mut engine = engine(&decoder);
    let mut say = |prompt: &[u32]| engine.submit(request(prompt, 500)).unwrap_err().to_string();
    let long = vec![7; context];
    let error = say(&long);
    assert!(error.contains(&format!("{context} tokens")) && error.contains("shorten"), "{error}");
    assert!(say(&[]).contains("empty"));
    assert!(say(&[u32::MAX]).contains("vocabulary"));
    // A shorter one goes on to the end of the context and not beyond.
    let made = engine.run(vec![request(&long[..context - 5], 500)], &mut |_, _| ControlFlow::Continue(()));
    let made = made[0].as_ref().unwrap();
    assert_eq!((made.tokens.len(), made.done.ended, made.done.steps), (5, false, 5));
    assert!(run(&mut engine, vec![request(&[5, 6], 0)])[0].is_empty());
}

#[test]
fn an_answer_ends_where_the_caller_has_enough() {
    let decoder = Decoder::load(&fixture("qwen2")).unwrap();
    let mut engine = engine(&decoder);
    let mut left = 3;
    let made = engine.run(vec![request(&[5, 6], 50)], &mut |_, _| {
        left -= 1;
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let made = made[0].as_ref().unwrap();
    assert_eq!((made.tokens.len(), made.done.steps), (3, 3));
    assert!(engine.is_idle());
}

#[test]
fn weights_that_compute_no_numbers_are_an_error() {
    let config = ModelConfig { vocab: 40, ..ModelConfig::load(&fixture("qwen3")).unwrap() };
    let mut decoder = Decoder::random(config, 1).unwrap();
    decoder.values_mut().fill(f32::NAN);
    let made = engine(&decoder).run(vec![request(&[5], 4)], &mut |_, _| ControlFlow::Continue(()));
    assert!(made[0].as_ref().unwrap_err().to_string().contains("not a number"));
}

fn adapter(decoder: &Decoder, seed: usize) -> Lora {
    let mut lora = Lora::init(decoder, 2, 4.0, &Targets::One("all-linear".into()), 5).unwrap();
    for (i, value) in lora.values_mut().iter_mut().enumerate() {
        *value += 0.3 * ((i * seed % 11) as f32 / 11.0 - 0.5);
    }
    lora
}

#[test]
fn base_and_adapters_answer_side_by_side_and_an_adapter_can_go() {
    let decoder = small(Arch::Qwen3, 2);
    let (one, two) = (adapter(&decoder, 7), adapter(&decoder, 3));
    let prompt: Vec<u32> = (1..20).collect();
    let mut engine = engine(&decoder);
    let lanes = [Lane::BASE, engine.add_lane(&one).unwrap(), engine.add_lane(&two).unwrap()];
    let ask = |lane| Request::generate(lane, prompt.clone(), &plain(10), &[]).unwrap();
    let wanted = [None, Some(&one), Some(&two)].map(|adapter| one_by_one(&decoder, adapter, &prompt, 10));
    assert!(wanted[0] != wanted[1] && wanted[1] != wanted[2]);
    assert_eq!(run(&mut engine, lanes.map(ask).into()), wanted);
    assert_eq!(one_by_one(&one.merge(&decoder).unwrap(), None, &prompt, 10), wanted[1]);

    let ids = lanes.map(|lane| engine.submit(ask(lane)).unwrap());
    engine.step();
    engine.remove_lane(lanes[1]);
    let mut ends = Vec::new();
    while !engine.is_idle() {
        ends.extend(engine.step().into_iter().filter(|e| !matches!(e, Event::Token(..))));
    }
    let failed = |e: &Event| matches!(e, Event::Failed(id, e) if *id == ids[1] && e.to_string().contains("taken away"));
    assert!(ends.len() == 3 && ends.iter().filter(|e| failed(e)).count() == 1, "{ends:?}");
    assert!(engine.submit(ask(lanes[1])).is_err());
    let other = small(Arch::Llama, 1);
    assert!(engine.add_lane(Arc::new(adapter(&other, 2))).is_err());
}

#[test]
fn guesses_of_lookup_and_of_a_draft_model_leave_the_answer_as_it_is() {
    for arch in [Arch::Llama, Arch::Mistral] {
        let decoder = small(arch, 2);
        // A prompt that repeats itself, so that there is something to find.
        let prompt: Vec<u32> = (0..30).map(|i| i % 6 + 1).collect();
        let wanted = one_by_one(&decoder, None, &prompt, 60);
        // The model itself guesses everything rightly; one of other weights nearly nothing.
        let mut other = decoder.clone();
        other.values_mut().iter_mut().enumerate().for_each(|(i, v)| *v += 0.2 * ((i % 7) as f32 - 3.0));
        let draft =
            |decoder: &Decoder| Draft { decoder: Arc::new(decoder.clone()), tokens: 5, kv_bytes: 1 << 20 };
        for (speculation, fewer) in [
            (lookup(), None),
            (Speculation { lookup: None, draft: Some(draft(&decoder)) }, Some(20)),
            (Speculation { lookup: None, draft: Some(draft(&other)) }, None),
            (Speculation { draft: Some(draft(&other)), ..lookup() }, None),
        ] {
            for blocks in [23, 100] {
                let settings = Settings { speculation: speculation.clone(), ..Settings::default() };
                let mut engine = with_blocks(&decoder, blocks, settings);
                assert_eq!(run(&mut engine, vec![request(&prompt, 60)]), [wanted.as_slice()]);
                assert!(engine.computed.1 <= fewer.unwrap_or(60), "{} passes", engine.computed.1);
                let two = run(&mut engine, vec![request(&prompt, 60), request(&prompt[1..], 20)]);
                assert_eq!(two[0], wanted);
                assert_eq!(two[1], one_by_one(&decoder, None, &prompt[1..], 20));
            }
        }
    }
}

#[test]
fn a_draft_model_of_another_vocabulary_is_refused() {
    let decoder = Decoder::load(&fixture("qwen2")).unwrap();
    let draft = Some(Draft { decoder: Arc::new(small(Arch::Llama, 1)), tokens: 3, kv_bytes: 1 << 20 });
    let speculation = Speculation { draft, lookup: None };
    let error = Engine::new(&decoder, Settings { speculation, ..Settings::default() }).unwrap_err();
    assert!(
        error.to_string().contains("53 tokens") && error.to_string().contains("same tokenizer"),
        "{error}"
    );
}

/// Wants all continuations, two at a time, and keeps the likeliest token after each.
#[derive(Debug, Default)]
struct Probe {
    left: Vec<Vec<u32>>,
    asked: Vec<Vec<u32>>,
    found: Arc<std::sync::Mutex<Vec<(Vec<u32>, Vec<f32>)>>>,
}

impl Scoring for Probe {
    fn wants(&mut self) -> Vec<Vec<u32>> {
        self.asked = self.left.split_off(self.left.len().saturating_sub(2));
        self.asked.clone()
    }

    fn take(&mut self, logits: Vec<Vec<f32>>) -> Result<(), ModelError> {
        self.found.lock().unwrap().extend(self.asked.drain(..).zip(logits));
        Ok(())
    }
}

#[test]
fn logits_after_continuations_are_found_beside_answers_and_in_a_small_cache() {
    let decoder = small(Arch::Mistral, 2);
    let prompt: Vec<u32> = (3..21).collect();
    let left = vec![vec![], vec![4, 5, 6], vec![4, 5], vec![4, 7], vec![], vec![8]];
    for blocks in [6, 100] {
        let mut engine = with_blocks(&decoder, blocks, Settings::default());
        let found = Arc::default();
        let probe = Probe { left: left.clone(), found: Arc::clone(&found), ..Probe::default() };
        let other: Vec<u32> = (30..40).collect();
        let answer = engine.submit(request(&other, 9)).unwrap();
        let work = Work::Score(Box::new(probe));
        let id = engine.submit(Request { lane: Lane::BASE, prompt: prompt.clone(), work }).unwrap();
        let (mut tokens, mut scored) = (Vec::new(), false);
        while !engine.is_idle() {
            for event in engine.step() {
                match event {
                    Event::Token(of, token) if of == answer => tokens.push(token.id),
                    Event::Scored(of, ..) => scored = of == id,
                    Event::Done(..) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        assert!(scored);
        assert_eq!(tokens, one_by_one(&decoder, None, &other, 9));
        let found = found.lock().unwrap();
        assert_eq!(found.len(), left.len());
        for (continuation, logits) in found.iter() {
            let whole =
                decoder.logits_all(&[&prompt, &continuation[..]].concat(), None, Par::SERIAL).unwrap();
            let wanted = &whole[whole.len() - decoder.config.vocab..];
            assert!(logits.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-4), "{continuation:?}");
        }
    }
    // A continuation of a token that is none.
    let mut engine = engine(&decoder);
    let probe = Probe { left: vec![vec![53]], ..Probe::default() };
    engine.submit(Request { lane: Lane::BASE, prompt, work: Work::Score(Box::new(probe)) }).unwrap();
    let mut failed = false;
    while !engine.is_idle() {
        failed |= engine
            .step()
            .iter()
            .any(|e| matches!(e, Event::Failed(_, e) if e.to_string().contains("vocabulary")));
    }
    assert!(failed);
}

#[test]
fn a_pass_takes_no_more_forks_than_it_may_and_all_are_looked_at() {
    let decoder = small(Arch::Llama, 2);
    let prompt: Vec<u32> = (3..21).collect();
    let chunk = 12;
    let mut engine = with_blocks(&decoder, 100, Settings { chunk, ..Settings::default() });
    let found = Arc::default();
    for first in 0..6 {
        // Two continuations of five tokens: no two requests' forks go into one pass.
        let left = vec![vec![first, 4, 5, 6, 7], vec![first + 10, 4, 5, 6, 7]];
        let probe = Probe { left, found: Arc::clone(&found), ..Probe::default() };
        let work = Work::Score(Box::new(probe));
        engine.submit(Request { lane: Lane::BASE, prompt: prompt.clone(), work }).unwrap();
    }
    let mut before = 0;
    while !engine.is_idle() {
        engine.step();
        let now = engine.computed.0;
        // The last token of a prompt always comes, whatever the room.
        assert!(now - before <= chunk as u64 + 6, "{} tokens in a pass", now - before);
        before = now;
    }
    let found = found.lock().unwrap();
    assert_eq!(found.len(), 12);
    for (continuation, logits) in found.iter() {
        let whole = decoder.logits_all(&[&prompt, &continuation[..]].concat(), None, Par::SERIAL).unwrap();
        let wanted = &whole[whole.len() - decoder.config.vocab..];
        assert!(logits.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-4), "{continuation:?}");
    }
}

/// A prompt out of few beginnings, so that many share some; how long an answer; when it comes; after how many steps it is ended.
type Plan = (usize, Vec<u32>, usize, usize, Option<usize>);

fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let end = prop::option::weighted(0.2, 0_usize..6);
    prop::collection::vec(
        (0_usize..4, prop::collection::vec(0_u32..3, 1..8), 1_usize..12, 0_usize..12, end),
        1..14,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn an_answer_depends_on_its_request_alone(
        plans in plans(),
        arch in 0_usize..4,
        blocks in 12_usize..40,
        chunk in 1_usize..40,
        requests in 1_usize..9,
        guesses: bool,
        sharing: bool,
    ) {
        let decoder = small(Arch::ALL[arch], 1);
        let lora = adapter(&decoder, 7);
        let speculation = if guesses { lookup() } else { Speculation::default() };
        let settings = Settings { requests, chunk, speculation, ..Settings::default() };
        let mut engine = with_blocks(&decoder, blocks, settings);
        if !sharing {
            engine.pages = engine.pages.without_sharing();
        }
        let lane = engine.add_lane(&lora).unwrap();
        let prompts: Vec<Vec<u32>> = plans
            .iter()
            .map(|(shared, own, ..)| (0..*shared as u32 * 9).map(|i| i * 5 % 53).chain(own.iter().copied()).collect())
            .collect();
        let lane_of = |at: usize| if at % 3 == 2 { lane } else { Lane::BASE };
        let mut answers: HashMap<RequestId, (usize, Vec<u32>, bool)> = HashMap::new();
        let mut step = 0;
        while step < 12 || !engine.is_idle() {
            for (at, (_, _, max_tokens, arrives, _)) in plans.iter().enumerate() {
                if *arrives == step {
                    let work = Request::generate(lane_of(at), prompts[at].clone(), &plain(*max_tokens), &[]).unwrap();
                    answers.insert(engine.submit(work).unwrap(), (at, Vec::new(), false));
                }
            }
            for (id, answer) in &mut answers {
                let (_, _, _, arrives, end) = &plans[answer.0];
                if end.is_some_and(|end| arrives + end == step) {
                    engine.cancel(*id);
                }
            }
            for event in engine.step() {
                match event {
                    Event::Token(id, token) => answers.get_mut(&id).unwrap().1.push(token.id),
                    Event::Done(id, _) => answers.get_mut(&id).unwrap().2 = true,
                    other => panic!("{other:?}"),
                }
            }
            step += 1;
            prop_assert!(step < 2000, "it does not come to an end");
        }
        for (at, tokens, done) in answers.into_values() {
            let wanted = one_by_one(&decoder, (lane_of(at) == lane).then_some(&lora), &prompts[at], plans[at].2);
            if done {
                prop_assert_eq!(tokens, wanted);
            } else {
                prop_assert!(plans[at].4.is_some() && wanted.starts_with(&tokens));
            }
        }
    }
}
