"""Reference values for src/score, written to tests/fixtures/score/.

Needs scikit-learn, scipy, statsmodels, numpy. Run from the repository root: python tests/reference/metrics.py
"""

import json
import random
from pathlib import Path

import numpy as np
from scipy import optimize, stats
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

OUT = Path("tests/fixtures/score")


def label_case(name, gold, answers):
    """Answers of None could not be read: they are no class, and count against their gold only."""
    labels = sorted(set(gold) | {a for a in answers if a is not None})
    unread = "\0unread"
    predicted = [unread if a is None else a for a in answers]
    precision, recall, f1, support = precision_recall_fscore_support(
        gold, predicted, labels=labels, zero_division=0
    )
    matrix = confusion_matrix(gold, predicted, labels=labels + ([unread] if None in answers else []))
    matrix = matrix[: len(labels), : len(labels)]
    score = lambda average: float(f1_score(gold, predicted, labels=labels, average=average, zero_division=0))
    return {
        "name": name,
        "gold": gold,
        "answers": answers,
        "labels": labels,
        "confusion": matrix.astype(int).tolist(),
        "precision": precision.tolist(),
        "recall": recall.tolist(),
        "f1": f1.tolist(),
        "support": support.astype(int).tolist(),
        "macro_f1": score("macro"),
        "weighted_f1": score("weighted"),
    }


def labels():
    rng = random.Random(7)
    classes = ["alpha", "beta", "gamma", "delta"]
    gold = rng.choices(classes, weights=[8, 4, 2, 1], k=120)
    noisy = [g if rng.random() < 0.6 else rng.choice(classes) for g in gold]
    return [
        label_case("many", gold, noisy),
        label_case("a class is never answered", ["a", "a", "b", "c"], ["a", "b", "b", "a"]),
        label_case("a class is never golden", ["a", "a", "b"], ["a", "z", "b"]),
        label_case("answers that could not be read", gold, [None if rng.random() < 0.2 else a for a in noisy]),
        label_case("nothing right", ["a", "b"], ["b", "a"]),
        label_case("one row", ["a"], ["a"]),
    ]


def tango(b, c, n, z=stats.norm.ppf(0.975)):
    """Score interval of (b - c) / n: the constrained maximum likelihood is found numerically, nothing of the closed form is used."""

    def restricted(d):
        # p_fixed = q + d, p_regressed = q, rest = 1 - 2q - d
        low, high = max(0.0, -d), (1 - d) / 2

        def negative(q):
            total = 0.0
            for count, p in ((b, q + d), (c, q), (n - b - c, 1 - 2 * q - d)):
                if count:
                    total -= count * np.log(max(p, 1e-300))
            return total

        return optimize.minimize_scalar(negative, bounds=(low, high), method="bounded", options={"xatol": 1e-13}).x

    def statistic(d):
        q = restricted(d)
        return (b - c - n * d) / np.sqrt(max(n * (2 * q + d - d * d), 1e-300))

    estimate = (b - c) / n
    edge = 1 - 1e-9
    low = -1.0 if estimate <= -1 else optimize.brentq(lambda d: statistic(d) - z, -edge, estimate - 1e-12, xtol=1e-10)
    high = 1.0 if estimate >= 1 else optimize.brentq(lambda d: statistic(d) + z, estimate + 1e-12, edge, xtol=1e-10)
    return low, high


def statistics():
    flips = [(0, 0), (1, 0), (6, 0), (5, 0), (8, 1), (10, 2), (12, 3), (15, 5), (3, 12), (40, 60), (500, 430), (7, 7)]
    rng = np.random.default_rng(7)
    values = np.round(rng.normal(0.05, 0.3, size=200), 3)
    boot = stats.bootstrap((values,), np.mean, n_resamples=50_000, method="percentile", random_state=1)
    spread = np.round(np.sort(rng.exponential(100, size=31)), 3)
    return {
        "mcnemar": [(b, c, float(mcnemar([[0, b], [c, 0]], exact=True).pvalue)) for b, c in flips],
        "wilson": [
            (k, n, *map(float, proportion_confint(k, n, method="wilson")))
            for k, n in [(0, 10), (10, 10), (1, 3), (530, 600), (1, 1)]
        ],
        "tango": [
            (b, c, n, *tango(b, c, n))
            for b, c, n in [(12, 2, 50), (0, 5, 30), (1, 7, 21), (40, 25, 600), (9, 9, 40), (0, 0, 25), (3, 0, 10), (20, 10, 30)]
        ],
        "percentile": [
            (v.tolist(), q, float(np.quantile(v, q)))
            for v in (spread, spread[:1], spread[:2])
            for q in (0.0, 0.5, 0.9, 0.95, 0.99, 1.0)
        ],
        "bootstrap": {
            "values": values.tolist(),
            "ci95": [float(boot.confidence_interval.low), float(boot.confidence_interval.high)],
        },
    }


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    for name, value in (("labels", labels()), ("stats", statistics())):
        (OUT / f"{name}.json").write_text(json.dumps(value, indent=None, separators=(",", ":")) + "\n")
