//! Rows into a file that other programs read: lines of JSON, CSV or parquet.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{Compression, ConvertedType, Repetition, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;
use serde_json::{Map, Value};

use super::shape::as_text;

/// Rows of one row group, which waits in memory.
const GROUP: usize = 16_384;

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    Jsonl,
    Csv,
    Parquet,
}

impl Written {
    /// By how the file's name ends.
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_lowercase().as_str() {
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            "csv" => Some(Self::Csv),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}

/// Writes objects under fixed names. CSV and parquet hold texts: what is no string there stands as JSON; what is missing is empty or null.
pub struct RowWriter {
    names: Vec<String>,
    sink: Sink,
    temporary: PathBuf,
    path: PathBuf,
}

enum Sink {
    Jsonl(BufWriter<File>),
    Csv(Box<csv::Writer<BufWriter<File>>>),
    Parquet { writer: SerializedFileWriter<File>, columns: Vec<Vec<Option<ByteArray>>> },
}

impl RowWriter {
    pub fn new(path: &Path, written: Written, names: Vec<String>) -> anyhow::Result<Self> {
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let file = File::create(&temporary)?;
        let sink = match written {
            Written::Jsonl => Sink::Jsonl(BufWriter::with_capacity(1 << 20, file)),
            Written::Csv => {
                let mut writer = csv::Writer::from_writer(BufWriter::with_capacity(1 << 20, file));
                writer.write_record(&names)?;
                Sink::Csv(Box::new(writer))
            }
            Written::Parquet => {
                let column = |name: &String| {
                    Ok(Arc::new(
                        Type::primitive_type_builder(name, Physical::BYTE_ARRAY)
                            .with_repetition(Repetition::OPTIONAL)
                            .with_converted_type(ConvertedType::UTF8)
                            .build()?,
                    ))
                };
                let fields = names.iter().map(column).collect::<anyhow::Result<Vec<_>>>()?;
                let schema = Type::group_type_builder("row").with_fields(fields).build()?;
                let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
                let writer = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties))?;
                Sink::Parquet { writer, columns: vec![Vec::new(); names.len()] }
            }
        };
        Ok(Self { names, sink, temporary, path: path.to_owned() })
    }

    pub fn put(&mut self, row: &Map<String, Value>) -> anyhow::Result<()> {
        let text = |name: &String| match row.get(name) {
            Some(Value::String(text)) => Some(text.clone()),
            value => value.and_then(as_text),
        };
        match &mut self.sink {
            Sink::Jsonl(out) => {
                serde_json::to_writer(&mut *out, row)?;
                out.write_all(b"\n")?;
            }
            Sink::Csv(writer) => {
                writer.write_record(self.names.iter().map(|name| text(name).unwrap_or_default()))?;
            }
            Sink::Parquet { writer, columns } => {
                for (column, name) in columns.iter_mut().zip(&self.names) {
                    column.push(text(name).map(|t| ByteArray::from(t.into_bytes())));
                }
                if columns.first().is_some_and(|c| c.len() >= GROUP) {
                    group(writer, columns)?;
                }
            }
        }
        Ok(())
    }

    /// fsync and rename: the file appears whole.
    pub fn finish(self) -> anyhow::Result<()> {
        let file = match self.sink {
            Sink::Jsonl(out) => out.into_inner()?,
            Sink::Csv(writer) => {
                writer.into_inner().map_err(|e| anyhow::anyhow!("{}", e.error()))?.into_inner()?
            }
            Sink::Parquet { mut writer, mut columns } => {
                group(&mut writer, &mut columns)?;
                writer.into_inner()?
            }
        };
        file.sync_all()?;
        std::fs::rename(&self.temporary, &self.path)?;
        Ok(())
    }

    /// What is left of a file that was not finished.
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }
}

fn group(
    writer: &mut SerializedFileWriter<File>,
    columns: &mut [Vec<Option<ByteArray>>],
) -> anyhow::Result<()> {
    if columns.first().is_none_or(Vec::is_empty) {
        return Ok(());
    }
    let mut rows = writer.next_row_group()?;
    for column in columns.iter_mut() {
        let levels: Vec<i16> = column.iter().map(|v| i16::from(v.is_some())).collect();
        let values: Vec<ByteArray> = column.drain(..).flatten().collect();
        if let Some(mut out) = rows.next_column()? {
            out.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None)?;
            out.close()?;
        }
    }
    rows.close()?;
    Ok(())
}
