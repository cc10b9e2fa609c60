// Runs the kernels of kernels/ on the host: the language of CUDA, as far as they use it, for g++.
//
// A block's threads are fibers on one thread of the machine. One runs until it waits: at a barrier of the block, or at an operation
// of its warp (shuffle, ldmatrix, mma), which the last lane to arrive carries out for all 32. So every launch has one defined
// order, and that order can be turned round (emulator_order): a kernel that misses a barrier gives another result in another order.
//
// Errors instead of luck: lanes of a warp at different operations, threads of a block at different barriers, threads that wait for
// one that has returned, 16-byte accesses off their alignment, writes past the dynamic shared memory, copies of cp.async that nobody
// waited for. Shared memory starts as NaN, and cp.async copies only when it is waited for.
//
// The layouts of mma.m16n8k16 and ldmatrix are those of the PTX ISA ("Matrix fragments for mma.m16n8k16", "ldmatrix"); CUTLASS
// has the same ones in include/cute/atom/mma_traits_sm80.hpp.
#pragma once

#include <cmath>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>
#if !defined(__x86_64__) || defined(EMULATOR_UCONTEXT)
#define EMULATOR_UCONTEXT
#include <ucontext.h>
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __constant__ static const
// One block at a time runs on a thread.
#define __shared__ static thread_local
#define __syncthreads() emulator::sync_threads(__LINE__)
#define DYNAMIC_SHARED(name) unsigned char* name = emulator::block->shared

struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct dim3 { unsigned x, y, z; };
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace emulator {

constexpr size_t kStack = 64 << 10, kRedZone = 1024;
constexpr int kPayload = 64;

enum class State { Ready, AtBarrier, AtWarp, Returned };

struct Copy { void* to; const void* from; int bytes; };

struct Fiber {
#ifdef EMULATOR_UCONTEXT
    ucontext_t context;
#else
    void* stack_pointer;
#endif
    std::unique_ptr<char[]> stack;
    dim3 thread;
    unsigned index;
    State state;
    int line;
    // cp.async: copies not yet committed, and committed groups, oldest first.
    std::vector<Copy> open;
    std::vector<std::vector<Copy>> groups;
};

struct Warp {
    unsigned arrived;
    const char* operation;
    alignas(16) unsigned char in[32][kPayload];
    alignas(16) unsigned char out[32][kPayload];
};

struct Block {
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::vector<unsigned char> shared_memory;
    unsigned char* shared = nullptr;
    size_t shared_bytes = 0;
    dim3 index, size, grid;
    unsigned threads = 0;
#ifdef EMULATOR_UCONTEXT
    ucontext_t scheduler;
#else
    void* scheduler;
#endif
    void (*run)(void**) = nullptr;
    void** args = nullptr;
    int order = 0;
    std::string error;
};

inline thread_local Block* block = nullptr;
inline thread_local Fiber* self = nullptr;

#ifndef EMULATOR_UCONTEXT
extern "C" void emulator_switch(void** save, void* load);
asm(R"(
.text
.globl emulator_switch
.hidden emulator_switch
.type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulator_switch, .-emulator_switch
)");
#endif

inline void to_scheduler() {
#ifdef EMULATOR_UCONTEXT
    swapcontext(&self->context, &block->scheduler);
#else
    emulator_switch(&self->stack_pointer, block->scheduler);
#endif
}

inline void to_fiber(Fiber& fiber) {
    self = &fiber;
#ifdef EMULATOR_UCONTEXT
    swapcontext(&block->scheduler, &fiber.context);
#else
    emulator_switch(&block->scheduler, fiber.stack_pointer);
#endif
}

// Ends the launch: the scheduler sees the error and never comes back to any thread.
[[noreturn]] inline void fail(const char* format, ...) {
    char text[512];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    char where[160];
    snprintf(where, sizeof where, " (block %u,%u,%u, thread %u)", block->index.x, block->index.y, block->index.z, self->index);
    block->error = std::string(text) + where;
    for (;;) to_scheduler();
}

inline void main_of_fiber() {
    block->run(block->args);
    if (!self->open.empty() || !self->groups.empty()) fail("a thread returns with cp.async copies that it never waited for");
    self->state = State::Returned;
    for (;;) to_scheduler();
}

inline void prepare(Fiber& fiber, unsigned index) {
    if (!fiber.stack) fiber.stack.reset(new char[kStack]);
    fiber.index = index;
    fiber.thread = {index % block->size.x, index / block->size.x % block->size.y, index / (block->size.x * block->size.y)};
    fiber.state = State::Ready;
    fiber.open.clear();
    fiber.groups.clear();
#ifdef EMULATOR_UCONTEXT
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, main_of_fiber, 0);
#else
    auto top = (reinterpret_cast<uintptr_t>(fiber.stack.get()) + kStack) & ~uintptr_t(15);
    // As after a call: the entry's stack pointer is 8 off a multiple of 16. Below it six saved registers.
    void** slot = reinterpret_cast<void**>(top) - 2;
    *slot = reinterpret_cast<void*>(main_of_fiber);
    memset(slot - 6, 0, 6 * sizeof(void*));
    fiber.stack_pointer = slot - 6;
#endif
}

