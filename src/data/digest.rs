//! What import keeps of rows, taken from their bytes.
//!
//! Most of a row of JSON is strings without escapes, which stand in canonical JSON as they stand in the file: they are copied into the text
//! that is hashed, and only the rest is parsed and written again. Where anything is amiss the row is parsed as a whole, which says what.

use std::ops::Range;

use serde_json::Value;
use serde_json::value::RawValue;

use super::canonical::{HASH_BYTES, write, write_object};
use super::format::Layout;
use super::hash_many::hash_many;
use super::ids::likely_keys;
use super::import::own_id;
use super::{MAX_ROW, parse};

/// What is kept of a row once it has been read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Digest {
    pub hash: [u8; HASH_BYTES],
    pub id: Option<String>,
    /// [`likely_keys`]
    pub key: u64,
    /// Names of fields that `known` does not have.
    pub new_fields: Vec<String>,
}

/// How far a string goes on from here without a quote, an escape or a control character.
fn plain(bytes: &[u8]) -> usize {
    let end = memchr::memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len());
    let said = bytes.get(..end).unwrap_or_default();
    // All of them, not only up to the first: that is done many bytes at a time.
    if said.iter().fold(u8::MAX, |least, byte| least.min(*byte)) >= b' ' {
        return end;
    }
    said.iter().position(|byte| *byte < b' ').unwrap_or(end)
}

/// The length of the string that begins here with its quote, quotes included. What follows a backslash is not looked at.
fn string(bytes: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        at += plain(bytes.get(at..)?);
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => return None,
        }
    }
}

/// The length of the value that begins here. Strings with escapes, numbers and words are still to be parsed.
fn value(row: &str) -> Option<usize> {
    match row.as_bytes().first()? {
        b'"' => string(row.as_bytes()),
        b'{' | b'[' => {
            let mut values = serde_json::Deserializer::from_str(row).into_iter::<&RawValue>();
            values.next()?.ok()?;
            Some(values.byte_offset())
        }
        _ => row.bytes().position(|byte| matches!(byte, b',' | b'}' | b' ' | b'\t' | b'\r' | b'\n')),
    }
}

/// An object's fields, their values still as text; none where it is no object or a name holds escapes.
fn fields(row: &str) -> Option<Vec<(&str, &str)>> {
    let blank = [' ', '\t', '\r', '\n'];
    let mut fields = Vec::with_capacity(8);
    let mut rest = row.strip_prefix('{')?.trim_start_matches(blank);
    if rest == "}" {
        return Some(fields);
    }
    loop {
        let length = string(rest.as_bytes()).filter(|_| rest.starts_with('"'))?;
        let (name, after) = rest.split_at_checked(length)?;
        let name = name.get(1..length - 1).filter(|name| !name.contains('\\'))?;
        let after = after.trim_start_matches(blank).strip_prefix(':')?.trim_start_matches(blank);
        let (value, after) = after.split_at_checked(value(after)?)?;
        fields.push((name, value));
        let after = after.trim_start_matches(blank);
        match after.strip_prefix(',') {
            Some(more) => rest = more.trim_start_matches(blank),
            None => return (after == "}").then_some(fields),
        }
    }
}

/// A value's canonical JSON; none where it has none.
fn canonical(raw: &str, out: &mut Vec<u8>) -> Option<()> {
    let as_it_stands = match raw.as_bytes() {
        [b'"', ..] => memchr::memchr(b'\\', raw.as_bytes()).is_none(),
        // Up to 18 digits without a sign are an integer that is written as it was read.
        [b'0'] => true,
        digits @ [b'1'..=b'9', ..] => digits.len() <= 18 && digits.iter().all(u8::is_ascii_digit),
        word => matches!(word, b"true" | b"false" | b"null"),
    };
    if as_it_stands {
        out.extend_from_slice(raw.as_bytes());
    } else {
        write(&serde_json::from_str(raw).ok()?, out);
    }
    Some(())
}

/// Id and new fields.
type Named = (Option<String>, Vec<String>);

/// Appends a row's canonical JSON to `text`; none where the row has to be parsed as a whole.
fn of_json(bytes: &[u8], known: &impl Fn(usize, &str) -> bool, text: &mut Vec<u8>) -> Option<Named> {
    let row = std::str::from_utf8(bytes).ok()?.trim();
    let mut fields = fields(row)?;
    let new_fields = fields.iter().enumerate().filter(|(i, (key, _))| !known(*i, key));
    let new_fields: Vec<String> = new_fields.map(|(_, (key, _))| (*key).to_owned()).collect();
    // Of fields with one name the last counts: it stands last among its equals.
    fields.sort_by(|a, b| a.0.cmp(b.0));
    let mut id = None;
    text.push(b'{');
    let empty = text.len();
    for (i, (key, value)) in fields.iter().enumerate() {
        if fields.get(i + 1).is_some_and(|next| next.0 == *key) {
            // It does not count, but must be JSON.
            serde_json::from_str::<Value>(value).ok()?;
            continue;
        }
        if text.len() > empty {
            text.push(b',');
        }
        text.push(b'"');
        text.extend_from_slice(key.as_bytes());
        text.push(b'"');
        text.push(b':');
        canonical(value, text)?;
        if *key == "id" {
            id = own_id(&serde_json::from_str(value).ok()?);
        }
    }
    text.push(b'}');
    Some((id, new_fields))
}

