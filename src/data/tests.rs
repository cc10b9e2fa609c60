//! Import and reading together: every format, every kind of bad row, changed and damaged files.

use std::collections::BTreeSet;
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::domain::api::ImportReport;
use crate::workspace::Workspace;

/// A workspace over these files (names relative to it).
fn workspace(files: &[(&str, &[u8])], data: &str) -> (tempfile::TempDir, Workspace) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("m")).unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    let sources: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
    let toml =
        format!("[data]\nsource = {sources:?}\n{data}\n[models.m]\npath = \"m\"\n[[stage]]\nname = \"s\"\n");
    std::fs::write(dir.path().join("workspace.toml"), toml).unwrap();
    let ws = Workspace::load(dir.path()).unwrap();
    (dir, ws)
}

fn import_all(ws: &Workspace) -> ImportReport {
    import(ws, false, &mut |_, _| {}).unwrap()
}

struct Read {
    rows: Vec<row::Row>,
    report: ImportReport,
}

use crate::domain::row;

fn read(files: &[(&str, &[u8])]) -> Read {
    let (_dir, ws) = workspace(files, "");
    let report = import_all(&ws);
    let data = Dataset::open(&ws).unwrap();
    let rows: Vec<row::Row> = (0..data.len()).map(|i| data.row(i).unwrap()).collect();
    assert_eq!(rows.len(), report.rows);
    for (i, row) in rows.iter().enumerate() {
        assert_eq!(data.find(&row.id), Some(i), "{}", row.id);
        assert_eq!((data.id(i), data.hash(i)), (row.id.as_str(), row.hash.clone()));
    }
    let ids: BTreeSet<&str> = rows.iter().map(|r| r.id.as_str()).collect();
    assert_eq!(ids.len(), rows.len());
    Read { rows, report }
}

fn texts(read: &Read, field: &str) -> Vec<String> {
    read.rows.iter().map(|r| r.fields.get(field).and_then(shape::as_text).unwrap_or_default()).collect()
}

fn bad(read: &Read) -> Vec<(u64, String)> {
    read.report.quarantined.iter().map(|q| (q.line, q.reason.clone())).collect()
}

#[test]
fn lines_with_a_mark_crlf_blanks_and_no_last_line_break_are_read() {
    let r = read(&[("a.jsonl", b"\xef\xbb\xbf{\"t\":\"1\"}\r\n\r\n  \n{\"t\":\"2\"}\r\n{\"t\":\"3\"}")]);
    assert_eq!(texts(&r, "t"), ["1", "2", "3"]);
    assert_eq!(r.rows.iter().map(|r| r.line).collect::<Vec<_>>(), [1, 4, 5]);
    assert_eq!(r.report.format, "jsonl/records");
    assert!(r.report.quarantined.is_empty());
}

#[test]
fn bad_lines_are_quarantined_with_line_and_reason_and_the_rest_loads() {
    let mut text = b"{\"t\":1}\n{broken\n{\"t\":\"\xff\"}\n[1]\n7\n{\"t\":NaN}\n".to_vec();
    text.extend(format!("{}1{}\n", "{\"t\":".repeat(300), "}".repeat(300)).into_bytes());
    text.extend(format!("{{\"t\":\"{}\"}}\n", "x".repeat(MAX_ROW)).into_bytes());
    text.extend(format!("{{\"t\":\"{}\"}}\n", "x".repeat(3 * MAX_ROW)).into_bytes());
    text.extend(b"{\"t\":2}\n{\"t\":\"cut");
    let r = read(&[("a.jsonl", &text)]);
    assert_eq!(texts(&r, "t"), ["1", "2"]);
    let found = bad(&r);
    let expected = [
        (2, "key must be a string"),
        (3, "not valid UTF-8"),
        (4, "expected an object, found an array"),
        (5, "expected an object, found a number"),
        (6, "NaN and Infinity are no JSON"),
        (7, "recursion limit"),
        (8, "over 4 MiB"),
        (9, "over 4 MiB"),
        (11, "EOF"),
    ];
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for ((line, reason), (expected_line, part)) in found.iter().zip(expected) {
        assert!(*line == expected_line && reason.contains(part), "{line}: {reason}");
    }
}

