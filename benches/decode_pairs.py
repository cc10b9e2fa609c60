#!/usr/bin/env python3
"""`tunebench bench decode` and its peer in turn, N pairs, as a Markdown table.

usage: decode_pairs.py --tunebench BIN --mode batch|single [--python PYTHON] [--pairs 3] [--passive] [flags of both, such as --rows 16]

Flags that are not its own go to both. PYTHON has torch and transformers. Every other pair begins with the peer, so that a load that
rises or falls favours nobody; `--passive` lets torch's threads sleep while they wait (OMP_WAIT_POLICY), which is the fairer peer
on a busy machine. Prints the load average of the minute before each pair.
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
p.add_argument("--mode", required=True, choices=["batch", "single"])
p.add_argument("--python", default=sys.executable)
p.add_argument("--pairs", type=int, default=3)
p.add_argument("--passive", action="store_true")
a, flags = p.parse_known_args()
flags = ["--mode", a.mode, *flags]
peer = pathlib.Path(__file__).parent / "peers" / "decode_torch.py"


def measure(command):
    env = os.environ | ({"OMP_WAIT_POLICY": "PASSIVE"} if a.passive else {})
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def ours():
    return measure([a.tunebench, "--json", "bench", "decode", *flags])


def theirs():
    return measure([a.python, peer, *flags])


rate = {"batch": "rows_per_s", "single": "tokens_per_s"}[a.mode]
print(f"`{' '.join(flags)}`{', torch waits passively' if a.passive else ''}\n")
print(f"| pair | load | tunebench {rate.replace('_per_', '/')} | transformers | ratio | MBU | GB/s | peak MiB |")
print("| --- | --- | --- | --- | --- | --- | --- | --- |")


def row(name, load, t, q, ratio, mbu, bandwidth, peak, torch_peak):
    of_memory = f"{mbu:.2f} | {bandwidth:.1f}" if mbu else "| "
    print(f"| {name} | {load} | {t:,.2f} | {q:,.2f} | {ratio:.1f} | {of_memory} | {peak:,.0f} against {torch_peak:,.0f} |", flush=True)


table = []
for pair in range(1, a.pairs + 1):
    load = f"{os.getloadavg()[0]:.1f}"
    if pair % 2:
        t, q = ours(), theirs()
    else:
        q, t = theirs(), ours()
    mine, other = t[a.mode], q[a.mode]
    table.append((mine[rate], other[rate], mine[rate] / other[rate], mine.get("mbu", 0), mine.get("bandwidth_gb_s", 0),
                  t["peak_mib"], q["peak_mib"]))
    row(pair, load, *table[-1])
if a.pairs > 1:
    row("median", "", *(statistics.median(column) for column in zip(*table)))
