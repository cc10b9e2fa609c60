// DoRA (Liu et al. 2024, arXiv:2402.09353), twin of src/ops/dora.rs: y = g v, g = m / n, v = x (W + s B A)^T, n_o = |row o of W + s B A|.
//
// The norm counts as a constant in the backward (section 4.3): dv = g dy, dm_o = sum over rows of dy_o v_o / n_o.
// Shapes: w (outputs x inputs) bf16; a (rank x inputs), b (outputs x rank), m, norm, gain (outputs) f32; v, y, dy (rows x width).
// dora_norm: a block takes 8 outputs, so that A is read once for 8 rows of W: 2 bytes and 2 rank + 3 flops an element of W.
// dora_forward: 4 bytes (6 with add) and 1 flop an element; dora_backward: 6 bytes and 3 flops.

#include "common.h"

extern "C" __global__ void dora_norm(const bf16* w, const float* a, const float* b, const float* m, float* norm, float* gain,
                                     int outputs, int inputs, int rank, float scale) {
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
        if (threadIdx.x == 0 && i < rows) {
            norm[first + i] = sqrtf(sum);
            gain[first + i] = sum > 0.0f ? m[first + i] / sqrtf(sum) : 0.0f;
        }
    }
}

extern "C" __global__ void dora_forward(const bf16* v, bf16* y, const float* gain, int v_stride, int y_stride, int rows, int width, int add) {
    bool whole = width % 8 == 0 && v_stride % 8 == 0 && y_stride % 8 == 0 && aligned16(v) && aligned16(y);
    for (Steps s(rows, width); s.more(); s.next()) {
        int left = width - s.column();
        bf16* to = y + (size_t)s.row() * y_stride + s.column();
        Eight e = load_up_to_8(v + (size_t)s.row() * v_stride + s.column(), left, whole), sum = {};
        if (add) sum = load_up_to_8(to, left, whole);
#pragma unroll
        for (int j = 0; j < 8; ++j)
            if (j < left) sum.v[j] += e.v[j] * gain[s.column() + j];
        store_up_to_8(to, sum, left, whole);
    }
}

// A block of 32 columns by 8 threads of rows; blocks in y share the rows and write a row of parts each.
extern "C" __global__ void dora_backward(const bf16* dy, bf16* v, const float* gain, float* parts, int dy_stride, int v_stride, int rows,
                                         int width) {
    __shared__ float sums[8][33];
    int column = blockIdx.x * 32 + threadIdx.x;
    float sum = 0.0f;
    if (column < width) {
        float factor = gain[column];
        for (int row = blockIdx.y * 8 + threadIdx.y; row < rows; row += gridDim.y * 8) {
            float d = to_float(dy[(size_t)row * dy_stride + column]);
            bf16* at = v + (size_t)row * v_stride + column;
            sum += d * to_float(*at);
            *at = to_bf16(d * factor);
        }
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < width) {
        for (int i = 1; i < 8; ++i) sum += sums[i][threadIdx.x];
        parts[(size_t)blockIdx.y * width + column] = sum;
    }
}

extern "C" __global__ void dora_magnitude(const float* parts, const float* norm, float* d_m, int parts_count, int parts_stride, int width) {
    int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= width) return;
    float sum = 0.0f;
    for (int i = 0; i < parts_count; ++i) sum += parts[(size_t)i * parts_stride + column];
    if (norm[column] > 0.0f) d_m[column] += sum / norm[column];
}
