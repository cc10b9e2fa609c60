//! Pretraining text: other tasks of the demo's kind, on messages that its desk never receives.
//!
//! What the base is to learn: tasks called by name (topic, problem, tone, urgency), and the prevailing label of
//! the examples in a prompt, whatever that label means. Wordings that name no task get the topic or the problem,
//! whichever the message names first.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::lexicon::{Kind, Lexicon};
use crate::messages::{Channel, Message, capital, message, plain};
use crate::random::Random;

pub const END: &str = "<|end|>";
const USER: &str = "<|user|>\n";
const ASSISTANT: &str = "<|assistant|>\n";

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
        let wording = if self.r.chance(0.85) { self.wording() } else { String::new() };
        let mut lesson = Lesson::default();
        let prompt = self.prompt(&wording, &message.text);
        lesson.turn(&prompt, message.first);
        lesson.messages.push(message.text);
        lesson
    }

    /// Examples before the message. Under a named task they are right; else most are of the message's kind and
    /// carry one label, which is the answer.
    fn examples(&mut self) -> Lesson {
        let named = self.r.chance(0.25);
        let task = *self.r.pick(&[Task::Topic, Task::Problem]);
        let wording = if named {
            self.question(task)
        } else if self.r.chance(0.8) {
            self.wording()
        } else {
            String::new()
        };
        let input = capital(self.r.word(&self.words.vague.inputs));
        let key = capital(self.r.word(&self.words.vague.keys));
        let purity = 0.5 + self.r.unit() / 2.0;
        let kind = self.kind();
        self.r.shuffle(&mut self.labels);
        let (prevailing, others) = (self.labels[0], [self.labels[1], self.labels[2], self.labels[3]]);
        let count = self.r.between(1, 7);

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
        let verb = self.r.word(&vague.verbs);
        let noun = self.r.word(&vague.nouns);
        let wording = self.r.word(&vague.frames).replace("{v}", verb).replace("{n}", noun);
        let wording = self.punctuated(&wording);
        if self.r.chance(0.3) {
            return format!("{}. {}", capital(self.r.word(&vague.roles)), capital(&wording));
        }
        wording
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
        let input = capital(self.r.word(&self.words.vague.inputs));
        let key = capital(self.r.word(&self.words.vague.keys));
        match self.r.weighted(&[35, 20, 25, 10, 10]) {
            0 => format!("{wording}\n\n{message}"),
            1 => format!("{wording}\n\n{input}: {message}"),
            2 => format!("{wording}\n\n{input}: {message}\n{key}:"),
            3 => format!("{wording} {message}"),
            _ => format!("{message}\n\n{wording}"),
        }
    }
}
