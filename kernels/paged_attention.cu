// Attention of new tokens over keys and values in blocks (Kwon et al. 2023, arXiv:2309.06180), twin of src/ops/attention.rs and,
// with what no block keeps, of src/ops/paged_attention.rs.
//
// A block of the cache has `block` positions of one sequence: for each head the keys (block x dim), after those of all heads the
// values likewise. `pages` is a layer's part of block 0, `block_stride` elements lie between two blocks. `tables` has the blocks of
// each sequence in order. `places` says of each query: the entry where its sequence begins there; its position (2^32 - 1: it sees
// nothing); how many positions the blocks have for it; the entry where the rows begin that have the positions after those. Such
// rows are new tokens of this pass that no block keeps (a tree of continuations): their keys and values stand beside the queries.
//
// paged_attention: keys are split in spans, so that few sequences fill the chip too (flash decoding, Dao et al. 2023); each span's
// part is joined by log sum exp in paged_merge: with m the largest score so far, l = sum exp(s - m), o = sum exp(s - m) v, another
// part (m', l', o') joins as M = max(m, m'), l e^(m-M) + l' e^(m'-M), likewise o (Milakov and Gimelshein 2018, arXiv:1805.02867).
// A query sees keys up to its own position, so several new tokens of a sequence (a prompt, guesses to be verified) are rows of their
// own. A thread block takes one query, one key-value head and one span: a key is read once for up to HEADS query heads.
// Eight lanes share a key, 16 keys go at once.
//
// The queries are those from `first` on, as many as the grid has.
// Shapes: q (any x heads dim, q_stride), bf16; pages bf16 or f32; parts (queries x heads x splits x (dim + 2)): o, m in base 2, l.
// Bytes: per key and head 2 dim elements for each ceil(group / HEADS) of its query heads; flops 4 dim per query head and key.
// paged_write: bytes 2 (2 + size of an element) kv_heads dim a token.

#include "common.h"

constexpr float LOG2_E = 1.4426950408889634f;
constexpr int WARPS = 4;

__device__ __forceinline__ Eight eight_at(const bf16* from) { return load8(from); }
__device__ __forceinline__ Eight eight_at(const float* from) {
    uint4 low = load16(from), high = load16(from + 4);
    return {{__uint_as_float(low.x), __uint_as_float(low.y), __uint_as_float(low.z), __uint_as_float(low.w), __uint_as_float(high.x),
             __uint_as_float(high.y), __uint_as_float(high.z), __uint_as_float(high.w)}};
}
__device__ __forceinline__ void put_eight(bf16* to, const Eight& e) { store8(to, e); }
__device__ __forceinline__ void put_eight(float* to, const Eight& e) {
#pragma unroll
    for (int j = 0; j < 8; ++j) to[j] = e.v[j];
}

// A lane's part of a key and of its value.
template <class T, int PIECES>
__device__ __forceinline__ void read_both(const T* k, const T* v, int part, int dim, Eight (&keys)[PIECES], Eight (&values)[PIECES]) {
#pragma unroll
    for (int p = 0; p < PIECES; ++p) {
        int column = (p * 8 + part) * 8;
        keys[p] = values[p] = {};
        if (column < dim) {
            keys[p] = eight_at(k + column);
            values[p] = eight_at(v + column);
        }
    }
}

