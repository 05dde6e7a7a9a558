"""Muon: momentum whose matrices are made orthogonal before they are applied (Jordan et al. 2024).

torch.optim.Muon takes 2-D parameters only; most of a U-Net's weights are convolutions, which count here as matrices of
(out, in * kh * kw). Steps are scaled to the size of Adam's (Liu et al., arXiv 2502.16982, eq. 4), so that Adam's
learning rates hold.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_STEPS = 5
_LEAST_SIDE = 48  # smaller matrices gain nothing


def suits_muon(name: str, parameter: nn.Parameter) -> bool:
    """Matrices inside the network; not embeddings, biases, norms and narrow ends."""
    if parameter.ndim not in (2, 4) or "embedding" in name:
        return False
    return min(parameter.shape[0], parameter[0].numel()) >= _LEAST_SIDE


def orthogonalized(matrices: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrices of (n, rows, columns), roughly: five Newton-Schulz steps.

    A step multiplies X by P = a + b G + c G^2 with G = X X^T. All G and P are polynomials of the first G, so they
    commute, and the steps need the small square matrices only: G <- P^2 G. Their product is applied to X at the end,
    which saves two thirds of the work on a convolution's 1:9 matrices. float32, because G squares what X's singular
    values span.
    """
    a, b, c = _NEWTON_SCHULZ
    x = matrices.float()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    gram = x @ x.mT
    product = torch.eye(x.shape[1]).expand_as(gram)
    for _ in range(_STEPS):
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal(dim1=1, dim2=2).add_(a)
        product = polynomial @ product
        gram = polynomial @ gram @ polynomial
    x = product @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized; matrices of one shape are treated together."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for shape, alike in by_shape.items():
                updates = []
                for parameter in alike:
                    momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                    momentum.lerp_(parameter.grad, 1 - group["momentum"])
                    updates.append(parameter.grad.lerp_(momentum, group["momentum"]).flatten(1))
                steps = orthogonalized(torch.stack(updates))
                scale = 0.2 * max(steps.shape[1:]) ** 0.5
                for parameter, step in zip(alike, steps, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(step.reshape(shape), alpha=-group["lr"] * scale)
