// Causal grouped-query attention over packed rows, twin of src/ops/attention.rs.
//
// P = softmax(s Q K^T + mask), O = P V, s = 1/sqrt(dim), blockwise with a running maximum and sum (Dao 2023, arXiv:2307.08691,
// algorithm 1): no score leaves the chip. Backward from L = log sum exp of each score row (section 3.1.2): P = exp(s Q K^T - L),
// dV = P^T dO, dP = dO V^T, D = rowsum(dO * O), dS = P * (dP - D), dQ = s dS K, dK = s dS^T Q. dK and dV in one kernel by blocks of keys,
// over all query heads that share them; dQ in another by blocks of queries: nothing is added across blocks, so results have one
// order. That costs 7 products where atomics would cost 5.
//
// Shapes: qkv, d_qkv (tokens x (heads + 2 kv_heads) dim), out, d_out (tokens x heads dim), lse, delta (heads x tokens) f32. A query sees keys
// of its own row up to itself, with a window the last `window` of them. tiles: (first, last, row's first, row's last) each,
// at most 64 tokens of one row; `last` is one past.
// A block of four warps owns a tile's 64 rows, each warp 16; it streams tiles of the other side through two buffers of shared
// memory (cp.async). Products are mma.m16n8k16; the scores stay in registers, where the accumulators of one product are the
// first operand of the next. DIM is dim rounded up to 64, 128 or 256; columns beyond dim are zeros.
// Per visible pair of query and key: 4 dim flops forward, 14 dim backward. Bytes: q, out once; k, v once per tile of queries (L2).

#include "common.h"

constexpr int TILE = 64;
constexpr float LOG2_E = 1.4426950408889634f, LN_2 = 0.6931471805599453f;

// 16-byte piece `piece` of a row: pieces are permuted by row, so that 8 rows of one column lie in different banks.
template <int DIM> __device__ __forceinline__ bf16* piece_of(bf16* tile, int row, int piece) {
    return tile + row * DIM + ((piece ^ (row & 7)) * 8);
}

// Starts the copy of rows first..last of a matrix into a tile of ROWS; the rest becomes zeros.
template <int DIM, int ROWS>
__device__ __forceinline__ void fetch(bf16* tile, const bf16* from, size_t stride, int first, int last, int dim) {
#pragma unroll
    for (int at = threadIdx.x; at < ROWS * DIM / 8; at += 128) {
        int row = at / (DIM / 8), piece = at % (DIM / 8);
        bool there = first + row < last && piece * 8 < dim;
        cp_async16(piece_of<DIM>(tile, row, piece), there ? from + (first + row) * stride + piece * 8 : from, there);
    }
}

// Operand a (16 x 16): rows row.., columns 16 k.. of a tile.
template <int DIM> __device__ __forceinline__ void load_a(unsigned (&a)[4], bf16* tile, int row, int k) {
    int lane = threadIdx.x % 32;
    ldmatrix(a, piece_of<DIM>(tile, row + lane % 16, 2 * k + lane / 16));
}

