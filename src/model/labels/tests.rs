use proptest::prelude::*;

use super::super::chat::{answer_tokens, prompt_tokens};
use super::super::tokenizer::tests::{MODELS, fixture};
use super::*;
use crate::domain::candidate::Decoding;
use crate::model::Decoder;
use crate::ops::Par;

const END: u32 = 0;

/// Logits that depend on all tokens before, as a model's do.
fn logits(seed: u64, vocab: usize, continuation: &[u32], spread: f32) -> Vec<f32> {
    let mut hash = blake3::Hasher::new();
    hash.update(&seed.to_le_bytes());
    for id in continuation {
        hash.update(&id.to_le_bytes());
    }
    let mut bytes = vec![0; vocab];
    hash.finalize_xof().fill(&mut bytes);
    bytes.into_iter().map(|b| (f32::from(b) / 255.0 - 0.5) * spread).collect()
}

/// Constrained decoding, every path of it.
fn enumerate(
    tokens: &[Vec<u32>],
    eos: &[u32],
    before: &mut Vec<u32>,
    mass: f64,
    model: &dyn Fn(&[u32]) -> Vec<f32>,
    all: &mut [f64],
) {
    let mut next: Vec<u32> = tokens
        .iter()
        .filter(|t| t.len() > before.len() && t.starts_with(before))
        .map(|t| t[before.len()])
        .collect();
    next.sort_unstable();
    next.dedup();
    let here: Vec<usize> = (0..tokens.len()).filter(|&i| tokens[i] == *before).collect();
    let mut permitted = next.clone();
    if !here.is_empty() {
        permitted.extend(eos);
    }
    let logits = model(before);
    let total: f64 = permitted.iter().map(|&t| f64::from(logits[t as usize]).exp()).sum();
    let p = |t: u32| mass * f64::from(logits[t as usize]).exp() / total;
    let end: f64 = if next.is_empty() { mass } else { eos.iter().map(|&t| p(t)).sum() };
    for &i in &here {
        all[i] += end / here.len() as f64;
    }
    for t in next {
        before.push(t);
        enumerate(tokens, eos, before, p(t), model, all);
        before.pop();
    }
}

