"""Trainings that make do with less memory: they learn the same, and go on where memory ran out."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine.errors import NoRoom
from engine.families import Base, Components
from engine.jobs import Work
from engine.memory import run
from engine.memory.plans import Plan
from engine.settings import TrainSettings
from engine.training import __main__ as trainer
from engine.training import loop
from engine.workspace import Workspace


def work_for(workspace: Workspace, settings: TrainSettings, token: str) -> Work:
    folder = workspace.job_folder(token)
    folder.mkdir(parents=True, exist_ok=True)
    return Work(folder, {"settings": settings.to_dict(), "workspace": str(workspace.root)})


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [
        event
        for line in (folder / "events.jsonl").read_text().splitlines()
        if (event := json.loads(line))["kind"] == kind
    ]


def learnt(workspace: Workspace, settings: TrainSettings, token: str) -> dict[str, torch.Tensor]:
    work = work_for(workspace, settings, token)
    trainer.train_lora(work)
    return load_file(work.folder / "lora.safetensors")


@pytest.fixture
def short(tiny_base: Base, settings: TrainSettings) -> TrainSettings:
    return settings.replace(steps=3, sample_prompts=("a bear",), learning_rate=1e-2)


def test_gradient_checkpointing_learns_the_same(workspace: Workspace, short: TrainSettings) -> None:
    kept = learnt(workspace, short.replace(memory="fast"), "kept")
    recomputed = learnt(workspace, short.replace(memory="recompute"), "recomputed")
    assert kept.keys() == recomputed.keys()
    for name, tensor in kept.items():
        torch.testing.assert_close(recomputed[name], tensor, rtol=1e-4, atol=1e-6)


def test_frozen_weights_in_half_precision_learn_nearly_the_same(
    workspace: Workspace, short: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU; the LoRA itself stays in single precision, and samples are drawn."""
    monkeypatch.setattr(loop, "mixed_precision", lambda device: torch.autocast("cpu", torch.bfloat16))
    single = learnt(workspace, short, "single")
    monkeypatch.setattr(trainer, "frozen_dtype", lambda device: torch.bfloat16)
    half = learnt(workspace, short, "half")
    assert {tensor.dtype for tensor in half.values()} == {tensor.dtype for tensor in single.values()}
    one, other = (torch.cat([t.float().flatten() for t in state.values()]) for state in (single, half))
    assert torch.cosine_similarity(one, other, dim=0) > 0.99


@pytest.fixture
def memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A forward hook in every denoiser that is loaded: its calls whose numbers are in the list find no memory."""
    fails: list[int] = []
    calls = 0

    def hook(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls in fails:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def load(base: Base, dtype: torch.dtype, device: str, plan: Plan) -> Components:
        parts = run.load_base(base, dtype, device, plan)
        parts.denoiser.register_forward_hook(hook)
        return parts

    monkeypatch.setattr(trainer, "load_base", load)
    return fails


def test_it_goes_on_from_the_last_step_with_the_next_plan(
    workspace: Workspace, short: TrainSettings, memory_runs_out: list[int]
) -> None:
    memory_runs_out.append(3)  # the first step, its held-out loss, and then
    work = work_for(workspace, short, "job")
    result = trainer.train_lora(work)
    assert result["steps"] == 3
    notes = [event["message"] for event in events(work.folder, "note")]
    assert notes[1:] == ["Memory ran out. Trying again, with gradient checkpointing."]
    assert [event["step"] for event in events(work.folder, "progress")] == [1, 1, 2, 3]  # first it says where it stands


def test_it_ends_in_a_clear_error_when_no_plan_is_left(
    workspace: Workspace, short: TrainSettings, memory_runs_out: list[int]
) -> None:
    memory_runs_out.extend(range(1, 100))
    with pytest.raises(NoRoom, match="no plan that takes less"):
        trainer.train_lora(work_for(workspace, short, "job"))


def test_what_it_needs_is_said_before_it_starts(workspace: Workspace, short: TrainSettings, tiny_base: Base) -> None:
    work = work_for(workspace, short.replace(steps=1), "job")
    trainer.train_lora(work)
    (note,) = events(work.folder, "note")
    assert note["message"].startswith("Starter: needs about 0.1 GB of your ")