inline void sync_threads(int line) {
    self->state = State::AtBarrier;
    self->line = line;
    to_scheduler();
}

// An operation of the warp: `in` is this lane's part; the last to arrive runs `complete` over all of them; returns this lane's result.
template <class Complete>
inline const unsigned char* of_warp(const char* operation, const void* in, size_t bytes, Complete complete) {
    Warp& warp = block->warps[self->index / 32];
    unsigned lane = self->index % 32;
    if (warp.arrived != 0 && strcmp(warp.operation, operation) != 0)
        fail("a warp diverges: one lane is at %s, others at %s", operation, warp.operation);
    memcpy(warp.in[lane], in, bytes);
    warp.operation = operation;
    warp.arrived |= 1u << lane;
    if (warp.arrived == 0xffffffffu) {
        complete(warp);
        warp.arrived = 0;
        Fiber* first = &block->fibers[self->index / 32 * 32];
        for (int i = 0; i < 32; ++i) first[i].state = State::Ready;
    } else {
        self->state = State::AtWarp;
        to_scheduler();
    }
    return warp.out[lane];
}

template <class T, class Source>
inline T shuffle(const char* operation, unsigned mask, T value, Source source) {
    static_assert(sizeof(T) <= kPayload && std::is_trivially_copyable<T>::value, "a shuffle of plain values");
    if (mask != 0xffffffffu) fail("a shuffle of part of a warp");
    const unsigned char* out = of_warp(operation, &value, sizeof(T), [&](Warp& warp) {
        for (int lane = 0; lane < 32; ++lane) memcpy(warp.out[lane], warp.in[source(lane) & 31], sizeof(T));
    });
    T result;
    memcpy(&result, out, sizeof(T));
    return result;
}

inline void check_aligned(const void* at, size_t to, const char* what) {
    if (reinterpret_cast<uintptr_t>(at) % to != 0) fail("%s at an address that is no multiple of %zu", what, to);
}

inline void check_shared(const void* at, size_t bytes, const char* what) {
    auto p = static_cast<const unsigned char*>(at);
    if (p < block->shared || p + bytes > block->shared + block->shared_bytes) fail("%s outside of the dynamic shared memory", what);
}

inline float bf16_value(unsigned bits) {
    uint32_t wide = bits << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
}

