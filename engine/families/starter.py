"""The embedded base: a Stable Diffusion 1.5 style model with its own small weights, in `presets/starter`.

The environment variable TRIPOD_STARTER names another folder of the same layout. What lies in the folder decides what
the base has: it is asked anew every time.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

from engine.families import sd15
from engine.families.base import Base
from engine.families.local import beside

# What things look like sits in the convolutions of so small a model, and only a little of it in the attention.
# Its blocks are too few to part style from layout.
SPEC = replace(
    sd15.SPEC,
    lora_targets=(*sd15.SPEC.lora_targets, "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "conv_shortcut"),
    style_targets=("all",),
)
PRESET = Path(__file__).parent.parent.parent / "presets" / "starter"


def base() -> Base:
    folder = Path(os.environ.get("TRIPOD_STARTER", PRESET)).absolute()
    return Base(
        name="starter",
        title="Starter",
        spec=SPEC,
        source=str(folder),
        default_size_px=_size_px(folder),
        default_steps=20,
        default_guidance=2.5,
        guidance_rescale=0.7,  # else velocity prediction down to zero SNR overexposes (arXiv 2305.08891, 3.4)
        control_mode="layout",  # a small ControlNet: followed much more closely, and drawn more clearly
        **beside(folder),
    )


def _size_px(folder: Path) -> int:
    """The side of the pictures that the starter was trained on last; what it is made for until it is there."""
    config = folder / "unet" / "config.json"
    return json.loads(config.read_text())["sample_size"] * SPEC.vae_scale if config.is_file() else 256
