"""Writes tests/fixtures/data/nested-*.parquet and nested.json, the same rows as JSON. Needs pyarrow.

Lists of structs (chat messages), nulls, 64-bit integers, floats, dates, times, decimals, bytes, dictionaries; snappy and
zstd; several row groups and data pages.
"""

import datetime
import decimal
import json
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

folder = pathlib.Path(__file__).parent.parent / "fixtures" / "data"
folder.mkdir(parents=True, exist_ok=True)

message = pa.struct([("role", pa.string()), ("content", pa.string())])
schema = pa.schema(
    [
        ("id", pa.int64()),
        ("messages", pa.list_(message)),
        ("tags", pa.list_(pa.string())),
        ("score", pa.float64()),
        ("weight", pa.float32()),
        ("ok", pa.bool_()),
        ("day", pa.date32()),
        ("price", pa.decimal128(9, 2)),
        ("raw", pa.binary()),
        ("channel", pa.dictionary(pa.int32(), pa.string())),
        ("deep", pa.struct([("inner", pa.list_(pa.list_(pa.int32())))])),
    ]
)
rows, expected = [], []
for i in range(40):
    row = {
        "id": 2**53 + 1 + i,
        "messages": [{"role": "user", "content": f"question {i} é"}, {"role": "assistant", "content": f"answer {i}"}],
        "tags": [] if i % 3 == 0 else [f"t{i}", None],
        "score": None if i % 5 == 0 else i / 7,
        "weight": i / 8,
        "ok": i % 2 == 0,
        "day": datetime.date(2024, 1, 1 + i % 28),
        "price": decimal.Decimal(i) / 4,
        "raw": b"\x00\xff" if i % 2 else b"text",
        "channel": ["chat", "mail"][i % 2],
        "deep": {"inner": [[i], [], [1, 2]]},
    }
    rows.append(row)
    expected.append(
        row
        | {
            "day": row["day"].isoformat(),
            "price": f"{row['price']:.2f}",
            "raw": "00ff" if i % 2 else "text",
        }
    )
table = pa.Table.from_pylist(rows, schema=schema)
for codec in ["snappy", "zstd"]:
    pq.write_table(table, folder / f"nested-{codec}.parquet", compression=codec, row_group_size=16, data_page_size=256)
(folder / "nested.json").write_text(json.dumps(expected, indent=0, ensure_ascii=False) + "\n")
