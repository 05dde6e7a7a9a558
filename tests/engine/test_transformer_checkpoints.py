"""Transformers in one file, under the names of their first code, as from Civitai: without the other parts of a base."""

import inspect
import re
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.loaders import single_file_model, single_file_utils
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine import families
from engine.errors import MissingModel
from engine.families.base import weights_hash
from engine.generation import render
from engine.settings import GenerateSettings
from tests.tiny import SIDE_PX
from tests.tiny_transformers import FLUX, KINDS, make_tiny_flux

SETTINGS = GenerateSettings(prompt="a red mug", width=SIDE_PX, height=SIDE_PX, steps=2, guidance_scale=3.5, seed=3)
WIDTH = FLUX["attention_head_dim"] * FLUX["num_attention_heads"]

# By parts of names: what the first code calls what diffusers calls so, where it is not a matter of one layer in several
_RENAMED = {
    r"transformer_blocks\.(\d+)\.attn\.to_out\.0\.": r"double_blocks.\1.img_attn.proj.",
    r"transformer_blocks\.(\d+)\.attn\.to_add_out\.": r"double_blocks.\1.txt_attn.proj.",
    r"transformer_blocks\.(\d+)\.attn\.norm_q\.weight": r"double_blocks.\1.img_attn.norm.query_norm.scale",
    r"transformer_blocks\.(\d+)\.attn\.norm_k\.weight": r"double_blocks.\1.img_attn.norm.key_norm.scale",
    r"transformer_blocks\.(\d+)\.attn\.norm_added_q\.weight": r"double_blocks.\1.txt_attn.norm.query_norm.scale",
    r"transformer_blocks\.(\d+)\.attn\.norm_added_k\.weight": r"double_blocks.\1.txt_attn.norm.key_norm.scale",
    r"transformer_blocks\.(\d+)\.ff\.net\.0\.proj\.": r"double_blocks.\1.img_mlp.0.",
    r"transformer_blocks\.(\d+)\.ff\.net\.2\.": r"double_blocks.\1.img_mlp.2.",
    r"transformer_blocks\.(\d+)\.ff_context\.net\.0\.proj\.": r"double_blocks.\1.txt_mlp.0.",
    r"transformer_blocks\.(\d+)\.ff_context\.net\.2\.": r"double_blocks.\1.txt_mlp.2.",
    r"transformer_blocks\.(\d+)\.norm1\.linear\.": r"double_blocks.\1.img_mod.lin.",
    r"transformer_blocks\.(\d+)\.norm1_context\.linear\.": r"double_blocks.\1.txt_mod.lin.",
    r"single_transformer_blocks\.(\d+)\.attn\.norm_q\.weight": r"single_blocks.\1.norm.query_norm.scale",
    r"single_transformer_blocks\.(\d+)\.attn\.norm_k\.weight": r"single_blocks.\1.norm.key_norm.scale",
    r"single_transformer_blocks\.(\d+)\.proj_out\.": r"single_blocks.\1.linear2.",
    r"single_transformer_blocks\.(\d+)\.norm\.linear\.": r"single_blocks.\1.modulation.lin.",
    r"time_text_embed\.timestep_embedder\.linear_1\.": "time_in.in_layer.",
    r"time_text_embed\.timestep_embedder\.linear_2\.": "time_in.out_layer.",
    r"time_text_embed\.guidance_embedder\.linear_1\.": "guidance_in.in_layer.",
    r"time_text_embed\.guidance_embedder\.linear_2\.": "guidance_in.out_layer.",
    r"time_text_embed\.text_embedder\.linear_1\.": "vector_in.in_layer.",
    r"time_text_embed\.text_embedder\.linear_2\.": "vector_in.out_layer.",
    r"x_embedder\.": "img_in.",
    r"context_embedder\.": "txt_in.",
    r"proj_out\.": "final_layer.linear.",
}
_JOINED = {
    r"transformer_blocks.{}.attn.to_{}": ("double_blocks.{}.img_attn.qkv", "qkv"),
    r"transformer_blocks.{}.attn.add_{}_proj": ("double_blocks.{}.txt_attn.qkv", "qkv"),
}


