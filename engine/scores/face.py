"""Faces as descriptors: dlib's residual network (King 2017), in which faces of one person lie close together.

The weights in `presets/scores/face` are those that face-api.js publishes; distances below 0.6 mean one person. The
network is written out here because no library that is used here has it. Nothing here knows what is compared.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from engine.cache import ModelCache
from engine.controls.blaze import find
from engine.controls.faces import FACES
from engine.errors import NothingDetected
from engine.families.starter import PRESET

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

WEIGHTS = PRESET.parent / "scores" / "face" / "descriptor.safetensors"
SIDE_PX = 150
ROOM = 1.1  # the square that is looked at, in sizes of the face that was found
MEAN_RGB = (122.782, 117.001, 104.298)
BLOCKS = {
    "conv32": ("1", "2", "3"),
    "conv64": ("down", "1", "2", "3"),
    "conv128": ("down", "1", "2"),
    "conv256": ("down", "1", "2", "down_out"),
}


def descriptors(images: "Sequence[Image]", models: ModelCache) -> "Tensor":
    """The descriptor of the surest face of each picture that has one, (n, 128). Raises: NothingDetected for none."""
    import torch

    faces = [face for image in images if (face := _upright_face(np.asarray(image.convert("RGB")))) is not None]
    if not faces:
        raise NothingDetected("No face was found in this picture.", "Use one that shows a face.")
    pixels = torch.from_numpy(np.stack(faces)).permute(0, 3, 1, 2).float()
    with models.lease(("scorer", "face"), _load) as weights, torch.no_grad():
        return _describe((pixels - torch.tensor(MEAN_RGB)[:, None, None]) / 256, weights)


def similarity(one: "Tensor", other: "Tensor") -> "Tensor":
    """1 less the distance, at least 0: 0.4 is where dlib draws the line between one person and another."""
    import torch

    return (1 - torch.cdist(one, other)).clamp(min=0)


def _upright_face(picture: np.ndarray) -> np.ndarray | None:
    """The square (150, 150, 3) around the surest face, its eyes level; None without a face."""
    found = find(FACES, picture)
    if not found:
        return None
    box = found[0].box
    centre, side = (box[:2] + box[2:]) / 2, ROOM * (box[2:] - box[:2]).max()
    across = found[0].points[1] - found[0].points[0]  # from one eye to the other
    turn = cv2.getRotationMatrix2D(centre.tolist(), float(np.degrees(np.arctan2(across[1], across[0]))), SIDE_PX / side)
    turn[:, 2] += SIDE_PX / 2 - centre
    return cv2.warpAffine(picture, turn, (SIDE_PX, SIDE_PX), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _load() -> dict[str, Any]:
    from safetensors.torch import load_file

    return {name: weight.float() for name, weight in load_file(WEIGHTS).items()}


def _describe(x: "Tensor", weights: "dict[str, Tensor]") -> "Tensor":
    """(n, 3, 150, 150) -> (n, 128)."""
    from torch.nn.functional import avg_pool2d, conv2d, max_pool2d, pad, relu

    def convolved(x: "Tensor", name: str, stride: int = 1, padding: int = 1) -> "Tensor":
        x = conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=stride, padding=padding)
        return x * weights[f"{name}.scale"][:, None, None] + weights[f"{name}.shift"][:, None, None]

    def block(x: "Tensor", name: str, down: bool) -> "Tensor":
        """Two convolutions beside the input, which is halved and given more (empty) channels on the way down."""
        inner = relu(convolved(x, f"{name}.conv1", *((2, 0) if down else ())))
        inner = convolved(inner, f"{name}.conv2")
        if down:
            x = avg_pool2d(x, 2, 2)
            x = pad(x, (0, 0, 0, 0, 0, inner.shape[1] - x.shape[1]))
            inner = pad(inner, (0, x.shape[3] - inner.shape[3], 0, x.shape[2] - inner.shape[2]))
        return relu(inner + x)

    x = max_pool2d(relu(convolved(x, "conv32_down", stride=2, padding=0)), 3, 2)
    for width, names in BLOCKS.items():
        for name in names:
            x = block(x, f"{width}_{name}", down=name.startswith("down"))
    return x.mean(dim=(2, 3)) @ weights["fc"]
