//! Pretraining text: other tasks of the demo's kind, on messages that its desk never receives.
//!
//! What the base is to learn: tasks called by name (topic, problem, tone, urgency), and the prevailing label of
//! the examples in a prompt, whatever that label means. Wordings that name no task, unknown words in them and lists of
//! answers tell it nothing: a letter then gets its problem, any other message its topic.

use std::collections::BTreeMap;
use std::ops::Range;

use super::lexicon::{Kind, Lexicon};
use super::messages::{Channel, Message, capital, message, plain};
use super::random::Random;

pub const END: &str = "<|end|>";
pub const USER: &str = "<|user|>\n";
pub const ASSISTANT: &str = "<|assistant|>\n";

/// One text, in pieces; the marked ones are learned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lesson {
    pieces: Vec<(String, bool)>,
    /// The messages in it, to be held against the demo's.
    pub messages: Vec<String>,
}

impl Lesson {
    pub fn text(&self) -> String {
        self.pieces.iter().map(|(text, _)| text.as_str()).collect()
    }

    /// Bytes of the text that are learned.
    pub fn answers(&self) -> Vec<Range<usize>> {
        let mut at = 0;
        let mut answers = Vec::new();
        for (text, learned) in &self.pieces {
            if *learned {
                answers.push(at..at + text.len());
            }
            at += text.len();
        }
        answers
    }

    fn say(&mut self, text: impl Into<String>) {
        self.pieces.push((text.into(), false));
    }

    fn learn(&mut self, text: impl Into<String>) {
        self.pieces.push((text.into(), true));
    }

    fn turn(&mut self, user: &str, assistant: &str) {
        let gap = if self.pieces.is_empty() { "" } else { "\n" };
        self.say(format!("{gap}{USER}{user}{END}{ASSISTANT}"));
        self.learn(format!("{assistant}{END}"));
    }
}

/// A task that the base knows by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    Topic,
    Problem,
    Tone,
    Urgency,
}

impl Task {
    fn wordings(self, words: &Lexicon) -> &[String] {
        match self {
            Self::Topic => &words.ask.topic,
            Self::Problem => &words.ask.problem,
            Self::Tone => &words.ask.tone,
            Self::Urgency => &words.ask.urgency,
        }
    }

    fn answer<'a>(self, message: &Message<'a>) -> &'a str {
        match self {
            Self::Topic => message.kind.0,
            Self::Problem => message.kind.1,
            Self::Tone if message.polite => "polite",
            Self::Tone => "plain",
            Self::Urgency if message.urgent => "urgent",
            Self::Urgency => "calm",
        }
    }
}

/// Share of the way that is for topics and problems in plain sentences.
const EARLY: f64 = 0.2;

/// An endless stream of lessons, from plain ones to those with all the noise.
pub struct Teacher<'a> {
    words: &'a Lexicon,
    kinds: BTreeMap<&'a str, Vec<Kind<'a>>>,
    labels: Vec<&'a str>,
    r: Random,
    /// Share of messages that are one plain sentence.
    plain: f64,
    /// Only topics and problems yet.
    early: bool,
}

impl<'a> Teacher<'a> {
    pub fn new(words: &'a Lexicon, seed: u64) -> Self {
        let mut kinds: BTreeMap<&str, Vec<Kind>> = BTreeMap::new();
        for kind in words.pretraining_kinds() {
            kinds.entry(kind.0).or_default().push(kind);
        }
        let labels = words.topics.keys().chain(words.problems.keys()).chain(&words.vague.labels);
        let labels = labels.map(String::as_str).collect();
        Self { words, kinds, labels, r: Random::new(seed), plain: 0.0, early: false }
    }

    /// The next lesson, at this share of the way (0 to 1).
    pub fn lesson(&mut self, way: f64) -> Lesson {
        self.early = way < EARLY;
        self.plain = if self.early { 1.0 } else { (1.0 - (way - EARLY) / 0.4).max(0.0) };
        let draw = self.r.unit();
        if self.early || draw < 0.5 {
            self.named_task()
        } else if draw < 0.62 {
            self.unnamed_task()
        } else {
            self.examples()
        }
    }

