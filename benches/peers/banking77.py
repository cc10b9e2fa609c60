#!/usr/bin/env python3
"""Peer: Banking77 by the same recipe, tunebench against torch + transformers + peft, over seeds.

usage: banking77.py --tunebench BIN --data FILE... --model DIR --dir WORK
                    [--input text --gold category] [--seeds 7 8 9] [--threads 2] [--paired]
                    [--epochs 4 --batch-size 16 --learning-rate 3e-3 --rank 16 --alpha 32 --max-length 256 --eval-every 0]

`tunebench init` makes a workspace in WORK, `tunebench run train` trains and scores. Then torch + peft is given what that run's
folder froze: rows, parts, settings, label set. Prompts and answers become tokens by transformers' chat template and tokenizer, not
by ours; the script stops where they differ from those that the run's mask gate shows. The start of the adapter and the order of
the batches are torch's own, by the same seed; with `--paired` they are those of tunebench's run, so that chance is the same on both
sides and what is left is a difference of the recipes (and what rounding grows to). The best of the evaluations on dev rows is scored.

The last column scores tunebench's adapter with transformers' generation: where it differs from tunebench's own accuracy, answering
and not training is what differs.

What is finished is kept (WORK/*.json) and not done again. Prints a Markdown table.
Needs: pip install torch transformers peft
"""

import argparse
import hashlib
import json
import math
import os
import pathlib
import subprocess
import sys
import time

p = argparse.ArgumentParser()
p.add_argument("--tunebench", required=True)
p.add_argument("--data", nargs="+", required=True)
p.add_argument("--model", required=True)
p.add_argument("--dir", type=pathlib.Path, required=True)
p.add_argument("--input", default="text")
p.add_argument("--gold", default="category")
p.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
p.add_argument("--threads", type=int, default=2)
p.add_argument("--paired", action="store_true")
RECIPE = dict(epochs=4.0, batch_size=16, learning_rate=3e-3, rank=16, alpha=32.0, max_length=256, eval_every=0)
for name, default in RECIPE.items():
    p.add_argument("--" + name.replace("_", "-"), type=type(default), default=default)
a = p.parse_args()

# Threads that spin while they wait take the processor from each other on a busy machine: 1.3 s of it a step instead of 0.2.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

torch.set_num_threads(a.threads)
workspace = a.dir / "workspace"


def tunebench(*args):
    """The JSON object of a command, its last line; progress goes on to our stderr."""
    command = [a.tunebench, "-C", str(workspace), "--json", *args]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}")
    return json.loads(done.stdout.splitlines()[-1])


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def train_with_tunebench(seed):
    file = a.dir / f"run-{seed}.json"
    if not file.exists():
        file.write_text(json.dumps(run_train(seed)))
    run = json.loads(file.read_text())
    return workspace / ".tunebench" / "runs" / run["run"], run["metrics"]


def run_train(seed, **other):
    settings = {name: getattr(a, name) for name in RECIPE}
    settings |= dict(method="lora", targets="all-linear", prompt="bare", seed=seed) | other
    return tunebench("run", "train", *(f"--set=tuning.train.{k}={v}" for k, v in settings.items()))


