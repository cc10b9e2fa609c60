"""Reference values for src/strata/layout.rs, written to tests/fixtures/strata/trustworthiness.json.

Needs scikit-learn, numpy. Run from the repository root: python tests/reference/trustworthiness.py
"""

import json
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness

random = np.random.default_rng(3)
centers = random.normal(size=(6, 10))
vectors = np.round(centers[np.arange(48) % 6] + 0.5 * random.normal(size=(48, 10)), 3).astype(np.float32)
points = np.round(PCA(2).fit_transform(vectors), 3).astype(np.float32)
found = [(k, float(trustworthiness(vectors, points, n_neighbors=k))) for k in (1, 5, 12, 23)]
out = Path("tests/fixtures/strata/trustworthiness.json")
rows = lambda a: [[round(float(v), 3) for v in row] for row in a]
out.write_text(json.dumps({"vectors": rows(vectors), "points": rows(points), "trustworthiness": found}) + "\n")
