"""LoRA files: reading those of several trainers, refusing those that do not fit, writing our own.

A file is read against the layers of the base it is to stand beside. Every name and shape is checked before a weight is
loaded: elsewhere a LoRA of another family loads silently as nothing, or in part. Knows nothing of how a LoRA acts.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import mode
from typing import TYPE_CHECKING, Any, NamedTuple

from engine import families
from engine.errors import BadLora
from engine.families import Base
from engine.workspace import LoraRecord, Workspace, write_bytes

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]


class LowRank(NamedTuple):
    """What a LoRA adds to one layer: alpha / r times `up` after `down`, where r is the rank.

    Beside a linear layer `down` is (r, in) and `up` (out, r); beside a convolution (r, in, k, k) and (out, r, 1, 1).
    """

    down: "Tensor"
    up: "Tensor"
    alpha: float

    def like(self, weight: "Tensor") -> "LowRank":
        """On the device of a layer's weight, in its precision."""
        return LowRank(self.down.to(weight), self.up.to(weight), self.alpha)


@dataclass(frozen=True, kw_only=True)
class LoraFile:
    """A LoRA that fits a base: `layers` by name as `Family.layers` gives them; the most frequent rank and alpha."""

    layers: dict[str, LowRank]
    rank: int
    alpha: float
    trigger: str
    metadata: dict[str, str]


# How a tensor's name says which part of the base, which layer and which role. Layers are compared with "_" for ".".
_NAMES = (
    # kohya and LyCORIS: lora_unet_down_blocks_0_attentions_0_..._to_q.lora_down.weight
    re.compile(r"lora_(?P<part>unet|te1?)_(?P<layer>\w+)\.(?P<role>lora_down|lora_up|alpha)(?:\.weight)?"),
    # peft and diffusers: unet.down_blocks.0.attentions.0. ... .to_q.lora_A.weight
    re.compile(r"(?P<part>unet|text_encoder)\.(?P<layer>.+)\.(?P<role>lora_A|lora_B)\.weight"),
    # diffusers before peft: unet. ... .to_q.lora.down.weight, text_encoder. ... .q_proj.lora_linear_layer.down.weight
    re.compile(r"(?P<part>unet|text_encoder)\.(?P<layer>.+)\.lora(?:_linear_layer)?\.(?P<role>down|up)\.weight"),
)
_ROLES = {"lora_down": "down", "lora_A": "down", "lora_up": "up", "lora_B": "up"}
_PARTS = {"te": "text_encoder", "te1": "text_encoder"}

_OTHER_FAMILIES = {
    "Flux": ("double_blocks", "single_blocks", "single_transformer_blocks"),
    "Stable Diffusion 3": ("joint_blocks", "attn.add_q_proj"),
    "Qwen-Image": ("txt_mlp",),
    "Z-Image": ("noise_refiner",),
    "Stable Diffusion XL": ("lora_te2_", "text_encoder_2."),
}
_FAMILY_OF_TEXT_WIDTH = {768: "Stable Diffusion 1.5", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}
_OTHER_KINDS = {"hada_": "LoHa", "lokr_": "LoKr", "dora_scale": "DoRA", "lora_magnitude_vector": "DoRA"}


def read_lora(path: Path, base: Base, *, title: str | None = None) -> LoraFile:
    """Read a LoRA of kohya's, peft's or diffusers' format for `base`. Errors call it `title`, or else by its file name.

    Raises: BadLora when the file is pickled, damaged, made for another base, or no LoRA.
    """
    from safetensors import SafetensorError, safe_open

    title = title or path.name
    _refuse_pickle(path, title)
    try:
        with safe_open(path, "pt") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
            layers = {
                name: _low_rank({role: file.get_tensor(key) for role, key in keys.items()}, name, shape, metadata)
                for name, shape, keys in _match(title, shapes, base)
            }
            trigger = _trigger(metadata)
    except (SafetensorError, ValueError) as error:  # ValueError: of its metadata, which is JSON inside JSON
        raise BadLora(
            f"{title} is damaged, cut short, or not a safetensors file.", "Download or export it again."
        ) from error
    return LoraFile(
        layers=layers,
        rank=mode(len(layer.down) for layer in layers.values()),
        alpha=mode(layer.alpha for layer in layers.values()),
        trigger=trigger,
        metadata=metadata,
    )


