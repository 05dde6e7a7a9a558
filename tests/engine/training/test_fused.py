"""LoRA layers with fewer passes give peft's outputs and gradients, and are peft's again afterwards."""

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from engine.training.fused import fused_lora

TARGETS = ["conv", "linear"]


def model() -> nn.Module:
    torch.manual_seed(0)
    layers = {"conv": nn.Conv2d(3, 8, 3, padding=1), "flat": nn.Flatten(2), "linear": nn.Linear(64, 5)}
    network = nn.Sequential()
    for name, layer in layers.items():
        network.add_module(name, layer.requires_grad_(False))
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS), network)
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter)
    return network.double()


def passed(network: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    """What comes out, and the gradients of its squares' sum."""
    network.zero_grad()
    output = network(torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double())
    output.square().sum().backward()
    return output, {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def test_outputs_and_gradients_are_those_of_peft() -> None:
    network = model()
    expected, gradients = passed(network)
    with fused_lora([network]):
        output, own = passed(network)
    torch.testing.assert_close(output, expected)
    assert {name.split(".")[1] for name in own} == {"lora_A", "lora_B"}
    assert own.keys() == gradients.keys()
    assert len(own) == 2 * len(TARGETS)
    for name in own:
        torch.testing.assert_close(own[name], gradients[name])


def test_afterwards_the_layers_are_pefts() -> None:
    network = model()
    before = {name: vars(layer).keys() for name, layer in network.named_modules()}
    with fused_lora([network]):
        assert "forward" in vars(network.get_submodule("conv"))
    assert {name: vars(layer).keys() for name, layer in network.named_modules()} == before
