// RMSNorm of every q and k head, then rotation, in one pass over stacked q|k|v (qwen3); twins: `rms_norm_heads` of src/ops/rms_norm.rs,
// then src/ops/rope.rs. Formulas and sources: rms_norm.cu, rope.cu.
//
// Shapes: qkv, d_qkv (rows x stride), their first (heads + kv_heads) dim columns are worked on in place; raw (rows x (heads + kv_heads) dim)
// gets what stood there before, for the backward; r (rows x (heads + kv_heads)); w_q, w_k (dim); table (positions x dim): cosines, sines.
// One warp a head; a lane holds neighbours i, i + 1 of the lower half and their partners of the upper one.
// Forward: 6 bytes an element (copy, norm and rotation apart: 12), 10 flops. Backward: 6 bytes (apart: 10), 14 flops.

#include "common.h"

// Neighbours by lane that cover half a head of up to 256.
constexpr int TURNS = 2;

struct Pair { float a, b; };

__device__ __forceinline__ Pair load2(const bf16* from) {
    unsigned bits = *(const unsigned*)from;
    return {__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u)};
}
__device__ __forceinline__ void store2(bf16* to, Pair x) { *(unsigned*)to = pack_bf16(x.a, x.b); }

extern "C" __global__ void norm_rope(bf16* qkv, bf16* raw, const bf16* w_q, const bf16* w_k, float* r, const float* table,
                                     const unsigned* positions, int stride, int rows, int heads, int kv_heads, int dim, float eps) {
    int item = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32, all = heads + kv_heads, half = dim / 2;
    if (item >= rows * all) return;
    int row = item / all, head = item % all;
    bf16* x = qkv + (size_t)row * stride + head * dim;
    const bf16* w = head < heads ? w_q : w_k;
    const float* cosine = table + (size_t)positions[row] * dim;
    const float* sine = cosine + half;
    raw += (size_t)item * dim;
    Pair low[TURNS], high[TURNS];
    float squares = 0.0f;
#pragma unroll
    for (int turn = 0; turn < TURNS; ++turn) {
        int i = turn * 64 + lane * 2;
        low[turn] = high[turn] = {0.0f, 0.0f};
        if (i < half) {
            low[turn] = load2(x + i);
            high[turn] = load2(x + half + i);
            store2(raw + i, low[turn]);
            store2(raw + half + i, high[turn]);
        }
        squares += low[turn].a * low[turn].a + low[turn].b * low[turn].b + high[turn].a * high[turn].a + high[turn].b * high[turn].b;
    }
    float inverse = rsqrtf(warp_sum(squares) / dim + eps);
    if (lane == 0) r[item] = inverse;
#pragma unroll
    for (int turn = 0; turn < TURNS; ++turn) {
        int i = turn * 64 + lane * 2;
        if (i >= half) continue;
        Pair u = load2(w + i), v = load2(w + half + i), p = low[turn], q = high[turn];
        p = {p.a * inverse * u.a, p.b * inverse * u.b};
        q = {q.a * inverse * v.a, q.b * inverse * v.b};
        float c0 = cosine[i], c1 = cosine[i + 1], s0 = sine[i], s1 = sine[i + 1];
        store2(x + i, {p.a * c0 - q.a * s0, p.b * c1 - q.b * s1});
        store2(x + half + i, {q.a * c0 + p.a * s0, q.b * c1 + p.b * s1});
    }
}

extern "C" __global__ void norm_rope_backward(bf16* d_qkv, const bf16* raw, const bf16* w_q, const bf16* w_k, const float* r,
                                              const float* table, const unsigned* positions, int stride, int rows, int heads,
                                              int kv_heads, int dim) {
    int item = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32, all = heads + kv_heads, half = dim / 2;
    if (item >= rows * all) return;
    int row = item / all, head = item % all;
    bf16* d = d_qkv + (size_t)row * stride + head * dim;
    const bf16* w = head < heads ? w_q : w_k;
    const float* cosine = table + (size_t)positions[row] * dim;
    const float* sine = cosine + half;
    raw += (size_t)item * dim;
    // w dy of both halves, and x.
    Pair g_low[TURNS], g_high[TURNS], x_low[TURNS], x_high[TURNS];
    float sum = 0.0f;
#pragma unroll
    for (int turn = 0; turn < TURNS; ++turn) {
        int i = turn * 64 + lane * 2;
        g_low[turn] = g_high[turn] = x_low[turn] = x_high[turn] = {0.0f, 0.0f};
        if (i >= half) continue;
        Pair p = load2(d + i), q = load2(d + half + i), u = load2(w + i), v = load2(w + half + i);
        float c0 = cosine[i], c1 = cosine[i + 1], s0 = sine[i], s1 = sine[i + 1];
        g_low[turn] = {(p.a * c0 + q.a * s0) * u.a, (p.b * c1 + q.b * s1) * u.b};
        g_high[turn] = {(q.a * c0 - p.a * s0) * v.a, (q.b * c1 - p.b * s1) * v.b};
        x_low[turn] = load2(raw + i);
        x_high[turn] = load2(raw + half + i);
        sum += g_low[turn].a * x_low[turn].a + g_low[turn].b * x_low[turn].b + g_high[turn].a * x_high[turn].a +
               g_high[turn].b * x_high[turn].b;
    }
    float inverse = r[item], c = warp_sum(sum) * inverse * inverse * inverse / dim;
#pragma unroll
    for (int turn = 0; turn < TURNS; ++turn) {
        int i = turn * 64 + lane * 2;
        if (i >= half) continue;
        store2(d + i, {g_low[turn].a * inverse - x_low[turn].a * c, g_low[turn].b * inverse - x_low[turn].b * c});
        store2(d + half + i, {g_high[turn].a * inverse - x_high[turn].a * c, g_high[turn].b * inverse - x_high[turn].b * c});
    }
}