class Rows:
    """What the run froze, as transformers reads it."""

    def __init__(self, folder):
        spec = json.loads((folder / "spec.json").read_text())
        self.folder, self.settings = folder, spec["job"]["train"]
        (self.stage,) = spec["candidate"]["stages"]
        rows = lines(folder / "inputs" / "rows.jsonl")
        self.tokenizer = AutoTokenizer.from_pretrained(a.model)
        self.eos = self.tokenizer.eos_token_id
        self.train, self.dev, self.eval = ([r for r in rows if r["part"] == part] for part in ("train", "dev", "eval"))
        self.sequences = {r["id"]: self.sequence(r) for r in self.train + self.dev}
        for event in lines(folder / "events.jsonl"):
            if event["kind"] == "log" and event["message"].startswith("mask gate: row "):
                self.check_gate(event["message"])
            elif event["kind"] == "warning":
                print(f"tunebench warns: {event['message']}", file=sys.stderr)

    def prompt(self, row):
        turns = [{"role": "user", "content": row["input"]}]
        text = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def sequence(self, row):
        """Tokens of prompt, answer and end of answer, and the place of the first trained one."""
        turns = [{"role": "user", "content": row["input"]}, {"role": "assistant", "content": row["gold"]}]
        ids = self.tokenizer(
            self.tokenizer.apply_chat_template(turns, tokenize=False), add_special_tokens=False
        )["input_ids"]
        prompt = self.prompt(row)
        assert ids[: len(prompt)] == prompt and ids[-1] == self.eos, row
        assert len(ids) <= a.max_length, row
        return ids, len(prompt)

    def check_gate(self, message):
        """`mask gate: row ID, N tokens, M trained: ...` says the same."""
        row, tokens, rest = message.removeprefix("mask gate: row ").split(", ", 2)
        ids, first = self.sequences[row]
        ours = (int(tokens.split()[0]), int(rest.split()[0]))
        assert ours == (len(ids), len(ids) - first), f"{message}\ntransformers: {len(ids)} tokens, {len(ids) - first} trained"
        shown = [t.strip("⟦⟧") for t in rest.split(": ", 1)[1].replace("⟦", "·⟦").split("·")]
        told = [self.tokenizer.decode([i]).replace("\n", "\\n") for i in ids]
        assert shown == told, f"{message}\ntransformers: {told}"

    def length(self, row):
        return len(self.sequences[row["id"]][0])

    def targets(self, row):
        ids, first = self.sequences[row["id"]]
        return len(ids) - first

    def batch(self, rows):
        sequences = [self.sequences[r["id"]] for r in rows]
        width = max(len(ids) for ids, _ in sequences)
        pad = lambda ids, value: ids + [value] * (width - len(ids))
        return dict(
            input_ids=torch.tensor([pad(ids, self.tokenizer.pad_token_id) for ids, _ in sequences]),
            attention_mask=torch.tensor([pad([1] * len(ids), 0) for ids, _ in sequences]),
            labels=torch.tensor([pad([-100] * first + ids[first:], -100) for ids, first in sequences]),
        )


def learning_rate(s, step, total):
    """`src/tuning/train/schedule.rs`: steps from 1; the warm-up's last step is at the peak."""
    warmup = min(math.ceil(s["warmup"] * total - 1e-9), total)
    if step <= warmup:
        return s["learning_rate"] * step / warmup
    done = (step - 1 - warmup) / max(total - warmup, 1)
    shape = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return s["learning_rate"] * shape[s["schedule"]]


def base():
    return AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32)


def start_of(seed):
    """The adapter that tunebench starts with: after one step of no size, with B at zero again."""
    run = run_train(seed, max_steps=1, learning_rate=1e-30)
    folder = workspace / ".tunebench" / "runs" / run["run"] / "artifacts" / "adapter"
    model = PeftModel.from_pretrained(base(), str(folder), is_trainable=True)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.zero_()
    return model


def orders(rows, s):
    """The rows of every step."""
    if a.paired:
        train = {r["id"]: r for r in rows.train}
        for event in lines(rows.folder / "events.jsonl"):
            if event["kind"] == "step":
                yield [train[row] for row in event["rows"]]
        return
    generator = torch.Generator().manual_seed(s["seed"])
    while True:
        order = torch.randperm(len(rows.train), generator=generator).tolist()
        for at in range(0, len(order), s["batch_size"]):
            yield [rows.train[i] for i in order[at : at + s["batch_size"]]]


