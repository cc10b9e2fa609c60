"""How well `data problems --kind wrong-gold` finds golds that were changed.

Changes a share of the golds of a data set at random, each to another label drawn alike among all, lists what tunebench doubts, and prints
precision and recall: of all that is listed, and of as many as were changed (the first of the list). A row whose gold was wrong before counts
as a mistake, so that precision is a lower bound; `--truth FIELD` names a field with what is true, where that is known.

    python3 benches/wrong_gold.py --tunebench target/release/tunebench --data workspaces/demo/data/messages.jsonl --input message --gold team
    python3 benches/wrong_gold.py --tunebench target/release/tunebench --data train.csv test.csv --input text --gold category
"""

import argparse
import csv
import json
import os
import pathlib
import random
import shutil
import subprocess
import tempfile
import time


def rows_of(files):
    for file in files:
        with open(file, newline="", encoding="utf-8") as lines:
            yield from csv.DictReader(lines) if file.endswith(".csv") else map(json.loads, lines)


WORKSPACE = """
[workspace]
name = "wrong-gold"
task = "classification"
[data]
source = ["rows.jsonl"]
input = "{{ text }}"
gold = "gold"
[models.nobody]
endpoint = "http://127.0.0.1:9/v1"
model = "nobody"
[[stage]]
name = "answer"
model = "nobody"
prompt = "prompt.md"
output = "label"
"""


def doubted(binary, rows):
    folder = pathlib.Path(tempfile.mkdtemp(prefix="wrong-gold-"))
    try:
        (folder / "workspace.toml").write_text(WORKSPACE)
        (folder / "prompt.md").write_text("{{ input }}")
        with open(folder / "rows.jsonl", "w", encoding="utf-8") as out:
            for at, (text, gold) in enumerate(rows):
                out.write(json.dumps({"id": str(at), "text": text, "gold": gold}) + "\n")
        found, start = [], time.monotonic()
        while True:
            command = [binary, "-C", folder, "data", "problems", "--kind", "wrong-gold", "--json", "-n", "200", "--from", str(len(found))]
            answer = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "TUNEBENCH_IDLE_SECS": "5"})
            answer = json.loads(answer.stdout.splitlines()[-1])
            found += [(int(row["id"]), row["score"]) for row in answer["found"]]
            if not answer["found"] or len(found) >= answer["total"]:
                return found, time.monotonic() - start
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--tunebench", required=True)
    ask.add_argument("--data", nargs="+", required=True)
    ask.add_argument("--input", required=True)
    ask.add_argument("--gold", required=True)
    ask.add_argument("--truth")
    ask.add_argument("--rates", nargs="+", type=float, default=[0, 0.02, 0.05])
    ask.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    said = ask.parse_args()
    binary = str(pathlib.Path(said.tunebench).resolve())
    data = list(rows_of(said.data))
    labels = sorted({row[said.gold] for row in data})
    print("| changed | seed | wrong | listed | precision | recall | of the first as many | mean of what it says | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for rate in said.rates:
        for seed in said.seeds if rate else [0]:
            lot = random.Random(seed)
            golds = [row[said.gold] for row in data]
            for at in lot.sample(range(len(data)), round(rate * len(data))):
                golds[at] = lot.choice([label for label in labels if label != golds[at]])
            truth = [row[said.truth or said.gold] for row in data]
            wrong = {at for at, (gold, true) in enumerate(zip(golds, truth)) if gold != true}
            found, seconds = doubted(binary, [(row[said.input], gold) for row, gold in zip(data, golds)])
            hits = sum(at in wrong for at, _ in found)
            first = sum(at in wrong for at, _ in found[: len(wrong)])
            mean = sum(score for _, score in found) / max(len(found), 1)
            share = lambda part, whole: f"{part / whole:.3f}" if whole else "-"
            print(
                f"| {rate:.0%} | {seed or '-'} | {len(wrong)} | {len(found)} | {share(hits, len(found))} | {share(hits, len(wrong))} "
                f"| {share(first, len(wrong))} | {mean:.2f} | {seconds:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
