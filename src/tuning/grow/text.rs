//! Is it a text at all: what a model leaves that was asked for a message and gave something else.

use crate::strata::duplicates::said;
use crate::strata::problems::characters;
use crate::strata::problems::empty;

/// A text may be so many times as long as its longest parent, and so long in any case, in characters.
const LONGER: usize = 4;
const ALLOWED: usize = 200;
/// Nor may its shortest parent be more than so many times as long.
const SHORTER: usize = 6;

/// What stands in templates, transcripts and markup, and not in messages.
const DEBRIS: [&str; 16] = [
    "{{", "}}", "{%", "%}", "<|", "|>", "[inst]", "[/inst]", "<<", ">>", "<s>", "</s>", "```", "[your ",
    "[insert ", "[name",
];
/// Names of roles and parts at the beginning of a line.
const ROLES: [&str; 12] = [
    "message:",
    "new message:",
    "user:",
    "assistant:",
    "human:",
    "system:",
    "answer:",
    "input:",
    "output:",
    "rewritten:",
    "rewritten message:",
    "paraphrase:",
];
/// How models begin that talk about a text instead of giving it; with a colon at the end of the line.
const OPENERS: [&str; 8] = ["sure", "certainly", "of course", "here is", "here's", "here are", "okay", "ok,"];
/// How models refuse.
const REFUSALS: [&str; 7] = [
    "as an ai",
    "as a language model",
    "i cannot help with",
    "i can't help with",
    "i cannot fulfill",
    "i can't assist",
    "i cannot assist",
];

/// What is wrong with a made text; `parents` are the inputs that it was made of. What they have themselves is nothing wrong.
pub fn wrong(text: &str, parents: &[&str], gold: Option<&str>, cut: bool) -> Option<String> {
    if empty(text) {
        return Some("empty".into());
    }
    if cut {
        return Some("cut off at the limit of its tokens".into());
    }
    let length = text.chars().count();
    let longest = parents.iter().map(|parent| parent.chars().count()).max().unwrap_or(0);
    let most = (LONGER * longest).max(ALLOWED);
    if length > most {
        return Some(format!("{length} characters, where its longest parent has {longest}: at most {most}"));
    }
    let shortest = parents.iter().map(|parent| parent.chars().count()).min().unwrap_or(0);
    if SHORTER * length < shortest {
        return Some(format!("{length} characters, where its shortest parent has {shortest}"));
    }
    if gold.is_some_and(|gold| said(gold).is_some() && said(gold) == said(text)) {
        return Some("nothing but its own answer".into());
    }
    let lower = text.to_lowercase();
    let lowered: Vec<String> = parents.iter().map(|parent| parent.to_lowercase()).collect();
    let in_parents = |part: &str| lowered.iter().any(|parent| parent.contains(part));
    if let Some(debris) = DEBRIS.iter().find(|debris| lower.contains(**debris) && !in_parents(debris)) {
        return Some(format!("`{debris}` belongs to a template"));
    }
    let role = |line: &str| ROLES.iter().find(|role| line.trim_start().starts_with(**role));
    if let Some(role) = lower.lines().find_map(role).filter(|role| !in_parents(role)) {
        return Some(format!("`{role}` is no part of a message"));
    }
    let first = lower.lines().next().unwrap_or_default().trim();
    if first.ends_with(':') && OPENERS.iter().any(|opener| first.starts_with(opener)) && !in_parents(first) {
        return Some("it begins by talking about the text".into());
    }
    if let Some(refusal) = REFUSALS.iter().find(|refusal| lower.contains(**refusal) && !in_parents(refusal)) {
        return Some(format!("a refusal: `{refusal}`"));
    }
    // A label as no person would write it gives its own answer away.
    let label = gold.map(|gold| gold.trim().to_lowercase()).filter(|gold| gold.contains('_'));
    if let Some(label) = label.filter(|label| lower.contains(label.as_str()) && !in_parents(label)) {
        return Some(format!("it names its own answer, `{label}`"));
    }
    let odd = characters::odd(text, 1).into_iter().next()?;
    parents.iter().all(|parent| characters::odd(parent, 1).is_empty()).then_some(odd.what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_message_is_told_and_what_the_parents_have_themselves_is_not() {
        let told = |text: &str| wrong(text, &["where is my card"], Some("card_arrival"), false);
        assert_eq!(told("my card has not come"), None);
        for (text, why) in [
            (" \u{200b}\n", "empty"),
            ("{{ message }}", "template"),
            ("my card<|im_end|>", "template"),
            ("Hello [Your Name]", "template"),
            ("Sure, here it is:\nmy card", "talking about"),
            ("User: my card", "`user:`"),
            ("As an AI language model I have no card", "refusal"),
            ("this is about card_arrival", "its own answer"),
            ("my c\u{fffd}rd", "replacement"),
        ] {
            let why_told = told(text).unwrap_or_default();
            assert!(why_told.contains(why), "{text:?}: {why_told}");
        }
        assert_eq!(
            wrong("Cards!", &["lost it"], Some("cards"), false).as_deref(),
            Some("nothing but its own answer")
        );
        assert!(
            wrong("card", &["where is the card that i ordered"], None, false)
                .unwrap()
                .contains("4 characters")
        );
        assert!(told(&"a b ".repeat(60)).unwrap().contains("240 characters"));
        assert!(wrong("a", &["b"], None, true).unwrap().contains("cut off"));
        assert_eq!(wrong("use {{ x }} in it", &["how do I write {{ x }}? what is }}"], None, false), None);
        assert_eq!(wrong("a\u{200b}b", &["c\u{200b}d"], None, false), None);
    }
}
