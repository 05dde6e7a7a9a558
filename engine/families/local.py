"""Bases that whoever hosts the studio has put on this machine, each recognised from its own files.

The environment variable TRIPOD_MODELS names a folder of checkpoints in one `.safetensors` file each, as from Civitai,
and of folders of diffusers' layout. Of a checkpoint only the header is read: the names and shapes of its tensors.
What is no base of a family here is refused in a sentence. Nobody on the page can name a path.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.errors import BadModel
from engine.families.base import Base

PICKLES = frozenset({".ckpt", ".pt", ".pth", ".bin"})
UNION, UNION_KINDS = "controlnet-union", "kinds.json"
IN_WHOLE = "model.diffusion_model."
"""How the names of a denoiser's tensors begin in a checkpoint that holds more; else they begin without it."""

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
SD2_TEXT_WIDTH = 1024
EDM = "noised as in EDM (Karras et al. 2022), which is not known here; Playground 2.5 and CosXL are"

# What else a file can be, by how the names of some of its tensors begin
_OTHERS = {
    "conditioner.embedders.0.model.": "the refiner of Stable Diffusion XL",
    "cond_stage_model.model.": "Stable Diffusion 2",
    "joint_blocks.": "Stable Diffusion 3",
    "double_stream_modulation_img.": "Flux.2",
    "double_blocks.": "Flux",
    "lora_": "a LoRA",
    "unet.": "a LoRA",
    "control_model.": "a ControlNet",
    "controlnet_cond_embedding.": "a ControlNet",
    "ip_adapter.": "an IP-Adapter",
    "model.diffusion_model.": "a UNet without text encoder and autoencoder",
    "decoder.": "an autoencoder",
    "first_stage_model.": "an autoencoder",
}


@dataclass(frozen=True, kw_only=True)
class Found:
    """The bases in the folder, and what is wrong with everything else there, by name."""

    bases: dict[str, Base]
    refused: dict[str, BadModel]


def find_models(published: Sequence[Base], taken: Mapping[str, Any]) -> Found:
    """Look through the folder of TRIPOD_MODELS; nothing is found without it.

    Args:
        published: one base of every family. A model found gets its ControlNets, its style adapter and its defaults.
        taken: names that are no longer free.
    """
    found = Found(bases={}, refused={})
    folder = os.environ.get("TRIPOD_MODELS")
    for path in sorted(Path(folder).absolute().iterdir()) if folder and Path(folder).is_dir() else ():
        is_model = path.is_dir() or path.suffix in {".safetensors", *PICKLES}
        if path.name.startswith(".") or not is_model:
            continue
        name = path.stem if path.is_file() else path.name
        try:
            base = _base_in_folder(path, published) if path.is_dir() else _base_in_file(path, published)
            if name in taken or name in found.bases:
                raise BadModel(f"There are two bases called {name}.", f"Rename {path.name}.")
            found.bases[name] = replace(base, name=name, title=name, source=str(path))
        except BadModel as error:
            found.refused[name] = error
    return found


def _base_in_file(path: Path, published: Sequence[Base]) -> Base:
    if path.suffix in PICKLES:
        raise BadModel(
            f"{path.name} is a pickle, which can run programs when it is opened.",
            "Use the .safetensors file of the same model.",
        )
    stat = path.stat()
    shapes, metadata = _read_header(path, stat.st_size, stat.st_mtime_ns)
    remedy = _remedy(published)

    def holds(start: str) -> bool:
        return any(name.startswith((start, f"{IN_WHOLE}{start}")) for name in shapes)

    base = next((base for base in published if all(map(holds, (*base.spec.checkpoint, *base.marks)))), None)
    if base is None:
        other = next((what for start, what in _OTHERS.items() if holds(start)), None)
        starts = ", ".join(sorted({name.partition(".")[0] for name in shapes})[:4])
        what = other or f"no model that is known here: the names of its tensors begin with {starts or 'nothing'}"
        raise BadModel(f"{path.name} holds {what}.", remedy)
    if base.spec.denoiser == "transformer":  # in most files alone
        return replace(base, variant=None, companion=base.source)
    if holds("edm_"):
        raise BadModel(f"{path.name} holds a UNet that learned from pictures {EDM}.", remedy)
    channels = shapes["model.diffusion_model.input_blocks.0.0.weight"][1]
    latent_channels = shapes["first_stage_model.decoder.conv_in.weight"][1]
    if channels != latent_channels:
        raise BadModel(
            f"{path.name} holds a UNet that takes {channels} channels, for inpainting or editing, where "
            f"{base.spec.title} takes {latent_channels}.",
            remedy,
        )
    # Some fine-tunes say what they predict by an empty tensor, others by what model cards say
    predicts_velocity = "v_pred" in shapes or metadata.get("modelspec.prediction_type") in ("v", "v_prediction")
    schedule: dict[str, Any] = {"prediction_type": "v_prediction"} if predicts_velocity else {}
    if reaches_noise := "ztsnr" in shapes:
        schedule |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    rescale = 0.7 if reaches_noise else 0.0  # arXiv 2305.08891, section 3.4
    return replace(base, variant=None, schedule=schedule, guidance_rescale=rescale)