inline void run_block() {
    Block& b = *block;
    for (unsigned i = 0; i < b.threads; ++i) prepare(b.fibers[i], i);
    for (auto& warp : b.warps) warp.arrived = 0;
    memset(b.shared, 0xff, b.shared_bytes);
    memset(b.shared - kRedZone, 0xa5, kRedZone);
    memset(b.shared + b.shared_bytes, 0xa5, kRedZone);
    uint32_t state = 12345u * b.order;
    for (;;) {
        bool progress = false;
        state = state * 1664525u + 1013904223u;
        unsigned n = (unsigned)b.warps.size();
        for (unsigned step = 0; step < n; ++step) {
            unsigned warp = b.order == 0 ? step : b.order == 1 ? n - 1 - step : (step + (state >> 8)) % n;
            // A warp goes as far as it can before another one moves: the greatest lead that one can have over others.
            for (bool moved = true; moved;) {
                moved = false;
                for (unsigned i = 0; i < 32; ++i) {
                    Fiber& fiber = b.fibers[warp * 32 + (b.order == 0 ? i : 31 - i)];
                    if (fiber.state != State::Ready) continue;
                    moved = progress = true;
                    to_fiber(fiber);
                    if (!b.error.empty()) return;
                }
            }
        }
        if (progress) continue;
        unsigned count[4] = {0, 0, 0, 0};
        for (unsigned i = 0; i < b.threads; ++i) ++count[(int)b.fibers[i].state];
        if (count[(int)State::Returned] == b.threads) break;
        self = &b.fibers[0];
        if (count[(int)State::AtBarrier] != b.threads) {
            char text[200];
            snprintf(text, sizeof text,
                     "deadlock: %u threads wait at a barrier, %u at an operation of their warp, %u have returned (block %u,%u,%u)",
                     count[(int)State::AtBarrier], count[(int)State::AtWarp], count[(int)State::Returned], b.index.x, b.index.y, b.index.z);
            b.error = text;
            return;
        }
        for (unsigned i = 0; i < b.threads; ++i) {
            if (b.fibers[i].line != b.fibers[0].line) {
                b.error = "threads of a block wait at different barriers: lines " + std::to_string(b.fibers[0].line) + " and " +
                          std::to_string(b.fibers[i].line);
                return;
            }
            b.fibers[i].state = State::Ready;
        }
    }
    for (size_t i = 0; i < kRedZone; ++i)
        if (b.shared[-(ptrdiff_t)i - 1] != 0xa5 || b.shared[b.shared_bytes + i] != 0xa5) {
            b.error = "a write outside of the dynamic shared memory";
            return;
        }
}

inline std::string launch(void (*run)(void**), const unsigned grid[3], const unsigned size[3], unsigned shared_bytes, void** args,
                          int order) {
    static thread_local Block storage;
    Block& b = storage;
    block = &b;
    b.error.clear();
    b.threads = size[0] * size[1] * size[2];
    if (b.threads == 0 || b.threads > 1024 || b.threads % 32 != 0) return "a block has 32 to 1024 threads, whole warps";
    if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0) return "an empty grid";
    if (grid[1] > 65535 || grid[2] > 65535) return "a grid of more than 65535 blocks in y or z";
    if (shared_bytes > 99 << 10) return "more dynamic shared memory than every GPU from compute 8.0 on has (99 KiB)";
    if (b.fibers.size() < b.threads) b.fibers.resize(b.threads);
    b.warps.resize(b.threads / 32);
    b.shared_memory.resize(shared_bytes + 2 * kRedZone + 1024);
    b.shared = reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(b.shared_memory.data()) + kRedZone + 1023) & ~uintptr_t(1023));
    b.shared_bytes = shared_bytes;
    b.size = {size[0], size[1], size[2]};
    b.grid = {grid[0], grid[1], grid[2]};
    b.run = run;
    b.args = args;
    b.order = order;
    size_t blocks = (size_t)grid[0] * grid[1] * grid[2];
    for (size_t step = 0; step < blocks; ++step) {
        size_t i = order == 0 ? step : blocks - 1 - step;
        b.index = {(unsigned)(i % grid[0]), (unsigned)(i / grid[0] % grid[1]), (unsigned)(i / grid[0] / grid[1])};
        run_block();
        if (!b.error.empty()) return b.error;
    }
    return "";
}

template <class... A, size_t... I>
inline void call(void (*kernel)(A...), void** args, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_reference_t<A>*>(args[I])...);
}

// What runs a kernel with the arguments of cuLaunchKernel: pointers to them.
template <auto kernel>
struct Thunk;
template <class... A, void (*kernel)(A...)>
struct Thunk<kernel> {
    static void run(void** args) { call(kernel, args, std::index_sequence_for<A...>{}); }
    static constexpr int arguments = sizeof...(A);
};

}  // namespace emulator

#define threadIdx (emulator::self->thread)
#define blockIdx (emulator::block->index)
#define blockDim (emulator::block->size)
#define gridDim (emulator::block->grid)

