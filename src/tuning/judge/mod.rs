//! Asking judges: from texts to verdicts.
//!
//! Nothing that a judge does can fail a run: whoever cannot be opened, cannot be reached, says nothing or something else gives no verdict,
//! and why stands with it.

pub mod pairs;

use crate::backend::{self, Access, Answer, Ask, Backend, BackendError};
use crate::domain::candidate::{Constraint, Decoding, ModelSource};
use crate::domain::judge::{Effort, Judge, Judged};
use crate::pipeline::rubric::{Sheet, read_verdict};

/// So many failures with no answer before them: the others are not asked.
const HOPELESS: usize = 20;

/// Characters kept of what a judge gathered, and of an answer that is no verdict.
const SIGNALS_KEPT: usize = 2_000;
const SAID_KEPT: usize = 80;

/// A judge with its model.
pub struct Asker<'a> {
    judge: &'a Judge,
    id: String,
    backend: Result<Box<dyn Backend>, String>,
    answered: bool,
    failed: usize,
    last: String,
}

/// What came of one question.
#[derive(Clone, Debug, Default)]
struct Said {
    verdict: Option<String>,
    probability: Option<f64>,
    error: Option<String>,
    signals: Option<String>,
    effort: Effort,
}

impl<'a> Asker<'a> {
    pub fn open(judge: &'a Judge, access: &Access) -> Self {
        Self::with(judge, backend::open(&judge.model, None, access))
    }

    /// Over a backend of the caller's.
    pub fn with(judge: &'a Judge, backend: Result<Box<dyn Backend>, BackendError>) -> Self {
        let backend = backend.map_err(|e| e.to_string());
        Self { judge, id: judge.id(), backend, answered: false, failed: 0, last: String::new() }
    }

    /// Questions that it works on at once.
    pub fn width(&self) -> usize {
        self.backend.as_ref().map_or(1, |backend| backend.width())
    }

    /// Verdicts on single answers. `sheets`: the rubric filled in, or why it could not be.
    pub fn verdicts(&mut self, sheets: Vec<Result<Sheet, String>>) -> Vec<Judged> {
        let verdicts = &self.judge.verdicts;
        let said = self.ask(sheets, &verdicts.words);
        let judged = said.into_iter().map(|said| Judged {
            judge: self.judge.name.clone(),
            id: self.id.clone(),
            right: said.verdict.as_deref().and_then(|v| verdicts.is_right(v)),
            score: said.verdict.as_deref().and_then(|v| verdicts.score(v)),
            verdict: said.verdict,
            error: said.error,
            probability: said.probability,
            signals: said.signals,
            effort: said.effort,
        });
        judged.collect()
    }

    /// Preferences: one of `words` each, with no right and wrong.
    pub fn preferences(&mut self, sheets: Vec<Result<Sheet, String>>, words: &[String]) -> Vec<Judged> {
        let said = self.ask(sheets, words);
        let judged = said.into_iter().map(|said| Judged {
            judge: self.judge.name.clone(),
            id: self.id.clone(),
            verdict: said.verdict,
            error: said.error,
            probability: said.probability,
            signals: said.signals,
            effort: said.effort,
            right: None,
            score: None,
        });
        judged.collect()
    }

    fn ask(&mut self, sheets: Vec<Result<Sheet, String>>, words: &[String]) -> Vec<Said> {
        let mut all = vec![Said::default(); sheets.len()];
        let mut open: Vec<(usize, Sheet)> = Vec::new();
        for (i, sheet) in sheets.into_iter().enumerate() {
            match sheet {
                Ok(sheet) => open.push((i, sheet)),
                Err(error) => all[i].error = Some(error),
            }
        }
        let mut questions: Vec<(usize, String)> = Vec::new();
        if self.judge.two_step {
            let asks = open.iter().map(|(i, sheet)| (*i, sheet.signals())).collect();
            let answers = self.put(asks, None, &mut all);
            for (i, sheet) in open {
                if let Some((_, answer)) = answers.iter().find(|(at, _)| *at == i) {
                    questions.push((i, sheet.verdict_on(&answer.text, words)));
                    all[i].signals = Some(answer.text.trim().chars().take(SIGNALS_KEPT).collect());
                }
            }
        } else {
            questions.extend(open.iter().map(|(i, sheet)| (*i, sheet.verdict(words))));
        }
        for (i, answer) in self.put(questions, Some(words), &mut all) {
            all[i].verdict = read_verdict(&answer.text, words);
            match &all[i].verdict {
                Some(_) => all[i].probability = answer.labels.first().map(|(_, p)| *p),
                None => {
                    let said: String = answer.text.trim().chars().take(SAID_KEPT).collect();
                    all[i].error = Some(format!("`{said}` is none of the verdicts {}", words.join(", ")));
                }
            }
        }
        all
    }

