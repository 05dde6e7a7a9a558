"""Compiled blocks say what plain ones say, LoRAs come and go without compiling again, and nothing of it is left."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from engine import abilities, families
from engine.abilities import require_supported
from engine.adapters import Lora, attach
from engine.adapters import compiled as compiling
from engine.adapters.compiled import compiled, repeated_blocks
from engine.adapters.lora import attach_loras
from engine.cache import ModelCache
from engine.errors import BadSettings
from engine.generation import generate, render
from engine.jobs import Work
from engine.lora.files import read_lora
from engine.preview import watched
from engine.settings import GenerateSettings
from engine.workspace import Workspace
from tests.engine.adapters.test_lora import file_of, input_of, parts_with, plain_model
from tests.engine.lora.by_peft import CONFIGS, adapted, from_file
from tests.tiny import SIDE_PX, make_tiny_lora, make_tiny_sdxl
from tests.tiny_transformers import KINDS, make_tiny_flux, make_tiny_transformer_lora

SETTINGS = GenerateSettings(prompt="a red mug", base="tiny", width=SIDE_PX, height=SIDE_PX, steps=2, seed=5)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.set_num_threads(1)
    monkeypatch.setenv("TRIPOD_MODELS", str(tmp_path))
    return tmp_path


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Iterator[CompileCounter]:
    """In place of a compiler: runs what was traced as it is, and counts how often that happened."""
    torch._dynamo.reset()
    counter = CompileCounter()
    monkeypatch.setattr(compiling, "BACKEND", counter)
    yield counter
    torch._dynamo.reset()


def predicted(base: families.Base, parts: Any, loras: list[Lora], *, is_compiled: bool, **changes: Any) -> Tensor:
    """What the denoiser says at the last step."""
    pipeline = families.family(base.family).pipeline(parts, "default")
    with attach(parts, loras=loras, in_slots=is_compiled) as attached, watched(parts) as seen:
        if is_compiled:
            with compiled(parts.denoiser):
                render(pipeline, SETTINGS.replace(**changes), base, attached=attached)
        else:
            render(pipeline, SETTINGS.replace(**changes), base, attached=attached)
    return seen.output[0]


@pytest.mark.parametrize(
    ("make", "make_lora"), [(make_tiny_flux, make_tiny_transformer_lora), (make_tiny_sdxl, make_tiny_lora)]
)
def test_loras_are_swapped_without_compiling_again(
    make: Callable[[Path], Path], make_lora: Any, models: Path, counter: CompileCounter
) -> None:
    folder = make(models / "tiny")
    base = families.base("tiny")
    parts: Any = families.family(base.family).load(base, torch.float32, "cpu")

    def lora(rank: int, seed: int, **use: Any) -> Lora:
        file = make_lora(folder, models / f"{seed}.safetensors", rank=rank, seed=seed)
        return Lora(file=read_lora(file, base, title="-"), **use)

    first, other, late = lora(4, 1), lora(7, 2, weight=-0.6), lora(4, 3, end=0.5)

    def check(loras: list[Lora], **changes: Any) -> int:
        expected = predicted(base, parts, loras, is_compiled=False, **changes)
        ours = predicted(base, parts, loras, is_compiled=True, **changes)
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
        return counter.frame_count

    bare = predicted(base, parts, [], is_compiled=False)
    modules = list(parts.denoiser.modules())
    attributes = [set(vars(module)) for module in modules]
    without = check([])
    assert 0 < without < len(repeated_blocks(parts.denoiser))  # once for all of a kind
    with_one = check([first])
    assert with_one > without
    for loras in ([other], [late], [first, other], [first, late], [], [first]):
        assert check(loras) == with_one
    assert not torch.allclose(bare, predicted(base, parts, [first], is_compiled=True), atol=1e-2)
    assert torch.equal(bare, predicted(base, parts, [], is_compiled=False))
    assert all(one is other for one, other in zip(modules, parts.denoiser.modules(), strict=True))
    assert [set(vars(module)) - names for module, names in zip(modules, attributes, strict=True)] == [set()] * len(
        modules
    )

    again: Any = families.family(base.family).load(base, torch.float32, "cpu")
    predicted(base, again, [other], is_compiled=True)  # another copy, as after the first left the cache
    assert counter.frame_count == with_one


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_network_acts_in_a_slot_as_beside_its_layer(kind: str) -> None:
    peft_model, tensors = adapted(kind)
    block = plain_model(peft_model)
    model: Any = nn.ModuleDict({"block": block})
    model._repeated_blocks = ["Model"]
    use = file_of({"block.linear": from_file(tensors["linear"], block.linear.weight, alpha=2)})
    low_rank = file_of({"block.linear": from_file(adapted("LoRA")[1]["linear"], block.linear.weight, alpha=2)})
    loras = [Lora(file=low_rank, end=0.5), Lora(file=use, weight=-0.4), Lora(file=low_rank, weight=0.7)]
    layer, x = block.linear, input_of("linear")
    with torch.no_grad():
        for step in (0, 1):
            said = []
            for in_slots in (False, True):
                with attach_loras(parts_with(model), loras, in_slots=in_slots) as switch:
                    assert (block.linear is not layer) == in_slots
                    switch(step, 2)
                    said.append(block.linear(x))
                assert block.linear is layer
            torch.testing.assert_close(said[1], said[0], rtol=2e-5, atol=2e-5)
            assert not torch.allclose(said[0], layer(x), atol=1e-2)


@pytest.mark.parametrize("make", [make_tiny_sdxl, *(kind.make for kind in KINDS.values())])
def test_a_base_can_be_compiled_where_diffusers_names_its_blocks(make: Callable[[Path], Path], models: Path) -> None:
    make(models / "tiny")
    base = families.base("tiny")
    parts: Any = families.family(base.family).load(base, torch.float32, "cpu")
    assert bool(repeated_blocks(parts.denoiser)) == ("compiled_blocks" in base.spec.supports)


def test_a_picture_that_is_made_so_says_so(models: Path, counter: CompileCounter) -> None:
    make_tiny_flux(models / "tiny")
    workspace, cache = Workspace(models / "workspace"), ModelCache()
    (models / "job").mkdir()

    def drawn(**changes: Any) -> np.ndarray:
        work = Work(models / "job", {})
        settings = SETTINGS.replace(**changes)
        (picture,) = generate(settings, workspace=workspace, cache=cache, work=work)["pictures"]
        assert GenerateSettings.from_dict(workspace.picture(picture).recipe["settings"]) == settings
        return np.asarray(Image.open(workspace.picture_path(picture))).astype(int)

    plain = drawn()
    assert counter.frame_count == 0
    assert abs(drawn(compile=True, seed=6) - drawn(seed=6)).max() <= 1
    frames = counter.frame_count
    assert frames > 0
    assert abs(drawn(compile=True) - plain).max() <= 1
    assert counter.frame_count == frames
    assert np.array_equal(drawn(), plain)


def test_what_stands_in_the_way_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = SETTINGS.replace(compile=True)
    with pytest.raises(BadSettings, match=r"Stable Diffusion 3\.5 medium has no blocks that diffusers can compile"):
        require_supported(asked, families.base("sd35_medium"))
    with pytest.raises(BadSettings, match="do not go with a step cache"):
        require_supported(asked.replace(step_cache="mag"), families.base("flux_dev"))
    monkeypatch.setattr(abilities, "which", lambda name: None)
    with pytest.raises(BadSettings, match="needs a C\\+\\+ compiler"):
        require_supported(asked, families.base("flux_dev"))