inline void __syncwarp(unsigned mask = 0xffffffffu) {
    char nothing = 0;
    if (mask != 0xffffffffu) emulator::fail("a barrier of part of a warp");
    emulator::of_warp("syncwarp", &nothing, 1, [](emulator::Warp&) {});
}
template <class T> inline T __shfl_xor_sync(unsigned mask, T value, int with) {
    return emulator::shuffle("shfl_xor", mask, value, [=](int lane) { return lane ^ with; });
}
template <class T> inline T __shfl_down_sync(unsigned mask, T value, unsigned by) {
    return emulator::shuffle("shfl_down", mask, value, [=](int lane) { return lane + (int)by < 32 ? lane + (int)by : lane; });
}
template <class T> inline T __shfl_sync(unsigned mask, T value, int from) {
    // Every lane may ask for another one: the source travels with the value.
    struct Asked { T value; int from; } asked = {value, from};
    if (mask != 0xffffffffu) emulator::fail("a shuffle of part of a warp");
    const unsigned char* out = emulator::of_warp("shfl", &asked, sizeof asked, [](emulator::Warp& warp) {
        for (int lane = 0; lane < 32; ++lane) {
            Asked mine, other;
            memcpy(&mine, warp.in[lane], sizeof mine);
            memcpy(&other, warp.in[mine.from & 31], sizeof other);
            memcpy(warp.out[lane], &other.value, sizeof(T));
        }
    });
    T result;
    memcpy(&result, out, sizeof(T));
    return result;
}
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)(((uint64_t)a * b) >> 32); }
inline unsigned __float_as_uint(float x) { unsigned u; memcpy(&u, &x, 4); return u; }
inline float __uint_as_float(unsigned u) { float x; memcpy(&x, &u, 4); return x; }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }

// From here on: what kernels/device.h has as PTX.

inline float exp2_fast(float x) { return exp2f(x); }

// Nearest even; NaN becomes the one that the hardware writes.
inline unsigned bf16_bits(float x) {
    if (x != x) return 0x7fff;
    unsigned u = __float_as_uint(x);
    return (u + 0x7fff + (u >> 16 & 1)) >> 16;
}
inline float f16_value(unsigned short bits) {
    int sign = bits >> 15, exponent = bits >> 10 & 31, fraction = bits & 1023;
    float x = exponent == 31 ? (fraction ? NAN : INFINITY) : exponent == 0 ? ldexpf(fraction, -24) : ldexpf(1024 + fraction, exponent - 25);
    return sign ? -x : x;
}
inline unsigned pack_bf16(float low, float high) { return bf16_bits(low) | bf16_bits(high) << 16; }

inline uint4 load16(const void* from) {
    emulator::check_aligned(from, 16, "a 16-byte load");
    return *static_cast<const uint4*>(from);
}
inline void store16(void* to, uint4 value) {
    emulator::check_aligned(to, 16, "a 16-byte store");
    *static_cast<uint4*>(to) = value;
}

inline void mma_bf16(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    struct Part { unsigned a[4], b[2]; float c[4]; } part = {{a[0], a[1], a[2], a[3]}, {b0, b1}, {d[0], d[1], d[2], d[3]}};
    const unsigned char* out = emulator::of_warp("mma", &part, sizeof part, [](emulator::Warp& warp) {
        float a[16][16], b[8][16];
        for (int lane = 0; lane < 32; ++lane) {
            Part p;
            memcpy(&p, warp.in[lane], sizeof p);
            int group = lane / 4, pair = lane % 4 * 2;
            for (int i = 0; i < 4; ++i)
                for (int half = 0; half < 2; ++half)
                    a[group + i % 2 * 8][pair + half + i / 2 * 8] = emulator::bf16_value(p.a[i] >> (16 * half) & 0xffff);
            for (int i = 0; i < 2; ++i)
                for (int half = 0; half < 2; ++half) b[group][pair + half + i * 8] = emulator::bf16_value(p.b[i] >> (16 * half) & 0xffff);
        }
        for (int lane = 0; lane < 32; ++lane) {
            Part p;
            memcpy(&p, warp.in[lane], sizeof p);
            for (int i = 0; i < 4; ++i) {
                int row = lane / 4 + i / 2 * 8, col = lane % 4 * 2 + i % 2;
                float sum = 0.0f;
                for (int k = 0; k < 16; ++k) sum += a[row][k] * b[col][k];
                p.c[i] += sum;
            }
            memcpy(warp.out[lane], p.c, sizeof p.c);
        }
    });
    memcpy(d, out, sizeof d);
}

