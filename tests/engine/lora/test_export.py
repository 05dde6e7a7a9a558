"""LoRAs in other formats: the same change to the base, in files that other programs read."""

import hashlib
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from peft import LoHaConfig, inject_adapter_in_model
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from engine import families
from engine.errors import BadLora
from engine.families import Base
from engine.lora.files import LoraFile, LoraFormat, export_lora, read_lora
from tests.engine.lora.closed_forms import KINDS, MAGNITUDES, OF_KERNELS, Sample, relative_error, sample
from tests.tiny import make_tiny_lora, make_tiny_sdxl

FORMATS: tuple[LoraFormat, ...] = get_args(LoraFormat)
LAYERS = {
    "lora_unet_conv_in": "unet.conv_in",
    "lora_unet_down_blocks_1_attentions_0_proj_in": "unet.down_blocks.1.attentions.0.proj_in",
    "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k": (
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    ),
    "lora_unet_mid_block_resnets_1_conv2": "unet.mid_block.resnets.1.conv2",
    "lora_unet_up_blocks_0_attentions_1_transformer_blocks_0_ff_net_2": (
        "unet.up_blocks.0.attentions.1.transformer_blocks.0.ff.net.2"
    ),
    "lora_te_text_model_encoder_layers_1_self_attn_q_proj": "text_encoder.encoder.layers.1.self_attn.q_proj",
    "lora_te_text_model_encoder_layers_0_mlp_fc1": "text_encoder.encoder.layers.0.mlp.fc1",
}


def weight_of(base: Base, layer: str) -> Tensor:
    shape = families.family(base.family).layers(base)[layer]
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def save_samples(path: Path, samples: dict[str, Sample], **metadata: str) -> Path:
    tensors = {f"{name}.{role}": t for name, made in samples.items() for role, t in made.tensors.items()}
    save_file(tensors, path, metadata or None)
    return path


def random_samples(base: Base, seed: int, kinds: dict[str, list[tuple[str, str | None]]]) -> dict[str, Sample]:
    """Layers with random kinds (by part of the base), ranks and alphas; every fourth has no alpha."""
    chance = random.Random(seed)
    samples = {}
    for n, (name, layer) in enumerate(LAYERS.items()):
        weight = weight_of(base, layer)
        kind, magnitude = chance.choice(kinds[layer.partition(".")[0]])
        if kind in OF_KERNELS and weight.shape[2:].numel() == 1:
            kind = kind.partition(" ")[0]
        alpha = None if n % 4 == 3 else chance.choice((0.5, 1.0, 3.0, 16.0))
        samples[name] = sample(
            kind, weight, rank=chance.choice((1, 2, 4, 7)), alpha=alpha, magnitude=magnitude, seed=100 * seed + n
        )
    return samples


ANY: list[tuple[str, str | None]] = [(kind, magnitude) for kind in KINDS for magnitude in (None, None, *MAGNITUDES)]
# In this format a part of the base has one kind, and DoRA is a LoRA's with magnitudes of outputs
IN_PEFT: tuple[list[tuple[str, str | None]], ...] = (
    [("LoRA", None), ("LoRA with a core", None)],
    [("LoRA", "outputs"), ("LoRA with a core", "outputs")],
    [("LoHa", None), ("LoHa with a core", None)],
    [(kind, None) for kind in KINDS if kind.startswith("LoKr")],
)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("seed", range(6))
def test_a_round_trip_keeps_the_change(base: Base, tmp_path: Path, seed: int, format: LoraFormat) -> None:
    kinds = {"unet": ANY, "text_encoder": ANY}
    if format == "diffusers":
        kinds = {"unet": IN_PEFT[seed % 4], "text_encoder": IN_PEFT[(seed + 1) % 4]}
    samples = random_samples(base, seed, kinds)
    first = read_lora(save_samples(tmp_path / "first.safetensors", samples), base)
    export_lora(tmp_path / "second.safetensors", first, base, format=format)
    second = read_lora(tmp_path / "second.safetensors", base)
    export_lora(tmp_path / "third.safetensors", second, base, format="kohya")
    third = read_lora(tmp_path / "third.safetensors", base)

    assert second.unmatched == third.unmatched == ()
    for name, made in samples.items():
        weight = weight_of(base, LAYERS[name])
        before = first.layers[LAYERS[name]].delta(weight)
        assert relative_error(before, made.delta) < 2e-6
        for lora in (second, third):
            assert relative_error(lora.layers[LAYERS[name]].delta(weight), before.double().numpy()) < 1e-6


@pytest.fixture
def mug(base: Base, folder: Path, tmp_path: Path) -> LoraFile:
    """A LoRA of every attention layer with alpha unlike rank, as diffusers saves it."""
    return read_lora(make_tiny_lora(folder, tmp_path / "mug.safetensors", rank=4, alpha=3, text_encoder=True), base)