// Two operands b (16 x 8 each) of a product with the transposed tile: its rows n.. and n + 8.., columns 16 k...
template <int DIM> __device__ __forceinline__ void load_b_of_transposed(unsigned (&b)[4], bf16* tile, int n, int k) {
    int lane = threadIdx.x % 32;
    ldmatrix(b, piece_of<DIM>(tile, n + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
}

// Two operands b of a product with the tile itself: rows k.., columns 16 n.. and 16 n + 8...
template <int DIM> __device__ __forceinline__ void load_b(unsigned (&b)[4], bf16* tile, int k, int n) {
    int lane = threadIdx.x % 32;
    ldmatrix_transposed(b, piece_of<DIM>(tile, k + lane % 16, 2 * n + lane / 16));
}

// Accumulators of 16 x 16 as the first operand of the next product.
__device__ __forceinline__ void as_a(unsigned (&a)[4], const float (&left)[4], const float (&right)[4]) {
    a[0] = pack_bf16(left[0], left[1]);
    a[1] = pack_bf16(left[2], left[3]);
    a[2] = pack_bf16(right[0], right[1]);
    a[3] = pack_bf16(right[2], right[3]);
}

// scores (16 x COLUMNS) += a's rows row.. times the transposed rows of b.
template <int DIM, int COLUMNS>
__device__ __forceinline__ void add_scores(float (&scores)[COLUMNS / 8][4], bf16* a_tile, int row, bf16* b_tile) {
#pragma unroll
    for (int k = 0; k < DIM / 16; ++k) {
        unsigned a[4], b[4];
        load_a<DIM>(a, a_tile, row, k);
#pragma unroll
        for (int n = 0; n < COLUMNS / 16; ++n) {
            load_b_of_transposed<DIM>(b, b_tile, n * 16, k);
            mma_bf16(scores[2 * n], a, b[0], b[1]);
            mma_bf16(scores[2 * n + 1], a, b[2], b[3]);
        }
    }
}

// The same with a's rows in registers.
template <int DIM, int COLUMNS>
__device__ __forceinline__ void add_scores(float (&scores)[COLUMNS / 8][4], const unsigned (&a)[DIM / 16][4], bf16* b_tile) {
#pragma unroll
    for (int k = 0; k < DIM / 16; ++k) {
#pragma unroll
        for (int n = 0; n < COLUMNS / 16; ++n) {
            unsigned b[4];
            load_b_of_transposed<DIM>(b, b_tile, n * 16, k);
            mma_bf16(scores[2 * n], a[k], b[0], b[1]);
            mma_bf16(scores[2 * n + 1], a[k], b[2], b[3]);
        }
    }
}

// sums (16 x DIM) += weights (16 x ROWS, accumulators of another product) times the tile.
template <int DIM, int ROWS>
__device__ __forceinline__ void add_product(float (&sums)[DIM / 8][4], const float (&weights)[ROWS / 8][4], bf16* tile) {
#pragma unroll
    for (int k = 0; k < ROWS / 16; ++k) {
        unsigned a[4], b[4];
        as_a(a, weights[2 * k], weights[2 * k + 1]);
#pragma unroll
        for (int n = 0; n < DIM / 16; ++n) {
            load_b<DIM>(b, tile, k * 16, n);
            mma_bf16(sums[2 * n], a, b[0], b[1]);
            mma_bf16(sums[2 * n + 1], a, b[2], b[3]);
        }
    }
}

// Writes 16 x DIM accumulators, times a factor by row, to rows row.. below `last`.
template <int DIM>
__device__ __forceinline__ void store_rows(bf16* to, size_t stride, int row, int last, int dim, const float (&sums)[DIM / 8][4],
                                           float upper, float lower) {
    int lane = threadIdx.x % 32;
    row += lane / 4;
#pragma unroll
    for (int n = 0; n < DIM / 8; ++n) {
        int column = n * 8 + lane % 4 * 2;
        if (column >= dim) continue;
        if (row < last) *(unsigned*)(to + row * stride + column) = pack_bf16(sums[n][0] * upper, sums[n][1] * upper);
        if (row + 8 < last) *(unsigned*)(to + (row + 8) * stride + column) = pack_bf16(sums[n][2] * lower, sums[n][3] * lower);
    }
}

__device__ __forceinline__ bool sees(int query, int key, int window) { return key <= query && (window == 0 || query - key < window); }

struct Tile { int first, last, row_first, row_last; };

__device__ __forceinline__ Tile tile_at(const unsigned* tiles, int i) {
    return {(int)tiles[4 * i], (int)tiles[4 * i + 1], (int)tiles[4 * i + 2], (int)tiles[4 * i + 3]};
}

// Keys that a tile of queries sees: from the start of a block of KEYS (counted from the row's first).
template <int KEYS> __device__ __forceinline__ int first_key(const Tile& t, int window) {
    int seen = window == 0 ? t.row_first : max(t.row_first, t.first - window + 1);
    return t.row_first + (seen - t.row_first) / KEYS * KEYS;
}

// Shared memory: two stages of keys and values; the queries stand in the second until they are in registers.
template <int DIM, int KEYS>
__device__ __forceinline__ void forward(const bf16* qkv, const unsigned* tiles, bf16* out, float* lse, int tokens, int heads, int kv_heads,
                                        int dim, int window) {
    DYNAMIC_SHARED(shared);
    bf16* stage = (bf16*)shared;
    constexpr int SIZE = KEYS * DIM;
    static_assert(TILE * DIM <= 2 * SIZE, "the queries fit in a stage");
    // The last tiles of a row see the most keys: they start first.
    Tile t = tile_at(tiles, gridDim.x - 1 - blockIdx.x);
    int head = blockIdx.y, kv = head / (heads / kv_heads), warp_row = threadIdx.x / 32 * 16, lane = threadIdx.x % 32;
    size_t stride = (size_t)(heads + 2 * kv_heads) * dim;
    const bf16* q = qkv + (size_t)head * dim;
    const bf16* k = qkv + (size_t)(heads + kv) * dim;
    const bf16* v = k + (size_t)kv_heads * dim;
    window = min(window, tokens);
    int begin = first_key<KEYS>(t, window);

    fetch<DIM, TILE>(stage + 2 * SIZE, q, stride, t.first, t.last, dim);
    cp_async_commit();
    fetch<DIM, KEYS>(stage, k, stride, begin, t.last, dim);
    fetch<DIM, KEYS>(stage + SIZE, v, stride, begin, t.last, dim);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    unsigned queries[DIM / 16][4];
#pragma unroll
    for (int i = 0; i < DIM / 16; ++i) load_a<DIM>(queries[i], stage + 2 * SIZE, warp_row, i);

    float sums[DIM / 8][4] = {};
    float largest[2] = {-1e30f, -1e30f}, total[2] = {0.0f, 0.0f};  // of rows lane / 4 and 8 below; base 2
    float to_log2 = rsqrtf((float)dim) * LOG2_E;
    int query = t.first + warp_row + lane / 4;
    for (int key = begin, i = 0; key < t.last; key += KEYS, ++i) {
        bf16* keys = stage + i % 2 * 2 * SIZE;
        cp_async_wait<0>();
        // From here on this stage is there for all, and the other one is read by nobody any more.
        __syncthreads();
        if (key + KEYS < t.last) {
            bf16* next = stage + (i + 1) % 2 * 2 * SIZE;
            fetch<DIM, KEYS>(next, k, stride, key + KEYS, t.last, dim);
            fetch<DIM, KEYS>(next + SIZE, v, stride, key + KEYS, t.last, dim);
            cp_async_commit();
        }
        float scores[KEYS / 8][4] = {};
        add_scores<DIM, KEYS>(scores, queries, keys);
        if (key + KEYS - 1 > t.first + warp_row || (window != 0 && t.first + warp_row + 15 - key >= window)) {
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    if (!sees(query + j / 2 * 8, key + n * 8 + lane % 4 * 2 + j % 2, window)) scores[n][j] = -3e38f;
        }
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            float highest = -3e38f;
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n) highest = fmaxf(highest, fmaxf(scores[n][2 * r], scores[n][2 * r + 1]));
            highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 1));
            highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 2));
            // -1e30 is above what is masked: rows that see nothing of this block add nothing.
            float now = fmaxf(largest[r], highest * to_log2), shrink = exp2_fast(largest[r] - now);
            largest[r] = now;
            total[r] *= shrink;
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
                for (int j = 2 * r; j < 2 * r + 2; ++j) {
                    scores[n][j] = exp2_fast(scores[n][j] * to_log2 - now);
                    total[r] += scores[n][j];
                }
