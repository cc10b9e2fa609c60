use super::super::ModelConfig;
use super::super::chat::{ChatTemplate, prompt_tokens};
use super::super::tokenizer::Tokenizer;
use super::super::tokenizer::tests::{MODELS, fixture, reference};
use super::super::weights::Weights;
use super::*;

fn plain(max_tokens: usize) -> Decoding {
    Decoding { max_tokens, ..Decoding::default() }
}

fn run(
    generator: &mut Generator,
    decoder: &Decoder,
    eos: &[u32],
    prompt: &[u32],
    decoding: &Decoding,
) -> Vec<u32> {
    let mut streamed = Vec::new();
    let made = generator
        .generate(decoder, None, eos, prompt, decoding, Par::SERIAL, &mut |id| {
            streamed.push(id);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(made.tokens, streamed);
    made.tokens
}

#[test]
fn logits_are_those_of_transformers() {
    for name in MODELS {
        let decoder = Decoder::load(&fixture(name)).unwrap();
        let file = Weights::open_file(&fixture(name).join("reference.safetensors")).unwrap();
        let (shape, ids) = file.read_ints("input_ids").unwrap();
        let (_, mask) = file.read_ints("attention_mask").unwrap();
        let (rows, length, vocab) = (shape[0], shape[1], decoder.config.vocab);
        let logits = file.read_vec("logits", &[rows, length, vocab]).unwrap();
        let mut worst = 0_f32;
        for row in 0..rows {
            // Left-padded in the reference; each row is computed here by itself.
            let at = |i: &usize| mask[row * length + i] == 1;
            let kept: Vec<usize> = (0..length).filter(at).collect();
            let tokens: Vec<u32> = kept.iter().map(|i| ids[row * length + i] as u32).collect();
            let ours = decoder.logits_all(&tokens, None, Par::SERIAL).unwrap();
            for (i, ours) in kept.iter().zip(ours.chunks_exact(vocab)) {
                let theirs = &logits[(row * length + i) * vocab..][..vocab];
                worst = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
            }
        }
        assert!(worst < 1e-4, "{name}: {worst}");
    }
}

#[test]
fn cached_decoding_equals_the_full_forward() {
    for name in MODELS {
        let decoder = Decoder::load(&fixture(name)).unwrap();
        let vocab = decoder.config.vocab;
        let tokens: Vec<u32> = (0..60).map(|i| (i * 7 + 5) % vocab as u32).collect();
        let full = decoder.logits_all(&tokens, None, Par::SERIAL).unwrap();
        let mut cache = KvCache::new(&decoder, 60);
        let mut at = 0;
        for step in [1, 20, 1, 1, 9, 28] {
            let last = decoder.forward(&tokens[at..at + step], &mut cache, None, Par::SERIAL).unwrap();
            at += step;
            let expect = &full[(at - 1) * vocab..][..vocab];
            let worst = last.iter().zip(expect).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-4, "{name} at {at}: {worst}");
        }
        let error = decoder.forward(&[5], &mut cache, None, Par::SERIAL).unwrap_err().to_string();
        assert!(error.contains("60"), "{error}");
    }
}

#[test]
fn greedy_generation_makes_the_tokens_of_transformers() {
    for name in MODELS {
        let decoder = Decoder::load(&fixture(name)).unwrap();
        let tokenizer = Tokenizer::load(&fixture(name)).unwrap();
        let template = ChatTemplate::load(&fixture(name)).unwrap();
        let mut generator = Generator::new(&decoder);
        for answer in reference(name).answers {
            let prompt = prompt_tokens(&tokenizer, template.as_ref(), &answer.text).unwrap();
            let mut tokens = run(&mut generator, &decoder, tokenizer.eos(), &prompt, &plain(24));
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

#[test]
fn what_came_before_does_not_change_an_answer() {
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
        let mut kept = Generator::new(&decoder);
        for prompt in &prompts {
            let fresh = run(&mut Generator::new(&decoder), &decoder, &[], prompt, &decoding);
            assert_eq!(run(&mut kept, &decoder, &[], prompt, &decoding), fresh, "{prompt:?}");
        }
    }
}

#[test]
fn a_prompt_beyond_the_context_is_an_error_and_the_next_one_works() {
    let decoder = Decoder::load(&fixture("qwen2")).unwrap();
    let context = decoder.config.max_positions;
    let mut generator = Generator::new(&decoder);
    let long = vec![7; context];
    let mut nothing = |_| ControlFlow::Continue(());
    let mut ask = |prompt: &[u32]| {
        generator.generate(&decoder, None, &[], prompt, &plain(500), Par::SERIAL, &mut nothing)
    };
    let error = ask(&long).unwrap_err().to_string();
    assert!(error.contains(&format!("{context} tokens")) && error.contains("shorten"), "{error}");
    assert!(ask(&[]).is_err());
    assert!(ask(&[u32::MAX]).unwrap_err().to_string().contains("vocabulary"));
    // A shorter one goes on to the end of the context and not beyond.
    let made = ask(&long[..context - 5]).unwrap();
    assert_eq!((made.tokens.len(), made.ended, made.steps), (5, false, 5));
}

#[test]
fn an_answer_ends_where_the_caller_has_enough_or_nothing_is_asked() {
    let decoder = Decoder::load(&fixture("qwen2")).unwrap();
    let mut generator = Generator::new(&decoder);
    let mut left = 3;
    let made = generator
        .generate(&decoder, None, &[], &[5, 6], &plain(50), Par::SERIAL, &mut |_| {
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    assert_eq!(made.tokens.len(), 3);
    assert!(run(&mut generator, &decoder, &[], &[5, 6], &plain(0)).is_empty());
}

#[test]
fn weights_that_compute_no_numbers_are_an_error() {
    let config = ModelConfig { vocab: 40, ..ModelConfig::load(&fixture("qwen3")).unwrap() };
    let mut decoder = Decoder::random(config, 1).unwrap();
    decoder.values_mut().fill(f32::NAN);
    let made =
        Generator::new(&decoder)
            .generate(&decoder, None, &[], &[5], &plain(4), Par::SERIAL, &mut |_| ControlFlow::Continue(()));
    assert!(made.unwrap_err().to_string().contains("not a number"));
}