#[test]
fn json_arrays_are_found_at_the_top_or_in_an_object() {
    let r = read(&[("a.json", b"[\n {\"t\": 1},\n {\"t\":\n 2}, 3, {\"t\": NaN},\n {\"t\": 4}\n]\n")]);
    assert_eq!(texts(&r, "t"), ["1", "2", "4"]);
    assert_eq!(r.rows.iter().map(|r| r.line).collect::<Vec<_>>(), [2, 3, 5]);
    assert_eq!(bad(&r).len(), 2);
    let r = read(&[(
        "a.json",
        br#"{"version": "[1]", "meta": {"a": [1]}, "data": [{"t": 1}, {"t": 2}], "end": 0}"#,
    )]);
    assert_eq!(texts(&r, "t"), ["1", "2"]);
    let r = read(&[("a.json", b"[{\"t\": 1}, {\"t\": 2")]);
    assert_eq!((texts(&r, "t"), bad(&r).len()), (vec!["1".to_owned()], 1));
    let r = read(&[("a.json", b"{\"t\": 1}\n{\"t\": 2}\n")]);
    assert_eq!((texts(&r, "t"), r.report.format.as_str()), (vec!["1".into(), "2".into()], "jsonl/records"));
    let r = read(&[("a.json", b"{\n\"t\": 1\n}\n")]);
    assert_eq!(texts(&r, "t"), ["1"]);
    let r = read(&[("a.json", b"{\"rows\": [{\"t\": 1}, {\"t\": 2}]}\n")]);
    assert_eq!(texts(&r, "t"), ["1", "2"]);
    let r =
        read(&[("a.json", b"{\"messages\": [{\"role\": \"user\", \"content\": \"u\"}], \"tags\": [1]}\n")]);
    assert_eq!((r.report.rows, r.report.format.as_str()), (1, "json/messages"));
    // Cut off between items: the rows that are there count, and it is said where the file ends.
    for text in ["{\"data\":[{\"t\":1},{\"t\":2},\n", "[{\"t\":1},{\"t\":2}"] {
        let r = read(&[("a.json", text.as_bytes())]);
        assert_eq!(texts(&r, "t"), ["1", "2"]);
        let [cut] = &bad(&r)[..] else { panic!("{:?}", bad(&r)) };
        assert!(format!("{cut:?}").contains(&format!("ends at byte {}", text.len())), "{cut:?}");
    }
    let huge = format!("[{{\"t\":1}},{{\"t\":\"{}\"}},{{\"t\":3}}]", "x".repeat(3 * MAX_ROW));
    let r = read(&[("a.json", huge.as_bytes())]);
    assert_eq!((texts(&r, "t"), bad(&r).len()), (vec!["1".into(), "3".into()], 1));
}

#[test]
fn csv_knows_quotes_line_breaks_duplicate_headers_and_other_delimiters() {
    let r = read(&[(
        "a.csv",
        b"\xef\xbb\xbftext,label,text,\r\n\"a\r\nb\",\"x, \"\"y\"\"\",2,3\r\nc,d\r\ne,f,g,h,i\r\n",
    )]);
    assert_eq!(texts(&r, "text"), ["a\r\nb", "c"]);
    assert_eq!(texts(&r, "label"), ["x, \"y\"", "d"]);
    assert_eq!((texts(&r, "text_2")[0].as_str(), texts(&r, "column_4")[0].as_str()), ("2", "3"));
    assert_eq!(r.rows.iter().map(|r| r.line).collect::<Vec<_>>(), [2, 4]);
    assert_eq!(bad(&r), [(5, "5 fields, but the header has 4".to_owned())]);
    assert_eq!(texts(&read(&[("a.csv", b"a;b\n1,5;2\n")]), "a"), ["1,5"]);
    assert_eq!(texts(&read(&[("a.tsv", b"a\tb\n1\t\"2\t3\"\n")]), "b"), ["2\t3"]);
    assert_eq!(texts(&read(&[("noname", b"a,b\n1,2\n")]), "b"), ["2"]);
}

#[test]
fn plain_text_has_a_row_per_line() {
    let r = read(&[("a.txt", b"one\r\n\r\n  two\n\xff\n{\"three\"")]);
    assert_eq!(texts(&r, "text"), ["one", "  two", "{\"three\""]);
    assert_eq!((bad(&r)[0].0, r.report.format.as_str()), (4, "text/text"));
}

