"""Models in the folder of TRIPOD_MODELS: which are found, as what, and that they are what diffusers loads."""

import json
import pickle
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from huggingface_hub.errors import GatedRepoError
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from engine import families
from engine.errors import BadModel, MissingModel, NotFound
from engine.families.base import weights_hash
from engine.families.pipelines import CONFIGURATIONS
from engine.generation import render
from engine.settings import GenerateSettings
from tests.tiny import SIDE_PX, as_checkpoint, make_tiny_base, make_tiny_sdxl, without_weights

SETTINGS = GenerateSettings(prompt="a red mug", width=SIDE_PX, height=SIDE_PX, steps=3, guidance_scale=4.0, seed=3)
SHIPPED = ["starter", "sd15", "sdxl", "sd35_medium", "sd35_large", "flux_dev", "flux_krea", "flux_schnell"]
SHIPPED += ["z_image_turbo", "z_image", "qwen_image", "flux2_klein", "flux2_klein_base"]
MAKERS = {"sd15": make_tiny_base, "sdxl": make_tiny_sdxl}
PIPELINES: dict[str, Any] = {"sd15": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("tiny")
    return {family: make(root / family) for family, make in MAKERS.items()}


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRIPOD_MODELS", str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
def tiny_configurations(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The sizes of the tiny bases in place of the published ones, without any weights."""
    monkeypatch.setattr("engine.families.pipelines.CONFIGURATIONS", tmp_path / "configurations")
    return {name: without_weights(folder, tmp_path / "configurations" / name) for name, folder in folders.items()}


def draw(base: families.Base, parts: families.Components) -> np.ndarray:
    return np.asarray(render(families.family(base.family).pipeline(parts, "default"), SETTINGS, base))


def plain(family: str, folder: Path) -> np.ndarray:
    pipeline = PIPELINES[family].from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return np.asarray(
        pipeline(
            SETTINGS.prompt,
            width=SIDE_PX,
            height=SIDE_PX,
            num_inference_steps=SETTINGS.steps,
            guidance_scale=SETTINGS.guidance_scale,
            generator=torch.Generator().manual_seed(SETTINGS.seed),
        ).images[0]
    )


def test_without_the_folder_there_is_what_ships(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TRIPOD_MODELS", raising=False)
    assert list(families.BASES) == SHIPPED
    monkeypatch.setenv("TRIPOD_MODELS", str(tmp_path / "nowhere"))
    assert list(families.BASES) == SHIPPED
    assert families.refused_models() == []


@pytest.mark.parametrize("family", MAKERS)
def test_a_checkpoint_in_one_file_is_its_folder(
    folders: dict[str, Path], tiny_configurations: dict[str, Path], models: Path, family: str
) -> None:
    more = {"cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(48)[None]}
    file = as_checkpoint(folders[family], models / "my-model_v2.safetensors", more if family == "sd15" else None)
    base = families.base("my-model_v2")
    assert (base.family, base.title, base.source, base.is_file) == (family, "my-model_v2", str(file), True)
    assert base.controlnets == families.base(family).controlnets
    assert not list(tiny_configurations[family].glob("**/*.safetensors"))

    own = families.family(family)
    parts = own.load(base, torch.float32, "cpu")
    expected = PIPELINES[family].from_pretrained(folders[family])
    for name in ("unet", "vae", *base.spec.text_encoders):
        state = getattr(parts, name).state_dict()
        for key, tensor in getattr(expected, name).state_dict().items():
            assert torch.equal(state[key], tensor), (name, key)
    assert np.array_equal(draw(base, parts), plain(family, folders[family]))
    assert own.layers(base) == own.layers(replace(base, source=str(folders[family])))
    assert weights_hash(base) == sha256(file.read_bytes()).hexdigest()
    half = own.load(base, torch.float16, "cpu")
    assert {p.dtype for name in ("unet", *base.spec.text_encoders) for p in getattr(half, name).parameters()} == {
        torch.float16
    }


@pytest.mark.parametrize("family", MAKERS)
def test_a_folder_of_diffusers(folders: dict[str, Path], models: Path, family: str) -> None:
    shutil.copytree(folders[family], models / "mine")
    base = families.base("mine")
    assert (base.family, base.default_size_px, base.variant) == (family, SIDE_PX, None)
    assert base.controlnets["canny"] == str(models / "mine" / "controlnet-canny")
    assert base.ip_adapter == str(models / "mine" / "ip_adapter" / "ip-adapter.safetensors")
    parts = families.family(family).load(base, torch.float32, "cpu")
    assert np.array_equal(draw(base, parts), plain(family, folders[family]))


def test_a_folder_in_half_precision_only(folders: dict[str, Path], models: Path) -> None:
    StableDiffusionXLPipeline.from_pretrained(folders["sdxl"], dtype=torch.float16).save_pretrained(
        models / "half", variant="fp16"
    )
    base = families.base("half")
    assert base.variant == "fp16"
    parts = families.family("sdxl").load(base, torch.float32, "cpu")
    assert next(parts.denoiser.parameters()).dtype == torch.float32
    assert len(weights_hash(base)) == 64


@pytest.mark.parametrize(
    ("more", "metadata", "expected", "rescale"),
    [
        ({}, {}, {"prediction_type": "epsilon", "timestep_spacing": "leading"}, 0.0),
        ({}, {"modelspec.prediction_type": "v"}, {"prediction_type": "v_prediction"}, 0.0),
        (
            {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)},
            {},
            {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
            0.7,
        ),
    ],
    ids=["noise", "velocity", "velocity from pure noise"],
)
def test_what_a_checkpoint_predicts(
    folders: dict[str, Path],
    tiny_configurations: dict[str, Path],
    models: Path,
    more: dict[str, Any],
    metadata: dict[str, str],
    expected: dict[str, Any],
    rescale: float,
) -> None:
    as_checkpoint(folders["sdxl"], models / "xl.safetensors", more, **metadata)
    base = families.base("xl")
    parts = families.family("sdxl").load(base, torch.float32, "cpu")
    assert base.guidance_rescale == rescale
    assert {key: parts.scheduler.config[key] for key in expected} == expected
    assert draw(base, parts).std() > 0


def write(path: Path, **shapes: tuple[int, ...]) -> None:
    save_file({name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()}, path)


def test_what_is_no_base_is_refused_in_a_sentence(
    folders: dict[str, Path], models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(models / "flux.safetensors", double_blocks__0__img_attn__qkv__weight=(2, 2))
    write(models / "lora.safetensors", lora_unet_down_blocks_0__lora_down__weight=(2, 2))
    write(models / "refiner.safetensors", conditioner__embedders__0__model__ln_final__weight=(2,))
    write(models / "other.safetensors", encoder__block__weight=(2,), shared__weight=(2,))
    whole = as_checkpoint(folders["sdxl"], models / "cut.safetensors").read_bytes()
    (models / "cut.safetensors").write_bytes(whole[:-10])
    (models / "noise.safetensors").write_bytes(b"\x00" * 64)
    (models / "old.ckpt").write_bytes(pickle.dumps({"state_dict": {}}))
    (models / "empty").mkdir()
    shutil.copytree(folders["sdxl"], models / "video")
    index = models / "video" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": "WanPipeline"}))
    shutil.copytree(folders["sd15"], models / "sd2")
    config = models / "sd2" / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"hidden_size": 1024}))
    shutil.copytree(folders["sdxl"], models / "playground")
    index = models / "playground" / "model_index.json"
    edm = {"scheduler": ["diffusers", "EDMDPMSolverMultistepScheduler"]}
    index.write_text(json.dumps(json.loads(index.read_text()) | edm))
    as_checkpoint(folders["sdxl"], models / "cos.safetensors", {"edm_vpred.sigma_max": torch.tensor(120.0)})
    shutil.copytree(folders["sd15"], models / "sd15")
    (models / "notes.txt").write_text("mine")
    (models / ".cache").mkdir()

    assert list(families.BASES) == SHIPPED
    expected = {
        "flux": "flux.safetensors holds Flux. Use a whole checkpoint of Stable Diffusion 1.5, Stable Diffusion XL,",
        "lora": "lora.safetensors holds a LoRA",
        "refiner": "holds the refiner of Stable Diffusion XL",
        "other": "no model that is known here: the names of its tensors begin with encoder, shared",
        "cut": "cut.safetensors is cut short. Download it again",
        "noise": "noise.safetensors is damaged, or not a safetensors file",
        "old": "old.ckpt is a pickle",
        "empty": "model_index.json is missing",
        "video": "video holds a WanPipeline",
        "sd2": "sd2 holds Stable Diffusion 2",
        "playground": "playground holds a model that learned from pictures noised as in EDM",
        "cos": "cos.safetensors holds a UNet that learned from pictures noised as in EDM",
    }
    for name, sentence in expected.items():
        with pytest.raises(BadModel) as refused:
            families.base(name)
        assert sentence in str(refused.value)
    sentences = {str(error) for error in families.refused_models()}
    assert len(sentences) == len(expected) + 1
    assert "There are two bases called sd15. Rename sd15." in sentences
    with pytest.raises(NotFound):
        families.base("notes")
    with pytest.raises(NotFound):  # names only, never paths
        families.base(str(models / "video"))


def test_a_checkpoint_for_inpainting(folders: dict[str, Path], models: Path) -> None:
    wider = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(16, 9, 3, 3)}
    as_checkpoint(folders["sdxl"], models / "fill.safetensors", wider)
    with pytest.raises(
        BadModel, match="takes 9 channels, for inpainting or editing, where Stable Diffusion XL takes 4"
    ):
        families.base("fill")


def test_a_file_that_changes_is_read_again(folders: dict[str, Path], models: Path) -> None:
    write(models / "mine.safetensors", double_blocks__0__weight=(2, 2))
    assert "mine" not in families.BASES
    as_checkpoint(folders["sdxl"], models / "mine.safetensors")
    assert families.base("mine").family == "sdxl"


def count(model_class: Any, config: Any) -> int:
    with torch.device("meta"):
        model = model_class.from_config(config) if hasattr(model_class, "from_config") else model_class(config)
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_configurations_that_ship_have_the_published_sizes() -> None:
    """Numbers of parameters as published for Stable Diffusion 1.5 and XL."""
    published = {
        "sd15": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
        "sdxl": {"unet": 2_567_463_684, "vae": 83_653_863, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840},
    }
    classes: dict[str, Any] = {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    }
    for family, sizes in published.items():
        for part, size in sizes.items():
            folder = CONFIGURATIONS / family / part
            in_transformers = part.startswith("text_encoder")
            config = CLIPTextConfig.from_pretrained(folder) if in_transformers else classes[part].load_config(folder)
            assert count(classes[part], config) == size, (family, part)


def test_the_tokenizers_that_ship_are_clip_s() -> None:
    """The numbers that CLIP gives a well-known caption; XL's second encoder pads with "!", which is 0."""
    tokens = [49406, 320, 1125, 539, 320, 2368, 49407]
    for part, padding in (("sd15/tokenizer", 49407), ("sdxl/tokenizer", 49407), ("sdxl/tokenizer_2", 0)):
        tokenizer = CLIPTokenizer.from_pretrained(CONFIGURATIONS / part)
        ids = tokenizer("a photo of a cat", padding="max_length", truncation=True).input_ids
        assert ids == tokens + [padding] * (77 - len(tokens))


def test_a_gated_model_says_where_the_token_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        request = httpx2.Request("GET", "https://hub.invalid/")
        raise GatedRepoError("gated", response=httpx2.Response(403, request=request))

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(MissingModel, match=r"stabilityai/.+ only to those who accept its terms\..+HF_TOKEN"):
        families.family("sdxl").load(families.base("sdxl"), torch.float32, "cpu")


@pytest.mark.parametrize(
    "files", [("diffusion_pytorch_model.safetensors",), ("diffusion_pytorch_model.fp16.safetensors",)]
)
def test_a_controlnet_is_loaded_in_the_precision_it_is_kept_in(
    folders: dict[str, Path], models: Path, files: tuple[str, ...]
) -> None:
    shutil.copytree(folders["sdxl"], models / "mine")
    folder = models / "mine" / "controlnet-canny"
    (file,) = folder.glob("*.safetensors")
    file.rename(folder / files[0])
    family, base = families.family("sdxl"), families.base("mine")
    assert family.load_controlnet(base, "canny", torch.float32, "cpu").dtype == torch.float32
    (folder / files[0]).unlink()
    with pytest.raises(MissingModel, match="no safetensors weights"):
        family.load_controlnet(base, "canny", torch.float32, "cpu")
