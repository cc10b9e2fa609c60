//! What an evaluation can show and what it costs, before it is run.

use serde::{Deserialize, Serialize};

use super::row::Part;
use super::words::{counted, duration};

/// What answering rows takes, as an earlier run took it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    pub rows: usize,
    /// Questions to models.
    pub calls: u64,
    pub tokens_in: u64,
    pub tokens_out: u64,
    /// None where no earlier run tells, or what it took was another kind of run's.
    pub seconds: Option<f64>,
    /// None where no model has a price.
    pub usd: Option<f64>,
    /// The run that it is reckoned from.
    pub run: String,
    /// That run scored another candidate.
    #[serde(default)]
    pub of_another: bool,
}

impl Cost {
    /// For another number of rows.
    #[must_use]
    pub fn of_rows(&self, rows: usize) -> Self {
        let times = rows as f64 / self.rows.max(1) as f64;
        let scaled = |n: u64| (n as f64 * times).round() as u64;
        Self {
            rows,
            calls: scaled(self.calls),
            tokens_in: scaled(self.tokens_in),
            tokens_out: scaled(self.tokens_out),
            seconds: self.seconds.map(|s| s * times),
            usd: self.usd.map(|usd| usd * times),
            ..self.clone()
        }
    }

    fn line(&self) -> String {
        let mut line = format!(
            "{}, {} tokens read, {} written",
            counted(self.calls as usize, "call"),
            self.tokens_in,
            self.tokens_out
        );
        if let Some(seconds) = self.seconds {
            line.push_str(&format!(", about {}", duration((seconds * 1e3) as u64)));
        }
        if let Some(usd) = self.usd {
            line.push_str(&format!(", about ${usd:.2}"));
        }
        line
    }
}

/// Where further rows would help.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StratumPower {
    pub stratum: String,
    /// Rows of the part now.
    pub rows: usize,
    /// Share of its rows on which candidates disagree.
    pub discordance: f64,
    /// Share of its rows that the candidate has right, where it was scored.
    pub right: Option<f64>,
    /// Of the further rows, those that should be of this stratum.
    pub more: usize,
}

/// What the rows of a part can show by the primary metric. Differences are shares: 0.05 is 5 points.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Power {
    pub metric: String,
    pub candidate: String,
    pub part: Part,
    pub rows: usize,
    /// No row has a part yet: `rows` is what the shares of `[data.split]` would give.
    pub expected: bool,
    /// Share of rows on which two candidates disagree: the median of the comparisons there are, or assumed.
    pub discordance: f64,
    /// Comparisons that it comes from; 0: assumed.
    pub compared: usize,
    /// Rows that belong together say less: as many as `rows` by this.
    pub design_effect: f64,
    /// The smallest difference that shows in four of five cases at p < 0.05; none: not even the largest.
    pub smallest: Option<f64>,
    /// The difference that was asked for, the chance that it shows now, and the rows that would show it in four of five cases.
    pub difference: f64,
    pub power: f64,
    pub needed: Option<usize>,
    /// Where the rows that are missing would help most; empty where none are, or there are no strata.
    pub strata: Vec<StratumPower>,
    /// Of the rows there are; none before the first evaluation.
    pub cost: Option<Cost>,
}

impl Power {
    /// Rows that are missing to show the difference.
    pub fn more(&self) -> usize {
        self.needed.map_or(0, |needed| needed.saturating_sub(self.rows))
    }