#[test]
fn an_open_quote_costs_its_line_only() {
    let mut text = String::from("a,b\n1,\"open\n");
    (0..1000).for_each(|i| text.push_str(&format!("{i},x\n")));
    let r = read(&[("a.csv", text.as_bytes())]);
    assert_eq!((r.report.rows, bad(&r).len(), bad(&r)[0].0), (1000, 1, 2));
    // The same in a file longer than what is held at once.
    (0..1_200_000).for_each(|i| text.push_str(&format!("{i},x\n")));
    let (_dir, ws) = workspace(&[("a.csv", text.as_bytes())], "");
    let report = import_all(&ws);
    assert_eq!((report.rows, report.quarantined_total), (1_201_000, 1));
}

#[test]
fn empty_files_have_no_rows() {
    for (name, bytes) in [
        ("a.jsonl", &b""[..]),
        ("a.json", b""),
        ("a.json", b"[]"),
        ("a.csv", b""),
        ("a.csv", b"a,b\n"),
        ("a.csv", b"\n\n"),
    ] {
        let r = read(&[(name, bytes)]);
        assert_eq!((r.report.rows, r.report.quarantined_total), (0, 0), "{name}");
    }
}

#[test]
fn what_is_no_data_is_refused_with_advice() {
    for (name, bytes, expected) in [
        ("a.jsonl", &b"\x1f\x8b\x08\x00"[..], "compressed"),
        ("a.csv", b"\xff\xfea\x00", "UTF-16"),
        ("a.parquet", b"hello", "does not begin as a parquet file does"),
        ("a.parquet", b"PAR1 and then nonsense PAR1", "parquet"),
        ("a.json", b"hello", "begins neither"),
        ("a.bin", b"\x00\x01\x02", "no format known"),
        ("a.json", b"{\"a\": [{}], \"b\": [{}]}", "several arrays (`a`, `b`)"),
        ("a.csv", b"a,\"b\n1,2\n", "header line"),
    ] {
        let (_dir, ws) = workspace(&[(name, bytes)], "");
        let error = import(&ws, false, &mut |_, _| {}).unwrap_err();
        assert!(error.to_string().contains(expected) && error.to_string().starts_with(name), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}

#[test]
fn ids_are_unique_over_all_sources() {
    let r = read(&[
        ("a.jsonl", b"{\"id\":\"x\",\"t\":1}\n{\"id\":2,\"t\":1}\n{\"t\":5}\n{\"t\":5}\n"),
        ("b.jsonl", b"{\"id\":\"x\",\"t\":9}\n{\"id\":\"z\",\"t\":9}\n"),
    ]);
    let ids: Vec<&str> = r.rows.iter().map(|r| r.id.as_str()).collect();
    assert_eq!((ids[1], ids[5]), ("2", "z"));
    assert_eq!(ids[3], format!("{}-2", ids[2]));
    assert_eq!(ids[2], &r.rows[2].hash[..16]);
    assert!(r.report.warnings[0].contains("2 of 4 rows"), "{:?}", r.report.warnings);
    assert_eq!(r.rows[4].source, "b.jsonl");
}

#[test]
fn rows_keep_their_id_when_others_come_and_go() {
    let (dir, ws) = workspace(&[("a.jsonl", b"{\"t\":1}\n{\"t\":2}\n{\"t\":3}\n")], "");
    import_all(&ws);
    let before = Dataset::open(&ws).unwrap();
    std::fs::write(dir.path().join("a.jsonl"), "{\"t\": 3}\n{\"t\":0}\n{\"t\":1}\n").unwrap();
    assert!(matches!(Dataset::open(&ws), Err(DataError::Stale { .. })));
    // The old view notices, too: its rows are gone from where they were.
    assert!(matches!(before.row(1), Err(DataError::Stale { .. })));
    assert!(!import_all(&ws).cached);
    let after = Dataset::open(&ws).unwrap();
    assert_eq!((after.id(0), after.id(2)), (before.id(2), before.id(0)));
}

#[test]
fn an_import_is_kept_until_the_source_changes_or_it_is_forced() {
    let (dir, ws) = workspace(&[("a.jsonl", b"{\"t\":1}\n{bad\n")], "");
    assert!(matches!(Dataset::open(&ws), Err(DataError::NotImported)));
    assert!(!import_all(&ws).cached);
    let again = import_all(&ws);
    assert!(again.cached);
    assert_eq!((again.rows, again.quarantined_total, again.format.as_str()), (1, 1, "jsonl/records"));
    assert!(!import(&ws, true, &mut |_, _| {}).unwrap().cached);
    std::fs::write(dir.path().join("a.jsonl"), b"{\"t\":2}\n{bad\n").unwrap();
    assert!(!import_all(&ws).cached);
    assert_eq!(std::fs::read_dir(dir.path().join(".tunebench/index")).unwrap().count(), 2, "index and lock");
}

#[test]
fn a_damaged_index_is_never_trusted_and_rebuilt() {
    let (_dir, ws) = workspace(&[("a.jsonl", b"{\"t\":1}\n{\"t\":2}\n")], "");
    import_all(&ws);
    let path = import::index_path(&ws);
    let good = std::fs::read(&path).unwrap();
    let mut versions: Vec<Vec<u8>> = (0..good.len())
        .map(|i| good.iter().enumerate().map(|(j, b)| if i == j { b ^ 1 } else { *b }).collect())
        .collect();
    let other = [b"TBINDEX1", &good[8..]].concat();
    versions.extend([Vec::new(), good[..good.len() / 2].to_vec(), b"TBINDEX2".to_vec(), other, vec![0; 500]]);
    for bytes in versions {
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(Dataset::open(&ws), Err(DataError::Damaged { .. })));
    }
    assert!(!import_all(&ws).cached);
    assert_eq!(std::fs::read(&path).unwrap(), good);
}

#[test]
fn inputs_and_golds_come_from_the_settings_the_shape_or_a_guess() {
    let lines = b"{\"message\":\"hi\",\"team\":\"a\",\"n\":1}\n{\"message\":\"ho\",\"team\":\"b\",\"n\":2}\n";
    for (settings, expected) in [
        ("", ("hi", Some("a"))),
        ("input = \"{{ n }}: {{ message }}\"\ngold = \"n\"", ("1: hi", Some("1"))),
        ("gold = \"nothing\"", ("hi", None)),
    ] {
        let (_dir, ws) = workspace(&[("a.jsonl", lines)], settings);
        import_all(&ws);
        let data = Dataset::open(&ws).unwrap();
        let (input, gold) = data.resolve(&data.row(0).unwrap()).unwrap();
        assert_eq!((input.as_str(), gold.as_deref()), expected);
    }
    let (_dir, ws) = workspace(&[("a.jsonl", lines)], "input = \"{{ mesage }}\"");
    import_all(&ws);
    let error = Dataset::open(&ws).unwrap_err().to_string();
    assert!(error.contains("workspace.toml:3") && error.contains("did you mean `message`"), "{error}");
}

#[test]
fn threads_read_rows_at_once() {
    let text = (0..2000).map(|i| format!("{{\"i\":{i}}}")).collect::<Vec<_>>().join("\n");
    let (_dir, ws) = workspace(&[("a.jsonl", text.as_bytes())], "");
    import_all(&ws);
    let data = Dataset::open(&ws).unwrap();
    std::thread::scope(|scope| {
        for start in 0..4 {
            let data = &data;
            scope.spawn(move || {
                for i in (start..2000).step_by(3) {
                    assert_eq!(data.row(i).unwrap().fields["i"], json!(i));
                }
            });
        }
    });
}

/// Parquet files made by `tests/reference/parquet_fixtures.py`.
#[test]
fn parquet_with_snappy_zstd_and_nested_lists_is_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data");
    for name in ["nested-snappy.parquet", "nested-zstd.parquet"] {
        let r = read(&[(name, &std::fs::read(folder.join(name)).unwrap())]);
        let expected: Vec<Map<String, Value>> =
            serde_json::from_slice(&std::fs::read(folder.join("nested.json")).unwrap()).unwrap();
        let found: Vec<Map<String, Value>> = r.rows.into_iter().map(|r| r.fields).collect();
        assert_eq!(found, expected, "{name}");
        assert_eq!(r.report.format, "parquet/messages");
    }
}

