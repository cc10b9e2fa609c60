//! Lists in prompts with less around them: descriptions of labels as rows of a table, bare names on one line.
//!
//! An entry is a line `- name: description` (the bullet may be a number, or be missing), or a piece of a line `a: x; b: y; c: z`. Names lose their
//! bullets and marks of emphasis, entries said twice and descriptions that say nothing go. Lines with tags of the template and pinned words stay.

/// So many entries are a list.
const LEAST: usize = 3;
/// A longer name is a sentence.
const NAME_CHARS: usize = 48;
const NAME_WORDS: usize = 6;
/// Descriptions that say nothing.
const NOTHING: [&str; 7] = ["", "-", "n/a", "none", "null", "tbd", "..."];

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    about: String,
    bullet: bool,
}

/// The text with its lists as tables. What would not be shorter stays as it is.
pub(super) fn as_tables(text: &str, pins: &[String]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut run: Vec<(&str, Entry)> = Vec::new();
    for line in text.split_inclusive('\n') {
        let held = ["{{", "{%", "{#"].iter().any(|tag| line.contains(tag))
            || pins.iter().any(|pin| line.contains(pin.as_str()) || pin.contains(line.trim()));
        let entry = if held { None } else { entry(line) };
        match entry {
            Some(entry) => run.push((line, entry)),
            None => {
                flush(&mut run, &mut out);
                out.push_str(line);
            }
        }
    }
    flush(&mut run, &mut out);
    out
}

fn flush(run: &mut Vec<(&str, Entry)>, out: &mut String) {
    let (lines, entries): (Vec<&str>, Vec<Entry>) = run.drain(..).unzip();
    match table(&entries, &lines.concat()) {
        Some(table) => out.push_str(&table),
        None => {
            for line in lines {
                out.push_str(&pieces(line).unwrap_or_else(|| line.to_owned()));
            }
        }
    }
}

/// Rows of a table, or names on one line; none where it is no list, or would not be shorter.
fn table(entries: &[Entry], plain: &str) -> Option<String> {
    let mut kept: Vec<&Entry> = Vec::new();
    for entry in entries {
        match kept.iter().position(|known| known.name == entry.name) {
            // The same name with two descriptions is none of ours to judge.
            Some(at) if kept[at].about != entry.about => return None,
            Some(_) => {}
            None => kept.push(entry),
        }
    }
    let bare = kept.iter().all(|entry| entry.about.is_empty());
    if kept.len() < LEAST || (bare && !kept.iter().all(|entry| entry.bullet)) {
        return None;
    }
    let mut table = if bare {
        kept.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>().join(", ")
    } else {
        let row = |entry: &&Entry| match entry.about.as_str() {
            "" => entry.name.clone(),
            about => format!("{} | {about}", entry.name),
        };
        kept.iter().map(row).collect::<Vec<_>>().join("\n")
    };
    if plain.ends_with('\n') {
        table.push('\n');
    }
    (table.len() < plain.len()).then_some(table)
}

/// A line that is an entry.
fn entry(line: &str) -> Option<Entry> {
    let line = line.trim();
    let number = line.trim_start_matches(|c: char| c.is_ascii_digit());
    let numbered = number.len() < line.len() && (number.starts_with(". ") || number.starts_with(") "));
    let bulleted = ["- ", "* ", "\u{2022} "].iter().find_map(|bullet| line.strip_prefix(bullet));
    let (rest, bullet) = match bulleted {
        Some(rest) => (rest.trim(), true),
        None if numbered => (number[2..].trim(), true),
        None => (line, false),
    };
    named(rest, bullet)
}

