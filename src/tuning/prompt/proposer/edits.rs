//! Edits of clauses that need no model: delete, swap, move, add, change a word, change the format.
//!
//! GrIPS: Prasad et al. 2022, "GrIPS: Gradient-free, Edit-based Instruction Search for Prompting Large Language Models"
//! (delete, swap, paraphrase, add), on sentences instead of parsed phrases, with a list of clauses to add.

use super::{Draft, Examiner, Halt, Proposer, Scene};
use crate::domain::candidate::OutputKind;
use crate::domain::rng::SplitMix64;
use crate::tuning::prompt::clauses::{Clauses, Part};

const ADD_ALWAYS: [&str; 6] = [
    "Give only the answer, no explanation.",
    "Read all of it before you answer.",
    "If several answers seem possible, give the likeliest one.",
    "Ignore greetings, asides and small talk.",
    "Look at what the person wants to have done.",
    "Look at the thing that it is about, not at the mood.",
];
const ADD_LABEL: [&str; 4] = [
    "Answer with one word.",
    "Choose exactly one label.",
    "Answer in lower case.",
    "Decide by the main point, not by details.",
];
const ADD_JSON: [&str; 3] =
    ["Answer with JSON only.", "Use exactly the field names that are asked for.", "Leave no field empty."];
const ADD_TOOL: [&str; 3] = [
    "Call exactly one tool.",
    "Take the arguments from the input, word for word.",
    "Choose the tool by what has to be done.",
];

/// Words that stand for each other in instructions.
const SYNONYMS: [(&str, &str); 10] = [
    ("which", "what"),
    ("name", "give"),
    ("classify", "label"),
    ("choose", "pick"),
    ("message", "text"),
    ("should handle", "is responsible for"),
    ("answer", "reply"),
    ("below", "following"),
    ("must", "have to"),
    ("team", "topic"),
];

#[derive(Debug)]
pub struct Edits;

impl Proposer for Edits {
    fn name(&self) -> &'static str {
        "edit"
    }

    fn propose(
        &mut self,
        scene: &Scene<'_>,
        n: usize,
        rng: &mut SplitMix64,
        _: &mut dyn Examiner,
    ) -> Result<Vec<Draft>, Halt> {
        let mut drafts = Vec::new();
        for i in 0..n {
            let Some((parent, stage)) = scene.turn(i) else { break };
            let (Some(mut clauses), Some(spec)) = (scene.clauses(parent, stage), scene.stage(stage)) else {
                continue;
            };
            if let Some(edit) = edit(&mut clauses, spec.output, rng) {
                drafts.extend(scene.draft(parent, stage, clauses.text(), edit));
            }
        }
        Ok(drafts)
    }
}

