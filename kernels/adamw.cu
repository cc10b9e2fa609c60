// AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2), twin of src/ops/adamw.rs; the norm of the gradient (twin:
// src/ops/grad_norm.rs) and its clipping, all on the device: the host need not know the norm for the step to go on.
//
// Shapes: w, g, m, v (count), parts (blocks of squared_norm), state (3): norm of grad_scale g, the factor that g is to be taken
// with, 1 where the norm is finite (else 0, and adamw leaves everything as it is).
// Prepared on the host: keep = 1 - lr decay, rate = lr / (1 - beta1^t), root_correction = 1 / sqrt(1 - beta2^t).
// squared_norm: 4 bytes and 2 flops an element; adamw: 28 bytes and 14 flops.

#include "common.h"

extern "C" __global__ void squared_norm(const float* g, size_t count, double* parts) {
    double part = 0.0;
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x)
        part += (double)g[i] * (double)g[i];
    double all = block_sum(part);
    if (threadIdx.x == 0) parts[blockIdx.x] = all;
}

extern "C" __global__ void clip(const double* parts, int n, float grad_scale, float max_norm, float* state) {
    double part = 0.0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) part += parts[i];
    double norm = sqrt(block_sum(part)) * fabs((double)grad_scale);
    if (threadIdx.x != 0) return;
    bool finite = norm <= 3.4028234663852886e38;
    state[0] = (float)norm;
    state[1] = !finite ? 0.0f : max_norm > 0.0f && norm > max_norm ? (float)(grad_scale * (max_norm / (norm + 1e-6))) : grad_scale;
    state[2] = finite ? 1.0f : 0.0f;
}

extern "C" __global__ void adamw(float* w, const float* g, float* m, float* v, size_t count, float keep, float beta1, float beta2,
                                 float rate, float root_correction, float epsilon, const float* state) {
    if (state[2] == 0.0f) return;
    float grad_scale = state[1];
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x) {
        float gradient = g[i] * grad_scale;
        float first = beta1 * m[i] + (1.0f - beta1) * gradient;
        float second = beta2 * v[i] + (1.0f - beta2) * gradient * gradient;
        m[i] = first;
        v[i] = second;
        w[i] = w[i] * keep - rate * first / (sqrtf(second) * root_correction + epsilon);
    }
}
