"""LoRA files: reading those of several trainers, refusing those that do not fit, writing our own.

A file is read against the layers of the base it is to stand beside. Knows nothing of how a LoRA acts.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import mode
from typing import TYPE_CHECKING, Any

from engine import families
from engine.errors import BadLora
from engine.families import Base
from engine.lora import metadata as words
from engine.lora.match import Match, match, misfit
from engine.lora.metadata import PeftSettings
from engine.lora.names import LoraFormat, joint_layers, swapped_layers, tensor_names
from engine.lora.networks import DORA_SCALE, Network, Shape, join, network, rank_of, split, with_halves_swapped
from engine.lora.origins import TITLES
from engine.workspace import LoraRecord, Workspace, write_bytes

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LoraFile", "LoraFormat", "export_lora", "import_lora", "read_lora", "write_lora"]


@dataclass(frozen=True, kw_only=True)
class LoraFile:
    """A LoRA that fits a base: `layers` by name as `Family.layers` gives them; the most frequent rank and alpha.

    `matched` is how many of the file's tensors act; `unmatched` are the names of the others.
    """

    layers: dict[str, Network]
    rank: int
    alpha: float
    trigger: str
    metadata: dict[str, str]
    matched: int
    unmatched: tuple[str, ...]


def read_lora(path: Path, base: Base, *, title: str | None = None) -> LoraFile:
    """Read a LoRA, LoCon, DoRA, LoHa or LoKr for `base`, under the names that kohya, LyCORIS, peft, diffusers or
    ComfyUI give its tensors. Errors call it `title`, or else by its file name.

    Raises: BadLora when the file is pickled, damaged, made for another base, or no LoRA.
    """
    from safetensors import SafetensorError, safe_open

    title = title or path.name
    _refuse_pickle(path, title)
    try:
        with safe_open(path, "pt") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
            settings = PeftSettings.of(metadata)
            matched = match(title, shapes, base)
            if (family := words.family_of(metadata)) not in (None, base.family):
                raise misfit(title, base, f"it says that it was made for {TITLES[family]}")
            layers: dict[str, Network] = {}
            for found in matched:
                net = _network({role: file.get_tensor(key) for role, key in found.keys.items()}, found, settings)
                net = with_halves_swapped(net) if found.swapped else net
                parts = split(net, found.sizes) if len(found.layers) > 1 else [net]
                layers |= {layer: part for layer, part in zip(found.layers, parts, strict=True) if part}
            trigger = words.trigger_of(metadata)
    except (SafetensorError, ValueError) as error:  # ValueError: of its metadata, which is JSON inside JSON
        raise BadLora(
            f"{title} is damaged, cut short, or not a safetensors file.", "Download or export it again."
        ) from error
    used = {key for found in matched for key in found.keys.values()}
    return LoraFile(
        layers=layers,
        rank=mode(layer.rank for layer in layers.values()),
        alpha=mode(layer.alpha for layer in layers.values()),
        trigger=trigger,
        metadata=metadata,
        matched=len(used),
        unmatched=tuple(key for key in shapes if key not in used),
    )


def _refuse_pickle(path: Path, title: str) -> None:
    with path.open("rb") as file:
        start = file.read(9)
    # A pickle, or the zip around one that torch.save writes. A safetensors file may begin alike, with the length of its
    # header in 8 bytes, but then comes the header.
    if start.startswith((b"\x80", b"PK\x03\x04")) and start[8:] != b"{":
        raise BadLora(
            f"{title} is a pickle, which can run programs when it is opened.",
            "Choose the .safetensors file of the same LoRA.",
        )


def _network(tensors: "Mapping[str, Tensor]", found: Match, settings: PeftSettings) -> Network:
    name, shape = found.layers[0], found.shape
    rank = rank_of({role: tuple(tensor.shape) for role, tensor in tensors.items()})
    if rank is None:  # LoKr of whole matrices, which go by no alpha but in peft: there it is multiplied in
        declared = settings.rank(name) or 1
        whole = tensors["lokr_w1"].float() * (settings.alpha(name, declared) / declared)
        return network({**tensors, "lokr_w1": whole}, shape, rank=1, alpha=1.0)
    alpha = tensors["alpha"].item() if "alpha" in tensors else settings.alpha(name, rank)
    return network(tensors, shape, rank=rank, alpha=alpha)


def write_lora(
    path: Path,
    state: "Mapping[str, Tensor]",
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
    layers = {}
    for name in dict.fromkeys(key.rpartition(".lora_")[0] for key in state):
        down, up = state[f"{name}.lora_A.weight"], state[f"{name}.lora_B.weight"]
        shape = (len(up), *down.shape[1:])
        layers[name] = network({"lora_down": down, "lora_up": up}, shape, rank=rank, alpha=alpha)
    phrase = f"{trigger} {class_name}".strip()
    title, side_px = settings.get("name", path.stem), settings.get("resolution", base.default_size_px)
    about = {
        "ss_output_name": title,
        "ss_tag_frequency": json.dumps({f"1_{phrase}": {trigger: 1}}),
        "modelspec.title": title,
        "modelspec.resolution": f"{side_px}x{side_px}",
        "modelspec.date": datetime.now(UTC).isoformat(timespec="seconds"),
        "modelspec.trigger_phrase": trigger,
    }
    _write(path, layers, about, base, "diffusers")


def export_lora(path: Path, lora: LoraFile, base: Base, *, format: LoraFormat = "kohya") -> None:
    """Write a LoRA that was read for `base` in the format of other programs. What its file said of it stays.

    "kohya" is read by nearly all of them, ComfyUI, A1111, Forge and diffusers among them; "comfyui" has the names of
    ComfyUI's own modules; "diffusers" is peft's form, in which diffusers knows LoRA, DoRA and LoKr.

    Raises: BadLora when the format cannot hold it.
    """
    title = lora.metadata.get("modelspec.title") or lora.metadata.get("ss_output_name") or path.stem
    about = {
        "ss_output_name": title,
        "modelspec.title": title,
        "modelspec.resolution": f"{base.default_size_px}x{base.default_size_px}",
        "modelspec.date": datetime.now(UTC).isoformat(timespec="seconds"),
        "modelspec.trigger_phrase": lora.trigger,
        **words.kept(lora.metadata),
    }
    _write(path, lora.layers, about, base, format)


def _write(path: Path, layers: Mapping[str, Network], about: Mapping[str, str], base: Base, format: LoraFormat) -> None:
    import torch

    base_layers = families.family(base.family).layers(base)
    if format == "diffusers":
        _refuse_what_peft_lacks(path.name, layers)
    else:
        layers = _joined(path.name, layers, base_layers, base)
    name_of = tensor_names(format, base_layers)
    tensors: dict[str, Tensor] = {}
    for layer, net in layers.items():
        by_role = net.tensors()
        if format != "diffusers":
            by_role["alpha"] = torch.tensor(float(net.alpha))
        elif net.kind != "LoRA":  # in this format only LoRAs have settings: the scale goes into the first factor
            first = next(iter(by_role))
            by_role[first] = by_role[first].float() * (net.alpha / net.rank)
        if net.magnitude is not None:
            by_role[DORA_SCALE] = _magnitude_for(net, format)
        tensors |= {name_of(layer, role): tensor for role, tensor in by_role.items()}
    loras = {layer: net for layer, net in layers.items() if net.kind == "LoRA"}
    settings = words.peft_settings(loras) if format == "diffusers" and loras else {}
    write_bytes(path, words.file_content(tensors, {**about, **words.described(layers, base), **settings}))


def _joined(
    title: str, layers: Mapping[str, Network], base_layers: Mapping[str, Shape], base: Base
) -> dict[str, Network]:
    """The networks for the layers that the base's first code has. Raises: BadLora."""
    rest = dict(layers)
    if not base.spec.exports_original_layers:
        return rest
    swapped = swapped_layers(base_layers, base.spec.original_layers)
    for original, parts in joint_layers(base_layers, base.spec.original_layers).items():
        nets = [rest.pop(part, None) for part in parts]
        if not any(nets):
            continue
        joint = nets[0] if len(parts) == 1 else join(nets, [base_layers[part][0] for part in parts])
        if joint is None:
            raise BadLora(
                f"{title} holds networks for the layers of {original} that this format cannot hold as one.",
                "Export it in the diffusers format.",
            )
        rest[f"transformer.{original}"] = with_halves_swapped(joint) if original in swapped else joint
    return rest