    /// Put questions; the answers with their places. What fails is told in `all`.
    fn put(
        &mut self,
        questions: Vec<(usize, String)>,
        words: Option<&[String]>,
        all: &mut [Said],
    ) -> Vec<(usize, Answer)> {
        let hopeless = !self.answered && self.failed >= HOPELESS;
        let backend = match &mut self.backend {
            Ok(backend) if !hopeless => backend,
            unusable => {
                let why = match unusable {
                    Err(why) => why.clone(),
                    Ok(_) => format!("not asked: the first {} all failed: {}", self.failed, self.last),
                };
                for (i, _) in &questions {
                    all[*i].error = Some(why.clone());
                }
                return Vec::new();
            }
        };
        let local = matches!(self.judge.model.source, ModelSource::Local { .. });
        let decoding = Decoding { max_tokens: self.judge.max_tokens, ..Decoding::default() };
        let asks: Vec<Ask> = questions
            .iter()
            .map(|(_, text)| Ask {
                // An endpoint cannot be held to words; what it says is read.
                constraint: words.filter(|_| local).map(|words| Constraint::Labels(words.to_vec())),
                ..Ask::turn(text.clone(), decoding.clone())
            })
            .collect();
        let mut answers = backend.answer(&asks).into_iter();
        let mut answered = Vec::new();
        for (i, _) in questions {
            match answers.next() {
                Some(Ok(answer)) => {
                    self.answered = true;
                    all[i].effort.add(&Effort {
                        calls: 1,
                        cached: u32::from(answer.cached),
                        tokens_in: answer.tokens_in,
                        tokens_out: answer.tokens_out,
                        estimated: answer.estimated,
                    });
                    answered.push((i, answer));
                }
                failed => {
                    let why = failed.and_then(Result::err).map(|e| e.to_string());
                    let why = why.unwrap_or_else(|| "the judge gave no answer".into());
                    self.failed += 1;
                    self.last.clone_from(&why);
                    all[i].error = Some(why);
                }
            }
        }
        answered
    }
}

/// Figures of what judging took, as a run tells them.
pub fn figures(effort: &Effort, usd: Option<f64>) -> Vec<(String, f64)> {
    let mut figures = vec![
        ("judge_calls".to_owned(), f64::from(effort.calls)),
        ("judge_cached".to_owned(), f64::from(effort.cached)),
        ("judge_tokens_in".to_owned(), effort.tokens_in as f64),
        ("judge_tokens_out".to_owned(), effort.tokens_out as f64),
    ];
    figures.extend(usd.map(|usd| ("judge_usd".to_owned(), usd)));
    figures
}

