//! Server-sent events, as far as streamed answers use them: the data of each event, whatever the chunks it came in.
//!
//! Source: HTML Standard, section 9.2, "Server-sent events". Names, ids and comments are passed over.

/// A line or an event longer than this is none of an answer's.
const EVENT_MAX: usize = 4 << 20;

/// The server sends a line without end.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong;

/// Puts lines together, and lines to events.
#[derive(Debug, Default)]
pub struct Events {
    line: Vec<u8>,
    data: Vec<u8>,
    any: bool,
    /// The last byte was a carriage return: a line feed after it ends no line of its own.
    returned: bool,
}

impl Events {
    /// The next bytes; the data of every event that ends in them.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, TooLong> {
        let mut events = Vec::new();
        for &byte in bytes {
            let after_return = std::mem::replace(&mut self.returned, byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => events.extend(self.end_line()),
                _ => self.line.push(byte),
            }
            if self.line.len() + self.data.len() > EVENT_MAX {
                return Err(TooLong);
            }
        }
        Ok(events)
    }

    /// The stream is at its end: an event without its empty line counts all the same.
    pub fn finish(&mut self) -> Option<Vec<u8>> {
        let last = self.end_line();
        last.or_else(|| self.end_line())
    }

    fn end_line(&mut self) -> Option<Vec<u8>> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let any = std::mem::take(&mut self.any);
            let data = std::mem::take(&mut self.data);
            return any.then_some(data);
        }
        let line = line.strip_prefix(b"\xef\xbb\xbf".as_slice()).unwrap_or(&line);
        if let Some(value) = line.strip_prefix(b"data:".as_slice()) {
            if self.any {
                self.data.push(b'\n');
            }
            self.data.extend_from_slice(value.strip_prefix(b" ".as_slice()).unwrap_or(value));
            self.any = true;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(chunks: &[&[u8]]) -> Vec<String> {
        let mut events = Events::default();
        let mut got: Vec<Vec<u8>> = chunks.iter().flat_map(|chunk| events.push(chunk).unwrap()).collect();
        got.extend(events.finish());
        got.into_iter().map(|data| String::from_utf8(data).unwrap()).collect()
    }

    #[test]
    fn events_end_at_empty_lines_of_any_kind() {
        let text =
            b"\xef\xbb\xbfdata: a\n\n: hello\r\n\r\ndata:b\rdata: c\r\revent: x\nid: 1\n\ndata\n\ndata: d";
        assert_eq!(all(&[text]), ["a", "b\nc", "d"]);
    }

    #[test]
    fn a_line_without_end_is_given_up() {
        let mut events = Events::default();
        let result = (0..5).try_for_each(|_| events.push(&vec![b'x'; 1 << 20]).map(drop));
        assert_eq!(result, Err(TooLong));
    }

    proptest! {
        #[test]
        fn how_the_bytes_are_cut_changes_nothing(text in "(data: ?[a-z]{0,3}|:x|\r|\n|\r\n|\n\n)*", cut in 0usize..60) {
            let bytes = text.as_bytes();
            let cut = cut.min(bytes.len());
            let one: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(all(&[bytes]), all(&one));
            prop_assert_eq!(all(&[bytes]), all(&[&bytes[..cut], &bytes[cut..]]));
        }
    }
}
