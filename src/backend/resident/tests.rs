use std::sync::mpsc;

use super::*;
use crate::domain::candidate::Decoding;

/// Answers each question with its own words, one a step; what it is asked and told is written down.
struct Echo {
    open: Vec<(u64, Lane, VecDeque<String>)>,
    /// A step waits for one of these.
    pace: Option<mpsc::Receiver<()>>,
    log: mpsc::Sender<String>,
}

impl Stepper for Echo {
    fn add_lane(&mut self, adapter: &AdapterRef) -> Result<Lane, BackendError> {
        if adapter.path == "/absent" {
            Err(BackendError("no adapter at /absent".into()))
        } else {
            Ok(Lane(7))
        }
    }

    fn remove_lane(&mut self, lane: Lane) {
        let _ = self.log.send(format!("removed {}", lane.0));
    }

    fn submit(&mut self, number: u64, lane: Lane, ask: &Ask) -> Result<(), BackendError> {
        if ask.text().is_empty() {
            return Err(BackendError("nothing was asked".into()));
        }
        self.open.push((number, lane, ask.text().split_inclusive(' ').map(String::from).collect()));
        Ok(())
    }

    fn step(&mut self, threads: usize) -> Vec<(u64, Event)> {
        if let Some(pace) = &self.pace {
            let _ = pace.recv();
        }
        let _ = self.log.send(format!("step of {} on {threads}", self.open.len()));
        let mut events = Vec::new();
        self.open.retain_mut(|(number, lane, words)| {
            let Some(word) = words.pop_front() else {
                let answer = Answer { tokens_out: 3, tokens_in: u64::from(lane.0), ..Answer::default() };
                events.push((*number, Event::Finished(Box::new(answer))));
                return false;
            };
            assert_ne!(word, "panic", "told to");
            events.push((*number, Event::Text { text: word, tokens: Vec::new() }));
            true
        });
        events
    }

    fn cancel(&mut self, number: u64) {
        let _ = self.log.send(format!("cancelled {number}"));
        self.open.retain(|(known, ..)| *known != number);
    }
}

struct Rig {
    resident: Resident,
    pace: mpsc::Sender<()>,
    log: mpsc::Receiver<String>,
}

fn rig(paced: bool, bounds: Bounds) -> Rig {
    let (log, logged) = mpsc::channel();
    let (pace, paces) = mpsc::channel();
    let pace_of = paced.then_some(paces);
    let open = move || Ok(Echo { open: Vec::new(), pace: pace_of, log });
    Rig { resident: Resident::start("base", 2, bounds, open).unwrap(), pace, log: logged }
}

fn ask(text: &str) -> Ask {
    Ask::turn(text, Decoding::default())
}

/// Everything that comes: the text, and how it ended.
fn hear(mut from: UnboundedReceiver<Event>) -> (String, Event) {
    let mut text = String::new();
    loop {
        match from.blocking_recv().expect("an answer ends with its last event") {
            Event::Text { text: more, .. } => text += &more,
            last => return (text, last),
        }
    }
}

#[test]
fn a_question_that_comes_while_another_is_answered_is_answered_beside_it() {
    let rig = rig(true, Bounds::default());
    let first = rig.resident.submit("base", ask("one two three four")).unwrap();
    rig.pace.send(()).unwrap();
    assert_eq!(rig.log.recv().unwrap(), "step of 1 on 2");
    rig.resident.use_threads(1);
    let second = rig.resident.submit("base", ask("five")).unwrap();
    // The step under way may have begun before the second came.
    for _ in 0..10 {
        rig.pace.send(()).unwrap();
    }
    let (text, last) = hear(second);
    assert!(text == "five" && matches!(last, Event::Finished(_)), "{last:?}");
    assert_eq!(hear(first).0, "one two three four");
    assert!(rig.log.try_iter().any(|line| line == "step of 2 on 1"));
    let metrics = rig.resident.figures().metrics();
    assert_eq!((metrics["answered"], metrics["tokens_out"], metrics["under_way"]), (2.0, 6.0, 0.0));
    assert!(metrics["ttft_p95_ms"] >= metrics["ttft_p50_ms"] && metrics["ttft_p50_ms"] > 0.0);
}

#[test]
fn the_line_is_bounded_and_several_questions_are_taken_together_or_not_at_all() {
    let rig = rig(true, Bounds { at_once: 1, waiting: 2, ..Bounds::default() });
    let first = rig.resident.submit("base", ask("a")).unwrap();
    // One is taken up, two wait; before it is taken up it is one of three that find room.
    let rest = rig.resident.submit_all("base", vec![ask("b"), ask("c")]).unwrap();
    assert!(matches!(rig.resident.submit("base", ask("d")), Err(Refused::Full(_))));
    drop(rest);
    assert!(matches!(rig.resident.submit_all("base", vec![ask("x"); 4]), Err(Refused::Full(_))));
    let after = rig.resident.submit_all("base", vec![ask("y"); 2]).unwrap();
    drop(rig.pace);
    assert_eq!(hear(first).0, "a");
    assert!(after.into_iter().all(|from| hear(from).0 == "y"));
    assert_eq!(rig.resident.figures().refused, 5);
}

