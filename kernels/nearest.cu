// The k rows of a table that score highest for each query: score = <query, row> + bias[row], twin of `top` in src/retrieve/nearest.rs and of
// `assign` in src/strata/kmeans.rs.
//
// Retrieval by cosine: rows and queries of length 1, no bias. Assignment of k-means: k 1, rows the centroids c, bias -|c|^2 / 2, for
// |x - c|^2 = |x|^2 - 2 (<x, c> - |c|^2 / 2).
//
// Shapes: queries (queries x dim) f32; table (rows x dim) f32 or f16; bias (rows) f32, or null; scores and ids (queries x parts x k), the best first; of
// equal scores the lower row first. A score that is no number, or -inf, is passed over; a place for which there is no row has the id 2^32 - 1 and the
// score -inf.
//
// nearest_T: a block takes 64 queries and one of `parts` stretches of the table, 64 rows at a time: tiles of 64 x 16 of both in shared memory (by
// column, 65 apart: neighbours lie in different banks), 4 x 4 products a thread, then the 64 x 64 scores in the same shared memory, from which one thread
// a query keeps its k best (shared memory, 512 k bytes; k at most 60, so that it is below 48 KiB with the tiles). A product is one sum over
// dim in its order by fma, whatever the grid: a score never depends on what is asked beside it.
// Flops: 2 queries rows dim. Bytes: rows dim 4 (2 in f16) for every 64 queries, queries dim 4 for every part, 8 queries parts k written.
//
// nearest_merge: a warp a query joins the lists of the parts: k rounds, each of parts / 32 reads a lane. Bytes: 8 queries k (parts + 1).

#include "common.h"

constexpr int TILE = 64, DEPTH = 16, APART = TILE + 1, THREADS = 256;
constexpr unsigned NO_ROW = 0xffffffffu;

struct f16 { unsigned short bits; };

__device__ __forceinline__ float element(float x) { return x; }
__device__ __forceinline__ float element(f16 x) { return f16_value(x.bits); }
__device__ __forceinline__ float least() { return __uint_as_float(0xff800000u); }

// Rows `first ..` of `from`, columns `column ..`, as columns of a tile; zeros where there is nothing.
template <class T> __device__ __forceinline__ void fetch(float* tile, const T* from, int first, int end, int column, int dim) {
    for (int i = threadIdx.x; i < TILE * DEPTH; i += THREADS) {
        int row = i / DEPTH, k = i % DEPTH;
        bool there = first + row < end && column + k < dim;
        tile[k * APART + row] = there ? element(from[(size_t)(first + row) * dim + column + k]) : 0.0f;
    }
}

template <class T>
__device__ __forceinline__ void nearest(const float* queries, const T* table, const float* bias, float* scores, unsigned* ids, int count,
                                        int rows, int dim, int span, int parts, int k) {
    __shared__ float room[TILE * APART];
    DYNAMIC_SHARED(lists);
    float* kept = (float*)lists;                  // (k x 64)
    unsigned* who = (unsigned*)(kept + TILE * k);  // (k x 64)
    float *a_tile = room, *b_tile = room + DEPTH * APART;
    int x = threadIdx.x % 16, y = threadIdx.x / 16, query = blockIdx.x * TILE;
    int begin = blockIdx.y * span, end = min(rows, begin + span);
    for (int i = threadIdx.x; i < TILE * k; i += THREADS) {
        kept[i] = least();
        who[i] = NO_ROW;
    }
    for (int first = begin; first < end; first += TILE) {
        float sums[4][4] = {};
        for (int column = 0; column < dim; column += DEPTH) {
            __syncthreads();
            fetch(a_tile, queries, query, count, column, dim);
            fetch(b_tile, table, first, end, column, dim);
            __syncthreads();
#pragma unroll
            for (int i = 0; i < DEPTH; ++i) {
                float a[4], b[4];
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    a[j] = a_tile[i * APART + y + 16 * j];
                    b[j] = b_tile[i * APART + x + 16 * j];
                }
#pragma unroll
                for (int m = 0; m < 4; ++m)
#pragma unroll
                    for (int n = 0; n < 4; ++n) sums[m][n] = fmaf(a[m], b[n], sums[m][n]);
            }
        }
        __syncthreads();
#pragma unroll
        for (int n = 0; n < 4; ++n) {
            int row = first + x + 16 * n;
            float add = bias != nullptr && row < end ? bias[row] : 0.0f;
#pragma unroll
            for (int m = 0; m < 4; ++m) room[(y + 16 * m) * APART + x + 16 * n] = row < end ? sums[m][n] + add : least();
        }
        __syncthreads();
        if (threadIdx.x < TILE) {
            int own = threadIdx.x;
            // Rows come in their order, so that what comes later goes behind its equals. NaN is above nothing.
            for (int j = 0; j < TILE; ++j) {
                float score = room[own * APART + j];
                if (!(score > kept[(k - 1) * TILE + own])) continue;
                int at = k - 1;
                for (; at > 0 && score > kept[(at - 1) * TILE + own]; --at) {
                    kept[at * TILE + own] = kept[(at - 1) * TILE + own];
                    who[at * TILE + own] = who[(at - 1) * TILE + own];
                }
                kept[at * TILE + own] = score;
                who[at * TILE + own] = first + j;
            }
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < TILE * k; i += THREADS) {
        int own = i / k, place = i % k;
        if (query + own >= count) break;
        size_t to = ((size_t)(query + own) * parts + blockIdx.y) * k + place;
        scores[to] = kept[place * TILE + own];
        ids[to] = who[place * TILE + own];
    }
}

extern "C" __global__ void __launch_bounds__(256) nearest_f32(const float* queries, const float* table, const float* bias, float* scores, unsigned* ids, int count, int rows, int dim, int span, int parts, int k) {
    nearest(queries, table, bias, scores, ids, count, rows, dim, span, parts, k);
}

extern "C" __global__ void __launch_bounds__(256) nearest_f16(const float* queries, const f16* table, const float* bias, float* scores, unsigned* ids, int count, int rows, int dim, int span, int parts, int k) {
    nearest(queries, table, bias, scores, ids, count, rows, dim, span, parts, k);
}

extern "C" __global__ void __launch_bounds__(32) nearest_merge(const float* scores, const unsigned* ids, float* merged, unsigned* merged_ids, int parts, int k) {
    DYNAMIC_SHARED(places);
    int* at = (int*)places;  // what of each part is taken; a lane looks after its own ones only
    int lane = threadIdx.x;
    size_t from = (size_t)blockIdx.x * parts * k;
    for (int part = lane; part < parts; part += 32) at[part] = 0;
    for (int place = 0; place < k; ++place) {
        float best = least();
        unsigned id = NO_ROW;
        int own = -1;
        for (int part = lane; part < parts; part += 32) {
            if (at[part] == k) continue;
            size_t i = from + (size_t)part * k + at[part];
            if (scores[i] > best || (scores[i] == best && ids[i] < id)) {
                best = scores[i];
                id = ids[i];
                own = part;
            }
        }
        unsigned mine = id;
#pragma unroll
        for (int step = 16; step > 0; step /= 2) {
            float other = __shfl_xor_sync(0xffffffffu, best, step);
            unsigned other_id = __shfl_xor_sync(0xffffffffu, id, step);
            if (other > best || (other == best && other_id < id)) {
                best = other;
                id = other_id;
            }
        }
        if (own >= 0 && mine == id) at[own] += 1;
        if (lane == 0) {
            merged[(size_t)blockIdx.x * k + place] = best;
            merged_ids[(size_t)blockIdx.x * k + place] = id;
        }
    }
}