template <bool transposed> inline void load_matrices(unsigned (&out)[4], const void* row) {
    emulator::check_aligned(row, 16, "ldmatrix");
    emulator::check_shared(row, 16, "ldmatrix");
    const unsigned char* found =
        emulator::of_warp(transposed ? "ldmatrix.trans" : "ldmatrix", &row, sizeof row, [](emulator::Warp& warp) {
            const uint16_t* rows[32];
            for (int lane = 0; lane < 32; ++lane) memcpy(&rows[lane], warp.in[lane], sizeof(void*));
            for (int lane = 0; lane < 32; ++lane) {
                unsigned values[4];
                int group = lane / 4, pair = lane % 4 * 2;
                for (int m = 0; m < 4; ++m) {
                    unsigned low = transposed ? rows[m * 8 + pair][group] : rows[m * 8 + group][pair];
                    unsigned high = transposed ? rows[m * 8 + pair + 1][group] : rows[m * 8 + group][pair + 1];
                    values[m] = low | high << 16;
                }
                memcpy(warp.out[lane], values, sizeof values);
            }
        });
    memcpy(out, found, sizeof out);
}
inline void ldmatrix(unsigned (&out)[4], const void* row) { load_matrices<false>(out, row); }
inline void ldmatrix_transposed(unsigned (&out)[4], const void* row) { load_matrices<true>(out, row); }

inline void copy_later(void* to, const void* from, int bytes, bool there) {
    emulator::check_aligned(to, bytes, "cp.async");
    emulator::check_aligned(from, bytes, "cp.async");
    emulator::check_shared(to, bytes, "cp.async");
    // What stood there must not be read between the copy's start and its end.
    memset(to, 0xff, bytes);
    emulator::self->open.push_back({to, there ? from : nullptr, bytes});
}
inline void cp_async16(void* to, const void* from, bool there) { copy_later(to, from, 16, there); }
inline void cp_async4(void* to, const void* from, bool there) { copy_later(to, from, 4, there); }
inline void cp_async_commit() {
    emulator::self->groups.push_back(std::move(emulator::self->open));
    emulator::self->open.clear();
}
template <int left> inline void cp_async_wait() {
    auto& groups = emulator::self->groups;
    while (groups.size() > left) {
        for (auto& copy : groups.front()) {
            if (copy.from) memcpy(copy.to, copy.from, copy.bytes);
            else memset(copy.to, 0, copy.bytes);
        }
        groups.erase(groups.begin());
    }
}

struct EmulatedKernel { const char* name; void (*run)(void**); int arguments; };
extern const EmulatedKernel emulated_kernels[];
extern const int emulated_kernel_count;

// Runs a kernel by name. Null, or what went wrong (valid until the next launch on this thread).
// Order 0: threads and blocks from the first on; 1: from the last on; others: rotations.
extern "C" inline __attribute__((used, visibility("default"))) const char* emulator_launch(const char* name, const unsigned* grid, const unsigned* size, unsigned shared_bytes,
                                                    void** args, int count, int order) {
    static thread_local std::string error;
    for (int i = 0; i < emulated_kernel_count; ++i) {
        const EmulatedKernel& kernel = emulated_kernels[i];
        if (strcmp(kernel.name, name) != 0) continue;
        if (kernel.arguments != count) {
            error = std::string(name) + " has " + std::to_string(kernel.arguments) + " arguments, not " + std::to_string(count);
            return error.c_str();
        }
        error = emulator::launch(kernel.run, grid, size, shared_bytes, args, order);
        if (error.empty()) return nullptr;
        error = std::string(name) + ": " + error;
        return error.c_str();
    }
    error = std::string("no kernel of the name ") + name;
    return error.c_str();
}