def first_code(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A transformer's tensors under the names of the first code."""
    state, made = dict(state), {}
    for n in range(FLUX["num_layers"]):
        for kind in ("weight", "bias"):
            for parts, (whole, letters) in _JOINED.items():
                made[f"{whole.format(n)}.{kind}"] = torch.cat(
                    [state.pop(f"{parts.format(n, x)}.{kind}") for x in letters]
                )
    for n in range(FLUX["num_single_layers"]):
        block = f"single_transformer_blocks.{n}"
        for kind in ("weight", "bias"):
            names = (*(f"{block}.attn.to_{x}.{kind}" for x in "qkv"), f"{block}.proj_mlp.{kind}")
            made[f"single_blocks.{n}.linear1.{kind}"] = torch.cat([state.pop(name) for name in names])
    for kind in ("weight", "bias"):  # there the shift comes before the scale
        scale, shift = state.pop(f"norm_out.linear.{kind}").chunk(2)
        made[f"final_layer.adaLN_modulation.1.{kind}"] = torch.cat([shift, scale])
    for name, tensor in state.items():
        pattern = next(p for p in _RENAMED if re.match(p, name))
        made[re.sub(pattern, _RENAMED[pattern], name)] = tensor
    return made


@pytest.fixture
def narrow_converter(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers' own converter, which knows the real width alone, with the tiny one in its place."""
    source = inspect.getsource(single_file_utils.convert_flux_transformer_checkpoint_to_diffusers)
    assert source.count("inner_dim = 3072") == 1
    names: dict[str, Any] = vars(single_file_utils).copy()
    exec(source.replace("inner_dim = 3072", f"inner_dim = {WIDTH}"), names)
    entry = single_file_model.SINGLE_FILE_LOADABLE_CLASSES["FluxTransformer2DModel"]
    monkeypatch.setitem(entry, "checkpoint_mapping_fn", names["convert_flux_transformer_checkpoint_to_diffusers"])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("flux")
    return {
        "flux_dev": make_tiny_flux(root / "dev"),
        "flux_schnell": make_tiny_flux(root / "schnell", guidance_embeds=False),
    }


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("published", ["flux_dev", "flux_schnell"])
@pytest.mark.usefixtures("narrow_converter")
def test_a_checkpoint_in_one_file_is_its_folder(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published: str, prefix: str
) -> None:
    (file,) = (folders[published] / "transformer").glob("*.safetensors")
    state = {f"{prefix}{name}": tensor.contiguous() for name, tensor in first_code(load_file(file)).items()}
    save_file(state, tmp_path / "mine.safetensors")
    monkeypatch.setenv("TRIPOD_MODELS", str(tmp_path))
    found = families.base("mine")
    assert (found.family, found.companion) == ("flux", families.base(published).source)
    assert found.default_steps == families.base(published).default_steps

    base = replace(found, companion=str(folders[published]))  # in place of the one on the Hub
    family = families.family("flux")
    parts: Any = family.load(base, torch.float32, "cpu")
    for name, tensor in load_file(file).items():
        assert torch.equal(parts.transformer.state_dict()[name], tensor), name
    assert family.layers(base) == family.layers(replace(base, source=str(folders[published])))
    assert weights_hash(base) == sha256((tmp_path / "mine.safetensors").read_bytes()).hexdigest()

    transformer: Any = diffusers.FluxTransformer2DModel.from_single_file(  # type: ignore[attr-defined]
        str(tmp_path / "mine.safetensors"), config=str(folders[published]), subfolder="transformer"
    )
    pipeline = diffusers.FluxPipeline.from_pretrained(folders[published], transformer=transformer)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        SETTINGS.prompt,
        width=SIDE_PX,
        height=SIDE_PX,
        num_inference_steps=SETTINGS.steps,
        guidance_scale=SETTINGS.guidance_scale,
        generator=torch.Generator().manual_seed(SETTINGS.seed),
    )
    ours = render(family.pipeline(parts, "default"), SETTINGS, base)
    assert np.array_equal(np.asarray(ours), np.asarray(expected.images[0]))  # type: ignore[union-attr]


def test_a_folder_says_which_flux_it_is(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPOD_MODELS", str(folders["flux_dev"].parent))
    assert (families.base("dev").default_steps, families.base("schnell").default_steps) == (28, 4)


def test_what_a_checkpoint_lacks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the Hub, and without the base whose text encoders it needs."""
    names = ("double_blocks.0.img_attn.qkv.weight", "single_blocks.0.linear1.weight", "vector_in.in_layer.weight")
    save_file({name: torch.zeros(2, 2) for name in names}, tmp_path / "mine.safetensors")
    monkeypatch.setenv("TRIPOD_MODELS", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingModel, match=r"black-forest-labs/FLUX\.1-schnell is not on this machine"):
        families.family("flux").load(families.base("mine"), torch.float32, "cpu")


# Of the others, what their first code calls otherwise, beside the layers that it has in one
_Z_IMAGE = {
    r"(.+\.\d+\.attention)\.norm_([qk])\.": r"\1.\2_norm.",
    r"(.+\.\d+\.attention)\.to_out\.0\.": r"\1.out.",
    r"all_x_embedder\.2-1\.": "x_embedder.",
    r"all_final_layer\.2-1\.": "final_layer.",
}


def first_code_of_z_image(state: dict[str, Tensor]) -> dict[str, Tensor]:
    state, made = dict(state), {}
    for query in [name for name in state if name.endswith("attention.to_q.weight")]:
        parts = [state.pop(query.replace("to_q", f"to_{x}")) for x in "qkv"]
        made[query.replace("to_q", "qkv")] = torch.cat(parts)
    for name, tensor in state.items():
        pattern = next((p for p in _Z_IMAGE if re.match(p, name)), None)
        made[re.sub(pattern, _Z_IMAGE[pattern], name) if pattern else name] = tensor
    return made


@pytest.mark.parametrize(("family", "rename"), [("z_image", first_code_of_z_image), ("qwen_image", dict)])
def test_a_checkpoint_of_another_family_is_its_folder(
    family: str, rename: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    folder = KINDS[family].make(tmp_path / "whole")
    (file,) = (folder / "transformer").glob("*.safetensors")
    (tmp_path / "models").mkdir()
    state = {name: tensor.contiguous() for name, tensor in rename(load_file(file)).items()}
    save_file(state, tmp_path / "models" / "mine.safetensors")
    monkeypatch.setenv("TRIPOD_MODELS", str(tmp_path / "models"))
    base = replace(families.base("mine"), companion=str(folder))
    assert base.family == family
    parts: Any = families.family(family).load(base, torch.float32, "cpu")
    loaded = parts.transformer.state_dict()
    for name, tensor in load_file(file).items():
        assert torch.equal(loaded[name], tensor), name
