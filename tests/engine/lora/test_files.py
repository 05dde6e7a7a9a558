"""LoRA files: against what peft and diffusers make of the same files, and every refusal."""

import hashlib
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig

from engine import families
from engine.adapters import Lora, attach
from engine.errors import BadLora
from engine.families import Base
from engine.generation import render
from engine.lora.files import import_lora, read_lora, write_lora
from engine.settings import GenerateSettings, TrainSettings
from engine.studio import Studio
from engine.workspace import Workspace
from tests.engine.lora.other_families import FAMILIES, Layers, tensors
from tests.tiny import CROSS_ATTENTION_DIM, SIDE_PX, make_tiny_lora

SETTINGS = GenerateSettings(prompt="a mug", width=SIDE_PX, height=SIDE_PX, steps=2, guidance_scale=3.0)
TO_K = "down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"

SD15_UNET = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
}


@pytest.fixture
def lora_file(folder: Path, tmp_path: Path) -> Path:
    return make_tiny_lora(folder, tmp_path / "mug.safetensors", rank=4, alpha=3, text_encoder=True)


def draw_plain(base: Base, file: Path | None) -> np.ndarray:
    pipeline: Any = StableDiffusionPipeline.from_pretrained(base.source)
    if file:
        pipeline.load_lora_weights(file.parent, weight_name=file.name)
    picture = pipeline(
        SETTINGS.prompt,
        width=SIDE_PX,
        height=SIDE_PX,
        num_inference_steps=SETTINGS.steps,
        guidance_scale=SETTINGS.guidance_scale,
        guidance_rescale=base.guidance_rescale,
        generator=torch.Generator().manual_seed(SETTINGS.seed),
    ).images[0]
    return np.asarray(picture)


def draw(base: Base, file: Path) -> np.ndarray:
    family = families.family(base.family)
    parts = family.load(base, torch.float32, "cpu")
    with attach(parts, loras=[Lora(file=read_lora(file, base))]) as attached:
        return np.asarray(render(family.pipeline(parts, "default"), SETTINGS, base, attached=attached))


def require_same_picture(base: Base, file: Path) -> None:
    expected = draw_plain(base, file)
    assert not np.array_equal(expected, draw_plain(base, None))
    assert np.array_equal(draw(base, file), expected)


def save_unet_lora(base: Base, path: Path, **config: Any) -> Path:
    """A random LoRA on the UNet alone, as peft trains it and diffusers saves it."""
    unet: Any = UNet2DConditionModel.from_pretrained(base.source, subfolder="unet")
    torch.manual_seed(0)
    unet.add_adapter(LoraConfig(**config))
    for parameter in (p for p in unet.parameters() if p.requires_grad):
        torch.nn.init.normal_(parameter, std=0.1)
    StableDiffusionPipeline.save_lora_weights(
        path.parent,
        weight_name=path.name,
        unet_lora_layers=get_peft_model_state_dict(unet),  # type: ignore[arg-type]
        **_collate_lora_metadata({"unet": unet}),
    )
    return path


def as_kohya(file: Path, alpha: float) -> Path:
    """The same weights under kohya's names: `_` for `.`, `lora_down` for A, `lora_up` for B, and alphas."""
    state = {}
    for key, tensor in load_file(file).items():
        layer, _, half = key.removesuffix(".weight").rpartition(".")
        # transformers 4, with which such files are made, calls the text model's layers text_model.*
        layer = layer.replace("unet.", "lora_unet_").replace("text_encoder.", "lora_te_text_model_").replace(".", "_")
        state[f"{layer}.{'lora_down' if half == 'lora_A' else 'lora_up'}.weight"] = tensor
        state[f"{layer}.alpha"] = torch.tensor(alpha)
    path = file.with_name("kohya.safetensors")
    save_file(state, path, {"ss_tag_frequency": json.dumps({"10_a": {"mug": 3, "sks": 9}, "5_b": {"table": 4}})})
    return path


def test_a_diffusers_file(base: Base, lora_file: Path) -> None:
    lora = read_lora(lora_file, base)
    assert (lora.rank, lora.alpha, lora.trigger) == (4, 3.0, "")
    assert {name.partition(".")[0] for name in lora.layers} == {"unet", "text_encoder"}
    require_same_picture(base, lora_file)


def test_a_kohya_file(base: Base, lora_file: Path) -> None:
    kohya = as_kohya(lora_file, alpha=1.0)
    lora = read_lora(kohya, base)
    assert (lora.rank, lora.alpha, lora.trigger) == (4, 1.0, "sks")
    assert lora.layers.keys() == read_lora(lora_file, base).layers.keys()
    require_same_picture(base, kohya)


