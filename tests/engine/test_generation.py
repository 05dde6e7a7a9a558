"""Pictures from settings: what diffusers makes of them, twice the same bytes, and stopping in the middle."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler, StableDiffusionPipeline
from PIL import Image
from torch.nn.functional import avg_pool2d

from engine import families
from engine.cache import ModelCache, ValueCache
from engine.controls import detect
from engine.errors import BadLora, BadSettings, Cancelled, MissingModel, NotFound
from engine.families.base import weights_hash
from engine.families.unet import UNetComponents
from engine.generation import control_map, generate
from engine.jobs import Work
from engine.lora.files import import_lora
from engine.preview import coloured, latent_colours
from engine.recipe import read_png
from engine.settings import MAX_SEED, ControlUse, GenerateSettings, LoraUse, StyleUse
from engine.workspace import LoraRecord, Workspace
from tests.tiny import SCHEDULER, SIDE_PX, make_tiny_base, make_tiny_lora

SETTINGS = GenerateSettings(prompt="a red mug", width=SIDE_PX, height=SIDE_PX, steps=6, guidance_scale=3.0, seed=7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = make_tiny_base(tmp_path_factory.mktemp("tiny") / "starter")
    make_tiny_lora(folder, folder.parent / "lora.safetensors", text_encoder=True)
    return folder


@pytest.fixture(autouse=True)
def starter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> families.Base:
    monkeypatch.setenv("TRIPOD_STARTER", str(folder))
    return families.base("starter")


@pytest.fixture(scope="module")
def cache() -> ModelCache:
    return ModelCache()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def lora(workspace: Workspace, folder: Path) -> LoraRecord:
    return import_lora(workspace, folder.parent / "lora.safetensors", name="Mug", base="starter")


class Told(Work):
    """A job's work that also remembers what it was told, and is cancelled after so many steps."""

    def __init__(self, folder: Path, stop_after: int | None = None) -> None:
        folder.mkdir(exist_ok=True)
        super().__init__(folder, {})
        self.steps: list[tuple[int, int]] = []
        self.previews: list[Image.Image] = []
        self.notes: list[str] = []
        self.stop_after = stop_after

    def progress(self, step: int, total: int, message: str = "") -> None:
        super().progress(step, total, message)
        self.steps.append((step, total))
        if len(self.steps) == self.stop_after:
            (self.folder / "cancel").touch()

    def preview(self, image: Image.Image) -> None:
        super().preview(image)
        self.previews.append(image)

    def note(self, message: str) -> None:
        super().note(message)
        self.notes.append(message)


@pytest.fixture
def work(tmp_path: Path) -> Told:
    return Told(tmp_path / "job")


def pixels(workspace: Workspace, picture_id: str) -> np.ndarray:
    return np.asarray(Image.open(workspace.picture_path(picture_id)))


def photo(seed: int, width: int = SIDE_PX, height: int = SIDE_PX) -> Image.Image:
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.NEAREST)


def everything(workspace: Workspace, lora: LoraRecord) -> GenerateSettings:
    control, style = workspace.keep_image(photo(1)), workspace.keep_image(photo(2))
    return SETTINGS.replace(
        loras=(LoraUse(lora=lora.id, weight=0.8),),
        controls=(ControlUse(kind="canny", image=control, strength=0.7, end=0.8),),
        styles=(StyleUse(image=style, start=0.2),),
    )


def test_the_picture_of_plain_diffusers(workspace: Workspace, cache: ModelCache, work: Told, folder: Path) -> None:
    settings = SETTINGS.replace(negative_prompt="blue", scheduler="euler_a")
    (picture,) = generate(settings, workspace=workspace, cache=cache, work=work)["pictures"]

    pipeline: Any = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.scheduler = EulerAncestralDiscreteScheduler.from_config(pipeline.scheduler.config)
    expected = pipeline(
        settings.prompt,
        negative_prompt=settings.negative_prompt,
        width=SIDE_PX,
        height=SIDE_PX,
        num_inference_steps=settings.steps,
        guidance_scale=settings.guidance_scale,
        guidance_rescale=0.7,
        generator=torch.Generator().manual_seed(settings.seed),
    ).images[0]
    assert np.array_equal(pixels(workspace, picture), np.asarray(expected))


