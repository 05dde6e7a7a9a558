"""LoRA files of the families with a transformer, in every style, against diffusers' own readers and converters."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.loaders.lora_conversion_utils import (
    _convert_kohya_flux_lora_to_diffusers,
    _convert_xlabs_flux_lora_to_diffusers,
)
from diffusers.loaders.single_file_utils import (
    convert_flux2_transformer_checkpoint_to_diffusers,
    convert_sd3_transformer_checkpoint_to_diffusers,
    convert_z_image_transformer_checkpoint_to_diffusers,
)
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine import families
from engine.errors import BadLora
from engine.families import Base
from engine.lora.files import LoraFile, export_lora, read_lora
from engine.lora.names import LoraFormat
from engine.lora.networks import Network, join, split
from tests.engine.lora.other_families import FAMILIES as OTHER_FAMILIES
from tests.engine.lora.other_families import tensors
from tests.tiny_transformers import KINDS, make_tiny_transformer_lora

WIDTH = 3072
OWN = {
    "Flux": {"flux"},
    "Flux.2": {"flux2"},
    "Stable Diffusion 3": {"sd3"},
    "Stable Diffusion XL": set(),
    "Qwen-Image": {"qwen_image"},
    "Z-Image": {"z_image"},
}


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """Flux.1 at its real width, with one block of each kind; as far as its configuration says."""
    folder = tmp_path_factory.mktemp("flux")
    configs: dict[str, dict[str, Any]] = {
        "transformer": {
            "_class_name": "FluxTransformer2DModel",
            "num_layers": 1,
            "num_single_layers": 1,
            "guidance_embeds": True,
        },
        "text_encoder": {"model_type": "clip_text_model", "num_hidden_layers": 1},
        "text_encoder_2": {"model_type": "t5", "num_layers": 1},
    }
    for part, config in configs.items():
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(json.dumps(config))
    return replace(families.base("flux_dev"), source=str(folder))


DOUBLE = {
    **{f"{side}_attn_qkv": (WIDTH, 3 * WIDTH) for side in ("img", "txt")},
    **{f"{side}_attn_proj": (WIDTH, WIDTH) for side in ("img", "txt")},
    **{f"{side}_mlp_0": (WIDTH, 4 * WIDTH) for side in ("img", "txt")},
    **{f"{side}_mlp_2": (4 * WIDTH, WIDTH) for side in ("img", "txt")},
    **{f"{side}_mod_lin": (WIDTH, 6 * WIDTH) for side in ("img", "txt")},
}
SINGLE = {"linear1": (WIDTH, 7 * WIDTH), "linear2": (5 * WIDTH, WIDTH), "modulation_lin": (WIDTH, 3 * WIDTH)}
KOHYA = {
    **{f"lora_unet_double_blocks_0_{name}": size for name, size in DOUBLE.items()},
    **{f"lora_unet_single_blocks_0_{name}": size for name, size in SINGLE.items()},
}


def kohya_state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, (inputs, outputs) in KOHYA.items():
        state[f"{name}.lora_down.weight"] = torch.randn(4, inputs, generator=generator)
        state[f"{name}.lora_up.weight"] = torch.randn(outputs, 4, generator=generator)
        state[f"{name}.alpha"] = torch.tensor(3.0)
    return state


def require_same(lora: LoraFile, expected: dict[str, Tensor]) -> None:
    """Of peft's tensors with the scale inside: on a random input, for the matrices themselves are large."""
    layers = {key.rpartition(".lora_")[0] for key in expected}
    assert lora.layers.keys() == layers
    for layer in layers:
        down, up = expected[f"{layer}.lora_A.weight"], expected[f"{layer}.lora_B.weight"]
        x = torch.randn(down.shape[1], generator=torch.Generator().manual_seed(1)).double()
        network = lora.layers[layer]
        (factor,) = network.factors
        change = factor["lora_up"].double() @ (factor["lora_down"].double() @ x) * (network.alpha / network.rank)
        torch.testing.assert_close(change, up.double() @ (down.double() @ x), rtol=1e-5, atol=1e-4)


def test_kohyas_flux_is_what_diffusers_makes_of_it(flux: Base, tmp_path: Path) -> None:
    state = kohya_state()
    save_file(state, tmp_path / "kohya.safetensors")
    lora = read_lora(tmp_path / "kohya.safetensors", flux)
    assert (lora.matched, lora.unmatched) == (len(state), ())
    expected = _convert_kohya_flux_lora_to_diffusers({key: tensor.clone() for key, tensor in state.items()})
    require_same(lora, expected)


