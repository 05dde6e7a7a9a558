"""The loop against the same steps written out with peft and torch, and its promises: exact resume, no trace."""

from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from engine.errors import BadSettings
from engine.families import Base, Components, base, family
from engine.settings import TrainSettings
from engine.training import loop
from engine.training.checkpoint import load_checkpoint
from engine.training.data import TrainingData, batch_of_step, prepare
from engine.training.loop import Step, train, trainable_lora
from engine.training.objective import denoising_losses, training_schedule
from engine.workspace import Workspace

TARGETS = ("to_k", "to_q", "to_v", "to_out.0")


def load_parts() -> Components:
    starter = base("starter")
    return family(starter.family).load(starter, torch.float32, "cpu")


def prepared(parts: Components, workspace: Workspace, settings: TrainSettings) -> TrainingData:
    return prepare(parts, workspace.dataset(settings.dataset).photos, [], settings, workspace=workspace)


def trained(
    parts: Components, data: TrainingData, settings: TrainSettings, folder: Path, stop_after: int | None = None
) -> tuple[list[Step], dict[str, torch.Tensor]]:
    folder.mkdir(exist_ok=True)
    with (
        trainable_lora(parts, settings, TARGETS) as lora,
        closing(train(lora, parts, data, settings, folder)) as steps,
    ):
        return list(islice(steps, stop_after)), {name: t.detach().clone() for name, t in lora.state().items()}


def test_steps_are_those_of_a_plain_loop(
    parts: Components, workspace: Workspace, settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "mixed_precision", lambda device: torch.autocast("cpu", enabled=False))
    settings = settings.replace(steps=4)
    data = prepared(parts, workspace, settings)
    steps, state = trained(parts, data, settings, tmp_path / "run")

    unet: Any = load_parts().denoiser
    torch.manual_seed(settings.seed)
    unet.add_adapter(LoraConfig(r=4, lora_alpha=8, target_modules=list(TARGETS)))
    parameters = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate)
    warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / loop.WARMUP_STEPS))
    schedule = training_schedule(parts.scheduler)
    losses = []
    for step in range(4):
        batch = batch_of_step(step, data.latents, settings, 1000)
        text = data.texts(batch.captions)["prompt_embeds"]
        loss = denoising_losses(
            lambda noisy, timesteps, text=text: unet(noisy, timesteps, text).sample,
            schedule,
            latents=batch.latents,
            noise=batch.noise,
            timesteps=batch.timesteps,
            min_snr_gamma=5.0,
        ).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        warm_up.step()
        optimizer.zero_grad()
        losses.append(loss.item())

    assert [step.loss for step in steps] == pytest.approx(losses, rel=1e-5)
    assert [step.learning_rate for step in steps] == pytest.approx([5e-5, 1e-4, 1.5e-4, 2e-4])
    expected = {f"unet.{name.replace('.default', '')}": p for name, p in unet.named_parameters() if p.requires_grad}
    assert state.keys() == expected.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(tensor, expected[name].detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("text_encoder_learning_rate", [0.0, 1e-4])
def test_it_learns_and_leaves_no_trace(
    parts: Components, workspace: Workspace, settings: TrainSettings, tmp_path: Path, text_encoder_learning_rate: float
) -> None:
    settings = settings.replace(learning_rate=1e-2, text_encoder_learning_rate=text_encoder_learning_rate)
    before = {f"{part}.{name}": t.clone() for part in vars(parts) for name, t in _state(getattr(parts, part)).items()}
    modules = [type(module) for module in (*parts.denoiser.modules(), *parts.text_encoder.modules())]
    data = prepared(parts, workspace, settings)

    steps, state = trained(parts, data, settings, tmp_path / "run")

    measured = {step.done: step.held_out_loss for step in steps if step.held_out_loss is not None}
    assert list(measured) == [1, 25, 30]
    assert measured[30] < measured[1]
    assert any(name.startswith("text_encoder.") for name in state) == (text_encoder_learning_rate > 0)
    assert all(tensor.any() for tensor in state.values())  # B has left 0 everywhere
    after = {f"{part}.{name}": t for part in vars(parts) for name, t in _state(getattr(parts, part)).items()}
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert modules == [type(module) for module in (*parts.denoiser.modules(), *parts.text_encoder.modules())]
    assert not any(p.requires_grad for p in (*parts.denoiser.parameters(), *parts.text_encoder.parameters()))


def _state(part: Any) -> dict[str, torch.Tensor]:
    return part.state_dict() if isinstance(part, torch.nn.Module) else {}


def test_stopped_and_resumed_gives_the_same_bits(
    parts: Components, workspace: Workspace, settings: TrainSettings, tmp_path: Path
) -> None:
    settings = settings.replace(steps=12, text_encoder_learning_rate=1e-4)
    data = prepared(parts, workspace, settings)
    whole, expected = trained(parts, data, settings, tmp_path / "whole")

    first, _ = trained(parts, data, settings, tmp_path / "parts", stop_after=5)
    second, state = trained(parts, data, settings, tmp_path / "parts")

    assert first == whole[:5]
    assert second == whole[4:]  # first it says where it stands
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    finished, state = trained(parts, data, settings, tmp_path / "parts")
    assert finished == whole[-1:]
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_divergence_keeps_the_last_good_step(
    parts: Components, workspace: Workspace, settings: TrainSettings, tmp_path: Path
) -> None:
    data = prepared(parts, workspace, settings)
    spoilt = batch_of_step(1, data.latents, settings, 1000).captions.max() - 1  # a photo that step 2 sees
    fine = {int(photo) for photo in batch_of_step(0, data.latents, settings, 1000).captions - 1}
    assert int(spoilt) not in fine
    data.latents[spoilt] = float("inf")

    with pytest.raises(BadSettings, match=r"step 2.*0\.0001"):
        trained(parts, data, settings, tmp_path / "run")

    checkpoint = load_checkpoint(tmp_path / "run")
    assert checkpoint is not None
    assert checkpoint.step["done"] == 1
    assert all(weight.isfinite().all() for weight in checkpoint.weights)


def test_a_fresh_lora_changes_nothing(parts: Components, settings: TrainSettings, tiny_base: Base) -> None:
    inputs = (torch.randn(1, 8, 8, 8), torch.tensor([500]), torch.randn(1, 48, 32))
    with torch.no_grad():
        before = parts.denoiser(*inputs).sample
        with trainable_lora(parts, settings, tiny_base.spec.lora_targets):
            torch.testing.assert_close(parts.denoiser(*inputs).sample, before, rtol=0, atol=0)
        torch.testing.assert_close(parts.denoiser(*inputs).sample, before, rtol=0, atol=0)
