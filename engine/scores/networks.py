"""The networks that scores are read from: two embedded with the starter, two from the Hub.

The judge (`presets/starter/judge`) names things, colours, settings and looks of the starter's world; the style encoder
(`presets/starter/ip_adapter`) lies beside the style adapter. From the Hub, DINOv2 and CLIP run as transformers runs
them: only safetensors, and no code that comes with a model. Nothing here knows what is scored.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.cache import ModelCache, device_name
from engine.families.base import fetched
from engine.families.starter import PRESET

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

DINO = "facebook/dinov2-small"
CLIP = "sentence-transformers/clip-ViT-B-32/0_CLIPModel"  # OpenAI's weights; in their own repository they are a pickle
HUB_FILES = ("*.json", "*.txt", "model.safetensors")


def at_hand(source: str) -> bool:
    """Whether a model of the Hub is on this machine already; asks nobody else."""
    from huggingface_hub import try_to_load_from_cache

    if Path(source).is_absolute():
        return Path(source).exists()
    owner, name, *inside = source.split("/")
    return isinstance(try_to_load_from_cache(f"{owner}/{name}", "/".join((*inside, "model.safetensors"))), str)


def judged(images: Sequence["Image"], models: ModelCache) -> "dict[str, Tensor]":
    """The logits of each of the judge's heads, (n, classes), and what the heads read, "embed" (n, 384)."""
    import numpy as np
    import torch

    from engine.starter.judge import shrink

    with models.lease(("scorer", "judge"), _load_judge) as judge, torch.no_grad():
        embedding = judge.embed(shrink([np.asarray(image.convert("RGB")) for image in images]))
        hidden = judge.hidden[2:](embedding)
        return {"embed": embedding, **{name: head(hidden) for name, head in judge.heads.items()}}


def style_embeddings(images: Sequence["Image"], models: ModelCache) -> "Tensor":
    """What the style encoder sees, (n, 128), of unit length."""
    import torch

    with models.lease(("scorer", "style"), _load_style_encoder) as (look, encoder), torch.no_grad():
        embeddings = encoder(look([image.convert("RGB") for image in images], return_tensors="pt").pixel_values)
        return torch.nn.functional.normalize(embeddings.image_embeds, dim=1)


def dino_features(images: Sequence["Image"], models: ModelCache, source: str = DINO) -> "Tensor":
    """DINOv2's class token (Oquab et al. 2023), (n, width), of unit length. Raises: MissingModel."""
    import torch

    with models.lease(("scorer", source), partial(_load_hub, source, "AutoModel")) as (look, model), torch.no_grad():
        inputs = look(images=[image.convert("RGB") for image in images], return_tensors="pt").to(model.device)
        return torch.nn.functional.normalize(model(**inputs).last_hidden_state[:, 0].float().cpu(), dim=1)


def clip_similarity(image: "Image", text: str, models: ModelCache, source: str = CLIP) -> float:
    """The cosine of picture and text in CLIP (Radford et al. 2021), -1 to 1. Raises: MissingModel."""
    import torch

    with models.lease(("scorer", source), partial(_load_hub, source, "CLIPModel")) as (look, model), torch.no_grad():
        inputs = look(text=[text], images=[image.convert("RGB")], return_tensors="pt", padding=True, truncation=True)
        output = model(**inputs.to(model.device))
        return float(torch.nn.functional.cosine_similarity(output.image_embeds, output.text_embeds).item())


def _load_judge() -> Any:
    from engine.starter.judge import load_judge

    return load_judge(PRESET)


def _load_style_encoder() -> tuple[Any, Any]:
    import torch
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

    folder = PRESET / "ip_adapter" / "image_encoder"
    encoder = CLIPVisionModelWithProjection.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    return CLIPImageProcessor.from_pretrained(folder), encoder.eval().requires_grad_(False)


def _load_hub(source: str, class_name: str) -> tuple[Any, Any]:
    """What prepares the pictures (and texts), and the network."""
    import torch
    import transformers

    folder = fetched(source, *HUB_FILES)
    model_class: Any = getattr(transformers, class_name)
    preparer: Any = transformers.CLIPProcessor if class_name == "CLIPModel" else transformers.AutoImageProcessor
    model = model_class.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    return preparer.from_pretrained(folder), model.to(device_name()).eval().requires_grad_(False)