/// One edit at random; none where the one that was drawn cannot be made here.
fn edit(clauses: &mut Clauses, output: OutputKind, rng: &mut SplitMix64) -> Option<String> {
    let places = clauses.clauses();
    let pick = |rng: &mut SplitMix64| places.get(rng.below(places.len())).copied();
    match rng.below(7) {
        0 => {
            let at = pick(rng)?;
            let words = clauses.core(at).to_owned();
            clauses.delete(at);
            Some(format!("deletes \"{words}\""))
        }
        1 => {
            let (a, b) = (pick(rng)?, pick(rng)?);
            if a == b {
                return None;
            }
            let words = format!("swaps \"{}\" and \"{}\"", clauses.core(a), clauses.core(b));
            clauses.swap(a, b);
            Some(words)
        }
        2 => {
            // To the end: what comes last is often followed best.
            let at = pick(rng)?;
            let words = clauses.core(at).to_owned();
            clauses.delete(at);
            let end = clauses.parts.len();
            clauses.insert(end, &words);
            Some(format!("moves \"{words}\" to the end"))
        }
        3 => {
            let at = pick(rng)?;
            let words = clauses.core(at).to_owned();
            let offset = rng.below(SYNONYMS.len());
            let lower = words.to_lowercase();
            let (from, to) = (0..SYNONYMS.len())
                .map(|k| SYNONYMS[(k + offset) % SYNONYMS.len()])
                .flat_map(|(a, b)| [(a, b), (b, a)])
                .find(|(from, _)| whole_word(&lower, from).is_some())?;
            let start = whole_word(&lower, from)?;
            // Lower case can be of another length; then there is no such place in the words themselves.
            let found =
                words.get(start..start + from.len()).filter(|found| found.eq_ignore_ascii_case(from))?;
            let to = if found.starts_with(char::is_uppercase) { capital(to) } else { to.to_owned() };
            let new = format!("{}{to}{}", &words[..start], &words[start + from.len()..]);
            clauses.set_core(at, &new);
            Some(format!("says \"{to}\" for \"{found}\""))
        }
        4 => {
            // As a list or not.
            if places.len() < 2 {
                return None;
            }
            let listed = places.iter().all(|at| clauses.core(*at).starts_with("- "));
            for at in &places {
                let words = clauses.core(*at).to_owned();
                let new =
                    if listed { words.trim_start_matches("- ").to_owned() } else { format!("- {words}") };
                clauses.set_core(*at, &new);
                if let Some(Part::Clause(text)) = clauses.parts.get_mut(*at)
                    && !listed
                    && !text.ends_with('\n')
                {
                    let end = text.trim_end().len();
                    text.replace_range(end.., "\n");
                }
            }
            Some(if listed { "as running text" } else { "as a list" }.to_owned())
        }
        _ => {
            let own: &[&str] = match output {
                OutputKind::Label => &ADD_LABEL,
                OutputKind::Json => &ADD_JSON,
                OutputKind::Tool => &ADD_TOOL,
                OutputKind::Text => &[],
            };
            let all: Vec<&str> = ADD_ALWAYS.iter().chain(own).copied().collect();
            let words = all[rng.below(all.len())];
            if clauses.text().contains(words) {
                return None;
            }
            let at = match places.len() {
                0 => clauses.input_at(),
                some => places[rng.below(some)] + 1,
            };
            clauses.insert(at, words);
            Some(format!("adds \"{words}\""))
        }
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Where a word stands as a whole.
fn whole_word(text: &str, word: &str) -> Option<usize> {
    let letter = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    text.match_indices(word).map(|(at, _)| at).find(|&at| {
        !letter(text[..at].chars().next_back()) && !letter(text[at + word.len()..].chars().next())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tuning::prompt::guards::{holds_pin, variables};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn variables_and_pins_survive_any_edits(
            before in prop::collection::vec("(Name the team|Be brief|Ünd so|Which message is it|- a list)[.?!]", 0..4),
            after in prop::collection::vec("(Never promise a refund|Answer below|Choose)[.!]", 0..3),
            joint in "( |\n|\n\n)",
            seed in any::<u64>(),
        ) {
            let template = format!(
                "{}{joint}{{% for t in tools %}}Use {{{{ t }}}}. Or not.\n{{% endfor %}}\nFrom {{{{ input }}}} here.{joint}{}",
                before.join(&joint),
                after.join(&joint)
            );
            let pins = vec!["never promise a refund".to_owned()];
            let pinned = holds_pin(&template, &pins);
            let names = variables(&template).unwrap();
            let mut text = template.clone();
            let mut rng = SplitMix64::new(seed);
            for _ in 0..12 {
                let mut clauses = Clauses::parse(&text, &pins);
                edit(&mut clauses, OutputKind::Label, &mut rng);
                text = clauses.text();
                prop_assert_eq!(variables(&text).unwrap(), names.clone(), "{}", text);
                prop_assert_eq!(holds_pin(&text, &pins), pinned, "{}", text);
                let block = "{% for t in tools %}Use {{ t }}. Or not.\n{% endfor %}";
                prop_assert!(text.contains(block), "{}", text);
            }
        }
    }
}
