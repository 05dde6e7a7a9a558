"""Prompts: what is read in them, what is looked for where, and CLIPScore against the formula."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from engine.cache import ModelCache
from engine.scores.networks import at_hand, clip_similarity
from engine.scores.prompt import Named, named_in, prompt_kept, seen_of
from engine.starter.captions import caption
from engine.starter.corpus import scene
from engine.starter.judge import ALL_LOOKS, COLOUR_NAMES, HEADS, KINDS
from engine.starter.looks import COLOURLESS_LOOKS, LOOKS
from engine.starter.world import SETTINGS
from tests.tiny import _clip_tokenizer


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a photo of a red mug on a wooden table", Named(things=(("mug", "red", ""),), setting="table", look="photo")),
        (
            "pop art of a blue striped vase on the left and a person in an orange shirt waving on the right at night",
            Named(things=(("vase", "blue", "left"), ("person", "orange", "right")), setting="night", look="pop art"),
        ),
        ("a vintage photo of two chairs on snow", Named(things=(("chair", "", ""),), setting="snow", look="vintage")),
        ("a photo of sks teddy bear", Named(things=(), setting="", look="photo")),
        ("a watercolor painting of a boot, no mug", Named(things=(("boot", "", ""),), setting="", look="watercolour")),
        ("a castle by the sea", Named(things=(), setting="", look="")),
    ],
)  # fmt: skip
def test_what_a_prompt_names(text: str, named: Named) -> None:
    assert named_in(text) == named


@pytest.mark.parametrize("index", range(40))
def test_the_captions_of_the_world_are_read_right(index: int) -> None:
    """Paraphrases leave things out, but what is read of them is what they were written from."""
    import numpy as np

    asked, look = scene(60_000 + index, held_out=True), LOOKS[index % len(LOOKS)]
    named = named_in(caption(asked, look, np.random.default_rng(index)))
    truth = {thing.kind: thing for thing in asked.things}
    assert len(named.things) == len(asked.things)
    assert named.setting in ("", asked.setting)
    assert named.look in ("", look) or (look == "photo" and named.look == "photo")
    for kind, colour, side in named.things:
        assert kind in truth
        if len(truth) == len(asked.things):
            assert colour in ("", truth[kind].colour)
            assert side in ("", truth[kind].side)
        assert not (colour and look in COLOURLESS_LOOKS)


def sure(**seen: int) -> dict[str, torch.Tensor]:
    """Logits of a judge that is sure of one class of each head named, and undecided on the others."""
    logits = {head: torch.zeros(1, classes) for head, classes in HEADS.items()}
    for head, number in seen.items():
        logits[head][0, number] = 100.0
    return logits


def test_how_surely_it_is_seen_is_the_judges_probability() -> None:
    mug, red = KINDS.index("mug"), COLOUR_NAMES.index("red")
    logits = sure(left_kind=mug, right_kind=mug, left_colour=red, right_colour=red, setting=SETTINGS.index("beach"))
    seen = seen_of(named_in("a photo of a red mug at the beach"), logits)
    assert seen == {"mug": 1, "red mug": 1, "beach": 1, "photo": pytest.approx(1 / len(ALL_LOOKS))}


def test_sides_count_where_the_prompt_names_them() -> None:
    logits = sure(left_kind=KINDS.index("mug"), right_kind=KINDS.index("hat"))
    right, swapped, free = (
        sum(seen_of(named_in(text), logits).values())
        for text in (
            "a mug on the left and a hat on the right",
            "a hat on the left and a mug on the right",
            "a hat next to a mug",
        )
    )
    assert (right, swapped, free) == (pytest.approx(2), pytest.approx(0, abs=1e-6), pytest.approx(2))


def test_a_prompt_of_another_world_has_no_score_offline() -> None:
    picture = Image.new("RGB", (64, 64), "grey")
    assert prompt_kept(picture, "a castle by the sea") is None
    assert prompt_kept(picture, "a red mug", of_starter=False) is None


def test_clip_similarity_is_the_cosine_of_its_embeddings(tmp_path: pytest.TempPathFactory) -> None:
    tokenizer = _clip_tokenizer()
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        **shape,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 48,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = CLIPConfig(text_config=text, vision_config={**shape, "image_size": 32, "patch_size": 16}, projection_dim=8)
    model = CLIPModel(config).eval()
    model.save_pretrained(str(tmp_path))
    size = {"height": 32, "width": 32}
    processor: Any = CLIPProcessor(CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size), tokenizer)
    processor.save_pretrained(str(tmp_path))
    picture = Image.new("RGB", (40, 40), "red")
    inputs = processor(text=["a red mug"], images=[picture], return_tensors="pt", padding=True)
    with torch.no_grad():
        output = model(**inputs)
    expected = torch.cosine_similarity(output.image_embeds, output.text_embeds).item()
    assert clip_similarity(picture, "a red mug", ModelCache(), str(tmp_path)) == pytest.approx(expected, abs=1e-5)


def test_a_network_in_a_folder_of_its_repository_is_at_hand_once_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layout of huggingface_hub's cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert not at_hand("owner/name/folder")
    repository = tmp_path / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc" / "folder").mkdir(parents=True)
    (repository / "snapshots" / "abc" / "folder" / "model.safetensors").touch()
    assert at_hand("owner/name/folder")
    assert not at_hand("owner/name")
