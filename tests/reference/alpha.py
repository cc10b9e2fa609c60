"""Krippendorff's alpha (nominal) by the package `krippendorff`: pip install krippendorff numpy; python tests/reference/alpha.py

Writes tests/fixtures/score/alpha.json: annotators x units, null where one said nothing; alpha, or null where it has no value.
"""

import json
import pathlib
import random

import krippendorff
import numpy as np


def alpha(table):
    words = sorted({w for row in table for w in row if w is not None})
    data = [[np.nan if w is None else words.index(w) for w in row] for row in table]
    units = [[row[u] for row in table if row[u] is not None] for u in range(len(table[0]))]
    paired = [w for unit in units if len(unit) > 1 for w in unit]
    if len(set(paired)) < 2:
        return None
    return float(krippendorff.alpha(reliability_data=data, level_of_measurement="nominal", value_domain=range(len(words))))


rng = random.Random(7)
# Krippendorff 2011, section C: four observers, twelve units, missing values; alpha = 0.743.
observers = ["1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", ". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 ."]
cases = {
    "krippendorff 2011 C": [[None if w == "." else w for w in row.split()] for row in observers],
    "two annotators, binary": [list("0101000000"), list("0111100000")],
    "all say the same": [list("aaaa"), list("aaaa")],
    "nobody shares a unit": [["a", None], [None, "b"]],
    "apart on everything": [list("abab"), list("baba")],
}
for n in range(8):
    words = "abcde"[: rng.randint(2, 5)]
    units = rng.randint(3, 40)
    truth = [rng.choice(words) for _ in range(units)]
    noise, gaps = rng.random(), 0.5 * rng.random()
    pick = lambda w: None if rng.random() < gaps else (rng.choice(words) if rng.random() < noise else w)
    cases[f"random {n}"] = [[pick(w) for w in truth] for _ in range(rng.randint(2, 5))]
out = [{"name": name, "table": table, "alpha": alpha(table)} for name, table in cases.items()]
path = pathlib.Path(__file__).parent.parent / "fixtures/score/alpha.json"
path.write_text(json.dumps(out, indent=1) + "\n")
print(*(f"{case['name']}: {case['alpha']}" for case in out), sep="\n")