def test_one_of_several_is_the_file_its_seed_gives_alone(
    workspace: Workspace, cache: ModelCache, work: Told, lora: LoraRecord
) -> None:
    settings = everything(workspace, lora)
    several = generate(settings.replace(count=3), workspace=workspace, cache=cache, work=work)["pictures"]
    assert len(several) == 3
    alone = generate(settings.replace(seed=settings.seed + 1), workspace=workspace, cache=cache, work=work)["pictures"]
    files = [workspace.picture_path(picture).read_bytes() for picture in (*several, *alone)]
    assert files[1] == files[3]
    assert len(set(files)) == 3


def test_the_recipe_in_a_picture_makes_it_again(
    workspace: Workspace, cache: ModelCache, work: Told, lora: LoraRecord, starter: families.Base
) -> None:
    (first,) = generate(everything(workspace, lora), workspace=workspace, cache=cache, work=work)["pictures"]
    recipe = read_png(workspace.picture_path(first))
    assert recipe.settings == everything(workspace, lora)
    assert (recipe.base_hash, recipe.lora_hashes) == (weights_hash(starter), {lora.id: lora.sha256})

    (second,) = generate(recipe.settings, workspace=workspace, cache=ModelCache(), work=work)["pictures"]
    assert workspace.picture_path(first).read_bytes() == workspace.picture_path(second).read_bytes()


def test_nothing_of_one_picture_is_left_in_the_next(
    workspace: Workspace, cache: ModelCache, work: Told, lora: LoraRecord
) -> None:
    before, _, after = (
        pixels(workspace, generate(settings, workspace=workspace, cache=cache, work=work)["pictures"][0])
        for settings in (SETTINGS, everything(workspace, lora), SETTINGS)
    )
    assert np.array_equal(before, after)


def test_without_guidance(workspace: Workspace, cache: ModelCache, work: Told, lora: LoraRecord) -> None:
    settings = everything(workspace, lora).replace(guidance_scale=1.0)
    assert len(generate(settings, workspace=workspace, cache=cache, work=work)["pictures"]) == 1


def test_seeds_start_again_after_the_largest(workspace: Workspace, cache: ModelCache, work: Told) -> None:
    settings = SETTINGS.replace(seed=MAX_SEED, count=2, steps=1)
    pictures = generate(settings, workspace=workspace, cache=cache, work=work)["pictures"]
    assert [read_png(workspace.picture_path(picture)).seed for picture in pictures] == [MAX_SEED, 0]


def test_every_step_is_told_and_some_are_shown(workspace: Workspace, cache: ModelCache, work: Told) -> None:
    generate(SETTINGS.replace(count=2), workspace=workspace, cache=cache, work=work)
    assert work.steps == [(step, 12) for step in range(1, 13)]
    assert 2 <= len(work.previews) <= 8
    assert {image.size for image in work.previews} == {(SIDE_PX, SIDE_PX)}


@pytest.mark.parametrize(("stop_after", "finished"), [(2, 0), (8, 1)])
def test_cancelling_stops_at_the_next_step_and_keeps_what_is_finished(
    workspace: Workspace, cache: ModelCache, tmp_path: Path, lora: LoraRecord, stop_after: int, finished: int
) -> None:
    work = Told(tmp_path / "job", stop_after)
    with pytest.raises(Cancelled):
        generate(everything(workspace, lora).replace(count=2), workspace=workspace, cache=cache, work=work)
    assert len(work.steps) == stop_after
    assert len(workspace.pictures()) == finished


def test_what_a_base_cannot_do_is_said_before_anything_is_loaded(workspace: Workspace, work: Told) -> None:
    cache, image = ModelCache(), workspace.keep_image(photo(1))
    refused = {
        MissingModel: SETTINGS.replace(controls=(ControlUse(kind="depth", image=image),)),
        BadSettings: SETTINGS.replace(styles=(StyleUse(image=image, target="style"),)),
        NotFound: SETTINGS.replace(loras=(LoraUse(lora="gone"),)),
    }
    for error, settings in refused.items():
        with pytest.raises(error):
            generate(settings, workspace=workspace, cache=cache, work=work)
    with pytest.raises(BadSettings, match="at most 50"):
        generate(SETTINGS.replace(scheduler="lcm", steps=51), workspace=workspace, cache=cache, work=work)
    assert cache.keys() == []


