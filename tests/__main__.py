"""Everything that must hold, in one command: `python -m tests`.

Lint, types, tests, and once, at their smallest, every command whose figures the README gives.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

PYTHON = sys.executable
BIN = Path(PYTHON).parent
OUT = Path("out")

STEPS = {
    "lint": [BIN / "ruff", "check", "."],
    "format": [BIN / "ruff", "format", "--check", "."],
    "types": [BIN / "pyright"],
    "starter figures": [PYTHON, "-m", "engine.starter.evaluate", "--quick", "--out", OUT],
    "demo": [PYTHON, "app.py", "demo", "--quick", "--out", OUT / "demo"],
    "start-up": [PYTHON, "-m", "tests.benchmarks.startup", "--quick"],
    "generation overhead": [PYTHON, "-m", "tests.benchmarks.generation", "--quick"],
    "training speed": [PYTHON, "-m", "tests.benchmarks.training", "--quick"],
    "LoRA files": [PYTHON, "-m", "tests.benchmarks.lora_files", "--quick"],
    "families": [PYTHON, "-m", "tests.benchmarks.families", "--quick"],
    "memory": [PYTHON, "-m", "tests.benchmarks.memory", "--quick"],
    "detectors": [PYTHON, "-m", "tests.benchmarks.detectors", "--quick"],
    "controls": [PYTHON, "-m", "tests.benchmarks.controls", "--quick", "--out", OUT],
    "scores": [PYTHON, "-m", "tests.benchmarks.scores", "--quick"],
    "styles": [PYTHON, "-m", "tests.benchmarks.styles", "--quick"],
    "tests": [PYTHON, "-m", "pytest", "-n", str(os.cpu_count() or 1), "--dist", "loadfile"],
}


def main() -> int:
    """Run every step, also after one failed; the number of failed steps."""
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    failed = []
    for name, command in STEPS.items():
        began_s = time.monotonic()
        print(f"== {name}", flush=True)
        environment = one_thread if name == "tests" else {**os.environ, "HF_HUB_OFFLINE": "1"}
        if subprocess.run(command, env=environment).returncode != 0:
            failed.append(name)
        print(f"== {name}: {time.monotonic() - began_s:.0f} s", flush=True)
    if failed:
        print(f"Failed: {', '.join(failed)}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
