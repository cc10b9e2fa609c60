//! How subcommands speak: plain text or one JSON object on stdout, everything else on stderr.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use serde::Serialize;

use crate::domain::words::steers;

/// Where a command's result goes.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    pub json: bool,
}

impl Output {
    pub const fn new(json: bool) -> Self {
        Self { json }
    }

    /// The result: `value` as one line of JSON, or `text` for people.
    pub fn result(&self, value: &impl Serialize, text: impl FnOnce() -> String) {
        let line = if self.json {
            serde_json::to_string(value).unwrap_or_else(|e| format!("{{\"error\":\"{e}\"}}"))
        } else {
            visible(&text())
        };
        // A closed pipe (`| head`) is the reader's wish, not a failure.
        let mut stdout = std::io::stdout().lock();
        let _ = stdout.write_all(line.trim_end_matches('\n').as_bytes());
        let _ = stdout.write_all(b"\n");
    }

    /// A line of progress or advice, on stderr.
    pub fn say(&self, line: &str) {
        let _ = writeln!(std::io::stderr().lock(), "{}", visible(line));
    }

    /// Progress may be redrawn in place.
    pub fn stderr_is_terminal(&self) -> bool {
        std::io::stderr().is_terminal()
    }
}

/// Text of data and models must not control the terminal, wherever it got into a message.
fn visible(text: &str) -> String {
    text.chars().map(|c| if steers(c) && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c }).collect()
}

/// Why a command ends without its result.
#[derive(Debug)]
pub struct Exit {
    /// 1: the work failed; 2: wrong usage or bad input.
    pub code: u8,
    pub message: String,
}

impl Exit {
    /// Wrong usage or bad input.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into() }
    }

    /// The work failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into() }
    }

    pub(super) fn report(self, out: &Output) -> ExitCode {
        out.say(&format!("error: {}", self.message));
        if out.json {
            out.result(&serde_json::json!({ "error": self.message }), String::new);
        }
        ExitCode::from(self.code)
    }
}

impl From<anyhow::Error> for Exit {
    fn from(error: anyhow::Error) -> Self {
        Self::failed(format!("{error:#}"))
    }
}

impl From<std::io::Error> for Exit {
    fn from(error: std::io::Error) -> Self {
        Self::failed(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_message_steers_the_terminal_or_turns_its_text() {
        let shown = visible("a\tb\n\u{1b}[2J\u{202e}drow\u{2066}x\u{5d0}");
        assert_eq!(shown, "a\tb\n\u{fffd}[2J\u{fffd}drow\u{fffd}x\u{5d0}");
    }
}