def _refuse_pickle(path: Path, title: str) -> None:
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith((b"\x80", b"PK\x03\x04")):  # a pickle, or the zip around one that torch.save writes
        raise BadLora(
            f"{title} is a pickle, which can run programs when it is opened.",
            "Choose the .safetensors file of the same LoRA.",
        )


def _match(title: str, shapes: Mapping[str, Shape], base: Base) -> list[tuple[str, Shape, dict[str, str]]]:
    """Each layer of the base that the file has a LoRA for: its name, its weight's shape, tensor names by role.

    Tensors that belong to no layer, such as embeddings that came along, are left out. Raises: BadLora.
    """
    for mark, kind in _OTHER_KINDS.items():
        if any(mark in key for key in shapes):
            raise BadLora(f"{title} is a {kind}, which is not a plain LoRA.", "Choose a LoRA.")
    for other, marks in _OTHER_FAMILIES.items():
        if any(mark in key for key in shapes for mark in marks):
            raise _misfit(title, base, f"it was made for {other}")
    base_layers = families.family(base.family).layers(base)
    width, base_width = _text_width(shapes), _text_width(base_layers)
    if width is not None and width != base_width:
        maker = _FAMILY_OF_TEXT_WIDTH.get(width, "another base")
        raise _misfit(title, base, f"it was made for {maker}, whose text is {width} wide instead of {base_width}")

    matched = []
    names = {_flat(name): name for name in base_layers}
    for flat, keys in _pairs(shapes).items():
        if flat not in names:
            raise _misfit(title, base, f"it has a layer {flat}, which the base lacks")
        name = names[flat]
        if not _fits(shapes[keys["down"]], shapes[keys["up"]], base_layers[name]):
            raise _misfit(title, base, f"its layer {name} has another size")
        matched.append((name, base_layers[name], keys))
    if not matched:
        raise BadLora(f"{title} holds no LoRA layers.", "Choose the .safetensors file of a LoRA.")
    return matched


def _misfit(title: str, base: Base, reason: str) -> BadLora:
    return BadLora(f"{title} does not fit the base {base.title}: {reason}.", f"Choose a LoRA made for {base.title}.")


def _text_width(shapes: Mapping[str, Shape]) -> int | None:
    """How wide the text is that cross-attention looks at: the inputs of its keys."""
    keys = re.compile(r".*attn2[._]to_k(\.(lora_A|lora_down|lora\.down)\.weight)?")
    return next((shape[1] for name, shape in shapes.items() if keys.fullmatch(name)), None)


def _pairs(shapes: Mapping[str, Shape]) -> dict[str, dict[str, str]]:
    """Tensor names by role, for every layer that has both halves; layers are named as `_flat` does."""
    found: dict[str, dict[str, str]] = {}
    for key in shapes:
        for pattern in _NAMES:
            if match := pattern.fullmatch(key):
                part = _PARTS.get(match["part"], match["part"])
                role = _ROLES.get(match["role"], match["role"])
                found.setdefault(_flat(f"{part}.{match['layer']}"), {})[role] = key
    return {layer: keys for layer, keys in found.items() if {"down", "up"} <= keys.keys()}


def _flat(layer: str) -> str:
    """A layer's name with "_" for ".". CLIP's text model lost its outer `text_model` in transformers 5."""
    return layer.replace(".", "_").replace("text_encoder_text_model_", "text_encoder_")


def _fits(down: Shape, up: Shape, layer: Shape) -> bool:
    """Whether both halves fit a layer's weight, whatever trailing ones a file gives them for convolutions of 1 x 1."""
    out_size, *in_shape = layer
    return (
        len(down) >= 2
        and math.prod(down[1:]) == math.prod(in_shape)
        and up[:2] == (out_size, down[0])
        and math.prod(up[2:]) == 1
    )


