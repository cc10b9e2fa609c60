"""What transformers' logits processors and warpers leave of a row of logits.

    python tests/reference/sampling.py tests/fixtures/sampling.json

Order as in `generate`: repetition penalty; then, where the temperature is not 0, temperature, top-k, top-p, min-p.
"""

import json
import sys

import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

SETTINGS = [
    {},
    {"temperature": 0.7},
    {"temperature": 1.0},
    {"temperature": 1.0, "top_k": 5},
    {"temperature": 1.5, "top_k": 1},
    {"temperature": 1.0, "top_p": 0.5},
    {"temperature": 0.6, "top_p": 0.95},
    {"temperature": 2.0, "min_p": 0.1},
    {"temperature": 0.8, "top_k": 12, "top_p": 0.8},
    {"temperature": 1.3, "top_k": 20, "top_p": 0.9, "min_p": 0.2},
    {"temperature": 1.0, "top_p": 0.7, "min_p": 0.05},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.7},
    {"temperature": 0.9, "top_p": 0.9, "repetition_penalty": 1.8},
    {"temperature": 1.1, "top_k": 7, "min_p": 0.3, "repetition_penalty": 1.1},
]


def warpers(settings):
    found = LogitsProcessorList()
    if "repetition_penalty" in settings:
        found.append(RepetitionPenaltyLogitsProcessor(settings["repetition_penalty"]))
    if settings.get("temperature", 0.0) > 0:
        found.append(TemperatureLogitsWarper(settings["temperature"]))
        if "top_k" in settings:
            found.append(TopKLogitsWarper(settings["top_k"]))
        if "top_p" in settings:
            found.append(TopPLogitsWarper(settings["top_p"]))
        if "min_p" in settings:
            found.append(MinPLogitsWarper(settings["min_p"]))
    return found


def main():
    torch.manual_seed(7)
    # Two places of logits, with ties in the second.
    rows = [torch.randn(40) * 3, (torch.randn(40) * 2).round()]
    cases = []
    for settings in SETTINGS:
        for row, logits in enumerate(rows):
            # After ties at the edge of top-p it is arbitrary which of them stay.
            if row == 1 and "top_p" in settings:
                continue
            tokens = torch.randint(0, 40, (1, 12))
            scores = warpers(settings)(tokens, logits.clone()[None])
            cases.append(
                {
                    "settings": settings,
                    "row": row,
                    "tokens": tokens[0].tolist(),
                    "probabilities": [round(p, 9) for p in torch.softmax(scores, -1)[0].tolist()],
                    "greedy": int(scores.argmax()),
                }
            )
    out = {
        "logits": [[float(x) for x in row] for row in rows],
        "log_softmax": [[float(x) for x in torch.log_softmax(row, -1)] for row in rows],
        "cases": cases,
    }
    with open(sys.argv[1], "w") as file:
        json.dump(out, file)
        file.write("\n")


main()
