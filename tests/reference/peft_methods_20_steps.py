#!/usr/bin/env python3
"""Twenty steps of each training method by PEFT and torch, for the test that trains the same here.

Base, rows, schedule and optimizer are those of peft_20_steps.py, whose output this reads; what differs is the method:
rsLoRA, DoRA, PiSSA (with PEFT's conversion to plain LoRA at the end), LoRA+ by peft.optimizers.create_loraplus_optimizer, and ranks
and alphas by pattern. All in f32 on one thread.

usage: peft_methods_20_steps.py BASE_DIR OUT_DIR     (tests/fixtures/peft_20_steps tests/fixtures/peft_methods_20_steps)
Writes OUT_DIR/<method>/adapter_start/, adapter_final/   PEFT folders (PiSSA's start is of the residual base, its end is converted)
       OUT_DIR/<method>/expected.json                    loss and gradient norm per step
       OUT_DIR/<method>/final_logits.safetensors         `input_ids`, `logits` of the trained model
Needs: pip install torch transformers peft safetensors
"""

import json
import math
import pathlib
import shutil
import sys

import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

base_dir, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
torch.set_num_threads(1)
expected = json.loads((base_dir / "expected.json").read_text())
s = expected["settings"]
STEPS, LR, CLIP, DECAY = s["steps"], s["learning_rate"], s["max_grad_norm"], s["weight_decay"]
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LORAPLUS_LR_RATIO = 4.0
METHODS = {
    "rslora": dict(use_rslora=True),
    "dora": dict(use_dora=True),
    "pissa": dict(init_lora_weights="pissa"),
    "loraplus": dict(),
    "patterns": dict(rank_pattern={"q_proj": 2, "model.layers.1.mlp.down_proj": 6}, alpha_pattern={"v_proj": 4}),
}


def rate(t):
    """As in peft_20_steps.py."""
    warmup_steps = math.ceil(s["warmup"] * STEPS)
    if t < warmup_steps:
        return (t + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (t - warmup_steps) / (STEPS - warmup_steps)))


def run(method, options, directory):
    torch.manual_seed(1)
    base = LlamaForCausalLM.from_pretrained(base_dir, dtype=torch.float32, attn_implementation="eager")
    base.config.use_cache = False
    config = LoraConfig(r=s["rank"], lora_alpha=s["alpha"], target_modules=TARGETS, task_type="CAUSAL_LM", **options)
    model = get_peft_model(base, config)
    start = directory / "adapter_start"
    if method == "pissa":
        # What the conversion at the end reads must say that it changes nothing of the base.
        model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(start)
    model.train()
    trainable = [p for p in model.parameters() if p.requires_grad]
    arguments = dict(betas=(s["beta1"], s["beta2"]), eps=s["epsilon"])
    if method == "loraplus":
        optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=LR, loraplus_lr_ratio=LORAPLUS_LR_RATIO,
                                              loraplus_weight_decay=DECAY, **arguments)
    else:
        optimizer = torch.optim.AdamW(trainable, lr=LR, weight_decay=DECAY, **arguments)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    steps = []
    for step in expected["steps"]:
        trained = sum(sum(row["trained"]) for batch in step["micro_batches"] for row in batch)
        total = 0.0
        for batch in step["micro_batches"]:
            width = max(len(row["tokens"]) for row in batch)
            pad = [width - len(row["tokens"]) for row in batch]
            ids = torch.tensor([row["tokens"] + [0] * n for row, n in zip(batch, pad)])
            seen = torch.tensor([[1] * len(row["tokens"]) + [0] * n for row, n in zip(batch, pad)])
            labels = torch.tensor([[t if k else -100 for t, k in zip(row["tokens"], row["trained"])] + [-100] * n
                                   for row, n in zip(batch, pad)])
            logits = model(input_ids=ids, attention_mask=seen).logits
            loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1),
                                                     ignore_index=-100, reduction="sum")
            (loss / trained).backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(trainable, CLIP).item()
        steps.append({"loss": total / trained, "grad_norm": norm})
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()

    model.eval()
    ids = torch.tensor([expected["steps"][1]["micro_batches"][0][1]["tokens"]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits
    save_file({"input_ids": ids, "logits": logits.contiguous()}, directory / "final_logits.safetensors")
    if method == "pissa":
        model.peft_config["default"].init_lora_weights = "pissa"
        model.save_pretrained(directory / "adapter_final", path_initial_model_for_weight_conversion=str(start))
    else:
        model.save_pretrained(directory / "adapter_final")
    ratio = LORAPLUS_LR_RATIO if method == "loraplus" else 1.0
    body = {"rank": s["rank"], "alpha": s["alpha"], "loraplus_lr_ratio": ratio, "rank_pattern": options.get("rank_pattern", {}),
            "alpha_pattern": options.get("alpha_pattern", {}), "steps": steps}
    (directory / "expected.json").write_text(json.dumps(body, separators=(",", ":")) + "\n")
    for extra in directory.rglob("README.md"):
        extra.unlink()  # PEFT's model card template
    print(f"{method}: loss {steps[0]['loss']:.4f} -> {steps[-1]['loss']:.4f}")


for method, options in METHODS.items():
    shutil.rmtree(out / method, ignore_errors=True)
    (out / method).mkdir(parents=True)
    run(method, options, out / method)
