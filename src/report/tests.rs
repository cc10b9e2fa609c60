use proptest::prelude::*;

use super::*;
use crate::domain::board::{
    Adjusted, BoardRow, Clusters, GoalResult, Percentiles, PromptChange, Stratified, StratumDelta,
};
use crate::domain::outcome::{Flip, FlipKind};
use crate::domain::sets::{AgainstBase, Kept, SetScore};

fn about() -> About {
    About { workspace: "support-desk".into(), made_ms: 1_795_208_645_000, version: "0.1.0".into() }
}

fn row(candidate: &str, rung: &str, accuracy: f64, usd: Option<f64>, p95: f64) -> BoardRow {
    let state = if accuracy >= 0.8 { "pass" } else { "fail" };
    BoardRow {
        candidate: candidate.into(),
        id: format!("id-{candidate}"),
        rung: rung.into(),
        run: (rung != "imported").then(|| "eval-1".into()),
        runs: vec!["eval-1".into()],
        n: 200,
        metrics: [("accuracy".to_owned(), accuracy), ("macro_f1".to_owned(), accuracy - 0.05)].into(),
        ci95: Some([accuracy - 0.06, accuracy + 0.05]),
        latency_ms: Some(Percentiles { p50: p95 / 2.0, p90: p95 * 0.9, p95, p99: p95 * 1.2 }),
        tokens_in: 120.4,
        tokens_out: 3.0,
        usd_per_1k: usd,
        goals: vec![GoalResult {
            metric: "accuracy".into(),
            want: ">= 0.8".into(),
            got: Some(accuracy),
            state: state.into(),
            why: None,
        }],
        ..BoardRow::default()
    }
}

fn board_of(rows: Vec<BoardRow>) -> Board {
    Board {
        primary: "accuracy".into(),
        metrics: vec!["accuracy".into(), "macro_f1".into()],
        eval_rows: 200,
        rows,
        ..Board::default()
    }
}

fn board() -> Board {
    let mut stale = row("lora-1", "lora", 0.91, Some(0.02), 40.0);
    stale.stale = 2;
    stale.regression = Some(Kept { kept: 61, of: 62, lost: vec!["m9".into()] });
    let base = Some(AgainstBase { n: 60, right: 41, base_right: 52, p_value: 0.003 });
    stale.sets = [("general".to_owned(), SetScore { metric: "exact".into(), right: 41, n: 60, base })].into();
    board_of(vec![
        row("baseline", "baseline", 0.61, Some(0.02), 88.0),
        row("gpt", "imported", 0.93, Some(1.4), 700.0),
        stale,
    ])
}

fn flip(row: &str, flip: FlipKind, text: &str) -> Flip {
    Flip {
        row: row.into(),
        flip,
        stratum: Some("chat".into()),
        input: text.into(),
        gold: Some("cards".into()),
        a: "loans".into(),
        b: "cards".into(),
    }
}

fn comparison() -> Comparison {
    let stratum = |name: &str, a, b, fixed, regressed| StratumDelta {
        stratum: name.into(),
        n: 100,
        a,
        b,
        fixed,
        regressed,
        churned: 0,
    };
    Comparison {
        candidates: ["baseline".into(), "lora-1".into()],
        metric: "accuracy".into(),
        n: 200,
        a: 0.61,
        b: 0.91,
        fixed: 62,
        regressed: 2,
        churned: 7,
        delta: 0.3,
        ci95: [0.23, 0.37],
        p_value: 2.1e-15,
        test: "mcnemar_exact".into(),
        needed: 0,
        clusters: Some(Clusters { clusters: 120, by: "customer".into() }),
        stratified: Some(Stratified {
            strata: 2,
            covered: 1.0,
            delta: 0.28,
            se: 0.03,
            ci95: [0.22, 0.34],
            p_value: 1e-9,
        }),
        adjusted: Some(Adjusted { p_value: 4.2e-15, of: 2 }),
        regression: Some(Kept { kept: 61, of: 62, lost: vec!["m9".into()] }),
        prompts: vec![PromptChange {
            stage: "route".into(),
            a: "Which team?\n{{ input }}\n".into(),
            b: "{{ input }}\n```\n".into(),
        }],
        strata: vec![stratum("email", 0.7, 0.68, 1, 2), stratum("chat", 0.52, 0.94, 61, 0)],
        flips: vec![
            flip("m1", FlipKind::Regressed, "my card is gone"),
            flip("m2", FlipKind::Fixed, "it's \"late\""),
        ],
        ..Comparison::default()
    }
}

