"""Whole trainings: the result in plain diffusers, stopping, and a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from engine.errors import Cancelled
from engine.families import Base
from engine.jobs import Work
from engine.settings import TrainSettings
from engine.training import samples
from engine.training.__main__ import train_lora
from engine.training.checkpoint import FILE_NAME
from engine.workspace import Workspace, write_json


def work_for(workspace: Workspace, settings: TrainSettings, token: str) -> Work:
    folder = workspace.job_folder(token)
    request = {"settings": settings.to_dict(), "workspace": str(workspace.root)}
    write_json(folder / "request.json", request)
    return Work(folder, request)


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    if not (folder / "events.jsonl").exists():
        return []
    lines = (folder / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["kind"] == kind]


def test_the_lora_gives_the_live_picture_in_plain_diffusers(
    tiny_base: Base, workspace: Workspace, settings: TrainSettings
) -> None:
    settings = settings.replace(learning_rate=3e-2, text_encoder_learning_rate=1e-2)
    work = work_for(workspace, settings, "whole")

    result = train_lora(work)

    record = workspace.lora(result["lora"])
    assert (record.rank, record.trigger, record.class_name) == (4, "sks", "teddy bear")
    assert TrainSettings.from_dict(record.settings) == settings
    assert result["steps"] == 30
    curve = events(work.folder, "metrics")
    assert [point["step"] for point in curve] == list(range(1, 31))
    assert [point["step"] for point in curve if "held_out_loss" in point["values"]] == [1, 25, 30]
    assert curve[-1]["values"]["held_out_loss"] == result["held_out_loss"]
    prompts = [event["message"] for event in events(work.folder, "sample")]
    assert prompts == [
        "a photo of sks teddy bear",
        "a photo of sks teddy bear on a sandy beach",
        "a watercolour painting of sks teddy bear",
    ]

    pipeline: Any = StableDiffusionPipeline.from_pretrained(tiny_base.source, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)

    def pictures() -> np.ndarray:
        return np.stack(
            [
                pipeline(
                    prompt,
                    num_inference_steps=samples.STEPS,
                    guidance_scale=tiny_base.default_guidance,
                    guidance_rescale=tiny_base.guidance_rescale,
                    generator=torch.Generator().manual_seed(samples.SEED + number),
                    output_type="np",
                ).images[0]
                for number, prompt in enumerate(prompts)
            ]
        )

    without = pictures()
    pipeline.load_lora_weights(workspace.lora_path(record.id))
    expected = pictures()
    live = np.stack([np.asarray(workspace.image(sample)) / 255 for sample in record.samples])
    assert np.abs(live - expected).max() < 1.5 / 255
    assert np.abs(without - expected).max() > 10 / 255

    download = workspace.lora_download(record.id)
    assert any(key.startswith("lora_unet_") for key in load_file(download))
    pipeline.unload_lora_weights()
    pipeline.load_lora_weights(download)
    assert np.abs(pictures() - expected).max() < 1 / 255


def test_stopped_within_a_step_and_gone_on(tiny_base: Base, workspace: Workspace, settings: TrainSettings) -> None:
    work = work_for(workspace, settings, "stopped")

    class Impatient(Work):
        def progress(self, step: int, total: int, message: str = "") -> None:
            super().progress(step, total, message)
            if step == 7:
                (self.folder / "cancel").touch()

    with pytest.raises(Cancelled):
        train_lora(Impatient(work.folder, work.request))
    assert [event["step"] for event in events(work.folder, "progress")] == list(range(1, 8))
    assert workspace.loras() == []

    (work.folder / "cancel").unlink()
    train_lora(work)
    assert [event["step"] for event in events(work.folder, "progress")] == [*range(1, 8), *range(7, 31)]


def test_killed_and_resumed_gives_the_same_lora(tiny_base: Base, workspace: Workspace, settings: TrainSettings) -> None:
    settings = settings.replace(steps=40)
    killed = work_for(workspace, settings, "killed").folder
    process = subprocess.Popen(
        [sys.executable, "-m", "engine.training", str(killed)], env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    while not any(event["step"] >= 13 for event in events(killed, "progress")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (killed / FILE_NAME).exists()
    assert workspace.loras() == []

    resumed = train_lora(work_for(workspace, settings, "killed"))
    whole = train_lora(work_for(workspace, settings, "whole"))

    steps = [event["step"] for event in events(killed, "progress")]
    again = steps.index(10, 10)
    assert steps == [*range(1, again + 1), *range(10, 41)]
    got, expected = (load_file(workspace.lora_path(result["lora"])) for result in (resumed, whole))
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    first, second = (workspace.lora(result["lora"]).samples for result in (resumed, whole))
    assert [workspace.image(s).tobytes() for s in first] == [workspace.image(s).tobytes() for s in second]
