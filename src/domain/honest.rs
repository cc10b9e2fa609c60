//! Scores on rows that selected nothing, and what selection flatters.

use serde::{Deserialize, Serialize};

use super::row::Part;
use super::words::{counted, noun};

/// A look at the reserve: an evaluation that was launched on it. Written into the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// The candidate's id.
    pub candidate: String,
    pub run: String,
    /// Rows of the reserve that were scored.
    pub rows: usize,
}

impl Look {
    /// Its operation in the journal.
    pub const OP: &str = "look";
}

/// A checkpoint was chosen by its loss on dev rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoints {
    pub run: String,
    pub among: usize,
}

/// A candidate's score on the rows that chose it, and on rows that chose nothing. Values of the primary metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Honest {
    /// On the rows of `selected_on`, the board's; none where it has not been scored there.
    pub selected: Option<f64>,
    pub selected_on: Part,
    /// It stands best of so many on those rows; 1 where it does not stand best, so that they did not choose it.
    pub among: usize,
    /// What choosing the best of them flatters it by: an estimate from the scores themselves (see docs/comparing.md).
    pub expected_luck: Option<f64>,
    /// On the rows of `fresh_on`, of which there are `n`; none before the first look.
    pub fresh: Option<f64>,
    pub fresh_on: Part,
    pub n: usize,
    pub ci95: Option<[f64; 2]>,
    /// `selected` beyond `fresh`, as far as it is for the better.
    pub luck: Option<f64>,
    /// Evaluations that were launched on the reserve, of whichever candidate.
    pub looks: usize,
    /// What choosing the best of those looks flatters it by, in standard errors and in the metric; said where it is one standard error or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worn: Option<[f64; 2]>,
}

impl Honest {
    /// In sentences. `candidate`: none where it cannot be run here.
    pub fn remarks(&self, metric: &str, candidate: Option<&str>) -> Vec<String> {
        let mut remarks = Vec::new();
        let selected = self.selected.map(|value| format!("{value:.3} on {}", self.selected_on.name()));
        let chosen = if self.among > 1 { format!(", the best of {}", self.among) } else { String::new() };
        match (self.fresh, selected) {
            (Some(fresh), Some(selected)) => {
                let luck = self.luck.map_or_else(String::new, |luck| format!("; luck {luck:+.3}"));
                let fresh = self.fresh_text(fresh);
                remarks.push(format!("{metric} {selected}{chosen}; on fresh rows {fresh}{luck}"));
            }
            (Some(fresh), None) => remarks.push(format!("{metric} on fresh rows {}", self.fresh_text(fresh))),
            (None, Some(selected)) if self.among > 1 => {
                let luck = self.expected_luck.map_or_else(String::new, |luck| {
                    format!(", of which about {luck:.3} is the luck of the best (an estimate)")
                });
                let remedy = match candidate {
                    Some(name) => format!(
                        "not scored on fresh ones yet: tunebench run eval --set part=reserve --set candidate={name}"
                    ),
                    None => "made elsewhere, so it is not scored on fresh ones here".to_owned(),
                };
                remarks.push(format!(
                    "{metric} {selected}, selected among {} on these rows{luck}; {remedy}",
                    self.among
                ));
            }
            _ => {}
        }
        if self.fresh.is_some() && self.looks > 0 {
            let looked = format!("the reserve has been looked at {}", counted(self.looks, "time"));
            remarks.push(match self.worn {
                None => looked,
                Some([errors, value]) => format!(
                    "{looked}, which is too often: the best of {} {} at {} stands about {errors:.1} standard errors, {value:.3}, \
                     too high by luck alone; add rows to the reserve before the next claim",
                    self.looks,
                    noun(self.looks, "look"),
                    counted(self.n, "row")
                ),
            });
        }
        remarks
    }

    /// Below 30 rows as a count, where right or wrong is all there is.
    fn fresh_text(&self, fresh: f64) -> String {
        let right = fresh * self.n as f64;
        let place = format!("({}, {}", self.fresh_on.name(), counted(self.n, "row"));
        let interval =
            self.ci95.map_or_else(String::new, |[low, high]| format!(", 95% {low:.3} to {high:.3}"));
        if self.n < 30 && (right - right.round()).abs() < 1e-6 {
            return format!("{right:.0}/{} {place}{interval})", self.n);
        }
        format!("{fresh:.3} {place}{interval})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn honest() -> Honest {
        Honest {
            selected: Some(0.9),
            selected_on: Part::Eval,
            among: 5,
            expected_luck: Some(0.0112),
            fresh: None,
            fresh_on: Part::Reserve,
            n: 0,
            ci95: None,
            luck: None,
            looks: 0,
            worn: None,
        }
    }

    #[test]
    fn who_was_only_selected_is_told_how_to_be_scored_freshly() {
        let said = honest().remarks("accuracy", Some("lora-12")).join("\n");
        assert!(
            said.contains("selected among 5") && said.contains("about 0.011") && said.contains("an estimate"),
            "{said}"
        );
        assert!(said.contains("--set part=reserve --set candidate=lora-12"), "{said}");
        let elsewhere = honest().remarks("accuracy", None).join("\n");
        assert!(elsewhere.contains("made elsewhere") && !elsewhere.contains("tunebench run"), "{elsewhere}");
        assert!(Honest { among: 1, ..honest() }.remarks("accuracy", Some("x")).is_empty());
    }

    #[test]
    fn a_fresh_score_stands_beside_the_selected_one_with_the_luck_between() {
        let fresh = Honest {
            fresh: Some(0.8),
            n: 60,
            ci95: Some([0.68, 0.88]),
            luck: Some(0.1),
            looks: 1,
            ..honest()
        };
        let said = fresh.remarks("accuracy", Some("x")).join("\n");
        assert!(
            said.contains("0.900 on eval, the best of 5; on fresh rows 0.800 (reserve, 60 rows"),
            "{said}"
        );
        assert!(said.contains("luck +0.100") && said.ends_with("looked at 1 time"), "{said}");
        let few = Honest { n: 20, ..fresh.clone() };
        assert!(few.remarks("accuracy", Some("x"))[0].contains("on fresh rows 16/20 (reserve"), "{few:?}");
        let worn = Honest { looks: 5, worn: Some([1.16, 0.06]), ..fresh };
        let said = worn.remarks("accuracy", Some("x")).join("\n");
        assert!(
            said.contains("too often: the best of 5 looks at 60 rows") && said.contains("0.060"),
            "{said}"
        );
    }
}
