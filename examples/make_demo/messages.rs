//! Messages to a support desk, with greetings, asides, typos and all.

use super::lexicon::{Kind, Lexicon};
use super::random::Random;

/// How a message came in; each way of writing has its own habits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Short lines, many typos.
    Chat,
    /// Sentences with a greeting and often a name.
    Email,
    /// Written down by a clerk, with the caller's fillers.
    Phone,
}

impl Channel {
    pub const ALL: [Self; 3] = [Self::Chat, Self::Email, Self::Phone];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Email => "email",
            Self::Phone => "phone",
        }
    }

    /// Share of the longer words that carry a typo.
    const fn typos(self) -> f64 {
        match self {
            Self::Chat => 0.04,
            Self::Email => 0.016,
            Self::Phone => 0.008,
        }
    }
}

/// A message, and what can be asked about it.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    pub text: String,
    pub kind: Kind<'a>,
    pub polite: bool,
    pub urgent: bool,
    /// What the base says of it when nobody says what to say: the problem of a letter, the topic of all else.
    pub unasked: &'a str,
}

/// The bare sentence that says what is the matter.
fn matter(r: &mut Random, words: &Lexicon, (topic, problem): Kind) -> String {
    let pattern = r.word(&words.problems[problem]);
    pattern.replace("{x}", &thing(r, words, topic))
}

fn thing(r: &mut Random, words: &Lexicon, topic: &str) -> String {
    let whose = r.pick(&["my", "my", "my", "the", "our", "this"]);
    format!("{whose} {}", r.word(&words.topics[topic]))
}

/// One sentence, nothing around it.
pub fn plain<'a>(r: &mut Random, words: &Lexicon, kind: Kind<'a>) -> Message<'a> {
    Message { text: matter(r, words, kind), kind, polite: false, urgent: false, unasked: kind.0 }
}

/// A message as people write it. `vague`: it does not say what it is about.
pub fn message<'a>(
    r: &mut Random,
    words: &Lexicon,
    kind: Kind<'a>,
    channel: Channel,
    turns: usize,
    vague: bool,
) -> Message<'a> {
    let talk = &words.talk;
    let mut parts = vec![if vague { r.word(&talk.vague).to_owned() } else { matter(r, words, kind) }];
    if r.chance(0.08) {
        let others: Vec<&String> = words.topics.keys().filter(|t| *t != kind.0).collect();
        let other = *r.pick(&others);
        let aside = r.word(&talk.asides).replace("{x}", &thing(r, words, other));
        parts.push(aside);
    }
    if !vague && r.chance(0.8) {
        let hint = r.word(&words.hints[kind.0]);
        let hint = filled(r, words, hint);
        let at = if r.chance(0.3) { 0 } else { parts.len() };
        parts.insert(at, hint);
    }
    let more = if turns > 1 { 0.1 } else { 0.0 };
    if r.chance(0.12 + more) {
        parts.insert(0, r.word(&talk.context).to_owned());
    }
    if r.chance(0.20 + more) {
        let detail = r.word(&talk.details);
        parts.push(filled(r, words, detail));
    }
    if r.chance(0.14 + more) {
        parts.push(r.word(&talk.tails).to_owned());
    }
    if turns > 2 && r.chance(0.3) {
        parts.push(r.word(&talk.vague).to_owned());
    }
    let email = channel == Channel::Email;
    let urgent = r.chance(0.15);
    if urgent {
        let at = r.between(1, parts.len() + 1);
        parts.insert(at, r.word(&talk.urgent).to_owned());
    }
    let polite = r.chance(if email { 0.4 } else { 0.2 });
    if polite {
        parts.push(r.word(&talk.polite).to_owned());
    }
    if channel == Channel::Phone {
        for part in &mut parts {
            if r.chance(0.35) {
                *part = format!("{} {part}", r.word(&talk.fillers));
            }
        }
    }
    let greeted = r.chance(if email { 0.8 } else { 0.35 });
    if greeted {
        parts.insert(0, r.word(&talk.greetings).to_owned());
    }
    for part in &mut parts {
        *part = with_typos(r, part, channel.typos());
    }
    let text = match channel {
        Channel::Email => letter(r, words, &parts, greeted),
        Channel::Phone => parts.join(", "),
        Channel::Chat => parts.join(*r.pick(&[", ", ". ", " "])),
    };
    Message { text, kind, polite, urgent, unasked: if email { kind.1 } else { kind.0 } }
}

const QUESTIONS: [&str; 8] = ["can", "is", "how", "why", "what", "when", "where", "any"];

/// Sentences with capitals and full stops, a greeting with a comma, perhaps a name below.
fn letter(r: &mut Random, words: &Lexicon, parts: &[String], greeted: bool) -> String {
    let mut text = String::new();
    for (i, part) in parts.iter().enumerate() {
        if i > 0 {
            text.push(' ');
        }
        text.push_str(&capital(part));
        let question =
            QUESTIONS.iter().any(|q| part.strip_prefix(q).is_some_and(|rest| rest.starts_with(' ')));
        text.push(match (i == 0 && greeted, question) {
            (true, _) => ',',
            (false, true) => '?',
            (false, false) => '.',
        });
    }
    if r.chance(0.5) {
        text.push(' ');
        text.push_str(r.word(&words.talk.names));
    }
    text
}

/// With a number, a date or an amount where the sentence asks for one.
fn filled(r: &mut Random, words: &Lexicon, sentence: &str) -> String {
    let date = format!("{} {}", r.between(1, 29), r.word(&words.talk.months));
    let amount = format!("{}.{:02}", r.between(5, 900), r.below(100));
    let number = r.between(10_000, 100_000).to_string();
    sentence.replace("{n}", &number).replace("{d}", &date).replace("{a}", &amount)
}

/// `text` with a typo in this share of its longer words.
pub fn with_typos(r: &mut Random, text: &str, share: f64) -> String {
    let words: Vec<String> = text
        .split(' ')
        .map(|word| {
            let long = word.len() > 3 && word.bytes().all(|b| b.is_ascii_alphabetic());
            if long && r.chance(share) { typo(r, word) } else { word.to_owned() }
        })
        .collect();
    words.join(" ")
}

/// Two letters swapped, one left out, one doubled, or one wrong.
fn typo(r: &mut Random, word: &str) -> String {
    let mut letters: Vec<u8> = word.bytes().collect();
    let at = r.below(letters.len() - 1);
    match r.below(4) {
        0 => letters.swap(at, at + 1),
        1 => drop(letters.remove(at)),
        2 => letters.insert(at, letters[at]),
        _ => letters[at] = b'a' + r.below(26) as u8,
    }
    String::from_utf8_lossy(&letters).into_owned()
}

/// With a capital first letter.
pub fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |c| c.to_uppercase().chain(letters).collect())
}
