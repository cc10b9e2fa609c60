// Kernels with one error each, which the emulator must find (src/ops/cuda/kernel_tests/trouble.rs).

#include "common.h"

// A barrier is missing between writing and reading what other threads wrote.
extern "C" __global__ void broken_race(float* y) {
    __shared__ float values[64];
    values[threadIdx.x] = (float)threadIdx.x;
    y[threadIdx.x] = values[63 - threadIdx.x];
}

// Half of the threads wait at another barrier than the rest.
extern "C" __global__ void broken_barriers(float* y) {
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    y[threadIdx.x] = 1.0f;
}

// Some threads never come to the barrier.
extern "C" __global__ void broken_return(float* y) {
    if (threadIdx.x >= 40) return;
    __syncthreads();
    y[threadIdx.x] = 1.0f;
}

// A shuffle that part of a warp takes no part in.
extern "C" __global__ void broken_shuffle(float* y) {
    float x = (float)threadIdx.x;
    if (threadIdx.x % 32 < 16) x = __shfl_xor_sync(0xffffffffu, x, 1);
    y[threadIdx.x] = x;
}

// Lanes of a warp at different operations.
extern "C" __global__ void broken_warp(float* y) {
    unsigned out[4] = {0, 0, 0, 0};
    DYNAMIC_SHARED(shared);
    if (threadIdx.x % 32 < 16) ldmatrix(out, shared);
    y[threadIdx.x] = warp_sum((float)out[0]);
}

extern "C" __global__ void broken_alignment(float* y) {
    uint4 x = load16((char*)y + 4);
    y[0] = (float)x.x;
}

extern "C" __global__ void broken_shared(float* y) {
    DYNAMIC_SHARED(shared);
    ((float*)shared)[threadIdx.x + 1] = 1.0f;
    y[threadIdx.x] = 1.0f;
}

// Reads what cp.async has not brought yet.
extern "C" __global__ void broken_copy(float* y) {
    DYNAMIC_SHARED(shared);
    cp_async4(shared + 4 * threadIdx.x, y + threadIdx.x, true);
    cp_async_commit();
    cp_async_wait<1>();
    y[threadIdx.x] = ((float*)shared)[threadIdx.x];
    cp_async_wait<0>();
}

extern "C" __global__ void broken_wait(float* y) {
    DYNAMIC_SHARED(shared);
    cp_async4(shared + 4 * threadIdx.x, y + threadIdx.x, true);
    cp_async_commit();
}