def _remedy(published: Sequence[Base]) -> str:
    *titles, last = dict.fromkeys(base.spec.title for base in published)
    titles = f"{', '.join(titles)} or {last}"
    return f"Use a whole checkpoint of {titles}, or a folder of one in diffusers' layout."


@lru_cache(maxsize=64)
def _read_header(path: Path, size_bytes: int, changed_ns: int) -> tuple[dict[str, list[int]], dict[str, str]]:
    """Shapes by tensor name, and the metadata, of a safetensors file: a length in 8 bytes, JSON, then the tensors.
    `changed_ns` is there to notice a change."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= MAX_HEADER_BYTES else {}
        metadata = header.pop("__metadata__", {})
        shapes = {name: entry["shape"] for name, entry in header.items()}
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadModel(f"{path.name} is damaged, or not a safetensors file.", "Download it again.") from error
    if 8 + length + end > size_bytes:
        raise BadModel(f"{path.name} is cut short.", "Download it again.")
    return shapes, metadata


def _base_in_folder(folder: Path, published: Sequence[Base]) -> Base:
    index = _read_json(folder, "model_index.json")
    found = index.get("_class_name", "no pipeline")
    of_family = [base for base in published if base.spec.pipeline == found]
    config = index | _read_json(folder, f"{of_family[0].spec.denoiser}/config.json") if of_family else {}
    base = next((base for base in of_family if base.configured.items() <= config.items()), None)
    if base is None:
        raise BadModel(f"{folder.name} holds a {found}.", _remedy(published))
    text_width = _read_json(folder, "text_encoder/config.json").get("hidden_size")
    if base.spec.denoiser == "unet" and text_width == SD2_TEXT_WIDTH:
        raise BadModel(f"{folder.name} holds Stable Diffusion 2.", _remedy(published))
    if "EDM" in str(index.get("scheduler")):
        raise BadModel(f"{folder.name} holds a model that learned from pictures {EDM}.", _remedy(published))
    part = base.spec.denoiser
    weights = [file.name for file in folder.glob(f"{part}/*.safetensors")]
    if not weights:
        raise BadModel(f"{folder.name} has no .safetensors files in its folder {part}.", _remedy(published))
    side = config.get("sample_size")
    own = beside(folder)
    return replace(
        base,
        default_size_px=side * base.spec.vae_scale if isinstance(side, int) else base.default_size_px,
        variant="fp16" if all(".fp16" in name for name in weights) else None,
        guidance="told" if config.get("time_cond_proj_dim") else base.guidance,
        controlnets={**base.controlnets, **own["controlnets"]},
        ip_adapter=own["ip_adapter"] or base.ip_adapter,
        image_encoder=None if own["ip_adapter"] else base.image_encoder,
        captioner=own["captioner"],
    )


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        return json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadModel(
            f"{folder.name} is no model of diffusers' layout: {name} is missing or damaged.",
            "Put there what `save_pretrained` writes, or remove the folder.",
        ) from error


def beside(folder: Path) -> dict[str, Any]:
    """What lies beside the parts of a base in its folder: ControlNets by kind, style adapter and captioner, by the
    names that `Base` has for them. One ControlNet may follow several kinds, which its `UNION_KINDS` lists."""
    ip_adapter, captioner = folder / "ip_adapter" / "ip-adapter.safetensors", folder / "captioner"
    union, kinds = folder / UNION, folder / UNION / UNION_KINDS
    own = [path for path in sorted(folder.glob("controlnet-*")) if path != union]
    return {
        "controlnets": {
            **{kind: str(union) for kind in (json.loads(kinds.read_text()) if kinds.is_file() else ())},
            **{path.name.removeprefix("controlnet-"): str(path) for path in own},
        },
        "ip_adapter": str(ip_adapter) if ip_adapter.is_file() else None,
        "captioner": str(captioner) if captioner.is_dir() else None,
    }
