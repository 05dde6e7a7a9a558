"""How well the starter obeys: `python -m engine.starter.evaluate [--quick] [--out DIR]`.

Draws prompts that were never trained on, has plain diffusers paint them, and lets the judge say what it sees. Every
figure is a share of the ceiling: what the judge scores on real renders of the same prompts. The last line is one JSON
object; `sheet` is a contact sheet of the first pictures with their prompts.
"""

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image, ImageDraw

from engine.families.starter import base
from engine.starter import corpus
from engine.starter.captions import full_caption
from engine.starter.judge import accuracy, judge_pictures, load_judge
from engine.starter.looks import LOOKS, apply_look
from engine.starter.pixels import psnr_db, to_tensor
from engine.starter.precision import autocast
from engine.starter.render import render
from engine.starter.world import Scene

PROMPTS, QUICK_PROMPTS = 500, 8
PSNR_SCENES, QUICK_PSNR_SCENES = 12, 1
BATCH = 16


def prompts(count: int) -> list[tuple[Scene, str]]:
    """Scenes and looks whose combination never occurs in training; every other one holds a held-out pair."""
    trained = set()
    for index in range(corpus.TRAINING_SCENES):
        scene = corpus.scene(index)
        trained |= {
            (s.things, s.setting, look) for s in (scene, corpus.mirrored(scene)) for look in corpus.looks_of(index)
        }
    asked: list[tuple[Scene, str]] = []
    for index in itertools.count():
        scene = corpus.scene(10_000 + index, held_out=True, held_out_pairs=index % 2 == 1)
        look = "photo" if index % 3 == 0 else LOOKS[index % len(LOOKS)]
        if (scene.things, scene.setting, look) not in trained:
            asked.append((scene, look))
        if len(asked) == count:
            return asked
    raise AssertionError("scenes never run out")


def draw(pipeline: StableDiffusionPipeline, texts: Sequence[str], first_seed: int) -> list[np.ndarray]:
    """One picture a prompt, uint8, at the settings that the studio starts with."""
    starter = base()
    pictures: list[np.ndarray] = []
    for first in range(0, len(texts), BATCH):
        batch = list(texts[first : first + BATCH])
        seeds = [torch.Generator().manual_seed(first_seed + first + i) for i in range(len(batch))]
        with autocast():
            images = pipeline(
                batch,
                generator=seeds,
                num_inference_steps=starter.default_steps,
                guidance_scale=starter.default_guidance,
                guidance_rescale=starter.guidance_rescale,
                output_type="np",
            ).images
        pictures += list((images * 255).round().astype(np.uint8))
    return pictures


@torch.no_grad()
def autoencoder_psnr_db(autoencoder: AutoencoderKL, scenes: int, size_px: int) -> dict[str, float]:
    """Mean PSNR over held-out renders, by look."""
    result = {}
    for look in LOOKS:
        images = [corpus.held_out_picture(index, look) for index in range(scenes)]
        x = to_tensor(np.stack([_resized(image, size_px) for image in images]))
        decoded = torch.cat([autoencoder.decode(autoencoder.encode(one[None]).latent_dist.mode()).sample for one in x])
        result[look] = round(psnr_db(decoded, x).mean().item(), 2)
    return result


def _resized(image: np.ndarray, size_px: int) -> np.ndarray:
    return cv2.resize(image, (size_px, size_px), interpolation=cv2.INTER_AREA) if image.shape[0] != size_px else image


def contact_sheet(pictures: Sequence[np.ndarray], texts: Sequence[str], columns: int = 8) -> Image.Image:
    """The pictures in a grid, each with its prompt below."""
    side, caption_px = 256, 42
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * side, rows * (side + caption_px)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        x, y = i % columns * side, i // columns * (side + caption_px)
        sheet.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS), (x, y))
        words = text.split()
        lines = [" ".join(words[j : j + 7]) for j in range(0, len(words), 7)]
        pen.multiline_text((x + 4, y + side + 2), "\n".join(lines[:3]), fill="black", spacing=1)
    return sheet


def evaluate(folder: Path, out: Path, quick: bool) -> dict[str, Any]:
    """The figures of the starter in `folder`; writes `out/starter.png`."""
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, torch_dtype=torch.float32, use_safetensors=True, safety_checker=None
    )
    pipeline.set_progress_bar_config(disable=True)
    judge = load_judge(folder)
    asked = prompts(QUICK_PROMPTS if quick else PROMPTS)
    texts = [full_caption(scene, look) for scene, look in asked]
    pictures = draw(pipeline, texts, first_seed=0)
    scores = accuracy(judge_pictures(judge, pictures), asked)

    rng = np.random.default_rng(0)
    renders = [apply_look(render(scene).image, look, rng) for scene, look in asked]
    ceiling = accuracy(judge_pictures(judge, renders), asked)

    out.mkdir(parents=True, exist_ok=True)
    sheet = out / "starter.png"
    contact_sheet(pictures[:48], texts[:48]).save(sheet)
    size_px = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    by_look = autoencoder_psnr_db(pipeline.vae, QUICK_PSNR_SCENES if quick else PSNR_SCENES, size_px)
    return {
        **{name: round(scores[name] / max(ceiling[name], 1e-9), 3) for name in scores},
        "ceiling": {name: round(value, 3) for name, value in ceiling.items()},
        "vae_psnr_db": round(float(np.mean(list(by_look.values()))), 2),
        "vae_psnr_db_by_look": by_look,
        "prompts": len(asked),
        "sheet": str(sheet),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few prompts, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("out"))
    arguments = parser.parse_args()
    print(json.dumps(evaluate(Path(base().source), arguments.out, arguments.quick)))


if __name__ == "__main__":
    main()
