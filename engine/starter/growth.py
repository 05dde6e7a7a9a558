"""From 128 to 256 px: a narrow level on top of a trained U-Net (progressive growing, Karras et al., arXiv 1710.10196).

What a trained network knows of things and words sits in its inner levels; they keep their weights, one level further
down. New are the top level and the layers that meet it. Knows nothing of training.
"""

# torch's modules and the libraries' configs are typed more narrowly than they are
# pyright: reportArgumentType=false, reportCallIssue=false, reportReturnType=false

import re

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

TOP_WIDTH = 64
_DOWN, _UP = "DownBlock2D", "UpBlock2D"


def grown(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """`unet` under one more level, for latents of twice the side."""
    config = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    widths = tuple(config["block_out_channels"])
    config |= {
        "sample_size": 2 * config["sample_size"],
        "block_out_channels": (TOP_WIDTH, *widths),
        "down_block_types": (_DOWN, *config["down_block_types"]),
        "up_block_types": (*config["up_block_types"], _UP),
        "time_embedding_dim": 4 * widths[0],
    }
    larger = UNet2DConditionModel.from_config(config)
    ours = larger.state_dict()
    for name, weight in unet.state_dict().items():
        place = re.sub(r"down_blocks\.(\d)", lambda m: f"down_blocks.{int(m[1]) + 1}", name)
        if place == "time_embedding.linear_1.weight":
            ours[place] = weight @ _older_embedding(widths[0], TOP_WIDTH)
        elif place.startswith(("conv_in.", "conv_out.", "conv_norm_out.")):
            continue  # the new level's own
        else:
            _copy_common(ours[place], weight)
    larger.load_state_dict(ours)
    return with_usual_time(larger)


@torch.no_grad()
def with_usual_time(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """The same U-Net with a time embedding four times as wide as its first level: ControlNets can have no other.

    What every block adds for a timestep is a smooth curve; it is fitted by the fewer features of the narrower
    embedding, which are chosen from those of the old one.
    """
    config = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    top = config["block_out_channels"][0]
    if config["time_embedding_dim"] in (None, 4 * top):
        return unet
    usual = UNet2DConditionModel.from_config(config | {"time_embedding_dim": None})
    ours, theirs = usual.state_dict(), unet.state_dict()
    waves = get_timestep_embedding(torch.arange(1000), top, True, 0)
    old = unet.time_embedding(waves)
    chosen = torch.linspace(0, old.shape[1] - 1, 4 * top).long()
    first, bias = (theirs[f"time_embedding.linear_1.{part}"][chosen] for part in ("weight", "bias"))
    hidden = nn.functional.silu(waves @ first.T + bias)
    second, second_bias = _fitted(hidden, old[:, chosen])
    new = nn.functional.silu(hidden @ second.T + second_bias)
    for name, weight in theirs.items():
        if name.endswith("time_emb_proj.weight"):
            added = nn.functional.silu(old) @ weight.T + theirs[name.removesuffix("weight") + "bias"]
            ours[name], ours[name.removesuffix("weight") + "bias"] = _fitted(new, added)
        elif "time_emb" not in name:
            ours[name] = weight
    ours |= {"time_embedding.linear_1.weight": first, "time_embedding.linear_1.bias": bias}
    ours |= {"time_embedding.linear_2.weight": second, "time_embedding.linear_2.bias": second_bias}
    usual.load_state_dict(ours)
    return usual


def _fitted(features: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias with which `features` (n, in) give `wanted` (n, out), by slightly damped least squares."""
    x = torch.cat([features, torch.ones(len(features), 1)], dim=1).double()
    solved = torch.linalg.solve(x.T @ x + 1e-5 * torch.eye(x.shape[1]).double(), x.T @ wanted.double())
    return solved[:-1].T.float(), solved[-1].float()


def _older_embedding(old: int, new: int) -> Tensor:
    """(old, new): the matrix that gives the embedding of a timestep of width `old` from that of width `new`, by least
    squares with a little damping: most waves are so slow that they look alike."""
    timesteps = torch.arange(1000)
    wide, narrow = (get_timestep_embedding(timesteps, width, True, 0).double() for width in (old, new))
    gram = narrow.T @ narrow + torch.eye(new)
    return torch.linalg.solve(gram, narrow.T @ wide).T.float()


def _copy_common(target: Tensor, source: Tensor) -> None:
    """Copy the corner that both have: fewer channels come from the new level than came from the old one."""
    corner = tuple(slice(0, min(a, b)) for a, b in zip(target.shape, source.shape, strict=True))
    target[corner] = source[corner]
