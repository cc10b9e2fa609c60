//! The demo's data: what a support desk received, and which team handled it.

use serde::Serialize;

use super::lexicon::{Lexicon, Rule};
use super::messages::{Channel, message, with_typos};
use super::random::Random;

/// Rows of the demo.
pub const ROWS: usize = 5600;
const CUSTOMERS: usize = 1600;
const SEED: u64 = 20_260;

/// One line of `data/messages.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeskRow {
    pub id: String,
    pub message: String,
    pub channel: &'static str,
    pub turns: usize,
    pub customer: String,
    pub team: String,
    #[serde(skip)]
    pub rule: Rule,
    /// Who should have handled it.
    #[serde(skip)]
    pub truth: String,
}

/// All rows, always the same.
pub fn rows(words: &Lexicon) -> Vec<DeskRow> {
    let mut r = Random::new(SEED);
    let cases = words.cases();
    let weights: Vec<usize> = cases.iter().map(|c| c.weight).collect();
    let customers: Vec<Channel> = (0..CUSTOMERS).map(|_| Channel::ALL[r.weighted(&[45, 35, 20])]).collect();
    let mut rows: Vec<DeskRow> = Vec::with_capacity(ROWS);
    while rows.len() < ROWS {
        let id = format!("m{:05}", rows.len() + 1);
        // Few customers write often: the power of 1.5 makes the first ones frequent.
        let draw = r.unit();
        let customer = (draw * draw.sqrt() * CUSTOMERS as f64) as usize;
        // One who waits sends the same again.
        if r.chance(0.012) && !rows.is_empty() {
            let again = r.pick(&rows).clone();
            let message = with_typos(&mut r, &again.message, 0.05);
            rows.push(DeskRow { id, message, turns: again.turns + 1, ..again });
            continue;
        }
        let case = cases[r.weighted(&weights)];
        let channel = if r.chance(0.8) { customers[customer] } else { *r.pick(&Channel::ALL) };
        let turns = 1 + r.weighted(&[52, 26, 14, 8]);
        let vague = r.chance(0.012);
        let text = message(&mut r, words, case.kind, channel, turns, vague).text;
        // Clerks err too.
        let team = if r.chance(0.008) { r.pick(&cases).team } else { case.team };
        rows.push(DeskRow {
            id,
            message: text,
            channel: channel.name(),
            turns,
            customer: format!("c{:04}", customer + 1),
            team: team.to_owned(),
            rule: case.rule,
            truth: case.team.to_owned(),
        });
    }
    rows
}

/// As it stands in the file; with `truth` also who should have handled each.
pub fn jsonl(rows: &[DeskRow], truth: bool) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Known<'a> {
        #[serde(flatten)]
        row: &'a DeskRow,
        truth: &'a str,
    }
    let mut text = String::new();
    for row in rows {
        let line = if truth {
            serde_json::to_string(&Known { row, truth: &row.truth })
        } else {
            serde_json::to_string(row)
        };
        text.push_str(&line?);
        text.push('\n');
    }
    Ok(text)
}
