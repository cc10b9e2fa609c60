// DoRA (Liu et al. 2024, arXiv:2402.09353): y = (m / n) z, z = x (W + s B A)^T, n_o = |row o of W + s B A|. Twin of src/ops/dora.rs.
//
// The norm counts as a constant in the backward (section 4.3): dz = (m / n) dy, dm_o = sum over rows of dy z / n.
// Shapes: w (outputs x inputs) bf16; a (rank x inputs), b (outputs x rank), m, n (outputs) f32; y, z, dy (rows x width).
// dora_norm: a block takes 8 outputs, so that A is read once for 8 rows of W: 2 bytes and 2 rank + 3 flops an element of W.
// dora_scale: 4 bytes and 1 flop an element; dora_backward: 6 bytes and 3 flops.

#include "common.h"

extern "C" __global__ void dora_norm(const bf16* w, const float* a, const float* b, float* norm, int outputs, int inputs, int rank,
                                     float scale) {
    DYNAMIC_SHARED(shared);
    float* rows_of_b = (float*)shared;  // rank x 8
    int first = blockIdx.x * 8, rows = min(8, outputs - first);
    for (int i = threadIdx.x; i < 8 * rank; i += blockDim.x)
        rows_of_b[i] = i % 8 < rows ? scale * b[(size_t)(first + i % 8) * rank + i / 8] : 0.0f;
    __syncthreads();
    float squares[8] = {};
    for (int column = threadIdx.x; column < inputs; column += blockDim.x) {
        float sums[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) sums[i] = i < rows ? to_float(w[(size_t)(first + i) * inputs + column]) : 0.0f;
        for (int k = 0; k < rank; ++k) {
            float from_a = a[(size_t)k * inputs + column];
#pragma unroll
            for (int i = 0; i < 8; ++i) sums[i] += rows_of_b[k * 8 + i] * from_a;
        }
#pragma unroll
        for (int i = 0; i < 8; ++i) squares[i] += sums[i] * sums[i];
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        float sum = block_sum(squares[i]);
        if (threadIdx.x == 0 && i < rows) norm[first + i] = sqrtf(sum);
    }
}

extern "C" __global__ void dora_scale(bf16* y, const float* m, const float* norm, int stride, int rows, int width) {
    bool whole = width % 8 == 0 && stride % 8 == 0 && aligned16(y);
    for (Steps s(rows, width); s.more(); s.next()) {
        int left = width - s.column();
        bf16* at = y + (size_t)s.row() * stride + s.column();
        Eight e = load_up_to_8(at, left, whole);
#pragma unroll
        for (int j = 0; j < 8; ++j)
            if (j < left) e.v[j] *= m[s.column() + j] / norm[s.column() + j];
        store_up_to_8(at, e, left, whole);
    }
}

// A block of 32 columns by 8 threads of rows; blocks in y share the rows and write a row of parts each.
extern "C" __global__ void dora_backward(const bf16* z, bf16* dy, const float* m, const float* norm, float* parts, int stride, int rows,
                                         int width) {
    __shared__ float sums[8][33];
    int column = blockIdx.x * 32 + threadIdx.x;
    float sum = 0.0f;
    if (column < width) {
        float inverse = 1.0f / norm[column], factor = m[column] * inverse;
        for (int row = blockIdx.y * 8 + threadIdx.y; row < rows; row += gridDim.y * 8) {
            size_t at = (size_t)row * stride + column;
            float d = to_float(dy[at]);
            sum += d * to_float(z[at]) * inverse;
            dy[at] = to_bf16(d * factor);
        }
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < width) {
        for (int i = 1; i < 8; ++i) sum += sums[i][threadIdx.x];
        parts[(size_t)blockIdx.y * width + column] = sum;
    }
}

extern "C" __global__ void sum_parts(const float* parts, float* sums, int parts_count, int width) {
    int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= width) return;
    float sum = 0.0f;
    for (int i = 0; i < parts_count; ++i) sum += parts[(size_t)i * width + column];
    sums[column] += sum;
}
