"""Following a plan: loading a base as it says, and letting parts or layers wait in the computer's memory.

The few calls that touch a device are here; which plan it is to be was decided elsewhere.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from engine.families import Base, Components, family
from engine.memory.plans import LARGE, Plan

if TYPE_CHECKING:
    import torch


def load_base(base: Base, dtype: "torch.dtype", device: str, plan: Plan) -> Components:
    """The parts of a base as `Family.load` gives them, kept as the plan says: with 8 or 4 bit a weight in the denoiser
    and in large text encoders, and on the CPU until they are at work. Raises: MissingModel."""
    import torch

    own = family(base.family)
    if plan.quantiser is None and plan.offload == "none":
        return own.load(base, dtype, device)
    loaded = dtype if plan.quantiser is None else getattr(torch, base.spec.precision)
    parts = own.load(base, loaded, "cpu")
    models = {name: model for name, model in vars(parts).items() if isinstance(model, torch.nn.Module)}
    for name, model in models.items():
        count = sum(parameter.numel() for parameter in model.parameters())
        if plan.quantiser and (name == base.spec.denoiser or (name in base.spec.text_encoders and count >= LARGE)):
            if plan.quantiser == "torchao":
                quantise_by_torchao(model, dtype, device)
            else:
                quantise(model, plan.bits, dtype, device)
        if loaded != dtype:
            model.to(dtype)
        if plan.offload == "none" or (plan.offload == "layers" and name == "vae"):
            model.to(device)
    return parts


def quantise_by_torchao(model: Any, dtype: "torch.dtype", device: str) -> None:
    """Keep the weights of the linear layers in 8 bit with a scale for every output, on the device; a layer at work
    brings its own to `dtype`. Unlike those of bitsandbytes, compiled blocks take them in."""
    import torch
    from torchao.quantization import Int8WeightOnlyConfig, quantize_  # type: ignore[import-not-found]

    for layer in model.modules():
        if type(layer) is torch.nn.Linear:
            quantize_(layer.to(device, dtype), Int8WeightOnlyConfig())


def quantise(model: Any, bits: int, dtype: "torch.dtype", device: str) -> None:
    """Replace the linear layers by bitsandbytes' with 8 (LLM.int8, arXiv 2208.07339) or 4 bit (NF4, arXiv 2305.14314) a
    weight, which compute in `dtype`. They are quantised on the device, one by one, and end on the CPU.
    """
    import bitsandbytes  # type: ignore[import-not-found]
    import torch

    named = [(name, layer) for name, layer in model.named_modules() if type(layer) is torch.nn.Linear]
    for name, layer in named:
        sizes = layer.in_features, layer.out_features, layer.bias is not None
        if bits == 4:
            small = bitsandbytes.nn.Linear4bit(*sizes, compute_dtype=dtype, quant_type="nf4")
            small.weight = bitsandbytes.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
        else:
            small = bitsandbytes.nn.Linear8bitLt(*sizes, has_fp16_weights=False)
            small.weight = bitsandbytes.nn.Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
        small.bias = layer.bias
        parent, _, own_name = name.rpartition(".")
        setattr(model.get_submodule(parent), own_name, small.to(device).to("cpu"))
    setattr(model, f"is_loaded_in_{bits}bit", True)  # peft looks for it
    model.eval().requires_grad_(False)


@contextmanager
def followed(plan: Plan, pipeline: Any, base: Base, device: str) -> Iterator[None]:
    """In the body, the pipeline decodes and offloads as the plan says."""
    with ExitStack() as stack:
        if plan.tiled:
            pipeline.vae.enable_tiling()
            stack.callback(pipeline.vae.disable_tiling)
        if plan.offload == "parts":
            stack.callback(pipeline.remove_all_hooks)
            pipeline.enable_model_cpu_offload(device=device)
        elif plan.offload == "layers":
            for part in (base.spec.denoiser, *base.spec.text_encoders):
                stack.enter_context(_a_layer_at_a_time(getattr(pipeline, part), device))
        yield


@contextmanager
def _a_layer_at_a_time(model: Any, device: str) -> Iterator[None]:
    import torch
    from diffusers.hooks import HookRegistry, apply_group_offloading

    apply_group_offloading(model, onload_device=torch.device(device), offload_type="leaf_level")
    try:
        yield
    finally:
        HookRegistry.check_if_exists_or_initialize(model).remove_hook("group_offloading", recurse=True)
        model.to("cpu")
