"""The whole workflow without a browser: `python app.py demo --out DIR`.

A LoRA is trained on the photos of the sample teddy bear, a control map is taken from a composition, a brand look
becomes the style reference, and four pictures are made with all three. The last line printed is one JSON object.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from engine.errors import TripodError
from engine.jobs import Job
from engine.settings import ControlUse, GenerateSettings, LoraUse, StyleUse, TrainSettings
from engine.studio import Studio
from engine.workspace import Workspace

SUBJECT, LOOK = "teddy_bear", "watercolour"
LORA_WEIGHT, CONTROL_STRENGTH, STYLE_WEIGHT = 1.0, 0.8, 0.6
PICTURES = 4
CELL_PX = 256


def finished(job: Job) -> dict[str, Any]:
    """Wait for a job while printing its progress. Raises: TripodError if it failed."""
    shown = ""
    while job.state in ("queued", "running"):
        progress = job.progress()
        line = f"  {job.kind}: {progress.step}/{progress.total} {progress.message}"
        if line != shown:
            print(line, flush=True)
            shown = line
        time.sleep(1.0)
    return job.result()


def pictures_of(studio: Studio, result: dict[str, Any]) -> list[Image.Image]:
    return [Image.open(studio.workspace.picture_path(i)).convert("RGB") for i in result["pictures"]]


def run(out: Path, quick: bool = False) -> dict[str, Any]:
    """The four steps, into the folder `out`; returns the figures."""
    began_s = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        return _run(Studio(Workspace(Path(folder))), out, quick, began_s)


def _run(studio: Studio, out: Path, quick: bool, began_s: float) -> dict[str, Any]:
    from engine.scores.identity import subject_ceiling, subject_similarity

    base = next(base for base in studio.bases() if base.name == "starter")
    subject = studio.samples().subject(SUBJECT)
    held_out = [Image.open(file).convert("RGB") for file in subject.held_out]
    plain = GenerateSettings(
        prompt=f"a photo of {subject.trigger} {subject.class_name} in the centre in a studio",
        count=1 if quick else PICTURES,
        steps=4 if quick else base.default_steps,
        guidance_scale=base.default_guidance,
        width=base.default_size_px,
        height=base.default_size_px,
        seed=1,
    )
    print("1/4 Drawing the subject before training")
    before = pictures_of(studio, finished(studio.generate(plain)))

    print("2/4 Training a LoRA on the photos")
    dataset = studio.add_sample(SUBJECT)
    training = TrainSettings(
        dataset=dataset.id,
        name="Demo teddy bear",
        trigger=subject.trigger,
        class_name=subject.class_name,
        **studio.training_preset("product", base.name, "quick"),
    )
    if quick:
        training = training.replace(steps=3, sample_every=1000)
    training_began_s = time.monotonic()
    lora = LoraUse(lora=finished(studio.train(training))["lora"], weight=LORA_WEIGHT)
    train_s = time.monotonic() - training_began_s
    after = pictures_of(studio, finished(studio.generate(plain.replace(loras=(lora,)))))

    print("3/4 Taking a control map, choosing a look")
    composition = studio.keep_image(subject.held_out[0])
    control_map = finished(studio.extract(composition, "canny"))["map"]
    look = next(look for look in studio.samples().looks if look.name == LOOK)
    reference = studio.keep_image(look.file)

    print("4/4 Drawing with LoRA, control and style together")
    together = plain.replace(
        prompt=f"{subject.trigger} {subject.class_name} in a studio",
        loras=(lora,),
        controls=(ControlUse(kind="canny", image=control_map, strength=CONTROL_STRENGTH, detected=True),),
        styles=(StyleUse(image=reference, weight=STYLE_WEIGHT),),
    )
    result = finished(studio.generate(together))
    warm = finished(studio.generate(together.replace(count=1, seed=2)))

    files = []
    for i, picture in enumerate(result["pictures"], 1):
        files.append(out / f"result-{i}.png")
        shutil.copyfile(studio.workspace.picture_path(picture), files[-1])
    photos = [Image.open(file).convert("RGB") for file in subject.photos]
    sheet = contact_sheet(
        {
            "photos": photos[:PICTURES],
            "control": [Image.open(subject.held_out[0]).convert("RGB"), studio.workspace.image(control_map)],
            "reference": [Image.open(look.file).convert("RGB")],
            "before": before,
            "after training": after,
            "results": pictures_of(studio, result),
        }
    )
    sheet.save(out / "sheet.png")
    files.append(out / "sheet.png")
    return {
        "total_s": round(time.monotonic() - began_s, 1),
        "train_s": round(train_s, 1),
        "warm_picture_s": round(warm["seconds"], 2),
        "subject_before": round(subject_similarity(before, held_out, models=studio.models), 3),
        "subject_after": round(subject_similarity(after, held_out, models=studio.models), 3),
        "ceiling": round(subject_ceiling(photos, held_out, models=studio.models), 3),
        "files": [str(file) for file in files],
    }


def contact_sheet(rows: dict[str, Sequence[Image.Image]]) -> Image.Image:
    """Rows of pictures with a label each."""
    label_px = 22
    sheet = Image.new("RGB", (PICTURES * CELL_PX, len(rows) * (CELL_PX + label_px)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (label, pictures) in enumerate(rows.items()):
        top = row * (CELL_PX + label_px)
        pen.text((6, top + 4), label, fill="black", font_size=14)
        for column, picture in enumerate(pictures):
            cell = picture.convert("RGB").resize((CELL_PX, CELL_PX), Image.Resampling.LANCZOS)
            sheet.paste(cell, (column * CELL_PX, top + label_px))
    return sheet


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="app.py demo", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    options = parser.parse_args(arguments)
    try:
        print(json.dumps(run(options.out, options.quick)))
    except TripodError as error:
        print(error)
        return 1
    return 0
