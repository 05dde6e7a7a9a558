"""Everything that must hold, in one command: `python -m tests`.

Lint, types, tests, and once, at their smallest, every command whose figures the README gives. Each step takes one
processor, and as many run at a time as there are.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PYTHON = sys.executable
BIN = Path(PYTHON).parent
OUT = Path("out")
PROCESSORS = os.cpu_count() or 1

# Those that take longest come first, so that no processor waits for them at the end.
STEPS: dict[str, Sequence[str | Path]] = {
    "browser": [PYTHON, "-m", "pytest", "tests/ui/test_browser.py"],
    "scores": [PYTHON, "-m", "tests.benchmarks.scores", "--quick"],
    "types": [BIN / "pyright"],
    "controls": [PYTHON, "-m", "tests.benchmarks.controls", "--quick", "--out", OUT],
    "families": [PYTHON, "-m", "tests.benchmarks.families", "--quick"],
    "demo": [PYTHON, "app.py", "demo", "--quick", "--out", OUT / "demo"],
    "styles": [PYTHON, "-m", "tests.benchmarks.styles", "--quick"],
    "memory": [PYTHON, "-m", "tests.benchmarks.memory", "--quick"],
    "training speed": [PYTHON, "-m", "tests.benchmarks.training", "--quick"],
    "generation overhead": [PYTHON, "-m", "tests.benchmarks.generation", "--quick"],
    "starter figures": [PYTHON, "-m", "engine.starter.evaluate", "--quick", "--out", OUT],
    "detectors": [PYTHON, "-m", "tests.benchmarks.detectors", "--quick"],
    "LoRA files": [PYTHON, "-m", "tests.benchmarks.lora_files", "--quick"],
    "start-up": [PYTHON, "-m", "tests.benchmarks.startup", "--quick"],
    "lint": [BIN / "ruff", "check", "."],
    "format": [BIN / "ruff", "format", "--check", "."],
}
TESTS = [PYTHON, "-m", "pytest", "-m", "not browser", "-n", str(PROCESSORS), "--dist", "loadfile"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def passes(name: str, command: Sequence[str | Path], output: int | None = subprocess.PIPE) -> bool:
    """Run a step to its end, and say then what it said; with `output` None it speaks for itself."""
    began_s = time.monotonic()
    done = subprocess.run(command, env=ENVIRONMENT, stdout=output, stderr=output and subprocess.STDOUT, text=True)
    print(f"{done.stdout or ''}== {name}: {time.monotonic() - began_s:.0f} s", flush=True)
    return done.returncode == 0


def main() -> int:
    """Run every step, also after one failed; the number of failed steps."""
    with ThreadPoolExecutor(PROCESSORS) as pool:
        passed = dict(zip(STEPS, pool.map(passes, STEPS, STEPS.values()), strict=True))
    passed["tests"] = passes("tests", TESTS, output=None)
    failed = [name for name, is_fine in passed.items() if not is_fine]
    if failed:
        print(f"Failed: {', '.join(failed)}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
