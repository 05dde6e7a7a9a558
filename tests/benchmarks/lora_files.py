"""`python -m tests.benchmarks.lora_files [--quick]`: LoRA files there and back, and the refusal of other families.

A round trip writes random networks of every kind (LoRA, LoCon, DoRA, LoHa, LoKr, with Tucker cores and without) as
kohya's and LyCORIS's trainers do, reads them, exports them in a format, and reads that. The error is that of the change
to a weight against the definition written out in double precision, relative by Frobenius's norm, the largest of all.
Files with the layers of Flux, Stable Diffusion 3, SDXL, Qwen-Image and Z-Image must be refused by those names.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any, get_args

from engine import families
from engine.errors import BadLora
from engine.families import Base
from engine.lora.files import LoraFormat, export_lora, read_lora
from tests.engine.lora.closed_forms import KINDS, MAGNITUDES, OF_KERNELS, relative_error, sample
from tests.engine.lora.other_families import FAMILIES, tensors
from tests.tiny import make_tiny_base

LAYERS = {
    "lora_unet_mid_block_resnets_0_conv1": "unet.mid_block.resnets.0.conv1",
    "lora_unet_mid_block_attentions_0_proj_in": "unet.mid_block.attentions.0.proj_in",
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v": (
        "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
    ),
    "lora_te_text_model_encoder_layers_1_mlp_fc2": "text_encoder.encoder.layers.1.mlp.fc2",
}
RANKS_AND_ALPHAS = ((4, 1.0), (1, 1.0), (8, 16.0), (3, None), (16, 2.5))


def round_trips(folder: Path, base: Base, scales: int) -> list[float]:
    """The error of every round trip: each kind in each format that holds it, at so many ranks and alphas."""
    import torch
    from safetensors.torch import save_file

    shapes = families.family(base.family).layers(base)
    weights = {
        layer: torch.randn(shapes[layer], generator=torch.Generator().manual_seed(1)) for layer in LAYERS.values()
    }
    errors = []
    for kind in KINDS:
        for magnitude in (None, *MAGNITUDES):
            for rank, alpha in RANKS_AND_ALPHAS[:scales]:
                samples = {
                    name: sample(kind, weights[layer], rank=rank, alpha=alpha, magnitude=magnitude)
                    for name, layer in LAYERS.items()
                    if kind not in OF_KERNELS or weights[layer].shape[2:].numel() > 1
                }
                tensors = {f"{name}.{role}": t for name, made in samples.items() for role, t in made.tensors.items()}
                save_file(tensors, folder / "in.safetensors")
                for format in get_args(LoraFormat):
                    in_peft = magnitude is None or (magnitude == "outputs" and kind.startswith("LoRA"))
                    if format == "diffusers" and not in_peft:
                        continue
                    read = read_lora(folder / "in.safetensors", base)
                    export_lora(folder / "out.safetensors", read, base, format=format)
                    again = read_lora(folder / "out.safetensors", base)
                    errors.append(
                        max(
                            relative_error(again.layers[LAYERS[name]].delta(weights[LAYERS[name]]), made.delta)
                            for name, made in samples.items()
                        )
                    )
    return errors


def refused_by_name(folder: Path, base: Base) -> bool:
    from safetensors.torch import save_file

    for title, variants in FAMILIES.items():
        for layers in variants:
            save_file(tensors(layers()), folder / "other.safetensors")
            try:
                read_lora(folder / "other.safetensors", base)
            except BadLora as refusal:
                if f"made for {title}" in refusal.problem:
                    continue
            print(f"{title}, {layers.__name__}: not refused by name")
            return False
    return True


def measure(folder: Path, scales: int) -> dict[str, Any]:
    os.environ["TRIPOD_STARTER"] = str(make_tiny_base(folder / "tiny"))
    base = families.base("starter")
    errors = round_trips(folder, base, scales)
    return {
        "round_trips": len(errors),
        "max_relative_error": float(f"{max(errors):.3g}"),
        "refused_wrong_family": refused_by_name(folder, base),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one rank and alpha instead of five")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps(measure(Path(temporary), scales=1 if quick else len(RANKS_AND_ALPHAS))))
