"""References for src/retrieve: BM25 by scikit-learn's counts and the formula, reciprocal rank fusion, maximal marginal relevance.

python tests/reference/retrieve.py  writes tests/fixtures/retrieve/{bm25,choose}.json
"""

import json
import math
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer

OUT = Path(__file__).parents[1] / "fixtures/retrieve"
K1, B = 1.5, 0.75

texts = [
    "where is my new card",
    "the card has not arrived, where is the card",
    "refund for the purchase",
    "i want my money back for this purchase please",
    "app",
    "",
    "the app crashes when i open the app at login, and then the app asks for my card",
]
queries = ["where is my card", "card card refund", "unknown words only", "", "the app"]


def bm25():
    vectorizer = CountVectorizer(token_pattern=r"[^\W_]+", lowercase=True)
    counts = vectorizer.fit_transform(texts).toarray().astype(float)
    lengths = counts.sum(1)
    df = (counts > 0).sum(0)
    idf = np.array([math.log(1 + (len(texts) - n + 0.5) / (n + 0.5)) for n in df])
    norm = K1 * (1 - B + B * lengths / lengths.mean())
    weights = idf * counts * (K1 + 1) / (counts + norm[:, None])
    asked = vectorizer.transform(queries).toarray()
    return {"texts": texts, "queries": queries, "scores": (asked @ weights.T).round(6).tolist()}


def choose():
    rng = np.random.default_rng(3)
    rankings = [[4, 2, 7, 1], [2, 9, 4], [5]]
    best = len(rankings) / 61
    fused = {}
    for ranking in rankings:
        for rank, place in enumerate(ranking, 1):
            fused[place] = fused.get(place, 0) + 1 / (60 + rank) / best
    points = rng.normal(size=(9, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    likeness = (points @ points.T).round(4)
    relevance = rng.random(9).round(4)

    def mmr(diversity, k=5):
        taken = []
        while len(taken) < k:
            left = [i for i in range(9) if i not in taken]
            gain = [
                (1 - diversity) * relevance[i] - diversity * max((likeness[i, j] for j in taken), default=0)
                for i in left
            ]
            taken.append(left[int(np.argmax(gain))])
        return taken

    return {
        "rankings": rankings,
        "fused": sorted(fused.items()),
        "relevance": relevance.tolist(),
        "likeness": likeness.tolist(),
        "diverse": [(d, mmr(d)) for d in (0.0, 0.3, 0.5, 0.9)],
    }


OUT.mkdir(parents=True, exist_ok=True)
for name, made in [("bm25", bm25()), ("choose", choose())]:
    (OUT / f"{name}.json").write_text(json.dumps(made) + "\n")
