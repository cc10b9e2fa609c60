"""Long greedy answers of the fixture models by transformers: over several pages of keys and values, past sliding windows.

Needs torch, transformers 5. Reads the models that logits.py made, writes <name>/answers.json beside each:
  [{"prompt": token ids, "greedy": token ids made to the end of the context, no token ends them}]

    python tests/reference/answers.py tests/fixtures/models

Some prompts begin alike; lengths lie on both sides of multiples of 32.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

for name in ["llama", "mistral", "qwen2", "qwen3"]:
    folder = Path(sys.argv[1]) / name
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    torch.manual_seed(1)
    base = torch.randint(5, model.config.vocab_size, (80,)).tolist()
    own = torch.randint(5, model.config.vocab_size, (8,)).tolist()
    prompts = [base[:n] for n in (1, 31, 32, 33, 70)] + [base[:40] + own, base[:40] + own[:3], base[:64] + own, own]
    answers = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0,
                                  max_new_tokens=model.config.max_position_embeddings - len(prompt))
        answers.append({"prompt": prompt, "greedy": made[0, len(prompt):].tolist()})
    (folder / "answers.json").write_text(json.dumps(answers) + "\n")
    print(name, [len(a["greedy"]) for a in answers])
