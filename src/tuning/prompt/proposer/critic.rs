//! Proposals of a critic: any model that follows instructions, local or behind an endpoint.
//!
//! - [`REFLECTION`]: a critique of failures, then a rewrite. ProTeGi (Pryzant et al. 2023, "Automatic Prompt Optimization with
//!   'Gradient Descent' and Beam Search") in one call, on the traces of all stages as GEPA's reflection has it (Agrawal et al. 2025).
//! - [`HISTORY`]: the versions so far with their scores, worst first, and a better one asked for. OPRO (Yang et al. 2023, "Large Language
//!   Models as Optimizers").
//! - [`INDUCTION`]: the instruction that leads from inputs to answers. APE (Zhou et al. 2022, "Large Language Models Are Human-Level
//!   Prompt Engineers").
//!
//! The prompt that is proposed stands between `<prompt>` and `</prompt>`; an answer without it costs a proposal and nothing else.

use std::fmt::Write as _;

use super::{Draft, Examiner, Halt, Proposer, Scene};
use crate::domain::rng::SplitMix64;
use crate::domain::words::{counted, steers};

/// Failures shown to the critic; rows shown for induction; versions shown in a history.
const FAILURES: usize = 5;
const ROWS: usize = 8;
const VERSIONS: usize = 8;
/// Longer texts of rows are cut, in characters.
const CLIP: usize = 800;

const RULES: &str = "Rules:\n\
- The prompt is a template. Keep everything between {{ and }}, {% and %}, {# and #} exactly as it is, each where it makes sense; add none.\n\
- Do not copy the rows shown here into the prompt, and do not mention them.\n\
- Write plain, short, general instructions.\n\
- Put the whole new prompt between <prompt> and </prompt>.";

/// What the critic is asked about a stage of a version, and what its answer will be called; none where there is nothing to ask.
type Question = fn(&Scene<'_>, usize, &str, &mut SplitMix64) -> Option<(String, String)>;

/// One way of asking the critic.
#[derive(Debug)]
pub struct Critic {
    name: &'static str,
    question: Question,
}

pub const REFLECTION: Critic = Critic { name: "reflection", question: reflection };
pub const HISTORY: Critic = Critic { name: "history", question: history };
pub const INDUCTION: Critic = Critic { name: "induction", question: induction };

impl Proposer for Critic {
    fn name(&self) -> &'static str {
        self.name
    }

    fn needs_critic(&self) -> bool {
        true
    }

    /// All are asked at once; what can be read of the answers becomes proposals.
    fn propose(
        &mut self,
        scene: &Scene<'_>,
        n: usize,
        rng: &mut SplitMix64,
        examiner: &mut dyn Examiner,
    ) -> Result<Vec<Draft>, Halt> {
        let (mut places, mut questions) = (Vec::new(), Vec::new());
        for (parent, stage) in (0..n).map_while(|i| scene.turn(i)) {
            if let Some((question, edit)) = (self.question)(scene, parent, stage, rng) {
                places.push((parent, stage, edit));
                questions.push(question);
            }
        }
        if questions.is_empty() {
            return Ok(Vec::new());
        }
        let answers = examiner.ask_critic(questions)?;
        let mut drafts = Vec::new();
        for ((parent, stage, edit), answer) in places.into_iter().zip(answers) {
            let Some(answer) = answer else { continue };
            match proposed(&answer) {
                Some(text) => drafts.extend(scene.draft(parent, stage, text, edit)),
                None => examiner.no_proposal("no prompt stands between <prompt> and </prompt>", &answer)?,
            }
        }
        Ok(drafts)
    }
}

fn reflection(
    scene: &Scene<'_>,
    parent: usize,
    stage: &str,
    rng: &mut SplitMix64,
) -> Option<(String, String)> {
    let text = scene.nodes.get(parent)?.texts.get(stage)?;
    let mut failures = scene.failures(parent);
    rng.shuffle(&mut failures);
    failures.truncate(FAILURES);
    let mut ask = opening(scene, stage, text);
    if failures.is_empty() {
        ask.push_str("\nIt is right on all rows seen. Make it shorter without losing anything.\n");
    }
    for row in &failures {
        trace(&mut ask, scene, parent, *row);
    }
    lessons(&mut ask, scene);
    let _ = write!(
        ask,
        "\nFirst say in two or three sentences what in the prompt of stage `{stage}` leads to these wrong answers. Then write a better prompt for that stage.\n{}",
        pinned(scene, stage)
    );
    Some((ask, format!("rewritten after {}", counted(failures.len(), "failure"))))
}

