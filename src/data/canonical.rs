//! Content hashes: BLAKE3 of canonical JSON (keys sorted by code point, no white space).

use serde_json::{Map, Value};

/// Bytes of a content hash that are kept.
pub const HASH_BYTES: usize = 16;

/// First 16 bytes of the BLAKE3 of the fields' canonical JSON.
pub fn hash(fields: &Map<String, Value>) -> [u8; HASH_BYTES] {
    let mut text = Vec::with_capacity(256);
    write_object(fields, &mut text);
    first_bytes(&blake3::hash(&text))
}

pub(super) fn first_bytes(hash: &blake3::Hash) -> [u8; HASH_BYTES] {
    let mut first = [0; HASH_BYTES];
    first.copy_from_slice(&hash.as_bytes()[..HASH_BYTES]);
    first
}

/// Canonical JSON of any value.
pub fn to_string(value: &Value) -> String {
    let mut text = Vec::new();
    write(value, &mut text);
    String::from_utf8(text).unwrap_or_default()
}

pub(super) fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Array(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write(item, out);
            }
            out.push(b']');
        }
        Value::Object(fields) => write_object(fields, out),
        // Writing into memory does not fail.
        scalar => _ = serde_json::to_writer(&mut *out, scalar),
    }
}

pub(super) fn write_object(fields: &Map<String, Value>, out: &mut Vec<u8>) {
    let mut entries: Vec<(&String, &Value)> = fields.iter().collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    out.push(b'{');
    for (i, (key, value)) in entries.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        _ = serde_json::to_writer(&mut *out, key);
        out.push(b':');
        write(value, out);
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_keys_and_white_space_do_not_matter_and_values_do() {
        let parse = |s: &str| serde_json::from_str::<Map<String, Value>>(s).unwrap();
        let a = parse(r#"{"b": {"y": 1, "x": [1, {"q": null, "p": "é"}]}, "a": 1.5}"#);
        let b = parse(r#"{"a":1.5,"b":{"x":[1,{"p":"\u00e9","q":null}],"y":1}}"#);
        assert_eq!(hash(&a), hash(&b));
        assert_eq!(to_string(&Value::Object(a)), r#"{"a":1.5,"b":{"x":[1,{"p":"é","q":null}],"y":1}}"#);
        assert_ne!(hash(&b), hash(&parse(r#"{"a":1.5,"b":{"x":[{"p":"é","q":null},1],"y":1}}"#)));
    }
}
