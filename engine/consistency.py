"""A consistency sheet: one subject over a set of prompts and poses, in one labelled grid beside the single pictures.

Each cell has its identity score; a cell that lost the subject is drawn again with another seed. How pictures are drawn
and scored is not known here.
"""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean
from typing import Any

from PIL import Image, ImageDraw

from engine.cache import ModelCache
from engine.errors import BadSettings
from engine.generation import generate
from engine.jobs import Work
from engine.scores.identity import Reference
from engine.scores.pictures import photos_of, score_picture, subject_reference
from engine.scores.score import Score, clipped, harmonic_mean
from engine.settings import MAX_SEED, ControlUse, GenerateSettings, SheetSettings
from engine.workspace import LoraRecord, Workspace, atomic_write, slug

SHEET_ARCHIVE = "sheet.zip"
CELL_PX, LABEL_PX, TITLE_PX, GAP_PX = 256, 46, 64, 12
PAPER, INK, FADED = "#fffdfa", "#2d2823", "#7b7064"
LEVEL_COLOURS = {"good": "#2c7a52", "warn": "#9a6200", "bad": "#b3261e"}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One place of the sheet: what goes on after the prompt, the pose if there is one, and all settings together."""

    prompt: str
    pose: ControlUse | None
    settings: GenerateSettings


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The picture that was kept for a cell, with its scores; `rolls` is how often it was drawn."""

    cell: Cell
    picture: str
    scores: tuple[Score, ...]
    rolls: int

    @property
    def identity(self) -> Score:
        return next(score for score in self.scores if score.name == "identity")


def cells_of(settings: SheetSettings) -> list[Cell]:
    """Every prompt in every pose, prompt by prompt, each from a seed of its own."""
    places = [(prompt.strip(), pose) for prompt in settings.prompts for pose in settings.poses or (None,)]
    return [_cell(settings, number, prompt, pose) for number, (prompt, pose) in enumerate(places)]


def _cell(settings: SheetSettings, number: int, prompt: str, pose: ControlUse | None) -> Cell:
    shared = settings.picture
    one = shared.replace(
        prompt=f"{shared.prompt.strip()} {prompt}",
        controls=(*shared.controls, pose) if pose else shared.controls,
        seed=(shared.seed + number) % (MAX_SEED + 1),
        count=1,
    )
    return Cell(prompt=prompt, pose=pose, settings=one)


def subject_of(settings: SheetSettings, workspace: Workspace) -> LoraRecord:
    """The first LoRA whose photos are here to compare with. Raises: BadSettings."""
    records = [workspace.lora(use.lora) for use in settings.picture.loras if use.weight > 0]
    for record in records:
        if photos_of(record, workspace):
            return record
    names = " and ".join(repr(record.name) for record in records) or "that is turned on"
    raise BadSettings(
        f"There are no photos here that the LoRA {names} was taught with.",
        "Choose a LoRA of a face, product or character that was trained in this workspace.",
    )


def make_sheet(settings: SheetSettings, *, workspace: Workspace, models: ModelCache, work: Work) -> dict[str, Any]:
    """Draw all cells, each again while its identity is not accepted, and put them on one sheet.

    Returns {"sheet": the grid's content hash, "cells": [{"picture", "prompt", "pose", "identity", "share", "label",
    "rolls"}], and what `set_score` gives}. Raises: TripodError; Cancelled within one step.
    """
    record = subject_of(settings, workspace)
    cells = cells_of(settings)

    def made(number: int, roll: int) -> Drawn:
        cell = cells[number]
        note = f", drawn again ({roll} of {settings.retries})" if roll else ""
        one = cell.settings.replace(seed=(cell.settings.seed + roll * len(cells)) % (MAX_SEED + 1))
        part = _Part(work, number, len(cells), note)
        [picture] = generate(one, workspace=workspace, cache=models, work=part)["pictures"]
        scores = score_picture(picture, workspace=workspace, models=models)
        return Drawn(cell=cell, picture=picture, scores=tuple(scores), rolls=roll + 1)

    work.started("Loading the base")
    drawn = [_best(partial(made, number), settings, workspace) for number in range(len(cells))]
    work.started("Putting the sheet together")
    photos = subject_reference(record, workspace=workspace, models=models)
    assert photos is not None, "the photos were there before the first cell was drawn"
    pictures = [_opened(workspace, one.picture) for one in drawn]
    figures = set_score(drawn, pictures, photos, models)
    sheet = grid(drawn, pictures, columns=len(settings.poses) or None, title=record.name, figures=figures)
    _archive(sheet, drawn, workspace, work)
    return {
        "sheet": workspace.keep_image(sheet),
        "cells": [
            {
                "picture": one.picture,
                "prompt": one.cell.prompt,
                "pose": one.cell.pose.image if one.cell.pose else "",
                "identity": one.identity.value,
                "share": one.identity.share,
                "label": one.identity.label,
                "rolls": one.rolls,
            }
            for one in drawn
        ],
        **figures,
    }


