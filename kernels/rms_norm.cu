// RMSNorm (arXiv:1910.07467), twin of src/ops/rms_norm.rs.
//
// Shapes: x, y, dy, dx (rows x width), w (width), r (rows); f32. One block a row, any number of threads that is a multiple of 32.
// Forward  y = x r w, r = rsqrt(mean(x^2) + eps):        8 bytes an element (x read, y written; x once more from cache), 4 flops.
// Backward dx = [dx +] r w dy - x (r^3 / width) sum(dy w x): 12 bytes an element (16 with add), 8 flops.

__device__ float sum_over_block(float value) {
    __shared__ float parts[32];
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
    __syncthreads();
    float sum = 0.0f;
    for (int i = 0; i < (blockDim.x + 31) / 32; ++i) sum += parts[i];
    __syncthreads();
    return sum;
}

extern "C" __global__ void rms_norm(const float* x, const float* w, float* y, float* r, int width, float eps) {
    const float* row = x + (size_t)blockIdx.x * width;
    float squares = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) squares += row[i] * row[i];
    float inverse = rsqrtf(sum_over_block(squares) / width + eps);
    if (threadIdx.x == 0) r[blockIdx.x] = inverse;
    float* out = y + (size_t)blockIdx.x * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) out[i] = row[i] * inverse * w[i];
}

extern "C" __global__ void rms_norm_backward(const float* x, const float* w, const float* r, const float* dy, float* dx,
                                             int width, int add) {
    size_t at = (size_t)blockIdx.x * width;
    float inverse = r[blockIdx.x], sum = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) sum += dy[at + i] * w[i] * x[at + i];
    float c = sum_over_block(sum) * inverse * inverse * inverse / width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        float d = dy[at + i] * w[i] * inverse - x[at + i] * c;
        dx[at + i] = add ? dx[at + i] + d : d;
    }
}
