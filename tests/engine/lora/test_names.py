"""Names of layers: as the programs that write them do."""

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import save_file

from engine import families
from engine.lora.files import read_lora
from engine.lora.names import by_flat_name, original_names, parse, tensor_names
from tests.engine.lora.other_families import sdxl_kohya, tensors

NAMES = {
    # kohya, LyCORIS
    "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (
        "unet_down_blocks_0_attentions_0_proj_in",
        "lora_down",
    ),
    "lora_unet_conv_in.lora_mid.weight": ("unet_conv_in", "lora_mid"),
    "lora_te_text_model_encoder_layers_3_mlp_fc1.alpha": ("text_encoder_encoder_layers_3_mlp_fc1", "alpha"),
    "lora_te1_text_model_encoder_layers_3_mlp_fc1.hada_w1_a": ("text_encoder_encoder_layers_3_mlp_fc1", "hada_w1_a"),
    "lora_te2_text_model_encoder_layers_3_mlp_fc1.lokr_w2_b": ("text_encoder_2_encoder_layers_3_mlp_fc1", "lokr_w2_b"),
    "lora_te2_text_projection.lokr_w2": ("text_encoder_2_text_projection", "lokr_w2"),
    "lycoris_mid_block_resnets_0_conv1.dora_scale": ("unet_mid_block_resnets_0_conv1", "dora_scale"),
    # peft, diffusers
    "unet.mid_block.attentions.0.proj_in.lora_A.weight": ("unet_mid_block_attentions_0_proj_in", "lora_down"),
    "base_model.model.conv_in.lora_B.default.weight": ("unet_conv_in", "lora_up"),
    "unet.conv_in.lora_magnitude_vector": ("unet_conv_in", "lora_magnitude_vector"),
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_B.weight": (
        "text_encoder_encoder_layers_0_self_attn_q_proj",
        "lora_up",
    ),
    "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj.lora_B.weight": (
        "text_encoder_2_encoder_layers_0_self_attn_q_proj",
        "lora_up",
    ),
    # diffusers before peft
    "unet.mid_block.a.attn1.processor.to_q_lora.down.weight": ("unet_mid_block_a_attn1_to_q", "lora_down"),
    "mid_block.a.attn2.processor.to_out_lora.up.weight": ("unet_mid_block_a_attn2_to_out_0", "lora_up"),
    "unet.mid_block.a.attn2.to_k.lora.down.weight": ("unet_mid_block_a_attn2_to_k", "lora_down"),
    "text_encoder.text_model.encoder.layers.0.self_attn.to_out_lora.up.weight": (
        "text_encoder_encoder_layers_0_self_attn_out_proj",
        "lora_up",
    ),
    "text_encoder.encoder.layers.0.mlp.fc1.lora_linear_layer.down.weight": (
        "text_encoder_encoder_layers_0_mlp_fc1",
        "lora_down",
    ),
    # ComfyUI
    "diffusion_model.input_blocks.1.1.proj_in.lora_up.weight": ("unet_input_blocks_1_1_proj_in", "lora_up"),
    "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.lora_up.weight": (
        "text_encoder_encoder_layers_0_mlp_fc1",
        "lora_up",
    ),
    "text_encoders.clip_g.transformer.text_projection.lora_up.weight": ("text_encoder_2_text_projection", "lora_up"),
}


@pytest.mark.parametrize("key", NAMES)
def test_every_programs_names(key: str) -> None:
    assert parse(key) == NAMES[key]


@pytest.mark.parametrize("key", ["decoder.conv_in.weight", "lora_unet_conv_in.diff_b", "bundle_emb.style.alpha_x"])
def test_other_tensors_have_none(key: str) -> None:
    assert parse(key) is None


@pytest.fixture(scope="module")
def sdxl_layers() -> dict[str, tuple[int, ...]]:
    """Those of the real one, by its configuration."""
    return families.family("sdxl").layers(real("sdxl"))


def real(name: str) -> families.Base:
    return replace(families.base(name), source="/model.safetensors")  # of a single file, the family's configuration


