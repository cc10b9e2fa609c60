//! The board or a comparison for people without a terminal: Markdown, CSV, one self-contained HTML page.
//!
//! `board` and `comparison` say what there is to tell, as blocks; `markdown` and `html` write blocks down. CSV is one table for programs.

mod blocks;
mod board;
mod charts;
mod comparison;
mod csv;
mod html;
mod markdown;

use crate::domain::board::{Board, Comparison};

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Markdown,
    Csv,
    Html,
}

impl Format {
    pub const ALL: [Self; 3] = [Self::Markdown, Self::Csv, Self::Html];

    /// As asked for, and as the file's name ends.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Markdown => "md",
            Self::Csv => "csv",
            Self::Html => "html",
        }
    }

    /// By its name, or by how a file's name ends.
    pub fn find(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        match name.as_str() {
            "markdown" => Some(Self::Markdown),
            "htm" => Some(Self::Html),
            name => Self::ALL.into_iter().find(|format| format.name() == name),
        }
    }
}

/// Where and when.
#[derive(Clone, Debug)]
pub struct About {
    pub workspace: String,
    /// Milliseconds since the Unix epoch.
    pub made_ms: u64,
    /// Of this program.
    pub version: String,
}

/// What is reported.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    Board(&'a Board),
    /// A comparison, and the board on which its two candidates stand.
    Comparison(&'a Comparison, &'a Board),
}

/// The whole file.
pub fn write(format: Format, subject: Subject<'_>, about: &About) -> String {
    let blocks = || match subject {
        Subject::Board(board) => board::blocks(board, about),
        Subject::Comparison(comparison, board) => comparison::blocks(comparison, board, about),
    };
    match format {
        Format::Markdown => markdown::write(&blocks()),
        Format::Html => html::write(&blocks(), about),
        Format::Csv => match subject {
            Subject::Board(board) => csv::board(board),
            Subject::Comparison(comparison, _) => csv::comparison(comparison),
        },
    }
}

#[cfg(test)]
mod tests;
