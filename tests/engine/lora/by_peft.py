"""Networks by peft's own layers, as references."""

from typing import Any

import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model, get_peft_model_state_dict
from torch import Tensor, nn

from engine.lora.networks import Network, complete, fits, network, rank_of


def from_file(tensors: dict[str, Tensor], weight: Tensor, *, alpha: float) -> Network:
    by_role = {name.removesuffix(".weight"): tensor for name, tensor in tensors.items()}
    shapes = {role: tuple(tensor.shape) for role, tensor in by_role.items()}
    assert complete(shapes)
    assert fits(shapes, tuple(weight.shape))
    rank = rank_of(shapes)
    return network(by_role, tuple(weight.shape), rank=rank or 1, alpha=alpha if rank else 1)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 12)
        self.conv = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.point = nn.Conv2d(8, 12, 1, bias=False)


TARGETS = ["linear", "conv", "point"]
CONFIGS = {
    "LoRA": LoraConfig(r=3, lora_alpha=2, target_modules=TARGETS),
    "DoRA": LoraConfig(r=3, lora_alpha=2, target_modules=TARGETS, use_dora=True),
    "LoHa": LoHaConfig(r=3, alpha=2, target_modules=TARGETS),
    "LoHa with cores": LoHaConfig(r=3, alpha=2, target_modules=TARGETS, use_effective_conv2d=True),
    "LoKr": LoKrConfig(r=1, alpha=2, target_modules=TARGETS, decompose_factor=2),
    "LoKr, both in parts": LoKrConfig(r=1, alpha=2, target_modules=TARGETS, decompose_both=True, decompose_factor=4),
    "LoKr with cores": LoKrConfig(r=1, alpha=2, target_modules=TARGETS, decompose_factor=2, use_effective_conv2d=True),
}


def adapted(kind: str) -> tuple[Any, dict[str, dict[str, Tensor]]]:
    """A model with a random adapter by peft; the adapter's tensors by layer and role."""
    torch.manual_seed(0)
    model: Any = get_peft_model(Model(), CONFIGS[kind])
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "magnitude" not in name:
            nn.init.normal_(parameter, std=0.3)
        elif parameter.requires_grad:
            parameter.data *= torch.empty_like(parameter).uniform_(0.8, 1.3)
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in get_peft_model_state_dict(model).items():
        layer, _, role = key.removeprefix("base_model.model.").partition(".")
        role = {"lora_A.weight": "lora_down", "lora_B.weight": "lora_up"}.get(role, role)
        layers.setdefault(layer, {})[role] = tensor.detach()
    return model, layers
