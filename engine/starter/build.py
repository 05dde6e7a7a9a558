"""Make the starter, a stage at a time: `python -m engine.starter.build STAGE [--minutes N]`.

    render              scenes and looks, and close-ups, to build/starter/corpus
    decoder             latents back to pixels             -> presets/starter/vae
    reader              what lies where in latents; helps to train the denoiser
    denoiser            U-Net and text encoder             -> presets/starter/{unet,text_encoder,tokenizer,scheduler}
    grow                from 128 to 256 px: one more level -> presets/starter/unet
    refine              people, styles                     -> presets/starter/{unet,ip_adapter}
    texture             strokes, hands, styles             -> presets/starter/{unet,ip_adapter}
    finish              what the U-Net returns to pixels   -> presets/starter/vae
    control-embedding   maps of every kind are read like edges, which it knows already
    controlnet          maps of every kind decide the layout -> presets/starter/controlnet-union
    detectors           depth, normals, what lies where    -> presets/detectors/{depth,normal,segmentation}
    image-encoder       what style a picture is in         -> presets/starter/ip_adapter/image_encoder
    ip-adapter          style from a reference             -> presets/starter/ip_adapter
    captioner           a small BLIP                       -> presets/starter/captioner
    judge               the classifier behind `evaluate`   -> presets/starter/judge

Every stage resumes from its checkpoint in build/starter, or else from the weights that were exported last, trains for
so many minutes, and exports in the formats that diffusers and transformers load, as float16.
"""

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BlipForConditionalGeneration, BlipProcessor, CLIPTextModel, CLIPTokenizer
from transformers import CLIPVisionModelWithProjection as ImageEncoder

from engine.families.local import UNION, UNION_KINDS
from engine.families.starter import PRESET
from engine.starter import (
    captioner,
    control,
    decoder,
    denoiser,
    detectors,
    finishing,
    growth,
    judge,
    linear_code,
    perception,
    refining,
    style,
    text,
    texturing,
)
from engine.starter.corpus import TRAINING_SCENES, CloseUps, Corpus, picture, render_close_ups, render_corpus
from engine.starter.latents import LatentCorpus, encode_corpus
from engine.starter.linear_code import Code
from engine.starter.redrawing import load_or_redraw

BUILD = Path("build") / "starter"
DETECTORS = PRESET.parent / "detectors"
T = TypeVar("T", bound=nn.Module)


class Workbench:
    """The corpus and the parts made so far, each loaded when first asked for."""

    def __init__(self, build: Path, preset: Path, *, size: int) -> None:
        self.build, self.preset, self.size = build, preset, size

    @cached_property
    def corpus(self) -> Corpus:
        return Corpus(self.build / "corpus")

    @cached_property
    def code(self) -> Code:
        """The picture code; fitted once, because all latents depend on it."""
        file = self.preset / "vae" / "linear_code.safetensors"
        if not file.exists():
            rows = np.random.default_rng(0).integers(0, len(self.corpus), 1500)
            code = Code.fit(np.stack([self.corpus[row] for row in rows]))
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file(asdict(code), file)
        return Code(**load_file(file))

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        captions = (caption for row in range(4000) for caption in picture(row).captions())
        return text.load_or_train_tokenizer(self.preset / "tokenizer", captions)

    @cached_property
    def data(self) -> LatentCorpus:
        return encode_corpus(self.corpus, self.code, self.tokenizer, self.build / "latents.pt")

    @cached_property
    def cells(self) -> perception.Cells:
        return perception.cells_of(self.corpus, self.size)

    @cached_property
    def reader(self) -> perception.Reader:
        return perception.load_reader(self.build, self.size)

    @cached_property
    def styled(self) -> style.StyledScenes:
        return style.StyledScenes(self.corpus, self.code, self.image_encoder, self.cells, size=self.size)

    @property
    def adapter(self) -> Path:
        """Where the IP-Adapter is exported to."""
        return self.preset / "ip_adapter" / "ip-adapter.safetensors"

    @cached_property
    def unet(self) -> UNet2DConditionModel:
        return self.load(UNet2DConditionModel, "unet", denoiser.new_unet)

    @cached_property
    def controlnet(self) -> ControlNetModel:
        return self.load(ControlNetModel, UNION, lambda: control.new_controlnet(self.unet))

    @cached_property
    def text_encoder(self) -> CLIPTextModel:
        return self.load(CLIPTextModel, "text_encoder", lambda: text.new_text_encoder(self.tokenizer))

    @cached_property
    def image_encoder(self) -> ImageEncoder:
        return self.load(ImageEncoder, "ip_adapter/image_encoder", style.new_image_encoder)

    def load(self, kind: type[T], part: str, new: Callable[[], T]) -> T:
        """The exported part in float32, or a new one."""
        folder = self.preset / part
        if not (folder / "config.json").exists():
            return new()
        return kind.from_pretrained(folder, torch_dtype=torch.float32, use_safetensors=True)  # type: ignore[attr-defined]

    def save(self, module: nn.Module, part: str) -> None:
        _export(module, self.preset / part)


