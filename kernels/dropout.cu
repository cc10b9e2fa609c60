// Dropout with a mask that nobody stores: made anew from its counter in the backward. Twin of src/ops/dropout.rs.
//
// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): element i is dropped if word i % 4 of the
// block at counter (i / 4, stream) under key seed is below threshold = p 2^32; kept ones are multiplied by scale = 1 / (1 - p).
// y = [y +] x scale where kept. The backward is the same call on the gradient.
// Shapes: x, y (count). A thread takes 8 elements. 4 bytes an element (6 with add), 10 integer operations.

#include "common.h"

struct Words { unsigned w[4]; };

__device__ __forceinline__ Words philox(unsigned long long counter, unsigned long long stream, unsigned long long key) {
    unsigned c0 = (unsigned)counter, c1 = (unsigned)(counter >> 32), c2 = (unsigned)stream, c3 = (unsigned)(stream >> 32);
    unsigned k0 = (unsigned)key, k1 = (unsigned)(key >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        unsigned high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        unsigned high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

extern "C" __global__ void dropout(const bf16* x, bf16* y, size_t count, unsigned threshold, float scale, unsigned long long seed,
                                   unsigned long long stream, int add) {
    bool aligned = aligned16(x) && aligned16(y);
    size_t stride = (size_t)gridDim.x * blockDim.x * 8;
    for (size_t i = (blockIdx.x * (size_t)blockDim.x + threadIdx.x) * 8; i < count; i += stride) {
        int left = count - i < 8 ? (int)(count - i) : 8;
        bool whole = aligned && left == 8;
        Eight a = load_up_to_8(x + i, left, whole), b = {};
        if (add) b = load_up_to_8(y + i, left, whole);
        Words first = philox(i / 4, stream, seed), second = philox(i / 4 + 1, stream, seed);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            unsigned word = j < 4 ? first.w[j % 4] : second.w[j % 4];
            b.v[j] += word < threshold ? 0.0f : a.v[j] * scale;
        }
        store_up_to_8(y + i, b, left, whole);
    }
}
