"""Reference values for src/score/agreement.rs and src/score/preference.rs, written to tests/fixtures/score/.

Needs numpy, scipy, scikit-learn, statsmodels. Run from the repository root: python tests/reference/agreement.py
"""

import json
import math
import random
from pathlib import Path

import numpy as np
from scipy import stats
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.proportion import proportion_confint

OUT = Path("tests/fixtures/score")
Z = stats.norm.ppf(0.975)


def kappa(table, weighted):
    table = np.array(table)
    labels = list(range(len(table)))
    pairs = [(i, j) for i in labels for j in labels for _ in range(table[i][j])]
    a, b = zip(*pairs)
    by_sklearn = cohen_kappa_score(a, b, labels=labels, weights="quadratic" if weighted else None)
    if math.isnan(by_sklearn):
        return None
    result = cohens_kappa(table, wt="quadratic" if weighted else None)
    assert abs(result.kappa - by_sklearn) < 1e-12, (result.kappa, by_sklearn)
    deviation = math.sqrt(max(result.var_kappa, 0.0))
    return [float(result.kappa), float(result.kappa - Z * deviation), float(result.kappa + Z * deviation)]


def case(name, table):
    return {"name": name, "table": table, "kappa": kappa(table, False), "weighted": kappa(table, True)}


def agreement():
    rng = random.Random(5)
    noisy = [[0] * 5 for _ in range(5)]
    for _ in range(200):
        truth = rng.randrange(5)
        noisy[truth][min(4, max(0, truth + rng.choice([-1, 0, 0, 0, 1])))] += 1
    return [
        case("two words", [[20, 5], [10, 15]]),
        case("rarely bad", [[3, 2], [1, 94]]),
        case("worse than chance", [[2, 18], [15, 5]]),
        case("always good", [[0, 0], [20, 20]]),
        case("all agree", [[12, 0], [0, 9]]),
        case("one verdict", [[0, 0], [0, 10]]),
        case("three words", [[53, 5, 2], [11, 14, 5], [1, 6, 3]]),
        case("a scale", noisy),
    ]


def preference():
    rng = random.Random(9)
    shares = []
    for wins, n in [(0, 1), (1, 1), (3, 10), (10, 10), (0, 12), (57, 91), (480, 1000)]:
        low, high = proportion_confint(wins, n, alpha=0.05, method="beta")
        p = stats.binomtest(wins, n, 0.5).pvalue
        shares.append([wins, n, float(np.nan_to_num(low, nan=0.0)), float(np.nan_to_num(high, nan=1.0)), float(p)])
    lengths = [rng.randint(-40, 40) for _ in range(60)]
    preferences = [max(-1, min(1, round(x / 40 + rng.gauss(0, 0.7)))) for x in lengths]
    rho = stats.spearmanr(lengths, preferences).statistic
    return {"shares": shares, "lengths": lengths, "preferences": preferences, "spearman": float(rho)}


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "agreement.json").write_text(json.dumps(agreement()) + "\n")
    (OUT / "preference.json").write_text(json.dumps(preference()) + "\n")