def _export(module: nn.Module, folder: Path) -> None:
    module.half().save_pretrained(folder, safe_serialization=True)  # type: ignore[operator]
    config = json.loads((folder / "config.json").read_text())
    config.pop("_name_or_path", None)  # where it was loaded from is of this machine
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def build_decoder(bench: Workbench, minutes: float) -> None:
    autoencoder = bench.load(AutoencoderKL, "vae", linear_code.new_autoencoder)
    trained = decoder.train_decoder(autoencoder, bench.corpus, bench.code, bench.build, minutes)
    autoencoder.decoder.load_state_dict(trained.state_dict())
    images = np.stack([bench.corpus[row] for row in range(200)])
    linear_code.write_encoder(autoencoder, bench.code, images)
    bench.save(autoencoder, "vae")


def build_finished(bench: Workbench, minutes: float) -> None:
    autoencoder = bench.load(AutoencoderKL, "vae", linear_code.new_autoencoder)
    drawn = load_or_redraw(bench.build / "redrawn.pt", bench.unet, bench.text_encoder, bench.tokenizer, bench.data)
    trained = finishing.train_finished(autoencoder, bench.corpus, bench.data, drawn, bench.build, minutes)
    autoencoder.decoder.load_state_dict(trained.state_dict())
    bench.save(autoencoder, "vae")


def build_reader(bench: Workbench, minutes: float) -> None:
    perception.train_reader(bench.data, bench.cells, bench.build, size=bench.size, minutes=minutes)


def build_denoiser(bench: Workbench, minutes: float) -> None:
    trained = denoiser.train_denoiser(
        bench.unet,
        bench.text_encoder,
        bench.tokenizer,
        bench.data,
        bench.reader,
        bench.cells,
        bench.build,
        size=bench.size,
        minutes=minutes,
    )
    bench.save(trained["unet"], "unet")
    bench.save(trained["text_encoder"], "text_encoder")
    denoiser.new_scheduler().save_pretrained(bench.preset / "scheduler")
    (bench.preset / "model_index.json").write_text(json.dumps(_MODEL_INDEX, indent=2) + "\n")


def build_refined(bench: Workbench, minutes: float) -> None:
    unet, weights = refining.train_refined(
        bench.unet,
        bench.text_encoder,
        bench.tokenizer,
        bench.data,
        bench.reader,
        bench.cells,
        bench.styled,
        bench.adapter,
        bench.build,
        minutes=minutes,
    )
    bench.save(unet, "unet")
    weights.save(bench.adapter)


def build_textured(bench: Workbench, minutes: float) -> None:
    unet, weights = texturing.train_textures(
        bench.unet,
        bench.controlnet,
        bench.text_encoder,
        bench.tokenizer,
        bench.data,
        bench.cells,
        bench.styled,
        bench.adapter,
        bench.build,
        minutes=minutes,
    )
    bench.save(unet, "unet")
    weights.save(bench.adapter)


def build_grown(bench: Workbench, minutes: float) -> None:
    bench.save(growth.grown(bench.unet), "unet")


_MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def build_controlnet(bench: Workbench, minutes: float) -> None:
    trained = control.train_controlnet(
        bench.controlnet,
        bench.unet,
        bench.text_encoder,
        bench.tokenizer,
        bench.corpus,
        bench.data,
        bench.cells,
        bench.build,
        size=bench.size,
        minutes=minutes,
    )
    bench.save(trained, UNION)
    (bench.preset / UNION / UNION_KINDS).write_text(json.dumps(list(control.TAUGHT), indent=2) + "\n")


def build_control_embedding(bench: Workbench, minutes: float) -> None:
    control.train_embedding(bench.controlnet, bench.corpus, bench.build, size=bench.size, minutes=minutes)
    bench.save(bench.controlnet, UNION)


def build_image_encoder(bench: Workbench, minutes: float) -> None:
    trained = style.train_image_encoder(bench.image_encoder, bench.corpus, bench.build, minutes)
    bench.save(trained, "ip_adapter/image_encoder")
    style.new_processor().save_pretrained(bench.preset / "ip_adapter" / "image_encoder")


def build_ip_adapter(bench: Workbench, minutes: float) -> None:
    style.train_ip_adapter(
        bench.unet, bench.text_encoder, bench.tokenizer, bench.styled, bench.adapter, bench.build, minutes=minutes
    ).save(bench.adapter)


def build_captioner(bench: Workbench, minutes: float) -> None:
    folder = bench.preset / "captioner"
    if (folder / "config.json").exists():
        processor = BlipProcessor.from_pretrained(folder)
    else:
        processor = captioner.new_processor([c for row in range(4000) for c in picture(row).captions()])
    model = bench.load(BlipForConditionalGeneration, "captioner", lambda: captioner.new_captioner(processor))
    trained = captioner.train_captioner(model, processor, bench.corpus, bench.build, minutes)
    bench.save(trained, "captioner")
    processor.save_pretrained(folder)


def build_detectors(bench: Workbench, minutes: float) -> None:
    trained = detectors.Detectors()
    folders = {kind: DETECTORS / kind for kind in detectors.OUTPUTS}
    if all(folder.exists() for folder in folders.values()):
        read = detectors.SegformerForSemanticSegmentation.from_pretrained
        trained.load({kind: read(folder, torch_dtype=torch.float32) for kind, folder in folders.items()})
    close_ups = [CloseUps(bench.build / "corpus", title) for title in ("close-ups", "sculptures")]
    for kind, model in (
        detectors.train_detectors(trained, bench.corpus, close_ups, bench.build, minutes).exported().items()
    ):
        _export(model, DETECTORS / kind)


def build_judge(bench: Workbench, minutes: float) -> None:
    folder = bench.preset / "judge"
    begun = judge.load_judge(bench.preset) if folder.exists() else judge.Judge()
    autoencoder = bench.load(AutoencoderKL, "vae", linear_code.new_autoencoder)
    trained = judge.train_judge(begun, bench.corpus, bench.data, autoencoder, bench.build, minutes)
    folder.mkdir(exist_ok=True)
    weights = {name: value.contiguous() for name, value in trained.half().state_dict().items()}
    save_file(weights, folder / "judge.safetensors")


STAGES: dict[str, Callable[[Workbench, float], None]] = {
    "decoder": build_decoder,
    "reader": build_reader,
    "denoiser": build_denoiser,
    "refine": build_refined,
    "texture": build_textured,
    "finish": build_finished,
    "grow": build_grown,
    "control-embedding": build_control_embedding,
    "controlnet": build_controlnet,
    "image-encoder": build_image_encoder,
    "ip-adapter": build_ip_adapter,
    "captioner": build_captioner,
    "detectors": build_detectors,
    "judge": build_judge,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["render", *STAGES])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--size", type=int, choices=(16, 32), default=32, help="side of the latents trained on")
    parser.add_argument("--scenes", type=int, default=TRAINING_SCENES)
    arguments = parser.parse_args()
    if arguments.stage == "render":
        for shard in render_corpus(BUILD / "corpus", arguments.scenes, processes=os.cpu_count() or 1):
            print(f"shard {shard}", flush=True)
        render_close_ups(BUILD / "corpus", processes=os.cpu_count() or 1)
        return
    torch.manual_seed(0)
    STAGES[arguments.stage](Workbench(BUILD, PRESET, size=arguments.size), arguments.minutes)


if __name__ == "__main__":
    main()
