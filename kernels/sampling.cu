// The next token of each row of logits: the likeliest, or one drawn after temperature, top-k, top-p and min-p, so that only ids cross
// to the host. Twin: src/model/sampling (`Cuts`): top-k keeps ties of the k-th; top-p keeps the fewest of the likeliest (of equals the
// first) that have p of what top-k left together; min-p drops what is less likely than its share of the likeliest. Drawn is the first
// id at which the sum of the kept weights, by id, passes u times their total; u in [0, 1) comes from the host.
//
// adjust_logits goes before, for rows with a repetition penalty (Keskar et al. 2019, arXiv:1909.05858, as transformers has it: a
// logit below zero times the penalty, others by it) or with a constraint's mask; each of `jobs` is five numbers: the row, the penalty's
// bits, where its tokens begin in `words` (each token once) and how many they are, where its mask begins (one bit a token; 2^32 - 1: none).
//
// Thresholds are found by their bits, highest first, in the order-preserving integers of the logits: 32 passes over the row for top-k,
// 32 for top-p, nothing is sorted and no sum depends on an order of threads.
//
// Shapes: logits (any x vocab) f32; rows (draws): which of them; settings (draws x 3): temperature (0: the likeliest), top_p, min_p;
// top_k (0: all), u (draws); ids (draws). One block a draw. Bytes: 4 vocab a pass, from L2 but the first: one pass for the likeliest,
// 4 without top-k and top-p, 32 more for each. An id of 2^32 - 1: the row has something that is no number (NaN, +inf), or nothing
// that may come.

#include "common.h"

constexpr unsigned NONE = 0xffffffffu;

// Integers in the order of floats, both zeros alike; what is no number comes last, beyond infinity.
__device__ __forceinline__ unsigned order_of(float x) {
    unsigned bits = x == 0.0f ? 0 : __float_as_uint(x);
    return x != x ? NONE : bits >> 31 ? ~bits : bits | 0x80000000u;
}
// Those of +inf and -inf.
constexpr unsigned INFINITE = 0xff800000u, LEAST = 0x007fffffu;

struct Best { unsigned order, id; };

__device__ __forceinline__ Best better(Best a, Best b) { return a.order > b.order || (a.order == b.order && a.id < b.id) ? a : b; }

// What a token must have to stay.
struct Kept {
    unsigned at_least, ties, before;  // order; an order of which only ids below `before` stay
    float largest, by, min_p;
    __device__ __forceinline__ double weight(float z, int id) const {
        unsigned order = order_of(z);
        if (order < at_least || order == LEAST || (order == ties && (unsigned)id >= before)) return 0.0;
        float w = expf((z - largest) * by);
        return w >= min_p ? (double)w : 0.0;
    }
};

__device__ __forceinline__ double sum_of(const float* row, int vocab, const Kept& kept) {
    double sum = 0.0;
    for (int i = threadIdx.x; i < vocab; i += blockDim.x) sum += kept.weight(row[i], i);
    return block_sum(sum);
}

extern "C" __global__ void __launch_bounds__(1024) adjust_logits(float* logits, const unsigned* jobs, const unsigned* words, int vocab) {
    const unsigned* job = jobs + 5 * blockIdx.x;
    float* row = logits + (size_t)job[0] * vocab;
    float penalty = __uint_as_float(job[1]);
    for (unsigned i = threadIdx.x; i < job[3]; i += blockDim.x) {
        unsigned id = words[job[2] + i];
        if (id < (unsigned)vocab) row[id] = row[id] < 0.0f ? row[id] * penalty : row[id] / penalty;
    }
    if (job[4] == NONE) return;
    __syncthreads();
    const unsigned* mask = words + job[4];
    for (int i = threadIdx.x; i < vocab; i += blockDim.x)
        // What is no number stays: it is an error of the model's, whatever may come.
        if ((mask[i / 32] >> (i % 32) & 1) == 0 && row[i] < __uint_as_float(0x7f800000u)) row[i] = -__uint_as_float(0x7f800000u);
}

