#!/usr/bin/env bash
# The training step and answers on one NVIDIA GPU, in turn with torch, peft and transformers: three pairs for each shape, in the
# same minutes. `benches/gpu.sh decode` or `train` does one of the two.
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
what=${1:-all}
nvidia-smi -L >/dev/null 2>&1 || { echo "no NVIDIA GPU here" >&2; exit 2; }
decode() {
  local name=$1 rows=$2
  shift 2
  for pair in 1 2 3; do
    echo "== decode $name, $rows rows, pair $pair"
    "$binary" --json bench decode --device cuda:0 --rows "$rows" "$@"
    "$python" benches/peers/decode_torch.py --device cuda --dtype bf16 --rows "$rows" "$@" ||
      echo "the peer failed: out of memory, or without one of its packages"
  done
}
if [ "$what" != train ]; then
  # Sizes of Qwen3-0.6B and Llama-3.2-3B; batches that share a prompt, and that share nothing.
  qwen=(--hidden 1024 --layers 28 --heads 16 --kv-heads 8 --ffn 3072 --vocab 151936)
  llama=(--hidden 3072 --layers 28 --heads 24 --kv-heads 8 --ffn 8192 --vocab 128256)
  decode qwen3-0.6b 64 "${qwen[@]}" --new 128
  decode "qwen3-0.6b, nothing shared" 64 "${qwen[@]}" --shared 0 --suffix 128 --new 128
  decode llama-3.2-3b 64 "${llama[@]}" --new 128
fi
[ "$what" = decode ] && exit 0
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
