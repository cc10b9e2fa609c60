// NF4 with double quantization (Dettmers et al. 2023, QLoRA, arXiv:2305.14314, appendix E) to bf16. Twin of src/ops/nf4.rs.
//
// w_i = value[code_i] scale_{i/64}, scale_b = scale_table[scales_b] nested_{b/256} + offset; two codes a byte, the first in the
// high half (the layout of bitsandbytes). A thread makes 8 values. 2.5 bytes and 1 flop an element.

#include "common.h"

__constant__ float nf4_values[16] = {
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f, -0.18477343022823334f,
    -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
    0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};

extern "C" __global__ void nf4_dequantize(const unsigned char* codes, const unsigned char* scales, const float* scale_table,
                                          const float* nested, float offset, bf16* w, size_t count) {
    // Lanes differ in their codes: shared memory serves them at once, constant memory would one by one.
    __shared__ float values[16];
    if (threadIdx.x < 16) values[threadIdx.x] = nf4_values[threadIdx.x];
    __syncthreads();
    bool aligned = aligned16(w);
    size_t stride = (size_t)gridDim.x * blockDim.x * 8;
    for (size_t i = (blockIdx.x * (size_t)blockDim.x + threadIdx.x) * 8; i < count; i += stride) {
        int left = count - i < 8 ? (int)(count - i) : 8;
        float scale = scale_table[scales[i / 64]] * nested[i / (64 * 256)] + offset;
        Eight e;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            unsigned byte = 2 * j < left ? codes[i / 2 + j] : 0;
            e.v[2 * j] = values[byte >> 4] * scale;
            e.v[2 * j + 1] = values[byte & 15] * scale;
        }
        store_up_to_8(w + i, e, left, aligned && left == 8);
    }
}