/// Every kind of report of a board and a comparison.
fn all(board: &Board, comparison: &Comparison) -> Vec<(Format, String)> {
    let subjects = [Subject::Board(board), Subject::Comparison(comparison, board)];
    let both = subjects.into_iter().flat_map(|s| Format::ALL.map(|f| (f, write(f, s, &about()))));
    both.collect()
}

#[test]
fn the_board_as_markdown_and_csv() {
    insta::assert_snapshot!("board.md", write(Format::Markdown, Subject::Board(&board()), &about()));
    insta::assert_snapshot!("board.csv", write(Format::Csv, Subject::Board(&board()), &about()));
}

#[test]
fn a_comparison_as_markdown_and_csv() {
    let (comparison, board) = (comparison(), board());
    let subject = Subject::Comparison(&comparison, &board);
    insta::assert_snapshot!("comparison.md", write(Format::Markdown, subject, &about()));
    insta::assert_snapshot!("comparison.csv", write(Format::Csv, subject, &about()));
}

#[test]
fn the_board_and_a_comparison_as_pages() {
    let (comparison, board) = (comparison(), board());
    // The style sheet is a file of its own.
    let body = |page: String| page.split_once("<body>").unwrap().1.to_owned();
    insta::assert_snapshot!("board.html", body(write(Format::Html, Subject::Board(&board), &about())));
    let subject = Subject::Comparison(&comparison, &board);
    insta::assert_snapshot!("comparison.html", body(write(Format::Html, subject, &about())));
}

/// Elements and attributes of a page, read strictly: every tag closed in order, every attribute quoted, every text escaped.
fn parse(page: &str) -> Result<Vec<(String, Vec<(String, String)>)>, String> {
    let text_is_sound = |text: &str| -> Result<(), String> {
        if let Some(bad) = text.chars().find(|c| c.is_control() && *c != '\n') {
            return Err(format!("a control character {bad:?} in {text:?}"));
        }
        for (at, _) in text.match_indices('&') {
            let entity = text[at..].split_inclusive(';').next().unwrap_or_default();
            if !["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"].contains(&entity) {
                return Err(format!("`&` stands for itself in {text:?}"));
            }
        }
        if text.contains('>') { Err(format!("`>` stands for itself in {text:?}")) } else { Ok(()) }
    };
    let mut rest = page.strip_prefix("<!DOCTYPE html>\n").ok_or("no doctype")?;
    let (mut open, mut found): (Vec<String>, Vec<(String, Vec<(String, String)>)>) = (Vec::new(), Vec::new());
    while let Some(at) = rest.find('<') {
        if open.last().is_none_or(|tag| tag != "style") {
            text_is_sound(&rest[..at])?;
        }
        let (tag, after) = rest[at + 1..].split_once('>').ok_or("a tag without an end")?;
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            let opened = open.pop();
            if opened.as_deref() != Some(name) {
                return Err(format!("</{name}> closes {opened:?}"));
            }
            continue;
        }
        let (tag, empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let (name, mut attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric()) {
            return Err(format!("<{tag}> is no tag"));
        }
        let mut read = Vec::new();
        while !attributes.is_empty() {
            let (key, value) = attributes.split_once("=\"").ok_or_else(|| format!("<{tag}>: not quoted"))?;
            let (value, next) = value.split_once('"').ok_or_else(|| format!("<{tag}>: no end quote"))?;
            text_is_sound(value)?;
            read.push((key.to_owned(), value.to_owned()));
            attributes = next.trim_start();
        }
        if !empty {
            open.push(name.to_owned());
        }
        found.push((name.to_owned(), read));
    }
    if open.is_empty() && rest.trim().is_empty() { Ok(found) } else { Err(format!("left open: {open:?}")) }
}

/// Sound, alone in the world, and without anything that runs.
fn is_harmless(page: &str) -> Result<(), String> {
    const ELEMENTS: [&str; 39] = [
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "main",
        "footer",
        "h1",
        "h2",
        "h3",
        "p",
        "dl",
        "dt",
        "dd",
        "div",
        "ul",
        "li",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "figure",
        "figcaption",
        "span",
        "bdi",
        "svg",
        "line",
        "text",
        "circle",
        "rect",
        "polyline",
        "path",
        "g",
        "details",
        "summary",
        "pre",
    ];
    const ATTRIBUTES: [&str; 25] = [
        "lang",
        "charset",
        "http-equiv",
        "content",
        "name",
        "scope",
        "class",
        "viewBox",
        "role",
        "aria-label",
        "x",
        "y",
        "x1",
        "y1",
        "x2",
        "y2",
        "cx",
        "cy",
        "r",
        "width",
        "height",
        "points",
        "d",
        "dir",
        "colspan",
    ];
    for (element, attributes) in parse(page)? {
        if !ELEMENTS.contains(&element.as_str()) {
            return Err(format!("<{element}> has no place here"));
        }
        if let Some((name, _)) = attributes.iter().find(|(name, _)| !ATTRIBUTES.contains(&name.as_str())) {
            return Err(format!("<{element} {name}> has no place here"));
        }
        if attributes.iter().any(|(name, value)| name == "http-equiv" && value != "Content-Security-Policy") {
            return Err("a meta element that does more than forbid".into());
        }
    }
    let steers = page.chars().find(|c| crate::domain::words::steers(*c) && *c != '\n');
    steers.map_or(Ok(()), |c| Err(format!("{c:?} stands in the page")))
}