    /// For the first lines of a run.
    pub fn lines(&self) -> Vec<String> {
        let points = |d: f64| format!("{:.1} points", 100.0 * d);
        let basis = match self.compared {
            0 => format!("assumed that candidates disagree on {:.0}% of rows", 100.0 * self.discordance),
            k => format!(
                "candidates disagreed on {:.0}% of rows in {}",
                100.0 * self.discordance,
                counted(k, "comparison")
            ),
        };
        let expected = if self.expected { "about " } else { "" };
        let rows = format!("{expected}{} of the {} part", counted(self.rows, "row"), self.part.name());
        let shows = if self.rows == 1 { "shows" } else { "show" };
        let mut lines = vec![match self.smallest {
            Some(smallest) => format!(
                "{rows} {shows} a difference of {} in {} (80% power at p < 0.05; {basis})",
                points(smallest),
                self.metric
            ),
            None => format!("{rows} can prove no difference in {} ({basis})", self.metric),
        }];
        if self.design_effect > 1.005 {
            lines.push(format!(
                "rows belong together: they say as much as {:.0} that do not",
                self.rows as f64 / self.design_effect
            ));
        }
        if let (Some(needed), more @ 1..) = (self.needed, self.more()) {
            let mut line = format!(
                "{} would show in {:.0} of 100 cases; {} in all would show it in 80, {more} more",
                points(self.difference),
                100.0 * self.power,
                counted(needed, "row")
            );
            let wanted: Vec<String> = self
                .strata
                .iter()
                .filter(|s| s.more > 0)
                .take(4)
                .map(|s| format!("{} of {}", s.more, s.stratum))
                .collect();
            if !wanted.is_empty() {
                line.push_str(&format!(": best {}", wanted.join(", ")));
                let others = self.strata.iter().filter(|s| s.more > 0).count() - wanted.len();
                if others > 0 {
                    line.push_str(&format!(" and {others} others"));
                }
            }
            lines.push(line);
        }
        match &self.cost {
            None => lines.push("no earlier evaluation tells what it will cost".into()),
            Some(cost) => {
                let another = if cost.of_another { ", which scored another candidate" } else { "" };
                lines.push(format!("it will take {} (by {}{another})", cost.line(), cost.run));
                if let (Some(needed), 1..) = (self.needed, self.more()) {
                    lines.push(format!("with {}: {}", counted(needed, "row"), cost.of_rows(needed).line()));
                }
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_say_what_shows_what_is_missing_and_what_it_costs() {
        let cost = Cost {
            rows: 100,
            calls: 100,
            tokens_in: 10_000,
            tokens_out: 400,
            seconds: Some(20.0),
            usd: Some(0.5),
            run: "eval-3".into(),
            of_another: false,
        };
        let stratum = |name: &str, more| StratumPower {
            stratum: name.into(),
            rows: 50,
            discordance: 0.2,
            right: Some(0.7),
            more,
        };
        let power = Power {
            metric: "accuracy".into(),
            candidate: "baseline".into(),
            part: Part::Eval,
            rows: 100,
            expected: false,
            discordance: 0.2,
            compared: 3,
            design_effect: 1.0,
            smallest: Some(0.134),
            difference: 0.05,
            power: 0.14,
            needed: Some(650),
            strata: vec![stratum("cards", 400), stratum("loans", 150)],
            cost: Some(cost),
        };
        let said = power.lines();
        assert_eq!(
            said[0],
            "100 rows of the eval part show a difference of 13.4 points in accuracy (80% power at p < 0.05; \
             candidates disagreed on 20% of rows in 3 comparisons)"
        );
        assert_eq!(
            said[1],
            "5.0 points would show in 14 of 100 cases; 650 rows in all would show it in 80, 550 more: best 400 of cards, 150 of loans"
        );
        assert_eq!(
            said[2],
            "it will take 100 calls, 10000 tokens read, 400 written, about 20 s, about $0.50 (by eval-3)"
        );
        assert!(said[3].starts_with("with 650 rows: 650 calls, 65000 tokens read"), "{}", said[3]);
        let fresh = Power { compared: 0, smallest: None, needed: None, cost: None, ..power };
        let said = fresh.lines().join("\n");
        assert!(said.contains("can prove no difference") && said.contains("assumed"), "{said}");
        assert!(said.contains("no earlier evaluation"), "{said}");
    }
}
