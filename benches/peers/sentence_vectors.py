#!/usr/bin/env python3
"""Peer: vectors of a sentence-transformers folder, tunebench's encoder beside sentence-transformers itself.

usage: sentence_vectors.py --tunebench BIN --model FOLDER --data FILE... --dir WORK [--input text] [--times 3] [--threads 2]

Embeds the rows of the files, and texts that are hard to read (`--plain` leaves them out), with both; prints the cosine of each text's two
vectors (least and median, and the texts below 0.9999), and the seconds of each, in turn: tunebench's are those of a build's phase
`embedding`, which reads the rows and writes the vectors, too; sentence-transformers' those of `encode` with its own batches.

Needs: pip install sentence-transformers
"""

import argparse
import csv
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import time

p = argparse.ArgumentParser()
p.add_argument("--tunebench", required=True)
p.add_argument("--model", type=pathlib.Path, required=True)
p.add_argument("--data", nargs="+", type=pathlib.Path, required=True)
p.add_argument("--dir", type=pathlib.Path, required=True)
p.add_argument("--input", default="text")
p.add_argument("--times", type=int, default=3)
p.add_argument("--threads", type=int, default=2)
p.add_argument("--plain", action="store_true", help="only the rows of the files")
a = p.parse_args()
os.environ["OMP_NUM_THREADS"] = str(a.threads)
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

HARD = [
    "",
    " ",
    "\n\t\r",
    ".",
    "?!?!?!... --- ;;; ((( ))) \"\"\" '''",
    "🙂",
    "👨‍👩‍👧‍👦 🇩🇪🏳️‍🌈 card 💳💳💳 lost 😡",
    "card " * 2_000,
    "a" * 10_000,
    "ab1 cd2, " * 1_111,
    "我的银行卡还没有到，请问什么时候能收到？",
    "カードがまだ届きません。どうすればいいですか",
    "카드를 잃어버렸어요 새 카드를 받을 수 있나요",
    "أين بطاقتي؟ لم تصل بعد",
    "บัตรของฉันยังไม่มา",
    "हमारा कार्ड कहाँ है",
    "where is\x00 my\x01 card\x07\x1b[31m now\x7f\x9b",
    "a\u200bb\u200dc\u2060d\ufeffe\u00adf \u202ecard\u202c \ufffd \ue000 \U000f0000",
    "[CLS] where [SEP] is [MASK] my [PAD] card [UNK]",
    "##ing ##card <s> </s> <|endoftext|>",
    "Café naïve Zürich ÅNGSTRÖM ĲSSEL ŒUVRE ﬁne ﬂow Straße STRASSE",
    "Cafe\u0301 nai\u0308ve Zu\u0308rich",
    "İstanbul ISPARTA ığdır ΟΔΥΣΣΕΥΣ ΣΑΣ",
    "𝕎𝕙𝕖𝕣𝕖 𝒾𝓈 𝖒𝖞 ｃａｒｄ ①②③ ½ ㎏",
    "x\u00a0y\u2003z\u3000w\u2028v\u2029u\u0085t",
    "\u0301\u0302\u0303",
    "0123456789 " * 100,
    "https://example.com/a/b?c=d&e=%20#f user@example.com +44 (0)20 7946-0958",
    "x" * 99 + " " + "y" * 100 + " " + "z" * 101,
    "don't can't we'll I'm o'clock rock'n'roll",
]

texts = []
for path in a.data:
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file) if path.suffix == ".csv" else map(json.loads, file)
        texts += [row[a.input] for row in rows]
plain = len(texts)
if not a.plain:
    texts += HARD

a.dir.mkdir(parents=True, exist_ok=True)
state = a.dir / ".tunebench"
with (a.dir / "rows.jsonl").open("w", encoding="utf-8") as out:
    for at, text in enumerate(texts):
        out.write(json.dumps({"id": str(at), "text": text}) + "\n")
(a.dir / "workspace.toml").write_text(
    f'[data]\nsource = ["rows.jsonl"]\ninput = "{{{{ text }}}}"\nembedder = "peer"\n'
    f"[models.peer]\npath = {json.dumps(str(a.model.resolve()))}\n[strata]\nk = 8\n[[stage]]\nname = \"answer\"\n"
)


def ours():
    """The vectors and the seconds they took; everything anew."""
    stop = [a.tunebench, "-C", str(a.dir), "stop"]
    subprocess.run(stop, capture_output=True)
    shutil.rmtree(state, ignore_errors=True)
    subprocess.run([a.tunebench, "-C", str(a.dir), "strata", "build"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(stop, capture_output=True)
    (folder,) = state.glob("runs/*/artifacts/vectors.f16")
    folder = folder.parent.parent
    at = {}
    for line in (folder / "events.jsonl").open():
        event = json.loads(line)
        if event["kind"] == "progress":
            at.setdefault(event["phase"], event["t_ms"])
    with (folder / "inputs/rows.jsonl").open() as file:
        order = [int(json.loads(line)["id"]) for line in file]
    x = np.fromfile(folder / "artifacts/vectors.f16", dtype=np.float16).astype(np.float32).reshape(len(order), -1)
    out = np.zeros((len(texts), x.shape[1]), dtype=np.float32)
    out[order] = x
    left_out = sorted(set(range(len(texts))) - set(order))
    return out, left_out, (at["clustering"] - at["embedding"]) / 1e3


torch.set_num_threads(a.threads)
peer = SentenceTransformer(str(a.model), device="cpu")
print(f"load before {os.getloadavg()[0]:.1f}; {len(texts)} texts, {a.threads} threads")
print("| round | tunebench s | sentence-transformers s | ratio |\n| --- | --- | --- | --- |")
times = []
for number in range(max(a.times, 1)):
    x, left_out, own = ours()
    began = time.perf_counter()
    y = peer.encode(texts, normalize_embeddings=True)
    other = time.perf_counter() - began
    times.append((own, other))
    print(f"| {number + 1} | {own:.1f} | {other:.1f} | {own / other:.2f} |", flush=True)
own, other = (statistics.median(column) for column in zip(*times))
print(f"| median | {own:.1f} | {other:.1f} | {own / other:.2f} |\n\nload after {os.getloadavg()[0]:.1f}")

with np.errstate(invalid="ignore"):
    cosine = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
seen = [at for at in range(len(texts)) if at not in set(left_out)]
own = [at for at in seen if at < plain]
print(f"cosine over {len(own)} rows: least {cosine[own].min():.7f}, median {np.median(cosine[own]):.7f}")
hard = [at for at in seen if at >= plain]
if hard:
    print(f"over {len(hard)} hard texts: least {np.nanmin(cosine[hard]):.7f}, median {np.median(cosine[hard]):.7f}")
for at in left_out:
    print(f"no row: {texts[at][:60]!r}")
for at in seen:
    if not cosine[at] >= 0.9999:
        print(f"{cosine[at]:.6f} {texts[at][:80]!r}")
