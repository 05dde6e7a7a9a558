"""The starter that ships: plain diffusers and transformers load it, and it is as small as promised."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.families.starter import PRESET
from engine.starter import corpus
from engine.starter.linear_code import Code
from engine.starter.render import render

BASE_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
MEGABYTE = 1e6


def size_mb(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / MEGABYTE


def test_sizes() -> None:
    assert sum(size_mb(PRESET / part) for part in BASE_PARTS) <= 60
    assert size_mb(PRESET) <= 200


def test_weights_are_safetensors_in_half_precision() -> None:
    from safetensors import safe_open

    assert not [file for file in PRESET.rglob("*") if file.suffix in (".bin", ".pt", ".ckpt", ".pth", ".pkl")]
    for part in ("unet", "vae", "text_encoder"):
        (file,) = [f for f in (PRESET / part).glob("*.safetensors") if f.name != "linear_code.safetensors"]
        with safe_open(file, "pt") as weights:
            assert {weights.get_slice(key).get_dtype() for key in weights.keys()} == {"F16"}  # noqa: SIM118


def test_plain_diffusers_draws_with_everything_attached() -> None:
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

    pipeline = StableDiffusionControlNetPipeline.from_pretrained(
        PRESET,
        controlnet=ControlNetModel.from_pretrained(PRESET / "controlnet-union", torch_dtype=torch.float32),
        image_encoder=CLIPVisionModelWithProjection.from_pretrained(PRESET / "ip_adapter" / "image_encoder"),
        feature_extractor=CLIPImageProcessor.from_pretrained(PRESET / "ip_adapter" / "image_encoder"),
        torch_dtype=torch.float32,
        use_safetensors=True,
    )
    pipeline.load_ip_adapter(str(PRESET), subfolder="ip_adapter", weight_name="ip-adapter.safetensors")
    side_px = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    square = Image.new("RGB", (side_px, side_px))
    picture = pipeline("a red mug", image=square, ip_adapter_image=square, num_inference_steps=2).images[0]
    assert picture.size == (side_px, side_px)


def test_the_encoder_that_ships_computes_the_code_that_ships() -> None:
    from diffusers import AutoencoderKL
    from safetensors.torch import load_file

    code = Code(**load_file(PRESET / "vae" / "linear_code.safetensors"))
    autoencoder = AutoencoderKL.from_pretrained(PRESET / "vae", torch_dtype=torch.float32)
    picture = torch.from_numpy(render(corpus.scene(1, held_out=True)).image).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        mean = autoencoder.encode(picture).latent_dist.mean
    assert (mean - code.encode(picture)).square().mean().sqrt() < 0.01


@pytest.mark.parametrize("index", [0, 3])
def test_captioner_says_something_in_the_words_of_the_world(index: int) -> None:
    from transformers import BlipForConditionalGeneration, BlipProcessor

    processor = BlipProcessor.from_pretrained(PRESET / "captioner")
    model = BlipForConditionalGeneration.from_pretrained(PRESET / "captioner", torch_dtype=torch.float32).eval()
    picture = Image.fromarray(np.asarray(render(corpus.scene(index, held_out=True)).image))
    with torch.no_grad():
        inputs = processor(images=picture, return_tensors="pt")  # type: ignore[call-arg]
        words = model.generate(**inputs, max_new_tokens=40)
    assert len(processor.decode(words[0], skip_special_tokens=True).split()) >= 4
