// SwiGLU (Shazeer 2020, arXiv:2002.05202) on a stacked gate|up buffer, twin of src/ops/swiglu.rs.
//
// Shapes: gate_up (rows x 2 ffn), m and dm (rows x ffn). A thread takes 8 elements of m.
// Forward  m = g s u, s = 1 / (1 + e^-g):                         6 bytes and 5 flops an element of m.
// Backward du = dm g s, dg = dm u s (1 + g - g s), dm becomes m:  12 bytes and 11 flops.

#include "common.h"

extern "C" __global__ void swiglu(const bf16* gate_up, bf16* m, int rows, int ffn) {
    bool whole = ffn % 8 == 0 && aligned16(gate_up) && aligned16(m);
    for (Steps s(rows, ffn); s.more(); s.next()) {
        int left = ffn - s.column();
        const bf16* gate = gate_up + (size_t)s.row() * 2 * ffn + s.column();
        Eight g = load_up_to_8(gate, left, whole), u = load_up_to_8(gate + ffn, left, whole);
#pragma unroll
        for (int j = 0; j < 8; ++j) g.v[j] = g.v[j] / (1.0f + __expf(-g.v[j])) * u.v[j];
        store_up_to_8(m + (size_t)s.row() * ffn + s.column(), g, left, whole);
    }
}

extern "C" __global__ void swiglu_backward(bf16* gate_up, bf16* dm, int rows, int ffn) {
    bool whole = ffn % 8 == 0 && aligned16(gate_up) && aligned16(dm);
    for (Steps s(rows, ffn); s.more(); s.next()) {
        int left = ffn - s.column();
        bf16* gate = gate_up + (size_t)s.row() * 2 * ffn + s.column();
        bf16* into = dm + (size_t)s.row() * ffn + s.column();
        Eight g = load_up_to_8(gate, left, whole), u = load_up_to_8(gate + ffn, left, whole), d = load_up_to_8(into, left, whole);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            float sigmoid = 1.0f / (1.0f + __expf(-g.v[j])), silu = g.v[j] * sigmoid, dm_j = d.v[j], u_j = u.v[j];
            d.v[j] = silu * u_j;
            u.v[j] = dm_j * silu;
            g.v[j] = dm_j * u_j * sigmoid * (1.0f + g.v[j] - silu);
        }
        store_up_to_8(into, d, left, whole);
        store_up_to_8(gate, g, left, whole);
        store_up_to_8(gate + ffn, u, left, whole);
    }
}