def _low_rank(tensors: Mapping[str, "Tensor"], name: str, shape: Shape, metadata: Mapping[str, str]) -> LowRank:
    """The halves in the form that the layer's weight has."""
    out_size, *in_shape = shape
    rank = len(tensors["down"])
    return LowRank(
        tensors["down"].reshape(rank, *in_shape),
        tensors["up"].reshape(out_size, rank, *(1 for _ in in_shape[1:])),
        tensors["alpha"].item() if "alpha" in tensors else _peft_alpha(metadata, name, rank),
    )


def _peft_alpha(metadata: Mapping[str, str], name: str, rank: int) -> float:
    """Alpha of a layer from the settings that diffusers keeps in the file; without them the scale is 1."""
    from peft.utils.other import get_pattern_key

    part, _, module = name.partition(".")
    settings = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    patterns = settings.get(f"{part}.alpha_pattern", {})
    alpha = patterns.get(get_pattern_key(patterns.keys(), module), settings.get(f"{part}.lora_alpha", rank))
    return alpha * math.sqrt(rank) if settings.get(f"{part}.use_rslora") else alpha


def _trigger(metadata: Mapping[str, str]) -> str:
    """The trigger phrase, or else the most frequent tag of the training captions."""
    if phrase := metadata.get("modelspec.trigger_phrase"):
        return phrase
    folders = json.loads(metadata.get("ss_tag_frequency", "{}")).values()
    counts = [(count, tag.strip()) for tags in folders for tag, count in tags.items()]
    return max(counts, default=(0, ""))[1]


def write_lora(
    path: Path,
    state: Mapping[str, "Tensor"],
    *,
    rank: int,
    alpha: float,
    trigger: str,
    class_name: str,
    base: Base,
    settings: Mapping[str, Any],
) -> None:
    """Write a LoRA that diffusers loads with `load_lora_weights` and that other tools recognise.

    Args:
        state: `unet.` or `text_encoder.`, the layer, then `.lora_A.weight` (r, in) or `.lora_B.weight` (out, r).
        settings: the TrainSettings behind it as a dict; its `name` and `resolution` go into the file.
    """
    from peft import LoraConfig
    from safetensors.torch import save

    adapter: dict[str, Any] = {}
    for part in ("unet", "text_encoder"):
        layers = {key.removeprefix(f"{part}.").partition(".lora_")[0] for key in state if key.startswith(f"{part}.")}
        if layers:
            config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=sorted(layers))  # type: ignore[arg-type]
            adapter |= {f"{part}.{name}": value for name, value in config.to_dict().items()}
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    digest = _tensors_hash(save(tensors))
    phrase = f"{trigger} {class_name}".strip()
    title, side_px = settings.get("name", path.stem), settings.get("resolution", base.default_size_px)
    metadata = {
        "format": "pt",
        "lora_adapter_metadata": json.dumps(adapter, sort_keys=True, default=list),  # peft keeps modules in a set
        "ss_v2": "False",
        "ss_base_model_version": base.spec.ss_base_model_version,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(alpha),
        "ss_network_args": "{}",
        "ss_output_name": title,
        "ss_tag_frequency": json.dumps({f"1_{phrase}": {trigger: 1}}),
        "sshs_model_hash": digest,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": base.spec.modelspec_architecture,
        "modelspec.implementation": "diffusers",
        "modelspec.title": title,
        "modelspec.resolution": f"{side_px}x{side_px}",
        "modelspec.date": datetime.now(UTC).isoformat(timespec="seconds"),
        "modelspec.trigger_phrase": trigger,
        "modelspec.hash_sha256": f"0x{digest}",
    }
    write_bytes(path, save(tensors, metadata))


def _tensors_hash(content: bytes) -> str:
    """SHA-256 of a safetensors file without its header, whose length is in the first 8 bytes: kohya's model hash."""
    header_length = int.from_bytes(content[:8], "little")
    return hashlib.sha256(content[8 + header_length :]).hexdigest()


def import_lora(workspace: Workspace, file: Path, *, name: str, base: str) -> LoraRecord:
    """Check a LoRA file against the base of that name and keep a copy. Raises: BadLora."""
    entry = families.base(base)
    lora = read_lora(file, entry)
    return workspace.add_lora(
        file,
        name=name,
        family=entry.family,
        base=entry.name,
        trigger=lora.trigger,
        class_name="",
        rank=lora.rank,
    )
