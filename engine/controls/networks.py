"""Depth, normals and classes by networks: the embedded ones, and published ones by name from the Hub.

Embedded are SegFormers of `presets/detectors/{depth,normal,segmentation}`, trained on renders by this project; their
logits are the relative inverse depth, the normal, or the classes of ADE20K. What the Hub has is run as transformers
runs it. Only safetensors are read, and no code that comes with a model. Nothing here knows of kinds or options.
"""

from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from engine.cache import ModelCache, device_name
from engine.controls.ade20k import coloured
from engine.controls.blaze import DETECTORS_FOLDER
from engine.controls.geometry import depth_map, normal_map, normals_from_depth
from engine.families.base import fetched

HUB_FILES = ("*.json", "model.safetensors")
EMBEDDED_SIDE_PX, EMBEDDED_STEP_PX = 448, 32


def embedded_folder(kind: str) -> Path:
    return DETECTORS_FOLDER / kind


def embedded_depth(image: Image.Image, models: ModelCache) -> Image.Image:
    return depth_map(_enlarged(_logits("depth", image, models)[:, :, 0], image))


def embedded_normal(image: Image.Image, models: ModelCache) -> Image.Image:
    return normal_map(_enlarged(_logits("normal", image, models), image))


def embedded_segmentation(image: Image.Image, models: ModelCache) -> Image.Image:
    classes = _logits("segmentation", image, models).argmax(axis=2)
    return coloured(classes).resize(image.size, Image.Resampling.NEAREST)


def _logits(kind: str, image: Image.Image, models: ModelCache) -> np.ndarray:
    """(h, w, outputs) at the size that the network sees the picture in: the mean over the picture and its mirror image,
    which is nearer to the truth than either."""
    import torch

    scale = EMBEDDED_SIDE_PX / min(image.size)
    size = [max(1, round(side * scale / EMBEDDED_STEP_PX)) * EMBEDDED_STEP_PX for side in image.size]
    pixels = np.asarray(image.resize((size[0], size[1]), Image.Resampling.BILINEAR), np.float32) / 127.5 - 1
    with models.lease(("detector", kind), partial(_load_embedded, kind)) as model, torch.no_grad():
        picture = torch.from_numpy(pixels).permute(2, 0, 1).to(model.device)
        logits, mirrored = model(torch.stack([picture, picture.flip(-1)])).logits
        mirrored = mirrored.flip(-1)
        if kind == "normal":
            mirrored[0] *= -1  # what faced right faces left
            logits, mirrored = (torch.nn.functional.normalize(normal, dim=0) for normal in (logits, mirrored))
        mean = torch.nn.functional.interpolate((logits + mirrored)[None] / 2, picture.shape[-2:], mode="bilinear")
        return mean[0].permute(1, 2, 0).cpu().numpy()


def _enlarged(values: np.ndarray, image: Image.Image) -> np.ndarray:
    """Values (h, w) or (h, w, 3) at the size of the picture."""
    return cv2.resize(values, image.size, interpolation=cv2.INTER_LINEAR)


def _load_embedded(kind: str) -> Any:
    from transformers import SegformerForSemanticSegmentation

    return _ready(SegformerForSemanticSegmentation, embedded_folder(kind))


def hub_depth(source: str, image: Image.Image, models: ModelCache, *, metric: bool = False) -> Image.Image:
    return depth_map(_hub_inverse_depth(source, image, models, metric))


def hub_normal(source: str, image: Image.Image, models: ModelCache, *, metric: bool = False) -> Image.Image:
    """From the depth: its slopes are the surface's."""
    depth = depth_map(_hub_inverse_depth(source, image, models, metric))
    return normal_map(normals_from_depth(np.asarray(depth.convert("L"), np.float32) / 255))


def _hub_inverse_depth(source: str, image: Image.Image, models: ModelCache, metric: bool) -> np.ndarray:
    """(h, w) at the size of the picture. A `metric` network tells distances, which are turned round."""
    with models.lease(("detector", source), partial(_load_hub, source, "AutoModelForDepthEstimation")) as (look, model):
        from transformers import pipeline

        estimate = pipeline("depth-estimation", model=model, image_processor=look, device=model.device)
        result: Any = estimate(image)
        depth = result["predicted_depth"].squeeze().float().cpu().numpy()
    depth = _enlarged(depth, image)
    return 1 / np.maximum(depth, 1e-3) if metric else depth


def hub_segmentation(source: str, image: Image.Image, models: ModelCache) -> Image.Image:
    import torch

    load = partial(_load_hub, source, "AutoModelForSemanticSegmentation")
    with models.lease(("detector", source), load) as (look, model), torch.no_grad():
        output = model(**look(images=image, return_tensors="pt").to(model.device))
        [classes] = look.post_process_semantic_segmentation(output, target_sizes=[(image.height, image.width)])
        return coloured(classes.cpu().numpy())


def _load_hub(source: str, class_name: str) -> tuple[Any, Any]:
    """The network's image processor and the network."""
    import transformers

    folder = fetched(source, *HUB_FILES)
    return transformers.AutoImageProcessor.from_pretrained(folder), _ready(getattr(transformers, class_name), folder)


def _ready(model_class: Any, folder: Path) -> Any:
    import torch

    model = model_class.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    return model.to(device_name()).eval().requires_grad_(False)
