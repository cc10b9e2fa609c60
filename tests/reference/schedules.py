"""Learning rates of transformers' schedules, written to tests/fixtures/schedules.json.

Needs torch, transformers. `rates[i]` is the rate with which optimizer step i + 1 is taken, at a peak of 1.
Run from the repository root: python tests/reference/schedules.py
"""

import json
from pathlib import Path

import torch
import transformers
from transformers import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup


def rates(schedule, warmup, total):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = (
        get_constant_schedule_with_warmup(optimizer, warmup)
        if schedule == "constant"
        else {"linear": get_linear_schedule_with_warmup, "cosine": get_cosine_schedule_with_warmup}[schedule](optimizer, warmup, total)
    )
    out = []
    for _ in range(total):
        out.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return out


cases = [
    {"schedule": schedule, "warmup_steps": warmup, "total_steps": total, "rates": rates(schedule, warmup, total)}
    for schedule in ("constant", "linear", "cosine")
    for warmup, total in ((0, 7), (3, 20), (20, 20), (1, 40))
]
out = {"transformers": transformers.__version__, "cases": cases}
Path("tests/fixtures/schedules.json").write_text(json.dumps(out) + "\n")
