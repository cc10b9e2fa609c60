"""Reference values for comparisons (src/score/compare, src/score/power), written to tests/fixtures/score/.

Needs numpy, scipy, statsmodels. Run from the repository root:

    python tests/reference/comparison.py [example_model_solutions.jsonl[.gz]]

The file of four models' answers to the 1,319 test questions of GSM8K is openai/grade-school-math's (MIT licence, Copyright (c) 2021
OpenAI): only who was right on which question is kept, in gsm8k_four_models.json. Without it the kept one is used.
"""

import gzip
import json
import sys
from itertools import combinations, product
from pathlib import Path

import numpy as np
import statsmodels.api as sm
from scipy import optimize, special, stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

OUT = Path("tests/fixtures/score")
MODELS = ["6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"]
sys.path.insert(0, str(Path(__file__).parent))
from metrics import tango  # noqa: E402


def four_models(file):
    kept = OUT / "gsm8k_four_models.json"
    if file is None:
        return {name: np.array([int(c) for c in flags]) for name, flags in json.loads(kept.read_text())["correct"].items()}
    opened = gzip.open(file, "rt") if str(file).endswith(".gz") else open(file)
    with opened as lines:
        rows = [json.loads(line) for line in lines]
    correct = {name: np.array([int(row[name]["is_correct"]) for row in rows]) for name in MODELS}
    kept.write_text(
        json.dumps(
            {
                "source": "github.com/openai/grade-school-math, example_model_solutions.jsonl: who was right on which question, in order",
                "licence": "MIT, Copyright (c) 2021 OpenAI",
                "correct": {name: "".join(map(str, flags)) for name, flags in correct.items()},
            },
            indent=1,
        )
        + "\n"
    )
    return correct


def clustered(d, groups):
    """Standard error and interval of a mean by OLS on a constant with clustered covariance; Obuchowski's modified statistic and the
    exact p of swapping the sides of whole clusters."""
    fit = sm.OLS(d, np.ones(len(d))).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    sums = np.array([d[groups == g].sum() for g in np.unique(groups)])
    changed = sums[sums != 0]
    statistic = sums.sum() ** 2 / (sums**2).sum() if len(changed) else 0.0
    reach = int(np.abs(changed).sum())
    patterns = np.array([1.0])
    for size in np.abs(changed).astype(int):
        signs = np.zeros(2 * size + 1)
        signs[[0, -1]] = 0.5
        patterns = np.convolve(patterns, signs)
    exact = min(1.0, float(2 * patterns[: reach - abs(int(changed.sum())) + 1].sum()))
    if 0 < len(changed) <= 16:
        totals = np.array([np.dot(signs, changed) for signs in product([-1, 1], repeat=len(changed))])
        p = float(np.mean(np.abs(totals) >= abs(changed.sum()) - 1e-9))
        assert abs(exact - p) < 1e-12 or changed.sum() == 0
        if len(sums) <= 12:
            both = (sums, np.zeros(len(sums)))
            permuted = stats.permutation_test(both, lambda a, b: np.sum(a - b), permutation_type="samples", n_resamples=np.inf)
            assert abs(permuted.pvalue - p) < 1e-9
    low, high = fit.conf_int()[0]
    return {
        "differences": d.tolist(),
        "groups": groups.tolist(),
        "se": float(fit.bse[0]),
        "ci95": [float(low), float(high)],
        "changed": len(changed),
        "exact": 1.0 if changed.sum() == 0 else exact,
        "chi2_p": float(stats.chi2.sf(statistic, 1)),
    }


def clusters():
    rng = np.random.default_rng(5)
    cases = []
    for n, g in [(30, 9), (60, 14), (400, 90), (3000, 700)]:
        groups = np.sort(rng.integers(0, g, n))
        lean = rng.normal(0.1, 0.25, g)[groups]
        u = rng.random(n)
        d = np.where(u < 0.15 + lean / 2, 1, np.where(u > 0.9, -1, 0))
        cases.append(clustered(d, groups))
    # Every row alone: McNemar's own exact test.
    d = np.array([1] * 9 + [-1] * 3 + [0] * 20)
    case = clustered(d, np.arange(len(d)))
    assert abs(case["exact"] - mcnemar([[0, 9], [3, 0]], exact=True).pvalue) < 1e-9
    return cases + [case]


def strata():
    """Strata weighed by their shares of a part: means and their variances by statsmodels' DescrStatsW within each."""
    rng = np.random.default_rng(6)
    cases = []
    for sizes, part in [((40, 25, 12), (100, 300, 50)), ((8, 90, 3, 2), (10, 90, 30, 20))]:
        differences, names, delta, variance = [], [], 0.0, 0.0
        for i, (n, share) in enumerate(zip(sizes, part)):
            values = rng.choice([-1, 0, 1], size=n, p=[0.1, 0.6 - 0.1 * i, 0.3 + 0.1 * i]).astype(float)
            differences += values.tolist()
            names += [f"s{i}"] * n
            described = DescrStatsW(values)
            weight = share / sum(part)
            delta += weight * described.mean
            variance += (weight * described.std_mean) ** 2
        se = float(np.sqrt(variance))
        cases.append(
            {
                "differences": differences,
                "strata": names,
                "part": {f"s{i}": share for i, share in enumerate(part)},
                "delta": float(delta),
                "se": se,
                "ci95": [float(delta - stats.norm.ppf(0.975) * se), float(delta + stats.norm.ppf(0.975) * se)],
                "p": float(2 * stats.norm.sf(abs(delta) / se)),
            }
        )
    return cases


