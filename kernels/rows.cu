// Whole rows: token embedding and its like (twin: src/ops/embedding.rs), bias, f32 masters as bf16.
//
// gather_rows  y_i = table[id_i]: embedding, and the hidden states that predict.   4 bytes an element, no flops.
// scatter_rows table[id_i] = y_i, ids differ: the gradient of the latter.          4 bytes an element, no flops.
// add_bias     y += bias (twin: src/ops/matmul.rs): 4 bytes and 1 flop.    cast_bf16: 6 bytes an element.

#include "common.h"

__device__ __forceinline__ void copy_row(const bf16* from, bf16* to, int width, bool whole) {
    if (whole) {
        for (int i = threadIdx.x * 8; i < width; i += blockDim.x * 8) store16(to + i, load16(from + i));
    } else {
        for (int i = threadIdx.x; i < width; i += blockDim.x) to[i] = from[i];
    }
}

extern "C" __global__ void gather_rows(const bf16* table, const unsigned* ids, bf16* y, int width) {
    bool whole = width % 8 == 0 && aligned16(table) && aligned16(y);
    copy_row(table + (size_t)ids[blockIdx.x] * width, y + (size_t)blockIdx.x * width, width, whole);
}

extern "C" __global__ void scatter_rows(const bf16* y, const unsigned* ids, bf16* table, int width) {
    bool whole = width % 8 == 0 && aligned16(table) && aligned16(y);
    copy_row(y + (size_t)blockIdx.x * width, table + (size_t)ids[blockIdx.x] * width, width, whole);
}

extern "C" __global__ void add_bias(bf16* y, const bf16* bias, int stride, int rows, int width) {
    bool whole = width % 8 == 0 && stride % 8 == 0 && aligned16(y) && aligned16(bias);
    for (Steps s(rows, width); s.more(); s.next()) {
        int left = width - s.column();
        bf16* at = y + (size_t)s.row() * stride + s.column();
        Eight a = load_up_to_8(at, left, whole), b = load_up_to_8(bias + s.column(), left, whole);
#pragma unroll
        for (int j = 0; j < 8; ++j) a.v[j] += b.v[j];
        store_up_to_8(at, a, left, whole);
    }
}

extern "C" __global__ void cast_bf16(const float* x, bf16* y, size_t count) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x) y[i] = to_bf16(x[i]);
}
