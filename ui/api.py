"""What programs may ask of the page, by name: the same work as the tabs, with plain JSON in and out.

What takes long answers at once with the token of a job, and `/job` tells how it goes. Files come and go through
components that nobody sees, because those only accept what was uploaded.
"""

import dataclasses
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr

from engine.settings import CaptionSettings, GenerateSettings, SheetSettings, TrainSettings
from engine.studio import Dataset, Job, Studio
from ui.cards import served
from ui.page import explain


def add_api(studio: Studio) -> None:
    """Add the endpoints to the Blocks being built."""

    def new_dataset(name: str, trigger: str = "sks", class_name: str = "") -> dict:
        """Make an empty photo set."""
        return _dataset(studio.new_dataset(name, trigger=trigger, class_name=class_name))

    def add_photos(*, dataset: str, files: list[str]) -> dict[str, Any]:
        """Add photos, or zips of photos, to a photo set; tells which were refused and why."""
        changed, refused = studio.add_photos(dataset, [Path(file) for file in files])
        return _dataset(changed) | {"refused": [{"file": r.file, "reason": r.reason} for r in refused]}

    def add_image(*, file: str) -> dict[str, Any]:
        """Keep a picture to take a layout or a look from; answers with its content hash."""
        return {"image": studio.keep_image(Path(file))}

    def caption(settings: dict) -> dict:
        """Start captioning; `settings` as in CaptionSettings, of which `dataset` is required."""
        return _started(studio.caption(CaptionSettings.from_dict(settings)))

    def train(settings: dict) -> dict:
        """Start a training; `settings` as in TrainSettings, of which `dataset` and `name` are required."""
        return _started(studio.train(TrainSettings.from_dict(settings)))

    def extract(image: str, kind: str, options: dict, detector: str | None = None) -> dict:
        """Start taking the `kind` map of a kept picture; `options` are the detector's, without which the usual one is
        asked."""
        return _started(studio.extract(image, kind, options, detector))

    def generate(settings: dict) -> dict:
        """Start making pictures; `settings` as in GenerateSettings, of which `prompt` is required."""
        return _started(studio.generate(GenerateSettings.from_dict(settings)))

    def scores(picture: str) -> list:
        """How well a generated picture kept what was asked; each score with its method, range and ceiling."""
        return [score.to_dict() | {"label": score.label} for score in studio.scores(picture)]

    def rank(pictures: list) -> list:
        """Generated pictures of one request, the best first by their scores, each with the reason."""
        return [dataclasses.asdict(one) for one in studio.rank(pictures)]

    def sheet(settings: dict) -> dict:
        """Start a consistency sheet; `settings` as in SheetSettings, of which `picture` and `prompts` are required."""
        return _started(studio.sheet(SheetSettings.from_dict(settings)))

    def job(token: str) -> dict:
        """Where a job stands: its state, progress, and its result or error once it has one."""
        return _job(studio.job(token))

    def cancel(token: str) -> dict:
        """Ask a job to stop."""
        studio.job(token).cancel()
        return _job(studio.job(token))

    def picture(*, picture: str) -> str:
        """The PNG of a generated picture, with its recipe inside."""
        return served(studio.picture_file(picture))

    for function in (new_dataset, caption, train, extract, generate, scores, rank, sheet, job, cancel):
        gr.api(_raising_plainly(function), api_name=function.__name__)

    with gr.Column(visible=False):
        dataset, files = gr.Textbox(), gr.File(file_count="multiple")
        file, name, answer, png = gr.File(), gr.Textbox(), gr.JSON(), gr.File()
        with_files: list[tuple[Callable[..., Any], dict[str, Any], Any]] = [
            (add_photos, {"dataset": dataset, "files": files}, answer),
            (add_image, {"file": file}, answer),
            (picture, {"picture": name}, png),
        ]
        for function, inputs, output in with_files:
            call = _raising_plainly(function)
            gr.Button().click(call, inputs_kwargs=inputs, outputs=output, api_name=function.__name__)


def _dataset(dataset: Dataset) -> dict[str, Any]:
    return {"dataset": dataset.id, "name": dataset.name, "photos": [photo.to_dict() for photo in dataset.photos]}


def _started(job: Job) -> dict[str, Any]:
    return {"token": job.token}


def _job(job: Job) -> dict[str, Any]:
    progress = job.progress()
    return {
        "state": job.state,
        "step": progress.step,
        "total": progress.total,
        "eta_s": progress.eta_s,
        "message": progress.message,
        "error": job.error,
        "result": job.result() if job.state == "done" else None,
    }


def _raising_plainly(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, whose errors reach the client as the sentence that a person would be shown."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise gr.Error(explain(error), print_exception=False) from error

    return run