/// Asks until nothing is wanted; the number of passes, too.
fn run(mut scores: LabelScores, model: &dyn Fn(&[u32]) -> Vec<f32>) -> (LabelScores, usize) {
    let mut passes = 0;
    while !scores.wants().is_empty() {
        let wanted: Vec<Vec<f32>> = scores.wants().iter().map(|c| model(c)).collect();
        scores.give(&wanted.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
        passes += 1;
    }
    (scores, passes)
}

proptest! {
    #[test]
    fn probabilities_are_those_of_constrained_decoding(
        tokens in prop::collection::btree_set(prop::collection::vec(1_u32..5, 1..6), 1..40),
        seed: u64,
        spread in 0.5_f32..25.0,
    ) {
        let tokens: Vec<Vec<u32>> = tokens.into_iter().collect();
        let names: Vec<String> = (0..tokens.len()).map(|i| format!("label {i}")).collect();
        let model = |c: &[u32]| logits(seed, 6, c, spread);
        let mut want = vec![0.0; tokens.len()];
        enumerate(&tokens, &[END, 5], &mut Vec::new(), 1.0, &model, &mut want);
        let trie = LabelTrie::new(names.clone(), &tokens, &[END, 5]).unwrap();
        let (scores, _) = run(LabelScores::new(Arc::new(trie)), &model);
        let got = scores.done();
        prop_assert!((got.iter().map(|(_, p)| p).sum::<f64>() - 1.0).abs() < 1e-9);
        let best = want.iter().copied().fold(0.0, f64::max);
        for (name, p) in &got {
            let want = want[names.iter().position(|n| n == name).unwrap()];
            // What was not asked about has less than a share together.
            prop_assert!((p - want).abs() < 0.005 && (*p > 0.005 || want < 0.005 + 1e-9), "{}: {} {}", name, p, want);
        }
        let first = want[names.iter().position(|n| *n == got[0].0).unwrap()];
        prop_assert!(first >= best - 1e-9, "the best is {} of {}", first, best);
        prop_assert!((got[0].1 - best).abs() < 1e-9 || best < 0.005);
    }
}

fn trie(labels: &[(&str, &[u32])], eos: &[u32]) -> Result<LabelTrie, ModelError> {
    let tokens: Vec<Vec<u32>> = labels.iter().map(|(_, t)| t.to_vec()).collect();
    LabelTrie::new(labels.iter().map(|(l, _)| (*l).to_owned()).collect(), &tokens, eos)
}

#[test]
fn the_model_is_asked_only_where_there_is_a_choice() {
    let labels = trie(&[("a", &[1, 2, 3]), ("b", &[1, 2, 4, 5]), ("c", &[1, 2, 4, 6, 7])], &[END]).unwrap();
    let scores = LabelScores::new(Arc::new(labels));
    assert_eq!(scores.wants(), [vec![1, 2]], "what all begin with needs no asking");
    let (scores, passes) = run(scores, &|_| vec![0.0; 8]);
    assert_eq!(passes, 2);
    let got: Vec<f64> = scores.done().into_iter().map(|(_, p)| p).collect();
    assert_eq!(got, [0.5, 0.25, 0.25]);
    // A single label is certain.
    let only = LabelScores::new(Arc::new(trie(&[("a", &[1, 2])], &[]).unwrap()));
    assert!(only.wants().is_empty());
    assert_eq!(only.done(), [("a".to_owned(), 1.0)]);
}

#[test]
fn unlikely_branches_are_not_asked_about_and_share_their_probability() {
    let labels = trie(&[("a", &[1]), ("b", &[2, 3]), ("c", &[2, 4])], &[END]).unwrap();
    let mut scores = LabelScores::new(Arc::new(labels));
    assert_eq!(scores.wants(), [Vec::<u32>::new()]);
    let likely = [0.0, 8.0, 0.0, 0.0, 0.0];
    scores.give(&[&likely]).unwrap();
    assert!(scores.wants().is_empty());
    let got = scores.done();
    assert_eq!((got[0].0.as_str(), got[1].1), ("a", got[2].1));
    assert!((got.iter().map(|(_, p)| p).sum::<f64>() - 1.0).abs() < 1e-12);
}

#[test]
fn a_label_that_begins_another_ends_with_an_end_token() {
    let labels = [("card", &[1_u32][..]), ("card lost", &[1, 2])];
    let (scores, _) = run(LabelScores::new(Arc::new(trie(&labels, &[END, 3]).unwrap())), &|_| {
        vec![1.0_f32.ln(), 0.0, 6.0_f32.ln(), 3.0_f32.ln()]
    });
    let got = scores.done();
    assert_eq!(got[0].0, "card lost");
    assert!((got[0].1 - 0.6).abs() < 1e-6 && (got[1].1 - 0.4).abs() < 1e-6, "{got:?}");
    let error = trie(&labels, &[]).unwrap_err().to_string();
    assert!(error.contains("`card`") && error.contains("ends"), "{error}");
    assert!(trie(&[], &[END]).is_err());
    assert!(trie(&[("x", &[])], &[END]).unwrap_err().to_string().contains("`x`"));
}

#[test]
fn labels_are_drawn_by_their_probabilities_and_the_seed() {
    let labels = trie(&[("a", &[1]), ("b", &[2]), ("c", &[3])], &[END]).unwrap();
    let logits = [0.0, 0.7_f32.ln(), 0.2_f32.ln(), 0.1_f32.ln()];
    let (scores, _) = run(LabelScores::new(Arc::new(labels)), &|_| logits.to_vec());
    let draw = |temperature: f32, top_k: Option<usize>, seed: u64| {
        scores.choose(&Decoding { temperature, top_k, seed, ..Decoding::default() }, &[7])
    };
    assert_eq!(draw(0.0, None, 1), "a");
    assert_eq!(draw(1.0, None, 5), draw(1.0, None, 5));
    let share = |temperature: f32, top_k: Option<usize>, label: &str| {
        (0..4000).filter(|&seed| draw(temperature, top_k, seed) == label).count() as f64 / 4000.0
    };
    assert!((share(1.0, None, "a") - 0.7).abs() < 0.03);
    assert!((share(0.5, None, "a") - 0.49 / 0.54).abs() < 0.03);
    assert!((share(1.0, Some(2), "b") - 0.2 / 0.9).abs() < 0.03);
}

#[test]
fn logits_that_are_no_numbers_are_an_error() {
    for bad in [vec![0.0, f32::NAN, 1.0], vec![0.0], vec![f32::NEG_INFINITY; 3], vec![f32::INFINITY; 3]] {
        let labels = trie(&[("a", &[1]), ("b", &[2])], &[END]).unwrap();
        assert!(LabelScores::new(Arc::new(labels)).give(&[&bad]).is_err(), "{bad:?}");
    }
    let labels = trie(&[("a", &[1]), ("b", &[2])], &[END]).unwrap();
    assert!(LabelScores::new(Arc::new(labels)).give(&[]).is_err());
}

#[test]
fn a_label_is_written_as_training_writes_it() {
    let labels = ["card", "card_lost", "été", "a b", "transfer", "No", " x", "1"].map(String::from);
    for name in MODELS {
        let tokenizer = Tokenizer::load(&fixture(name)).unwrap();
        for template in [ChatTemplate::load(&fixture(name)).unwrap(), None] {
            let sets = LabelSets::new(&tokenizer, template.as_ref());
            for user in ["My card was declined", "label: ", "Answer:\n", "x", "", "one two three "] {
                let prompt = prompt_tokens(&tokenizer, template.as_ref(), user).unwrap();
                let tail = sets.tail(&tokenizer, &prompt);
                for label in &labels {
                    let Ok(mut want) = answer_tokens(&tokenizer, template.as_ref(), user, label) else {
                        continue;
                    };
                    let got = sets.tokens(&tokenizer, tail.as_ref(), label).unwrap();
                    // Training asks for the end of turn, too, and what the template writes before it.
                    want.truncate(got.len());
                    assert_eq!(got, want, "{name} {user:?} {label:?} {}", template.is_some());
                }
            }
        }
    }
}

#[test]
fn a_models_labels_are_scored_as_by_every_path_through_it() {
    let dir = fixture("qwen2");
    let decoder = Decoder::load(&dir).unwrap();
    let tokenizer = Tokenizer::load(&dir).unwrap();
    let template = ChatTemplate::load(&dir).unwrap();
    let sets = LabelSets::new(&tokenizer, template.as_ref());
    let labels = ["card", "card lost", "cash", "transfer", "top up", "top"].map(String::from);
    let prompt = prompt_tokens(&tokenizer, template.as_ref(), "My card was declined").unwrap();
    let model = |continuation: &[u32]| {
        let tokens: Vec<u32> = prompt.iter().chain(continuation).copied().collect();
        let all = decoder.logits_all(&tokens, None, Par::SERIAL).unwrap();
        all[all.len() - decoder.config.vocab..].to_vec()
    };
    let tail = sets.tail(&tokenizer, &prompt);
    let tokens: Vec<Vec<u32>> =
        labels.iter().map(|l| sets.tokens(&tokenizer, tail.as_ref(), l).unwrap()).collect();
    let mut want = vec![0.0; labels.len()];
    enumerate(&tokens, tokenizer.eos(), &mut Vec::new(), 1.0, &model, &mut want);
    let (scores, _) = run(sets.scores(&tokenizer, &prompt, &labels).unwrap(), &model);
    for (label, p) in scores.done() {
        let want = want[labels.iter().position(|l| *l == label).unwrap()];
        assert!((p - want).abs() < 0.005, "{label}: {p} {want}");
    }
    // The same set after the same end of a prompt is written once.
    assert!(Arc::ptr_eq(
        &sets.scores(&tokenizer, &prompt, &labels).unwrap().trie(),
        &sets.scores(&tokenizer, &prompt, &labels).unwrap().trie()
    ));
}
