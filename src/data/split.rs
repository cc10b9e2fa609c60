//! Where rows begin and end in a stream of bytes: lines, items of a JSON array, CSV records.
//!
//! A splitter sees the bytes from a row's start on, possibly in several pieces, and says where the row ends. It does not
//! judge the content.

/// What a splitter found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The row takes `len` bytes; the next begins after `next` bytes.
    Row { len: usize, next: usize },
    /// Bytes between rows.
    Skip(usize),
    /// The end is not in sight yet.
    More,
    /// A record with an open quote or the wrong number of fields over several lines: only its first line is at fault.
    Torn { reason: &'static str },
    /// No rows follow.
    End,
}

pub(super) trait Splitter: Send {
    /// Looks at `bytes`, which begin where the current row begins. After [`Found::More`] the same row comes again with
    /// more bytes behind it. `last`: nothing follows these bytes.
    fn find(&mut self, bytes: &[u8], last: bool) -> Found;

    /// The row is too long and its first `dropped` bytes have been thrown away.
    /// False: resume at the next line instead.
    fn drop_front(&mut self, dropped: usize) -> bool;

    /// Line breaks in bytes that were passed over: a row with what ends it, or what lies between rows.
    fn breaks(&self, passed: &[u8]) -> u64 {
        newlines(passed)
    }
}

/// Line breaks in `bytes`.
pub(super) fn newlines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

/// Position of the first line break.
pub(super) fn newline(bytes: &[u8]) -> Option<usize> {
    memchr::memchr(b'\n', bytes)
}

/// One row per line.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// Bytes of the current row that hold no line break.
    seen: usize,
}

impl Splitter for Lines {
    fn find(&mut self, bytes: &[u8], last: bool) -> Found {
        let Some(end) = newline(bytes.get(self.seen..).unwrap_or_default()) else {
            if last {
                self.seen = 0;
                return if bytes.is_empty() {
                    Found::End
                } else {
                    Found::Row { len: bytes.len(), next: bytes.len() }
                };
            }
            self.seen = bytes.len();
            return Found::More;
        };
        let end = self.seen + end;
        self.seen = 0;
        Found::Row { len: end, next: end + 1 }
    }

    fn drop_front(&mut self, dropped: usize) -> bool {
        self.seen = self.seen.saturating_sub(dropped);
        true
    }

    fn breaks(&self, passed: &[u8]) -> u64 {
        u64::from(passed.last() == Some(&b'\n'))
    }
}

