#!/usr/bin/env python3
"""Peer of benches/wrong_gold.py: scikit-learn's logistic regression finds golds that were changed, by words and by vectors.

usage: wrong_gold_sklearn.py --data FILE... --model FOLDER [--input text] [--gold category] [--rate 0.05] [--seed 1]

Changes the same golds as benches/wrong_gold.py with this rate and seed. In five folds, rows are ordered by the probability of their gold
against that of the likeliest label; of the first of them, as many as were changed, the share that was changed. Features: TF-IDF of words,
pairs of words and character n-grams; vectors of a sentence-transformers folder; both side by side.

Needs: pip install scikit-learn sentence-transformers
"""

import argparse
import csv
import random
import warnings

import numpy as np
import scipy.sparse as sp
from sentence_transformers import SentenceTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_union

p = argparse.ArgumentParser()
p.add_argument("--data", nargs="+", required=True)
p.add_argument("--model", required=True)
p.add_argument("--input", default="text")
p.add_argument("--gold", default="category")
p.add_argument("--rate", type=float, default=0.05)
p.add_argument("--seed", type=int, default=1)
a = p.parse_args()
warnings.filterwarnings("ignore", category=UserWarning)

rows = [row for path in a.data for row in csv.DictReader(open(path, newline="", encoding="utf-8"))]
texts, true = [row[a.input] for row in rows], np.array([row[a.gold] for row in rows])
labels, lot, golds = sorted(set(true)), random.Random(a.seed), true.copy()
for at in lot.sample(range(len(true)), round(a.rate * len(true))):
    golds[at] = lot.choice([label for label in labels if label != golds[at]])
changed = golds != true

words = dict(sublinear_tf=True, min_df=2)
by_words = make_union(
    TfidfVectorizer(ngram_range=(1, 2), **words),
    TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), max_features=40_000, **words),
).fit_transform(texts)
vectors = SentenceTransformer(a.model, device="cpu").encode(texts, normalize_embeddings=True)
both = sp.hstack([by_words, sp.csr_matrix(vectors * 1.5)]).tocsr()

print("| features | true label is the likeliest | of the first as many |\n| --- | --- | --- |")
for name, x in [("vectors", vectors), ("TF-IDF", by_words), ("both", both)]:
    margin, right = np.zeros(len(golds)), 0
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(x, golds):
        model = LogisticRegression(C=10, max_iter=80).fit(x[train], golds[train])
        told = model.predict_proba(x[test])
        own = told[np.arange(len(test)), np.searchsorted(model.classes_, golds[test])]
        margin[test] = own - told.max(axis=1)
        right += (model.classes_[told.argmax(axis=1)] == true[test]).sum()
    first = np.argsort(margin)[: changed.sum()]
    print(f"| {name} | {right / len(true):.3f} | {changed[first].mean():.3f} |", flush=True)
