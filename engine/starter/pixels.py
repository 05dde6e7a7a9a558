"""Pixels as networks see them, and how far two pictures are apart. Knows nothing of what they show."""

import numpy as np
import torch
from torch import Tensor


def to_tensor(images: np.ndarray) -> Tensor:
    """uint8 (n, h, w, 3) -> float (n, 3, h, w) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def psnr_db(decoded: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture, for values in [-1, 1]: 10 log10(4 / mse)."""
    return 10 * torch.log10(4 / (decoded.clamp(-1, 1) - target).square().mean(dim=(1, 2, 3)))
