#!/usr/bin/env python3
"""tunebench's prompt and trajectory tuning beside DSPy's MIPROv2, GEPA and KNNFewShot: same model, same rows, same budget of calls.

usage: against_dspy.py --tunebench BIN --repo DIR --dir WORK [--tasks teams problems] [--seeds 1 2 3] [--budget 2400]
                       [--critics none scripted] [--rivals MIPROv2 "MIPROv2 0-shot" GEPA "KNNFewShot k=5"]
                       [--ours prompt trajectory both] [--own-budgets 1200]

The model is the demo's base behind `tunebench serve`; in front of it stands an endpoint that counts (`endpoint.py`). Both sides ask it,
and calls are counted there. Tasks: `teams`, the demo's (5,600 messages, 900 to score on), and `problems`, what is the matter in a message
(the planner's first stage, 2,400 messages made by `cargo run --example make_demo -- planner DIR 2400`). The rows' parts are those of the
workspace: train and dev are for tuning, however a tuner likes; the eval part is asked once, at the end.

Critic: `none` leaves both sides the base model alone (DSPy must have a proposer: it is the base itself, which cannot write; tunebench
goes without). `scripted` is a model that answers from a list of 30 instructions (`endpoint.py`), the same in the same order for both.

calls: what tuning asked of the model, critic included. DSPy's KNNFewShot tunes nothing, it asks again with every answer: what
its answers to the eval rows cost beyond one call each is counted instead. points: what is gained over the start on the eval rows.
What is finished is kept (WORK/results.jsonl) and not done again. Prints Markdown.
Needs: pip install dspy==3.4.1 optuna scikit-learn
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import time

p = argparse.ArgumentParser()
p.add_argument("--tunebench", required=True)
p.add_argument("--repo", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parents[2])
p.add_argument("--serve", help="the binary that serves the model; without: the same")
p.add_argument("--dir", type=pathlib.Path, required=True)
p.add_argument("--tasks", nargs="+", default=["teams", "problems"])
p.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
p.add_argument("--budget", type=int, default=2400)
p.add_argument("--own-budgets", type=int, nargs="*", default=[], help="further budgets for tunebench")
p.add_argument("--critics", nargs="+", default=["none", "scripted"])
p.add_argument("--rivals", nargs="*", default=["MIPROv2", "MIPROv2 0-shot", "GEPA", "KNNFewShot k=5"])
p.add_argument("--ours", nargs="*", default=["prompt", "trajectory", "both"])
p.add_argument("--planner", type=pathlib.Path, help="a folder made by `make_demo -- planner DIR 2400`")
p.add_argument("--threads", type=int, default=4, help="questions at once, on both sides")
a = p.parse_args()
a.dir.mkdir(parents=True, exist_ok=True)
os.environ.setdefault("TMPDIR", str(a.dir))

import dspy_peer
from endpoint import Endpoint

RESULTS = a.dir / "results.jsonl"
START = {"teams": "Which team should handle this message?", "problems": "Which team should handle this message?"}


def tunebench(workspace, *args):
    command = [a.tunebench, "-C", str(workspace), "--json", *args]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def workspace_of(task, folder, url):
    """The task with its model behind the endpoint."""
    shutil.rmtree(folder, ignore_errors=True)
    demo = a.repo / "workspaces/demo"
    (folder / "data").mkdir(parents=True)
    (folder / "prompts").mkdir()
    (folder / "prompts/route.md").write_text(START[task] + "\n\n{{ input }}\n")
    text = (demo / "workspace.toml").read_text()
    text = re.sub(r'\[models.base\]\npath = "model"', f'[models.base]\nendpoint = "{url}"\nmodel = "model"\nmax_in_flight = {a.threads}\n\n[models.critic]\nendpoint = "{url}"\nmodel = "critic"', text)
    if task == "teams":
        shutil.copy(demo / "data/messages.jsonl", folder / "data/messages.jsonl")
    else:
        source = a.planner or a.dir / "planner"
        if not (source / "data/messages.jsonl").exists():
            subprocess.run(["cargo", "run", "--example", "make_demo", "--", "planner", str(source.resolve()), "2400"], cwd=a.repo, check=True)
        rows = [json.loads(line) for line in (source / "data/messages.jsonl").read_text().splitlines()]
        keep = ("id", "message", "channel", "intent")
        (folder / "data/messages.jsonl").write_text("".join(json.dumps({k: r[k] for k in keep}) + "\n" for r in rows))
        text = text.replace('gold = "team"', 'gold = "intent"').replace('group = "customer"', "#").replace("eval = 0.15", "eval = 0.30")
    (folder / "workspace.toml").write_text(text)


def rows_of(task):
    """Parts and rows as tunebench deals them out."""
    kept = a.dir / f"rows-{task}.json"
    if not kept.exists():
        folder = a.dir / f"rows-{task}"
        workspace_of(task, folder, "http://127.0.0.1:9/v1")
        text = (folder / "workspace.toml").read_text()
        text = re.sub(r"\[models.base\]\nendpoint.*?\n\n\[models.critic\].*?\n\n", f'[models.base]\npath = "{(a.repo / "workspaces/demo/model").resolve()}"\n\n', text, flags=re.S)
        (folder / "workspace.toml").write_text(text)
        run = tunebench(folder, "run", "prompt", "--set", "tuning.prompt.epochs=1", "--set", "tuning.prompt.rows=12", "--set", "tuning.prompt.fan_out=4", "--set", "tuning.prompt.survivors=1")
        lines = (folder / ".tunebench/runs" / run["run"] / "inputs/rows.jsonl").read_text().splitlines()
        parts = {"train": [], "dev": [], "eval": []}
        for row in map(json.loads, lines):
            if row.get("part") in parts and row.get("gold"):
                parts[row["part"]].append({k: row[k] for k in ("id", "input", "gold")})
        kept.write_text(json.dumps(parts))
    return json.loads(kept.read_text())


def serve():
    env = dict(os.environ, TUNEBENCH_LOG="error")
    process = subprocess.Popen(
        [a.serve or a.tunebench, "serve", str(a.repo / "workspaces/demo/model"), "--port", "0", "--show-token", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env,
    )
    told = json.loads(process.stdout.readline())
    host, port = re.match(r"http://([\d.]+):(\d+)", told["url"]).groups()
    return process, (host, int(port), told["token"]), told["models"][0]


def one(task, critic, who, seed):
    """One tuning, scored on the eval rows."""
    rows = rows_of(task)
    others = {r["input"] for part in ("train", "dev") for r in rows[part]}
    process, upstream, model = serve()
    began = time.monotonic()
    try:
        endpoint = Endpoint(upstream, model, seed, [r["input"] for r in rows["eval"] if r["input"] not in others])
        told = {}
        if who.startswith("tunebench"):
            how, *at = who.removeprefix("tunebench ").split(" at ")
            folder = a.dir / f"ws-{task}-{critic}-{'-'.join([how, *at])}-{seed}"
            workspace_of(task, folder, endpoint.url)
            score, told = with_tunebench(how, int(at[0]) if at else a.budget, folder, critic, seed, endpoint)
            tuning = told["tuning"]
        else:
            program, lm = dspy_peer.tune(who, START[task], rows, endpoint.url, model, critic == "scripted", a.budget, seed, a.threads)
            tuning = endpoint.counts["tuning"] + endpoint.counts["critic"]
            score = dspy_peer.score(program, lm, rows["eval"], a.threads)
            if who.startswith("KNN"):
                # Neighbours that it asks about anew with each answer.
                tuning = endpoint.counts["tuning"]
            if not who.startswith("KNN"):
                told["instruction"], told["demos"] = dspy_peer.instruction(program)
    finally:
        process.terminate()
        process.wait()
    result = dict(task=task, critic=critic, who=who, seed=seed, score=score, calls=tuning, seconds=round(time.monotonic() - began, 1), counts=endpoint.counts, **told)
    with RESULTS.open("a") as file:
        file.write(json.dumps(result) + "\n")
    print(json.dumps(result), file=sys.stderr)


def with_tunebench(how, left, folder, critic, seed, endpoint):
    told = {}
    tuned = []
    before = lambda: endpoint.counts["tuning"] + endpoint.counts["critic"]
    if how in ("prompt", "both"):
        sets = [f"tuning.prompt.budget.calls={left if how == 'prompt' else left // 2}", f"tuning.prompt.seed={seed}"]
        if critic == "scripted":
            sets.append("tuning.prompt.critic=critic")
        run = tunebench(folder, "run", "prompt", *(f"--set={s}" for s in sets))
        tuned.append(run)
        left -= before()
    if how in ("trajectory", "both"):
        sets = [f"tuning.trajectory.budget.calls={left}"]
        if tuned:
            sets.append(f"candidate={tuned[-1]['candidate']}")
        run = tunebench(folder, "run", "trajectory", *(f"--set={s}" for s in sets))
        tuned.append(run)
    told["tuning"] = before()
    told["said"] = [run["metrics"].get("calls") for run in tuned]
    shown = subprocess.run([a.tunebench, "-C", str(folder), "prompts"], capture_output=True, text=True).stdout.splitlines()
    told["instruction"] = shown[-1] if shown else ""
    return tuned[-1]["metrics"]["accuracy"], told


def main():
    done = set()
    if RESULTS.exists():
        done = {tuple(r[k] for k in ("task", "critic", "who", "seed")) for r in map(json.loads, RESULTS.read_text().splitlines())}
    for task in a.tasks:
        plan = [("none", "start", a.seeds[0])]
        for seed in a.seeds:
            for critic in a.critics:
                ours = [f"tunebench {how}" for how in a.ours] + [f"tunebench {how} at {n}" for n in a.own_budgets for how in a.ours]
                for who in ours + a.rivals:
                    # What asks no critic is the same with and without one, what draws nothing the same for every seed.
                    asks_none = who.startswith(("KNN", "tunebench trajectory"))
                    if not asks_none or (critic == a.critics[0] and seed == a.seeds[0]):
                        plan.append((critic, who, seed))
        for critic, who, seed in plan:
            if (task, critic, who, seed) not in done:
                one(task, critic, who, seed)
    table()


def table():
    results = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    print("| task | critic | tuner | fresh score (each seed) | mean | calls | points gained | calls a point |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for task in a.tasks:
        start = next(r["score"] for r in results if r["task"] == task and r["who"] == "start")
        groups = {}
        for r in results:
            if r["task"] == task and r["who"] != "start":
                groups.setdefault((r["critic"], r["who"]), []).append(r)
        for (critic, who), runs in sorted(groups.items()):
            mean, calls = statistics.mean(r["score"] for r in runs), statistics.mean(r["calls"] for r in runs)
            points = 100 * (mean - start)
            each = " ".join(f".{round(1000 * r['score']):03d}" for r in sorted(runs, key=lambda r: r["seed"]))
            per = f"{calls / points:.0f}" if points >= 0.5 else "no gain"
            print(f"| {task} (start .{round(1000 * start):03d}) | {critic} | {who} | {each} | .{round(1000 * mean):03d} | {calls:.0f} | {points:+.1f} | {per} |")


main()
