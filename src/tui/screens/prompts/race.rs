//! A prompt run as it goes: the race with its lanes, what was spent, what was learned.

use std::collections::BTreeMap;

use ratatui::layout::Rect;

use crate::domain::prompt::{ClauseReport, Lane, Lesson, PromptGain, PromptNews, Spend};
use crate::domain::run::RunRecord;
use crate::domain::settings::Budget;
use crate::tui::theme::Role;
use crate::tui::widgets::{Painter, number};

/// What the events of a prompt run came to.
#[derive(Clone, Debug, Default)]
pub struct Climb {
    /// News after which the tree of versions is another one.
    pub changes: u64,
    /// Who wrote a version, and what was changed.
    pub authors: BTreeMap<String, (String, String)>,
    pub epoch: usize,
    pub epochs: usize,
    /// Round, rows asked, rows of the race.
    pub round: (usize, usize, usize),
    /// Of the race under way, or of the last one.
    pub lanes: Vec<Lane>,
    pub lessons: Vec<Lesson>,
    pub gain: Option<PromptGain>,
    pub clauses: Option<ClauseReport>,
    pub budget: Budget,
    pub spend: Spend,
}

impl Climb {
    pub fn hear(&mut self, news: PromptNews) {
        self.changes += u64::from(!matches!(news, PromptNews::Race { .. } | PromptNews::Lesson { .. }));
        match news {
            PromptNews::Version { version } => {
                self.authors.insert(version.id, (version.proposer, version.edit));
            }
            PromptNews::Race { epoch, round, rows, of, lanes, budget, spend } => {
                (self.epoch, self.round, self.lanes) = (epoch, (round, rows, of), lanes);
                (self.budget, self.spend) = (budget, spend);
            }
            PromptNews::Epoch { epoch, epochs, standings: _, budget, spend } => {
                (self.epoch, self.epochs) = (epoch, epochs);
                (self.budget, self.spend) = (budget, spend);
            }
            PromptNews::Lesson { lesson } => {
                self.lessons.retain(|known| known.version != lesson.version);
                // Without words it was forgotten.
                if !lesson.edit.is_empty() {
                    self.lessons.push(lesson);
                }
            }
            PromptNews::Clauses { report } => self.clauses = Some(report),
            PromptNews::Gain { gain, budget, spend } => {
                (self.gain, self.budget, self.spend) = (Some(gain), budget, spend);
            }
        }
    }

    /// Lanes as they are drawn: those in the race first, the best of them on top.
    pub fn standing(&self) -> Vec<&Lane> {
        let mut lanes: Vec<&Lane> = self.lanes.iter().collect();
        lanes.sort_by(|a, b| b.runs.cmp(&a.runs).then(b.score.mean.total_cmp(&a.score.mean)));
        lanes
    }

    /// The largest share of any limit that is used up.
    pub fn used(&self) -> Option<f64> {
        let (budget, spend) = (&self.budget, &self.spend);
        let share = |spent: f64, limit: Option<f64>| limit.filter(|l| *l > 0.0).map(|limit| spent / limit);
        [
            share(spend.calls as f64, budget.calls.map(|n| n as f64)),
            share(spend.tokens as f64, budget.tokens.map(|n| n as f64)),
            share(spend.usd, budget.usd),
            share(spend.seconds, budget.seconds.map(|n| n as f64)),
        ]
        .into_iter()
        .flatten()
        .max_by(f64::total_cmp)
    }
}

/// Lines that the race takes at most, its border included.
pub fn height(climb: &Climb, record: Option<&RunRecord>) -> u16 {
    if let Some(report) = &climb.clauses {
        return report.clauses.len() as u16 + 2;
    }
    climb.lanes.len() as u16 + 2 + lines_below(climb, record)
}

fn lines_below(climb: &Climb, record: Option<&RunRecord>) -> u16 {
    1 + u16::from(doing(record).is_some()) + climb.lessons.len().min(LESSONS) as u16
}

/// What a run that runs is asking now.
pub fn doing(record: Option<&RunRecord>) -> Option<String> {
    let record = record.filter(|record| !record.state.is_final())?;
    Some(record.progress.as_ref()?.line())
}

/// Lessons shown under a race.
const LESSONS: usize = 4;

