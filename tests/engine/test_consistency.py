"""Consistency sheets: the set score in closed form, and a whole sheet with the tiny base."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from engine.cache import ModelCache
from engine.consistency import Cell, Drawn, cells_of, make_sheet, set_score, subject_of
from engine.errors import BadSettings
from engine.jobs import Work
from engine.recipe import read_png
from engine.samples import load_samples
from engine.scores.identity import Method, Reference
from engine.scores.score import Score
from engine.settings import ControlUse, CropBox, GenerateSettings, LoraUse, SheetSettings
from engine.workspace import Photo, Workspace
from tests.tiny import SIDE_PX, make_tiny_base, make_tiny_lora

RED, GREEN, YELLOW = ((255, 0, 0), (0, 255, 0), (255, 255, 0))


def by_colour(images: Sequence[Image.Image], models: ModelCache) -> torch.Tensor:
    pixels = torch.tensor([image.getpixel((0, 0)) for image in images]).float()
    return torch.nn.functional.normalize(pixels, dim=1)


def photos(ceiling: float) -> Reference:
    method = Method(name="colour", title="", features=by_colour, similarity=lambda one, other: one @ other.T)
    return Reference(method=method, features=torch.eye(3), ceiling=ceiling)


def drawn(*identities: float, prompt: float | None = None) -> list[Drawn]:
    cell = Cell(prompt="", pose=None, settings=GenerateSettings(prompt="x"))
    others = () if prompt is None else (Score(name="prompt", title="", value=prompt, raw=prompt, method=""),)
    return [
        Drawn(
            cell=cell,
            picture="",
            scores=(Score(name="identity", title="", value=value, raw=value, method=""), *others),
            rolls=1,
        )
        for value in identities
    ]


def pictures(*colours: tuple[int, int, int]) -> list[Image.Image]:
    return [Image.new("RGB", (8, 8), colour) for colour in colours]


def test_one_picture_in_every_place_cannot_win() -> None:
    figures = set_score(drawn(1.0, 1.0, 1.0), pictures(RED, RED, RED), photos(0.5), ModelCache())
    assert figures["identity"] == 1
    assert figures["variety"] == pytest.approx(0, abs=1e-6)
    assert figures["set_score"] == pytest.approx(0, abs=1e-5)


def test_variety_is_a_share_of_that_of_the_photos() -> None:
    """Red and yellow have a cosine of 1 / sqrt(2); photos at 0.5 among themselves are 0.5 apart."""
    figures = set_score(drawn(0.8, 0.4), pictures(RED, YELLOW), photos(0.5), ModelCache())
    variety = (1 - 2**-0.5) / 0.5
    assert figures["variety"] == pytest.approx(variety, abs=1e-6)
    assert figures["identity"] == pytest.approx(0.6)
    assert figures["agreement"] == 1
    assert figures["set_score"] == pytest.approx(3 / (1 / variety + 1 + 1 / 0.6), abs=1e-6)


def test_pictures_that_do_not_agree_are_no_set() -> None:
    """Two of the six pairs, counted both ways, are alike; photos are at 0.5 among themselves."""
    figures = set_score(drawn(1.0, 1.0, 1.0), pictures(RED, RED, GREEN), photos(0.5), ModelCache())
    assert figures["agreement"] == pytest.approx((2 / 6) / 0.5, abs=1e-6)
    assert figures["variety"] == 1
    apart = set_score(drawn(1.0, 1.0), pictures(RED, GREEN), photos(0.5), ModelCache())
    assert apart["agreement"] == apart["set_score"] == 0


def test_prompts_count_where_they_were_scored() -> None:
    figures = set_score(drawn(1.0, 1.0, prompt=0.25), pictures(RED, GREEN), photos(0.0), ModelCache())
    assert figures["variety"] == pytest.approx(1)
    assert figures["set_score"] == pytest.approx(3 / (1 + 1 + 4))


def test_every_prompt_is_drawn_in_every_pose_from_a_seed_of_its_own() -> None:
    poses = tuple(ControlUse(kind="openpose", image=digit * 64, detected=True) for digit in "12")
    settings = SheetSettings(
        picture=GenerateSettings(prompt="a bear", seed=7, count=4, loras=(LoraUse(lora="bear"),)),
        prompts=("at night", " on a table "),
        poses=poses,
    )
    cells = cells_of(settings)
    assert [(cell.prompt, cell.pose) for cell in cells] == [(p, q) for p in ("at night", "on a table") for q in poses]
    assert [cell.settings.seed for cell in cells] == [7, 8, 9, 10]
    assert all(cell.settings.count == 1 for cell in cells)
    assert cells[2].settings.prompt == "a bear on a table"
    assert cells[2].settings.controls == (poses[0],)


@pytest.fixture(scope="module")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("starter"))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


def taught(workspace: Workspace, folder: Path, starter: Path, *, with_photos: bool = True) -> str:
    """A LoRA for the tiny base that was taught with two photos of a bear, or whose photos are gone."""
    dataset = workspace.create_dataset("Bear")
    kept = []
    for number, file in enumerate(load_samples().subject("teddy_bear").photos[:2]):
        image = Image.open(file).convert("RGB")
        kept.append(
            Photo(
                id=str(number),
                file=file.name,
                image=workspace.keep_image(image),
                width_px=image.width,
                height_px=image.height,
                crop=CropBox(left_px=0, top_px=0, side_px=image.width),
            )
        )
    workspace.save_dataset(dataset.replace(photos=tuple(kept)))
    if not with_photos:
        workspace.delete_dataset(dataset.id)
    return workspace.add_lora(
        make_tiny_lora(starter, folder / "lora.safetensors"),
        name="Bear",
        family="sd15",
        base="starter",
        trigger="sks",
        class_name="bear",
        rank=4,
        settings={"goal": "product", "dataset": dataset.id},
    ).id


def asked(lora: str, **changes: object) -> SheetSettings:
    picture = GenerateSettings(
        prompt="a bear", width=SIDE_PX, height=SIDE_PX, steps=2, loras=(LoraUse(lora=lora),), seed=3
    )
    return SheetSettings(picture=picture, prompts=("at night", "on a table")).replace(**changes)


@pytest.mark.parametrize(("accept", "rolls"), [(0.0, 1), (1.0, 3)])
def test_a_sheet(
    accept: float, rolls: int, workspace: Workspace, tmp_path: Path, starter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise is no bear: with a threshold it is drawn again to the end, and the best of the rolls is what stays."""
    monkeypatch.setenv("TRIPOD_STARTER", str(starter))
    lora = taught(workspace, tmp_path, starter)
    settings = asked(lora, accept=accept)
    work = Work(tmp_path, {})
    result = make_sheet(settings, workspace=workspace, models=ModelCache(), work=work)
    kept = [cell["picture"] for cell in result["cells"]]
    assert {record.id for record in workspace.pictures()} == set(kept)
    assert [cell["rolls"] for cell in result["cells"]] == [rolls, rolls]
    assert [read_png(workspace.picture_path(picture)).settings.prompt for picture in kept] == [
        "a bear at night",
        "a bear on a table",
    ]
    width, height = workspace.image(result["sheet"]).size
    assert width > 2 * 256
    assert height > 256
    assert 0 <= result["set_score"] <= 1
    with zipfile.ZipFile(tmp_path / "sheet.zip") as archive:
        assert archive.namelist() == ["sheet.png", "01-at-night.png", "02-on-a-table.png"]
        assert archive.read("01-at-night.png") == workspace.picture_path(kept[0]).read_bytes()


def test_without_photos_there_is_nothing_to_compare_with(workspace: Workspace, tmp_path: Path, starter: Path) -> None:
    lora = taught(workspace, tmp_path, starter, with_photos=False)
    with pytest.raises(BadSettings, match="no photos here that the LoRA 'Bear' was taught with"):
        subject_of(asked(lora), workspace)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"prompts": ()}, "no prompts"),
        ({"prompts": ("a", " ")}, "One of the prompts is empty"),
        ({"prompts": tuple("abcdefghi") * 8}, "72 pictures"),
        ({"retries": 9}, "Retries is 9"),
    ],
)
def test_what_no_sheet_can_be(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(BadSettings, match=problem):
        asked("bear", **changes)


def test_a_sheet_needs_a_lora() -> None:
    with pytest.raises(BadSettings, match="There is no LoRA"):
        SheetSettings(picture=GenerateSettings(prompt="a bear"), prompts=("at night",))
