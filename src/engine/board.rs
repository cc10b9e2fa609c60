//! The board, and outcomes made elsewhere.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;

use super::candidates;
use super::rows;
use super::standing;
use super::state::{Engine, bad_input, failed};
use crate::domain::api::{Failure, Push};
use crate::domain::board::{Board, BoardRow};
use crate::domain::candidate::Candidate;
use crate::domain::detail::Detail;
use crate::domain::outcome::Outcome;
use crate::domain::trace::RowTrace;
use crate::score;
use crate::store::files;
use crate::worker::folder::{RunFolder, now_ms};

/// Longest file of outcomes, and longest name.
const OUTCOMES_MAX: u64 = 4 << 30;

/// Bytes of rows in one message, well below a frame's.
const WINDOW_BYTES: usize = 768 << 10;

/// Every candidate on the eval part.
pub fn board(engine: &Engine) -> Result<Arc<Board>, Failure> {
    standing::board(engine, &rows::loaded(engine)?)
}

/// All that is known of a candidate on the board's rows.
pub fn detail(engine: &Engine, candidate: &str) -> Result<Detail, Failure> {
    let loaded = rows::loaded(engine)?;
    let known = candidates::find(engine, candidate)?;
    let Some(found) = standing::scored(engine, &loaded, &known)? else {
        let name = &known.candidate.name;
        return Err(bad_input(format!(
            "`{name}` has no outcomes yet; `tunebench run eval --set candidate={name}` makes some"
        )));
    };
    let config = &loaded.ws.config;
    let detail = score::detail::detail(&found.candidate, &found.current, &config.eval);
    let all = score::board::on_the_board(&found.candidate, &found.outcomes);
    let stale = score::repeats::count(&all).saturating_sub(detail.n);
    Ok(Detail { run: known.runs.last().cloned(), stale, ..detail })
}

/// The board with as many of its rows as fit a message, from `from` on.
pub fn window(board: &Board, from: usize) -> Board {
    let rows = board.rows.get(from..).unwrap_or_default();
    Board { rows: fitting(rows.iter()).cloned().collect(), ..head(board) }
}

/// All but the rows.
fn head(board: &Board) -> Board {
    Board {
        primary: board.primary.clone(),
        metrics: board.metrics.clone(),
        own: board.own.clone(),
        eval_rows: board.eval_rows,
        rows: Vec::new(),
        total: board.total,
        version: board.version,
        axes: board.axes.clone(),
        ladder: board.ladder.clone(),
    }
}

/// The first ones, as long as they fit; one at least.
fn fitting<'a>(rows: impl Iterator<Item = &'a BoardRow>) -> impl Iterator<Item = &'a BoardRow> {
    let mut bytes = 0;
    rows.enumerate()
        .take_while(move |(i, row)| {
            bytes += serde_json::to_vec(row).map_or(0, |text| text.len());
            *i == 0 || bytes <= WINDOW_BYTES
        })
        .map(|(_, row)| row)
}

/// What to tell a client that has seen `before`: messages in order, the first of which says whether it replaces everything.
pub fn news(before: Option<&Board>, now: &Board) -> Vec<Push> {
    let known = before.filter(|before| {
        // Rows are told by their id, so those that stay must stay in their places.
        before.rows.len() <= now.rows.len() && before.rows.iter().zip(&now.rows).all(|(a, b)| a.id == b.id)
    });
    let mut pushes = Vec::new();
    let mut rest: Vec<&BoardRow> = match known {
        None => now.rows.iter().collect(),
        Some(before) => {
            let old = before.rows.iter().map(Some).chain(std::iter::repeat(None));
            now.rows.iter().zip(old).filter(|(row, old)| Some(*row) != *old).map(|(row, _)| row).collect()
        }
    };
    loop {
        let rows: Vec<BoardRow> = fitting(rest.iter().copied()).cloned().collect();
        rest.drain(..rows.len());
        let board = Board { rows, ..head(now) };
        pushes.push(if known.is_none() && pushes.is_empty() {
            Push::Board { board }
        } else {
            Push::BoardRows { board }
        });
        if rest.is_empty() {
            return pushes;
        }
    }
}