#[test]
fn pages_are_well_formed_and_need_nothing_else() {
    for (_, page) in all(&board(), &comparison()).into_iter().filter(|(f, _)| *f == Format::Html) {
        is_harmless(&page).unwrap();
        for outside in
            ["http://", "https://", "url(", "@import", "src=", "href=", "<script", "javascript:", " on"]
        {
            let found = page.find(outside).filter(|_| outside != " on" || page.contains(" onload="));
            assert_eq!(found, None, "{outside}");
        }
        let policy = page.split("Content-Security-Policy\" content=\"").nth(1).unwrap();
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{}", &policy[..80]);
        assert!(
            page.contains("<svg") && page.contains("prefers-color-scheme") && page.contains("@media print")
        );
    }
    assert!(parse("<!DOCTYPE html>\n<p><b></p></b>").is_err());
    assert!(parse("<!DOCTYPE html>\n<p>a & b</p>").is_err());
    assert!(is_harmless("<!DOCTYPE html>\n<script></script>").is_err());
    assert!(is_harmless("<!DOCTYPE html>\n<p onload=\"x\"></p>").is_err());
}

const HOSTILE: [&str; 12] = [
    "<script>alert(1)</script>",
    "]]>",
    "\"><img src=x onerror=alert(1)>",
    "' onload='x",
    "</style></svg></table>",
    "a\u{1b}[31mb\u{9b}2J\0\u{7}",
    "user\u{202e}nimda\u{2066}x\u{2069}",
    "\u{5e9}\u{5dc}\u{5d5}\u{5dd} 123",
    "&lt;&#x41;&",
    "![x](http://e.test/x.png) [a](javascript:x) | `b` <b>",
    "=HYPERLINK(\"http://e.test\")",
    "one\r\ntwo\u{2028}three\u{ffff}",
];

fn hostile(text: &str) -> (Board, Comparison) {
    let (mut board, mut comparison) = (board(), comparison());
    board.primary = format!("accuracy {text}");
    board.metrics.push(text.to_owned());
    for row in &mut board.rows {
        let accuracy = row.metrics["accuracy"];
        row.metrics.insert(board.primary.clone(), accuracy);
        row.candidate.push_str(text);
        row.rung.push_str(text);
        row.goals[0].metric.push_str(text);
        row.runs.insert(0, text.to_owned());
    }
    comparison.candidates = [text.to_owned(), board.rows[2].candidate.clone()];
    comparison.metric = text.to_owned();
    comparison.strata[0].stratum = text.to_owned();
    comparison.prompts = vec![PromptChange {
        stage: text.to_owned(),
        a: format!("{text}\nx"),
        b: format!("y\n{text}```{text}"),
    }];
    comparison.clusters = Some(Clusters { clusters: 3, by: text.to_owned() });
    for flip in &mut comparison.flips {
        let text = || text.to_owned();
        *flip = Flip {
            row: text(),
            stratum: Some(text()),
            input: text(),
            gold: Some(text()),
            a: text(),
            b: text(),
            ..flip.clone()
        };
    }
    (board, comparison)
}

/// Cells of a CSV file, by a reader that is not ours.
fn cells(text: &str) -> Vec<Vec<String>> {
    let mut reader = ::csv::ReaderBuilder::new().has_headers(false).from_reader(text.as_bytes());
    reader.records().map(|r| r.unwrap().iter().map(str::to_owned).collect()).collect()
}

/// What does not stand between fences of code (CommonMark 0.31, 4.5).
fn unfenced(text: &str) -> Result<String, String> {
    let (mut fence, mut out) = (0, String::new());
    for line in text.lines() {
        let ticks = line.chars().take_while(|c| *c == '`').count();
        match fence {
            0 if ticks >= 3 => fence = ticks,
            0 => out += &format!("{line}\n"),
            open if ticks >= open && line.trim_end().len() == ticks => fence = 0,
            _ => {}
        }
    }
    if fence == 0 { Ok(out) } else { Err("a fence is left open".into()) }
}