def test_a_file_for_stable_diffusion_1_5(base: Base, tmp_path: Path) -> None:
    """Names and sizes as sd-scripts writes them, read from the configuration of that base without its weights."""
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel", **SD15_UNET}))
    CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    ).save_pretrained(tmp_path / "text_encoder")
    sd15 = replace(base, name="sd15", source=str(tmp_path))

    layers = families.family("sd15").layers(sd15)
    in_transformers = [name for name in layers if ".attentions." in name]
    in_text_encoder = [name for name in layers if name.startswith("text_encoder.encoder.layers.")]
    assert (len(in_transformers), len(in_text_encoder)) == (192, 72)  # as sd-scripts says when it starts

    state = {
        **low_rank("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k", 768, 320),
        **low_rank("lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj", 1280, 10240),
        **low_rank("lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_attn1_to_out_0", 320, 320),
        **low_rank("lora_te_text_model_encoder_layers_11_mlp_fc1", 768, 3072),
        "lora_unet_down_blocks_2_attentions_1_proj_in.lora_down.weight": torch.ones(4, 1280, 1, 1),
        "lora_unet_down_blocks_2_attentions_1_proj_in.lora_up.weight": torch.ones(1280, 4, 1, 1),
    }
    save_file(state, tmp_path / "lora.safetensors")
    assert set(read_lora(tmp_path / "lora.safetensors", sd15).layers) == {
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
        "unet.mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
        "unet.up_blocks.3.attentions.2.transformer_blocks.0.attn1.to_out.0",
        "unet.down_blocks.2.attentions.1.proj_in",
        "text_encoder.encoder.layers.11.mlp.fc1",
    }