def test_kohyas_flux_comes_back_as_it_was(flux: Base, tmp_path: Path) -> None:
    state = kohya_state()
    save_file(state, tmp_path / "kohya.safetensors")
    export_lora(tmp_path / "again.safetensors", read_lora(tmp_path / "kohya.safetensors", flux), flux, format="kohya")
    again = load_file(tmp_path / "again.safetensors")
    assert again.keys() == state.keys()
    assert all(torch.equal(tensor, state[key]) for key, tensor in again.items())


def test_xlabs_flux_is_what_diffusers_makes_of_it(flux: Base, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, outputs in (("qkv_lora1", 3), ("qkv_lora2", 3), ("proj_lora1", 1), ("proj_lora2", 1)):
        layer = f"double_blocks.0.processor.{name}"
        state[f"{layer}.down.weight"] = torch.randn(4, WIDTH, generator=generator)
        state[f"{layer}.up.weight"] = torch.randn(outputs * WIDTH, 4, generator=generator)
    save_file(state, tmp_path / "xlabs.safetensors")
    lora = read_lora(tmp_path / "xlabs.safetensors", flux)
    assert (lora.matched, lora.unmatched) == (len(state), ())
    require_same(lora, _convert_xlabs_flux_lora_to_diffusers(dict(state)))


def test_separate_queries_keys_and_values_go_into_one_layer_of_kohyas(flux: Base, tmp_path: Path) -> None:
    """Of different alphas, with one of them missing; then diffusers takes them apart again."""
    generator = torch.Generator().manual_seed(0)
    layers = {}
    for number, name in enumerate(("to_q", "to_v")):
        down, up = (torch.randn(size, generator=generator) for size in ((4, WIDTH), (WIDTH, 4)))
        layers[f"transformer.transformer_blocks.0.attn.{name}"] = Network(
            kind="LoRA",
            factors=({"lora_up": up, "lora_down": down},),
            shape=(WIDTH, WIDTH),
            rank=4,
            alpha=2.0 + 3 * number,
        )
    lora = LoraFile(layers=layers, rank=4, alpha=2.0, trigger="", metadata={}, matched=4, unmatched=())
    export_lora(tmp_path / "kohya.safetensors", lora, flux, format="kohya")
    state = load_file(tmp_path / "kohya.safetensors")
    assert {key.partition(".")[0] for key in state} == {"lora_unet_double_blocks_0_img_attn_qkv"}

    expected = _convert_kohya_flux_lora_to_diffusers(state)
    missing = expected.pop("transformer.transformer_blocks.0.attn.to_k.lora_B.weight")
    del expected["transformer.transformer_blocks.0.attn.to_k.lora_A.weight"]
    assert not missing.any()
    require_same(read_lora(tmp_path / "kohya.safetensors", flux), expected)


# Every layer with a weight in the first codes of the families at the sizes of `tests.tiny_transformers`: (in, out)
SD3 = {
    **{f"joint_blocks.{n}.{side}_block.attn.qkv": (32, 96) for n in (0, 1) for side in ("x", "context")},
    **{f"joint_blocks.{n}.{side}.attn.proj": (32, 32) for n, side in ((0, "x_block"), (0, "context_block"))},
    **{f"joint_blocks.{n}.{side}.mlp.fc1": (32, 128) for n, side in ((0, "x_block"), (0, "context_block"))},
    **{f"joint_blocks.{n}.{side}.mlp.fc2": (128, 32) for n, side in ((0, "x_block"), (0, "context_block"))},
    **{f"joint_blocks.0.{side}_block.adaLN_modulation.1": (32, 192) for side in ("x", "context")},
    "joint_blocks.1.x_block.attn.proj": (32, 32),
    "joint_blocks.1.x_block.mlp.fc1": (32, 128),
    "joint_blocks.1.x_block.mlp.fc2": (128, 32),
    "joint_blocks.1.x_block.adaLN_modulation.1": (32, 192),
    "joint_blocks.1.context_block.adaLN_modulation.1": (32, 64),  # shift and scale alone
    "t_embedder.mlp.0": (256, 32),
    "t_embedder.mlp.2": (32, 32),
    "y_embedder.mlp.0": (32, 32),
    "y_embedder.mlp.2": (32, 32),
    "context_embedder": (32, 32),
    "final_layer.adaLN_modulation.1": (32, 64),
    "final_layer.linear": (32, 16),
}
FLUX2 = {
    **{f"double_blocks.{n}.{side}_attn.qkv": (32, 96) for n in (0, 1) for side in ("img", "txt")},
    **{f"double_blocks.{n}.{side}_attn.proj": (32, 32) for n in (0, 1) for side in ("img", "txt")},
    **{f"double_blocks.{n}.{side}_mlp.0": (32, 192) for n in (0, 1) for side in ("img", "txt")},
    **{f"double_blocks.{n}.{side}_mlp.2": (96, 32) for n in (0, 1) for side in ("img", "txt")},
    **{f"single_blocks.{n}.linear1": (32, 288) for n in (0, 1)},
    **{f"single_blocks.{n}.linear2": (128, 32) for n in (0, 1)},
    **{f"double_stream_modulation_{side}.lin": (32, 192) for side in ("img", "txt")},
    "single_stream_modulation.lin": (32, 96),
    "img_in": (16, 32),
    "txt_in": (96, 32),
    "time_in.in_layer": (256, 32),
    "time_in.out_layer": (32, 32),
    "final_layer.adaLN_modulation.1": (32, 64),
    "final_layer.linear": (32, 16),
}
Z_IMAGE_BLOCKS = ("layers.0", "layers.1", "noise_refiner.0", "context_refiner.0")
Z_IMAGE = {
    **{f"{block}.attention.qkv": (32, 96) for block in Z_IMAGE_BLOCKS},
    **{f"{block}.attention.out": (32, 32) for block in Z_IMAGE_BLOCKS},
    **{f"{block}.feed_forward.w{n}": (32, 85) for block in Z_IMAGE_BLOCKS for n in (1, 3)},
    **{f"{block}.feed_forward.w2": (85, 32) for block in Z_IMAGE_BLOCKS},
    **{f"{block}.adaLN_modulation.0": (32, 128) for block in Z_IMAGE_BLOCKS[:-1]},
    "x_embedder": (16, 32),
    "cap_embedder.1": (32, 32),
    "final_layer.linear": (32, 16),
    "final_layer.adaLN_modulation.1": (32, 32),
}
FIRST_CODES = {
    "sd3": (SD3, convert_sd3_transformer_checkpoint_to_diffusers),
    "flux2": (FLUX2, convert_flux2_transformer_checkpoint_to_diffusers),
    "z_image": (Z_IMAGE, convert_z_image_transformer_checkpoint_to_diffusers),
}


@pytest.mark.parametrize("family", FIRST_CODES)
def test_layers_of_the_first_code_change_what_diffusers_makes_of_its_checkpoints(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kohya's SD3 LoRAs have every layer of the blocks; the halves of shifts and scales change places in diffusers."""
    monkeypatch.setenv("TRIPOD_MODELS", str(tmp_path / "models"))
    KINDS[family].make(tmp_path / "models" / "tiny")
    base = families.base("tiny")
    layers, convert = FIRST_CODES[family]
    generator = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}
    checkpoint: dict[str, Tensor] = {}
    for layer, (inputs, outputs) in layers.items():
        down = torch.randn(2, inputs, generator=generator)
        up = torch.randn(outputs, 2, generator=generator)
        name = f"lora_unet_{layer.replace('.', '_')}"
        state |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(1.0)}
        checkpoint[f"{layer}.weight"] = up @ down / 2
        if family == "sd3":
            checkpoint[f"{layer}.bias"] = torch.zeros(outputs)
    if family == "sd3":  # what else its converter looks for
        checkpoint |= dict.fromkeys(("pos_embed", "x_embedder.proj.weight", "x_embedder.proj.bias"), torch.zeros(1))
    expected = {
        f"transformer.{key.removesuffix('.weight')}": change
        for key, change in convert(checkpoint).items()
        if change.any()
    }
    save_file(state, tmp_path / "first.safetensors")
    lora = read_lora(tmp_path / "first.safetensors", base)
    assert lora.unmatched == ()
    assert lora.layers.keys() == expected.keys()
    for layer, change in expected.items():
        torch.testing.assert_close(lora.layers[layer].delta(torch.zeros_like(change)), change, rtol=1e-5, atol=1e-6)

    formats: tuple[LoraFormat, ...] = ("kohya", "diffusers", "comfyui")
    for format in formats:
        export_lora(tmp_path / f"{format}.safetensors", lora, base, format=format)
        again = read_lora(tmp_path / f"{format}.safetensors", base)
        assert again.layers.keys() == expected.keys()
        for layer, change in expected.items():
            torch.testing.assert_close(
                again.layers[layer].delta(torch.zeros_like(change)), change, rtol=1e-5, atol=1e-6
            )
    if base.spec.exports_original_layers:
        kohya = load_file(tmp_path / "kohya.safetensors")
        assert kohya.keys() == state.keys()
        assert all(torch.equal(tensor, state[key]) for key, tensor in kohya.items())