def _magnitude_for(net: Network, format: LoraFormat) -> "Tensor":
    assert net.magnitude is not None
    if format != "diffusers":
        return net.magnitude
    kernel = net.shape[2:]
    return net.magnitude.reshape(1, -1, *(1 for _ in kernel)) if kernel else net.magnitude.flatten()


def _refuse_what_peft_lacks(title: str, layers: Mapping[str, Network]) -> None:
    """peft has one kind of network in a part of the base, DoRA for LoRA alone, and magnitudes of outputs alone.

    Raises: BadLora.
    """
    parts: dict[str, set[tuple[str, bool]]] = {}
    for layer, net in layers.items():
        parts.setdefault(layer.partition(".")[0], set()).add((net.kind, net.magnitude is not None))
    reason = None
    if any(len(kinds) > 1 for kinds in parts.values()):
        reason = "different kinds of networks"
    elif any(decomposed and kind != "LoRA" for kinds in parts.values() for kind, decomposed in kinds):
        reason = "a DoRA of a LoHa or LoKr"
    elif any(net.magnitude is not None and len(net.magnitude) != net.shape[0] for net in layers.values()):
        reason = "a DoRA whose magnitudes are those of inputs"
    if reason:
        raise BadLora(
            f"{title} holds {reason}, which the diffusers format cannot hold.", "Export it in the kohya format."
        )


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
