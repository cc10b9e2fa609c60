#!/usr/bin/env python3
"""What preflight reckons of a training step's memory, beside what the step takes, over eight shapes, as a Markdown table.

usage: reckoned.py --tunebench BIN
"""

import argparse
import json
import subprocess

SHAPES = [
    "",
    "--seq 512 --recompute",
    "--batch 3",
    "--rank 64",
    "--batch 1 --seq 1024",
    "--hidden 256 --layers 4 --ffn 704",
    "--hidden 1024 --ffn 2816 --layers 4 --vocab 32000 --batch 4",
    "--hidden 64 --heads 2 --kv-heads 2 --layers 2 --ffn 128 --vocab 512",
]

p = argparse.ArgumentParser()
p.add_argument("--tunebench", required=True)
a = p.parse_args()
print("| shape | reckoned MiB | taken MiB | reckoned / taken |\n| --- | --- | --- | --- |")
for shape in SHAPES:
    command = [a.tunebench, "--json", "bench", "train-step", "--steps", "2", *shape.split()]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    r = json.loads(done.stdout.splitlines()[-1])
    reckoned, taken = r["reckoned_mib"], r["peak_mib"]
    print(f"| `{shape or 'default'}` | {reckoned} | {taken} | {reckoned / taken:.2f} |", flush=True)