def test_comfyuis_flux_has_its_own_modules_names(flux: Base, tmp_path: Path) -> None:
    save_file(kohya_state(), tmp_path / "kohya.safetensors")
    lora = read_lora(tmp_path / "kohya.safetensors", flux)
    export_lora(tmp_path / "comfyui.safetensors", lora, flux, format="comfyui")
    names = {key.partition(".lora_")[0] for key in load_file(tmp_path / "comfyui.safetensors") if ".lora_" in key}
    assert {"diffusion_model.double_blocks.0.img_attn.qkv", "diffusion_model.single_blocks.0.linear1"} <= names
    again = read_lora(tmp_path / "comfyui.safetensors", flux)
    assert again.layers.keys() == lora.layers.keys()


def test_a_whole_matrix_of_kronecker_factors_is_taken_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(3, 2, generator=generator), torch.randn(4, 3, generator=generator)
    network = Network(kind="LoKr", factors=({"lokr_w1": first}, {"lokr_w2": second}), shape=(12, 6), rank=1, alpha=0.5)
    whole = torch.kron(first, second) * 0.5
    parts = split(network, (5, 7))
    for part, expected in zip(parts, whole.split((5, 7)), strict=True):
        assert part
        torch.testing.assert_close(part.delta(torch.zeros(expected.shape)), expected)
        written = part.tensors()  # LyCORIS, ComfyUI and peft go by no alpha beside whole matrices
        torch.testing.assert_close(torch.kron(written["lokr_w1"], written["lokr_w2"]), expected)
    assert join(parts, (5, 7)) is None