fn named(rest: &str, bullet: bool) -> Option<Entry> {
    if rest.contains(['|', '\t']) {
        return None;
    }
    let (name, about) = match rest.split_once(':') {
        // `https://`, `10:30`
        Some((_, about)) if !about.is_empty() && !about.starts_with([' ', '*', '_', '`']) => return None,
        Some((name, about)) => (name, about),
        None if bullet => (rest, ""),
        None => return None,
    };
    let marks = |c: char| c.is_whitespace() || matches!(c, '*' | '`' | '"');
    let (name, about) = (name.trim_matches(marks), about.trim_matches(marks));
    let sentence = name.ends_with(['.', '!', '?', ';']) || (about.is_empty() && name.contains(','));
    let fits = !name.is_empty()
        && name.chars().count() <= NAME_CHARS
        && name.split_whitespace().count() <= NAME_WORDS
        && !sentence;
    // Text that goes on in the next line is a heading.
    if !fits || (!bullet && about.is_empty()) {
        return None;
    }
    let nothing = NOTHING.contains(&about.to_lowercase().as_str());
    let about = if nothing { String::new() } else { about.to_owned() };
    Some(Entry { name: name.to_owned(), about, bullet })
}

/// `a: x; b: y; c: z.` as rows.
fn pieces(line: &str) -> Option<String> {
    let text = line.trim();
    let text = text.strip_suffix('.').unwrap_or(text);
    let entries: Vec<Entry> =
        text.split(';').map(|piece| named(piece.trim(), false)).collect::<Option<_>>()?;
    if entries.len() < LEAST || entries.iter().any(|entry| entry.about.is_empty()) {
        return None;
    }
    table(&entries, line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn descriptions_of_labels_become_rows_and_empty_ones_go() {
        let text = "Sort it.\n\n{# labels #}\n- **cards**: lost, late or broken cards\n- loans: a loan, or its rate\n- **other**: n/a\n- loans: a loan, or its rate\n{# /labels #}\n\n{{ input }}\n";
        let want = "Sort it.\n\n{# labels #}\ncards | lost, late or broken cards\nloans | a loan, or its rate\nother\n{# /labels #}\n\n{{ input }}\n";
        assert_eq!(as_tables(text, &[]), want);
        assert_eq!(as_tables(want, &[]), want, "twice is once");
        let pinned = ["loans: a loan, or its rate".to_owned()];
        assert!(as_tables(text, &pinned).contains("- loans: a loan, or its rate\n"));
    }

    #[test]
    fn bare_names_share_a_line_and_prose_in_one_line_is_a_list_too() {
        let text = "Labels:\n- cards\n- loans\n- other\n{{ input }}";
        assert_eq!(as_tables(text, &[]), "Labels:\ncards, loans, other\n{{ input }}");
        let text = "1. \"cards\": about cards\n2. \"loans\": about loans\n3. \"rest\": else\n";
        assert_eq!(as_tables(text, &[]), "cards | about cards\nloans | about loans\nrest | else\n");
        let text = "**cards**: about cards; **loans**: about loans; **rest**: what is left.\n{{ input }}\n";
        let want = "cards | about cards\nloans | about loans\nrest | what is left\n{{ input }}\n";
        assert_eq!(as_tables(text, &[]), want);
    }

    #[test]
    fn what_is_no_list_stays() {
        for text in [
            "Sort it.\n\n{{ input }}\n",
            "- one: a\n- two: b\n",
            "Be brief: one word.\nBe kind.\nSee https://x.org and 10:30.\n",
            "- a | b\n- c | d\n- e | f\n",
            "- Do not guess.\n- Say one word.\n- Never apologise.\n",
            "- {{ a }}: x\n- {{ b }}: y\n- {{ c }}: z\n",
            "- a: one\n- a: two\n- b: three\n",
        ] {
            assert_eq!(as_tables(text, &[]), text);
        }
    }

    proptest! {
        #[test]
        fn no_text_grows_and_no_tag_is_lost(text in "([-*] ?[a-c]{1,3}:? ?[a-z {}%#;:|.]{0,12}\n?){0,8}") {
            let made = as_tables(&text, &[]);
            prop_assert!(made.len() <= text.len());
            for tag in ["{{", "}}", "{%", "{#"] {
                prop_assert_eq!(made.matches(tag).count() >= text.matches(tag).count().min(1), true);
            }
        }
    }
}