def test_a_lora_that_does_not_fit_is_called_by_its_name(
    workspace: Workspace, cache: ModelCache, work: Told, tmp_path: Path
) -> None:
    (tmp_path / "cut.safetensors").write_bytes(b"cut")
    record = workspace.add_lora(
        tmp_path / "cut.safetensors", name="Old mug", family="sd15", base="sd15", trigger="", class_name="", rank=4
    )
    with pytest.raises(BadLora, match="Old mug is damaged"):
        generate(SETTINGS.replace(loras=(LoraUse(lora=record.id),)), workspace=workspace, cache=cache, work=work)


def test_a_prompt_that_is_cut_is_noted(workspace: Workspace, cache: ModelCache, work: Told) -> None:
    generate(SETTINGS.replace(prompt="x" * 60, steps=1), workspace=workspace, cache=cache, work=work)
    assert work.notes == ["The prompt has 62 tokens; this base reads the first 48."]


def test_a_control_photo_is_cut_to_the_picture_around_its_middle(workspace: Workspace) -> None:
    wide = photo(3, width=192, height=64)
    use = ControlUse(kind="canny", image=workspace.keep_image(wide))
    middle = wide.crop((64, 0, 128, 64))
    taken = control_map(use, 64, 64, workspace, ValueCache())
    assert np.array_equal(np.asarray(taken), np.asarray(detect("canny", middle)))
    ready = control_map(replace(use, kind="openpose", detected=True), 64, 64, workspace, ValueCache())
    assert np.array_equal(np.asarray(ready), np.asarray(middle))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_preview_s_guess_is_exact_for_a_denoiser_that_knows(prediction_type: str) -> None:
    scheduler: Any = DDIMScheduler(**{**SCHEDULER, "prediction_type": prediction_type})
    random = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 1, 8, 4, 4, generator=random)
    timestep = torch.tensor([600])
    noisy = scheduler.add_noise(clean, noise, timestep)
    known = noise if prediction_type == "epsilon" else scheduler.get_velocity(clean, noise, timestep)
    guess = UNetComponents.clean_latents(None, scheduler, (noisy, timestep[0]), {}, (known,))  # type: ignore[arg-type]
    assert torch.allclose(guess, clean, atol=1e-5)


class LinearEncoder:
    """An autoencoder whose latents are a known affine map of the mean colours of 8 px cells."""

    weights = torch.tensor([[1.0, 0.0, 0.5], [0.0, 2.0, 0.0], [0.0, 0.0, -1.0], [1.0, 1.0, 1.0]])

    def latents_of(self, pictures: torch.Tensor) -> torch.Tensor:
        return torch.einsum("lc,bchw->blhw", self.weights, avg_pool2d(pictures, 8)) + 3


def test_latent_colours_undo_a_linear_encoder() -> None:
    colours = latent_colours(LinearEncoder().latents_of, 8)
    pictures = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = LinearEncoder().latents_of(pictures)
    found = torch.einsum("blhw,lc->bchw", latents, colours[:-1]) + colours[-1].reshape(1, 3, 1, 1)
    assert torch.allclose(found, avg_pool2d(pictures, 8), atol=1e-4)


def test_latent_colours_of_a_real_autoencoder(starter: families.Base) -> None:
    parts = families.family("sd15").load(starter, torch.float32, "cpu")
    colours = latent_colours(parts.latents_of, 8)
    assert colours.shape == (parts.vae.config.latent_channels + 1, 3)


def test_latents_are_coloured_cell_by_cell() -> None:
    latents = torch.zeros(1, 2, 2, 2)
    latents[0, 0, 0, 1] = 1.0
    colours = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0], [-1.0, -1.0, 1.0]])
    image = coloured(latents, colours, (2, 2))
    assert [image.getpixel((x, y)) for y in range(2) for x in range(2)] == [
        (0, 0, 255),
        (255, 0, 255),
        (0, 0, 255),
        (0, 0, 255),
    ]


def test_lines_of_a_ready_canny_map_stay_lines_when_it_shrinks(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    lines = Image.new("L", (256, 256))
    for x in range(256):
        lines.putpixel((x, 101), 255)
    use = ControlUse(kind="canny", image=workspace.keep_image(lines), detected=True)
    taken = np.asarray(control_map(use, 64, 64, workspace, ValueCache()))
    assert (taken[101 // 4] == 255).all()
    assert np.count_nonzero(taken) == taken[101 // 4].size
