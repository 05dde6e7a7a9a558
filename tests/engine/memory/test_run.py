"""Following a plan changes what is kept where, and nothing else; running out of memory leads to the next plan."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.cache import ModelCache
from engine.errors import NoRoom
from engine.families import Base, Components, family
from engine.generation import generate, render
from engine.jobs import Work
from engine.memory import advice, run
from engine.memory.plans import GENERATION, Plan
from engine.settings import GenerateSettings
from engine.workspace import Workspace
from tests.tiny import SIDE_PX

SETTINGS = GenerateSettings(prompt="a red mug", width=SIDE_PX, height=SIDE_PX, steps=2, guidance_scale=3.0)


class Told(Work):
    """A job's work that also remembers its notes."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        super().__init__(folder, {})
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        super().note(message)
        self.notes.append(message)


@pytest.fixture
def work(tmp_path: Path) -> Told:
    return Told(tmp_path / "job")


def plan(name: str) -> Plan:
    return next(plan for plan in GENERATION if plan.name == name)


def drawn(base: Base, parts: Components, followed: Plan) -> bytes:
    pipeline = family(base.family).pipeline(parts, "default")
    with run.followed(followed, pipeline, base, "cpu"):
        return render(pipeline, SETTINGS, base).tobytes()


@pytest.mark.parametrize("name", ["offload", "least"])
def test_offloading_gives_the_same_picture_and_leaves_no_trace(tiny_base: Base, name: str) -> None:
    parts = run.load_base(tiny_base, torch.float32, "cpu", plan(name))
    weights = {key: tensor.clone() for key, tensor in parts.denoiser.state_dict().items()}
    modules = [type(module) for module in parts.denoiser.modules()]
    expected = drawn(tiny_base, parts, plan("fast"))
    assert drawn(tiny_base, parts, plan(name)) == expected
    assert drawn(tiny_base, parts, plan("fast")) == expected
    assert modules == [type(module) for module in parts.denoiser.modules()]
    assert all(torch.equal(tensor, weights[key]) for key, tensor in parts.denoiser.state_dict().items())
    assert not any(hasattr(module, "_hf_hook") for module in parts.denoiser.modules())


def test_tiles_are_used_in_the_body_only(tiny_base: Base) -> None:
    parts = run.load_base(tiny_base, torch.float32, "cpu", plan("fast"))
    pipeline = family(tiny_base.family).pipeline(parts, "default")
    with run.followed(plan("tiled"), pipeline, tiny_base, "cpu"):
        assert parts.vae.use_tiling
    assert not parts.vae.use_tiling


@pytest.fixture
def memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A forward hook in every UNet that is loaded: its calls whose numbers are in the list find no memory."""
    fails: list[int] = []
    calls = 0

    def hook(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls in fails:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def load(base: Base, dtype: torch.dtype, device: str, plan: Plan) -> Components:
        parts = load_base(base, dtype, device, plan)
        parts.denoiser.register_forward_hook(hook)
        return parts

    load_base = run.load_base
    monkeypatch.setattr("engine.generation.load_base", load)
    return fails


def test_when_memory_runs_out_it_goes_on_with_the_next_plan(
    tiny_base: Base, workspace: Workspace, work: Told, memory_runs_out: list[int]
) -> None:
    memory_runs_out.append(3)  # in the second picture of two steps each
    cache = ModelCache()
    result = generate(SETTINGS.replace(count=2), workspace=workspace, cache=cache, work=work)
    assert work.notes == ["Memory ran out. Trying again, decoded in tiles."]
    assert len(result["pictures"]) == 2
    seeds = {workspace.picture(picture).recipe["seed"] for picture in result["pictures"]}
    assert seeds == {0, 1}  # the first was not made again


def test_when_no_plan_is_left_it_says_so(
    tiny_base: Base, workspace: Workspace, work: Told, memory_runs_out: list[int]
) -> None:
    memory_runs_out.extend(range(1, 100))
    with pytest.raises(NoRoom, match="no plan that takes less"):
        generate(SETTINGS, workspace=workspace, cache=ModelCache(), work=work)
    assert work.notes == ["Memory ran out. Trying again, decoded in tiles."]  # once: a CPU has these two plans


def test_what_was_in_use_is_free_before_the_next_try(work: Told) -> None:
    """The error holds the frames that it went through, and they hold what was on the device."""
    held: list[weakref.ref[torch.Tensor]] = []

    def do(plan: Plan) -> str:
        if held:
            return plan.name
        big = torch.zeros(1000)
        held.append(weakref.ref(big))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    def release() -> None:
        gc.collect()
        assert held[0]() is None

    assert advice.backing_off(do, GENERATION[0], GENERATION, work, release) == "tiled"


def test_other_errors_go_through(work: Told) -> None:
    def do(plan: Plan) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        advice.backing_off(do, GENERATION[0], GENERATION, work, lambda: None)
    assert work.notes == []


def test_a_tiled_picture_is_the_same_but_for_the_seams(tiny_base: Base) -> None:
    """Smaller than a tile, it is decoded as a whole."""
    parts = run.load_base(tiny_base, torch.float32, "cpu", plan("fast"))
    assert drawn(tiny_base, parts, plan("tiled")) == drawn(tiny_base, parts, plan("fast"))