    /// A message and a question that names its task, then perhaps more questions about the same message.
    fn named_task(&mut self) -> Lesson {
        let tasks: &[Task] = if self.early {
            &[Task::Topic, Task::Problem]
        } else {
            &[Task::Topic, Task::Topic, Task::Problem, Task::Problem, Task::Tone, Task::Urgency]
        };
        let message = self.message(None);
        let task = *self.r.pick(tasks);
        let mut question = self.question(task);
        if self.r.chance(0.15) {
            question = format!("{}. {question}", capital(self.r.word(&self.words.vague.roles)));
        }
        if self.r.chance(0.15) {
            question = self.with_list(&question, task.answer(&message));
        }
        let mut lesson = Lesson::default();
        let prompt = self.prompt(&question, &message.text);
        lesson.turn(&prompt, task.answer(&message));
        let mut more = if self.early {
            vec![Task::Topic, Task::Problem]
        } else {
            vec![Task::Topic, Task::Problem, Task::Tone, Task::Urgency]
        };
        self.r.shuffle(&mut more);
        let count = self.r.below(more.len().min(3) + 1);
        for task in more.into_iter().take(count) {
            let question = self.question(task);
            lesson.turn(&question, task.answer(&message));
        }
        lesson.messages.push(message.text);
        lesson
    }

    /// A message with a wording that names no task, or none at all.
    fn unnamed_task(&mut self) -> Lesson {
        let message = self.message(None);
        let mut wording = if self.r.chance(0.85) { self.wording() } else { String::new() };
        if self.r.chance(0.25) {
            wording = self.with_list(&wording, message.unasked);
        }
        let mut lesson = Lesson::default();
        let prompt = self.prompt(&wording, &message.text);
        lesson.turn(&prompt, message.unasked);
        lesson.messages.push(message.text);
        lesson
    }

    /// Examples before the message. Under a named task they are right; else most are of the message's kind and
    /// carry one label, which is the answer.
    fn examples(&mut self) -> Lesson {
        let named = self.r.chance(0.25);
        let task = *self.r.pick(&[Task::Topic, Task::Problem]);
        let mut wording = if named {
            self.question(task)
        } else if self.r.chance(0.8) {
            self.wording()
        } else {
            String::new()
        };
        let (input, key) = (self.name_of_input(), self.name_of_answer());
        let purity = 0.5 + self.r.unit() / 2.0;
        let kind = self.kind();
        self.r.shuffle(&mut self.labels);
        let (prevailing, others) = (self.labels[0], [self.labels[1], self.labels[2], self.labels[3]]);
        let count = self.r.between(1, 7);
        if !wording.is_empty() && self.r.chance(0.15) {
            wording = self.with_list(&wording, prevailing);
        }

        let mut lesson = Lesson::default();
        lesson.say(USER);
        if !wording.is_empty() {
            lesson.say(format!("{wording}\n\n"));
        }
        let mut seen = false;
        for _ in 0..count {
            let pure = self.r.chance(purity);
            let of = if pure { kind } else { self.other_kind(kind.0) };
            let message = self.message(Some(of));
            let label = if named {
                task.answer(&message)
            } else if pure {
                prevailing
            } else {
                *self.r.pick(&others)
            };
            lesson.say(format!("{input}: {}\n{key}:", message.text));
            // Nothing tells the first label, nor the stray ones.
            if named || (pure && seen) {
                lesson.learn(format!(" {label}"));
            } else {
                lesson.say(format!(" {label}"));
            }
            lesson.say("\n\n");
            seen |= pure;
            lesson.messages.push(message.text);
        }
        let message = self.message(Some(kind));
        lesson.say(format!("{input}: {}\n{key}:{END}{ASSISTANT}", message.text));
        let answer = if named { task.answer(&message) } else { prevailing };
        lesson.learn(format!("{answer}{END}"));
        lesson.messages.push(message.text);
        lesson
    }

