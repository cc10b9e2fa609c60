#!/usr/bin/env python3
"""Peer: clusters of a labelled data set, tunebench's built-in embedder and k-means against scikit-learn's.

usage: clusters_sklearn.py --tunebench BIN --data FILE... --dir WORK [--input text --gold category] [--k N...] [--seeds 7 8 9]

Purity (share of rows whose label is the commonest of their cluster) and normalized mutual information (arithmetic mean, as
sklearn.metrics has it) against the labels, which neither side sees. The peers embed by TF-IDF of words and pairs of words, and by
TF-IDF of words and characters together, reduced by truncated SVD to --components and brought to length 1, and cluster by
KMeans(n_init=3). With --model a sentence-transformers folder embeds on both sides, too (needs: pip install sentence-transformers), and
the peer clusters with each of --starts as n_init; seconds of those lines are without the peer's embedding.
Both sides take the same number of clusters; 0 stands for the number that tunebench chooses itself.

Prints a Markdown table. Needs: pip install scikit-learn
"""

import argparse
import csv
import json
import pathlib
import statistics
import subprocess
import time

from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix
from sklearn.pipeline import make_union
from sklearn.preprocessing import normalize

p = argparse.ArgumentParser()
p.add_argument("--tunebench", required=True)
p.add_argument("--data", nargs="+", type=pathlib.Path, required=True)
p.add_argument("--dir", type=pathlib.Path, required=True)
p.add_argument("--input", default="text")
p.add_argument("--gold", default="category")
p.add_argument("--k", type=int, nargs="+", default=[0, 77])
p.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
p.add_argument("--components", type=int, default=64)
p.add_argument("--model", type=pathlib.Path, help="a sentence-transformers folder")
p.add_argument("--starts", type=int, nargs="+", default=[1, 10])
p.add_argument("--no-words", action="store_true", help="without built-in embedder and TF-IDF")
a = p.parse_args()


def scores(labels, clusters):
    table = contingency_matrix(labels, clusters)
    return table.max(axis=0).sum() / table.sum(), normalized_mutual_info_score(labels, clusters)


def tunebench(*args):
    command = [a.tunebench, "-C", str(a.dir), *args]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def ours(k, seed, model=None):
    sources = ", ".join(json.dumps(str(path.resolve())) for path in a.data)
    path = json.dumps(str(model.resolve())) if model else '"."'
    (a.dir / "workspace.toml").write_text(
        f'[data]\nsource = [{sources}]\ninput = "{{{{ {a.input} }}}}"\ngold = "{a.gold}"\n'
        + ('embedder = "peer"\n' if model else "")
        + f'[strata]\nseed = {seed}\n[models.peer]\npath = {path}\n[[stage]]\nname = "answer"\n'
    )
    began = time.perf_counter()
    built = json.loads(tunebench("strata", "build", "--json", *(["--k", str(k)] if k else [])).splitlines()[-1])
    seconds = time.perf_counter() - began
    out = a.dir / "rows.jsonl"
    tunebench("data", "export", str(out.resolve()), "--force")
    rows = [json.loads(line) for line in out.open()]
    return [r["gold"] for r in rows], [r["stratum"] for r in rows], len(built["strata"]), seconds


a.dir.mkdir(parents=True, exist_ok=True)
texts, labels = [], []
for path in a.data:
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            texts.append(row[a.input])
            labels.append(row[a.gold])

words = dict(sublinear_tf=True, min_df=2)
vectorizers = {
    "TF-IDF of words": TfidfVectorizer(ngram_range=(1, 2), **words),
    "TF-IDF of words and characters": make_union(
        TfidfVectorizer(ngram_range=(1, 2), **words),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), max_features=40_000, **words),
    ),
}
print("| k | embedder and k-means | purity | NMI | seconds |\n| --- | --- | --- | --- | --- |")


def show(k, name, found):
    mean = [statistics.mean(column) for column in zip(*found)]
    print(f"| {k} | {name} | {mean[0]:.3f} | {mean[1]:.3f} | {mean[2]:.1f} |", flush=True)


if a.model:
    from sentence_transformers import SentenceTransformer

    began = time.perf_counter()
    sentences = SentenceTransformer(str(a.model), device="cpu").encode(texts, normalize_embeddings=True)
    embedding = time.perf_counter() - began


def built(wanted, model=None):
    found, k = [], wanted
    for seed in a.seeds:
        # The number that the first seed chooses is every seed's.
        gold, clusters, k, seconds = ours(k, seed, model)
        found.append((*scores(gold, clusters), seconds))
    show(k, f"tunebench, {model.name if model else 'built-in'}", found)
    return k


def peer(k, name, starts, vectors):
    found = []
    for seed in a.seeds:
        began = time.perf_counter()
        clusters = KMeans(k, n_init=starts, random_state=seed).fit_predict(vectors(seed))
        found.append((*scores(labels, clusters), time.perf_counter() - began))
    show(k, name, found)


for wanted in a.k:
    if not a.no_words:
        k = built(wanted)
        for name, vectorizer in vectorizers.items():
            svd = lambda seed: TruncatedSVD(a.components, random_state=seed)
            reduced = lambda seed: normalize(svd(seed).fit_transform(vectorizer.fit_transform(texts)))
            peer(k, f"scikit-learn, {name} + SVD {a.components}", 3, reduced)
    if a.model:
        k = built(wanted, a.model)
        for starts in a.starts:
            peer(k, f"scikit-learn, sentence-transformers, n_init={starts}", starts, lambda _: sentences)
if a.model:
    print(f"\nsentence-transformers embedded the texts once, in {embedding:.1f} s")
