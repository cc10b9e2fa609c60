"""Peer of `tunebench bench compare`: the same comparison with pyarrow, numpy and scipy, on the same files.

    tunebench --json bench compare --keep /tmp/outcomes
    python benches/peers/compare_numpy.py --dir /tmp/outcomes --threads 2

Reading is pyarrow's (threaded, only the columns needed); rows are matched by one comparison of the id columns, and joined only where they
differ. The bootstrap of right/wrong differences draws counts (rng.multinomial), which takes no time to speak of; that of values which
all differ draws rows (rng.integers, take, mean) on all threads. `--graded-rounds` of its rounds are run and the time is scaled up to `--rounds`.
scipy.stats.bootstrap (percentile, vectorized, one thread as it is) is scaled likewise from `--scipy-rounds`.
"""

import argparse
import json
import os
import resource
import time
from concurrent.futures import ThreadPoolExecutor

parser = argparse.ArgumentParser()
parser.add_argument("--dir", required=True)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--rounds", type=int, default=10_000)
parser.add_argument("--graded-rounds", type=int, default=1_000)
parser.add_argument("--scipy-rounds", type=int, default=100)
args = parser.parse_args()
os.environ.update({name: str(args.threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ARROW_NUM_THREADS")})

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.json as pj  # noqa: E402
from scipy import stats  # noqa: E402

pa.set_cpu_count(args.threads)


def timed(work):
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


SCHEMA = pa.schema(
    [
        ("row", pa.string()),
        ("row_hash", pa.string()),
        ("stratum", pa.string()),
        ("output", pa.string()),
        ("scores", pa.struct([("accuracy", pa.float64()), ("json_fields", pa.float64())])),
    ]
)


def read(side):
    parse = pj.ParseOptions(explicit_schema=SCHEMA, unexpected_field_behavior="ignore")
    options = pj.ReadOptions(block_size=16 << 20)
    return pj.read_json(os.path.join(args.dir, side, "outcomes.jsonl"), read_options=options, parse_options=parse)


read_s, (a, b) = timed(lambda: (read("a"), read("b")))


def paired(name):
    """Scores of both on the same rows."""
    if not (a["row"].equals(b["row"]) and a["row_hash"].equals(b["row_hash"])):
        joined = a.join(b, keys=["row", "row_hash"], join_type="inner", right_suffix="_b")
        return [joined[c].combine_chunks().field(name).to_numpy() for c in ("scores", "scores_b")]
    return [t["scores"].combine_chunks().field(name).to_numpy() for t in (a, b)]


def by_stratum(x, y):
    codes = b["stratum"].combine_chunks().dictionary_encode().indices.to_numpy()
    fixed = np.bincount(codes, weights=(x == 0) & (y == 1))
    regressed = np.bincount(codes, weights=(x == 1) & (y == 0))
    return np.bincount(codes), np.bincount(codes, weights=x), np.bincount(codes, weights=y), fixed, regressed


def interval(means, mean):
    p = (np.sum(np.abs(means - mean) >= abs(mean)) + 1) / (len(means) + 1)
    return np.percentile(means, [2.5, 97.5]).tolist(), float(p)


def bootstrap_kinds(d, rounds):
    values, counts = np.unique(d, return_counts=True)
    rng = np.random.default_rng(7)
    means = rng.multinomial(len(d), counts / len(d), size=rounds) @ values / len(d)
    return interval(means, d.mean())


def bootstrap_rows(d, rounds):
    def some(seed):
        rng = np.random.default_rng(seed)
        share = rounds // args.threads
        n = len(d)
        return [d.take(rng.integers(0, n, size=n, dtype=np.uint32)).mean() for _ in range(share)]

    with ThreadPoolExecutor(args.threads) as pool:
        means = np.concatenate(list(pool.map(some, range(args.threads))))
    return interval(means, d.mean())


def accuracy():
    x, y = paired("accuracy")
    by_stratum(x, y)
    fixed, regressed = int(((x == 0) & (y == 1)).sum()), int(((x == 1) & (y == 0)).sum())
    return stats.binomtest(min(fixed, regressed), fixed + regressed, 0.5).pvalue, y - x


accuracy_s, (p, right_wrong) = timed(accuracy)
kinds_s, kinds = timed(lambda: bootstrap_kinds(right_wrong, args.rounds))


def fields():
    x, y = paired("json_fields")
    by_stratum(x, y)
    return y - x


fields_s, graded = timed(fields)
rows_s, rows = timed(lambda: bootstrap_rows(graded, args.graded_rounds))
rows_s *= args.rounds / args.graded_rounds
scipy_s, _ = timed(
    lambda: stats.bootstrap((graded,), np.mean, n_resamples=args.scipy_rounds, method="percentile", batch=10, random_state=7)
)
scipy_s *= args.rounds / args.scipy_rounds
print(
    json.dumps(
        {
            "rows": len(graded),
            "rounds": args.rounds,
            "threads": args.threads,
            "read_s": read_s,
            "accuracy": {"seconds": accuracy_s, "p_value": p},
            "json_fields": {"seconds": fields_s + rows_s, "delta": float(graded.mean()), "ci95": rows[0], "p_value": rows[1]},
            "total_s": read_s + fields_s + rows_s,
            "bootstrap_right_wrong": {"seconds": kinds_s, "ci95": kinds[0]},
            "bootstrap_graded": {"seconds": rows_s},
            "scipy_bootstrap_graded": {"seconds": scipy_s},
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
    )
)