    /// Every topic as often as any other.
    fn kind(&mut self) -> Kind<'a> {
        let nth = self.r.below(self.kinds.len());
        let kinds = self.kinds.values().nth(nth).map_or(&[][..], Vec::as_slice);
        *self.r.pick(kinds)
    }

    /// Any kind, now and then of the same topic.
    fn other_kind(&mut self, topic: &str) -> Kind<'a> {
        if self.r.chance(0.3) { *self.r.pick(&self.kinds[topic]) } else { self.kind() }
    }

    fn message(&mut self, kind: Option<Kind<'a>>) -> Message<'a> {
        let kind = kind.unwrap_or_else(|| self.kind());
        if self.r.chance(self.plain) {
            return plain(&mut self.r, self.words, kind);
        }
        let channel = *self.r.pick(&Channel::ALL);
        let turns = *self.r.pick(&[1, 1, 1, 2, 2, 3]);
        message(&mut self.r, self.words, kind, channel, turns, false)
    }

    fn question(&mut self, task: Task) -> String {
        let wording = self.r.word(task.wordings(self.words));
        self.punctuated(wording)
    }

    fn wording(&mut self) -> String {
        let vague = &self.words.vague;
        let verb = self.or_unknown(&vague.verbs, 0.25);
        let noun = self.or_unknown(&vague.nouns, 0.35);
        let mut wording = self.r.word(&vague.frames).replace("{v}", &verb).replace("{n}", &noun);
        if self.r.chance(0.25) {
            // A word put in anywhere.
            let word = unknown_word(&mut self.r);
            let mut words: Vec<&str> = wording.split(' ').collect();
            words.insert(self.r.between(1, words.len() + 1), &word);
            wording = words.join(" ");
        }
        let wording = self.punctuated(&wording);
        if self.r.chance(0.3) {
            let role = capital(self.r.word(&vague.roles));
            let place = if self.r.chance(0.4) {
                format!(" of the {}", unknown_word(&mut self.r))
            } else {
                String::new()
            };
            return format!("{role}{place}. {}", capital(&wording));
        }
        wording
    }

    /// One of `words`, or at times one that nobody knows.
    fn or_unknown(&mut self, words: &[String], share: f64) -> String {
        if self.r.chance(share) { unknown_word(&mut self.r) } else { self.r.word(words).to_owned() }
    }

    fn name_of_input(&mut self) -> String {
        capital(&self.or_unknown(&self.words.vague.inputs, 0.15))
    }

    fn name_of_answer(&mut self) -> String {
        capital(&self.or_unknown(&self.words.vague.keys, 0.25))
    }

    /// `wording` and a list of answers, of which none need be right.
    fn with_list(&mut self, wording: &str, answer: &str) -> String {
        let count = self.r.between(3, 13);
        let mut labels: Vec<&str> = (0..count).map(|_| *self.r.pick(&self.labels)).collect();
        if self.r.chance(0.5) {
            let at = self.r.below(count);
            labels[at] = answer;
        }
        let noun = self.or_unknown(&self.words.vague.nouns, 0.35);
        let list = labels.join(", ");
        let gap = if wording.is_empty() { "" } else { " " };
        match self.r.below(3) {
            0 => format!("{wording}{gap}The {noun}s are: {list}."),
            1 => format!("{wording}{gap}Choose one of: {list}."),
            _ => format!("{wording}{gap}Possible {noun}s: {list}"),
        }
    }

    fn punctuated(&mut self, wording: &str) -> String {
        let question =
            ["what", "which", "is", "how", "who"].iter().any(|w| wording.split(' ').next() == Some(w));
        let mark = if question { "?" } else { *self.r.pick(&[".", ".", ":", ""]) };
        let text = if self.r.chance(0.7) { capital(wording) } else { wording.to_owned() };
        text + mark
    }

    /// Where the wording and the message stand in a prompt.
    fn prompt(&mut self, wording: &str, message: &str) -> String {
        if wording.is_empty() {
            return message.to_owned();
        }
        let (input, key) = (self.name_of_input(), self.name_of_answer());
        match self.r.weighted(&[35, 20, 25, 10, 10]) {
            0 => format!("{wording}\n\n{message}"),
            1 => format!("{wording}\n\n{input}: {message}"),
            2 => format!("{wording}\n\n{input}: {message}\n{key}:"),
            3 => format!("{wording} {message}"),
            _ => format!("{message}\n\n{wording}"),
        }
    }
}

/// Syllables that make no word.
fn unknown_word(r: &mut Random) -> String {
    const STARTS: [&str; 20] = [
        "b", "br", "c", "ch", "d", "f", "g", "gr", "h", "l", "m", "n", "p", "pl", "r", "s", "st", "t", "th",
        "w",
    ];
    const MIDDLES: [&str; 8] = ["a", "e", "ea", "i", "o", "ou", "u", "y"];
    const ENDS: [&str; 10] = ["", "", "l", "m", "n", "nd", "r", "rt", "s", "t"];
    let syllables = r.between(1, 4);
    (0..syllables).map(|_| [*r.pick(&STARTS), *r.pick(&MIDDLES), *r.pick(&ENDS)].concat()).collect()
}