/// `from`: the first line that is shown, of lists that are longer than the pane.
pub fn draw(
    p: &mut Painter<'_>,
    area: Rect,
    climb: &Climb,
    record: Option<&RunRecord>,
    title: &str,
    from: usize,
) {
    if let Some(report) = &climb.clauses {
        return clauses(p, area, report, title, from);
    }
    let running = climb.lanes.iter().filter(|lane| lane.runs).count();
    let dot = p.look.signs.dot;
    let (round, rows, of) = climb.round;
    let mut title = title.to_owned();
    if !climb.lanes.is_empty() {
        let epochs = if climb.epochs > 0 { format!("/{}", climb.epochs) } else { String::new() };
        title.push_str(&format!(
            " {dot} epoch {}{epochs} {dot} round {round}, {rows} of {of} rows {dot} {running} of {} still in",
            climb.epoch,
            climb.lanes.len()
        ));
    }
    let inner = p.pane(area, &title, false);
    if climb.lanes.is_empty() {
        let text = doing(record).unwrap_or_else(|| {
            "the race begins when the start is scored and the first versions are written".to_owned()
        });
        p.paragraph(inner, 0, &text, Role::Dim);
        return;
    }
    let below = lines_below(climb, record).min(inner.height.saturating_sub(1));
    let room = inner.height - below;
    let standing = climb.standing();
    let from = from.min(standing.len().saturating_sub(usize::from(room)));
    for (y, lane) in standing.into_iter().skip(from).take(usize::from(room)).enumerate() {
        self::lane(p, inner, y as u16, climb, lane, climb.round.2);
    }
    let mut y = room.min(climb.lanes.len() as u16);
    spend(p, inner, y, climb);
    let mut left = below.saturating_sub(1);
    if let Some(text) = doing(record).filter(|_| left > 0) {
        (y, left) = (y + 1, left - 1);
        p.put(inner, 0, y, 6, "now", Role::Dim);
        p.put(inner, 6, y, inner.width, &text, Role::Text);
    }
    let telling = climb.lessons.iter().rev().take(usize::from(left));
    for (i, lesson) in telling.enumerate() {
        let role = if lesson.gain > 0.0 { Role::Good } else { Role::Dim };
        p.put(inner, 0, y + 1 + i as u16, inner.width, &format!("lesson {}: {lesson}", lesson.version), role);
    }
}

/// `+8 -1 +.175 [+.04, +.31]  23 tokens  Name the team only.`
fn clauses(p: &mut Painter<'_>, area: Rect, report: &ClauseReport, title: &str, from: usize) {
    let dot = p.look.signs.dot;
    let title = format!("{title} {dot} what each clause fixed and broke on {} rows", report.rows);
    let inner = p.pane(area, &title, false);
    let height = usize::from(inner.height);
    let from = from.min(report.clauses.len().saturating_sub(height));
    for (y, clause) in report.sorted().into_iter().skip(from).take(height).enumerate() {
        let y = y as u16;
        p.put(inner, 0, y, 5, &format!("+{}", clause.fixed.len()), Role::Good);
        p.put(inner, 5, y, 5, &format!("-{}", clause.broken.len()), Role::Bad);
        p.put(inner, 10, y, 7, &number::signed_share(clause.delta, 3), Role::Text);
        if let Some(ci95) = clause.ci95 {
            let [low, high] = ci95.map(|bound| number::signed_share(bound, 2));
            p.put(inner, 17, y, 14, &format!("[{low}, {high}]"), Role::Dim);
        }
        p.put_right(inner, 43, y, 11, &format!("{:.0} tokens", clause.tokens), Role::Dim);
        p.put(inner, 45, y, inner.width, &clause.words, Role::Text);
    }
    let below = report.clauses.len().saturating_sub(from + height);
    if below > 0 {
        p.put_right(
            inner,
            inner.width,
            inner.height.saturating_sub(1),
            12,
            &format!(" {below} more "),
            Role::Dim,
        );
    }
}

/// `▶ v5 ████████░░ .875  24/40 reflection  rewritten after 5 failures`
fn lane(p: &mut Painter<'_>, inner: Rect, y: u16, climb: &Climb, lane: &Lane, of: usize) {
    let signs = &p.look.signs;
    let (sign, role) = if lane.runs { (signs.running, Role::Good) } else { (signs.wrong, Role::Dim) };
    let (author, edit) =
        climb.authors.get(&lane.version).map_or(("", ""), |(author, edit)| (author.as_str(), edit.as_str()));
    let text = if lane.runs { Role::Text } else { Role::Dim };
    p.put(inner, 0, y, 1, sign, role);
    p.put(inner, 2, y, 5, &lane.version, text);
    let bar = (inner.width / 4).clamp(6, 30);
    p.bar(inner, 8, y, bar, lane.score.mean, if lane.runs { Role::Curve } else { Role::Dim });
    let mut x = 9 + bar;
    x += p.put(inner, x, y, 5, &number::share(lane.score.mean, 3), text) + 1;
    x += p.put(inner, x, y, 9, &format!("{:>3}/{of}", lane.score.n), Role::Dim) + 1;
    x += p.put(inner, x, y, 11, author, text);
    p.put(inner, x + 1, y, inner.width, edit, Role::Dim);
}

/// What was spent, against the budget.
fn spend(p: &mut Painter<'_>, inner: Rect, y: u16, climb: &Climb) {
    let words = climb.spend.against(&climb.budget);
    let mut x = p.put(inner, 0, y, 6, "spent", Role::Dim) + 1;
    if let Some(used) = climb.used() {
        let role = if used > 0.9 { Role::Warning } else { Role::Curve };
        p.bar(inner, x, y, 10, used, role);
        x += 11;
    }
    p.put(inner, x, y, inner.width, &words, Role::Text);
}