#[test]
fn damaged_parquet_is_refused_without_a_panic() {
    let good = std::fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data/nested-snappy.parquet"),
    )
    .unwrap();
    for i in (4..good.len()).step_by(97) {
        let mut bytes = good.clone();
        bytes[i] ^= 0x5a;
        let (_dir, ws) = workspace(&[("a.parquet", &bytes)], "");
        let _ = import(&ws, false, &mut |_, _| {});
    }
    let (_dir, ws) = workspace(&[("a.parquet", &good[..good.len() - 20])], "");
    assert!(import(&ws, false, &mut |_, _| {}).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn rows_survive_any_spread_over_files_lines_and_formats(
        values in prop::collection::vec("[a-z\"\\\\,\\n\\r é{}\\[\\]]{1,12}", 0..12),
        cut in 0usize..12,
        crlf: bool,
        last_break: bool,
    ) {
        let end = if crlf { "\r\n" } else { "\n" };
        let (a, b) = values.split_at(cut.min(values.len()));
        let lines = |part: &[String]| {
            let text = part.iter().map(|v| json!({ "v": v }).to_string()).collect::<Vec<_>>().join(end);
            if last_break && !part.is_empty() { text + end } else { text }
        };
        let mut table = csv::WriterBuilder::new()
            .terminator(if crlf { csv::Terminator::CRLF } else { csv::Terminator::Any(b'\n') })
            .quote_style(csv::QuoteStyle::Always)
            .from_writer(Vec::new());
        table.write_record(["v"]).unwrap();
        for v in b {
            table.write_record([v]).unwrap();
        }
        let array = serde_json::to_vec_pretty(&b.iter().map(|v| json!({ "v": v })).collect::<Vec<_>>()).unwrap();
        for (name, bytes) in [("b.csv", table.into_inner().unwrap()), ("b.json", array), ("b.jsonl", lines(b).into_bytes())] {
            let r = read(&[("a.jsonl", lines(a).as_bytes()), (name, &bytes)]);
            prop_assert_eq!(texts_raw(&r), values.clone(), "{}", name);
            prop_assert!(r.report.quarantined.is_empty());
        }
    }

    #[test]
    fn no_bytes_make_the_import_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), name in "a\\.(jsonl|json|csv|tsv|parquet|bin)") {
        let (_dir, ws) = workspace(&[(&name, &bytes)], "");
        if import(&ws, false, &mut |_, _| {}).is_ok() {
            let data = Dataset::open(&ws).unwrap();
            for i in 0..data.len() {
                let row = data.row(i).unwrap();
                let _ = data.resolve(&row);
            }
        }
    }

    #[test]
    fn no_almost_json_makes_the_import_panic(text in "[\\[\\]{}\",:\\\\ a1\\n]{0,80}", name in "a\\.(jsonl|json|csv)") {
        let (_dir, ws) = workspace(&[(&name, text.as_bytes())], "");
        if import(&ws, false, &mut |_, _| {}).is_ok() {
            let data = Dataset::open(&ws).unwrap();
            (0..data.len()).for_each(|i| _ = data.row(i).unwrap());
        }
    }
}