def train_with_peft(rows):
    s = rows.settings
    assert (s["method"], s["accumulate"], s["patience"], s["max_steps"]) == ("lora", 1, 0, None), s
    torch.manual_seed(s["seed"])
    model = start_of(s["seed"]) if a.paired else get_peft_model(base(), LoraConfig(
        r=s["rank"], lora_alpha=s["alpha"], target_modules=s["targets"], task_type="CAUSAL_LM"))
    trained = [q for q in model.parameters() if q.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, betas=(s["beta1"], s["beta2"]), eps=s["epsilon"], weight_decay=s["weight_decay"])
    size = s["batch_size"]
    total = math.ceil(s["epochs"] * math.ceil(len(rows.train) / size) - 1e-9)
    eval_every = s["eval_every"] or math.ceil(total / 10)
    dev = sorted(rows.dev, key=rows.length)
    best, seconds, steps = (math.inf, None, None), 0.0, []
    for step, batch in zip(range(1, total + 1), orders(rows, s)):
        begun = time.perf_counter()
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(s, step, total)
        # Two halves of like lengths need less padding than the whole; the gradient is that of the whole.
        batch.sort(key=rows.length)
        trained_tokens, loss = sum(map(rows.targets, batch)), 0.0
        for half in filter(None, (batch[: size // 2], batch[size // 2 :])):
            part = model(**rows.batch(half)).loss * (sum(map(rows.targets, half)) / trained_tokens)
            part.backward()
            loss += part.item()
        if s["max_grad_norm"] > 0:
            torch.nn.utils.clip_grad_norm_(trained, s["max_grad_norm"])
        optimizer.step()
        optimizer.zero_grad()
        seconds += time.perf_counter() - begun
        if step % eval_every == 0 or step == total:
            dev_loss = loss_of(model, rows, dev, size)
            print(f"peft, seed {s['seed']}: {step}/{total}, loss {loss:.3f}, dev loss {dev_loss:.4f}, {seconds:.0f} s", file=sys.stderr, flush=True)
            steps.append((step, dev_loss))
            if dev_loss < best[0]:
                best = (dev_loss, step, {k: v.detach().clone() for k, v in model.state_dict().items() if "lora_" in k})
    model.load_state_dict(best[2], strict=False)
    return model, dict(eval_loss=best[0], best_step=best[1], seconds=seconds, dev=steps,
                       trainable=sum(q.numel() for q in trained))


@torch.no_grad()
def loss_of(model, rows, part, size):
    """Mean loss per trained token."""
    model.eval()
    total, count = 0.0, 0
    for at in range(0, len(part), size):
        batch = rows.batch(part[at : at + size])
        trained = int((batch["labels"] != -100).sum())
        total += model(**batch).loss.item() * trained
        count += trained
    return total / count


def read_label(text, labels):
    """`src/pipeline/output.rs`: the label of the first line that is not empty; exactly, else ignoring case, else also punctuation."""
    line = next((line.strip() for line in text.strip().splitlines() if line.strip()), None)
    if line is None or line in labels:
        return line
    def bare(text):
        kept = [i for i, c in enumerate(text) if c.isalnum()]
        return (text[kept[0] : kept[-1] + 1] if kept else text).lower()
    for key in (str.lower, bare):
        fitting = [label for label in labels if key(label) == key(line)]
        if len(fitting) == 1:
            return fitting[0]
    return None


@torch.no_grad()
def score(model, rows):
    """Accuracy of greedy answers on the eval rows, and the answers."""
    model.eval()
    tokenizer = rows.tokenizer
    tokenizer.padding_side = "left"
    part = sorted(rows.eval, key=lambda r: len(r["input"]))
    answers = {}
    for at in range(0, len(part), 64):
        batch = part[at : at + 64]
        inputs = tokenizer.pad({"input_ids": [rows.prompt(r) for r in batch]}, return_tensors="pt")
        out = model.generate(**inputs, max_new_tokens=rows.stage["decoding"]["max_tokens"], do_sample=False,
                             eos_token_id=rows.eos, pad_token_id=tokenizer.pad_token_id)
        for row, ids in zip(batch, out[:, inputs["input_ids"].shape[1] :]):
            answers[row["id"]] = read_label(tokenizer.decode(ids, skip_special_tokens=True), rows.stage["labels"])
    right = sum(answers[r["id"]] == r["gold"] for r in part)
    return right / len(part), answers


def peft_of(rows):
    """Trained and scored, or what an earlier call of the same settings and rows kept."""
    file = a.dir / f"{'paired' if a.paired else 'peft'}-{rows.settings['seed']}.json"
    what = [rows.settings, rows.stage["decoding"], sorted((r["id"], r["part"]) for r in rows.train + rows.dev + rows.eval)]
    what = hashlib.sha256(json.dumps(what).encode()).hexdigest()
    if file.exists() and json.loads(file.read_text())["what"] == what:
        return json.loads(file.read_text())
    model, peft = train_with_peft(rows)
    peft |= dict(accuracy=score(model, rows)[0], what=what)
    file.write_text(json.dumps(peft))
    return peft


def seed_of(seed):
    folder, metrics = train_with_tunebench(seed)
    rows = Rows(folder)
    steps = [e for e in lines(folder / "events.jsonl") if e["kind"] == "step"]
    outcomes = {o["row"]: o["output"] for o in lines(folder / "outcomes.jsonl") if o["part"] == "eval"}
    ours, answers = score(PeftModel.from_pretrained(base(), str(folder / "artifacts" / "adapter")), rows)
    same = sum(answers[row] == output for row, output in outcomes.items() if output in rows.stage["labels"])
    peft = peft_of(rows)
    parts = {part: len(getattr(rows, part)) for part in ("train", "dev", "eval")}
    return dict(
        seed=seed, parts=parts, steps=len(steps),
        tunebench=dict(accuracy=metrics["accuracy"], eval_loss=metrics["eval_loss"], best_step=metrics["best_step"],
                       seconds=sum(s["ms"] for s in steps) / 1e3),
        peft=peft, tunebench_by_transformers=ours, same_answers=same, outcomes=len(outcomes),
    )


a.dir.mkdir(parents=True, exist_ok=True)
if not (workspace / "workspace.toml").exists():
    made = subprocess.run([a.tunebench, "init", str(workspace), "--data", *a.data, "--model", a.model,
                           "--input", a.input, "--gold", a.gold], stdout=sys.stderr)
    if made.returncode != 0:
        sys.exit("tunebench init failed")

results = []
for seed in a.seeds:
    kept = a.dir / f"{'pair' if a.paired else 'seed'}-{seed}.json"
    if not kept.exists():
        result = seed_of(seed) | {"recipe": {name: getattr(a, name) for name in RECIPE}}
        kept.write_text(json.dumps(result))
    results.append(json.loads(kept.read_text()))
    if results[-1]["recipe"] != {name: getattr(a, name) for name in RECIPE}:
        sys.exit(f"{kept} was made by another recipe: {results[-1]['recipe']}; take another --dir")

print(json.dumps(results[0]["parts"] | {"steps": results[0]["steps"]} | results[0]["recipe"]))
print("| seed | tunebench accuracy | PEFT accuracy | difference, points | dev loss of both | training seconds of both | tunebench's adapter answered by transformers |")
print("| --- | --- | --- | --- | --- | --- | --- |")
differences = []
for r in results:
    t, q = r["tunebench"], r["peft"]
    differences.append(100 * (t["accuracy"] - q["accuracy"]))
    print(f"| {r['seed']} | {t['accuracy']:.4f} | {q['accuracy']:.4f} | {differences[-1]:+.2f} | {t['eval_loss']:.4f}, {q['eval_loss']:.4f} "
          f"| {t['seconds']:.0f}, {q['seconds']:.0f} | {r['tunebench_by_transformers']:.4f} |")
mean = sum(differences) / len(differences)
spread = math.sqrt(sum((d - mean) ** 2 for d in differences) / max(len(differences) - 1, 1))
print(f"mean difference {mean:+.2f} points (standard deviation over seeds {spread:.2f})")