fn nothing_gets_through(text: &str) -> Result<(), String> {
    let (board, comparison) = hostile(text);
    for (format, written) in all(&board, &comparison) {
        let steers = written.chars().find(|c| crate::domain::words::steers(*c) && !matches!(c, '\n' | '\r'));
        if let Some(c) = steers {
            return Err(format!("{format:?}: {c:?}"));
        }
        match format {
            Format::Html => is_harmless(&written)?,
            Format::Csv => {
                for cell in cells(&written).into_iter().flatten() {
                    let number = cell.parse::<f64>().is_ok();
                    if !number && cell.trim_start().starts_with(['=', '+', '-', '@']) {
                        return Err(format!("a formula: {cell}"));
                    }
                }
            }
            Format::Markdown => {
                for line in written.lines().filter(|l| l.starts_with('|')) {
                    let bars = line.replace("\\\\", "").replace("\\|", "").matches('|').count();
                    let table = written.lines().filter(|l| l.starts_with("| ---") || l.starts_with("| ---:"));
                    if !table.map(|l| l.matches('|').count()).any(|n| n == bars) {
                        return Err(format!("a line of another width: {line}"));
                    }
                }
                let plain = unfenced(&written)?;
                let plain =
                    plain.replace("\\\\", "").replace("\\<", "").replace("\\[", "").replace("\\!", "");
                if plain.contains('<') || plain.contains("](") && plain.contains('[') {
                    return Err(format!("markup: {plain}"));
                }
            }
        }
    }
    Ok(())
}

#[test]
fn texts_of_data_and_models_stay_texts() {
    for text in HOSTILE {
        nothing_gets_through(text).unwrap();
    }
    let (board, comparison) = hostile("\u{5e9}\u{5dc}");
    let page = write(Format::Html, Subject::Comparison(&comparison, &board), &about());
    assert!(page.contains("<bdi>\u{5e9}\u{5dc}</bdi>"), "their direction is their own");
    let (board, comparison) = hostile("=1+1");
    let csv = write(Format::Csv, Subject::Comparison(&comparison, &board), &about());
    assert!(cells(&csv).iter().any(|row| row.contains(&"'=1+1".to_owned())), "{csv}");
}

#[test]
fn strange_figures_are_drawn_or_left_out() {
    for value in [0.0, -0.0, 1e-300, 1e300, f64::NAN, f64::INFINITY] {
        let mut rows =
            vec![row("a", "baseline", value, Some(value), value), row("b", "lora", value, None, 1.0)];
        rows[0].ci95 = None;
        rows[1].latency_ms = None;
        let board = board_of(rows);
        let comparison = Comparison { delta: value, ci95: [value, value], ..comparison() };
        for (format, written) in all(&board, &comparison) {
            if format == Format::Html {
                is_harmless(&written).unwrap();
                assert!(!written.contains("=\"NaN\"") && !written.contains("=\"inf"), "{value}");
            }
        }
    }
    for (_, written) in all(&board_of(Vec::new()), &Comparison::default()) {
        assert!(!written.is_empty());
    }
}

#[test]
fn the_front_is_of_those_that_nobody_beats_in_both() {
    use charts::{Point, pareto};
    let point = |x, y| Point { label: String::new(), x, y, ci95: None };
    let points = [
        point(1.0, 0.5),
        point(2.0, 0.9),
        point(2.0, 0.8),
        point(3.0, 0.9),
        point(0.5, 0.1),
        point(1.0, 0.5),
    ];
    assert_eq!(pareto(&points, false), [4, 0, 5, 1]);
    assert_eq!(pareto(&points, true), [4]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_text_stays_text(text in any::<String>()) {
        prop_assert_eq!(nothing_gets_through(&text), Ok(()));
    }

    /// Somebody is on the front, and whoever is not is beaten by somebody on it.
    #[test]
    fn the_front_beats_all_others(points in prop::collection::vec((0u8..6, 0u8..6), 1..20)) {
        let points: Vec<charts::Point> = points
            .into_iter()
            .map(|(x, y)| charts::Point { label: String::new(), x: f64::from(x), y: f64::from(y), ci95: None })
            .collect();
        let front = charts::pareto(&points, false);
        prop_assert!(!front.is_empty());
        for (at, p) in points.iter().enumerate() {
            let beaten = front.iter().any(|f| {
                let f = &points[*f];
                f.x <= p.x && f.y >= p.y && (f.x < p.x || f.y > p.y)
            });
            prop_assert_eq!(beaten, !front.contains(&at));
        }
    }
}
