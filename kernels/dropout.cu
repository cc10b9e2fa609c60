// Dropout with a mask that nobody stores: a hash of the token's key, the layer and the column. Twin of src/ops/dropout.rs, which says
// where the constants come from.
//
// y = [y +] x k / (1 - p), k = 0 where the hash is below bound = p 2^32, else 1; kept = 1 / (1 - p). The backward is the same call on
// the gradient. Shapes: x, y (rows x width), keys (rows). A thread takes 8 columns. 4 bytes an element (6 with add), 12 integer
// operations.

#include "common.h"

__device__ __forceinline__ unsigned long long mix(unsigned long long x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

extern "C" __global__ void dropout(const bf16* x, bf16* y, const unsigned long long* keys, unsigned long long layer, unsigned bound,
                                   float kept, int rows, int width, int add) {
    bool whole = width % 8 == 0 && aligned16(x) && aligned16(y);
    for (Steps s(rows, width); s.more(); s.next()) {
        int left = width - s.column();
        size_t at = (size_t)s.row() * width + s.column();
        unsigned long long key = mix(keys[s.row()] ^ ((layer + 1) * 0x9E3779B97F4A7C15ull));
        unsigned low = (unsigned)key, high = (unsigned)(key >> 32);
        Eight a = load_up_to_8(x + at, left, whole), b = {};
        if (add) b = load_up_to_8(y + at, left, whole);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            unsigned h = low + (unsigned)(s.column() + j) * 0x9E3779B9u;
            h = (h ^ (h >> 16)) * 0x7FEB352Du;
            h = (h ^ (h >> 15) ^ high) * 0x846CA68Bu;
            h ^= h >> 16;
            b.v[j] += h < bound ? 0.0f : a.v[j] * kept;
        }
        store_up_to_8(y + at, b, left, whole);
    }
}
