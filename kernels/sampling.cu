// The next token of each row of logits: the likeliest, or one drawn after temperature, top-k, top-p and min-p, so that only ids cross
// to the host. Cuts as in src/model/sampling: top-k keeps ties of the k-th; top-p keeps the fewest of the likeliest (of equals the
// first) that have p of what top-k left together; min-p drops what is less likely than its share of the likeliest.
//
// The random number is a function of seed and counter: u = mix(mix(seed) + counter) / 2^64, mix the finalizer of SplitMix64 (Steele et
// al. 2014). Drawn is the first id at which the sum of the kept weights, by id, passes u times their total.
// Thresholds are found by their bits, highest first, in the order-preserving integers of the logits: 32 passes over the row for top-k,
// 32 for top-p, nothing is sorted and no sum depends on an order of threads.
//
// Shapes: logits (rows x vocab) f32; settings (rows x 3): temperature (0: the likeliest), top_p, min_p; top_k (0: all), seeds, counters
// (rows); ids, logprobs (rows): of the chosen before temperature and cuts. One block a row. Bytes: 4 vocab a pass, from L2 but the
// first: 2 passes for the likeliest, 5 without top-k and top-p, 32 more for each. An id of 2^32 - 1: the row has no number.

#include "common.h"

constexpr unsigned NONE = 0xffffffffu;

__device__ __forceinline__ unsigned long long mix(unsigned long long x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

// Integers in the order of floats, both zeros alike; 0 for what is no number.
__device__ __forceinline__ unsigned order_of(float x) {
    unsigned bits = x == 0.0f ? 0 : __float_as_uint(x);
    return x != x ? 0 : bits >> 31 ? ~bits : bits | 0x80000000u;
}

struct Best { unsigned order, id; };

__device__ __forceinline__ Best better(Best a, Best b) { return a.order > b.order || (a.order == b.order && a.id < b.id) ? a : b; }

// What a token must have to stay.
struct Kept {
    unsigned at_least, ties, before;  // order; an order of which only ids below `before` stay
    float largest, by, min_p;
    __device__ __forceinline__ double weight(float z, int id) const {
        unsigned order = order_of(z);
        if (order < at_least || order == 0 || (order == ties && (unsigned)id >= before)) return 0.0;
        float w = expf((z - largest) * by);
        return w >= min_p ? (double)w : 0.0;
    }
};

__device__ __forceinline__ double sum_of(const float* row, int vocab, const Kept& kept) {
    double sum = 0.0;
    for (int i = threadIdx.x; i < vocab; i += blockDim.x) sum += kept.weight(row[i], i);
    return block_sum(sum);
}

extern "C" __global__ void __launch_bounds__(1024) sample(const float* logits, const float* settings, const unsigned* top_k, const unsigned long long* seeds,
                                  const unsigned* counters, unsigned* ids, float* logprobs, int vocab) {
    __shared__ Best bests[32];
    __shared__ double sums[32];
    const float* row = logits + (size_t)blockIdx.x * vocab;
    int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;

    Best best = {0, NONE};
    for (int i = threadIdx.x; i < vocab; i += blockDim.x) best = better(best, {order_of(row[i]), (unsigned)i});
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        best = better(best, {__shfl_xor_sync(NONE, best.order, step), __shfl_xor_sync(NONE, best.id, step)});
    if (lane == 0) bests[warp] = best;
    __syncthreads();
    best = bests[0];
    for (int w = 1; w < warps; ++w) best = better(best, bests[w]);
    if (best.order == 0) {
        if (threadIdx.x == 0) {
            ids[blockIdx.x] = NONE;
            logprobs[blockIdx.x] = 0.0f;
        }
        return;
    }
    float largest = row[best.id], temperature = settings[3 * blockIdx.x], top_p = settings[3 * blockIdx.x + 1];
    // Of all, for the log-probability.
    double all = sum_of(row, vocab, {1, 0, NONE, largest, 1.0f, 0.0f});
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
        double left = (double)(mix(mix(seeds[blockIdx.x]) + counters[blockIdx.x]) >> 11) * (1.0 / 9007199254740992.0) * total;
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
    if (threadIdx.x == 0) {
        ids[blockIdx.x] = chosen;
        logprobs[blockIdx.x] = (float)((double)row[chosen] - largest - log(all));
    }
}
