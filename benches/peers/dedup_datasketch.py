"""Near duplicates of the texts of a file by datasketch, one text a line; prints seconds, and with --exact precision and recall of both.

tunebench bench dedup --save texts.txt --pairs ours.txt
pip install datasketch numpy scipy
python benches/peers/dedup_datasketch.py texts.txt --pairs ours.txt --exact 20000
"""

import argparse
import json
import re
import time

import numpy as np
from datasketch import MinHash, MinHashLSH

parser = argparse.ArgumentParser()
parser.add_argument("texts")
parser.add_argument("--threshold", type=float, default=0.7)
parser.add_argument("--pairs", help="pairs that tunebench found")
parser.add_argument("--exact", type=int, default=0, help="hold pairs of the first so many texts against the exact likeness")
args = parser.parse_args()


def normal(text):
    """As tunebench compares: lower case, letters and digits, single blanks."""
    return " ".join(re.sub(r"[\W_]", " ", text.lower()).split())


def grams(text):
    return {text[i : i + 5] for i in range(max(1, len(text) - 4))}


texts = open(args.texts, encoding="utf-8").read().split("\n")
began = time.perf_counter()
sets = [grams(normal(text)) for text in texts]
lsh = MinHashLSH(threshold=args.threshold, num_perm=128)
hashes = MinHash.bulk(([gram.encode() for gram in s] for s in sets), num_perm=128)
found = set()
for i, h in enumerate(hashes):
    found.update((j, i) for j in lsh.query(h))
    lsh.insert(i, h, check_duplication=False)
listed = time.perf_counter() - began


def likeness(a, b):
    return len(sets[a] & sets[b]) / len(sets[a] | sets[b])


checked = {pair for pair in found if likeness(*pair) >= args.threshold}
seconds = time.perf_counter() - began
result = {"texts": len(texts), "seconds": seconds, "seconds_unchecked": listed, "pairs": len(checked), "pairs_unchecked": len(found)}

if args.exact:
    from scipy.sparse import csr_matrix

    n = min(args.exact, len(texts))
    vocabulary = {}
    columns = [[vocabulary.setdefault(g, len(vocabulary)) for g in s] for s in sets[:n]]
    indptr = np.cumsum([0] + [len(c) for c in columns])
    m = csr_matrix((np.ones(indptr[-1], np.int32), np.concatenate(columns), indptr), shape=(n, len(vocabulary)))
    sizes = np.diff(indptr)
    truth = set()
    for start in range(0, n, 500):
        both = (m[start : start + 500] @ m.T).tocoo()
        a, b = both.row + start, both.col
        j = both.data / (sizes[a] + sizes[b] - both.data)
        keep = (a < b) & (j >= args.threshold)
        truth.update(zip(a[keep].tolist(), b[keep].tolist()))

    def against(pairs):
        pairs = {p for p in pairs if p[1] < n}
        hit = len(pairs & truth)
        return {"precision": hit / max(1, len(pairs)), "recall": hit / max(1, len(truth)), "pairs": len(pairs)}

    result["exact"] = {"texts": n, "pairs": len(truth), "datasketch": against(found), "datasketch_checked": against(checked)}
    if args.pairs:
        ours = {tuple(int(v) for v in line.split()[:2]) for line in open(args.pairs)}
        result["exact"]["tunebench"] = against(ours)
print(json.dumps(result))
