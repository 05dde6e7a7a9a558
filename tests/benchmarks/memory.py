"""`python -m tests.benchmarks.memory [--quick]`: the memory that was estimated against what was used, on the CPU.

Each case is a picture or a training, made by the code that makes all of them, in a process of its own: what its memory
was at most, less what it was after the same job on a tiny base, which has imported everything. The C allocator is told
to give back at once what is freed, so that the peak is what was in use. The models are of Stable Diffusion's and Flux's
architectures with random weights, narrower than the real ones.

The last line is a JSON object: for each case `estimated_bytes` and `measured_bytes`; `worst_error` is the largest
relative difference.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from engine import families
from engine.cache import ModelCache
from engine.families.pipelines import CONFIGURATIONS
from engine.generation import generate
from engine.jobs import Work
from engine.memory import estimate
from engine.memory.plans import GENERATION, TRAINING
from engine.settings import GenerateSettings, TrainSettings
from engine.training.__main__ import train_lora
from engine.workspace import Workspace
from tests.benchmarks.training import make_photos
from tests.tiny import make_tiny_base, make_tiny_sdxl
from tests.tiny_transformers import make_tiny_flux

PROJECT = Path(__file__).parents[2]
AT_ONCE = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
"""For glibc: blocks of 64 KiB and more are given back when they are freed."""

_VAE = {"block_out_channels": (48, 96, 192, 192), "norm_num_groups": 16}
NARROW: dict[str, dict[str, dict[str, Any]]] = {
    "sd15": {
        "unet": {"block_out_channels": (128, 256, 512, 512), "attention_head_dim": 4},
        "vae": _VAE,
        "text_encoder": {"num_hidden_layers": 4},
    },
    "sdxl": {
        "unet": {
            "block_out_channels": (128, 256, 512),
            "attention_head_dim": (2, 4, 8),
            "transformer_layers_per_block": (1, 2, 4),
        },
        "vae": _VAE,
        "text_encoder": {"num_hidden_layers": 4},
        "text_encoder_2": {"num_hidden_layers": 2},
    },
    "flux": {
        "transformer": {
            "num_layers": 4,
            "num_single_layers": 8,
            "attention_head_dim": 64,
            "num_attention_heads": 8,
            "axes_dims_rope": (16, 24, 24),
        },
        "vae": _VAE,
    },
}
"""By family, where the configurations of the narrow bases differ from the real ones, or Flux's from the tiny one."""
TINY = {"sd15": make_tiny_base, "sdxl": make_tiny_sdxl, "flux": make_tiny_flux}


@dataclass(frozen=True, kw_only=True)
class Case:
    """`base` is the family of a narrow model, or the starter."""

    name: str
    task: Literal["generate", "train"]
    base: Literal["sd15", "sdxl", "flux", "starter"]
    settings: dict[str, Any] = field(default_factory=dict)

    def asked(self, base: str) -> GenerateSettings | TrainSettings:
        if self.task == "generate":
            return GenerateSettings(**{"prompt": "a mug", "base": base, "steps": 1, **self.settings})
        return TrainSettings(
            **{
                "dataset": "-",
                "name": "memory",
                "base": base,
                "steps": 2,
                "sample_prompts": ("a mug",),
                **self.settings,
            }
        )


