"""Reads a JSONL file as polars or DuckDB do; prints seconds and the highest resident memory of this process.

tunebench bench import --words 155 --keep /tmp/million
pip install polars duckdb pyarrow
POLARS_MAX_THREADS=2 python benches/peers/import_frames.py polars /tmp/million/rows.jsonl
python benches/peers/import_frames.py duckdb /tmp/million/rows.jsonl --threads 2
"""

import argparse
import json
import resource
import time

parser = argparse.ArgumentParser()
parser.add_argument("peer", choices=["polars", "duckdb"])
parser.add_argument("file")
parser.add_argument("--threads", type=int, default=2, help="of DuckDB; polars takes POLARS_MAX_THREADS")
args = parser.parse_args()

if args.peer == "polars":
    import polars as pl
else:
    import duckdb

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.perf_counter()
if args.peer == "polars":
    rows = pl.read_ndjson(args.file).height
else:
    base = duckdb.connect()
    base.execute(f"SET threads = {args.threads}")
    base.execute("CREATE TABLE rows AS SELECT * FROM read_json(?, format = 'newline_delimited')", [args.file])
    rows = base.execute("SELECT count(*) FROM rows").fetchone()[0]
seconds = time.perf_counter() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"peer": args.peer, "rows": rows, "seconds": seconds, "peak_mib": peak / 1024, "before_mib": before / 1024}))
