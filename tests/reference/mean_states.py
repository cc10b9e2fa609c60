"""The small language models as embedders, by transformers: tests/fixtures/models/<name>/mean_states.json.

    python tests/reference/mean_states.py          # needs: pip install torch transformers; logits.py makes the models

The mean over a text's tokens of the last hidden state after the final norm, brought to length 1; arithmetic in f32.
"""

import json
import os

import torch
from transformers import AutoModel, PreTrainedTokenizerFast

HERE = os.path.join(os.path.dirname(__file__), "..", "fixtures", "models")
TEXTS = [
    "My card was declined twice.",
    "Where is my parcel? Order 48213",
    "card",
    "Das Gerät ist\nkaputt.",
    "Café 日本語 🙂",
    "the card " * 8,
]

for name in ("llama", "mistral", "qwen2", "qwen3"):
    folder = os.path.join(HERE, name)
    # Not by the model's name: what tokenizer.json says.
    tok = PreTrainedTokenizerFast.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    vectors = []
    for text in TEXTS:
        ids = tok(text, return_tensors="pt").input_ids
        assert ids.shape[1] <= model.config.max_position_embeddings, (name, text)
        with torch.no_grad():
            states = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
        vectors.append([round(x, 6) for x in torch.nn.functional.normalize(states.mean(0), dim=0).tolist()])
    with open(os.path.join(folder, "mean_states.json"), "w") as file:
        json.dump({"texts": TEXTS, "vectors": vectors}, file, ensure_ascii=False)
