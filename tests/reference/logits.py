"""Small random models of every supported architecture, with what transformers computes from them.

Needs torch, transformers 5, tokenizers, safetensors. Writes tests/fixtures/models/<name>/:
  a model's folder as transformers saves it (one sharded, one in f16 and two in bf16, one in an older spelling of config.json),
  reference.safetensors  input_ids, attention_mask [rows, length] (left-padded), logits [rows, length, vocab] in f32
  reference.json         prompts with their tokens (through the chat template where there is one), greedy continuations,
                         texts with their tokens, conversations rendered by transformers

    python tests/reference/logits.py tests/fixtures/models

Weights are drawn wide (logits of several units), biases and norms too, so that no part of a block can be left out unnoticed.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast,
                          Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM)

CORPUS = [
    "My card was declined twice at the store, please help me with the payment.",
    "I cannot log in to my account since yesterday, the password reset mail never came.",
    "Where is my parcel? It should have arrived on Monday, order 48213.",
    "Ich möchte mein Geld zurück, bitte. Das Gerät ist kaputt.",
    "Café crème, naïve, señor, 日本語, 東京 🙂",
    "billing shipping account refund other",
] * 4
TEXTS = ["", " ", "card", " card declined", "My card\n\nwas  declined!", "Café 日本語 🙂", "a<|im_end|>b", "x" * 40]
PROMPTS = ["My card was declined.", "Where is my parcel? Order 48213", "  Das Gerät ist\nkaputt. "]

LLAMA_CHAT = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = 'Be brief.' %}
{%- endif %}
{{- '<|head|>system<|/head|>\\n\\n' + system + '<|eot|>' }}
{%- for message in messages %}
    {{- '<|head|>' + message['role'] + '<|/head|>\\n\\n' + message['content'] | trim + '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|head|>assistant<|/head|>\\n\\n' }}
{%- endif %}
"""
MISTRAL_CHAT = """{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}
{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}
{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"""
QWEN_CHAT = """{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if message.role == "user" and not(message.content.startswith('<tool_response>')) %}
        {%- set ns.last = index %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set content = message.content %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and loop.last %}
            {{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>assistant\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""


def byte_level(special, bos=None):
    """As Llama 3 and Qwen: bytes, no dummy space; only the bytes of the corpus, to stay small."""
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=190, special_tokens=special, show_progress=False,
                                                       initial_alphabet=list("abcdefghijklmnopqrstuvwxyz<>|_/Ċ")))
    if bos:
        tok.post_processor = processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos} $B",
                                                           special_tokens=[(bos, tok.token_to_id(bos))])
    return tok


def sentencepiece_like():
    """As Llama 2 and Mistral: a dummy space in front, bytes for what is unknown."""
    special = ["<unk>", "<s>", "</s>"]
    tok = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tok.train_from_iterator([t.replace(" ", " ▁") for t in CORPUS],
                            trainers.BpeTrainer(vocab_size=384, special_tokens=special + [f"<0x{b:02X}>" for b in range(256)],
                                                show_progress=False))
    # The byte tokens are ordinary ones.
    state = json.loads(tok.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] in special]
    tok = Tokenizer.from_str(json.dumps(state))
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tok.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return tok


def make(name):
    common = dict(initializer_range=0.3, hidden_size=32, intermediate_size=40, num_hidden_layers=2)
    if name == "llama":
        tok = PreTrainedTokenizerFast(tokenizer_object=byte_level(["<|bos|>", "<|eos|>", "<|head|>", "<|/head|>", "<|eot|>"], "<|bos|>"),
                                      bos_token="<|bos|>", eos_token="<|eot|>", chat_template=LLAMA_CHAT)
        ids = dict(bos_token_id=0, eos_token_id=[1, 4])
        config = LlamaConfig(vocab_size=len(tok), num_attention_heads=8, num_key_value_heads=2, max_position_embeddings=96,
                             rms_norm_eps=1e-5, attention_bias=True, mlp_bias=True,
                             rope_parameters=dict(rope_type="llama3", rope_theta=10000.0, factor=4.0, low_freq_factor=1.0,
                                                  high_freq_factor=4.0, original_max_position_embeddings=24), **ids, **common)
        return tok, LlamaForCausalLM(config), torch.float16
    if name == "mistral":
        tok = PreTrainedTokenizerFast(tokenizer_object=sentencepiece_like(), bos_token="<s>", eos_token="</s>", unk_token="<unk>",
                                      chat_template=MISTRAL_CHAT)
        common["hidden_size"] = 24
        config = MistralConfig(vocab_size=len(tok), num_attention_heads=6, num_key_value_heads=3, head_dim=8, sliding_window=8,
                               max_position_embeddings=96, bos_token_id=1, eos_token_id=2, **common)
        return tok, MistralForCausalLM(config), torch.bfloat16
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    if name == "qwen2":
        tok = PreTrainedTokenizerFast(tokenizer_object=byte_level(special), eos_token="<|im_end|>", pad_token="<|endoftext|>",
                                      chat_template=QWEN_CHAT)
        config = Qwen2Config(vocab_size=len(tok) + 2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=96,
                             tie_word_embeddings=True, eos_token_id=2, pad_token_id=0, **common)
        return tok, Qwen2ForCausalLM(config), torch.float32
    tok = PreTrainedTokenizerFast(tokenizer_object=byte_level(special), eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    config = Qwen3Config(vocab_size=len(tok), num_attention_heads=4, num_key_value_heads=1, head_dim=12, max_position_embeddings=96,
                         eos_token_id=0, pad_token_id=0, tie_word_embeddings=False,
                         rope_parameters=dict(rope_type="default", rope_theta=1000000.0), **common)
    return tok, Qwen3ForCausalLM(config), torch.bfloat16


def reference(name, out):
    torch.manual_seed(sum(name.encode()))
    tok, model, dtype = make(name)
    model.eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            if "norm" in key:
                p.uniform_(0.5, 1.5)
            elif p.ndim == 1:
                p.normal_(0, 0.3)
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    tok.save_pretrained(folder)
    # What is saved is what is computed with: weights rounded to the saved type, arithmetic in f32. Loaded again, because
    # `to(dtype)` also rounds the frequencies of the rotary embedding, which no file holds.
    model.to(dtype).save_pretrained(folder, max_shard_size="30KB" if name == "mistral" else "1GB")
    model = type(model).from_pretrained(folder, dtype=torch.float32).eval()

    if name == "mistral":  # an older spelling, and a template inside tokenizer_config.json
        config = json.loads((folder / "config.json").read_text())
        config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
        (folder / "config.json").write_text(json.dumps(config, indent=1))
        tok_config = json.loads((folder / "tokenizer_config.json").read_text())
        tok_config["chat_template"] = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": MISTRAL_CHAT}]
        (folder / "tokenizer_config.json").write_text(json.dumps(tok_config, indent=1))
        (folder / "chat_template.jinja").unlink(missing_ok=True)
    state = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(state, ensure_ascii=False, separators=(",", ":")))

    vocab, length = model.config.vocab_size, 32 if name == "llama" else 20
    lengths = [length, length - 7, 3] if name != "mistral" else [length, 6]
    ids = torch.randint(5, vocab, (len(lengths), length))
    mask = torch.zeros_like(ids)
    for row, n in enumerate(lengths):
        mask[row, length - n:] = 1
        ids[row, :length - n] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
        save_file({"input_ids": ids, "attention_mask": mask, "logits": logits.contiguous()}, folder / "reference.safetensors")

        if name == "qwen3":  # one that stops: what greedy generation says third (and not before) ends it
            tokens = tok(PROMPTS[0])["input_ids"]
            made = model.generate(torch.tensor([tokens]), do_sample=False, max_new_tokens=24, pad_token_id=0)[0, len(tokens):].tolist()
            model.generation_config.eos_token_id = [0, next(t for i, t in enumerate(made) if i > 1 and t not in made[:i])]
            model.generation_config.save_pretrained(folder)
        answers = []
        for text in PROMPTS:
            if tok.chat_template:
                prompt = tok.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True,
                                                 enable_thinking=False, tokenize=False)
                tokens = tok(prompt, add_special_tokens=False)["input_ids"]
            else:
                tokens = tok(text)["input_ids"]
            made = model.generate(torch.tensor([tokens]), do_sample=False, max_new_tokens=24,
                                  attention_mask=torch.ones(1, len(tokens), dtype=torch.long), pad_token_id=0)[0, len(tokens):]
            ends = model.generation_config.eos_token_id
            ended = made[-1].item() in (ends if isinstance(ends, list) else [ends])
            answers.append({"text": text, "tokens": tokens, "greedy": made.tolist(),  # with the end token, "decoded" without
                            "decoded": tok.decode(made[:-1] if ended else made, skip_special_tokens=True, clean_up_tokenization_spaces=False)})
    texts = []
    for t in TEXTS:
        with_special = tok(t)["input_ids"]
        texts.append({"text": t, "plain": tok(t, add_special_tokens=False)["input_ids"], "special": with_special,
                      "decoded": tok.decode(with_special, skip_special_tokens=True, clean_up_tokenization_spaces=False)})
    chats = []
    if tok.chat_template:
        users = [{"role": "user", "content": " Hallo\n"}, {"role": "assistant", "content": "billing"}, {"role": "user", "content": "Café?"}]
        for messages in [users[:1], users[:2], users, [{"role": "system", "content": "S"}] + users]:
            for gen in [False, True]:
                try:
                    text = tok.apply_chat_template(messages, add_generation_prompt=gen, enable_thinking=False, tokenize=False)
                except Exception:
                    text = None
                chats.append({"messages": messages, "add_generation_prompt": gen, "text": text})
    (folder / "reference.json").write_text(json.dumps({"answers": answers, "texts": texts, "chats": chats}, ensure_ascii=False, indent=1))
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(name, f"{size / 1000:.0f} kB", "logits up to", round(logits.abs().max().item(), 2), [len(a["greedy"]) for a in answers],
          sorted(f.name for f in folder.iterdir()))


if __name__ == "__main__":
    for name in ["llama", "mistral", "qwen2", "qwen3"]:
        reference(name, Path(sys.argv[1]))