def test_a_file_without_alpha_acts_at_scale_one(base: Base, lora_file: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.safetensors"
    unet = {key: tensor for key, tensor in load_file(lora_file).items() if key.startswith("unet.")}
    save_file({key.replace("lora_A", "lora.down").replace("lora_B", "lora.up"): unet[key] for key in unet}, bare)
    assert read_lora(bare, base).alpha == 4
    require_same_picture(base, bare)


def test_ranks_and_alphas_of_single_layers(base: Base, tmp_path: Path) -> None:
    file = save_unet_lora(
        base,
        tmp_path / "patterns.safetensors",
        r=4,
        lora_alpha=2,
        target_modules=["to_k", "to_q", "to_v", "to_out.0"],
        rank_pattern={"to_q": 2},
        alpha_pattern={"attn2.to_k": 7},
    )
    require_same_picture(base, file)


def test_rank_stabilised_scale(base: Base, tmp_path: Path) -> None:
    file = save_unet_lora(
        base, tmp_path / "rs.safetensors", r=4, lora_alpha=3, target_modules=["to_v"], use_rslora=True
    )
    require_same_picture(base, file)


def test_convolutions(base: Base, tmp_path: Path) -> None:
    targets = ["conv1", "conv_in", "proj_in", "downsamplers.0.conv", "time_emb_proj"]
    file = save_unet_lora(base, tmp_path / "conv.safetensors", r=2, lora_alpha=2, target_modules=targets)
    require_same_picture(base, file)


def test_what_belongs_to_no_layer_is_left_out(base: Base, lora_file: Path, tmp_path: Path) -> None:
    extra = tmp_path / "extra.safetensors"
    others = {
        "bundle_emb.style.string_to_param.*": torch.ones(2, 8),
        "lora_unet_conv_in.lora_down.weight": torch.ones(4, 8, 3, 3),  # without its other half
        "lora_unet_conv_in.diff_b": torch.ones(16),
    }
    save_file({**load_file(lora_file), **others}, extra)
    lora, plain = read_lora(extra, base), read_lora(lora_file, base)
    assert lora.layers.keys() == plain.layers.keys()
    assert set(lora.unmatched) == others.keys()
    assert (plain.matched, plain.unmatched) == (len(load_file(lora_file)), ())
    assert lora.matched == plain.matched


def low_rank(layer: str, in_size: int, out_size: int = 32, rank: int = 4) -> dict[str, torch.Tensor]:
    return {
        f"{layer}.lora_down.weight": torch.ones(rank, in_size),
        f"{layer}.lora_up.weight": torch.ones(out_size, rank),
        f"{layer}.alpha": torch.tensor(1.0),
    }


def peft(layer: str, in_size: int, out_size: int = 32) -> dict[str, torch.Tensor]:
    return {f"{layer}.lora_A.weight": torch.ones(4, in_size), f"{layer}.lora_B.weight": torch.ones(out_size, 4)}


MISFITS = {
    "Stable Diffusion 1.5, whose text is 768 wide instead of 32": low_rank(f"lora_unet_{TO_K}", 768, 640),
    "Stable Diffusion 2, whose text is 1024 wide": low_rank(f"lora_unet_{TO_K}", 1024, 640),
    "Stable Diffusion XL, whose text is 2048 wide": peft("unet.down_blocks.1.attentions.0.attn2.to_k", 2048, 640),
    "made for Stable Diffusion XL": low_rank("lora_te2_text_model_encoder_layers_0_mlp_fc1", 1280),
    "made for Flux": low_rank("lora_unet_double_blocks_0_img_attn_qkv", 3072),
    "Flux": peft("transformer.single_transformer_blocks.0.attn.to_q", 3072),
    "made for Stable Diffusion 3": peft("transformer.transformer_blocks.0.attn.add_q_proj", 1536),
    "a layer unet_down_blocks_9_to_q, which the base lacks": low_rank("lora_unet_down_blocks_9_to_q", 32),
    "attn2.to_k has another size": low_rank(f"lora_unet_{TO_K}", CROSS_ATTENTION_DIM, out_size=48),
}


@pytest.mark.parametrize("reason", MISFITS)
def test_a_lora_of_another_base_is_refused(base: Base, tmp_path: Path, reason: str) -> None:
    file = tmp_path / "other.safetensors"
    save_file(MISFITS[reason], file)
    with pytest.raises(BadLora, match=r"other\.safetensors does not fit the base Starter") as refusal:
        read_lora(file, base)
    assert reason in str(refusal.value)


@pytest.mark.parametrize(
    ("title", "layers"),
    [(title, layers) for title, all_layers in FAMILIES.items() for layers in all_layers],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_lora_of_another_family_is_refused_by_its_name(
    base: Base, tmp_path: Path, title: str, layers: Callable[[], Layers]
) -> None:
    save_file(tensors(layers()), tmp_path / "other.safetensors")
    with pytest.raises(BadLora, match=f"made for {title}[.,]"):
        read_lora(tmp_path / "other.safetensors", base)


@pytest.mark.parametrize(
    ("architecture", "version", "said"),
    [
        ("flux.2-klein-4b/lora", "flux2", "Flux.2"),
        ("", "sdxl_base_v1-0", "Stable Diffusion XL"),
        ("stable-diffusion-v1/lora", "sd_v1", None),
        ("stable-diffusion-v1-inpainting/lora", "my own", None),
    ],
)
def test_what_fits_is_refused_where_it_says_that_it_is_for_another_family(
    base: Base, tmp_path: Path, architecture: str, version: str, said: str | None
) -> None:
    file = tmp_path / "other.safetensors"
    words = {"modelspec.architecture": architecture, "ss_base_model_version": version}
    save_file(low_rank(f"lora_unet_{TO_K}", CROSS_ATTENTION_DIM), file, words)
    if said is None:
        assert read_lora(file, base).matched > 0
        return
    with pytest.raises(BadLora, match=f"does not fit the base Starter: it says that it was made for {said}"):
        read_lora(file, base)


@pytest.mark.parametrize(("kind", "key"), [("OFT", "oft_blocks"), ("GLoRA", "a1.weight"), ("IA3", "on_input")])
def test_other_kinds_of_adapters_are_refused(base: Base, tmp_path: Path, kind: str, key: str) -> None:
    file = tmp_path / "kind.safetensors"
    save_file({f"lora_unet_{TO_K}.{key}": torch.ones(2)}, file)
    with pytest.raises(BadLora, match=f"kind.safetensors is a {kind}"):
        read_lora(file, base)


def as_zip(path: Path) -> None:
    torch.save({"lora": torch.ones(2)}, path)


def as_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"lora": 1}))


def as_text(path: Path) -> None:
    path.write_text("<!doctype html><title>Sign in</title>")


def as_nothing(path: Path) -> None:
    path.write_bytes(b"")


def as_huge_header(path: Path) -> None:
    path.write_bytes((2**62).to_bytes(8, "little") + b"{}")