template <class T, int DIM, int HEADS>
__device__ __forceinline__ void attend(const bf16* q, const T* pages, const unsigned* tables, const unsigned* places, float* parts,
                                       unsigned long long block_stride, int q_stride, int heads, int kv_heads, int dim, int block, int span,
                                       int splits, int window, int first) {
    __shared__ float joined[WARPS][HEADS][DIM + 2];
    constexpr int PIECES = DIM / 64;
    int part_row = blockIdx.x / splits, row = first + part_row, split = blockIdx.x % splits, group = heads / kv_heads;
    int shares = (group + HEADS - 1) / HEADS, kv = blockIdx.y / shares, first_head = kv * group + blockIdx.y % shares * HEADS;
    int count = min(HEADS, (kv + 1) * group - first_head);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, part_of_key = lane % 8;
    const unsigned* place = places + 4 * row;
    const unsigned* table = tables + place[0];
    const unsigned* own = tables + place[3];
    int position = (int)place[1], kept = (int)place[2];
    int oldest = window == 0 ? 0 : max(0, position + 1 - window);
    int begin = max(oldest, split * span), end = min(position + 1, (split + 1) * span);

    float queries[HEADS][PIECES][8], sums[HEADS][PIECES][8] = {}, largest[HEADS], total[HEADS] = {};
    float to_log2 = rsqrtf((float)dim) * LOG2_E;
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
        largest[h] = -1e30f;
#pragma unroll
        for (int p = 0; p < PIECES; ++p) {
            int column = (p * 8 + part_of_key) * 8;
            Eight e = {};
            if (h < count && column < dim) e = load8(q + (size_t)row * q_stride + (size_t)(first_head + h) * dim + column);
#pragma unroll
            for (int j = 0; j < 8; ++j) queries[h][p][j] = e.v[j] * to_log2;
        }
    }
    for (int base = begin; base < end; base += WARPS * 4) {
        int key = base + (int)threadIdx.x / 8;
        bool there = key < end;
        // What is not there is read where something is, and counts for nothing.
        int at = there ? key : begin;
        Eight keys[PIECES], values[PIECES];
        if (at < kept) {
            const T* k = pages + table[at / block] * block_stride + ((size_t)kv * block + at % block) * dim;
            read_both(k, k + (size_t)kv_heads * block * dim, part_of_key, dim, keys, values);
        } else {
            const bf16* k = q + (size_t)own[at - kept] * q_stride + (size_t)(heads + kv) * dim;
            read_both(k, k + (size_t)kv_heads * dim, part_of_key, dim, keys, values);
        }
#pragma unroll
        for (int h = 0; h < HEADS; ++h) {
            float score = 0.0f;
#pragma unroll
            for (int p = 0; p < PIECES; ++p)
#pragma unroll
                for (int j = 0; j < 8; ++j) score += queries[h][p][j] * keys[p].v[j];
#pragma unroll
            for (int step = 1; step < 8; step *= 2) score += __shfl_xor_sync(0xffffffffu, score, step);
            float now = there ? fmaxf(largest[h], score) : largest[h];
            float shrink = exp2_fast(largest[h] - now), weight = there ? exp2_fast(score - now) : 0.0f;
            largest[h] = now;
            total[h] = total[h] * shrink + weight;
#pragma unroll
            for (int p = 0; p < PIECES; ++p)
#pragma unroll
                for (int j = 0; j < 8; ++j) sums[h][p][j] = sums[h][p][j] * shrink + weight * values[p].v[j];
        }
    }
    // The four keys of a warp, then the warps.
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
#pragma unroll
        for (int step = 8; step < 32; step *= 2) {
            float other = __shfl_xor_sync(0xffffffffu, largest[h], step), now = fmaxf(largest[h], other);
            float mine = exp2_fast(largest[h] - now), theirs = exp2_fast(other - now);
            largest[h] = now;
            total[h] = total[h] * mine + __shfl_xor_sync(0xffffffffu, total[h], step) * theirs;
#pragma unroll
            for (int p = 0; p < PIECES; ++p)
#pragma unroll
                for (int j = 0; j < 8; ++j)
                    sums[h][p][j] = sums[h][p][j] * mine + __shfl_xor_sync(0xffffffffu, sums[h][p][j], step) * theirs;
        }
        if (lane < 8) {
#pragma unroll
            for (int p = 0; p < PIECES; ++p)
#pragma unroll
                for (int j = 0; j < 8; ++j) joined[warp][h][(p * 8 + lane) * 8 + j] = sums[h][p][j];
        }
        if (lane == 0) {
            joined[warp][h][DIM] = largest[h];
            joined[warp][h][DIM + 1] = total[h];
        }
    }
    __syncthreads();
    for (int item = threadIdx.x; item < count * (dim + 2); item += blockDim.x) {
        int h = item / (dim + 2), column = item % (dim + 2);
        float highest = joined[0][h][DIM];
        for (int w = 1; w < WARPS; ++w) highest = fmaxf(highest, joined[w][h][DIM]);
        // Columns beyond dim: the largest score and the sum.
        int from = column < dim ? column : DIM + 1;
        float sum = 0.0f;
        for (int w = 0; w < WARPS; ++w) sum += joined[w][h][from] * exp2_fast(joined[w][h][DIM] - highest);
        float* part = parts + (((size_t)part_row * heads + first_head + h) * splits + split) * (dim + 2);
        part[column] = column == dim ? highest : sum;
    }
}

