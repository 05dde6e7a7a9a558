"""Kernels for attention: diffusers' dispatcher is told, for the body only, where a base goes through it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from diffusers.models import attention_dispatch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from PIL import Image
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from engine import abilities, families
from engine.abilities import WhyNot, require_supported
from engine.adapters.attention import KERNELS, attending
from engine.cache import ModelCache
from engine.errors import BadSettings
from engine.generation import generate, render
from engine.jobs import Work
from engine.preview import watched
from engine.settings import GenerateSettings
from engine.workspace import Workspace
from tests.tiny import SIDE_PX, make_tiny_sdxl
from tests.tiny_transformers import KINDS, make_tiny_flux, make_tiny_z_image

SETTINGS = GenerateSettings(prompt="a red mug", base="tiny", width=SIDE_PX, height=SIDE_PX, steps=1, seed=5)


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.set_num_threads(1)
    monkeypatch.setenv("TRIPOD_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(
        _AttentionBackendRegistry, "_active_backend", AttentionBackendName.NATIVE
    )  # put back at the end
    return tmp_path / "models"


def predicted(base: families.Base, parts: Any, settings: GenerateSettings = SETTINGS) -> Tensor:
    """What the denoiser says at the last step."""
    with watched(parts) as seen:
        render(families.family(base.family).pipeline(parts, "default"), settings, base)
    return seen.output[0]


def test_it_is_diffusers_own_in_the_body_only(models: Path) -> None:
    plain: Any = FluxPipeline.from_pretrained(make_tiny_flux(models / "tiny"))
    plain.set_progress_bar_config(disable=True)
    base = families.base("tiny")
    parts: Any = families.family("flux").load(base, torch.float32, "cpu")
    before = predicted(base, parts)
    with attending("auto", is_masked=False):
        assert torch.equal(predicted(base, parts), before)
    with attending("math", is_masked=False):
        ours = predicted(base, parts)
    assert torch.equal(predicted(base, parts), before)
    with pytest.raises(ZeroDivisionError), attending("math", is_masked=False):
        raise ZeroDivisionError
    assert _AttentionBackendRegistry._active_backend is AttentionBackendName.NATIVE

    said: list[Tensor] = []
    plain.transformer.set_attention_backend("_native_math")
    plain.transformer.register_forward_hook(lambda module, args, output: said.append(output[0]))
    plain(
        SETTINGS.prompt,
        width=SIDE_PX,
        height=SIDE_PX,
        num_inference_steps=SETTINGS.steps,
        guidance_scale=SETTINGS.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(SETTINGS.seed),
    )
    assert torch.equal(ours, said[-1])
    assert not torch.equal(ours, before)


@pytest.mark.parametrize("make", [make_tiny_sdxl, *(kind.make for kind in KINDS.values())])
def test_a_base_has_kernels_where_its_denoiser_goes_through_the_dispatcher(
    make: Callable[[Path], Path], models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(models / "tiny")
    base = families.base("tiny")
    parts: Any = families.family(base.family).load(base, torch.float32, "cpu")
    calls = []
    math = _AttentionBackendRegistry._backends[AttentionBackendName._NATIVE_MATH]

    def counted(**kwargs: Any) -> Tensor:
        calls.append(kwargs["attn_mask"] is not None)
        return math(**kwargs)

    monkeypatch.setitem(_AttentionBackendRegistry._backends, AttentionBackendName._NATIVE_MATH, counted)
    with attending("math", is_masked=False):
        predicted(base, parts, SETTINGS.replace(negative_prompt="blurred, grey and quite dark, with text all over"))
    assert bool(calls) == (WhyNot(base).attention("math") == "")
    assert any(calls) == ("attention_masks" in base.spec.supports)


def by_pytorch(**asked: Any) -> Tensor:
    """What flash-attn's `flash_attn_varlen_func` does: sequences one behind the other, (tokens, heads, channels)."""
    outputs = []
    ends = zip(asked["cu_seqlens_q"].tolist(), asked["cu_seqlens_k"].tolist(), strict=True)
    starts = next(ends)
    for end in ends:
        q = asked["q"][starts[0] : end[0]]
        k, v = (asked[name][starts[1] : end[1]] for name in ("k", "v"))
        outputs.append(scaled_dot_product_attention(*(x.movedim(1, 0)[None] for x in (q, k, v)))[0].movedim(0, 1))
        starts = end
    return torch.cat(outputs)


def test_padding_is_left_out_by_a_kernel_that_can(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tiny_z_image(models / "tiny")
    monkeypatch.setattr(abilities, "find_spec", lambda name: object())
    monkeypatch.setattr(abilities, "compute_capability", lambda: (9, 0))
    monkeypatch.setattr(attention_dispatch, "_CAN_USE_FLASH_ATTN", True)
    monkeypatch.setattr(attention_dispatch, "flash_attn_varlen_func", by_pytorch)
    workspace, cache = Workspace(tmp_path / "workspace"), ModelCache()
    (tmp_path / "job").mkdir()
    settings = SETTINGS.replace(guidance_scale=4.0, negative_prompt="blurred, grey and quite dark, with text all over")

    def drawn(**changes: Any) -> np.ndarray:
        work = Work(tmp_path / "job", {})
        (picture,) = generate(settings.replace(**changes), workspace=workspace, cache=cache, work=work)["pictures"]
        assert workspace.picture(picture).recipe["settings"].get("attention") == changes["attention"]
        return np.asarray(Image.open(workspace.picture_path(picture))).astype(int)

    assert abs(drawn(attention="flash") - drawn(attention="auto")).max() <= 1
    monkeypatch.setattr(attention_dispatch, "flash_attn_varlen_func", lambda **asked: 0 * by_pytorch(**asked))
    assert abs(drawn(attention="flash") - drawn(attention="auto")).max() > 1  # so it was called


def test_every_kernel_is_one_of_diffusers() -> None:
    known = {name.value for name in _AttentionBackendRegistry.list_backends()}
    assert {name for kernel in KERNELS.values() for name in (kernel.plain, kernel.masked)} <= known


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    flux, sd15 = families.base("flux_dev"), families.base("sd15")
    assert WhyNot(sd15).attention("auto") == ""
    assert WhyNot(sd15).attention("flash") == "Stable Diffusion 1.5 leaves attention to PyTorch."
    monkeypatch.setattr(abilities, "find_spec", lambda name: None)
    assert WhyNot(flux).attention("sage") == "SageAttention needs the package sageattention, which is not installed."
    monkeypatch.setattr(abilities, "find_spec", lambda name: object())
    too_old = "FlashAttention 3 needs an NVIDIA GPU of compute capability 9.0 or more."
    for capability, problem in ((None, ""), ((9, 0), ""), ((8, 9), too_old), ((0, 0), too_old)):
        monkeypatch.setattr(abilities, "compute_capability", lambda known=capability: known)
        assert WhyNot(flux).attention("flash_3") == problem
    with pytest.raises(BadSettings, match=r"9\.0 or more\. Leave attention to PyTorch\."):
        require_supported(SETTINGS.replace(base="flux_dev", attention="flash_3"), flux)


def test_a_package_that_is_too_old_is_said() -> None:
    with pytest.raises(BadSettings, match=r"SageAttention cannot be used here: .* Leave attention to PyTorch\."):
        attending("sage", is_masked=False).__enter__()