/// The digests of rows, or what is wrong with them. `known`: whether a field, in its place in the row, has been seen.
pub(super) fn of_rows<'a>(
    layout: &Layout,
    rows: impl Iterator<Item = Result<&'a [u8], String>>,
    known: &impl Fn(usize, &str) -> bool,
) -> Vec<Result<Digest, String>> {
    let is_json = layout.format.is_json();
    let mut text = Vec::new();
    let mut one = |bytes: &[u8]| -> Result<(Named, Range<usize>), String> {
        let start = text.len();
        let named = (is_json && bytes.len() <= MAX_ROW).then(|| of_json(bytes, known, &mut text)).flatten();
        let named = match named {
            Some(named) => named,
            None => {
                text.truncate(start);
                let fields = parse::fields(layout, bytes)?;
                write_object(&fields, &mut text);
                let new = fields.keys().enumerate().filter(|(i, key)| !known(*i, key));
                (fields.get("id").and_then(own_id), new.map(|(_, key)| key.clone()).collect())
            }
        };
        Ok((named, start..text.len()))
    };
    let found: Vec<Result<(Named, Range<usize>), String>> = rows.map(|row| one(row?)).collect();
    let texts = found.iter().flatten().map(|(_, place)| text.get(place.clone()).unwrap_or_default());
    let hashes = hash_many(&texts.collect::<Vec<_>>());
    let hashes: Vec<&[u8; HASH_BYTES]> = hashes.iter().filter_map(|hash| hash.first_chunk()).collect();
    let own = found.iter().flatten().map(|((id, _), _)| id.as_deref());
    let keys = likely_keys(&hashes.iter().copied().zip(own).collect::<Vec<_>>());
    let mut hashed = hashes.iter().zip(keys);
    let mut with_hash = |((id, new_fields), _): (Named, _)| {
        let (hash, key) = hashed.next().map_or_else(Default::default, |(hash, key)| (**hash, key));
        Digest { hash, id, key, new_fields }
    };
    found.into_iter().map(|row| row.map(&mut with_hash)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use serde_json::Map;

    use super::super::canonical;
    use super::super::format::Format;
    use super::*;

    fn layout() -> Layout {
        Layout { format: Format::Jsonl, start: 0, line: 1, delimiter: 0, columns: Vec::new() }
    }

    fn of_row(row: &[u8]) -> Result<Digest, String> {
        of_rows(&layout(), std::iter::once(Ok(row)), &|_, _| false).remove(0)
    }

    /// Without being parsed as a whole.
    fn is_quick(row: &str) -> bool {
        of_json(row.as_bytes(), &|_, _| false, &mut Vec::new()).is_some()
    }

    /// The digest of a row that is parsed as a whole.
    fn whole(row: &str) -> Option<([u8; HASH_BYTES], Option<String>, BTreeSet<String>)> {
        let fields: Map<String, Value> = serde_json::from_str(row).ok()?;
        Some((canonical::hash(&fields), fields.get("id").and_then(own_id), fields.keys().cloned().collect()))
    }

    fn agree(row: &str) {
        let got = of_row(row.as_bytes());
        let got = got.ok().map(|d| (d.hash, d.id, d.new_fields.into_iter().collect()));
        assert_eq!(got, whole(row), "{row}");
        assert!(got.is_some() || !is_quick(row), "{row}");
    }

    #[test]
    fn odd_rows_have_the_digest_of_their_fields() {
        for row in [
            "{}",
            r#" { "b" : 1 , "a" : "x" } "#,
            r#"{"id":"a","id":"b","id":7}"#,
            r#"{"id":"a","x":[1,2,{"q":1,"b":[]}],"y":{"z":null}}"#,
            r#"{"a":2,"b":"\\\\","c":"\\\"","d":"\u00e9\n"}"#,
            r#"{"n":-0,"m":-0.0,"o":1e3,"p":1.0,"q":123456789012345678,"r":1234567890123456789012,"s":0.1}"#,
            r#"{"n":-5,"a":true,"b":false,"c":null,"d":""}"#,
        ] {
            assert!(is_quick(row), "{row}");
            agree(row);
        }
        // Names with escapes.
        agree(r#"{"\u0061":1,"a":2,"b\"c":3}"#);
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(500), "]".repeat(500));
        for row in [
            r#"{"a":"\ud800"}"#,
            r#"{"a":1e999}"#,
            r#"{"a":01}"#,
            r#"{"a":1,}"#,
            r#"{"a":tru}"#,
            r#"{"a":1e999,"a":1}"#,
            "[1]",
            r#"{"a":1} x"#,
            "",
            "{\"a\":\"\u{1}\"}",
            deep.as_str(),
        ] {
            assert!(whole(row).is_none(), "{row}");
            agree(row);
        }
        assert!(of_row(b"{\"a\":\"\xff\"}").unwrap_err().contains("UTF-8"));
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((".{0,3}", inner), 0..4)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_object_has_the_digest_of_its_fields(pairs in prop::collection::vec(("id|[a-c]|.{0,4}", value()), 0..8), spaced: bool) {
            let gap = if spaced { " " } else { "" };
            let fields: Vec<String> =
                pairs.iter().map(|(key, value)| format!("{}{gap}:{gap}{value}", Value::from(key.as_str()))).collect();
            let row = format!("{{{}}}", fields.join(","));
            let escaped = pairs.iter().any(|(key, _)| Value::from(key.as_str()).to_string().contains('\\'));
            prop_assert!(is_quick(&row) || escaped, "{row}");
            agree(&row);
        }

        #[test]
        fn what_is_taken_of_damaged_rows_is_what_they_say(at in 0_usize..60, to in any::<u8>()) {
            let mut row = br#"{"id":"m1","text":"a \"b\" \u00e9","n":[1,2.5],"m":{"x":null}}"#.to_vec();
            if let Some(byte) = row.get_mut(at) {
                *byte = to;
            }
            if let Ok(row) = std::str::from_utf8(&row) {
                agree(row);
            }
        }
    }
}
