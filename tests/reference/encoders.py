"""Small encoders with random weights, and their texts' vectors by transformers: tests/fixtures/models/encoders/.

    python tests/reference/encoders.py          # needs: pip install torch transformers tokenizers safetensors

Pooled as the folder's sentence-transformers files say: the mean over all tokens, or the first token.
"""

import json
import os

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    RobertaConfig,
    RobertaModel,
)

HERE = os.path.join(os.path.dirname(__file__), "..", "fixtures", "models", "encoders")
TEXTS = [
    "where is my card",
    "i want a refund for the purchase",
    "the app crashes at login and then nothing happens for a very long while",
    "card",
    "",
    "Éclair, refund? 12 cards!",
    "the card " * 40,
]
WORDS = "where is my card i want a refund for the purchase app crash ##es at login and then nothing happen ##s very long while not arrived , ? ! 1 2 ##2 e c l r ##l ##a ##i ##r".split()


def tokenizer(specials, vocab):
    tok = Tokenizer(models.WordPiece({w: i for i, w in enumerate(vocab)}, unk_token=specials["unk"]))
    tok.normalizer = normalizers.BertNormalizer(lowercase=True)
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    cls, sep = specials["cls"], specials["sep"]
    tok.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        special_tokens=[(cls, vocab.index(cls)), (sep, vocab.index(sep))],
    )
    tok.add_special_tokens([specials[k] for k in ("pad", "unk", "cls", "sep")])
    return tok


def make(name, model, specials, vocab, longest, cls=False):
    torch.manual_seed(len(name))
    folder = os.path.join(HERE, name)
    os.makedirs(os.path.join(folder, "1_Pooling"), exist_ok=True)
    # Gains about 1 and small biases: else all texts would look alike.
    for part, parameter in model.named_parameters():
        gain = part.lower().endswith("norm.weight")
        torch.nn.init.normal_(parameter, mean=1.0 if gain else 0.0, std=0.1 if parameter.dim() == 1 else 0.5)
    model.eval()
    model.save_pretrained(folder, safe_serialization=True)
    tok = tokenizer(specials, vocab)
    tok.save(os.path.join(folder, "tokenizer.json"))
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    write(folder, "modules.json", modules)
    write(folder, "1_Pooling/config.json", {"pooling_mode_cls_token": cls, "pooling_mode_mean_tokens": not cls, "pooling_mode_max_tokens": False})
    write(folder, "sentence_bert_config.json", {"max_seq_length": longest, "do_lower_case": False})
    tok.enable_truncation(longest)
    base = getattr(model, "distilbert", model)
    vectors = []
    for text in TEXTS:
        ids = torch.tensor([tok.encode(text).ids])
        with torch.no_grad():
            states = base(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
        vector = states[0] if cls else states.mean(0)
        vectors.append([round(x, 6) for x in torch.nn.functional.normalize(vector, dim=0).tolist()])
    write(folder, "reference.json", {"texts": TEXTS, "vectors": vectors})


def write(folder, name, value):
    with open(os.path.join(folder, name), "w") as file:
        json.dump(value, file, indent=1 if name != "reference.json" else None)


bert = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]"}
roberta = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>"}
vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
shape = dict(vocab_size=len(vocab), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
for name, cls in (("bert", False), ("bert-cls", True)):
    make(name, BertModel(BertConfig(**shape, max_position_embeddings=40), add_pooling_layer=False), bert, vocab, 32, cls)
vocab = ["<s>", "<pad>", "</s>", "<unk>", *WORDS]
make(
    "roberta",
    RobertaModel(RobertaConfig(**shape, max_position_embeddings=42, type_vocab_size=1, pad_token_id=1), add_pooling_layer=False),
    roberta,
    vocab,
    36,
)
vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
make(
    "distilbert",
    DistilBertForMaskedLM(DistilBertConfig(vocab_size=len(vocab), dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=40)),
    bert,
    vocab,
    30,
)
