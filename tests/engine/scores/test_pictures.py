"""Which scores a picture gets, from its recipe; kept beside it, gone with it, and without a trace in its bytes."""

import time
from pathlib import Path

import pytest
from PIL import Image

from engine.cache import ModelCache
from engine.controls import detect
from engine.errors import NotFound
from engine.recipe import Recipe, png_bytes
from engine.samples import SAMPLES_FOLDER, load_samples
from engine.scores.pictures import kept_scores, score_picture
from engine.settings import ControlUse, CropBox, GenerateSettings, LoraUse, StyleUse
from engine.studio import Studio
from engine.workspace import Photo, Workspace


@pytest.fixture(scope="module")
def models() -> ModelCache:
    return ModelCache()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


def keep(workspace: Workspace, picture: Image.Image, settings: GenerateSettings, **hashes: str) -> str:
    recipe = Recipe(settings=settings, seed=0, base_hash="0" * 64, lora_hashes=hashes)
    names = {lora: lora for lora in hashes}
    return workspace.add_picture(png_bytes(picture, recipe, names), recipe.to_dict()).id


def taught(workspace: Workspace, folder: Path, goal: str) -> tuple[str, str]:
    """A LoRA of the teddy bear whose photos are here: its id and hash."""
    dataset = workspace.create_dataset("Teddy bear")
    photos = []
    for number, file in enumerate(load_samples().subject("teddy_bear").photos[:4]):
        image = Image.open(file).convert("RGB")
        crop = CropBox(left_px=0, top_px=0, side_px=image.width)
        photos.append(
            Photo(
                id=str(number),
                file=file.name,
                image=workspace.keep_image(image),
                width_px=image.width,
                height_px=image.height,
                crop=crop,
            )
        )
    workspace.save_dataset(dataset.replace(photos=tuple(photos)))
    file = folder / "lora.safetensors"
    file.write_bytes(b"only its hash counts here")
    record = workspace.add_lora(
        file,
        name="bear",
        family="sd15",
        base="starter",
        trigger="sks",
        class_name="teddy bear",
        rank=4,
        settings={"goal": goal, "dataset": dataset.id},
    )
    return record.id, record.sha256


def test_every_thing_asked_for_has_its_score(workspace: Workspace, models: ModelCache, tmp_path: Path) -> None:
    lora, sha256 = taught(workspace, tmp_path, "product")
    bear = Image.open(load_samples().subject("teddy_bear").held_out[0]).convert("RGB").resize((256, 256))
    edges = workspace.keep_image(bear)
    look = workspace.keep_image(Image.open(SAMPLES_FOLDER / "looks" / "neon.png").convert("RGB"))
    settings = GenerateSettings(
        prompt="a photo of sks teddy bear in a studio",
        loras=(LoraUse(lora=lora),),
        controls=(ControlUse(kind="canny", image=edges),),
        styles=(StyleUse(image=look),),
    )
    picture = keep(workspace, bear, settings, **{lora: sha256})
    scores = {score.name: score for score in score_picture(picture, workspace=workspace, models=models)}
    assert set(scores) == {"identity", "layout", "style", "prompt"}
    assert scores["layout"].value == 1  # the very photo that its edges were taken from
    assert scores["identity"].of == "bear"
    assert scores["identity"].level == "good"
    assert scores["style"].level == "bad"  # a photo is not neon


def test_a_map_is_taken_again_as_it_was_taken(workspace: Workspace, models: ModelCache) -> None:
    photo = Image.open(SAMPLES_FOLDER / "compositions" / "coffee.png").convert("RGB")
    job = Studio(workspace).extract(workspace.keep_image(photo), "canny", {"low_threshold": 20, "high_threshold": 60})
    while job.state in ("queued", "running"):
        time.sleep(0.05)
    fine, by_hand = job.result()["map"], workspace.keep_image(detect("canny", photo, {"low_threshold": 30}))

    def edges_kept(of: str) -> float:
        use = ControlUse(kind="canny", image=of, detected=True)
        picture = keep(workspace, photo, GenerateSettings(prompt="a cup", controls=(use,)))
        return next(s.value for s in score_picture(picture, workspace=workspace, models=models) if s.name == "layout")

    assert edges_kept(fine) == 1
    assert edges_kept(by_hand) < 1


def test_scores_stay_beside_the_picture_and_go_with_it(workspace: Workspace, models: ModelCache) -> None:
    grey = Image.new("RGB", (64, 64), "grey")
    picture = keep(workspace, grey, GenerateSettings(prompt="a red mug"))
    bytes_before = workspace.picture_path(picture).read_bytes()
    assert kept_scores(picture, workspace=workspace) == []
    measured = score_picture(picture, workspace=workspace, models=models)
    assert [score.name for score in measured] == ["prompt"]
    assert kept_scores(picture, workspace=workspace) == measured
    assert workspace.picture_path(picture).read_bytes() == bytes_before
    workspace.delete_picture(picture)
    assert not list((workspace.root / "pictures").iterdir())
    with pytest.raises(NotFound):
        kept_scores(picture, workspace=workspace)


def test_what_is_off_or_gone_is_left_out(workspace: Workspace, models: ModelCache, tmp_path: Path) -> None:
    lora, sha256 = taught(workspace, tmp_path, "product")
    grey = Image.new("RGB", (64, 64), "grey")
    settings = GenerateSettings(
        prompt="a castle",
        loras=(LoraUse(lora=lora),),
        controls=(ControlUse(kind="canny", image="0" * 64), ControlUse(kind="canny", image="1" * 64, strength=0)),
        styles=(StyleUse(image="0" * 64),),
    )
    retrained = keep(workspace, grey, settings, **{lora: "of another file"})
    assert score_picture(retrained, workspace=workspace, models=models) == []
    orphaned = keep(workspace, grey, settings, **{lora: sha256})
    workspace.delete_lora(lora)
    assert score_picture(orphaned, workspace=workspace, models=models) == []


def test_a_style_has_no_identity(workspace: Workspace, models: ModelCache, tmp_path: Path) -> None:
    lora, sha256 = taught(workspace, tmp_path, "style")
    settings = GenerateSettings(prompt="a castle", loras=(LoraUse(lora=lora),))
    picture = keep(workspace, Image.new("RGB", (64, 64), "grey"), settings, **{lora: sha256})
    assert score_picture(picture, workspace=workspace, models=models) == []