fn history(scene: &Scene<'_>, _: usize, stage: &str, rng: &mut SplitMix64) -> Option<(String, String)> {
    let mut told: Vec<(f64, &str)> = scene
        .nodes
        .iter()
        .filter_map(|node| Some((node.version.selected?.mean, node.texts.get(stage)?.as_str())))
        .collect();
    told.sort_by(|a, b| b.0.total_cmp(&a.0));
    told.dedup_by(|a, b| a.1 == b.1);
    told.truncate(VERSIONS);
    let (_, best) = told.first()?;
    let mut ask = opening(scene, stage, best);
    ask.push_str("\nPrompts tried so far with their scores, from the worst to the best:\n");
    for (score, text) in told.iter().rev() {
        let _ = write!(ask, "\n<tried score=\"{:.0}\">\n{}\n</tried>\n", score * 100.0, text.trim());
    }
    let learn = some_rows(scene, 3, rng);
    solved(&mut ask, scene, stage, &learn);
    let _ = write!(
        ask,
        "\nWrite a prompt for stage `{stage}` that differs from all of these and will score higher.\n{}",
        pinned(scene, stage)
    );
    Some((ask, format!("written after {}", counted(told.len(), "scored version"))))
}

fn induction(
    scene: &Scene<'_>,
    parent: usize,
    stage: &str,
    rng: &mut SplitMix64,
) -> Option<(String, String)> {
    let text = scene.nodes.get(parent)?.texts.get(stage)?;
    let learn = some_rows(scene, ROWS, rng);
    let mut ask = opening(scene, stage, text);
    solved(&mut ask, scene, stage, &learn);
    let _ = write!(
        ask,
        "\nWork out the rule that leads from these inputs to these answers, and write a prompt for stage `{stage}` that states it.\n{}",
        pinned(scene, stage)
    );
    Some((ask, format!("induced from {}", counted(learn.len(), "row"))))
}

fn some_rows(scene: &Scene<'_>, n: usize, rng: &mut SplitMix64) -> Vec<usize> {
    if scene.learn.is_empty() {
        return Vec::new();
    }
    (0..n).map(|_| scene.learn[rng.below(scene.learn.len())]).collect()
}

/// What is tuned.
fn opening(scene: &Scene<'_>, stage: &str, text: &str) -> String {
    let mut ask = String::from("You improve the prompts of a language model.");
    if scene.stages.len() > 1 {
        let names: Vec<&str> = scene.stages.iter().map(|s| s.name.as_str()).collect();
        let _ =
            write!(ask, " It works in stages: {}. What counts is the last answer.", names.join(", then "));
    }
    let _ = write!(ask, "\n\nThe prompt of stage `{stage}`:\n<current>\n{}\n</current>\n", text.trim());
    if let Some(spec) = scene.stage(stage).filter(|spec| !spec.labels.is_empty()) {
        let _ = writeln!(ask, "The answer must be one of: {}.", spec.labels.join(", "));
    }
    for hint in scene.hints {
        let _ = writeln!(ask, "The person who knows this task says: {}", clip(hint));
    }
    ask
}

/// A wrong row, with what every stage said.
fn trace(ask: &mut String, scene: &Scene<'_>, node: usize, row: usize) {
    let (Some(data), Some(mark)) =
        (scene.rows.get(row), scene.nodes.get(node).and_then(|n| n.marks.get(&row)))
    else {
        return;
    };
    let _ = write!(ask, "\n<wrong>\ninput: {}\n", clip(&data.input));
    if scene.stages.len() > 1 {
        for (stage, output) in &mark.stages {
            let gold = scene.facts.get(stage).and_then(|facts| facts.gold.get(&row));
            let gold = gold.map_or_else(String::new, |gold| format!(" (right: {})", clip(gold)));
            let _ = writeln!(ask, "stage {stage} said: {}{gold}", clip(output));
        }
    }
    let answer = mark.stages.last().map_or("", |(_, output)| output);
    let gold = data.gold.as_deref().unwrap_or_default();
    let _ = write!(ask, "answer: {}\nright answer: {}\n</wrong>\n", clip(answer), clip(gold));
}