#pragma unroll
            for (int n = 0; n < DIM / 8; ++n) {
                sums[n][2 * r] *= shrink;
                sums[n][2 * r + 1] *= shrink;
            }
        }
        add_product<DIM, KEYS>(sums, scores, keys + SIZE);
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        total[r] += __shfl_xor_sync(0xffffffffu, total[r], 1);
        total[r] += __shfl_xor_sync(0xffffffffu, total[r], 2);
        if (lane % 4 == 0 && query + 8 * r < t.last)
            lse[(size_t)head * tokens + query + 8 * r] = largest[r] * LN_2 + logf(total[r]);
    }
    store_rows<DIM>(out + (size_t)head * dim, (size_t)heads * dim, t.first + warp_row, t.last, dim, sums, 1.0f / total[0], 1.0f / total[1]);
}

// D = rowsum(dO * O): a warp a token and head.
extern "C" __global__ void attention_delta(const bf16* out, const bf16* d_out, float* delta, int tokens, int heads, int dim) {
    int item = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (item >= tokens * heads) return;
    size_t at = (size_t)item * dim;
    float sum = 0.0f;
    for (int i = lane * 8; i < dim; i += 256) {
        Eight o = load8(out + at + i), d = load8(d_out + at + i);
#pragma unroll
        for (int j = 0; j < 8; ++j) sum += o.v[j] * d.v[j];
    }
    sum = warp_sum(sum);
    if (lane == 0) delta[(size_t)(item % heads) * tokens + item / heads] = sum;
}

