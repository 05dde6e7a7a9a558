"""The scores of a picture: which apply to what was asked, found from its recipe alone, and kept beside it.

A LoRA of a subject asks for identity, every layout for its map, every reference for its look, and the words for the
prompt. Nothing here knows how a score is measured, or how the picture was made.
"""

from pathlib import Path

from PIL import Image

from engine import families
from engine.cache import ModelCache, ValueCache
from engine.errors import MissingModel, NotFound, NothingDetected
from engine.families.starter import PRESET
from engine.generation import control_map
from engine.photo import cropped
from engine.recipe import Recipe
from engine.scores import identity, layout, prompt, style
from engine.scores.identity import Reference
from engine.scores.score import Score
from engine.settings import ControlUse, GenerateSettings, StyleUse
from engine.workspace import LoraRecord, Photo, Workspace

MIN_PHOTOS = 2
PHOTO_SIDE_PX = 256

_VALUES = ValueCache()


def score_picture(picture_id: str, *, workspace: Workspace, models: ModelCache) -> list[Score]:
    """Measure what applies, and keep it with the picture. What cannot be measured here (any more) is left out."""
    recipe = Recipe.from_dict(workspace.picture(picture_id).recipe)
    with Image.open(workspace.picture_path(picture_id)) as file:
        picture = file.convert("RGB")
    scores = [
        *_identities(picture, recipe, workspace, models),
        *_layouts(picture, recipe.settings, workspace, models),
        *_styles(picture, recipe.settings, workspace, models),
        *_prompt(picture, recipe.settings, models),
    ]
    workspace.keep_scores(picture_id, [score.to_dict() for score in scores])
    return scores


def kept_scores(picture_id: str, *, workspace: Workspace) -> list[Score]:
    """What was measured when the picture was made. Raises: NotFound."""
    return [Score.from_dict(values) for values in workspace.scores(picture_id)]


def photos_of(record: LoraRecord, workspace: Workspace) -> tuple[Photo, ...]:
    """The photos that a LoRA was taught with; none for a style, and where they are not here or too few."""
    if record.settings.get("goal") in (None, "style"):
        return ()
    try:
        photos = workspace.dataset(record.settings["dataset"]).photos
    except NotFound:
        return ()
    return photos if len(photos) >= MIN_PHOTOS else ()


def subject_reference(record: LoraRecord, *, workspace: Workspace, models: ModelCache) -> Reference | None:
    """What pictures of a LoRA's subject are compared with; None without photos of it."""
    photos = photos_of(record, workspace)
    is_face = record.settings.get("goal") == "face"

    def make() -> Reference:
        squares = [cropped(workspace.image(photo.image), photo.crop, PHOTO_SIDE_PX) for photo in photos]
        return identity.reference(squares, faces=is_face, models=models)

    key = ("subject", is_face, *((photo.image, photo.crop) for photo in photos))
    return _VALUES.get(key, make) if photos else None


def _identities(picture: Image.Image, recipe: Recipe, workspace: Workspace, models: ModelCache) -> list[Score]:
    scores = []
    for use in recipe.settings.loras:
        try:
            record = workspace.lora(use.lora)
        except NotFound:
            continue
        if use.weight <= 0 or record.sha256 != recipe.lora_hashes.get(use.lora):
            continue
        if photos := subject_reference(record, workspace=workspace, models=models):
            scores.append(identity.identity(picture, photos, of=record.name, models=models))
    return scores


def _layouts(picture: Image.Image, settings: GenerateSettings, workspace: Workspace, models: ModelCache) -> list[Score]:
    def score(use: ControlUse) -> Score | None:
        try:
            asked = control_map(use, *layout.size_to_compare(use.kind, *picture.size), workspace, _VALUES, models)
            origin = workspace.origin(use.image) if use.detected else {}
            taken = {name: origin[name] for name in ("detector", "options")} if origin.get("kind") == use.kind else {}
            return layout.layout(picture, asked, use.kind, **taken, models=models)
        except (NotFound, MissingModel, NothingDetected):
            return None

    if settings.start and settings.start.only_masked:  # the layout was that of a part
        return []
    return [kept for use in settings.controls if use.strength > 0 and (kept := score(use))]


def _styles(picture: Image.Image, settings: GenerateSettings, workspace: Workspace, models: ModelCache) -> list[Score]:
    def score(use: StyleUse) -> Score:
        return style.style(picture, workspace.image(use.image), settings.prompt, models=models)

    return [score(use) for use in settings.styles if use.weight > 0 and workspace.has_image(use.image)]


def _prompt(picture: Image.Image, settings: GenerateSettings, models: ModelCache) -> list[Score]:
    of_starter = Path(families.base(settings.base).source) == PRESET
    score = prompt.prompt_kept(
        picture, settings.prompt, of_starter=of_starter, styled=bool(settings.styles), models=models
    )
    return [score] if score else []