def _best(made: Callable[[int], Drawn], settings: SheetSettings, workspace: Workspace) -> Drawn:
    """The first of the rolls that is accepted, else the best of all; the other pictures are not kept."""
    best = made(0)
    for roll in range(1, settings.retries + 1):
        if best.identity.share >= settings.accept:
            break
        new = made(roll)
        worse, better = sorted((best, new), key=lambda one: one.identity.share)
        workspace.delete_picture(worse.picture)
        best = replace(better, rolls=roll + 1)
    return best


class _Part(Work):
    """The work of one cell, told as a part of the whole sheet's."""

    def __init__(self, whole: Work, number: int, count: int, note: str) -> None:
        super().__init__(whole.folder, whole.request)
        self._number, self._count, self._note = number, count, note

    def started(self, message: str) -> None:
        """Loading and drawing take turns with every cell; the pace is that of the sheet."""

    def progress(self, step: int, total: int, message: str = "") -> None:
        said = f"Picture {self._number + 1} of {self._count}{self._note}"
        super().progress(self._number * total + step, self._count * total, said)


def set_score(
    drawn: Sequence[Drawn], pictures: Sequence[Image.Image], photos: Reference, models: ModelCache
) -> dict[str, float]:
    """How well the set as a whole did, from 0 to 1, and what that is made of.

    Identity alone is won by copying one picture into every cell (DreamBooth, Ruiz et al. 2023, reports diversity beside
    fidelity for that reason). So the set score is the harmonic mean of
    - `identity`: the mean share of what real photos reach,
    - `agreement`: how alike the pictures are, as a share of how alike the real photos of the subject are,
    - `variety`: how far apart the pictures lie, as a share of how far apart those photos do,
    - `prompt`: the mean share of the prompts kept, where that can be told.
    One picture many times has no variety, and so scores 0; pictures that each show another subject do not agree, and
    training photos handed back do not keep the prompts.
    """
    features = photos.method.features(pictures, models)
    count = len(features)
    figures = {"identity": mean(one.identity.share for one in drawn)}
    if count > 1:
        among = photos.method.similarity(features, features)
        alike = float((among.sum() - among.trace()) / (count * (count - 1)))
        if photos.ceiling > 0:
            figures["agreement"] = clipped(alike / photos.ceiling)
        figures["variety"] = clipped((1 - alike) / (1 - photos.ceiling))
    if prompts := [score.share for one in drawn for score in one.scores if score.name == "prompt"]:
        figures["prompt"] = mean(prompts)
    return {"set_score": harmonic_mean(figures.values()), **figures}


def grid(
    drawn: Sequence[Drawn],
    pictures: Sequence[Image.Image],
    *,
    columns: int | None,
    title: str,
    figures: Mapping[str, float],
) -> Image.Image:
    """All cells with what was asked and the identity below each, and the set score on top."""
    columns = columns or min(len(drawn), 4)
    rows = -(-len(drawn) // columns)
    width, height = CELL_PX + GAP_PX, CELL_PX + LABEL_PX + GAP_PX
    sheet = Image.new("RGB", (max(2, columns) * width + GAP_PX, TITLE_PX + rows * height + GAP_PX), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP_PX, 10), f"{title}: {100 * figures['set_score']:.0f} of 100 as a set", fill=INK, font_size=20)
    parts = [f"{name} {100 * value:.0f}%" for name, value in figures.items() if name != "set_score"]
    pen.text((GAP_PX, 38), " · ".join(parts), fill=FADED, font_size=13)
    for number, (one, picture) in enumerate(zip(drawn, pictures, strict=True)):
        left, top = GAP_PX + number % columns * width, TITLE_PX + number // columns * height
        view = picture.copy()
        view.thumbnail((CELL_PX, CELL_PX), Image.Resampling.LANCZOS)
        sheet.paste(view, (left + (CELL_PX - view.width) // 2, top + (CELL_PX - view.height) // 2))
        pen.text((left, top + CELL_PX + 5), _fitting(pen, one.cell.prompt), fill=INK, font_size=14)
        score = one.identity
        again = f" · drawn {one.rolls} times" if one.rolls > 1 else ""
        said = f"subject {100 * score.share:.0f}%, {score.label}{again}"
        pen.text((left, top + CELL_PX + 25), said, fill=LEVEL_COLOURS[score.level], font_size=13)
    return sheet


def _fitting(pen: ImageDraw.ImageDraw, text: str) -> str:
    """As much of the text as stands below a cell."""
    whole = text
    while pen.textlength(text if text == whole else f"{text}…", font_size=14) > CELL_PX:
        text = text[:-1]
    return text if text == whole else f"{text}…"


def _opened(workspace: Workspace, picture: str) -> Image.Image:
    with Image.open(workspace.picture_path(picture)) as file:
        return file.convert("RGB")


def _archive(sheet: Image.Image, drawn: Sequence[Drawn], workspace: Workspace, work: Work) -> None:
    """The sheet and every picture, recipe inside, as one zip in the folder of the job."""
    with atomic_write(work.folder / SHEET_ARCHIVE) as staged, zipfile.ZipFile(staged, "w") as archive:
        with archive.open("sheet.png", "w") as file:
            sheet.save(file, "PNG")
        for number, one in enumerate(drawn, 1):
            archive.write(workspace.picture_path(one.picture), f"{number:02}-{slug(one.cell.prompt)}.png")
