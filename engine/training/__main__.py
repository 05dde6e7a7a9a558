"""`python -m engine.training <job folder>`: train the LoRA that the folder's request asks for.

It reports to the folder and ends with a LoRA in the workspace. Started again in the same folder, it goes on from the
last checkpoint.
"""

import math
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from engine.abilities import require_trainable
from engine.cache import device_name, give_back
from engine.families import Base, base
from engine.jobs import Work, run_in_process
from engine.lora.files import export_lora, read_lora, write_lora
from engine.memory.advice import backing_off, for_training
from engine.memory.estimate import frozen_dtype
from engine.memory.plans import TRAINING, Plan, in_words
from engine.memory.run import load_base
from engine.settings import TrainSettings
from engine.training.data import prepare, release_encoders
from engine.training.loop import Step, train, trainable_lora
from engine.training.samples import draw_samples, sample_prompts
from engine.workspace import Workspace

CURVE_POINTS = 400


def train_lora(work: Work) -> dict[str, Any]:
    """Do what the request asks; returns {"lora": id, "steps": count, "loss": smoothed, "held_out_loss": or None}."""
    settings = TrainSettings.from_dict(work.request["settings"])
    chosen = base(settings.base)
    require_trainable(settings, chosen)
    advised = for_training(settings, chosen)
    work.note(in_words(advised, chosen.title))
    # After memory ran out it goes on from the last step
    return backing_off(partial(_train_lora, work, settings, chosen), advised.plan, TRAINING, work, give_back)


def _train_lora(work: Work, settings: TrainSettings, chosen: Base, plan: Plan) -> dict[str, Any]:
    import torch

    workspace = Workspace(Path(work.request["workspace"]))
    photos = workspace.dataset(settings.dataset).photos
    prompts = sample_prompts(settings)

    work.started("Loading the model")
    dtype = frozen_dtype(device_name())
    parts = load_base(chosen, dtype, device_name(), plan)
    parts.denoiser.to(memory_format=torch.channels_last)
    if plan.recomputes:
        parts.denoiser.enable_gradient_checkpointing()
    if plan.tiled:
        parts.vae.enable_tiling()
    work.started(f"Reading {len(photos)} photos")
    parts.vae.float()  # the photos are encoded once, and learnt from at every step
    data = prepare(parts, photos, prompts, settings, workspace=workspace, before_each=work.check_cancelled)
    parts.vae.to(dtype)
    release_encoders(parts, settings)

    work.started("Training")
    with (
        trainable_lora(parts, settings, chosen.spec.lora_targets) as lora,
        closing(train(lora, parts, data, settings, work.folder)) as steps,
    ):
        for step in steps:
            report(work, step, settings.steps)
            if step.done % settings.sample_every == 0 or step.done == settings.steps:
                pictures = draw_samples(chosen, parts, data, settings.resolution, work.check_cancelled)
                for prompt, picture in zip(prompts, pictures, strict=True):
                    work.sample(step.done, picture, prompt)
            work.check_cancelled()
        state = lora.state()

    file = work.folder / "lora.safetensors"
    write_lora(
        file,
        state,
        rank=settings.rank,
        alpha=settings.alpha,
        trigger=settings.trigger,
        class_name=settings.class_name,
        base=chosen,
        settings=settings.to_dict(),
    )
    for_others = work.folder / "kohya.safetensors"
    export_lora(for_others, read_lora(file, chosen), chosen, format="kohya")
    record = workspace.add_lora(
        file,
        for_others=for_others,
        name=settings.name,
        family=chosen.family,
        base=chosen.name,
        trigger=settings.trigger,
        class_name=settings.class_name,
        rank=settings.rank,
        samples=tuple(workspace.keep_image(picture) for picture in pictures),
        settings=settings.to_dict(),
    )
    return {
        "lora": record.id,
        "steps": step.done,
        "loss": step.smoothed_loss,
        "held_out_loss": step.held_out_loss,
    }


def report(work: Work, step: Step, total: int) -> None:
    """Progress with every step, and a curve of at most so many points, with all that were held out."""
    work.progress(step.done, total, f"Step {step.done} of {total}, loss {step.smoothed_loss:.4f}")
    if step.done % math.ceil(total / CURVE_POINTS) == 0 or step.held_out_loss is not None:
        held_out = {} if step.held_out_loss is None else {"held_out_loss": step.held_out_loss}
        work.metrics(step.done, loss=step.smoothed_loss, learning_rate=step.learning_rate, **held_out)


if __name__ == "__main__":
    sys.exit(run_in_process(Path(sys.argv[1]), train_lora))
