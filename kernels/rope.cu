// Rotary position embedding (Su et al. 2021, arXiv:2104.09864), half-split form, twin of src/ops/rope.rs.
//
// y_i = x_i cos a_i - x_{i+dim/2} sin a_i, y_{i+dim/2} = x_{i+dim/2} cos a_i + x_i sin a_i; the backward turns by -a (sign -1).
// Shapes: x (rows x stride), its first heads * dim columns are turned in place; table (positions x dim): dim/2 cosines, dim/2
// sines. A thread turns 8 pairs. 4 bytes and 3 flops an element; the table comes from cache.

#include "common.h"

extern "C" __global__ void rope(bf16* x, const float* table, const unsigned* positions, int stride, int rows, int heads, int dim,
                                float sign) {
    int half = dim / 2, steps = (half + 7) / 8;
    bool whole = half % 8 == 0 && stride % 8 == 0 && aligned16(x);
    unsigned count = (unsigned)rows * heads * steps;
    for (unsigned at = blockIdx.x * blockDim.x + threadIdx.x; at < count; at += gridDim.x * blockDim.x) {
        int i = at % steps * 8, head = at / steps % heads, row = at / steps / heads, left = half - i;
        bf16* low = x + (size_t)row * stride + head * dim + i;
        bf16* high = low + half;
        const float* cosine = table + (size_t)positions[row] * dim + i;
        const float* sine = cosine + half;
        Eight p = load_up_to_8(low, left, whole), q = load_up_to_8(high, left, whole);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            if (j >= left) break;
            float c = cosine[j], s = sign * sine[j], a = p.v[j], b = q.v[j];
            p.v[j] = a * c - b * s;
            q.v[j] = b * c + a * s;
        }
        store_up_to_8(low, p, left, whole);
        store_up_to_8(high, q, left, whole);
    }
}
