//! The critic: a model that is asked for proposals, how it does, and when it is left alone.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::time::Instant;

use super::budget::{is_endpoint, price};
use super::{Examiner as _, Halt, Live};
use crate::backend::{Ask, Backend, Finish, Heard};
use crate::domain::candidate::{Decoding, ModelRef};
use crate::domain::event::EventBody;
use crate::domain::words::{brief, counted};
use crate::tuning::prompt::log::Said;

/// Failures of the critic in a row after which it is left alone for the rest of the epoch.
const PATIENCE: usize = 3;
/// Longest answer of the critic, in tokens.
const CRITIC_TOKENS: usize = 2_048;
const CRITIC_TEMPERATURE: f32 = 0.8;
/// Reasons of failed proposals that are told, and characters of one and of what came.
const REASONS: usize = 5;
const WHY: usize = 160;
const CAME: usize = 120;

/// The critic, and how it does.
pub(super) struct Critic {
    pub(super) model: ModelRef,
    pub(super) failures: usize,
    /// How often each question was asked, so that a repetition is another drawing.
    pub(super) asked: HashMap<String, u32>,
    pub(super) resting: bool,
    /// Questions put to it, and of how many no proposal came, by the reason.
    pub(super) questions: usize,
    pub(super) failed: BTreeMap<String, usize>,
}

