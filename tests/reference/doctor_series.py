"""Series that real training runs told, for the doctor's tests: tests/fixtures/doctor/NAME.json.

    python tests/reference/doctor_series.py NAME .tunebench/runs/train-1 ...

The runs are of the demo workspace: `healthy` as it stands, `hot` with learning_rate=0.1 schedule=constant max_steps=200 epochs=20,
`slow` with learning_rate=3e-6 max_steps=200.
Run from the repository root.
"""

import json
import sys
from pathlib import Path

for name, folder in zip(sys.argv[1::2], sys.argv[2::2]):
    events = [json.loads(line) for line in Path(folder, "events.jsonl").read_text().splitlines()]
    steps = [e for e in events if e["kind"] == "step"]
    out = {
        "total": steps[0]["total"],
        # loss, gradient norm, learning rate, epoch, milliseconds
        "steps": [[float(f"{e[k]:.4g}") for k in ("loss", "grad_norm", "lr", "epoch", "ms")] for e in steps],
        "evals": [[e["step"], float(f"{e['loss']:.5g}")] for e in events if e["kind"] == "eval" and "loss" in e],
    }
    path = Path("tests/fixtures/doctor", f"{name}.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(out, separators=(",", ":")) + "\n")
    print(path, len(steps), "steps", path.stat().st_size, "bytes")
