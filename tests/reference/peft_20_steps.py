#!/usr/bin/env python3
"""Twenty LoRA steps by PEFT and torch, for the test that trains the same here.

A tiny random llama, PEFT's own adapter initialisation, AdamW with warm-up and cosine, clipping, two micro-batches of
unequal rows per step, the loss normalized by the trained tokens of the whole step; all in f32 on one thread.
Some steps clip and some do not, rows have different lengths and different shares of trained tokens.

usage: peft_20_steps.py OUT_DIR        (tests/fixtures/peft_20_steps)
Writes OUT_DIR/config.json, model.safetensors      the base
       OUT_DIR/adapter_start/, adapter_final/      PEFT folders
       OUT_DIR/expected.json                       settings, rows per micro-batch, loss, gradient norm and rate per step
       OUT_DIR/final_logits.safetensors            `input_ids`, `logits` of the trained model
Needs: pip install torch transformers peft safetensors
"""

import json
import math
import pathlib
import sys

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

STEPS, ACCUMULATE, BATCH, WARMUP = 20, 2, 3, 0.2
LR, BETAS, EPSILON, DECAY, CLIP = 1e-2, (0.9, 0.95), 1e-8, 0.01, 1.0
RANK, ALPHA = 4, 8

out = pathlib.Path(sys.argv[1])
torch.manual_seed(0)
torch.set_num_threads(1)
config = LlamaConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=56,
    vocab_size=64, max_position_embeddings=64, tie_word_embeddings=True, initializer_range=0.15,
    bos_token_id=1, eos_token_id=2, pad_token_id=0, attn_implementation="eager", use_cache=False,
)
base = LlamaForCausalLM(config).float()
base.save_pretrained(out)
targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
model = get_peft_model(base, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets, task_type="CAUSAL_LM"))
model.save_pretrained(out / "adapter_start")
model.train()

# Rows that can be learned: the answer follows from the prompt (its first tokens plus one), so that the loss falls.
rows = []
for i in range(STEPS * ACCUMULATE * BATCH):
    prompt = torch.randint(4, 60, (int(torch.randint(3, 14, ())),)).tolist()
    answer = [t + 1 for t in prompt[: int(torch.randint(1, 4, ()))]] + [2]
    tokens = [1, *prompt, *answer]
    rows.append((tokens, [0] * (len(tokens) - len(answer)) + [1] * len(answer)))

warmup_steps = math.ceil(WARMUP * STEPS)


def rate(t):
    """Share of the peak rate at step t, from 0: transformers' cosine, but a warm-up that does not begin with a step of rate 0."""
    if t < warmup_steps:
        return (t + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (t - warmup_steps) / (STEPS - warmup_steps)))


trainable = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trainable, lr=LR, betas=BETAS, eps=EPSILON, weight_decay=DECAY)
schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
steps = []
for step in range(STEPS):
    start = step * ACCUMULATE * BATCH
    here = rows[start : start + ACCUMULATE * BATCH]
    trained = sum(sum(mask) for _, mask in here)
    total, micro_batches = 0.0, []
    for m in range(ACCUMULATE):
        batch = here[m * BATCH : (m + 1) * BATCH]
        width = max(len(t) for t, _ in batch)
        ids = torch.tensor([t + [0] * (width - len(t)) for t, _ in batch])
        seen = torch.tensor([[1] * len(t) + [0] * (width - len(t)) for t, _ in batch])
        labels = torch.tensor([[t if k else -100 for t, k in zip(tokens, mask)] + [-100] * (width - len(tokens)) for tokens, mask in batch])
        logits = model(input_ids=ids, attention_mask=seen).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, config.vocab_size), labels[:, 1:].reshape(-1),
                                                 ignore_index=-100, reduction="sum")
        (loss / trained).backward()
        total += loss.item()
        micro_batches.append([{"tokens": t, "trained": mask} for t, mask in batch])
    norm = torch.nn.utils.clip_grad_norm_(trainable, CLIP).item()
    steps.append({"loss": total / trained, "grad_norm": norm, "lr": schedule.get_last_lr()[0], "micro_batches": micro_batches})
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()

model.eval()
model.save_pretrained(out / "adapter_final")
ids = torch.tensor([rows[7][0][:5]])
with torch.no_grad():
    logits = model(input_ids=ids).logits
save_file({"input_ids": ids, "logits": logits.contiguous()}, out / "final_logits.safetensors")
settings = {"learning_rate": LR, "beta1": BETAS[0], "beta2": BETAS[1], "epsilon": EPSILON, "weight_decay": DECAY, "max_grad_norm": CLIP,
            "warmup": WARMUP, "rank": RANK, "alpha": ALPHA, "batch_size": BATCH, "accumulate": ACCUMULATE, "steps": STEPS}
(out / "expected.json").write_text(json.dumps({"settings": settings, "steps": steps}, separators=(",", ":")) + "\n")
for extra in out.rglob("README.md"):
    extra.unlink()  # PEFT's model card template
(out / "generation_config.json").unlink(missing_ok=True)
clipped = sum(s["grad_norm"] > CLIP for s in steps)
print(f"loss {steps[0]['loss']:.4f} -> {steps[-1]['loss']:.4f}, {clipped} of {STEPS} steps clipped")
