// Shared by all kernels: bf16, vectors of 8, sums over a warp and over a block.
#pragma once

#include "device.h"

struct bf16 { unsigned short bits; };

__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }
__device__ __forceinline__ bf16 to_bf16(float x) { return {(unsigned short)bf16_bits(x)}; }

// What an element is stored as; computing is in f32.
__device__ __forceinline__ float value_of(float x) { return x; }
__device__ __forceinline__ float value_of(bf16 x) { return to_float(x); }
__device__ __forceinline__ void put(float* to, float x) { *to = x; }
__device__ __forceinline__ void put(bf16* to, float x) { *to = to_bf16(x); }

// Eight neighbours, 16 bytes of bf16 at an address that is a multiple of 16.
struct Eight { float v[8]; };

__device__ __forceinline__ Eight unpack(uint4 bits) {
    unsigned pairs[4] = {bits.x, bits.y, bits.z, bits.w};
    Eight e;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        e.v[2 * i] = __uint_as_float(pairs[i] << 16);
        e.v[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
    }
    return e;
}
__device__ __forceinline__ Eight load8(const bf16* from) { return unpack(load16(from)); }
__device__ __forceinline__ void store8(bf16* to, const Eight& e) {
    store16(to, make_uint4(pack_bf16(e.v[0], e.v[1]), pack_bf16(e.v[2], e.v[3]), pack_bf16(e.v[4], e.v[5]), pack_bf16(e.v[6], e.v[7])));
}

// `count` neighbours of a row, 8 where `whole` (the row's address and width allow 16-byte accesses).
__device__ __forceinline__ Eight load_up_to_8(const bf16* from, int count, bool whole) {
    if (whole) return load8(from);
    Eight e;
#pragma unroll
    for (int i = 0; i < 8; ++i) e.v[i] = i < count ? to_float(from[i]) : 0.0f;
    return e;
}
__device__ __forceinline__ void store_up_to_8(bf16* to, const Eight& e, int count, bool whole) {
    if (whole) {
        store8(to, e);
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i)
        if (i < count) to[i] = to_bf16(e.v[i]);
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

// Sum over the block, the same in every thread; T is float or double.
template <class T> __device__ __forceinline__ T block_sum(T x) {
    __shared__ T parts[32];
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    T sum = 0;
    for (int i = 0; i < (int)blockDim.x / 32; ++i) sum += parts[i];
    __syncthreads();
    return sum;
}

__device__ __forceinline__ bool aligned16(const void* at) { return (size_t)at % 16 == 0; }

// Work in steps of 8 columns of a row: `for (Steps s(rows, width); s.more(); s.next())`, the whole grid strides over all of them.
struct Steps {
    unsigned at, count, stride, by_row;
    __device__ __forceinline__ Steps(int rows, int width)
        : at(blockIdx.x * blockDim.x + threadIdx.x), stride(gridDim.x * blockDim.x), by_row((unsigned)(width + 7) / 8) {
        count = rows * by_row;
    }
    __device__ __forceinline__ bool more() const { return at < count; }
    __device__ __forceinline__ void next() { at = count - at > stride ? at + stride : count; }
    __device__ __forceinline__ int row() const { return at / by_row; }
    __device__ __forceinline__ int column() const { return at % by_row * 8; }
};