#define PAGED(T)                                                                                                                         \
    const bf16 *q, const T *pages, const unsigned *tables, const unsigned *places, float *parts, unsigned long long block_stride,        \
        int q_stride, int heads, int kv_heads, int dim, int block, int span, int splits, int window, int first
#define GIVEN q, pages, tables, places, parts, block_stride, q_stride, heads, kv_heads, dim, block, span, splits, window, first

extern "C" __global__ void __launch_bounds__(128) paged_attention_bf16_64(PAGED(bf16)) { attend<bf16, 64, 4>(GIVEN); }
extern "C" __global__ void __launch_bounds__(128) paged_attention_bf16_128(PAGED(bf16)) { attend<bf16, 128, 4>(GIVEN); }
extern "C" __global__ void __launch_bounds__(128) paged_attention_bf16_256(PAGED(bf16)) { attend<bf16, 256, 2>(GIVEN); }
extern "C" __global__ void __launch_bounds__(128) paged_attention_f32_64(PAGED(float)) { attend<float, 64, 4>(GIVEN); }
extern "C" __global__ void __launch_bounds__(128) paged_attention_f32_128(PAGED(float)) { attend<float, 128, 4>(GIVEN); }
extern "C" __global__ void __launch_bounds__(128) paged_attention_f32_256(PAGED(float)) { attend<float, 256, 2>(GIVEN); }

// One block a query and head; a query that sees nothing gets zeros.
extern "C" __global__ void paged_merge(const float* parts, bf16* out, int splits, int dim) {
    const float* first = parts + (size_t)blockIdx.x * splits * (dim + 2);
    float highest = -1e30f, total = 0.0f;
    for (int s = 0; s < splits; ++s) highest = fmaxf(highest, first[(size_t)s * (dim + 2) + dim]);
    for (int s = 0; s < splits; ++s) {
        const float* part = first + (size_t)s * (dim + 2);
        total += part[dim + 1] * exp2_fast(part[dim] - highest);
    }
    for (int column = threadIdx.x; column < dim; column += blockDim.x) {
        float sum = 0.0f;
        for (int s = 0; s < splits; ++s) {
            const float* part = first + (size_t)s * (dim + 2);
            sum += part[column] * exp2_fast(part[dim] - highest);
        }
        out[(size_t)blockIdx.x * dim + column] = to_bf16(total > 0.0f ? sum / total : 0.0f);
    }
}

// slots: block * positions of a block + place in it; 2^32 - 1: nowhere.
template <class T>
__device__ __forceinline__ void write(const bf16* qkv, const unsigned* slots, T* pages, unsigned long long block_stride, int stride, int rows,
                                      int heads, int kv_heads, int dim, int block) {
    for (Steps s(rows, 2 * kv_heads * dim); s.more(); s.next()) {
        unsigned slot = slots[s.row()];
        if (slot == 0xffffffffu) continue;
        // Keys of all heads, then values: as in qkv, so in a block.
        int head = s.column() / dim, column = s.column() % dim;
        Eight e = load8(qkv + (size_t)s.row() * stride + (size_t)heads * dim + s.column());
        put_eight(pages + slot / block * block_stride + ((size_t)head * block + slot % block) * dim + column, e);
    }
}

extern "C" __global__ void paged_write_bf16(const bf16* qkv, const unsigned* slots, bf16* pages, unsigned long long block_stride, int stride,
                                            int rows, int heads, int kv_heads, int dim, int block) {
    write(qkv, slots, pages, block_stride, stride, rows, heads, kv_heads, dim, block);
}
extern "C" __global__ void paged_write_f32(const bf16* qkv, const unsigned* slots, float* pages, unsigned long long block_stride, int stride,
                                           int rows, int heads, int kv_heads, int dim, int block) {
    write(qkv, slots, pages, block_stride, stride, rows, heads, kv_heads, dim, block);
}
