#!/usr/bin/env python3
"""Adapters by PEFT on tiny models, with the logits that PEFT computes; and the way back.

usage: peft_adapter.py write OUT_DIR     (tests/fixtures/peft_adapter)
       peft_adapter.py check DIR         loads what `cargo test writes_adapters_for_peft -- --ignored` left in DIR
`write` makes OUT_DIR/<case>/base/ and adapter/ as save_pretrained writes them, and logits.safetensors (`input_ids`, `logits`).
Cases: every linear layer; a rank-stabilized one with ranks and alphas by pattern; one of a model with biases in bf16.
Needs: pip install torch transformers peft safetensors
"""

import pathlib
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

torch.set_num_threads(1)
SHAPE = dict(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=40, vocab_size=48,
    max_position_embeddings=64, initializer_range=0.3, attn_implementation="eager", use_cache=False,
    bos_token_id=1, eos_token_id=2,
)
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = {
    "all": (LlamaForCausalLM, LlamaConfig(**SHAPE), dict(r=3, lora_alpha=6, target_modules=ALL), torch.float32),
    "patterns": (
        LlamaForCausalLM, LlamaConfig(**SHAPE, tie_word_embeddings=True),
        dict(r=4, lora_alpha=8, use_rslora=True, target_modules=["q_proj", "v_proj", "down_proj"],
             rank_pattern={"q_proj": 2, "model.layers.1.mlp.down_proj": 5}, alpha_pattern={"layers.0.self_attn.v_proj": 3}),
        torch.float32,
    ),
    "bf16": (
        Qwen2ForCausalLM, Qwen2Config(**SHAPE),
        dict(r=2, lora_alpha=5, target_modules=r".*layers\.1\.(self_attn\.(q|o)_proj|mlp\.up_proj)"), torch.bfloat16,
    ),
}


def write(out):
    for seed, (name, (cls, config, lora, dtype)) in enumerate(CASES.items()):
        torch.manual_seed(seed)
        base = cls(config)
        for key, value in base.named_parameters():
            if key.endswith("bias") or "norm" in key:
                torch.nn.init.normal_(value, 1.0 if "norm" in key else 0.0, 0.3)
        base.to(dtype).save_pretrained(out / name / "base")
        model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **lora), autocast_adapter_dtype=False)
        for key, value in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(value, 0.0, 0.3)
        model.save_pretrained(out / name / "adapter")
        ids = torch.randint(0, config.vocab_size, (1, 23))
        # From the files, in f32: `to(bfloat16)` above has rounded the rotary frequencies too.
        base = cls.from_pretrained(out / name / "base", dtype=torch.float32)
        model = PeftModel.from_pretrained(base, out / name / "adapter").float().eval()
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0]
        save_file({"input_ids": ids[0], "logits": logits.contiguous()}, out / name / "logits.safetensors")
        (out / name / "adapter" / "README.md").unlink(missing_ok=True)
        (out / name / "base" / "generation_config.json").unlink(missing_ok=True)


def check(directory):
    for case in sorted(p for p in directory.iterdir() if p.is_dir()):
        base = AutoModelForCausalLM.from_pretrained(case / "base", dtype=torch.float32)
        model = PeftModel.from_pretrained(base, case / "adapter").eval()
        ours = load_file(case / "logits.safetensors")
        with torch.no_grad():
            logits = model(input_ids=ours["input_ids"][None].long()).logits[0]
        off = (logits - ours["logits"]).abs().max().item()
        print(f"{case.name}: logits up to {logits.abs().max():.1f}, off by {off:.1e}")
        assert off < 1e-4, case


if __name__ == "__main__":
    {"write": write, "check": check}[sys.argv[1]](pathlib.Path(sys.argv[2]))