impl Live<'_> {
    /// The critic's answers; none where it failed, rests, or there is none.
    pub(super) fn question_critic(&mut self, prompts: Vec<String>) -> Result<Vec<Option<String>>, Halt> {
        let Some(critic) = self.critic.as_mut() else { return Ok(vec![None; prompts.len()]) };
        if critic.resting {
            return Ok(vec![None; prompts.len()]);
        }
        let model = critic.model.clone();
        let keyed: Vec<(String, u32, String)> = prompts
            .into_iter()
            .map(|text| {
                let asked = critic.asked.entry(text.clone()).or_default();
                *asked += 1;
                let key = blake3::hash(format!("{}\n{asked}\n{text}", model.hash).as_bytes()).to_hex()[..32]
                    .to_owned();
                (text, *asked, key)
            })
            .collect();
        let mut answers: Vec<Option<Said>> = Vec::with_capacity(keyed.len());
        for (_, _, key) in &keyed {
            let kept = self.log.critic(key).cloned();
            if let Some((at, said)) = &kept {
                self.heard_before(*at);
                self.pay_critic(said);
            }
            answers.push(kept.map(|(_, said)| said));
        }
        let open: Vec<usize> = (0..keyed.len()).filter(|&i| answers[i].is_none()).collect();
        if !open.is_empty() {
            let questions: Vec<_> = open.iter().map(|&i| keyed[i].clone()).collect();
            let said = self.put_to_critic(&model, &questions)?;
            for (i, said) in open.into_iter().zip(said) {
                answers[i] = Some(said);
            }
        }
        for said in answers.iter().flatten() {
            match (&said.error, &said.text) {
                (Some(error), _) => self.count_failure(error, "")?,
                (None, None) => self.count_failure("its answer was broken off", "")?,
                (None, Some(_)) => {}
            }
        }
        let mut trouble = None;
        if let Some(critic) = self.critic.as_mut() {
            critic.questions += answers.len();
            for said in answers.iter().flatten() {
                match &said.error {
                    Some(error) => {
                        critic.failures += 1;
                        if critic.failures >= PATIENCE && !critic.resting {
                            critic.resting = true;
                            trouble = Some(error.clone());
                        }
                    }
                    None => critic.failures = 0,
                }
            }
        }
        if let Some(error) = trouble {
            let message =
                format!("the critic `{}` fails and is left alone for this epoch: {error}", model.name);
            self.say(EventBody::Warning { message })?;
        }
        Ok(answers.into_iter().map(|said| said.and_then(|said| said.text)).collect())
    }

    /// One question for each drawing, put to the critic together.
    fn put_to_critic(&mut self, model: &ModelRef, open: &[(String, u32, String)]) -> Result<Vec<Said>, Halt> {
        self.start_clock();
        self.poll()?;
        let n = open.len() as u64;
        self.afford(n)?;
        // A critic takes its time: that it is asked is told before it answers.
        self.heard(0)?;
        let asks: Vec<Ask> = open
            .iter()
            .map(|(text, sample, _)| {
                let seed = u64::from(*sample);
                let decoding = Decoding {
                    max_tokens: CRITIC_TOKENS,
                    temperature: CRITIC_TEMPERATURE,
                    seed,
                    ..Decoding::default()
                };
                Ask { sample: *sample, ..Ask::turn(text.as_str(), decoding) }
            })
            .collect();
        self.metered(n, if is_endpoint(model) { 0 } else { n }, |live| {
            let said = live.hear_critic(model, &asks)?;
            let (held_back, mut calls) = (live.access.meter.held_back(), 0);
            // Questions that were held back are no failures of the critic, and end the loop.
            for ((_, _, key), said) in open.iter().zip(&said) {
                if !held_back || said.error.is_none() {
                    live.pay_critic(said);
                    calls += u64::from(!said.cached);
                    let at = live.clock.now();
                    live.log.keep_critic(key, at, said.clone())?;
                }
            }
            Ok((said, calls))
        })
    }

    /// The critic's answers. A critic that is silent keeps nobody from stopping the run.
    fn hear_critic(&mut self, model: &ModelRef, asks: &[Ask]) -> Result<Vec<Said>, Halt> {
        let began = Instant::now();
        let mut halt = None;
        let answers = match self.backend(model, None) {
            Ok(mut backend) => backend.stream(asks, &mut |_, heard| {
                if halt.is_none() {
                    halt = match heard {
                        Heard::Waiting => self.poll().err(),
                        Heard::Done(_) => self.heard(1).err(),
                        Heard::Piece(_) => None,
                    };
                }
                if halt.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            }),
            Err(error) => asks.iter().map(|_| Err(error.clone())).collect(),
        };
        self.asked += began.elapsed().as_secs_f64();
        if let Some(halt) = halt {
            return Err(halt);
        }
        let said = answers.into_iter().map(|answer| match answer {
            Ok(answer) => Said {
                // An answer that was cut off may still hold a whole prompt.
                text: (answer.finish != Finish::Broken).then_some(answer.text),
                error: None,
                cut: answer.finish == Finish::Length,
                cached: answer.cached,
                tokens: answer.tokens_in + answer.tokens_out,
                usd: if answer.cached {
                    0.0
                } else {
                    price(model, answer.tokens_in, answer.tokens_out, answer.ms)
                },
            },
            Err(error) => Said { error: Some(error.to_string()), ..Said::default() },
        });
        Ok(said.collect())
    }

    /// Told when it comes up first, and all together at the end.
    pub(super) fn count_failure(&mut self, why: &str, came: &str) -> Result<(), Halt> {
        let Some(critic) = self.critic.as_mut() else { return Ok(()) };
        let (name, why) = (brief(&critic.model.name, WHY), brief(why, WHY));
        let n = critic.failed.entry(why.clone()).or_default();
        *n += 1;
        if *n > 1 || critic.failed.len() > REASONS {
            return Ok(());
        }
        let came = brief(came, CAME);
        let came = if came.is_empty() { came } else { format!("; this came: {came}") };
        let message = format!("no proposal of the critic `{name}`: {why}{came}");
        self.say(EventBody::Warning { message })
    }

    /// Questions to the critic, and of how many of them no proposal came.
    pub fn proposals(&self) -> Option<(usize, usize)> {
        let critic = self.critic.as_ref().filter(|critic| critic.questions > 0)?;
        Some((critic.questions, critic.failed.values().sum()))
    }

    /// How the critic did, where it failed: how often, and why.
    pub fn critic_failures(&self) -> Option<String> {
        let (asked, failed) = self.proposals().filter(|(_, failed)| *failed > 0)?;
        let critic = self.critic.as_ref()?;
        let mut reasons: Vec<(&String, &usize)> = critic.failed.iter().collect();
        reasons.sort_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
        let told: Vec<String> = reasons.iter().take(REASONS).map(|(why, n)| format!("{n}: {why}")).collect();
        let more = reasons.len().saturating_sub(REASONS);
        let more = if more > 0 { format!("; and {} more", counted(more, "reason")) } else { String::new() };
        Some(format!(
            "{failed} of {} to the critic `{}` brought no proposal ({}{more})",
            counted(asked, "question"),
            brief(&critic.model.name, WHY),
            told.join("; ")
        ))
    }
}