extern "C" __global__ void __launch_bounds__(1024) sample(const float* logits, const unsigned* rows, const float* settings, const unsigned* top_k,
                                                          const double* draws, unsigned* ids, int vocab) {
    __shared__ Best bests[32];
    __shared__ double sums[32];
    const float* row = logits + (size_t)rows[blockIdx.x] * vocab;
    int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;

    Best best = {0, NONE};
#pragma unroll 8
    for (int i = threadIdx.x; i < vocab; i += blockDim.x) best = better(best, {order_of(row[i]), (unsigned)i});
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        best = better(best, {__shfl_xor_sync(NONE, best.order, step), __shfl_xor_sync(NONE, best.id, step)});
    if (lane == 0) bests[warp] = best;
    __syncthreads();
    best = bests[0];
    for (int w = 1; w < warps; ++w) best = better(best, bests[w]);
    // No number is beyond the largest of them, so that one stands for the row.
    if (best.order >= INFINITE || best.order <= LEAST) {
        if (threadIdx.x == 0) ids[blockIdx.x] = NONE;
        return;
    }
    float largest = row[best.id], temperature = settings[3 * blockIdx.x], top_p = settings[3 * blockIdx.x + 1];
    unsigned chosen = best.id;
    if (temperature > 0.0f) {
        Kept kept = {1, 0, NONE, largest, 1.0f / temperature, 0.0f};
        unsigned k = top_k[blockIdx.x];
        if (k > 0 && k < (unsigned)vocab) {
            unsigned kth = 0;
            for (int bit = 31; bit >= 0; --bit) {
                unsigned order = kth | 1u << bit;
                float count = 0.0f;
                for (int i = threadIdx.x; i < vocab; i += blockDim.x) count += order_of(row[i]) >= order ? 1.0f : 0.0f;
                // Whole numbers below 2^24 are exact in f32.
                if (block_sum(count) >= (float)k) kth = order;
            }
            kept.at_least = kth == 0 ? 1 : kth;
        }
        if (top_p < 1.0f) {
            double wanted = top_p * sum_of(row, vocab, kept);
            unsigned line = 0;
            for (int bit = 31; bit >= 0; --bit) {
                Kept above = kept;
                above.at_least = line | 1u << bit;
                if (above.at_least >= kept.at_least && sum_of(row, vocab, above) >= wanted) line = above.at_least;
                else if (above.at_least < kept.at_least) line = above.at_least;
            }
            if (line >= kept.at_least) {
                Kept beyond = kept;
                beyond.at_least = line == NONE ? NONE : line + 1;
                // Of those on the line the first, as many as it takes.
                double on_the_line = sum_of(row, vocab, {line, 0, NONE, largest, kept.by, 0.0f}) - sum_of(row, vocab, beyond);
                double missing = wanted - sum_of(row, vocab, beyond);
                kept.at_least = line;
                if (missing < on_the_line) {
                    int low = 1, high = vocab;
                    while (low < high) {
                        int middle = low + (high - low) / 2;
                        Kept some = {line, line, (unsigned)middle, largest, kept.by, 0.0f};
                        if (sum_of(row, vocab, some) >= wanted) high = middle;
                        else low = middle + 1;
                    }
                    kept.ties = line;
                    kept.before = low;
                }
            }
        }
        kept.min_p = settings[3 * blockIdx.x + 2];

        // By segments of whole warps, in the order of ids.
        int segment = (vocab + warps * 32 - 1) / (warps * 32) * 32, first = warp * segment, last = min(vocab, first + segment);
        double part = 0.0;
        for (int i = first + lane; i < last; i += 32) part += kept.weight(row[i], i);
#pragma unroll
        for (int step = 16; step > 0; step /= 2) part += __shfl_xor_sync(NONE, part, step);
        if (lane == 0) sums[warp] = part;
        __syncthreads();
        double total = 0.0;
        for (int w = 0; w < warps; ++w) total += sums[w];
        double left = draws[blockIdx.x] * total;
        int at = 0;
        while (at < warps && left >= sums[at]) left -= sums[at++];
        // Rounding may leave a crumb: then the likeliest stays.
        if (warp == at) {
            for (int base = first; base < last; base += 32) {
                int i = base + lane;
                double before = i < last ? kept.weight(row[i], i) : 0.0;
#pragma unroll
                for (int step = 1; step < 32; step *= 2) {
                    double lower = __shfl_sync(NONE, before, lane - step);
                    if (lane >= step) before += lower;
                }
                double sum = __shfl_sync(NONE, before, 31);
                if (left < sum) {
                    unsigned found = before > left ? (unsigned)i : NONE;
#pragma unroll
                    for (int step = 16; step > 0; step /= 2) {
                        unsigned other = __shfl_xor_sync(NONE, found, step);
                        found = other < found ? other : found;
                    }
                    chosen = found;
                    break;
                }
                left -= sum;
            }
            if (lane == 0) bests[0].id = chosen;
        }
        __syncthreads();
        if (at < warps) chosen = bests[0].id;
    }
    if (threadIdx.x == 0) ids[blockIdx.x] = chosen;
}
