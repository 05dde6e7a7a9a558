"""The facade: the one object that the page, the command line and scripts call.

It holds the workspace, the model cache and the job runner, and turns a request into a job. It knows no gradio.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from engine import dataset as datasets
from engine import families
from engine import style_mask as style_masks
from engine.cache import ModelCache, device_title, memory
from engine.captioning import CAPTIONERS, Captioner
from engine.controls import KINDS, ControlKind, drawn, openpose, recognise, require_kind, skeletons
from engine.controls.ready import remarks, serves
from engine.dataset import Advice, OnPhoto, Refusal
from engine.errors import BadImage, BadRecipe, MissingModel
from engine.families import BASES, Base
from engine.jobs import Job, Runner, Work
from engine.presets import FewSteps, few_steps
from engine.recipe import Recipe, read_png
from engine.samples import Samples, load_samples
from engine.scores import Ranked, Score, rank
from engine.settings import (
    CaptionSettings,
    ControlUse,
    CropBox,
    GenerateSettings,
    Goal,
    SheetSettings,
    StyleUse,
    TrainSettings,
)
from engine.workspace import Dataset, LoraRecord, PictureRecord, Workspace

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from engine.abilities import WhyNot


@dataclass(frozen=True, kw_only=True)
class Status:
    """What the header shows: the device and its memory in MB, and how many jobs wait or run."""

    device: str
    memory_used_mb: float
    memory_total_mb: float
    jobs: int


class Studio:
    """Everything the studio can do, over one workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.models = ModelCache()
        self.runner = Runner(workspace)

    def status(self) -> Status:
        used_mb, total_mb = memory()
        return Status(
            device=device_title(),
            memory_used_mb=used_mb,
            memory_total_mb=total_mb,
            jobs=self.runner.queue_length(),
        )

    def bases(self) -> list[Base]:
        return list(BASES.values())

    def why_not(self, base: str) -> "WhyNot":
        """What that base cannot do, and why."""
        from engine.abilities import WhyNot

        return WhyNot(families.base(base))

    def refused_models(self) -> list[str]:
        """A sentence on each file in the folder of models that is no base."""
        return [str(error) for error in families.refused_models()]

    @staticmethod
    @cache
    def samples() -> Samples:
        """The sample subjects, compositions and looks that ship in `presets/samples`."""
        return load_samples()

    # Photos

    def new_dataset(self, name: str, *, trigger: str = "sks", class_name: str = "") -> Dataset:
        return self.workspace.create_dataset(name, trigger=trigger, class_name=class_name)

    def dataset(self, dataset_id: str) -> Dataset:
        return self.workspace.dataset(dataset_id)

    def datasets(self) -> list[Dataset]:
        return self.workspace.datasets()

    def add_photos(
        self, dataset_id: str, files: Sequence[Path], on_photo: OnPhoto | None = None
    ) -> tuple[Dataset, list[Refusal]]:
        """Photos and zips of photos, every one decoded, bounded and re-encoded; the refused ones come with reasons."""
        return datasets.add_photos(self.workspace, dataset_id, files, on_photo)

    def add_sample(self, name: str, on_photo: OnPhoto | None = None) -> Dataset:
        """A fresh dataset from the sample subject `name`, captions included."""
        subject = self.samples().subject(name)
        dataset = self.new_dataset(subject.title, trigger=subject.trigger, class_name=subject.class_name)
        dataset, _ = self.add_photos(dataset.id, subject.photos, on_photo)
        return dataset

    def describe_dataset(
        self, dataset_id: str, *, name: str | None = None, trigger: str | None = None, class_name: str | None = None
    ) -> Dataset:
        """Change the name, trigger word or class of a dataset; what is None stays."""
        given = {"name": name, "trigger": trigger, "class_name": class_name}
        changes = {key: value for key, value in given.items() if value is not None}
        return self.workspace.update_dataset(dataset_id, lambda dataset: dataset.replace(**changes))

    def delete_dataset(self, dataset_id: str) -> None:
        self.workspace.delete_dataset(dataset_id)

    def check(self, dataset_id: str, on_photo: OnPhoto | None = None) -> list[Advice]:
        return datasets.check(self.workspace, self.dataset(dataset_id), on_photo)

    def remove_photo(self, dataset_id: str, photo_id: str) -> Dataset:
        def without(dataset: Dataset) -> Dataset:
            return dataset.replace(photos=tuple(photo for photo in dataset.photos if photo.id != photo_id))

        return self.workspace.update_dataset(dataset_id, without)

    def set_crop(self, dataset_id: str, photo_id: str, crop: CropBox) -> Dataset:
        return self._change_photo(dataset_id, photo_id, crop=crop)

    def set_caption(self, dataset_id: str, photo_id: str, caption: str) -> Dataset:
        return self._change_photo(dataset_id, photo_id, caption=caption)

    def _change_photo(self, dataset_id: str, photo_id: str, **changes: Any) -> Dataset:
        def changed(dataset: Dataset) -> Dataset:
            photos = (photo.replace(**changes) if photo.id == photo_id else photo for photo in dataset.photos)
            return dataset.replace(photos=tuple(photos))

        return self.workspace.update_dataset(dataset_id, changed)

    def crop_preview(self, dataset_id: str, photo_id: str, side_px: int = 256) -> "Image":
        """The square of one photo as it will be trained."""
        photo = next(p for p in self.dataset(dataset_id).photos if p.id == photo_id)
        return datasets.cropped(self.workspace.image(photo.image), photo.crop, side_px)

    # Captions

    def captioners(self) -> list[Captioner]:
        return list(CAPTIONERS.values())

    def caption(self, settings: CaptionSettings) -> Job:
        self.dataset(settings.dataset)

        def work(work: Work) -> dict[str, Any]:
            from engine.captioning import caption_dataset

            return caption_dataset(settings, workspace=self.workspace, cache=self.models, work=work)

        return self.runner.submit("caption", settings.to_dict(), work)

    def replace_in_captions(self, dataset_id: str, find: str, replace: str) -> tuple[Dataset, int]:
        """Find and replace over all captions; also says how many changed."""
        from engine.captioning import replace_in_captions

        changed = 0

        def change(dataset: Dataset) -> Dataset:
            nonlocal changed
            dataset, changed = replace_in_captions(dataset, find, replace)
            return dataset

        return self.workspace.update_dataset(dataset_id, change), changed

    # LoRAs

    def train(self, settings: TrainSettings) -> Job:
        """Start a training in its own process; the device is given back to it first."""
        from engine.abilities import require_trainable

        datasets.require_trainable(self.dataset(settings.dataset))
        require_trainable(settings, families.base(settings.base))
        self.workspace.require_room()
        self.models.release_all()
        request = {"settings": settings.to_dict(), "workspace": str(self.workspace.root)}
        return self.runner.submit_process("train", request, "engine.training")

    def training_preset(self, goal: Goal, base: str, quality: str) -> dict[str, Any]:
        """The TrainSettings that suit a goal, a base and a quality, by name."""
        from engine.presets import training_preset

        return training_preset(goal, base, quality)

    def few_steps(self, loras: Sequence[str], base: str) -> FewSteps | None:
        """How pictures are made with this stack, if a LoRA in it was distilled to take few steps."""
        from engine.lora.metadata import names_of

        names = [name for lora in loras for name in (self.lora(lora).name, *names_of(self.workspace.lora_path(lora)))]
        return few_steps(names, base)

    def training_time_s(self, base: str, steps: int, batch_size: int, resolution: int) -> float | None:
        """How long such a training would take, by the pace of the last one on this base; None before the first."""
        for job in self.jobs("train"):
            last = TrainSettings.from_dict(job.request["settings"])
            if last.base == base and (pace_s := _seconds_per_step(job)):
                return steps * pace_s * (batch_size * resolution**2) / (last.batch_size * last.resolution**2)
        return None

    def needs(self, settings: GenerateSettings | TrainSettings) -> str:
        """What a picture or a training needs of the memory that there is, and how it will make do, in a sentence; empty
        while the base is not here. Takes seconds, and the heavy libraries. Raises: BadSettings."""
        from engine.memory.advice import for_picture, for_training
        from engine.memory.plans import in_words

        base = families.base(settings.base)
        try:
            if isinstance(settings, TrainSettings):
                chosen = for_training(settings, base, self.models)
            else:
                chosen = for_picture(settings, base, self.workspace, self.models)
        except MissingModel:
            return ""
        return in_words(chosen, base.title)

    def resume(self, token: str) -> Job:
        """Start an interrupted or stopped training again, from its last checkpoint."""
        self.models.release_all()
        return self.runner.resume(token)

    def discard(self, token: str) -> None:
        """Remove a job that will not go on, and everything that it left on disk."""
        self.runner.discard(token)

    def loras(self) -> list[LoraRecord]:
        return self.workspace.loras()

    def lora(self, lora_id: str) -> LoraRecord:
        return self.workspace.lora(lora_id)

    def lora_file(self, lora_id: str) -> Path:
        """To be downloaded: one that was trained here in kohya's format, which every program reads."""
        return self.workspace.lora_download(lora_id)

    def delete_lora(self, lora_id: str) -> None:
        self.workspace.delete_lora(lora_id)

    def import_lora(self, file: Path, name: str, base: str = "starter") -> LoraRecord:
        """Check a LoRA file against the base and keep a copy. Raises: BadLora."""
        from engine.lora.files import import_lora

        return import_lora(self.workspace, file, name=name, base=base)

    def lora_tensors(self, lora_id: str) -> tuple[int, tuple[str, ...]]:
        """How many tensors of a LoRA's file act, and the names of those that belong to no layer. Raises: NotFound."""
        from engine.lora.files import read_lora

        read = read_lora(self.workspace.lora_path(lora_id), families.base(self.lora(lora_id).base))
        return read.matched, read.unmatched

    # Controls

    def control_kinds(self) -> list[ControlKind]:
        return list(KINDS.values())

    def empty_mask(self, image_hash: str) -> str:
        """A mask on which nothing of a kept picture is marked, to be painted on; its content hash."""
        from engine.start_picture import empty_mask

        return self.workspace.keep_image(empty_mask(self.workspace.image(image_hash)))

    def keep_mask(self, image_hash: str, png: bytes) -> str:
        """A mask that was painted on a kept picture; its content hash. Raises: BadImage when it is of another size, or
        empty."""
        from engine.images import open_image
        from engine.start_picture import require_mask

        mask = open_image(png, "The mask")
        require_mask(self.workspace.image(image_hash), mask)
        return self.workspace.keep_image(mask.convert("L"))

    def start_remarks(self, image_hash: str, width: int, height: int) -> list[str]:
        """What is done to a picture before another of this size starts from it, one sentence each."""
        from engine.start_picture import remarks

        return remarks(self.workspace.image(image_hash), width, height)

    def extract(
        self, image_hash: str, kind: str, options: dict[str, float] | None = None, detector: str | None = None
    ) -> Job:
        """Take a control map, by the kind's usual detector if none is named; the job's result is {"map": hash}."""

        def work(work: Work) -> dict[str, Any]:
            from engine.controls import detect

            work.started(f"Taking the {KINDS[kind].title.lower()} map")
            image = self.workspace.image(image_hash)
            control_map = self.workspace.keep_image(detect(kind, image, options, detector=detector, models=self.models))
            self.workspace.keep_origin(control_map, taken)
            return {"map": control_map}

        taken = {"kind": kind, "options": options or {}, "detector": detector}
        request = {"image": image_hash, **taken}
        return self.runner.submit("extract", request, work)

    def map_kind(self, image_hash: str, kind: str) -> str:
        """The kind of ready-made map that a kept picture is: `kind` itself where it can be; empty for a photo."""
        seen = recognise(self.workspace.image(image_hash))
        return "" if seen is None else kind if serves(seen.kind, kind) else seen.kind

    def map_remarks(self, image_hash: str, kind: str, width: int, height: int) -> list[str]:
        """What will be done to a ready-made map so that it serves, one sentence each. Raises: BadImage when it is of
        another kind."""
        image = self.workspace.image(image_hash)
        require_kind(kind, image)
        return remarks(kind, image, width, height)

    def is_editable(self, kind: str) -> bool:
        """Whether maps of a kind are made and changed by hand: with a brush, or a pose by its joints."""
        return kind in drawn.EDITABLE

    def keep_drawn_map(self, kind: str, png: bytes) -> str:
        """A map that was drawn by hand, in the values of its kind; its content hash. Raises: BadImage, BadSettings."""
        from engine.images import open_image

        return self.workspace.keep_image(drawn.cleaned(kind, open_image(png, "The drawing")))

    def empty_map(self, kind: str, width: int, height: int) -> str:
        """An empty map to draw on; its content hash."""
        return self.workspace.keep_image(drawn.sheet(kind, (width, height)))

    def standing_person(self, width: int, height: int) -> "np.ndarray":
        """The joints of someone who stands in the middle of a picture, (18, 3)."""
        return skeletons.standing((width, height))

    def keep_style_mask(self, png: bytes) -> str:
        """The mask of a reference that was painted by hand; its content hash. Raises: BadImage."""
        from engine.images import open_image

        mask = open_image(png, "The mask")
        return self.workspace.keep_image(style_masks.style_mask(mask, *mask.size))

    def style_mask_sheet(self, mask: str, width: int, height: int) -> str:
        """A mask as it acts in a picture of this size, to be painted on; black if there is none yet."""
        if not mask:
            return self.empty_map("scribble", width, height)
        return self.workspace.keep_image(style_masks.style_mask(self.workspace.image(mask), width, height))

    def style_mask_remarks(self, mask: str, width: int, height: int) -> list[str]:
        """What is done to a mask so that it fits a picture of this size, one sentence each. Raises: BadImage."""
        image = self.workspace.image(mask)
        style_masks.style_mask(image, width, height)
        return style_masks.remarks(image, width, height)

    def people(self, image_hash: str) -> list["np.ndarray"]:
        """The joints of everyone in a photo, or in a pose map: (18, 3) each, x and y in pixels and how surely."""
        image = self.workspace.image(image_hash)
        seen = recognise(image)
        return skeletons.read(image) if seen is not None and seen.kind == "openpose" else openpose.keypoints(image)

    def keep_pose_map(self, people: object, width: int, height: int) -> str:
        """The map of people who were moved by hand, as `skeletons.people_of` takes them; its content hash.

        Raises: BadSettings, and BadImage when nothing of them is in the picture.
        """
        size = width, height
        pose = openpose.draw(skeletons.people_of(people, size), size)
        if pose.getbbox() is None:
            raise BadImage("Nobody is in this picture.", "Add a person, or press Cancel.")
        return self.workspace.keep_image(pose)

    def areas(self, image_hash: str) -> tuple[list[drawn.Area], list[drawn.Area]]:
        """The classes in a segmentation map, and all that there are, common ones first."""
        return drawn.areas(self.workspace.image(image_hash))

    # Pictures

    def generate(self, settings: GenerateSettings, *, score: bool = True) -> Job:
        """Make the pictures; the job's result is {"pictures": ids, "seconds": float}. With `score`, what was kept of
        what was asked is measured once they are there, and kept with each.

        Raises, before anything is loaded: NotFound, MissingModel or BadSettings for what is not here or cannot be done.
        """
        from engine.abilities import require_supported
        from engine.generation import generate, start_of
        from engine.scores.pictures import score_picture

        self.workspace.require_room()
        require_supported(settings, families.base(settings.base))
        self._require_inputs(settings)
        start_of(settings, self.workspace)

        def work(work: Work) -> dict[str, Any]:
            result = generate(settings, workspace=self.workspace, cache=self.models, work=work)
            if score:
                work.started("Scoring")
                for picture in result["pictures"]:
                    score_picture(picture, workspace=self.workspace, models=self.models)
            return result

        return self.runner.submit("generate", settings.to_dict(), work)

    def scores(self, picture_id: str) -> list[Score]:
        """How well a picture kept what was asked of it, as measured when it was made; empty if it was not."""
        from engine.scores.pictures import kept_scores

        return kept_scores(picture_id, workspace=self.workspace)

    def rank(self, picture_ids: Sequence[str]) -> list[Ranked]:
        """Pictures of one request, the best first, each with a sentence on why it stands there."""
        return rank({picture: self.scores(picture) for picture in picture_ids})

    def sheet(self, settings: SheetSettings) -> Job:
        """Make a consistency sheet; the job's result is that of `engine.consistency.make_sheet`.

        Raises, before anything is loaded: as `generate`, and BadSettings when the LoRA has no photos to compare with.
        """
        from engine.abilities import require_supported
        from engine.consistency import cells_of, make_sheet, subject_of

        self.workspace.require_room()
        for cell in cells_of(settings):
            require_supported(cell.settings, families.base(cell.settings.base))
            self._require_inputs(cell.settings)
        subject_of(settings, self.workspace)

        def work(work: Work) -> dict[str, Any]:
            return make_sheet(settings, workspace=self.workspace, models=self.models, work=work)

        return self.runner.submit("sheet", settings.to_dict(), work)

    def sheet_archive(self, token: str) -> Path:
        """The zip of a finished sheet: the grid, and every picture with its recipe inside."""
        from engine.consistency import SHEET_ARCHIVE

        return self.job(token).folder / SHEET_ARCHIVE

    def pictures(self, limit: int = 60, before: str | None = None) -> list[PictureRecord]:
        return self.workspace.pictures(limit, before)

    def picture(self, picture_id: str) -> PictureRecord:
        return self.workspace.picture(picture_id)

    def picture_file(self, picture_id: str) -> Path:
        """The PNG as it was written, recipe inside."""
        return self.workspace.picture_path(picture_id)

    def picture_thumbnail(self, picture_id: str) -> Path:
        return self.workspace.picture_thumbnail_path(picture_id)

    def delete_picture(self, picture_id: str) -> None:
        self.workspace.delete_picture(picture_id)

    def restore(self, png: Path) -> tuple[Recipe, list[str]]:
        """The recipe inside a picture without what is not here, and a sentence on each thing left out.

        A LoRA is known by the hash of its file: it may have been renamed, or another may have taken its name.
        Raises: BadRecipe.
        """
        recipe = read_png(png)
        settings = recipe.settings
        if settings.base not in BASES:
            raise BadRecipe(f"{png.name} was made with the base {settings.base!r}.", "Only bases from the menu work.")
        names = {record.sha256: record.id for record in self.loras()}
        found = {use.lora: names.get(recipe.lora_hashes.get(use.lora, "")) for use in settings.loras}
        missing = [
            f"The LoRA {name!r} is not here, or was trained again since." for name, id_ in found.items() if not id_
        ]
        images = (*settings.controls, *settings.styles)
        start = settings.start
        if start and not all(self.workspace.has_image(image) for image in (start.image, start.mask) if image):
            missing.append("The picture that it started from is not in this workspace.")
            start = None

        def is_here(use: ControlUse | StyleUse) -> bool:
            mask = use.mask if isinstance(use, StyleUse) else ""
            return self.workspace.has_image(use.image) and (not mask or self.workspace.has_image(mask))

        if gone := sum(not is_here(use) for use in images):
            missing.append(f"{gone} of its {len(images)} pictures for layout and look are not in this workspace.")
        here = settings.replace(
            loras=tuple(use.replace(lora=found[use.lora]) for use in settings.loras if found[use.lora]),
            controls=tuple(use for use in settings.controls if is_here(use)),
            styles=tuple(use for use in settings.styles if is_here(use)),
            start=start,
        )
        return recipe.replace(settings=here), missing

    def _require_inputs(self, settings: GenerateSettings) -> None:
        for use in settings.loras:
            self.workspace.lora(use.lora)
        for use in (*settings.controls, *settings.styles):
            self.workspace.image(use.image)
        for use in settings.styles:
            if use.mask:
                style_masks.style_mask(self.workspace.image(use.mask), settings.width, settings.height)
        for use in settings.controls:
            if use.detected:
                require_kind(use.kind, self.workspace.image(use.image))

    # Images and jobs

    def keep_image(self, file: Path) -> str:
        """A control photo or style reference: decoded, bounded, kept; its content hash. Raises: BadImage."""
        from engine.images import open_image

        return self.workspace.keep_image(open_image(file, file.name))

    def image_file(self, content_hash: str) -> Path:
        return self.workspace.image_path(content_hash)

    def image_size(self, content_hash: str) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.workspace.image(content_hash).size

    def thumbnail(self, content_hash: str, side_px: int = 256) -> Path:
        return self.workspace.thumbnail_path(content_hash, side_px)

    def job(self, token: str) -> Job:
        return self.runner.job(token)

    def jobs(self, kind: str | None = None) -> list[Job]:
        return self.runner.jobs(kind)


def _seconds_per_step(job: Job) -> float | None:
    reports = [event for event in job.events() if event.kind == "progress"]
    paces_s = [(b.time_s - a.time_s) / (b.step - a.step) for a, b in pairwise(reports) if b.step > a.step]
    return median(paces_s) if paces_s else None
