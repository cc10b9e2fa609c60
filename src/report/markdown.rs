//! Blocks as Markdown (CommonMark, with tables as on GitHub).

use super::blocks::{Block, Mood, clean, line};

pub(super) fn write(blocks: &[Block]) -> String {
    let mut out = String::new();
    for block in blocks {
        let text = match block {
            Block::Heading(level, text) => {
                format!("{} {}\n", "#".repeat(usize::from(*level)), escape_line(text))
            }
            Block::Text(text) => format!("{}\n", escape_line(text)),
            Block::Figures(figures) => figures
                .iter()
                .map(|(what, much)| format!("- {}: **{}**\n", escape_line(what), escape(much)))
                .collect(),
            Block::List(items) => items.iter().map(|item| format!("- {}\n", escape_line(item))).collect(),
            Block::Table(table) => {
                let cells = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
                let mut text = cells(table.columns().map(|(name, _)| escape(name)).collect());
                text += &cells(
                    table.columns().map(|(_, right)| if right { "---:" } else { "---" }.into()).collect(),
                );
                for row in &table.rows {
                    text += &cells(
                        row.iter()
                            .map(|cell| match cell.mood {
                                Mood::Bad if !cell.text.is_empty() => format!("**{}**", escape(&cell.text)),
                                _ => escape(&cell.text),
                            })
                            .collect(),
                    );
                }
                text
            }
            Block::Diff(text) => {
                // A fence that nothing in the text can close (CommonMark 0.31, 4.5).
                let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
                let fence = "`".repeat((longest + 1).max(3));
                format!("{fence}diff\n{}\n{fence}\n", clean(text).trim_end_matches('\n'))
            }
            Block::Chart(_) => continue,
        };
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(&text);
    }
    out
}

/// [`escape`] for what begins a line.
fn escape_line(text: &str) -> String {
    let text = escape(text);
    if text.starts_with(['#', '+', '-', '=']) { format!("\\{text}") } else { text }
}

/// Any mark of ASCII may stand behind a backslash (CommonMark 0.31, 2.4); these would mean something else without one.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in line(text).chars() {
        if matches!(c, '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '~' | '&' | '!') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
