// RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467), twin of src/ops/rms_norm.rs.
//
// Shapes: x, y, dy, dx (rows x width), w (width), r (rows). One block a row. (Of q and k heads: norm_rope.cu.)
// Forward  y = x r w, r = rsqrt(mean(x^2) + eps):               4 bytes an element (x once more from cache), 4 flops.
// Backward dx = [dx +] r w dy - x (r^3 / width) sum(dy w x):     6 bytes an element (8 with add), 8 flops.

#include "common.h"

extern "C" __global__ void rms_norm(const bf16* x, const bf16* w, bf16* y, float* r, int width, float eps) {
    bool whole = width % 8 == 0 && aligned16(x) && aligned16(w) && aligned16(y);
    x += (size_t)blockIdx.x * width;
    y += (size_t)blockIdx.x * width;
    float squares = 0.0f;
    for (int i = threadIdx.x * 8; i < width; i += blockDim.x * 8) {
        Eight a = load_up_to_8(x + i, width - i, whole);
#pragma unroll
        for (int j = 0; j < 8; ++j) squares += a.v[j] * a.v[j];
    }
    float inverse = rsqrtf(block_sum(squares) / width + eps);
    if (threadIdx.x == 0) r[blockIdx.x] = inverse;
    for (int i = threadIdx.x * 8; i < width; i += blockDim.x * 8) {
        Eight a = load_up_to_8(x + i, width - i, whole), b = load_up_to_8(w + i, width - i, whole);
#pragma unroll
        for (int j = 0; j < 8; ++j) a.v[j] *= inverse * b.v[j];
        store_up_to_8(y + i, a, width - i, whole);
    }
}

extern "C" __global__ void rms_norm_again(const bf16* x, const bf16* w, const float* r, bf16* y, int width) {
    bool whole = width % 8 == 0 && aligned16(x) && aligned16(w) && aligned16(y);
    x += (size_t)blockIdx.x * width;
    y += (size_t)blockIdx.x * width;
    float inverse = r[blockIdx.x];
    for (int i = threadIdx.x * 8; i < width; i += blockDim.x * 8) {
        Eight a = load_up_to_8(x + i, width - i, whole), b = load_up_to_8(w + i, width - i, whole);
#pragma unroll
        for (int j = 0; j < 8; ++j) a.v[j] *= inverse * b.v[j];
        store_up_to_8(y + i, a, width - i, whole);
    }
}

extern "C" __global__ void rms_norm_backward(const bf16* x, const bf16* w, const float* r, const bf16* dy, bf16* dx, int width,
                                             int add) {
    bool whole = width % 8 == 0 && aligned16(x) && aligned16(w) && aligned16(dy) && aligned16(dx);
    size_t at = (size_t)blockIdx.x * width;
    float inverse = r[blockIdx.x], sum = 0.0f;
    for (int i = threadIdx.x * 8; i < width; i += blockDim.x * 8) {
        int left = width - i;
        Eight a = load_up_to_8(x + at + i, left, whole), b = load_up_to_8(w + i, left, whole), g = load_up_to_8(dy + at + i, left, whole);
#pragma unroll
        for (int j = 0; j < 8; ++j) sum += g.v[j] * b.v[j] * a.v[j];
    }
    float c = block_sum(sum) * inverse * inverse * inverse / width;
    for (int i = threadIdx.x * 8; i < width; i += blockDim.x * 8) {
        int left = width - i;
        Eight a = load_up_to_8(x + at + i, left, whole), b = load_up_to_8(w + i, left, whole), g = load_up_to_8(dy + at + i, left, whole);
        Eight d = {};
        if (add) d = load_up_to_8(dx + at + i, left, whole);
#pragma unroll
        for (int j = 0; j < 8; ++j) d.v[j] += g.v[j] * b.v[j] * inverse - a.v[j] * c;
        store_up_to_8(dx + at + i, d, left, whole);
    }
}
