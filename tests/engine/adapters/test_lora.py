"""Networks beside layers: against peft's layers, and against weights that they were added to."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from engine.adapters.lora import Lora, attach_loras
from engine.families.unet import UNetComponents
from engine.lora.files import LoraFile
from engine.lora.networks import Network
from tests.engine.lora.by_peft import CONFIGS, Model, adapted, from_file
from tests.engine.lora.closed_forms import KINDS, MAGNITUDES, sample

INPUTS = {"linear": (2, 5, 8), "conv": (2, 8, 6, 6), "point": (2, 8, 6, 6)}


def input_of(name: str) -> Tensor:
    return torch.randn(INPUTS[name], generator=torch.Generator().manual_seed(3))


def parts_with(model: nn.Module, part: str = "unet") -> UNetComponents:
    none: dict[str, Any] = dict.fromkeys(("unet", "vae", "text_encoder", "tokenizer", "scheduler"))
    return UNetComponents(**none | {part: model})


def file_of(layers: dict[str, Network], part: str = "unet") -> LoraFile:
    return LoraFile(
        layers={f"{part}.{name}": net for name, net in layers.items()},
        rank=1,
        alpha=1,
        trigger="",
        metadata={},
        matched=0,
        unmatched=(),
    )


def plain_model(peft_model: Any) -> Model:
    """The model with the weights that peft's adapter is beside."""
    model = Model()
    for name in INPUTS:
        getattr(model, name).load_state_dict(getattr(peft_model.base_model.model, name).base_layer.state_dict())
    return model


@pytest.mark.parametrize("strength", [1.0, -0.4])
@pytest.mark.parametrize("kind", CONFIGS)
def test_networks_act_as_in_peft(kind: str, strength: float) -> None:
    peft_model, tensors = adapted(kind)
    model = plain_model(peft_model)
    layers = {name: from_file(tensors[name], getattr(model, name).weight, alpha=2) for name in INPUTS}
    with torch.no_grad(), attach_loras(parts_with(model), [Lora(file=file_of(layers), weight=strength)]):
        for name in INPUTS:
            reference = getattr(peft_model.base_model.model, name)
            reference.set_scale("default", strength)
            ours, expected = getattr(model, name)(input_of(name)), reference(input_of(name))
            if kind == "LoRA":
                assert torch.equal(ours, expected)
            else:
                torch.testing.assert_close(ours, expected, rtol=2e-5, atol=2e-5)
            assert not torch.allclose(ours, reference.base_layer(input_of(name)))


def test_a_stack_of_doras_acts_as_in_peft() -> None:
    """Each turns and stretches what those before it have made of the weight."""
    peft_model, tensors = adapted("DoRA")
    model = plain_model(peft_model)
    peft_model.add_adapter("second", CONFIGS["DoRA"])
    second = peft_model.base_model.model.linear
    nn.init.normal_(second.lora_B["second"].weight, std=0.3)
    of_second = {
        "lora_down": second.lora_A["second"].weight.detach(),
        "lora_up": second.lora_B["second"].weight.detach(),
        "lora_magnitude_vector": second.lora_magnitude_vector["second"].weight.detach(),
    }
    peft_model.base_model.set_adapter(["default", "second"])
    files = [file_of({"linear": from_file(t, model.linear.weight, alpha=2)}) for t in (tensors["linear"], of_second)]
    with torch.no_grad(), attach_loras(parts_with(model), [Lora(file=file) for file in files]):
        ours, expected = model.linear(input_of("linear")), second(input_of("linear"))
    torch.testing.assert_close(ours, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("magnitude", [None, *MAGNITUDES], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_networks_act_as_their_change_to_the_weight(kind: str, magnitude: str | None) -> None:
    torch.manual_seed(1)
    layer = Model().conv
    wanted = sample(kind, layer.weight.detach(), rank=2, alpha=3.0, magnitude=magnitude)
    file = file_of({"": from_file(wanted.tensors, layer.weight, alpha=3.0)})
    changed = layer.weight.double() + torch.from_numpy(wanted.delta)
    assert layer.bias is not None
    expected = conv2d(input_of("conv").double(), changed, layer.bias.double(), layer.stride, layer.padding)
    with torch.no_grad(), attach_loras(parts_with(layer), [Lora(file=file)]):
        torch.testing.assert_close(layer(input_of("conv")).double(), expected, rtol=2e-5, atol=2e-5)


def test_in_the_layers_precision() -> None:
    layer = nn.Linear(8, 12, dtype=torch.bfloat16)
    wanted = sample("LoKr", layer.weight.detach().float(), rank=2, alpha=3.0, magnitude="outputs")
    file = file_of({"": from_file(wanted.tensors, layer.weight, alpha=3.0)})
    x = input_of("linear").bfloat16()
    changed = layer.weight.double() + torch.from_numpy(wanted.delta)
    with torch.no_grad(), attach_loras(parts_with(layer), [Lora(file=file)]):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), linear(x.double(), changed, layer.bias.double()), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("kind", CONFIGS)
def test_nothing_is_left_behind(kind: str) -> None:
    peft_model, tensors = adapted(kind)
    model = plain_model(peft_model)
    layers = {name: from_file(tensors[name], getattr(model, name).weight, alpha=2) for name in INPUTS}
    before = {name: getattr(model, name)(input_of(name)) for name in INPUTS}
    lora = Lora(file=file_of(layers), weight=0.7, start=0.5)
    with attach_loras(parts_with(model), [lora]) as switch:
        switch(0, 2)
        assert all(torch.equal(getattr(model, name)(input_of(name)), before[name]) for name in INPUTS)
        switch(1, 2)
        assert not any(torch.equal(getattr(model, name)(input_of(name)), before[name]) for name in INPUTS)
    assert all(torch.equal(getattr(model, name)(input_of(name)), before[name]) for name in INPUTS)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_weight_of_nothing_is_nothing() -> None:
    """Also of a DoRA, whose magnitudes would be there without its change."""
    peft_model, tensors = adapted("DoRA")
    model = plain_model(peft_model)
    lora = Lora(file=file_of({"linear": from_file(tensors["linear"], model.linear.weight, alpha=2)}))
    layer, x = model.linear, input_of("linear")
    plain = layer(x)
    with attach_loras(parts_with(model), [Lora(file=lora.file, weight=0.0)]) as switch:
        switch(0, 1)
        assert torch.equal(layer(x), plain)


def test_text_encoders_are_not_switched_with_the_steps() -> None:
    peft_model, tensors = adapted("LoRA")
    model = plain_model(peft_model)
    layer, x = model.linear, input_of("linear")
    file = file_of({"linear": from_file(tensors["linear"], layer.weight, alpha=2)}, part="text_encoder")
    plain = layer(x)
    with attach_loras(parts_with(model, "text_encoder"), [Lora(file=file, start=0.5)]) as switch:
        switch(0, 2)
        assert not torch.equal(layer(x), plain)