@pytest.fixture
def sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_sdxl(tmp_path_factory.mktemp("sdxl"))


def sdxl(folder: Path) -> Base:
    return replace(families.base("sdxl"), source=str(folder), variant=None)


def changes_by_diffusers(pipeline: Any, file: Path) -> dict[str, Tensor]:
    """What diffusers makes of a file: the change to every weight, when it is merged."""
    models = {
        part: getattr(pipeline, part)
        for part in ("unet", "text_encoder", "text_encoder_2")
        if getattr(pipeline, part, None) is not None
    }
    before = {part: {n: p.detach().clone() for n, p in model.named_parameters()} for part, model in models.items()}
    pipeline.load_lora_weights(file.parent, weight_name=file.name)
    pipeline.fuse_lora(components=list(models))
    pipeline.unload_lora_weights()
    changes = {
        f"{part}.{name.removesuffix('.weight')}": parameter.detach() - before[part][name]
        for part, model in models.items()
        for name, parameter in model.named_parameters()
    }
    return {layer: change for layer, change in changes.items() if change.abs().max() > 0}


def require_same_changes(lora: LoraFile, pipeline: Any, file: Path) -> None:
    expected = changes_by_diffusers(pipeline, file)
    assert expected.keys() == lora.layers.keys()
    for layer, net in lora.layers.items():
        part, _, module = layer.partition(".")
        weight = getattr(pipeline, part).get_submodule(module).weight.detach()  # unloading has left it merged
        change = net.delta(weight - expected[layer])
        assert relative_error(change, expected[layer].double().numpy()) < 1e-5


@pytest.mark.parametrize("format", ["kohya", "diffusers"])
def test_diffusers_reads_what_is_exported(base: Base, mug: LoraFile, tmp_path: Path, format: LoraFormat) -> None:
    export_lora(tmp_path / "out.safetensors", mug, base, format=format)
    pipeline = StableDiffusionPipeline.from_pretrained(base.source)
    require_same_changes(mug, pipeline, tmp_path / "out.safetensors")


@pytest.mark.parametrize("format", ["kohya", "diffusers"])
def test_diffusers_reads_what_is_exported_for_sdxl(sdxl_folder: Path, tmp_path: Path, format: LoraFormat) -> None:
    """kohya's file has the layers' original names here."""
    base = sdxl(sdxl_folder)
    made = make_tiny_lora(sdxl_folder, tmp_path / "made.safetensors", rank=4, alpha=3)
    lora = read_lora(made, base)
    export_lora(tmp_path / "out.safetensors", lora, base, format=format)
    names = load_file(tmp_path / "out.safetensors").keys()
    assert any("input_blocks_3_1_transformer_blocks_1_attn1_to_q" in name for name in names) is (format == "kohya")
    require_same_changes(lora, StableDiffusionXLPipeline.from_pretrained(sdxl_folder), tmp_path / "out.safetensors")


def test_both_text_encoders_of_sdxl(sdxl_folder: Path, tmp_path: Path) -> None:
    base = sdxl(sdxl_folder)
    names = {
        "lora_te1_text_model_encoder_layers_0_mlp_fc1": "text_encoder.encoder.layers.0.mlp.fc1",
        "lora_te2_text_model_encoder_layers_0_mlp_fc1": "text_encoder_2.text_model.encoder.layers.0.mlp.fc1",
        "lora_te2_text_projection": "text_encoder_2.text_projection",
        "lora_unet_input_blocks_2_0_op": "unet.down_blocks.0.downsamplers.0.conv",
    }
    samples = {name: sample("LoRA", weight_of(base, layer), rank=2, alpha=1.0) for name, layer in names.items()}
    lora = read_lora(save_samples(tmp_path / "in.safetensors", samples), base)
    assert lora.layers.keys() == set(names.values())
    for format in FORMATS:
        export_lora(tmp_path / "out.safetensors", lora, base, format=format)
        again = read_lora(tmp_path / "out.safetensors", base)
        assert again.layers.keys() == lora.layers.keys()
    export_lora(tmp_path / "out.safetensors", lora, base, format="kohya")
    assert load_file(tmp_path / "out.safetensors").keys() == {
        f"{name}.{role}" for name in names for role in samples[name].tensors
    }


