"""The LoRA while it is trained, and the one training loop: a step per yield.

Knows nothing of photos, jobs or pages, and of files only the checkpoint.
"""

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import BadSettings
from engine.families import Components, base, family
from engine.settings import TrainSettings
from engine.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from engine.training.data import Batch, TrainingData, batch_of_step
from engine.training.fused import fused_lora
from engine.training.objective import losses, training_schedule

if TYPE_CHECKING:
    import torch
    from torch import Tensor

WARMUP_STEPS = 20
MAX_GRADIENT_NORM = 1.0
HELD_OUT_EVERY = 25
SMALL_LATENTS = 32 * 32  # cells
TEXT_ENCODER_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")

_SMOOTHING = 0.95


@dataclass(frozen=True, kw_only=True)
class Lora:
    """A LoRA on its models while it is trained. `groups` are the optimizer's: tensors with their learning rates."""

    models: dict[str, Any]
    groups: list[dict[str, Any]]

    def state(self) -> dict[str, "Tensor"]:
        """The weights under their names in diffusers' files, such as `unet.<layer>.lora_A.weight`."""
        from peft import get_peft_model_state_dict

        return {
            f"{part}.{name}": tensor
            for part, model in self.models.items()
            for name, tensor in get_peft_model_state_dict(model).items()
        }


