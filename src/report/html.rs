//! Blocks as one HTML page: nothing is loaded from anywhere and nothing runs; light and dark; printable.

use sha2::{Digest as _, Sha256};

use super::About;
use super::blocks::{Block, Mood, clean, line};

const STYLE: &str = include_str!("page.css");

pub(super) fn write(blocks: &[Block], about: &About) -> String {
    let title = blocks.iter().find_map(|block| match block {
        Block::Heading(1, text) => Some(text.as_str()),
        _ => None,
    });
    // The style sheet alone is let through, by its hash.
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'",
        base64(&Sha256::digest(STYLE.as_bytes()))
    );
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta name=\"color-scheme\" content=\"light dark\"/>\n<meta name=\"referrer\" content=\"no-referrer\"/>\n\
         <title>{}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n",
        escape(&line(title.unwrap_or("tunebench"))),
    );
    for block in blocks {
        match block {
            Block::Heading(level, text) => out += &format!("<h{level}>{}</h{level}>\n", words(text)),
            Block::Text(text) => out += &format!("<p>{}</p>\n", words(text)),
            Block::Figures(figures) => {
                out += "<dl>\n";
                for (what, much) in figures {
                    out += &format!("<div><dt>{}</dt><dd>{}</dd></div>\n", words(what), words(much));
                }
                out += "</dl>\n";
            }
            Block::List(items) => {
                out += "<ul>\n";
                for item in items {
                    out += &format!("<li>{}</li>\n", words(item));
                }
                out += "</ul>\n";
            }
            Block::Diff(text) => {
                out += "<pre>";
                for line in clean(text).lines() {
                    let mood = match line.chars().next() {
                        Some('+') => Mood::Good,
                        Some('-') => Mood::Bad,
                        _ => Mood::Plain,
                    };
                    out += &format!("<span{}>{}</span>\n", class(false, mood), isolated(&escape(line)));
                }
                out += "</pre>\n";
            }
            Block::Table(table) => {
                let columns: Vec<(&str, bool)> = table.columns().collect();
                out += "<div class=\"wide\">\n<table>\n<thead>\n<tr>";
                for (name, right) in &columns {
                    out += &format!("<th scope=\"col\"{}>{}</th>", class(*right, Mood::Plain), words(name));
                }
                out += "</tr>\n</thead>\n<tbody>\n";
                for row in &table.rows {
                    out += "<tr>";
                    for (at, cell) in row.iter().enumerate() {
                        let right = columns.get(at).is_some_and(|(_, right)| *right);
                        out += &format!("<td{}>{}</td>", class(right, cell.mood), several(&cell.text));
                    }
                    out += "</tr>\n";
                }
                out += "</tbody>\n</table>\n</div>\n";
            }
            Block::Chart(chart) => {
                let (title, about) = (words(&chart.title), words(&chart.about));
                out += &format!(
                    "<figure>\n<figcaption>{title}. <span>{about}</span></figcaption>\n{}\n</figure>\n",
                    chart.svg
                );
            }
        }
    }
    out += &format!("</main>\n<footer>tunebench {}</footer>\n</body>\n</html>\n", words(&about.version));
    out
}

fn class(right: bool, mood: Mood) -> String {
    let names: Vec<&str> = [
        right.then_some("number"),
        match mood {
            Mood::Plain => None,
            Mood::Good => Some("good"),
            Mood::Bad => Some("bad"),
        },
    ]
    .into_iter()
    .flatten()
    .collect();
    if names.is_empty() { String::new() } else { format!(" class=\"{}\"", names.join(" ")) }
}

/// Foreign words: their direction is their own and does not turn what stands around them.
fn words(text: &str) -> String {
    isolated(&escape(&line(text)))
}

/// The same, with its line breaks.
fn several(text: &str) -> String {
    isolated(&escape(clean(text).trim_end()))
}

fn isolated(text: &str) -> String {
    // Only letters that are written from right to left need it; those are beyond Greek and Cyrillic.
    if text.chars().all(|c| c < '\u{590}') { text.to_owned() } else { format!("<bdi>{text}</bdi>") }
}

/// Text in elements and in quoted attributes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c => out.push(c),
        }
    }
    out
}

/// RFC 4648.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0u32, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        for at in 0..4 {
            let digit = DIGITS.get((bits >> (18 - 6 * at) & 63) as usize).copied().unwrap_or(b'=');
            out.push(if at <= three.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
    }
}
