//! Parquet files, converted once to lines of JSON: parquet has no rows that could be read by offset.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use parquet::basic::{ConvertedType, Type as Physical};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use serde_json::{Map, Number, Value};

use super::DataError;
use super::parse::clean;

/// Rows of a parquet file, from its footer.
pub(super) fn rows(path: &Path, shown: &str) -> Result<u64, DataError> {
    guarded(
        shown,
        || Ok(u64::try_from(open(path, shown)?.metadata().file_metadata().num_rows()).unwrap_or(0)),
    )
}

/// Hands over each row as a line of JSON, until `each` says false.
pub(super) fn each_line(
    path: &Path,
    shown: &str,
    each: &mut dyn FnMut(&[u8]) -> Result<bool, DataError>,
) -> Result<(), DataError> {
    guarded(shown, || {
        let reader = open(path, shown)?;
        refuse_unreadable(&reader, shown)?;
        let wrong = |e: parquet::errors::ParquetError| {
            DataError::input(shown, format!("is damaged or of an unknown kind: {}", clean(&e.to_string())))
        };
        let mut line = Vec::new();
        for row in reader.get_row_iter(None).map_err(wrong)? {
            let fields = object(row.map_err(wrong)?);
            line.clear();
            // Writing into memory does not fail.
            _ = serde_json::to_writer(&mut line, &fields);
            line.push(b'\n');
            if !each(&line)? {
                break;
            }
        }
        Ok(())
    })
}

/// Writes all rows as lines.
pub(super) fn convert(
    path: &Path,
    shown: &str,
    to: &File,
    progress: &mut dyn FnMut(u64),
) -> Result<(), DataError> {
    let mut out = BufWriter::with_capacity(1 << 20, to);
    let mut rows = 0;
    each_line(path, shown, &mut |line| {
        rows += 1;
        if rows % 4096 == 0 {
            progress(rows);
        }
        out.write_all(line).map_err(DataError::io("cannot write lines of", path))?;
        Ok(true)
    })?;
    out.flush().map_err(DataError::io("cannot write lines of", path))
}

/// The crate panics on some damaged files and on types that its record reader does not know.
fn guarded<T>(shown: &str, work: impl FnOnce() -> Result<T, DataError>) -> Result<T, DataError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(DataError::input(shown, "is damaged, or uses parquet types that are not known here"))
    })
}

fn open(path: &Path, shown: &str) -> Result<SerializedFileReader<File>, DataError> {
    let file = File::open(path).map_err(DataError::io("cannot read", path))?;
    SerializedFileReader::new(file)
        .map_err(|e| DataError::input(shown, format!("cannot be read as parquet: {}", clean(&e.to_string()))))
}

/// Names the column that the record reader would give up on.
fn refuse_unreadable(reader: &SerializedFileReader<File>, shown: &str) -> Result<(), DataError> {
    use ConvertedType as C;
    for column in reader.metadata().file_metadata().schema_descr().columns() {
        let unknown = matches!(
            (column.physical_type(), column.converted_type()),
            (
                Physical::INT32,
                C::TIME_MICROS | C::TIMESTAMP_MILLIS | C::TIMESTAMP_MICROS | C::INT_64 | C::UINT_64
            ) | (Physical::INT64, C::DATE | C::TIME_MILLIS | C::INT_8 | C::INT_16 | C::INT_32)
                | (Physical::BYTE_ARRAY | Physical::FIXED_LEN_BYTE_ARRAY, C::INTERVAL)
        );
        if unknown {
            let (name, kind) = (column.path().string(), column.converted_type());
            return Err(DataError::input(
                shown,
                format!(
                    "column `{}` has the type {kind}, which is not known here; write it as text",
                    clean(&name)
                ),
            ));
        }
    }
    Ok(())
}

fn object(row: Row) -> Map<String, Value> {
    row.into_columns().into_iter().map(|(name, field)| (name, value(&field))).collect()
}

fn value(field: &Field) -> Value {
    // NaN and infinities are no JSON numbers: null.
    let float = |x: f64| Number::from_f64(x).map_or(Value::Null, Value::Number);
    match field {
        Field::Null => Value::Null,
        Field::Bool(b) => Value::Bool(*b),
        Field::Byte(n) => Value::from(*n),
        Field::Short(n) => Value::from(*n),
        Field::Int(n) => Value::from(*n),
        Field::Long(n) => Value::from(*n),
        Field::UByte(n) => Value::from(*n),
        Field::UShort(n) => Value::from(*n),
        Field::UInt(n) => Value::from(*n),
        Field::ULong(n) => Value::from(*n),
        Field::Float16(n) => float(f64::from(*n)),
        // The shortest text that reads back as the same f32, not its expansion to f64.
        Field::Float(n) => n.to_string().parse().map_or(Value::Null, float),
        Field::Double(n) => float(*n),
        Field::Str(s) => Value::String(s.clone()),
        Field::Bytes(bytes) => Value::String(match std::str::from_utf8(bytes.data()) {
            Ok(text) => text.to_owned(),
            Err(_) => super::dataset::hex(bytes.data()),
        }),
        Field::Decimal(_)
        | Field::Date(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::TimestampMillis(_)
        | Field::TimestampMicros(_) => Value::String(field.to_string()),
        Field::Group(row) => {
            Value::Object(row.get_column_iter().map(|(n, f)| (n.clone(), value(f))).collect())
        }
        Field::ListInternal(list) => Value::Array(list.elements().iter().map(value).collect()),
        Field::MapInternal(map) => Value::Object(
            map.entries()
                .iter()
                .map(|(key, item)| {
                    let key = match value(key) {
                        Value::String(s) => s,
                        other => other.to_string(),
                    };
                    (key, value(item))
                })
                .collect(),
        ),
    }
}