/// A row through the stages, as a candidate (or a run) answered it last; with the run that did.
pub fn trace(engine: &Engine, of: &str, row: &str) -> Result<(String, RowTrace), Failure> {
    let running = engine.read(|s| s.runs.get(of).map(|r| r.folder.clone()));
    // A run that has no candidate yet may have answered rows already.
    let runs: Vec<(String, RunFolder)> = match (running, candidates::find(engine, of)) {
        (Some(folder), _) => vec![(of.to_owned(), folder)],
        (None, found) => {
            let runs = found?.runs;
            engine.read(|s| {
                runs.iter()
                    .rev()
                    .filter_map(|id| Some((id.clone(), s.runs.get(id)?.folder.clone())))
                    .collect()
            })
        }
    };
    for (run, folder) in &runs {
        let found = folder.read_trace(row).map_err(|e| failed(format!("{run}: {e}")))?;
        if let Some(trace) = found {
            return Ok((run.clone(), trace));
        }
    }
    Err(bad_input(format!(
        "`{of}` has no trace of row `{row}`: {}",
        if runs.is_empty() {
            "its outcomes were made elsewhere"
        } else {
            "it did not answer the row, or did so before traces were kept"
        }
    )))
}

/// A line of a file of outcomes made elsewhere.
#[derive(Debug, Deserialize)]
struct Line {
    id: serde_json::Value,
    #[serde(default)]
    output: serde_json::Value,
    #[serde(default)]
    correct: Option<bool>,
    #[serde(default)]
    score: Option<f64>,
}

