#!/usr/bin/env python3
"""Peer: greedy answers of a random Llama by transformers' generate.

usage: decode_torch.py [--mode batch|single] [--times 3] [--threads 2] [--device cpu|cuda] [--dtype f32|bf16]
                       [--hidden 512 --layers 8 --heads 8 --kv-heads 8 --ffn 1408 --vocab 8192]
                       [--rows 64 --shared 512 --suffix 16 --new 16 --single-new 128]
Prints one JSON object: rows/s and new tokens/s of the batch, tokens/s of one row alone; each the best of its times.
Needs: pip install torch transformers
"""
import argparse, json, resource, time

p = argparse.ArgumentParser()
for name, default in dict(times=3, threads=2, hidden=512, layers=8, heads=8, kv_heads=8, ffn=1408, vocab=8192,
                          rows=64, shared=512, suffix=16, new=16, single_new=128).items():
    p.add_argument("--" + name.replace("_", "-"), type=int, default=default)
p.add_argument("--mode", choices=["batch", "single"])
p.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
p.add_argument("--dtype", default="f32", choices=["f32", "bf16"])
a = p.parse_args()

import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.set_num_threads(a.threads)
torch.manual_seed(0)
config = LlamaConfig(hidden_size=a.hidden, num_hidden_layers=a.layers, num_attention_heads=a.heads,
                     num_key_value_heads=a.kv_heads, intermediate_size=a.ffn, vocab_size=a.vocab,
                     max_position_embeddings=max(512, a.shared + a.suffix + max(a.new, a.single_new)),
                     tie_word_embeddings=False, attn_implementation="sdpa", bos_token_id=None, eos_token_id=None, pad_token_id=0)
model = LlamaForCausalLM(config).eval().to(a.device, torch.bfloat16 if a.dtype == "bf16" else torch.float32)


def best(ids, new):
    """Seconds of the fastest time. All prompts are of one length, so nothing is padded."""
    ids = ids.to(a.device)
    mask = torch.ones_like(ids)
    times = []
    with torch.inference_mode():
        model.generate(ids[:1, -8:], attention_mask=mask[:1, -8:], do_sample=False, max_new_tokens=4, min_new_tokens=4)
        for _ in range(a.times):
            if a.device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            made = model.generate(ids, attention_mask=mask, do_sample=False, use_cache=True, max_new_tokens=new, min_new_tokens=new)
            if a.device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
            assert made.shape[1] == ids.shape[1] + new, made.shape
    return min(times)


report = {"peer": f"torch {torch.__version__} + transformers"}
if a.mode in (None, "batch"):
    shared = torch.randint(1, a.vocab, (1, a.shared)).expand(a.rows, -1)
    seconds = best(torch.cat([shared, torch.randint(1, a.vocab, (a.rows, a.suffix))], 1), a.new)
    report["batch"] = {"ms": 1e3 * seconds, "rows_per_s": a.rows / seconds, "tokens_per_s": a.rows * a.new / seconds}
if a.mode in (None, "single"):
    seconds = best(torch.randint(1, a.vocab, (1, a.suffix)), a.single_new)
    report["single"] = {"ms": 1e3 * seconds, "tokens_per_s": a.single_new / seconds}
report["peak_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(json.dumps(report))
