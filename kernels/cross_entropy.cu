// Cross-entropy of a chunk of logits, in place, twin of `cross_entropy` in src/ops/cross_entropy.rs.
//
// loss = log sum_j e^{z_j} - z_target, dz = scale (softmax(z) - onehot(target)).
// Shapes: logits (rows x vocab), targets and losses (rows). One block a row: first the largest logit and the sum of e^(z - largest)
// together (Milakov and Gimelshein 2018, arXiv:1805.02867), then the gradient. 6 bytes an element (2 without gradient; the second
// reading comes from L2), 6 flops and 2 exp.

#include "common.h"

struct MaxSum { float largest, sum; };

__device__ __forceinline__ MaxSum join(MaxSum a, MaxSum b) {
    float largest = fmaxf(a.largest, b.largest);
    return {largest, a.sum * __expf(a.largest - largest) + b.sum * __expf(b.largest - largest)};
}

extern "C" __global__ void cross_entropy(bf16* logits, const unsigned* targets, float* losses, int vocab, float scale, int gradient) {
    __shared__ MaxSum parts[32];
    bool whole = vocab % 8 == 0 && aligned16(logits);
    bf16* row = logits + (size_t)blockIdx.x * vocab;
    int target = targets[blockIdx.x];
    float at_target = to_float(row[target]);
    // Finite, so that no difference is of two infinities.
    MaxSum all = {-3e38f, 0.0f};
    for (int i = threadIdx.x * 8; i < vocab; i += blockDim.x * 8) {
        Eight z = load_up_to_8(row + i, vocab - i, whole);
        int count = min(8, vocab - i);
        float largest = all.largest, sum = 0.0f;
#pragma unroll
        for (int j = 0; j < 8; ++j)
            if (j < count) largest = fmaxf(largest, z.v[j]);
#pragma unroll
        for (int j = 0; j < 8; ++j)
            if (j < count) sum += __expf(z.v[j] - largest);
        all = {largest, all.sum * __expf(all.largest - largest) + sum};
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        MaxSum other = {__shfl_xor_sync(0xffffffffu, all.largest, step), __shfl_xor_sync(0xffffffffu, all.sum, step)};
        all = join(all, other);
    }
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = all;
    __syncthreads();
    all = parts[0];
    for (int i = 1; i < (int)blockDim.x / 32; ++i) all = join(all, parts[i]);
    if (threadIdx.x == 0) losses[blockIdx.x] = all.largest + logf(all.sum) - at_target;
    if (!gradient) return;
    float factor = scale / all.sum;
    for (int i = threadIdx.x * 8; i < vocab; i += blockDim.x * 8) {
        Eight z = load_up_to_8(row + i, vocab - i, whole);
#pragma unroll
        for (int j = 0; j < 8; ++j) z.v[j] = __expf(z.v[j] - all.largest) * factor - (i + j == target ? scale : 0.0f);
        store_up_to_8(row + i, z, vocab - i, whole);
    }
}

// Sums of the losses of each row of a batch: ends (rows) has one past a row's last target. A warp a row; f64 inside, so that the
// order shows in the last bit at most. 4 bytes and 1 flop a target.
extern "C" __global__ void row_losses(const float* losses, const unsigned* ends, float* sums, int rows) {
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    double sum = 0.0;
    for (unsigned i = (row == 0 ? 0 : ends[row - 1]) + threadIdx.x % 32; i < ends[row]; i += 32) sum += losses[i];
#pragma unroll
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (threadIdx.x % 32 == 0) sums[row] = (float)sum;
}