// Shared memory: keys, values, two stages of queries and d_out, two stages of lse and delta.
// Everything is transposed: rows are keys, columns queries.
template <int DIM, int QUERIES>
__device__ __forceinline__ void backward_kv(const bf16* qkv, const unsigned* tiles, const bf16* d_out, const float* lse, const float* delta,
                                            bf16* d_qkv, int tokens, int heads, int kv_heads, int dim, int window) {
    DYNAMIC_SHARED(shared);
    constexpr int SIZE = QUERIES * DIM;
    bf16* keys = (bf16*)shared;
    bf16* values = keys + TILE * DIM;
    bf16* stage = values + TILE * DIM;
    float* rows = (float*)(stage + 4 * SIZE);
    // The first tiles of a row are seen by the most queries: they start first.
    Tile t = tile_at(tiles, blockIdx.x);
    int kv = blockIdx.y, group = heads / kv_heads, warp_row = threadIdx.x / 32 * 16, lane = threadIdx.x % 32;
    size_t stride = (size_t)(heads + 2 * kv_heads) * dim, key_column = (size_t)(heads + kv) * dim;
    size_t value_column = key_column + (size_t)kv_heads * dim;
    window = min(window, tokens);
    // Queries that see the tile's keys.
    int end = window == 0 ? t.row_last : min(t.row_last, t.last - 1 + window);
    int steps = (end - t.first + QUERIES - 1) / QUERIES;

    auto fetch_step = [&](int step) {
        int head = kv * group + step / steps, first = t.first + step % steps * QUERIES;
        bf16* to = stage + step % 2 * 2 * SIZE;
        fetch<DIM, QUERIES>(to, qkv + (size_t)head * dim, stride, first, end, dim);
        fetch<DIM, QUERIES>(to + SIZE, d_out + (size_t)head * dim, (size_t)heads * dim, first, end, dim);
        if (threadIdx.x < 2 * QUERIES) {
            int i = threadIdx.x % QUERIES;
            const float* from = (threadIdx.x < QUERIES ? lse : delta) + (size_t)head * tokens;
            bool there = first + i < end;
            cp_async4(rows + step % 2 * 2 * QUERIES + threadIdx.x, there ? from + first + i : from, there);
        }
        cp_async_commit();
    };
    fetch<DIM, TILE>(keys, qkv + key_column, stride, t.first, t.last, dim);
    fetch<DIM, TILE>(values, qkv + value_column, stride, t.first, t.last, dim);
    fetch_step(0);

    float d_keys[DIM / 8][4] = {}, d_values[DIM / 8][4] = {};
    float scale = rsqrtf((float)dim), to_log2 = scale * LOG2_E;
    int key = t.first + warp_row + lane / 4;
    for (int step = 0; step < steps * group; ++step) {
        cp_async_wait<0>();
        __syncthreads();
        if (step + 1 < steps * group) fetch_step(step + 1);
        bf16* queries = stage + step % 2 * 2 * SIZE;
        bf16* d_outs = queries + SIZE;
        const float* lses = rows + step % 2 * 2 * QUERIES;
        const float* deltas = lses + QUERIES;
        int first = t.first + step % steps * QUERIES;

        float scores[QUERIES / 8][4] = {};
        add_scores<DIM, QUERIES>(scores, keys, warp_row, queries);
        bool all = t.first + warp_row + 15 <= first && first + QUERIES <= end &&
                   (window == 0 || first + QUERIES - 1 - (t.first + warp_row) < window);
#pragma unroll
        for (int n = 0; n < QUERIES / 8; ++n)
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                int column = n * 8 + lane % 4 * 2 + j % 2;
                float p = exp2_fast(scores[n][j] * to_log2 - lses[column] * LOG2_E);
                bool seen = all || (first + column < end && sees(first + column, key + j / 2 * 8, window));
                scores[n][j] = seen ? p : 0.0f;
            }
        add_product<DIM, QUERIES>(d_values, scores, d_outs);
        float d_scores[QUERIES / 8][4] = {};
        add_scores<DIM, QUERIES>(d_scores, values, warp_row, d_outs);
#pragma unroll
        for (int n = 0; n < QUERIES / 8; ++n)
#pragma unroll
            for (int j = 0; j < 4; ++j)
                d_scores[n][j] = scores[n][j] * (d_scores[n][j] - deltas[n * 8 + lane % 4 * 2 + j % 2]);
        add_product<DIM, QUERIES>(d_keys, d_scores, queries);
    }
    store_rows<DIM>(d_qkv + key_column, stride, t.first + warp_row, t.last, dim, d_keys, scale, scale);
    store_rows<DIM>(d_qkv + value_column, stride, t.first + warp_row, t.last, dim, d_values, 1.0f, 1.0f);
}

