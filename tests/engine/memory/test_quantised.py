"""A base in 8 bit by torchao against diffusers' own way to load one, LoRA included."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel, TorchAoConfig
from torch._dynamo.testing import CompileCounter

from engine import cache, families
from engine.adapters import Lora, attach
from engine.adapters import compiled as compiling
from engine.generation import render
from engine.lora.files import read_lora
from engine.memory.plans import GENERATION
from engine.memory.run import load_base
from engine.settings import GenerateSettings
from tests.tiny import SIDE_PX
from tests.tiny_transformers import make_tiny_flux, make_tiny_transformer_lora

pytest.importorskip("torchao")

IN_8_BIT = next(plan for plan in GENERATION if plan.quantiser == "torchao")
SETTINGS = GenerateSettings(
    prompt="a red mug", base="tiny", width=SIDE_PX, height=SIDE_PX, steps=2, guidance_scale=3.0, seed=5
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base whose transformer lies there in half precision, as published ones do."""
    torch.set_num_threads(1)
    monkeypatch.setenv("TRIPOD_MODELS", str(tmp_path))
    pipeline: Any = FluxPipeline.from_pretrained(make_tiny_flux(tmp_path / "tiny"))
    pipeline.to(dtype=torch.bfloat16).save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def in_8_bit(folder: Path) -> Any:
    """By diffusers."""
    from torchao.quantization import Int8WeightOnlyConfig  # type: ignore[import-not-found]

    config = TorchAoConfig(Int8WeightOnlyConfig())
    transformer = FluxTransformer2DModel.from_pretrained(
        folder / "transformer", dtype=torch.float32, quantization_config=config
    )
    pipeline: Any = FluxPipeline.from_pretrained(folder, transformer=transformer, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def drawn_by(pipeline: Any) -> np.ndarray:
    return np.asarray(
        pipeline(
            SETTINGS.prompt,
            width=SIDE_PX,
            height=SIDE_PX,
            num_inference_steps=SETTINGS.steps,
            guidance_scale=SETTINGS.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(SETTINGS.seed),
        ).images[0]
    )


def test_it_is_what_diffusers_makes_of_it_also_with_a_lora(folder: Path) -> None:
    base = families.base("tiny")
    parts: Any = load_base(base, torch.float32, "cpu", IN_8_BIT)
    file = make_tiny_transformer_lora(folder, folder.parent / "lora.safetensors")
    reference = in_8_bit(folder)
    matrices = 0
    for name, layer in reference.transformer.named_modules():
        if isinstance(layer, torch.nn.Linear):
            ours = parts.transformer.get_submodule(name).weight
            assert type(ours) is type(layer.weight)
            assert torch.equal(ours.dequantize(), layer.weight.dequantize())
            matrices += ours.numel()
    others = {parameter.dtype for parameter in parts.transformer.parameters()}
    assert others == {torch.float32}

    pipeline = families.family("flux").pipeline(parts, "default")
    assert np.array_equal(np.asarray(render(pipeline, SETTINGS, base)), drawn_by(reference))
    reference.load_lora_weights(file.parent, weight_name=file.name)
    with attach(parts, loras=[Lora(file=read_lora(file, base, title="-"))]) as attached:
        ours = np.asarray(render(pipeline, SETTINGS, base, attached=attached)).astype(int)
    expected = drawn_by(reference).astype(int)
    assert abs(ours - expected).max() <= 1
    assert abs(expected - np.asarray(render(pipeline, SETTINGS, base)).astype(int)).max() > 1

    in_full: Any = load_base(base, torch.float32, "cpu", GENERATION[0])
    saved = cache.size_bytes(in_full.transformer) - cache.size_bytes(parts.transformer)
    assert saved == pytest.approx(3 * matrices, rel=0.15)  # one byte in place of four, and a scale for every output


def test_it_can_be_compiled_and_loras_are_swapped_in_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = families.base("tiny")
    parts: Any = load_base(base, torch.float32, "cpu", IN_8_BIT)
    pipeline = families.family("flux").pipeline(parts, "default")
    files = [
        make_tiny_transformer_lora(folder, folder.parent / f"{seed}.safetensors", rank=3 + seed, seed=seed)
        for seed in (1, 2)
    ]

    def drawn(file: Path, in_slots: bool) -> np.ndarray:
        lora = Lora(file=read_lora(file, base, title="-"))
        with attach(parts, loras=[lora], in_slots=in_slots) as attached, ExitStack() as stack:
            if in_slots:
                stack.enter_context(compiling.compiled(parts.denoiser))
            return np.asarray(render(pipeline, SETTINGS, base, attached=attached)).astype(int)

    torch._dynamo.reset()
    counter = CompileCounter()
    monkeypatch.setattr(compiling, "BACKEND", counter)
    counts = []
    for file in files:
        assert abs(drawn(file, in_slots=True) - drawn(file, in_slots=False)).max() <= 1
        counts.append(counter.frame_count)
    torch._dynamo.reset()
    assert 0 < counts[0] == counts[1] < len(compiling.repeated_blocks(parts.denoiser))