@pytest.fixture(scope="module", params=KINDS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return KINDS[request.param].make(tmp_path_factory.mktemp("models") / f"tiny-{request.param}")


READ_BY_DIFFUSERS: dict[str, tuple[LoraFormat, ...]] = {
    "flux": ("diffusers",),  # kohya's only at its real width
    "sd3": ("diffusers",),
    "z_image": ("diffusers", "comfyui", "kohya"),
    "qwen_image": ("diffusers", "kohya"),
    "flux2": ("diffusers", "kohya"),
}


def test_diffusers_reads_what_is_exported(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPOD_MODELS", str(tiny.parent))
    base = families.base(tiny.name)
    lora = read_lora(make_tiny_transformer_lora(tiny, tmp_path / "made.safetensors", rank=4, alpha=3), base)
    pipeline = getattr(diffusers, base.spec.pipeline).from_pretrained(tiny)
    for format in READ_BY_DIFFUSERS[base.family]:
        export_lora(tmp_path / f"{format}.safetensors", lora, base, format=format)
        pipeline.load_lora_weights(tmp_path, weight_name=f"{format}.safetensors", adapter_name=format)
        changes = {
            f"transformer.{name}": module.get_delta_weight(format).detach()
            for name, module in pipeline.transformer.named_modules()
            if isinstance(module, LoraLayer) and format in module.lora_A
        }
        changes = {layer: change for layer, change in changes.items() if change.any()}
        assert changes.keys() == lora.layers.keys(), format
        for layer, network in lora.layers.items():
            torch.testing.assert_close(changes[layer], network.delta(torch.zeros(network.shape)), rtol=1e-4, atol=1e-6)
    for format in ("kohya", "comfyui"):
        export_lora(tmp_path / "again.safetensors", lora, base, format=format)
        again = read_lora(tmp_path / "again.safetensors", base)
        assert again.unmatched == ()
        for layer, network in lora.layers.items():
            weight = torch.zeros(network.shape)
            torch.testing.assert_close(again.layers[layer].delta(weight), network.delta(weight), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("title", OTHER_FAMILIES)
def test_a_lora_of_another_family_is_refused_by_name(
    tiny: Path, title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIPOD_MODELS", str(tiny.parent))
    base = families.base(tiny.name)
    for number, layers in enumerate(OTHER_FAMILIES[title]):
        save_file(tensors(layers()), tmp_path / f"{number}.safetensors")
        reason = "its layer" if base.family in OWN[title] else f"it was made for {title}"
        with pytest.raises(BadLora, match=f"does not fit the base {tiny.name}: {reason}"):
            read_lora(tmp_path / f"{number}.safetensors", base)