def pairs(correct):
    names = list(correct)
    rows = []
    for a, b in combinations(names, 2):
        d = correct[b] - correct[a]
        fixed, regressed = int((d == 1).sum()), int((d == -1).sum())
        fit = sm.OLS(d, np.ones(len(d))).fit()
        rows.append(
            {
                "a": a,
                "b": b,
                "fixed": fixed,
                "regressed": regressed,
                "delta": float(d.mean()),
                "se": float(fit.bse[0]),
                "p": float(mcnemar([[0, fixed], [regressed, 0]], exact=True).pvalue),
                "ci95": list(map(float, tango(fixed, regressed, len(d)))),
            }
        )
    holm = multipletests([row["p"] for row in rows], method="holm")[1]
    return {
        "pairs": [{**row, "holm": float(p)} for row, p in zip(rows, holm)],
        "wilson": {m: list(map(float, proportion_confint(int(c.sum()), len(c), method="wilson"))) for m, c in correct.items()},
        # Graded scores on the same questions: the first model's answer halved with the second's.
        "bootstrap": graded(correct, names),
        "clustered": fifths(correct[names[3]] - correct[names[2]]),
    }


def graded(correct, names):
    d = (correct[names[3]] - correct[names[2]]) / 2 + (correct[names[1]] - correct[names[0]]) / 2
    boot = stats.bootstrap((d,), np.mean, n_resamples=50_000, method="percentile", random_state=1, batch=500)
    return [float(boot.confidence_interval.low), float(boot.confidence_interval.high)]


def fifths(d):
    """Five questions in a row as a group."""
    case = clustered(d, np.arange(len(d)) // 5)
    return {key: case[key] for key in ("se", "ci95", "changed", "exact", "chi2_p")}


def holm():
    cases = [[0.01, 0.04, 0.03, 0.005], [0.5], [0.02, 0.02, 0.9, 1.0, 0.0001], [0.3, 0.3]]
    return [(case, multipletests(case, method="holm")[1].tolist()) for case in cases]


def exact_power(n, psi, d):
    """Power of the exact McNemar test at 0.05 by enumeration: discordant rows are binomial, fixed ones among them too."""
    total = 0.0
    for m in range(n + 1):
        weight = stats.binom.pmf(m, n, psi)
        if weight < 1e-15 or m == 0:
            continue
        fixed = np.arange(m + 1)
        p = np.minimum(1.0, 2 * stats.binom.cdf(np.minimum(fixed, m - fixed), m, 0.5))
        total += weight * stats.binom.pmf(fixed, m, (psi + d) / (2 * psi))[p < 0.05].sum()
    return float(total)


def power():
    cases = [(50, 0.3, 0.2), (150, 0.2, 0.1), (400, 0.1, 0.05), (30, 0.5, 0.4), (600, 0.25, 0.05), (6, 1.0, 1.0), (1500, 0.15, 0.03)]
    return {
        "power": [(n, psi, d, exact_power(n, psi, d)) for n, psi, d in cases],
        # The asymptotic number of rows, by root finding over the same formula's power.
        "rows": [(psi, d, float(optimize.brentq(lambda n: asymptotic(n, psi, d) - 0.8, 1, 1e7))) for psi, d in [(0.2, 0.1), (0.1, 0.05), (0.3, 0.05), (0.05, 0.01), (0.2, 0.005)]],
    }


def asymptotic(n, psi, d):
    z = stats.norm.ppf(0.975)
    return stats.norm.cdf((d * np.sqrt(n) - z * np.sqrt(psi)) / np.sqrt(psi - d * d))


def distributions():
    z = [0.1, 0.5, 1.0, 1.959963984540054, 2.5, 2.99, 3.0, 3.5, 5.0, 8.0, 20.0]
    t = [(0.3, 1), (2.0, 1), (12.7, 1), (1.0, 4), (2.5, 9), (4.0, 30), (2.0, 300), (0.01, 7), (9.0, 60), (1.97, 5000)]
    return {
        "normal": [(x, float(2 * stats.norm.sf(x))) for x in z],
        "student": [(x, df, float(2 * stats.t.sf(x, df))) for x, df in t],
        "student_95": [(df, float(stats.t.ppf(0.975, df))) for df in [1, 2, 3, 7, 20, 99, 1000, 100000]],
        "ln_gamma": [(x, float(special.gammaln(x))) for x in [0.1, 0.5, 1.0, 1.5, 2.0, 10.0, 123.4, 5000.0, 2e6]],
        "ln_binomial": [(k, n, p, float(stats.binom.logpmf(k, n, p))) for k, n, p in [(0, 5, 0.3), (3, 10, 0.5), (400, 1000, 0.41), (7, 2000, 0.001)]],
    }


if __name__ == "__main__":
    correct = four_models(sys.argv[1] if len(sys.argv) > 1 else None)
    whole = {"clusters": clusters(), "strata": strata(), "holm": holm(), "power": power(), "four_models": pairs(correct)}
    for name, value in (("comparison", whole), ("distributions", distributions())):
        (OUT / f"{name}.json").write_text(json.dumps(value, indent=None, separators=(",", ":")) + "\n")
