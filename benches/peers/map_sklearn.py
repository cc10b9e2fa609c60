#!/usr/bin/env python3
"""Peer: the map of texts. Trustworthiness of tunebench's layouts beside scikit-learn's PCA and t-SNE on the same vectors.

usage: tunebench bench map FILE.csv --save DIR; map_sklearn.py DIR [--neighbours 15]

Prints one JSON object. Needs: pip install scikit-learn
"""

import argparse
import json
import pathlib
import time

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, trustworthiness

p = argparse.ArgumentParser()
p.add_argument("dir", type=pathlib.Path)
p.add_argument("--neighbours", type=int, default=15)
a = p.parse_args()
vectors, principal, neighbours = (np.load(a.dir / f"{name}.npy") for name in ("vectors", "principal", "neighbours"))
trust = lambda points: round(float(trustworthiness(vectors, points, n_neighbors=a.neighbours)), 4)
found = {"points": len(vectors), "tunebench_principal": trust(principal), "tunebench_neighbours": trust(neighbours)}
for name, model in (("pca", PCA(2, random_state=7)), ("tsne", TSNE(2, init="pca", random_state=7))):
    start = time.time()
    points = model.fit_transform(vectors)
    found[f"sklearn_{name}_s"] = round(time.time() - start, 2)
    found[f"sklearn_{name}"] = trust(points)
print(json.dumps(found))
