#!/usr/bin/env python3
"""Filters over a million rows, beside DuckDB on the same file.

tunebench bench import --words 155 --keep /tmp/million
pip install duckdb
benches/filter_pairs.py --tunebench target/release/tunebench --dir /tmp/million [--rounds 5]

Ours is the whole command `tunebench data rows --where ...`, process and answer of a page of rows included, against an engine that runs. The first
time makes the field's column; after it each round asks for another value. DuckDB is asked within one process: from the file each time, and from a table of all rows that it read before
(`duckdb_load_s`, in its memory). Every count must be the same. Prints the medians as a table.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

import duckdb

parser = argparse.ArgumentParser()
parser.add_argument("--tunebench", required=True)
parser.add_argument("--dir", type=pathlib.Path, required=True)
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()

# Each round asks for something else, so that nobody answers from memory. {} is the round's value.
WORDS = ["card", "transfer", "still", "waiting", "refund", "please", "account", "cannot", "login", "since"]
FILTERS = [
    ("channel={}", "channel = '{}'", ["mail", "chat", "phone"]),
    ("turns>{}", "turns > {}", range(1, 9)),
    ("customer>={} -channel=phone", "customer >= {} AND channel <> 'phone'", range(100_000, 900_000, 80_001)),
    ('message:"charged {}"', "message ILIKE '%charged {}%'", WORDS),
    ('message:"login refund {}" gold=cards', "message ILIKE '%login refund {}%' AND team = 'cards'", WORDS),
    ("len>{}", "length(message) > {}", range(1000, 1200, 19)),
]
FILE = args.dir / "rows.jsonl"


def ours(where):
    began = time.perf_counter()
    done = subprocess.run([args.tunebench, "-C", str(args.dir), "--json", "data", "rows", "--where", where, "-n", "1"], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return time.perf_counter() - began, json.loads(done.stdout.splitlines()[-1])["total"]


base = duckdb.connect()
base.execute(f"SET threads = {args.threads}")


def peer(table, where):
    began = time.perf_counter()
    count = base.execute(f"SELECT count(*) FROM {table} WHERE {where}").fetchone()[0]
    return time.perf_counter() - began, count


start, total = ours("id:m0000001")
print(f"engine started and first answer: {start:.2f} s", file=sys.stderr)
began = time.perf_counter()
base.execute(f"CREATE TABLE loaded AS SELECT * FROM read_json('{FILE}', format = 'newline_delimited')")
load = time.perf_counter() - began
print(f"DuckDB's table of all rows: {load:.2f} s", file=sys.stderr)
print("| filter | rows | ours, first s | ours, after ms | DuckDB, from the file s | DuckDB, from its table ms | ratio to file | to table |")
print("| --- | --- | --- | --- | --- | --- | --- | --- |")
for where, sql, values in FILTERS:
    values = list(values)
    first, _ = ours(where.format(values[0]))
    mine, file, table, counts = [], [], [], []
    for value in values[1 : args.rounds + 1]:
        seconds, count = ours(where.format(value))
        mine.append(seconds)
        counts.append(count)
        for times, of in [(file, f"read_json('{FILE}', format = 'newline_delimited')"), (table, "loaded")]:
            seconds, found = peer(of, sql.format(value))
            if found != count:
                sys.exit(f"{where.format(value)}: {count} rows of ours, {found} of the other")
            times.append(seconds)
    a, b, c = (statistics.median(times) for times in (mine, file, table))
    print(
        f"| `{where.format('..')}` | {min(counts)} to {max(counts)} | {first:.2f} | {a * 1e3:.1f} | {b:.2f} | {c * 1e3:.1f} | {a / b:.3f} | {a / c:.2f} |",
        flush=True,
    )