def test_diffusers_reads_an_exported_dora(base: Base, tmp_path: Path) -> None:
    """kohya's file of it loads in diffusers without its magnitudes; exported in diffusers' format, with them."""
    unet: Any = UNet2DConditionModel.from_pretrained(base.source, subfolder="unet")
    names = [name for name in LAYERS if "unet" in name]
    samples = {
        name: sample(
            "LoRA", unet.get_submodule(LAYERS[name][5:]).weight.detach(), rank=2, alpha=3.0, magnitude="outputs", seed=n
        )
        for n, name in enumerate(names)
    }
    lora = read_lora(save_samples(tmp_path / "kohya.safetensors", samples), base)
    export_lora(tmp_path / "out.safetensors", lora, base, format="diffusers")
    changes = changes_by_diffusers(StableDiffusionPipeline.from_pretrained(base.source), tmp_path / "out.safetensors")
    assert changes.keys() == {LAYERS[name] for name in names}
    for name, made in samples.items():
        assert relative_error(changes[LAYERS[name]], made.delta) < 1e-5


@pytest.mark.parametrize("kind", ["LoKr", "LoKr, whole"])
def test_diffusers_reads_an_exported_lokr(base: Base, tmp_path: Path, kind: str) -> None:
    names = [name for name in LAYERS if "attn" in name and "unet" in name]
    samples = {name: sample(kind, weight_of(base, LAYERS[name]), rank=2, alpha=3.0) for name in names}
    lora = read_lora(save_samples(tmp_path / "kohya.safetensors", samples), base)
    export_lora(tmp_path / "out.safetensors", lora, base, format="diffusers")
    unet: Any = UNet2DConditionModel.from_pretrained(base.source, subfolder="unet")
    unet.load_lora_adapter(tmp_path / "out.safetensors", prefix="unet")
    for name in names:
        change = unet.get_submodule(LAYERS[name][5:]).get_delta_weight("default_0").detach()
        assert relative_error(change, samples[name].delta) < 2e-6


def test_peft_reads_an_exported_loha(base: Base, tmp_path: Path) -> None:
    layer = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    name = f"lora_unet_{layer.replace('.', '_')}"
    made = sample("LoHa", weight_of(base, f"unet.{layer}"), rank=3, alpha=2.0)
    lora = read_lora(save_samples(tmp_path / "kohya.safetensors", {name: made}), base)
    export_lora(tmp_path / "out.safetensors", lora, base, format="diffusers")
    unet: Any = UNet2DConditionModel.from_pretrained(base.source, subfolder="unet")
    inject_adapter_in_model(LoHaConfig(r=3, alpha=3, target_modules=[layer]), unet)
    adapted = unet.get_submodule(layer)
    for key, tensor in load_file(tmp_path / "out.safetensors").items():
        getattr(adapted, key.rpartition(".")[2])["default"].data = tensor
    assert relative_error(adapted.get_delta_weight("default").detach(), made.delta) < 2e-6


def test_what_pefts_format_cannot_hold_is_refused(base: Base, tmp_path: Path) -> None:
    first, second = list(LAYERS)[1:3]

    def export(kinds: dict[str, tuple[str, str | None]]) -> None:
        samples = {
            name: sample(kind, weight_of(base, LAYERS[name]), rank=2, alpha=1.0, magnitude=magnitude)
            for name, (kind, magnitude) in kinds.items()
        }
        lora = read_lora(save_samples(tmp_path / "in.safetensors", samples), base)
        export_lora(tmp_path / "out.safetensors", lora, base, format="diffusers")

    with pytest.raises(BadLora, match="different kinds of networks, which the diffusers format cannot hold"):
        export({first: ("LoRA", None), second: ("LoHa", None)})
    with pytest.raises(BadLora, match="different kinds of networks"):
        export({first: ("LoRA", None), second: ("LoRA", "outputs")})
    with pytest.raises(BadLora, match="a DoRA of a LoHa or LoKr"):
        export({first: ("LoKr", "outputs")})
    with pytest.raises(BadLora, match="whose magnitudes are those of inputs"):
        export({second: ("LoRA", "inputs")})
    assert not (tmp_path / "out.safetensors").exists()


def test_a_lokr_of_pefts_with_an_alpha_beside_whole_matrices(base: Base, tmp_path: Path) -> None:
    """LyCORIS goes by no alpha there, and peft by the one in its settings."""
    layer = LAYERS[list(LAYERS)[2]]
    made = sample("LoKr, whole", weight_of(base, layer), rank=8, alpha=None)
    tensors = {f"{layer}.{role}": tensor for role, tensor in made.tensors.items()}
    settings = {"unet.r": 8, "unet.alpha": 4}
    save_file(tensors, tmp_path / "in.safetensors", {"lora_adapter_metadata": json.dumps(settings)})
    lora = read_lora(tmp_path / "in.safetensors", base)
    assert relative_error(lora.layers[layer].delta(weight_of(base, layer)), made.delta / 2) < 2e-6