/// Rows with their golden answers.
fn solved(ask: &mut String, scene: &Scene<'_>, stage: &str, rows: &[usize]) {
    for row in rows {
        let gold = scene.facts.get(stage).and_then(|facts| facts.gold.get(row));
        if let (Some(data), Some(gold)) = (scene.rows.get(*row), gold) {
            let _ =
                write!(ask, "\n<row>\ninput: {}\nright answer: {}\n</row>\n", clip(&data.input), clip(gold));
        }
    }
}

fn lessons(ask: &mut String, scene: &Scene<'_>) {
    let telling = scene.memory.telling(6);
    if !telling.is_empty() {
        ask.push_str("\nWhat was tried before, and the change of the score:\n");
        for lesson in telling {
            let _ = writeln!(ask, "{:+.2}: {}", lesson.gain, clip(&lesson.edit));
        }
    }
}

fn pinned(scene: &Scene<'_>, stage: &str) -> String {
    let mut rules = RULES.to_owned();
    for pin in scene.pins.get(stage).into_iter().flatten() {
        let _ = write!(rules, "\n- These words must stay, as they are: {pin}");
    }
    let _ = write!(rules, "\n- At most {} characters.", scene.settings.max_chars);
    rules
}

fn clip(text: &str) -> String {
    let text = text.trim();
    let cut: String = text.chars().take(CLIP).collect();
    if cut.len() < text.len() { format!("{cut} ...") } else { cut }
}

/// The prompt in a critic's answer: between the last `<prompt>` and its end.
fn proposed(answer: &str) -> Option<String> {
    // A model that thinks aloud may name the tags before it uses them.
    let end = answer.rfind("</prompt>")?;
    let start = answer[..end].rfind("<prompt>")? + "<prompt>".len();
    let text = answer[start..end].trim();
    let inner = text.strip_prefix("```").and_then(|t| t.strip_suffix("```"));
    let text = inner.map_or(text, |t| t.split_once('\n').map_or(t, |(_, rest)| rest)).trim();
    let text = harmless(text);
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Without what would steer a terminal that shows the prompt's file: control sequences, control characters, marks that turn the
/// direction of text. Line breaks and tabs stay.
fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            // A control sequence (ECMA-48) ends with a byte of 0x40..0x7E.
            '\u{1b}' if chars.next_if_eq(&'[').is_some() => {
                while chars.next_if(|c| matches!(c, ' '..='?')).is_some() {}
                chars.next_if(|c| matches!(c, '@'..='~'));
            }
            '\n' | '\t' => out.push(c),
            '\r' if chars.peek() != Some(&'\n') => out.push('\n'),
            c if steers(c) => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prompt_is_found_and_garbage_is_none() {
        assert_eq!(
            proposed("It is vague.\n<prompt>\nSort it.\n{{ input }}\n</prompt> Done.").unwrap(),
            "Sort it.\n{{ input }}"
        );
        assert_eq!(
            proposed("I use <prompt> and then\n<prompt>```jinja\nA {{ input }}\n```</prompt>").unwrap(),
            "A {{ input }}"
        );
        assert_eq!(
            proposed(
                "<prompt>\u{1b}[31;1mSort\u{1b}[0m\u{7}\u{0} \u{202e}it.\r\n\t{{ input }}\u{1b}</prompt>"
            )
            .unwrap(),
            "Sort it.\n\t{{ input }}"
        );
        for garbage in
            ["", "<prompt>cut off in the mid", "</prompt><prompt>", "<prompt>  </prompt>", "ÿ\u{0}{{{{%%"]
        {
            assert_eq!(proposed(garbage), None, "{garbage}");
        }
    }
}
