#!/usr/bin/env python3
"""Weights quantized to NF4 with double quantization by bitsandbytes, and dequantized again.

usage: nf4_bitsandbytes.py OUT_FILE     (tests/fixtures/nf4/bitsandbytes.safetensors)
(bitsandbytes 0.50.2 quantizes a width that is no multiple of 64 in blocks over the flat weight, but its CPU code dequantizes it with
other blocks' constants; `odd` takes another path in it, which is right.)
Writes for two weights, `even` (95 x 192: more than 256 blocks) and `odd` (7 x 19: a last block that is not full, in an odd number):
       <name>.weight, .codes, .constants, .super_constants, .mean, .dequantized; and the tables `levels`, `dynamic`.
Needs: pip install torch bitsandbytes safetensors (no GPU)
"""

import pathlib
import sys

import bitsandbytes.functional as F
import torch
from safetensors.torch import save_file

torch.manual_seed(0)
tensors = {"dynamic": F.create_dynamic_map()}
for name, shape in {"even": (95, 192), "odd": (7, 19)}.items():
    # Rows of different size, so that the blocks' constants differ.
    weight = torch.randn(shape) * 0.05 * torch.exp(0.5 * torch.randn(shape[0], 1))
    codes, state = F.quantize_4bit(weight, quant_type="nf4", compress_statistics=True, blocksize=64)
    assert state.nested and state.blocksize == 64 and state.state2.blocksize == 256
    tensors["levels"] = state.code
    tensors |= {
        f"{name}.weight": weight, f"{name}.codes": codes.flatten(), f"{name}.constants": state.absmax,
        f"{name}.super_constants": state.state2.absmax, f"{name}.mean": state.offset.reshape(1),
        f"{name}.dequantized": F.dequantize_4bit(codes, state),
    }
out = pathlib.Path(sys.argv[1])
out.parent.mkdir(parents=True, exist_ok=True)
save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out)