def test_half_precision_stays_as_it_is(base: Base, tmp_path: Path) -> None:
    samples = random_samples(base, 0, {part: [("LoRA", None)] for part in ("unet", "text_encoder")})
    halves = {name: replace(s, tensors={k: t.half() for k, t in s.tensors.items()}) for name, s in samples.items()}
    lora = read_lora(save_samples(tmp_path / "in.safetensors", halves), base)
    export_lora(tmp_path / "out.safetensors", lora, base, format="kohya")
    before, after = load_file(tmp_path / "in.safetensors"), load_file(tmp_path / "out.safetensors")
    for key in (key for key in before if not key.endswith(".alpha")):
        assert after[key].dtype == torch.float16
        assert torch.equal(after[key], before[key])


def words(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        return opened.metadata()


def test_what_other_tools_read_in_an_export(base: Base, mug: LoraFile, tmp_path: Path) -> None:
    about = {
        "ss_output_name": "mug",
        "ss_tag_frequency": json.dumps({"10_a": {"sks": 9}}),
        "modelspec.title": "My mug",
        "modelspec.date": "2026-01-02T03:04:05",
        "sshs_model_hash": "of another file",
        "lora_adapter_metadata": "{}",
    }
    export_lora(tmp_path / "out.safetensors", replace(mug, trigger="sks", metadata=about), base, format="kohya")
    written = words(tmp_path / "out.safetensors")
    expected = {
        **{key: about[key] for key in ("ss_output_name", "ss_tag_frequency", "modelspec.title", "modelspec.date")},
        "ss_v2": "False",
        "ss_base_model_version": "sd_v1",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "4",
        "ss_network_alpha": "3.0",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.trigger_phrase": "sks",
        "modelspec.resolution": f"{base.default_size_px}x{base.default_size_px}",
    }
    assert {key: written[key] for key in expected} == expected
    assert "lora_adapter_metadata" not in written
    assert read_lora(tmp_path / "out.safetensors", base).trigger == "sks"


@pytest.mark.parametrize(
    ("kind", "magnitude", "module", "arguments"),
    [
        ("LoRA", None, "networks.lora", {"conv_dim": "2", "conv_alpha": "1.0"}),
        ("LoRA", "outputs", "lycoris.kohya", {"algo": "lora", "dora_wd": "True", "conv_dim": "2", "conv_alpha": "1.0"}),
        ("LoHa", None, "lycoris.kohya", {"algo": "loha", "conv_dim": "2", "conv_alpha": "1.0"}),
        ("LoKr", None, "lycoris.kohya", {"algo": "lokr", "conv_dim": "2", "conv_alpha": "1.0"}),
    ],
)
def test_the_words_of_other_networks(
    base: Base, tmp_path: Path, kind: str, magnitude: str | None, module: str, arguments: dict[str, str]
) -> None:
    made = sample(kind, weight_of(base, "unet.conv_in"), rank=2, alpha=1.0, magnitude=magnitude)
    lora = read_lora(save_samples(tmp_path / "in.safetensors", {"lora_unet_conv_in": made}), base)
    export_lora(tmp_path / "out.safetensors", lora, base, format="kohya")
    written = words(tmp_path / "out.safetensors")
    assert written["ss_network_module"] == module
    assert json.loads(written["ss_network_args"]) == arguments


@pytest.mark.parametrize("format", FORMATS)
def test_the_hashes_are_sd_scripts(base: Base, mug: LoraFile, tmp_path: Path, format: LoraFormat) -> None:
    """Of a file of over 1 MiB, else the legacy hash is that of nothing. As sd-scripts' addnet_hash_safetensors and
    addnet_hash_legacy take them from the file that has none but its own words."""
    layer = next(layer for layer in mug.layers if layer.startswith("unet."))
    net = mug.layers[layer]
    wide = {
        role: matrix.repeat_interleave(3000, dim=0 if role == "lora_down" else 1)
        for role, matrix in net.factors[0].items()
    }
    big = replace(mug, layers={layer: replace(net, factors=(wide,), rank=len(wide["lora_down"]))})
    file = tmp_path / "out.safetensors"
    export_lora(file, big, base, format=format)
    written, content = words(file), file.read_bytes()
    data = content[8 + int.from_bytes(content[:8], "little") :]
    digest = hashlib.sha256(data).hexdigest()
    assert written["sshs_model_hash"] == digest
    assert written["modelspec.hash_sha256"] == f"0x{digest}"
    own = save(load_file(file), {key: value for key, value in written.items() if key.startswith("ss_")})
    assert len(own) > 0x100000
    assert written["sshs_legacy_hash"] == hashlib.sha256(own[0x100000:0x110000]).hexdigest()[:8]
