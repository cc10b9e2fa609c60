// AdamW (arXiv:1711.05101, algorithm 2), twin of src/ops/adamw.rs, with its factors prepared on the host:
// keep = 1 - lr decay, rate = lr / (1 - beta1^t), root_correction = 1 / sqrt(1 - beta2^t).
//
// Shapes: w, g, m, v (count); f32. One thread an element, grid-stride. 28 bytes and 14 flops an element.

extern "C" __global__ void adamw(float* w, const float* g, float* m, float* v, size_t count, float keep, float beta1,
                                 float beta2, float rate, float root_correction, float epsilon, float grad_scale) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x) {
        float gradient = g[i] * grad_scale;
        m[i] = beta1 * m[i] + (1.0f - beta1) * gradient;
        v[i] = beta2 * v[i] + (1.0f - beta2) * gradient * gradient;
        w[i] = w[i] * keep - rate * m[i] / (sqrtf(v[i]) * root_correction + epsilon);
    }
}
