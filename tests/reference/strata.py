"""Reference values for src/strata, written to tests/fixtures/strata/.

Needs scikit-learn, numpy. c-TF-IDF follows BERTopic's ClassTfidfTransformer (bertopic/vectorizers/_ctfidf.py): class bags normalized by l1,
times log(1 + average words per class / frequency of the term over all classes).
Run from the repository root: python tests/reference/strata.py
"""

import json
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import adjusted_rand_score, silhouette_score

OUT = Path("tests/fixtures/strata")
SEED = 4  # one whose five blobs scikit-learn tells apart without error


def kmeans():
    points, labels = make_blobs(200, n_features=3, centers=5, cluster_std=0.6, center_box=(-10, 10), random_state=SEED)
    points = np.round(points, 4).astype(np.float32)
    assert adjusted_rand_score(labels, KMeans(5, n_init=50, random_state=1).fit(points).labels_) == 1
    inertia = []
    for k in (2, 3, 5, 8):
        model = KMeans(k, n_init=50, random_state=1).fit(points)
        inertia.append((k, float(model.inertia_), float(silhouette_score(points, model.labels_))))
    return {
        "points": [[round(float(v), 4) for v in p] for p in points],
        "labels": labels.tolist(),
        "inertia": inertia,
    }


def ctfidf():
    documents = [
        ["card late card lost", "where is the card"],
        ["refund the purchase", "refund late", "money back the the"],
        ["app crash", "login crash app app"],
    ]
    vectorizer = CountVectorizer(token_pattern=r"\S+")
    counts = vectorizer.fit_transform([" ".join(d) for d in documents]).toarray().astype(float)
    average = counts.sum(axis=1).mean()
    weights = counts / counts.sum(axis=1, keepdims=True) * np.log(1 + average / counts.sum(axis=0))
    terms = vectorizer.get_feature_names_out()
    return {
        "documents": documents,
        "weights": [{t: float(w) for t, w in zip(terms, row) if w > 0} for row in weights],
    }


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    for name, value in (("kmeans", kmeans()), ("ctfidf", ctfidf())):
        (OUT / f"{name}.json").write_text(json.dumps(value, separators=(",", ":")) + "\n")