#[cfg(test)]
pub mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::domain::candidate::{Limits, ModelRef};
    use crate::domain::judge::Verdicts;
    use crate::pipeline::rubric::{PLAIN, PLAIN_PAIRWISE, Rubric};
    use crate::pipeline::tests::{Scripted, row};

    pub fn judge(two_step: bool) -> Judge {
        Judge {
            name: "helpful".into(),
            model: ModelRef {
                name: "critic".into(),
                source: ModelSource::Endpoint {
                    endpoint: "http://127.0.0.1:1/v1".into(),
                    model: "m".into(),
                    api_key_env: None,
                },
                hash: "h".into(),
                usd_per_million_input: Some(1.0),
                usd_per_million_output: None,
                usd_per_hour: None,
                limits: Limits::default(),
                device: Default::default(),
            },
            rubric: PLAIN.into(),
            rubric_name: "rubric".into(),
            pairwise: PLAIN_PAIRWISE.into(),
            pairwise_name: "pairwise".into(),
            verdicts: Verdicts::new(["bad", "good"].map(String::from).to_vec()),
            two_step,
            max_tokens: 16,
            agreement_at_least: 0.6,
            people_at_least: 30,
        }
    }

    pub type Asked = Rc<RefCell<Vec<Vec<Ask>>>>;

    /// A judge that follows a script; what it was asked.
    pub fn asker(
        judge: &Judge,
        script: impl FnMut(&Ask) -> Result<String, BackendError> + 'static,
    ) -> (Asker<'_>, Asked) {
        let asked = Asked::default();
        let backend = Scripted { script: Box::new(script), asked: asked.clone() };
        (Asker::with(judge, Ok(Box::new(backend))), asked)
    }

    fn sheets(outputs: &[&str]) -> Vec<Result<Sheet, String>> {
        let rubric = Rubric::of_one("r", PLAIN).unwrap();
        outputs.iter().map(|o| rubric.fill(&row("1", "x"), &[o]).map_err(|e| e.to_string())).collect()
    }

    #[test]
    fn verdicts_are_read_strictly_and_anything_else_is_none() {
        let judge = judge(false);
        let (mut asker, asked) = asker(&judge, |ask| {
            let text = ask.text();
            if text.contains("\nboom\n") {
                return Err(BackendError("cut".into()));
            }
            Ok(if text.contains("\nfine\n") { "Good." } else { "I would say good" }.into())
        });
        let got = asker.verdicts(
            sheets(&["fine", "other", "boom"]).into_iter().chain([Err("no field".into())]).collect(),
        );
        assert_eq!(
            (got[0].verdict.as_deref(), got[0].right, got[0].score),
            (Some("good"), Some(true), Some(1.0))
        );
        assert_eq!((got[1].verdict.as_ref(), got[1].right), (None, None));
        assert!(got[1].error.as_ref().unwrap().contains("`I would say good` is none of the verdicts"));
        assert_eq!(got[2].error.as_deref(), Some("cut"));
        assert_eq!((got[3].error.as_deref(), got[3].effort.calls), (Some("no field"), 0));
        assert_eq!((got[1].effort.calls, got[2].effort.calls, got[1].effort.tokens_in), (1, 0, 10));
        assert!(asked.borrow()[0][0].constraint.is_none(), "an endpoint is not held to words");
    }

    #[test]
    fn two_steps_are_both_counted_and_the_second_sees_what_the_first_found() {
        let judge = judge(true);
        let (mut asker, asked) = asker(&judge, |ask| {
            Ok(if ask.text().contains("Do not judge yet") { "- it is polite" } else { "good" }.into())
        });
        let got = asker.verdicts(sheets(&["a", "b"]));
        assert_eq!((got[0].verdict.as_deref(), got[0].effort.calls), (Some("good"), 2));
        assert_eq!(got[0].signals.as_deref(), Some("- it is polite"));
        assert_eq!(asked.borrow().len(), 2);
        assert!(asked.borrow()[1][0].text().contains("- it is polite"));
    }

    #[test]
    fn a_judge_that_only_fails_is_not_asked_for_ever() {
        let judge = judge(false);
        let (mut asker, asked) = asker(&judge, |_| Err(BackendError("refused".into())));
        for _ in 0..4 {
            let got = asker.verdicts(sheets(&["a"; 10]));
            assert!(got.iter().all(|j| j.verdict.is_none() && j.error.is_some()));
        }
        assert_eq!(asked.borrow().len(), 2);
        let mut closed = Asker::with(&judge, Err(BackendError("no such folder".into())));
        assert_eq!(closed.verdicts(sheets(&["a"]))[0].error.as_deref(), Some("no such folder"));
    }
}
