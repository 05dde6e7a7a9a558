"""Captions: who can write them, the trigger word in front, find and replace.

The captioners are ordinary transformers models; one is embedded, the others come from the Hub by name. It knows nothing
of training; what it writes is text in a dataset.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.cache import ModelCache, device_name
from engine.errors import BadDataset, BadSettings, MissingModel
from engine.families import base
from engine.families.base import fetched
from engine.jobs import Work
from engine.photo import cropped
from engine.settings import CaptionSettings
from engine.workspace import Dataset, Photo, Workspace

if TYPE_CHECKING:
    from PIL.Image import Image

PHOTO_SIDE_PX = 512
MAX_NEW_TOKENS = 48
BEAMS = 3


@dataclass(frozen=True, kw_only=True)
class Captioner:
    """A model that describes a picture. `source` is its name on the Hub, or None for the one embedded with the starter.

    `task` is the text that the model wants beside the picture, if any.
    """

    name: str
    title: str
    source: str | None
    task: str | None = None


CAPTIONERS = {
    captioner.name: captioner
    for captioner in (
        Captioner(name="starter", title="Starter BLIP (embedded)", source=None),
        Captioner(name="blip", title="BLIP base", source="Salesforce/blip-image-captioning-base"),
        Captioner(name="blip-large", title="BLIP large", source="Salesforce/blip-image-captioning-large"),
        Captioner(name="blip2", title="BLIP-2 (OPT 2.7B)", source="Salesforce/blip2-opt-2.7b"),
        Captioner(
            name="florence2", title="Florence-2 base", source="florence-community/Florence-2-base", task="<CAPTION>"
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class CaptionModel:
    """A loaded captioner: a transformers model with its processor."""

    model: Any
    processor: Any
    task: str | None

    def describe(self, image: "Image") -> str:
        """One sentence about the picture, the same every time (beam search, no sampling)."""
        import torch

        inputs = self.processor(images=image, text=self.task, return_tensors="pt")
        inputs = inputs.to(self.model.device, self.model.dtype)
        with torch.inference_mode():
            tokens = self.model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, num_beams=BEAMS, do_sample=False)
        return self.processor.decode(tokens[0], skip_special_tokens=True).strip()


def load_captioner(name: str) -> CaptionModel:
    """Raises: BadSettings when there is no such captioner; MissingModel when it is neither here nor within reach."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    if name not in CAPTIONERS:
        raise BadSettings(f"There is no captioner called {name!r}.", f"Choose one of: {', '.join(CAPTIONERS)}.")
    captioner = CAPTIONERS[name]
    source = captioner.source or base("starter").captioner
    if source is None:
        raise MissingModel("The embedded captioner is not installed.", "Choose another one, or write the captions.")
    # All at once: looking for file after file would retry each for half a minute when there is no network
    folder = fetched(source, "*.json", "*.txt", "*.safetensors")
    device = device_name()
    model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype="float32" if device == "cpu" else "float16")
    processor = AutoProcessor.from_pretrained(folder)
    return CaptionModel(model=model.eval().to(device), processor=processor, task=captioner.task)


def caption_dataset(
    settings: CaptionSettings, *, workspace: Workspace, cache: ModelCache, work: Work
) -> dict[str, Any]:
    """Write captions for all photos, the empty ones or those in `settings.photos`; returns {"captioned": count}.

    Each caption is saved as soon as it is written, into the dataset as it is then: a stop loses none of them, and
    edits made meanwhile stay. The dataset takes over the trigger word and the class.

    Raises: BadDataset when there is nothing to caption; BadSettings, MissingModel, NotFound, Cancelled.
    """
    photos = [photo for photo in workspace.dataset(settings.dataset).photos if _is_asked(photo, settings)]
    if not photos:
        raise BadDataset("There is no photo to caption.", "Add photos, or caption all instead of the empty ones.")
    workspace.update_dataset(
        settings.dataset,
        lambda dataset: dataset.replace(
            trigger=settings.trigger or dataset.trigger, class_name=settings.class_name or dataset.class_name
        ),
    )
    work.started("Loading the captioner")
    with cache.lease(("captioner", settings.captioner), lambda: load_captioner(settings.captioner)) as captioner:
        for done, photo in enumerate(photos):
            work.check_cancelled()
            work.progress(done, len(photos), f"Describing {photo.file}")
            image = cropped(workspace.image(photo.image), photo.crop, PHOTO_SIDE_PX)
            caption = with_trigger(captioner.describe(image), settings.trigger, settings.class_name)
            workspace.update_dataset(settings.dataset, _caption_setter(photo.id, caption))
    work.progress(len(photos), len(photos), f"Captioned {len(photos)} photos")
    return {"captioned": len(photos)}


def _is_asked(photo: Photo, settings: CaptionSettings) -> bool:
    chosen = not settings.photos or photo.id in settings.photos
    return chosen and not (settings.only_empty and photo.caption.strip())


def _caption_setter(photo_id: str, caption: str) -> Callable[[Dataset], Dataset]:
    def set_caption(dataset: Dataset) -> Dataset:
        photos = (photo.replace(caption=caption) if photo.id == photo_id else photo for photo in dataset.photos)
        return dataset.replace(photos=tuple(photos))

    return set_caption


def with_trigger(caption: str, trigger: str, class_name: str) -> str:
    """Put the trigger word and the class in front, unless the trigger word (or, without one, the class) is there.

    >>> with_trigger("a photo of a brown teddy bear on a table", "sks", "teddy bear")
    'sks teddy bear, a photo of a brown teddy bear on a table'
    """
    caption, trigger, class_name = caption.strip(), trigger.strip(), class_name.strip()
    mark = trigger or class_name
    if re.search(rf"(?<!\w){re.escape(mark)}(?!\w)", caption):
        return caption
    return ", ".join(filter(None, (f"{trigger} {class_name}".strip(), caption)))


def replace_in_captions(dataset: Dataset, find: str, replace: str) -> tuple[Dataset, int]:
    """Replace the plain text `find`, case-sensitively, in all captions; also says how many captions changed.

    Raises: BadSettings when `find` is empty.
    """
    if not find:
        raise BadSettings("There is nothing to find.", "Say which words to replace.")
    photos = tuple(photo.replace(caption=photo.caption.replace(find, replace)) for photo in dataset.photos)
    changed = sum(new.caption != old.caption for new, old in zip(photos, dataset.photos, strict=True))
    return dataset.replace(photos=photos), changed
