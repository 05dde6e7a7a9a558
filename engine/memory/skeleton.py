"""A base without its weights: the real modules on the meta device, from the configurations alone."""

import json
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.families import Base, Components, family
from engine.families.base import fetched
from engine.families.fit import require_fitting
from engine.families.pipelines import CONFIGURATIONS

if TYPE_CHECKING:
    import torch


def skeleton(base: Base, dtype: "torch.dtype") -> Components:
    """The parts of a base as `Family.load` gives them, weights apart. Raises: MissingModel."""
    import diffusers
    import torch
    from diffusers.utils import logging

    logging.set_verbosity_error()  # remarks for programmers
    logging.disable_progress_bar()
    own: Any = family(base.family)
    source = base.companion if base.is_file else base.source
    folder = fetched(source, "*.json", "*/*.json", "tokenizer*/*") if source else CONFIGURATIONS / base.family
    with torch.device("meta"):
        models = {part: _diffusers_model(folder / part) for part in (base.spec.denoiser, "vae")}
        models |= {part: _text_encoder(folder / part, name) for part, name in base.spec.text_encoders.items()}
    pipeline = getattr(diffusers, base.spec.pipeline).from_pretrained(folder, **models, **own.options)
    for model in models.values():
        model.to(dtype).eval().requires_grad_(False)
    found = {**pipeline.config, **pipeline.components}
    return own.parts(**{name: found[name] for name in own.parts.__dataclass_fields__})


def controlnet_skeleton(base: Base, kind: str, dtype: "torch.dtype") -> Any:
    """As `Family.load_controlnet`, weights apart. Raises: MissingModel, BadModel when it was made for another base."""
    import torch

    own: Any = family(base.family)
    folder = fetched(base.require_controlnet(kind), "config.json")
    with torch.device("meta"):
        controlnet = _diffusers_model(folder, own.controlnet_class)
    shapes = {name: tuple(tensor.shape) for name, tensor in controlnet.state_dict().items()}
    require_fitting(folder, shapes, own.denoiser_layers(base), base.title)
    return controlnet.to(dtype).eval().requires_grad_(False)


def _diffusers_model(folder: Path, class_of: Callable[[dict[str, Any]], str] = itemgetter("_class_name")) -> Any:
    import diffusers

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return getattr(diffusers, class_of(config)).from_config(config)


def _text_encoder(folder: Path, class_name: str) -> Any:
    import transformers

    model_class = getattr(transformers, class_name)
    return model_class(model_class.config_class.from_pretrained(folder))