/// Items of a JSON array, by counting brackets outside of strings.
#[derive(Debug, Default)]
pub(super) struct Items {
    /// An item has begun.
    begun: bool,
    /// Bytes of it already looked at.
    seen: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Splitter for Items {
    fn find(&mut self, bytes: &[u8], last: bool) -> Found {
        if !self.begun {
            let gap = bytes.iter().take_while(|b| b.is_ascii_whitespace() || **b == b',').count();
            match bytes.get(gap) {
                _ if gap > 0 => return Found::Skip(gap),
                None if last => return Found::End,
                None => return Found::More,
                Some(b']') => return Found::End,
                Some(_) => self.begun = true,
            }
        }
        for (i, byte) in bytes.iter().enumerate().skip(self.seen) {
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b',' | b']' if self.depth == 0 => return self.done(i),
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
        if last {
            return self.done(bytes.len());
        }
        self.seen = bytes.len();
        Found::More
    }

    fn drop_front(&mut self, dropped: usize) -> bool {
        self.seen = self.seen.saturating_sub(dropped);
        true
    }
}

impl Items {
    fn done(&mut self, len: usize) -> Found {
        *self = Self::default();
        Found::Row { len, next: len }
    }
}

const OPEN: &str = "a quote is opened here and never closed";
const CLOSED_LATER: &str = "a quote is opened here and closed in a later row";

/// Records of a CSV file: RFC 4180, lenient as most readers are (a quote counts at the start of a field only).
#[derive(Debug)]
pub(super) struct Records {
    pub delimiter: u8,
    /// Fields of the header; 0: not known yet.
    pub width: usize,
}

impl Splitter for Records {
    fn find(&mut self, bytes: &[u8], last: bool) -> Found {
        let mut fields = 1;
        let mut lines = 0;
        let mut start_of_field = true;
        let mut i = 0;
        while let Some(&byte) = bytes.get(i) {
            if start_of_field && byte == b'"' {
                match close_quote(bytes, i + 1, &mut lines) {
                    Some(after) => i = after,
                    None if last => return Found::Torn { reason: OPEN },
                    None => return Found::More,
                }
                // Something else behind the closing quote is let pass, but not when the quote ran over a line break.
                match bytes.get(i) {
                    None if !last => return Found::More,
                    Some(b) if lines > 0 && *b != self.delimiter && !matches!(b, b'\r' | b'\n') => {
                        return Found::Torn { reason: CLOSED_LATER };
                    }
                    _ => {}
                }
                start_of_field = false;
                continue;
            }
            start_of_field = byte == self.delimiter;
            fields += usize::from(start_of_field);
            i += 1;
            if byte == b'\n' {
                if lines > 0 && self.width > 0 && fields != self.width {
                    return Found::Torn { reason: CLOSED_LATER };
                }
                return Found::Row { len: i - 1, next: i };
            }
        }
        match last {
            true if bytes.is_empty() => Found::End,
            true if lines > 0 && self.width > 0 && fields != self.width => {
                Found::Torn { reason: CLOSED_LATER }
            }
            true => Found::Row { len: bytes.len(), next: bytes.len() },
            // A quote that ends the piece may be the first of a doubled one; all is looked at again.
            false => Found::More,
        }
    }

    fn drop_front(&mut self, _dropped: usize) -> bool {
        false
    }
}

/// Position after the quote that closes the field whose content begins at `from`.
fn close_quote(bytes: &[u8], from: usize, lines: &mut usize) -> Option<usize> {
    let mut i = from;
    loop {
        match bytes.get(i)? {
            b'"' if bytes.get(i + 1) == Some(&b'"') => i += 2,
            b'"' => return Some(i + 1),
            byte => {
                *lines += usize::from(*byte == b'\n');
                i += 1;
            }
        }
    }
}

/// Fields of one CSV record, unquoted.
pub(super) fn csv_fields(record: &[u8], delimiter: u8) -> Vec<Vec<u8>> {
    let record = record.strip_suffix(b"\r").unwrap_or(record);
    let mut fields = vec![Vec::new()];
    let mut start_of_field = true;
    let mut i = 0;
    while let Some(&byte) = record.get(i) {
        let Some(field) = fields.last_mut() else { break };
        if start_of_field && byte == b'"' {
            i += 1;
            while let Some(&byte) = record.get(i) {
                i += 1;
                if byte == b'"' {
                    if record.get(i) != Some(&b'"') {
                        break;
                    }
                    i += 1;
                }
                field.push(byte);
            }
            start_of_field = false;
            continue;
        }
        start_of_field = byte == delimiter;
        if start_of_field {
            fields.push(Vec::new());
        } else {
            field.push(byte);
        }
        i += 1;
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Rows of `bytes`, given in pieces that end at `cuts`.
    fn rows(mut splitter: impl Splitter, bytes: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
        let mut ends: Vec<usize> = cuts.iter().map(|c| c % (bytes.len() + 1)).chain([bytes.len()]).collect();
        ends.sort_unstable();
        let (mut rows, mut start) = (Vec::new(), 0);
        for (i, end) in ends.iter().enumerate() {
            let last = i + 1 == ends.len();
            loop {
                match splitter.find(&bytes[start..(*end).max(start)], last) {
                    Found::Row { len, next } => {
                        rows.push(bytes[start..start + len].to_vec());
                        start += next;
                    }
                    Found::Skip(n) => start += n,
                    Found::More => break,
                    Found::End => return rows,
                    Found::Torn { .. } => {
                        let line = newline(&bytes[start..]).map_or(bytes.len() - start, |n| n + 1);
                        start += line;
                    }
                }
            }
        }
        rows
    }

    fn csv(width: usize) -> Records {
        Records { delimiter: b',', width }
    }

    #[test]
    fn quoted_line_breaks_stay_in_the_record_and_open_quotes_tear_only_their_line() {
        let text = b"a,\"x\ny\"\nb,\"open\nc,d\n";
        assert_eq!(rows(csv(2), text, &[]), [b"a,\"x\ny\"".to_vec(), b"c,d".to_vec()]);
        let text = b"b,\"open\nc,\"d\"\ne,f";
        assert_eq!(rows(csv(2), text, &[]), [b"c,\"d\"".to_vec(), b"e,f".to_vec()]);
    }

    #[test]
    fn items_end_at_commas_outside_of_strings_and_brackets() {
        let text = br#" {"a": "],[\"", "b": [1, {}]} , 7,
            [1,2] ] trailing"#;
        let found: Vec<String> = rows(Items::default(), text, &[3, 9, 20])
            .into_iter()
            .map(|r| String::from_utf8(r).unwrap())
            .collect();
        assert_eq!(
            found.iter().map(|s| s.trim()).collect::<Vec<_>>(),
            [r#"{"a": "],[\"", "b": [1, {}]}"#, "7", "[1,2]"]
        );
    }

    proptest! {
        #[test]
        fn the_pieces_do_not_matter(text in "[a,\"\\n\\r{}\\[\\]\\\\ ]{0,60}", cuts in prop::collection::vec(0usize..60, 0..6)) {
            let bytes = text.as_bytes();
            prop_assert_eq!(rows(Lines::default(), bytes, &cuts), rows(Lines::default(), bytes, &[]));
            prop_assert_eq!(rows(Items::default(), bytes, &cuts), rows(Items::default(), bytes, &[]));
            prop_assert_eq!(rows(csv(2), bytes, &cuts), rows(csv(2), bytes, &[]));
        }

        #[test]
        fn csv_fields_are_those_of_the_csv_crate(table in prop::collection::vec(prop::collection::vec("[a,\"\\n é]{0,6}", 3), 1..8)) {
            let mut writer = csv::WriterBuilder::new().from_writer(Vec::new());
            for record in &table {
                writer.write_record(record).unwrap();
            }
            let bytes = writer.into_inner().unwrap();
            let read: Vec<Vec<String>> = rows(csv(3), &bytes, &[])
                .iter()
                .map(|r| csv_fields(r, b',').into_iter().map(|f| String::from_utf8(f).unwrap()).collect())
                .collect();
            prop_assert_eq!(read, table);
        }
    }
}
