#!/usr/bin/env python3
"""`tunebench bench train-step` and its peer in turn, N pairs, as a Markdown table.

usage: train_step_pairs.py --tunebench BIN [--python PYTHON] [--pairs 5] [--passive] [flags of both, such as --seq 512]

Flags that are not its own go to both; `--recompute` is the peer's `--checkpointing`. PYTHON has torch, transformers and peft.
Every other pair begins with the peer, so that a load that rises or falls favours nobody. On a busy machine torch's threads lose
by spinning while they wait: `--passive` lets them sleep (OMP_WAIT_POLICY), which is the fairer peer there.
Prints the load average of the minute before each pair; a ratio taken on a busy machine is worth less.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

p = argparse.ArgumentParser()
p.add_argument("--tunebench", required=True)
p.add_argument("--python", default=sys.executable)
p.add_argument("--pairs", type=int, default=5)
p.add_argument("--passive", action="store_true")
a, flags = p.parse_known_args()
peer = pathlib.Path(__file__).parent / "peers" / "lora_step_torch.py"


def measure(command):
    env = os.environ | ({"OMP_WAIT_POLICY": "PASSIVE"} if a.passive else {})
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def ours():
    return measure([a.tunebench, "--json", "bench", "train-step", *flags])


def theirs():
    return measure([a.python, peer, *("--checkpointing" if f == "--recompute" else f for f in flags)])


print(f"`{' '.join(flags) or 'default shape'}`{', torch waits passively' if a.passive else ''}\n")
print("| pair | load | tunebench ms/step | floor ms | of floor | torch + peft ms/step | ratio | peak MiB | of memory |")
print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")


def row(name, load, t, floor, q, ratio, peak, torch_peak):
    print(f"| {name} | {load} | {t:,.1f} | {floor:,.1f} | {t / floor:.2f} | {q:,.1f} | {ratio:.2f} "
          f"| {peak:,.0f} against {torch_peak:,.0f} | {peak / torch_peak:.2f} |", flush=True)


table = []
for pair in range(1, a.pairs + 1):
    load = f"{os.getloadavg()[0]:.1f}"
    if pair % 2:
        t, q = ours(), theirs()
    else:
        q, t = theirs(), ours()
    assert t["trainable"] == q["trainable"], (t, q)
    table.append((t["ms_per_step"], t["floor_ms"], q["ms_per_step"], t["ms_per_step"] / q["ms_per_step"],
                  t["peak_mib"], q["peak_mib"]))
    row(pair, load, *table[-1])
if a.pairs > 1:
    row("median", "", *(statistics.median(column) for column in zip(*table)))
