"""Reference values for src/score, written to tests/fixtures/score/.

Needs scikit-learn, scipy, statsmodels, numpy, rouge-score. Run from the repository root: python tests/reference/metrics.py
"""

import json
import random
from pathlib import Path

import numpy as np
from scipy import optimize, stats
from rouge_score import rouge_scorer
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, brier_score_loss, confusion_matrix, f1_score, precision_recall_fscore_support
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
        "accuracy": float(accuracy_score(gold, predicted)),
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


BINS = 15


def calibration_case(name, probability, right):
    """ECE (Guo et al. 2017) from the bins of scikit-learn's calibration_curve; Brier's score of the likeliest label from brier_score_loss."""
    probability, right = np.asarray(probability, dtype=float), np.asarray(right, dtype=int)
    share_right, mean_probability = calibration_curve(right, probability, n_bins=BINS, strategy="uniform")
    # calibration_curve does not give the counts: the same edges as it has.
    place = np.searchsorted(np.linspace(0.0, 1.0, BINS + 1)[1:-1], probability)
    count = np.bincount(place, minlength=BINS)
    count = count[count > 0]
    assert len(count) == len(share_right)
    return {
        "name": name,
        "probability": probability.tolist(),
        "right": right.tolist(),
        "brier": float(brier_score_loss(right, probability, pos_label=1)),
        "ece": float(np.sum(count / count.sum() * np.abs(share_right - mean_probability))),
        "mean_probability": mean_probability.tolist(),
        "share_right": share_right.tolist(),
        "count": count.tolist(),
    }


def calibrations():
    rng = np.random.default_rng(7)
    p = rng.uniform(0.2, 1.0, size=300)
    edges = np.linspace(0.0, 1.0, BINS + 1)
    return [
        calibration_case("calibrated", p, rng.uniform(size=300) < p),
        calibration_case("too sure", p, rng.uniform(size=300) < p**3),
        calibration_case("on the edges", np.concatenate([edges, edges]), [0] * (BINS + 1) + [1] * (BINS + 1)),
        calibration_case("sure and wrong", [1.0, 1.0, 0.0], [0, 1, 1]),
        calibration_case("one row", [0.7], [1]),
    ]


def rouge():
    """The rouge-score package, without stemming."""
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    rng = random.Random(7)
    words = "the a card refund was sent on Monday and it's in U.S. e-mail 1,234.5 caf\u00e9 na\u00efve \u4f60\u597d".split(" ")
    text = lambda most: " ".join(rng.choice(words) for _ in range(rng.randint(1, most)))
    pairs = [(text(12), text(12)) for _ in range(25)] + [(text(200), text(150)) for _ in range(3)]
    pairs += [("the cat", "the cat"), ("The CAT!", "the cat"), ("", "the cat"), ("dog", "the cat"), ("a b c d", "d c b a")]
    return [
        {"answer": a, "gold": g, "rouge_l": float(scorer.score(g, a)["rougeL"].fmeasure)} for a, g in pairs
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
    for name, value in (
        ("labels", labels()),
        ("calibration", calibrations()),
        ("rouge_l", rouge()),
        ("stats", statistics()),
    ):
        (OUT / f"{name}.json").write_text(json.dumps(value, indent=None, separators=(",", ":")) + "\n")