// Shared memory: queries, d_out, two stages of keys and values.
template <int DIM, int KEYS>
__device__ __forceinline__ void backward_q(const bf16* qkv, const unsigned* tiles, const bf16* d_out, const float* lse, const float* delta,
                                           bf16* d_qkv, int tokens, int heads, int kv_heads, int dim, int window) {
    DYNAMIC_SHARED(shared);
    constexpr int SIZE = KEYS * DIM;
    bf16* queries = (bf16*)shared;
    bf16* d_outs = queries + TILE * DIM;
    bf16* stage = d_outs + TILE * DIM;
    Tile t = tile_at(tiles, gridDim.x - 1 - blockIdx.x);
    int head = blockIdx.y, kv = head / (heads / kv_heads), warp_row = threadIdx.x / 32 * 16, lane = threadIdx.x % 32;
    size_t stride = (size_t)(heads + 2 * kv_heads) * dim;
    const bf16* k = qkv + (size_t)(heads + kv) * dim;
    const bf16* v = k + (size_t)kv_heads * dim;
    window = min(window, tokens);
    int begin = first_key<KEYS>(t, window);

    fetch<DIM, TILE>(queries, qkv + (size_t)head * dim, stride, t.first, t.last, dim);
    fetch<DIM, TILE>(d_outs, d_out + (size_t)head * dim, (size_t)heads * dim, t.first, t.last, dim);
    fetch<DIM, KEYS>(stage, k, stride, begin, t.last, dim);
    fetch<DIM, KEYS>(stage + SIZE, v, stride, begin, t.last, dim);
    cp_async_commit();
    int query = t.first + warp_row + lane / 4;
    float row_lse[2], row_delta[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        size_t at = (size_t)head * tokens + min(query + 8 * r, t.last - 1);
        row_lse[r] = lse[at] * LOG2_E;
        row_delta[r] = delta[at];
    }
    float sums[DIM / 8][4] = {};
    float scale = rsqrtf((float)dim), to_log2 = scale * LOG2_E;
    // Up to 128 columns there is room for both in registers; beyond, they are read anew for every block of keys.
    constexpr bool HELD = DIM <= 128;
    unsigned held_queries[DIM / 16][4], held_d_outs[DIM / 16][4];
    for (int key = begin, i = 0; key < t.last; key += KEYS, ++i) {
        bf16* keys = stage + i % 2 * 2 * SIZE;
        cp_async_wait<0>();
        __syncthreads();
        if (HELD && i == 0) {
#pragma unroll
            for (int d = 0; d < DIM / 16; ++d) {
                load_a<DIM>(held_queries[d], queries, warp_row, d);
                load_a<DIM>(held_d_outs[d], d_outs, warp_row, d);
            }
        }
        if (key + KEYS < t.last) {
            bf16* next = stage + (i + 1) % 2 * 2 * SIZE;
            fetch<DIM, KEYS>(next, k, stride, key + KEYS, t.last, dim);
            fetch<DIM, KEYS>(next + SIZE, v, stride, key + KEYS, t.last, dim);
            cp_async_commit();
        }
        float scores[KEYS / 8][4] = {}, d_scores[KEYS / 8][4] = {};
        if (HELD) {
            add_scores<DIM, KEYS>(scores, held_queries, keys);
            add_scores<DIM, KEYS>(d_scores, held_d_outs, keys + SIZE);
        } else {
            add_scores<DIM, KEYS>(scores, queries, warp_row, keys);
            add_scores<DIM, KEYS>(d_scores, d_outs, warp_row, keys + SIZE);
        }
        bool all = key + KEYS - 1 <= t.first + warp_row && (window == 0 || t.first + warp_row + 15 - key < window);
#pragma unroll
        for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                float p = exp2_fast(scores[n][j] * to_log2 - row_lse[j / 2]);
                bool seen = all || sees(query + j / 2 * 8, key + n * 8 + lane % 4 * 2 + j % 2, window);
                d_scores[n][j] = seen ? p * (d_scores[n][j] - row_delta[j / 2]) : 0.0f;
            }
        add_product<DIM, KEYS>(sums, d_scores, keys);
    }
    store_rows<DIM>(d_qkv + (size_t)head * dim, stride, t.first + warp_row, t.last, dim, sums, scale, scale);
}