# From diffusers' own conversion of the checkpoint (convert_ldm_unet_checkpoint)
SDXL = {
    "unet.conv_in": "input_blocks.0.0",
    "unet.time_embedding.linear_2": "time_embed.2",
    "unet.add_embedding.linear_1": "label_emb.0.0",
    "unet.down_blocks.0.resnets.1.conv1": "input_blocks.2.0.in_layers.2",
    "unet.down_blocks.0.downsamplers.0.conv": "input_blocks.3.0.op",
    "unet.down_blocks.1.resnets.0.conv_shortcut": "input_blocks.4.0.skip_connection",
    "unet.down_blocks.1.attentions.0.transformer_blocks.1.ff.net.2": "input_blocks.4.1.transformer_blocks.1.ff.net.2",
    "unet.down_blocks.2.attentions.1.proj_in": "input_blocks.8.1.proj_in",
    "unet.mid_block.resnets.0.conv2": "middle_block.0.out_layers.3",
    "unet.mid_block.attentions.0.proj_out": "middle_block.1.proj_out",
    "unet.mid_block.resnets.1.time_emb_proj": "middle_block.2.emb_layers.1",
    "unet.up_blocks.0.attentions.2.transformer_blocks.9.ff.net.2": "output_blocks.2.1.transformer_blocks.9.ff.net.2",
    "unet.up_blocks.0.upsamplers.0.conv": "output_blocks.2.2.conv",
    "unet.up_blocks.1.attentions.0.proj_in": "output_blocks.3.1.proj_in",
    "unet.up_blocks.2.resnets.2.conv1": "output_blocks.8.0.in_layers.2",
    "unet.conv_out": "out.2",
}


def test_original_names_of_sdxl(sdxl_layers: dict[str, tuple[int, ...]]) -> None:
    names = original_names(sdxl_layers)
    assert {layer: names[layer] for layer in SDXL} == SDXL
    assert names.keys() == {layer for layer in sdxl_layers if layer.startswith("unet.")}
    assert len(set(names.values())) == len(names)


def test_original_names_where_a_block_has_no_attention() -> None:
    resnets = [f"unet.up_blocks.{n}.resnets.{m}.conv1" for n in (0, 1) for m in (0, 1)]
    names = original_names([*resnets, "unet.up_blocks.0.upsamplers.0.conv", "unet.up_blocks.1.attentions.1.proj_in"])
    assert names["unet.up_blocks.0.upsamplers.0.conv"] == "output_blocks.1.1.conv"
    assert names["unet.up_blocks.1.attentions.1.proj_in"] == "output_blocks.3.1.proj_in"


def test_denoisers_without_blocks_have_no_original_names() -> None:
    assert original_names(["transformer.layers.0.attention.to_q", "text_encoder.encoder.layers.0.mlp.fc1"]) == {}


def test_a_whole_sdxl_lora_of_kohyas_matches(sdxl_layers: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    names = by_flat_name(sdxl_layers)
    found = {names[named[0]][0] for layer in sdxl_kohya() if (named := parse(f"{layer}.alpha"))}
    by_part = [
        sum(layer.startswith(f"{part}.") for layer in found) for part in ("unet", "text_encoder", "text_encoder_2")
    ]
    assert by_part == [722, 72, 192]

    state = tensors({layer: size for layer, size in sdxl_kohya().items() if "_9_" in layer})
    save_file(state, tmp_path / "sdxl.safetensors")
    lora = read_lora(tmp_path / "sdxl.safetensors", real("sdxl"))
    assert (lora.matched, lora.unmatched) == (len(state), ())


def test_kohyas_names_of_sdxl_are_its_own(sdxl_layers: dict[str, tuple[int, ...]]) -> None:
    name = tensor_names("kohya", sdxl_layers)
    names = by_flat_name(sdxl_layers)
    for key in sdxl_kohya():
        named = parse(f"{key}.alpha")
        assert named
        assert name(names[named[0]][0], "alpha") == f"{key}.alpha"


@pytest.mark.parametrize("format", ["kohya", "diffusers", "comfyui"])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_every_name_that_is_written_is_read_again(family: str, format: str) -> None:
    layers = families.family(family).layers(real(family))
    name = tensor_names(format, layers)  # type: ignore[arg-type]
    names = by_flat_name(layers)
    for role in ("lora_down", "lora_up", "hada_w1_a", "lokr_w2"):
        for layer in layers:
            named = parse(name(layer, role))
            assert named
            assert (names[named[0]], named[1]) == ((layer,), role)


def test_comfyuis_names() -> None:
    layers = families.family("sd15").layers(real("sd15"))
    name = tensor_names("comfyui", layers)
    assert (
        name("unet.mid_block.attentions.0.proj_in", "lora_up")
        == "diffusion_model.middle_block.1.proj_in.lora_up.weight"
    )
    assert (
        name("text_encoder.encoder.layers.0.mlp.fc1", "alpha")
        == "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.alpha"
    )
