// SwiGLU (arXiv:2002.05202) on a stacked gate|up buffer, twin of src/ops/swiglu.rs.
//
// Shapes: gate_up (rows x 2 ffn), m and dm (rows x ffn); f32. One thread an element of m, grid-stride.
// Forward  m = g s u, s = 1 / (1 + e^-g):                        12 bytes and 5 flops an element of m.
// Backward du = dm g s, dg = dm u s (1 + g - g s), dm becomes m:  24 bytes and 11 flops.

extern "C" __global__ void swiglu(const float* gate_up, float* m, int ffn, size_t count) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x) {
        const float* row = gate_up + i / ffn * 2 * ffn + i % ffn;
        float g = row[0];
        m[i] = g / (1.0f + __expf(-g)) * row[ffn];
    }
}

extern "C" __global__ void swiglu_backward(float* gate_up, float* dm, int ffn, size_t count) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x) {
        float* row = gate_up + i / ffn * 2 * ffn + i % ffn;
        float g = row[0], u = row[ffn], d = dm[i];
        float s = 1.0f / (1.0f + __expf(-g)), silu = g * s;
        dm[i] = silu * u;
        row[0] = d * u * s * (1.0f + g - silu);
        row[ffn] = d * silu;
    }
}
