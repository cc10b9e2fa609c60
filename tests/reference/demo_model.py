"""Logits of the demo's base model by transformers, for tests/it/demo.rs.

Needs torch, transformers, safetensors. usage: python tests/reference/demo_model.py
Run it again whenever workspaces/demo/model is made anew.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

root = Path(__file__).resolve().parents[2]
folder = root / "workspaces/demo/model"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

ids = tokenizer.apply_chat_template(
    [{"role": "user", "content": "What is the topic?\n\nmy bank card is late"}],
    add_generation_prompt=True,
    return_tensors="pt",
    return_dict=True,
)["input_ids"]
with torch.no_grad():
    logits = model(ids).logits
out = root / "tests/fixtures/demo"
out.mkdir(parents=True, exist_ok=True)
save_file({"input_ids": ids.to(torch.int64), "logits": logits.contiguous()}, out / "logits.safetensors")
print(ids.tolist(), repr(tokenizer.decode([int(logits[0, -1].argmax())])))
