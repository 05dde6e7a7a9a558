"""`python -m tests.benchmarks.generation [--quick]`: a picture by us against the same by plain diffusers.

Both use the same loaded parts and the same settings. Ours is the whole way of a warm picture from settings to the PNG
in the workspace, with progress and previews; plain diffusers only makes the picture. They take turns, so that what
else the machine does hits both alike. Without the starter's weights, the tiny base of the tests stands in.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from engine import families
from engine.cache import ModelCache, device_name
from engine.families.base import dtype_for
from engine.generation import generate
from engine.jobs import Work
from engine.settings import GenerateSettings
from engine.workspace import Workspace
from tests.tiny import make_tiny_base


def seconds(do: Callable[[], Any]) -> float:
    began_s = time.perf_counter()
    do()
    return time.perf_counter() - began_s


def measure(folder: Path, pairs: int, steps: int) -> dict[str, Any]:
    """Time pairs of pictures with the base at hand; `folder` is for the workspace."""
    import torch

    base = families.base("starter")
    if not any(Path(base.source).glob(base.weights("unet"))):
        os.environ["TRIPOD_STARTER"] = str(make_tiny_base(folder / "tiny"))
        base = families.base("starter")
    family = families.family(base.family)
    settings = GenerateSettings(prompt="a photo of a red mug on a table", steps=steps, width=256, height=256)
    workspace, cache, work = Workspace(folder / "workspace"), ModelCache(), Work(folder, {})

    with cache.lease(
        (base.source, "base"), lambda: family.load(base, dtype_for(device_name(), base.spec), device_name())
    ) as parts:
        pipeline = family.pipeline(parts, settings.scheduler)

        def ours() -> None:
            generate(settings, workspace=workspace, cache=cache, work=work)

        def plain() -> None:
            pipeline(
                settings.prompt,
                width=settings.width,
                height=settings.height,
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance_scale,
                guidance_rescale=base.guidance_rescale,
                generator=torch.Generator("cpu").manual_seed(settings.seed),
            )

        ours()
        plain()
        times = [(seconds(ours), seconds(plain)) for _ in range(pairs)]
    return {
        "overhead_ratio": round(median(ours / plain for ours, plain in times), 4),
        "ours_s": round(median(ours for ours, _ in times), 3),
        "plain_s": round(median(plain for _, plain in times), 3),
        "base": Path(base.source).name,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three pairs of five steps")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps(measure(Path(temporary), pairs=3 if quick else 9, steps=5 if quick else 20)))
