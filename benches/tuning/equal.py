#!/usr/bin/env python3
"""How often a gain is claimed where there is none: prompt tuning of a model for which all prompts are equally good.

usage: equal.py --tunebench BIN --dir WORK [--runs 100] [--epochs 2 --fan-out 8 --rows 30]

The model is an endpoint of this script. It is right with chance 0.7 whatever the prompt, and for 60% of the rows right or wrong with
all prompts alike: as different prompts of one quality do. Prints how many of the intervals of the reported gain cover zero (a run in which
nothing beat the start on fresh rows reports none, and counts as covering), and what the winners scored where they were selected.
"""

import argparse
import hashlib
import http.server
import json
import pathlib
import shutil
import subprocess
import sys
import threading

p = argparse.ArgumentParser()
p.add_argument("--tunebench", required=True)
p.add_argument("--dir", type=pathlib.Path, required=True)
p.add_argument("--runs", type=int, default=100)
p.add_argument("--epochs", type=int, default=2)
p.add_argument("--fan-out", type=int, default=8)
p.add_argument("--rows", type=int, default=30)
a = p.parse_args()

LABELS = ["a", "b"]
SEED = 0


def chance(*what):
    return int.from_bytes(hashlib.blake2b(repr(what).encode(), digest_size=6).digest(), "big") / 2**48


def answer(prompt):
    """The row's number ends its text and decides its gold."""
    row = int(prompt.rsplit("number ", 1)[1].split()[0])
    own = "" if chance(SEED, "shared", prompt.rsplit("number ", 1)[0], row) < 0.6 else prompt
    right = chance(SEED, own, row) < 0.7
    return LABELS[row % 2 if right else 1 - row % 2]


class Model(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": answer(asked["messages"][-1]["content"])}}
        body = json.dumps({"object": "chat.completion", "choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 1}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Model)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()

shutil.rmtree(a.dir, ignore_errors=True)
(a.dir / "data").mkdir(parents=True)
rows = [{"id": f"r{i}", "text": f"This text has the number {i}", "label": LABELS[i % 2]} for i in range(400)]
(a.dir / "data/rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
(a.dir / "prompt.md").write_text("Sort this text.\n\n{{ input }}\n")
(a.dir / "workspace.toml").write_text(f"""
[workspace]
name = "equal"
task = "classification"
[data]
source = ["data/rows.jsonl"]
input = "{{{{ text }}}}"
gold = "label"
[data.split]
eval = 0.05
dev = 0.7
[models.base]
endpoint = "http://127.0.0.1:{server.server_port}/v1"
model = "equal"
max_in_flight = 4
[[stage]]
name = "s"
model = "base"
prompt = "prompt.md"
output = "label"
max_tokens = 2
[eval]
primary = "accuracy"
metrics = ["accuracy"]
latency_rows = 1
[cache]
off = true
""")

covered, claimed, selected, calls = 0, 0, [], 0
for SEED in range(a.runs):
    sets = dict(seed=SEED, epochs=a.epochs, fan_out=a.fan_out, rows=a.rows, survivors=min(3, a.fan_out))
    command = [a.tunebench, "-C", str(a.dir), "--json", "run", "prompt", *(f"--set=tuning.prompt.{k}={v}" for k, v in sets.items())]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    metrics = json.loads(done.stdout.splitlines()[-1])["metrics"]
    calls += metrics["calls"]
    if metrics.get("gain_rows"):
        claimed += 1
        selected.append(metrics["selected"])
    covered += not metrics.get("gain_rows") or metrics["gain_low"] <= 0.0 <= metrics["gain_high"]
    print(f"run {SEED}: covered {covered} of {SEED + 1}", file=sys.stderr)

mean = sum(selected) / max(len(selected), 1)
print(f"{covered} of {a.runs} intervals cover zero; {claimed} runs had a version to compare, selected at {mean:.3f} where all are 0.700; {calls / a.runs:.0f} calls a run")