@contextmanager
def trainable_lora(parts: Components, settings: TrainSettings, targets: Sequence[str]) -> Iterator[Lora]:
    """Put a fresh LoRA beside the `targets` of the denoiser and, if they have a learning rate, those of the text
    encoders that the family trains.

    It starts without effect (B = 0), with A drawn as kohya's scripts and ai-toolkit draw it (Kaiming's uniform), whose
    learning rates the presets have; diffusers' scripts draw a larger one. It leaves the models as they were.
    """
    import torch
    from diffusers.utils.peft_utils import recurse_remove_peft_layers
    from peft import LoraConfig

    spec, text_rate = family(base(settings.base).family).spec, settings.text_encoder_learning_rate
    layers = {spec.denoiser: (parts.denoiser, targets, settings.learning_rate)}
    for part in spec.trained_text_encoders if text_rate > 0 else ():
        layers[part] = (getattr(parts, part), TEXT_ENCODER_TARGETS, text_rate)
    torch.manual_seed(settings.seed)
    lora = Lora(models={}, groups=[])
    try:
        for part, (model, names, learning_rate) in layers.items():
            lora.models[part] = model
            model.add_adapter(
                LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=list(names))  # type: ignore[arg-type]
            )
            trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            for parameter in trained:
                parameter.data = parameter.data.float()
            lora.groups.append({"params": trained, "lr": learning_rate})
        yield lora
    finally:
        for model in lora.models.values():
            recurse_remove_peft_layers(model)
            del model.peft_config
            model._hf_peft_config_loaded = False


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a step showed; `done` steps are finished. The held-out loss is None unless this step measured it."""

    done: int
    loss: float
    smoothed_loss: float
    held_out_loss: float | None
    learning_rate: float


def train(
    lora: Lora, parts: Components, data: TrainingData, settings: TrainSettings, checkpoints: Path
) -> Generator[Step, None, None]:
    """Train until `settings.steps` are done, yielding after every step.

    It goes on from the checkpoint in the folder `checkpoints`, if there is one, and then first yields the step where
    that stands. A checkpoint is saved every so many steps, and when it ends or is closed, for whatever reason.

    Raises: BadSettings when the loss is no longer a number; the last checkpoint is from the step before.
    """
    import torch

    denoiser, schedule = parts.denoiser, training_schedule(parts.scheduler)
    own = family(base(settings.base).family)
    timestep_count = schedule.config.num_train_timesteps
    parameters = [parameter for group in lora.groups for parameter in group["params"]]
    optimizer = torch.optim.AdamW([dict(group) for group in lora.groups], fused=True)
    step = None

    if checkpoint := load_checkpoint(checkpoints):
        step = Step(**checkpoint.step)
        for parameter, weight in zip(parameters, checkpoint.weights, strict=True):
            parameter.data.copy_(weight)
        optimizer.load_state_dict(checkpoint.optimizer)
        yield step

    half = half_copies(denoiser)

    def losses_of(batch: Batch) -> "Tensor":
        with mixed_precision(denoiser.device), small_attention(batch.latents):
            return losses(
                partial(own.predict, parts, embeds=data.texts(batch.captions), sizes=data.sizes[batch.photos]),
                schedule,
                own.spec.objective,
                latents=batch.latents,
                noise=batch.noise,
                timesteps=batch.timesteps,
                min_snr_gamma=settings.min_snr_gamma,
            )

    def learn(number: int) -> float:
        """One update of the weights, by the batch of step `number`; its loss."""
        warm_up = min(1.0, (number + 1) / WARMUP_STEPS)
        for group, peak in zip(optimizer.param_groups, lora.groups, strict=True):
            group["lr"] = peak["lr"] * warm_up
        with swapped(half), small_attention(data.latents):  # what is recomputed must be computed alike
            loss = losses_of(batch_of_step(number, data.latents, settings, timestep_count)).mean()
            loss.backward()
        gradient_norm = torch.nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
        if not math.isfinite(gradient_norm):
            raise _diverged(number, settings.learning_rate)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    def held_out_loss(done: int) -> float | None:
        if not data.held_out or not (done % HELD_OUT_EVERY == 0 or done in (1, settings.steps)):
            return None
        with torch.no_grad(), swapped(half):
            return losses_of(data.held_out).mean().item()

    def save() -> None:
        weights = [parameter.detach() for parameter in parameters]
        save_checkpoint(checkpoints, Checkpoint(step=vars(step), weights=weights, optimizer=optimizer.state_dict()))

    try:
        with fused_lora(lora.models.values()):
            for number in range(step.done if step else 0, settings.steps):
                loss, done = learn(number), number + 1
                smoothed = step.smoothed_loss if step else loss
                step = Step(
                    done=done,
                    loss=loss,
                    smoothed_loss=_SMOOTHING * smoothed + (1 - _SMOOTHING) * loss,
                    held_out_loss=held_out_loss(done),
                    learning_rate=optimizer.param_groups[0]["lr"],
                )
                if done % settings.checkpoint_every == 0:
                    save()
                yield step
    finally:
        if step:
            save()


def mixed_precision(device: "torch.device") -> "torch.autocast":
    """bfloat16 for the matrix products where the hardware has it (1.4 times faster on such a CPU), else nothing."""
    import torch

    hardware = torch.cpu.get_capabilities()
    fast = device.type != "cpu" or hardware.get("avx512_bf16", False) or hardware.get("amx_bf16", False)
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)


def half_copies(denoiser: Any) -> "list[tuple[Tensor, Tensor]]":
    """The frozen matrices of the denoiser, each with its copy in bfloat16, if a CPU computes it in that; else none.

    Autocast would make such copies again at every step, which takes 6% of it. A GPU's memory is too dear for them.
    """
    import torch

    with mixed_precision(denoiser.device):
        if denoiser.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return []
    layers = [layer for layer in denoiser.modules() if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)]
    frozen = [weight for layer in layers for weight in layer.parameters(recurse=False) if not weight.requires_grad]
    return [(weight, weight.bfloat16()) for weight in frozen]


@contextmanager
def swapped(copies: "list[tuple[Tensor, Tensor]]") -> Iterator[None]:
    """In the body, which must hold the backward pass too, each parameter is its copy; samples see the parameters."""
    originals = [parameter.data for parameter, _ in copies]
    try:
        for parameter, copy in copies:
            parameter.data = copy
        yield
    finally:
        for (parameter, _), original in zip(copies, originals, strict=True):
            parameter.data = original


def small_attention(latents: "Tensor") -> AbstractContextManager[Any]:
    """Attention as plain matrix products where that is faster: on a CPU, among so few cells that the products are small
    (2 to 3 times for 16 to 64 tokens). Elsewhere torch chooses."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    few = latents.device.type == "cpu" and latents[0, 0].numel() <= SMALL_LATENTS
    return sdpa_kernel(SDPBackend.MATH) if few else nullcontext()


def _diverged(step: int, learning_rate: float) -> BadSettings:
    return BadSettings(
        f"The training diverged at step {step + 1}, with a learning rate of {learning_rate:g}.",
        f"Start it again with a lower one, such as {learning_rate / 10:g}.",
    )