fn texts_raw(read: &Read) -> Vec<String> {
    read.rows.iter().map(|r| r.fields["v"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Every column against the rows read one by one.
fn columns_agree(ws: &Workspace) {
    import_all(ws);
    let data = Dataset::open(ws).unwrap();
    let fields = data.fields().to_vec();
    let wanted: Vec<Of> =
        [Of::Input, Of::Gold].into_iter().chain(fields.iter().cloned().map(Of::Field)).collect();
    // The same whether made alone or with others.
    let alone: Vec<_> =
        wanted[2..].iter().map(|of| data.columns(std::slice::from_ref(of)).unwrap()[0].clone()).collect();
    let columns = data.columns(&wanted).unwrap();
    assert!(alone.iter().zip(&columns[2..]).all(|(a, b)| std::sync::Arc::ptr_eq(a, b)));
    for at in 0..data.len() {
        let row = data.row(at).unwrap();
        let plain = |text: String| text.replace('\0', "");
        let (input, gold) = data.resolve(&row).map_or((None, None), |(i, g)| (Some(plain(i)), g.map(plain)));
        assert_eq!(columns[0].get(at), input.as_deref());
        assert_eq!(columns[1].get(at), gold.as_deref());
        for (name, column) in fields.iter().zip(&columns[2..]) {
            let value = row.fields.get(name).and_then(shape::as_text).map(plain);
            assert_eq!(column.get(at), value.as_deref(), "{name} of {}", row.id);
        }
    }
    assert_eq!(columns[0].get(data.len()), None);
    // And they are the same when they are found again.
    let again = Dataset::open(ws).unwrap();
    for (a, b) in columns.iter().zip(again.columns(&wanted).unwrap()) {
        assert!((0..a.len()).all(|at| a.get(at) == b.get(at)));
    }
}

#[test]
fn columns_hold_what_the_rows_do_in_every_format() {
    for (name, text) in [
        (
            "a.jsonl",
            "{\"text\":\"Où est ma carte?\",\"label\":\"x\",\"n\":3,\"deep\":{\"k\":[1,2]}}\n{\"n\":null,\"text\":\"b\\u0000c\"}\nbroken\n{\"text\":\"\"}\n",
        ),
        ("a.csv", "text,label\n\"two\nlines, really\",a\nplain,\n"),
        ("a.txt", "one\n\nthree\n"),
        ("a.json", "[{\"text\":\"a\"},\n {\"text\":\"b\",\"label\":\"l\"}]"),
    ] {
        columns_agree(&workspace(&[(name, text.as_bytes())], "").1);
    }
    let many: String =
        (0..20_000).map(|i| format!("{{\"text\":\"row {i} {}\",\"n\":{i}}}\n", "x".repeat(i % 97))).collect();
    columns_agree(&workspace(&[("many.jsonl", many.as_bytes()), ("more.txt", b"here too\n")], "").1);
    columns_agree(
        &workspace(
            &[("a.jsonl", b"{\"q\":\"a\",\"w\":\"b\"}\n{\"w\":\"c\"}\n")],
            "input = \"{{ q }}-{{ w }}\"\ngold = \"w\"\n",
        )
        .1,
    );
}

#[test]
fn a_damaged_column_is_made_again_and_old_ones_go() {
    let (dir, ws) = workspace(&[("a.jsonl", b"{\"text\":\"a\"}\n{\"text\":\"b\"}\n")], "");
    import_all(&ws);
    let folder = dir.path().join(".tunebench/index/columns");
    let files = || std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
    Dataset::open(&ws).unwrap().columns(&[Of::Input]).unwrap();
    let [file] = &files()[..] else { panic!("{:?}", files()) };
    let whole = std::fs::read(file).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x41;
        std::fs::write(file, &bytes).unwrap();
        let column = Dataset::open(&ws).unwrap().columns(&[Of::Input]).unwrap();
        assert_eq!((column[0].get(0), column[0].get(1)), (Some("a"), Some("b")), "byte {at}");
    }
    for len in 0..whole.len() {
        std::fs::write(file, &whole[..len]).unwrap();
        assert_eq!(Dataset::open(&ws).unwrap().columns(&[Of::Input]).unwrap()[0].get(1), Some("b"));
    }
    std::fs::write(dir.path().join("a.jsonl"), "{\"text\":\"other\"}\n").unwrap();
    import_all(&ws);
    Dataset::open(&ws).unwrap().columns(&[Of::Input]).unwrap();
    assert_eq!(files().len(), 1);
    assert_ne!(files()[0], *file);
}

proptest! {
    #[test]
    fn searching_a_column_is_searching_its_values(
        values in proptest::collection::vec("[aAbßéÉ ]{0,4}", 0..200),
        needle in "[aAbßé ]{1,3}",
    ) {
        let text: String = values.iter().map(|v| format!("{}\n", json!({"text": v, "always": 1}))).collect();
        let (_dir, ws) = workspace(&[("a.jsonl", text.as_bytes())], "");
        import_all(&ws);
        let data = Dataset::open(&ws).unwrap();
        let column = data.columns(&[Of::Field("text".into())]).unwrap().remove(0);
        let found = column.containing(&needle);
        let lower = |s: &str| s.to_lowercase();
        for at in 0..data.len() {
            let want = column.get(at).is_some_and(|v| lower(v).contains(&lower(&needle)));
            prop_assert_eq!(found.has(at), want, "{:?} in {:?}", needle, column.get(at));
        }
    }
}
