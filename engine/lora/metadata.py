"""The words in a LoRA file: what trainers note about a network, and what other programs look for.

Knows nothing of layers' names in other formats, and nothing of how a network acts.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mode
from typing import TYPE_CHECKING, Any

from engine.families import BASES, FAMILIES, Base
from engine.lora.networks import Network

if TYPE_CHECKING:
    from torch import Tensor

_PEFT_SETTINGS = "lora_adapter_metadata"
_OF_TENSORS = ("format", _PEFT_SETTINGS, "sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256")


@dataclass(frozen=True, kw_only=True)
class PeftSettings:
    """peft's configuration of each part, which diffusers keeps in a file: where alphas are that are in no tensor."""

    values: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> "PeftSettings":
        return cls(values=json.loads(metadata.get(_PEFT_SETTINGS, "{}")))

    def alpha(self, layer: str, rank: int) -> float:
        """Without settings the scale is 1. LoHa and LoKr say alpha, LoRA says lora_alpha."""
        part, _, module = layer.partition(".")
        default = self.values.get(f"{part}.lora_alpha", self.values.get(f"{part}.alpha", rank))
        alpha = self._of_pattern(part, "alpha_pattern", module, default)
        return alpha * math.sqrt(rank) if self.values.get(f"{part}.use_rslora") else alpha

    def rank(self, layer: str) -> int | None:
        part, _, module = layer.partition(".")
        return self._of_pattern(part, "rank_pattern", module, self.values.get(f"{part}.r"))

    def _of_pattern(self, part: str, name: str, module: str, default: Any) -> Any:
        from peft.utils.other import get_pattern_key

        patterns = self.values.get(f"{part}.{name}", {})
        return patterns.get(get_pattern_key(patterns.keys(), module), default)


def trigger_of(metadata: Mapping[str, str]) -> str:
    """The trigger phrase, or else the most frequent tag of the training captions."""
    if phrase := metadata.get("modelspec.trigger_phrase"):
        return phrase
    folders = json.loads(metadata.get("ss_tag_frequency", "{}")).values()
    counts = [(count, tag.strip()) for tags in folders for tag, count in tags.items()]
    return max(counts, default=(0, ""))[1]


def family_of(metadata: Mapping[str, str]) -> str | None:
    """The family, by its name, that a file says it was made for. Layers do not always tell: those of the attention of
    FLUX.2 klein are called as Flux's, and are as large."""
    specs = [family.spec for family in FAMILIES.values()]
    architectures = {spec.modelspec_architecture: spec.name for spec in specs}
    architectures |= {base.architecture: base.family for base in BASES.values() if base.architecture}
    versions = {spec.ss_base_model_version: spec.name for spec in specs}
    said = metadata.get("modelspec.architecture", ""), metadata.get("ss_base_model_version", "")
    return architectures.get(said[0]) or versions.get(said[1])


def names_of(file: Path) -> list[str]:
    """What a LoRA file calls itself; nothing if it does not say, or cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as opened:
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError):
        return []
    return [metadata[key] for key in ("modelspec.title", "ss_output_name") if key in metadata]


def kept(metadata: Mapping[str, str]) -> dict[str, str]:
    """What stays true of a file when its tensors are written another way."""
    return {key: value for key, value in metadata.items() if key not in _OF_TENSORS}


def described(layers: Mapping[str, Network], base: Base) -> dict[str, str]:
    """What kohya's, A1111's, Forge's and ComfyUI's loaders ask about a network."""
    networks = list(layers.values())
    rank, alpha = mode(n.rank for n in networks), mode(float(n.alpha) for n in networks)
    kind = mode(n.kind for n in networks)
    arguments: dict[str, str] = {}
    if any(math.prod(n.shape[2:]) > 1 for n in networks):
        arguments |= {"conv_dim": str(rank), "conv_alpha": str(alpha)}
    if decomposed := any(n.magnitude is not None for n in networks):
        arguments["dora_wd"] = "True"
    if is_lycoris := decomposed or kind != "LoRA":
        arguments["algo"] = kind.lower()
    return {
        "format": "pt",
        "ss_v2": "False",
        "ss_base_model_version": base.spec.ss_base_model_version,
        "ss_network_module": "lycoris.kohya" if is_lycoris else "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(alpha),
        "ss_network_args": json.dumps(arguments),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": base.architecture or base.spec.modelspec_architecture,
        "modelspec.implementation": "diffusers",
    }


def peft_settings(layers: Mapping[str, Network]) -> dict[str, str]:
    """The entry in which diffusers looks for the settings of LoRAs."""
    from peft import LoraConfig

    parts: dict[str, dict[str, Network]] = {}
    for layer, network in layers.items():
        part, _, module = layer.partition(".")
        parts.setdefault(part, {})[module] = network
    settings: dict[str, Any] = {}
    for part, modules in parts.items():
        rank, alpha = mode(n.rank for n in modules.values()), mode(n.alpha for n in modules.values())
        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,  # type: ignore[arg-type]
            target_modules=sorted(modules),
            rank_pattern={f"^{name}": n.rank for name, n in modules.items() if n.rank != rank},
            alpha_pattern={f"^{name}": n.alpha for name, n in modules.items() if n.alpha != alpha},  # type: ignore[arg-type]
            use_dora=any(n.magnitude is not None for n in modules.values()),
        )
        settings |= {f"{part}.{name}": value for name, value in config.to_dict().items()}
    return {_PEFT_SETTINGS: json.dumps(settings, sort_keys=True, default=list)}  # peft keeps modules in a set


def file_content(tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str]) -> bytes:
    """A safetensors file that carries its own hashes.

    `sshs_model_hash` and `modelspec.hash_sha256` are of the file without its header, which no words can change;
    `sshs_legacy_hash` is of 64 KiB of the file as it would be with kohya's own words (`ss_`) alone.
    """
    from safetensors.torch import save

    # Copies: parts of one layer share a factor, which the format does not know
    plain = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
    content = save(plain, {key: value for key, value in metadata.items() if key.startswith("ss_")})
    header_length = int.from_bytes(content[:8], "little")
    digest = hashlib.sha256(content[8 + header_length :]).hexdigest()
    hashes = {
        "sshs_model_hash": digest,
        "sshs_legacy_hash": hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8],
        "modelspec.hash_sha256": f"0x{digest}",
    }
    return save(plain, {**metadata, **hashes})