fn text_of(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Put results made elsewhere on the board, under a name. Returns lines read and lines whose row is in the data.
pub fn import_outcomes(engine: &Engine, file: &str, name: &str) -> Result<(usize, usize), Failure> {
    let loaded = rows::loaded(engine)?;
    let primary = loaded.ws.config.eval.primary_metric().map_err(|e| bad_input(e.to_string()))?;
    let name = candidates::slug(name);
    if name.is_empty() {
        return Err(bad_input("the candidate needs a name of letters and digits"));
    }
    let candidate = Candidate { name: name.clone(), rung: score::board::IMPORTED.into(), stages: Vec::new() };
    if candidates::known(engine).iter().any(|k| k.candidate.name == name && k.id != candidate.id()) {
        return Err(bad_input(format!("`{name}` is another candidate's name; take a new one")));
    }
    let path = Path::new(file);
    let meta = fs::metadata(path).map_err(|e| bad_input(format!("{file}: cannot be read: {e}")))?;
    if !meta.is_file() || meta.len() > OUTCOMES_MAX {
        return Err(bad_input(format!("{file}: a file of JSON lines is expected, of at most 4 GiB")));
    }
    let text = fs::read_to_string(path).map_err(|e| bad_input(format!("{file}: cannot be read: {e}")))?;
    let gold = engine.read(|s| s.decisions.gold.clone());
    let (mut bytes, mut rows, mut matched) = (Vec::new(), 0, 0);
    let mut seen = HashMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let at = |message: String| bad_input(format!("{file}:{}: {message}", number + 1));
        let line: Line = serde_json::from_str(line).map_err(|e| {
            at(format!("an object with `id`, `output`, and `correct` or `score` is expected: {e}"))
        })?;
        rows += 1;
        let id = text_of(&line.id);
        if let Some(before) = seen.insert(id.clone(), number + 1) {
            return Err(at(format!("row `{id}` stands in line {before} already")));
        }
        if line.score.is_some_and(|s| !s.is_finite()) {
            return Err(at("`score` is no finite number".into()));
        }
        let Some(place) = loaded.dataset.find(&id) else { continue };
        matched += 1;
        let (in_file, hash) = (loaded.text(place).1, loaded.dataset.hash(place));
        let (gold, row_hash) = rows::with_gold(&id, &hash, in_file, &gold);
        let mut outcome = Outcome {
            row: id,
            row_hash,
            part: loaded.parts.get(place).copied().flatten(),
            stratum: loaded.strata.as_ref().and_then(|s| s.name(s.of_row(loaded.dataset.id(place))?)),
            output: text_of(&line.output),
            gold,
            correct: line.correct,
            ..Outcome::default()
        };
        score::rows::fill_imported(&mut outcome, &primary, line.score);
        serde_json::to_writer(&mut bytes, &outcome).map_err(|e| failed(e.to_string()))?;
        bytes.push(b'\n');
    }
    if rows == 0 {
        return Err(bad_input(format!("{file}: holds no lines")));
    }
    if matched == 0 {
        return Err(bad_input(format!("{file}: none of its {rows} ids is a row of this workspace")));
    }
    let dir = candidates::imported_dir(engine).join(&name);
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(&dir)?;
        files::write_json(&dir.join("candidate.json"), &candidate)?;
        bytes.flush()?;
        files::write_atomic(&dir.join("outcomes.jsonl"), &bytes)?;
        engine.store.record(
            now_ms(),
            "import_outcomes",
            json!({ "candidate": name, "file": file, "rows": rows, "matched": matched }),
        )
    };
    {
        let mut write = write;
        write()
    }
    .map_err(|e| failed(format!("the outcomes could not be kept: {e}")))?;
    engine.update(|state| state.board_version = state.version);
    Ok((rows, matched))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(n: usize) -> Board {
        let row = |at: usize| BoardRow {
            candidate: format!("candidate {at} {}", "x".repeat(200)),
            id: format!("{at:064x}"),
            n: at,
            ..BoardRow::default()
        };
        Board { rows: (0..n).map(row).collect(), total: n, ..Board::default() }
    }

    /// What a client makes of the messages.
    fn told(mut seen: Board, pushes: Vec<Push>) -> Board {
        for push in pushes {
            let bytes = serde_json::to_vec(&push).unwrap().len();
            assert!(bytes < super::super::protocol::FRAME_MAX, "{bytes}");
            match push {
                Push::Board { board } => seen = board,
                Push::BoardRows { board } => seen.merge(board),
                other => panic!("{other:?}"),
            }
        }
        seen
    }

    #[test]
    fn a_board_of_thousands_goes_in_frames_and_comes_out_whole() {
        let board = of(5000);
        let pushes = news(None, &board);
        assert!(pushes.len() > 3);
        assert_eq!(told(of(7), pushes), board);
        let mut read = window(&board, 0);
        while read.rows.len() < read.total {
            read.rows.extend(window(&board, read.rows.len()).rows);
        }
        assert_eq!(read, board);
        assert_eq!(window(&board, 9999).rows.len(), 0);
    }

    #[test]
    fn afterwards_only_what_changed_is_told() {
        let before = of(2000);
        let mut now = of(2001);
        now.rows[7].n = 99;
        let pushes = news(Some(&before), &now);
        let [Push::BoardRows { board }] = &pushes[..] else { panic!("{}", pushes.len()) };
        assert_eq!(board.rows.iter().map(|r| r.n).collect::<Vec<_>>(), [99, 2000]);
        assert_eq!(told(before.clone(), pushes), now);
        // One that is gone: everything anew.
        now.rows.remove(3);
        assert!(matches!(news(Some(&before), &now)[0], Push::Board { .. }));
        // Nothing but the whole changed.
        let other = Board { eval_rows: 5, ..before.clone() };
        assert_eq!(told(before.clone(), news(Some(&before), &other)), other);
        assert_eq!(told(Board::default(), news(None, &of(0))), of(0));
    }

    #[test]
    fn a_row_that_is_too_long_for_a_window_still_goes_alone() {
        let mut board = of(3);
        board.rows[1].candidate = "y".repeat(WINDOW_BYTES + 10);
        assert_eq!(window(&board, 1).rows.len(), 1);
        assert_eq!(window(&board, 0).rows.len(), 1);
    }
}