#define FORWARD_PARAMETERS \
    const bf16 *qkv, const unsigned *tiles, bf16 *out, float *lse, int tokens, int heads, int kv_heads, int dim, int window
#define FORWARD_ARGUMENTS qkv, tiles, out, lse, tokens, heads, kv_heads, dim, window
#define BACKWARD_PARAMETERS                                                                                              \
    const bf16 *qkv, const unsigned *tiles, const bf16 *d_out, const float *lse, const float *delta, bf16 *d_qkv, int tokens, \
        int heads, int kv_heads, int dim, int window
#define BACKWARD_ARGUMENTS qkv, tiles, d_out, lse, delta, d_qkv, tokens, heads, kv_heads, dim, window

extern "C" __global__ void __launch_bounds__(128, 4) attention_64(FORWARD_PARAMETERS) { forward<64, 64>(FORWARD_ARGUMENTS); }
extern "C" __global__ void __launch_bounds__(128) attention_128(FORWARD_PARAMETERS) { forward<128, 64>(FORWARD_ARGUMENTS); }
extern "C" __global__ void __launch_bounds__(128) attention_256(FORWARD_PARAMETERS) { forward<256, 32>(FORWARD_ARGUMENTS); }

extern "C" __global__ void __launch_bounds__(128) attention_backward_kv_64(BACKWARD_PARAMETERS) {
    backward_kv<64, 64>(BACKWARD_ARGUMENTS);
}
extern "C" __global__ void __launch_bounds__(128) attention_backward_kv_128(BACKWARD_PARAMETERS) {
    backward_kv<128, 32>(BACKWARD_ARGUMENTS);
}
extern "C" __global__ void __launch_bounds__(128) attention_backward_kv_256(BACKWARD_PARAMETERS) {
    backward_kv<256, 16>(BACKWARD_ARGUMENTS);
}
extern "C" __global__ void __launch_bounds__(128) attention_backward_q_64(BACKWARD_PARAMETERS) {
    backward_q<64, 64>(BACKWARD_ARGUMENTS);
}
extern "C" __global__ void __launch_bounds__(128) attention_backward_q_128(BACKWARD_PARAMETERS) {
    backward_q<128, 32>(BACKWARD_ARGUMENTS);
}
extern "C" __global__ void __launch_bounds__(128) attention_backward_q_256(BACKWARD_PARAMETERS) {
    backward_q<256, 16>(BACKWARD_ARGUMENTS);
}