def as_half(path: Path) -> None:
    save_file(low_rank(f"lora_unet_{TO_K}", CROSS_ATTENTION_DIM), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def as_bad_metadata(path: Path) -> None:
    save_file(low_rank(f"lora_unet_{TO_K}", CROSS_ATTENTION_DIM), path, {"ss_tag_frequency": "{"})


def as_vae(path: Path) -> None:
    save_file({"decoder.conv_in.weight": torch.ones(8, 8, 3, 3)}, path)


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (as_zip, "is a pickle, which can run programs"),
        (as_pickle, "is a pickle, which can run programs"),
        (as_text, "is damaged, cut short, or not a safetensors file"),
        (as_nothing, "is damaged, cut short, or not a safetensors file"),
        (as_huge_header, "is damaged, cut short, or not a safetensors file"),
        (as_half, "is damaged, cut short, or not a safetensors file"),
        (as_bad_metadata, "is damaged, cut short, or not a safetensors file"),
        (as_vae, "holds no LoRA layers"),
    ],
)
def test_files_that_are_no_lora(base: Base, tmp_path: Path, write: Callable[[Path], None], sentence: str) -> None:
    file = tmp_path / "upload.safetensors"
    write(file)
    with pytest.raises(BadLora, match=f"upload.safetensors {sentence}"):
        read_lora(file, base)


def test_a_header_whose_length_begins_as_a_pickle_does(base: Base, tmp_path: Path) -> None:
    file = tmp_path / "lora.safetensors"
    for length in range(0, 256, 8):
        save_file(low_rank(f"lora_unet_{TO_K}", CROSS_ATTENTION_DIM), file, {"ss_training_comment": "-" * length})
        if file.read_bytes()[0] == 0x80:
            break
    assert file.read_bytes()[0] == 0x80
    assert read_lora(file, base).rank == 4


@pytest.fixture
def written(base: Base, lora_file: Path, tmp_path: Path) -> Path:
    path = tmp_path / "written.safetensors"
    write_lora(
        path,
        load_file(lora_file),
        rank=4,
        alpha=3.0,
        trigger="sks",
        class_name="mug",
        base=base,
        settings=TrainSettings(dataset="mugs", name="My mug", resolution=128).to_dict(),
    )
    return path


def test_a_written_file_is_the_same_lora_in_diffusers(base: Base, lora_file: Path, written: Path) -> None:
    assert np.array_equal(draw_plain(base, written), draw_plain(base, lora_file))
    require_same_picture(base, written)


def test_what_other_tools_read_in_a_written_file(written: Path) -> None:
    with safe_open(written, "pt") as file:
        metadata = file.metadata()
    adapter = json.loads(metadata["lora_adapter_metadata"])
    assert (adapter["unet.r"], adapter["unet.lora_alpha"], adapter["text_encoder.lora_alpha"]) == (4, 3.0, 3.0)
    expected = {
        "ss_v2": "False",
        "ss_base_model_version": "sd_v1",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "4",
        "ss_network_alpha": "3.0",
        "ss_network_args": "{}",
        "ss_output_name": "My mug",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.title": "My mug",
        "modelspec.resolution": "128x128",
        "modelspec.trigger_phrase": "sks",
    }
    assert {key: metadata[key] for key in expected} == expected
    assert json.loads(metadata["ss_tag_frequency"]) == {"1_sks mug": {"sks": 1}}


def test_the_hash_is_of_the_file_without_its_header(written: Path) -> None:
    """As sd-scripts' `addnet_hash_safetensors` takes it from a file, in blocks after the header."""
    digest = hashlib.sha256()
    with written.open("rb") as file:
        offset = int.from_bytes(file.read(8), "little") + 8
        file.seek(offset)
        for chunk in iter(lambda: file.read(1024), b""):
            digest.update(chunk)
    with safe_open(written, "pt") as file:
        metadata = file.metadata()
    assert metadata["sshs_model_hash"] == digest.hexdigest()
    assert metadata["modelspec.hash_sha256"] == f"0x{digest.hexdigest()}"


def test_import_keeps_a_copy(base: Base, written: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace")
    record = import_lora(workspace, written, name="A mug", base="starter")
    assert (record.name, record.family, record.base, record.trigger, record.rank) == (
        "A mug",
        "sd15",
        "starter",
        "sks",
        4,
    )
    assert workspace.lora_path(record.id).read_bytes() == written.read_bytes()
    assert workspace.loras() == [record]


def test_an_imported_file_tells_what_of_it_acts(base: Base, written: Path, tmp_path: Path) -> None:
    studio, file = Studio(Workspace(tmp_path / "workspace")), tmp_path / "extra.safetensors"
    save_file({**load_file(written), "emb_params": torch.ones(2, 8)}, file)
    lora = studio.import_lora(file, name="A mug")
    assert studio.lora_tensors(lora.id) == (len(load_file(written)), ("emb_params",))


def test_import_of_a_misfit_keeps_nothing(base: Base, tmp_path: Path) -> None:
    workspace, file = Workspace(tmp_path / "workspace"), tmp_path / "upload.safetensors"
    as_half(file)
    with pytest.raises(BadLora):
        import_lora(workspace, file, name="A mug", base="starter")
    assert workspace.loras() == []
