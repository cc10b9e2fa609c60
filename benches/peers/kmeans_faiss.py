"""k-means of saved vectors by faiss-cpu and by scikit-learn's MiniBatchKMeans; prints seconds and inertia of each.

tunebench bench kmeans --save vectors.f32
pip install faiss-cpu scikit-learn numpy
OMP_NUM_THREADS=2 python benches/peers/kmeans_faiss.py vectors.f32 --threads 2
"""

import argparse
import json
import time

import faiss
import numpy as np
from sklearn.cluster import MiniBatchKMeans

parser = argparse.ArgumentParser()
parser.add_argument("vectors")
parser.add_argument("--dimensions", type=int, default=256)
parser.add_argument("--k", type=int, default=100)
parser.add_argument("--rounds", type=int, default=20)
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()

x = np.fromfile(args.vectors, dtype=np.float32).reshape(-1, args.dimensions)
faiss.omp_set_num_threads(args.threads)

began = time.perf_counter()
# All vectors in every round: by default faiss trains on 256 a cluster.
kmeans = faiss.Kmeans(args.dimensions, args.k, niter=args.rounds, seed=7, max_points_per_centroid=len(x))
kmeans.train(x)
full = time.perf_counter() - began
distances, _ = kmeans.index.search(x, 1)

began = time.perf_counter()
batches = MiniBatchKMeans(args.k, random_state=7, n_init=3, batch_size=4096).fit(x)
mini = time.perf_counter() - began
print(
    json.dumps(
        {
            "faiss_s": full,
            "faiss_inertia": float(distances.sum()),
            "minibatch_s": mini,
            "minibatch_inertia": float(batches.inertia_),
        }
    )
)