SMALL = (
    Case(name="picture, 256 px", task="generate", base="sd15", settings={"width": 256, "height": 256}),
    Case(name="training, 128 px, batch 4", task="train", base="sd15", settings={"resolution": 128, "batch_size": 4}),
)
IN_8_BIT = Case(
    name="picture, 256 px, in 8 bit",
    task="generate",
    base="sd15",
    settings={"width": 256, "height": 256, "memory": "int8"},
)
"""Needs torchao."""
QUICK = Case(name="picture, starter, 128 px", task="generate", base="starter", settings={"width": 128, "height": 128})
CASES = (
    *SMALL,
    Case(name="picture, 512 px", task="generate", base="sd15", settings={"width": 512, "height": 512}),
    Case(name="picture, SDXL, 512 px", task="generate", base="sdxl", settings={"width": 512, "height": 512}),
    Case(
        name="training, 256 px, batch 4, rank 64",
        task="train",
        base="sd15",
        settings={"resolution": 256, "batch_size": 4, "rank": 64},
    ),
    Case(name="training, SDXL, 256 px", task="train", base="sdxl", settings={"resolution": 256, "batch_size": 1}),
    Case(name="picture, Flux, 512 px", task="generate", base="flux", settings={"width": 512, "height": 512}),
    Case(name="training, Flux, 256 px", task="train", base="flux", settings={"resolution": 256, "batch_size": 2}),
    Case(
        name="training with the text encoder, starter",
        task="train",
        base="starter",
        settings={"resolution": 256, "batch_size": 8, "text_encoder_learning_rate": 1e-4},
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small case, to see that it runs")
    parser.add_argument("--measure", help="one case, in this process")
    arguments = parser.parse_args()
    if arguments.measure:
        case, base = json.loads(arguments.measure)
        print(measured_here(Case(**case), base))
        return
    results: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRIPOD_MODELS"] = folder
        for case in [QUICK] if arguments.quick else CASES:
            base = make_base(case.base, Path(folder))
            results[case.name] = {"estimated_bytes": estimated(case, base), "measured_bytes": measured(case, base)}
            print(f"{case.name}: error {error(results[case.name]):+.1%}", flush=True)
    print(json.dumps({**results, "worst_error": round(max(abs(error(result)) for result in results.values()), 3)}))


def error(result: dict[str, int]) -> float:
    return result["estimated_bytes"] / result["measured_bytes"] - 1


def make_base(base: str, models: Path) -> str:
    """Write into the folder of models a narrow base of a family and a tiny one; the name of the one to measure."""
    family = _family(base)
    tiny, narrow = models / f"tiny_{family}", models / f"narrow_{family}"
    if not tiny.exists():
        TINY[family](tiny)
    if base == "starter":
        return base
    if not narrow.exists():
        configurations = CONFIGURATIONS / family
        make_narrow(narrow, family, configurations if configurations.exists() else tiny)
    return narrow.name


def _family(base: str) -> str:
    return "sd15" if base == "starter" else base.removeprefix("narrow_")


def make_narrow(folder: Path, family: str, source: Path) -> None:
    """A base of the family with random weights, configured as in `source` but for the widths in `NARROW`, in half
    precision as published ones are."""
    import diffusers
    import transformers

    own: Any = families.family(family)
    models: dict[str, Any] = {}
    for part, changes in NARROW[family].items():
        if class_name := own.spec.text_encoders.get(part):
            model_class = getattr(transformers, class_name)
            models[part] = model_class(model_class.config_class.from_pretrained(source / part, **changes))
        else:
            config = json.loads((source / part / "config.json").read_text())
            models[part] = getattr(diffusers, config["_class_name"]).from_config({**config, **changes})
    pipeline = getattr(diffusers, own.spec.pipeline).from_pretrained(source, **models, **own.options)
    pipeline.to(dtype=torch.float16).save_pretrained(folder)


def estimated(case: Case, base: str) -> int:
    asked = case.asked(base)
    if isinstance(asked, GenerateSettings):
        plan = next((plan for plan in GENERATION if plan.name == asked.memory), GENERATION[0])
        return estimate.generation(asked, families.base(base), plan, "cpu").needed_bytes
    return estimate.training(asked, families.base(base), TRAINING[0], "cpu").needed_bytes


def measured(case: Case, base: str) -> int:
    """In a process of its own, to which the folder of models is known."""
    command = [sys.executable, "-m", "tests.benchmarks.memory", "--measure", json.dumps([asdict(case), base])]
    result = subprocess.run(
        command, env={**os.environ, **AT_ONCE}, cwd=PROJECT, capture_output=True, text=True, check=True
    )
    return int(result.stdout.splitlines()[-1])


def measured_here(case: Case, base: str) -> int:
    """The peak of this process during the case, over what it was after the same on a tiny base."""
    tiny = replace(case, settings={side: 64 for side in case.settings if side in ("width", "height", "resolution")})
    with tempfile.TemporaryDirectory() as folder:
        perform(tiny, f"tiny_{_family(base)}", Path(folder) / "tiny")
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak is found anew
        before_bytes = _status_bytes("VmRSS")
        perform(case, base, Path(folder) / "measured")
        return _status_bytes("VmHWM") - before_bytes


def perform(case: Case, base: str, folder: Path) -> None:
    workspace = Workspace(folder / "workspace")
    asked, job = case.asked(base), folder / "job"
    job.mkdir(parents=True)
    if isinstance(asked, GenerateSettings):
        generate(asked, workspace=workspace, cache=ModelCache(), work=Work(job, {}))
        return
    dataset = workspace.create_dataset("Bear", trigger="sks", class_name="bear")
    workspace.save_dataset(dataset.replace(photos=tuple(make_photos(workspace))))
    settings = asked.replace(dataset=dataset.id)
    train_lora(Work(job, {"settings": settings.to_dict(), "workspace": str(workspace.root)}))


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
