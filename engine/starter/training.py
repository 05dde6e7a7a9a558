"""One training loop for every network of the starter: minutes in, checkpoints and a log out, resumed exactly enough.

It knows nothing of what is trained: the caller gives modules and a function that turns a step's random generator into
a loss. Mixed precision is the caller's choice (`precision.py`).
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from engine.starter.muon import Muon, suits_muon
from engine.starter.norm import fast_group_norm

CHECKPOINT_EVERY_S = 240

# Draws samples from the averaged modules at a step.
Look = Callable[[Mapping[str, nn.Module], int], None]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast. Warm-up, constant, and linear decay over the last `decay` of the minutes."""

    minutes: float
    learning_rate: float
    warmup_steps: int = 200
    decay: float = 0.3
    weight_decay: float = 0.01
    muon: bool = False  # for the matrices; AdamW for the rest
    ema: float = 0.999
    max_norm: float = 1.0
    log_every: int = 20

    def factor(self, step: int, elapsed_share: float) -> float:
        return min(1.0, (step + 1) / self.warmup_steps, (1 - elapsed_share) / self.decay + 1e-3)


def average_of(module: nn.Module) -> nn.Module:
    """A copy that follows the module by exponential moving average; it is what gets exported."""
    import copy

    return copy.deepcopy(module).eval().requires_grad_(False)


@torch.no_grad()
def follow(average: nn.Module, module: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * module for parameters; buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(module.parameters()), 1 - decay)
    for slow, fast in zip(average.buffers(), module.buffers(), strict=True):
        slow.copy_(fast)


def new_optimizers(modules: Mapping[str, nn.Module], schedule: Schedule) -> list[torch.optim.Optimizer]:
    """AdamW over everything trainable; with `schedule.muon`, over what is left by Muon."""
    named = [pair for module in modules.values() for pair in module.named_parameters() if pair[1].requires_grad]
    matrices = [p for name, p in named if schedule.muon and suits_muon(name, p)]
    rest = [p for name, p in named if not (schedule.muon and suits_muon(name, p))]
    rate, decay = schedule.learning_rate, schedule.weight_decay
    adamw = torch.optim.AdamW(rest, lr=rate, weight_decay=decay, betas=(0.9, 0.99), fused=True)
    return [adamw, Muon(matrices, lr=rate, weight_decay=decay)] if matrices else [adamw]


def train(
    name: str,
    folder: Path,
    modules: Mapping[str, nn.Module],
    loss_of: Callable[[torch.Generator], Tensor],
    schedule: Schedule,
    look: Look | None = None,
    look_every_s: float = 300,
) -> dict[str, nn.Module]:
    """Train for `schedule.minutes`; returns the averaged modules.

    `loss_of(generator)` draws a batch and gives its loss. The checkpoint `folder/name.pt` holds weights, averages,
    optimizer and step, is replaced atomically every few minutes, and is resumed from when it is there. `look` is
    called with the averaged modules now and then, to draw samples.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, log = folder / f"{name}.pt", folder / f"{name}.jsonl"
    averages = {key: average_of(module) for key, module in modules.items()}
    optimizers = new_optimizers(modules, schedule)
    step = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        for key, module in modules.items():
            module.load_state_dict(saved["modules"][key])
            averages[key].load_state_dict(saved["averages"][key])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        step = saved["step"]
    # Only now: an optimizer that takes over a state has other groups than before
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    parameters = [parameter for group in groups for parameter in group["params"]]

    def save() -> None:
        state = {
            "modules": {key: module.state_dict() for key, module in modules.items()},
            "averages": {key: module.state_dict() for key, module in averages.items()},
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "step": step,
        }
        torch.save(state, checkpoint.with_suffix(".part"))
        os.replace(checkpoint.with_suffix(".part"), checkpoint)

    started = saved_at = looked_at = time.monotonic()
    first_step, running = step, 0.0
    while (elapsed_s := time.monotonic() - started) < schedule.minutes * 60:
        generator = torch.Generator().manual_seed(step)
        factor = schedule.factor(step - first_step, elapsed_s / (schedule.minutes * 60))
        for group in groups:
            group["lr"] = schedule.learning_rate * factor
        # Plain matrix products are twice as fast as flash attention on a CPU, for 16 to 64 tokens.
        with fast_group_norm(), sdpa_kernel(SDPBackend.MATH):
            loss = loss_of(generator)
            loss.backward()
        nn.utils.clip_grad_norm_(parameters, schedule.max_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        # A short memory at first, so that the average does not drag the random start along.
        decay = min(schedule.ema, (1 + step) / (10 + step))
        for key, module in modules.items():
            follow(averages[key], module, decay)
        running = loss.item() if step == first_step + 1 else 0.98 * running + 0.02 * loss.item()
        if step % schedule.log_every == 0:
            record = {"step": step, "loss": round(running, 5), "minutes": round(elapsed_s / 60, 2)}
            with log.open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(name, record, flush=True)
        if time.monotonic() - saved_at > CHECKPOINT_EVERY_S:
            save()
            saved_at = time.monotonic()
        if look is not None and time.monotonic() - looked_at > look_every_s:
            look(averages, step)
            looked_at = time.monotonic()
    save()
    if look is not None:
        look(averages, step)
    return averages
