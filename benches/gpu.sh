#!/usr/bin/env bash
# The training step on one NVIDIA GPU, in turn with torch + peft: three pairs for each shape, in the same minutes.
# Needs: a release build, a driver, and a Python with torch (CUDA), transformers and peft as `python3` or $PYTHON; its wheels
# bring the cuBLAS and nvrtc that tunebench looks for too.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
binary=${TUNEBENCH:-target/release/tunebench}
steps=${STEPS:-20}
[ -x "$binary" ] || { echo "no $binary: run cargo build --release" >&2; exit 2; }
"$binary" doctor || true
nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,power.limit --format=csv || true
for shape in qwen3-0.6b llama-3.2-3b; do
  for more in "" recompute; do
    for pair in 1 2 3; do
      echo "== $shape ${more:-kept} pair $pair"
      "$binary" --json bench train-step --device cuda:0 --dtype bf16 --shape "$shape" --steps "$steps" ${more:+--recompute}
      "$python" benches/peers/lora_step_torch.py --device cuda --dtype bf16 --shape "$shape" --steps "$steps" ${more:+--checkpointing} ||
        echo "the peer failed: out of memory, or without one of its packages"
    done
  done
done