#[test]
fn a_dropped_receiver_takes_the_question_back() {
    let rig = rig(true, Bounds::default());
    let first = rig.resident.submit("base", ask("one two three")).unwrap();
    rig.pace.send(()).unwrap();
    assert_eq!(rig.log.recv().unwrap(), "step of 1 on 2");
    drop(first);
    rig.pace.send(()).unwrap();
    rig.pace.send(()).unwrap();
    while rig.log.recv().unwrap() != "cancelled 1" {}
    assert_eq!(rig.resident.load(), (0, 0));
    assert_eq!(rig.resident.figures().cancelled, 1);
}

#[test]
fn lanes_have_names_and_what_cannot_be_loaded_is_told() {
    let rig = rig(false, Bounds::default());
    let adapter = |path: &str| AdapterRef { path: path.into(), hash: String::new() };
    rig.resident.add_lane("tuned", &adapter("/there")).unwrap();
    assert_eq!(rig.resident.lanes(), ["base", "tuned"]);
    let (_, last) = hear(rig.resident.submit("tuned", ask("x")).unwrap());
    assert!(matches!(&last, Event::Finished(answer) if answer.tokens_in == 7), "{last:?}");
    assert!(rig.resident.add_lane("tuned", &adapter("/there")).is_err());
    assert!(rig.resident.add_lane("other", &adapter("/absent")).unwrap_err().to_string().contains("/absent"));
    assert_eq!(rig.resident.submit("other", ask("x")).unwrap_err(), Refused::NoLane("other".into()));
    let (_, last) = hear(rig.resident.submit("base", ask("")).unwrap());
    assert_eq!(last, Event::Failed(BackendError("nothing was asked".into())));
}

#[test]
fn an_adapter_goes_when_nobody_is_asking_it() {
    let Rig { resident, log, pace } = rig(true, Bounds::default());
    let adapter = AdapterRef { path: "/adapter".into(), hash: String::new() };
    resident.add_lane("tuned", &adapter).unwrap();
    let answer = resident.submit("tuned", ask("two words")).unwrap();
    pace.send(()).unwrap();
    assert!(log.recv().unwrap().starts_with("step"), "it is being answered");
    resident.remove_lane("tuned");
    drop(pace);
    hear(answer);
    // Orders are followed in their order: after this one the earlier was.
    resident.add_lane("other", &adapter).unwrap();
    assert_eq!(resident.lanes(), ["base", "tuned", "other"], "a question was on it");
    resident.remove_lane("base");
    resident.remove_lane("tuned");
    resident.add_lane("third", &adapter).unwrap();
    assert_eq!(resident.lanes(), ["base", "other", "third"]);
    assert!(log.try_iter().any(|said| said == "removed 7"));
    assert!(matches!(resident.submit("tuned", ask("x")), Err(Refused::NoLane(_))));
}

#[test]
fn a_closed_resident_answers_what_it_has_and_takes_no_more() {
    let rig = rig(true, Bounds { at_once: 1, ..Bounds::default() });
    let both = rig.resident.submit_all("base", vec![ask("a b"), ask("c")]).unwrap();
    rig.resident.close();
    assert_eq!(rig.resident.submit("base", ask("d")).unwrap_err(), Refused::Closing);
    drop(rig.pace);
    let said: Vec<String> = both.into_iter().map(|from| hear(from).0).collect();
    assert_eq!(said, ["a b", "c"]);
}

#[test]
fn a_panic_of_the_model_is_told_to_all_and_no_more_is_taken() {
    let rig = rig(true, Bounds { at_once: 1, ..Bounds::default() });
    let both = rig.resident.submit_all("base", vec![ask("panic"), ask("c")]).unwrap();
    drop(rig.pace);
    for from in both {
        let (_, last) = hear(from);
        assert!(matches!(&last, Event::Failed(error) if error.0.contains("told to")), "{last:?}");
    }
    while rig.resident.fault().is_none() {
        std::thread::yield_now();
    }
    assert!(matches!(rig.resident.submit("base", ask("x")), Err(Refused::Broken(_))));
}

#[test]
fn a_model_that_cannot_be_opened_says_why() {
    let open = || -> Result<Echo, BackendError> { Err(BackendError("no such folder".into())) };
    assert_eq!(
        Resident::start("base", 1, Bounds::default(), open).unwrap_err().to_string(),
        "no such folder"
    );
}
