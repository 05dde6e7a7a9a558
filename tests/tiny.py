"""Small random models in the formats of the real ones, so that tests run the real code in a moment.

`make_tiny_base` writes a base in the folder layout of `presets/starter`, `make_tiny_sdxl` one of Stable Diffusion XL's;
`make_tiny_lora` a LoRA that fits one of them, `as_checkpoint` the same weights in one file as other tools keep them.
The weights are random (and the same every time): the pictures mean nothing, the arithmetic is the real one.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

SIDE_PX = 64
CROSS_ATTENTION_DIM = 32
UNET: dict[str, Any] = {
    "sample_size": SIDE_PX // 8,
    "in_channels": 8,
    "out_channels": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": CROSS_ATTENTION_DIM,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
VAE: dict[str, Any] = {
    "sample_size": SIDE_PX,
    "latent_channels": 8,
    "block_out_channels": (8, 8, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "norm_num_groups": 4,
    "scaling_factor": 0.7,
}
TRANSFORMER: dict[str, Any] = {
    "hidden_size": CROSS_ATTENTION_DIM,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
SCHEDULER: dict[str, Any] = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
SDXL_UNET: dict[str, Any] = {
    "sample_size": SIDE_PX // 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2),
    "use_linear_projection": True,
    "cross_attention_dim": 16 + 24,  # both text encoders side by side
    "attention_head_dim": (2, 4),
    "norm_num_groups": 4,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 24 + 6 * 8,  # pooled text, and six numbers
}
SDXL_SCHEDULER: dict[str, Any] = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


def make_tiny_base(folder: Path, latent_channels: int = 8) -> Path:
    """Write a Stable Diffusion 1.5 style base for 64 px pictures into `folder`, and return it.

    Beside the base: `controlnet-canny`, `controlnet-openpose`, `ip_adapter` with its image encoder, and `captioner`.
    Everything together has about 0.5 M parameters. It differs from Stable Diffusion 1.5 where the starter may too: more
    latent channels, 48 tokens, v-prediction with zero terminal SNR and trailing timesteps.
    """
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        channels: dict[str, Any] = {"in_channels": latent_channels, "out_channels": latent_channels}
        unet = UNet2DConditionModel(**UNET | channels)
        tokenizer = _clip_tokenizer()
        base: dict[str, Any] = {
            "unet": unet,
            "vae": AutoencoderKL(**dict[str, Any](VAE, latent_channels=latent_channels)),
            "text_encoder": _text_encoder(tokenizer, "CLIPTextModel"),
            "tokenizer": tokenizer,
            "scheduler": DDIMScheduler(**SCHEDULER),
            "safety_checker": None,
            "feature_extractor": None,
        }
        StableDiffusionPipeline(**base, requires_safety_checker=False).save_pretrained(folder)
        for kind in ("canny", "openpose"):
            _save_controlnet(folder / f"controlnet-{kind}", unet)
        _save_ip_adapter(folder / "ip_adapter", unet)
        _save_captioner(folder / "captioner")
    return folder


def make_tiny_sdxl(folder: Path) -> Path:
    """Write a Stable Diffusion XL style base for 64 px pictures into `folder`, and return it.

    Beside the base: `controlnet-canny`, `controlnet-depth`, and `ip_adapter` with its image encoder. All that makes the
    family is there: two text encoders of different widths and two tokenizers with different padding, pooled text and
    sizes beside the time, deeper transformers further down, noise prediction, Euler's scheduler.
    """
    import torch
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(**SDXL_UNET)
        tokenizer, tokenizer_2 = _clip_tokenizer(), _clip_tokenizer(pad_token="!")
        second = {"hidden_size": 24, "projection_dim": 24, "hidden_act": "gelu"}
        base: dict[str, Any] = {
            "unet": unet,
            "vae": AutoencoderKL(**VAE | {"latent_channels": 4, "scaling_factor": 0.13025}),
            "text_encoder": _text_encoder(tokenizer, "CLIPTextModel", hidden_size=16),
            "text_encoder_2": _text_encoder(tokenizer_2, "CLIPTextModelWithProjection", **second),
            "tokenizer": tokenizer,
            "tokenizer_2": tokenizer_2,
            "scheduler": EulerDiscreteScheduler(**SDXL_SCHEDULER),
        }
        StableDiffusionXLPipeline(**base, add_watermarker=False).save_pretrained(folder)
        for kind in ("canny", "depth"):
            _save_controlnet(folder / f"controlnet-{kind}", unet)
        _save_ip_adapter(folder / "ip_adapter", unet)
    return folder


def save_union_controlnet(folder: Path) -> None:
    """Write a ControlNet for several kinds of maps into `folder`, which fits `make_tiny_sdxl`."""
    import torch
    from diffusers import ControlNetUnionModel

    sizes = {name: SDXL_UNET[name] for name in SDXL_UNET if not name.startswith(("up_", "out_", "sample"))}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        width: dict[str, Any] = {"num_trans_channel": 16, "num_trans_head": 2, "num_proj_channel": 16}
        union: Any = ControlNetUnionModel(**sizes, **width, conditioning_embedding_out_channels=(8, 8, 8, 16))
        for parameter in union.parameters():
            if not parameter.any() and parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)  # as it is made, it does nothing
        union.save_pretrained(folder)


def make_tiny_lora(
    base_folder: Path, path: Path, *, rank: int = 4, alpha: int = 2, text_encoder: bool = False, seed: int = 1
) -> Path:
    """Write a random LoRA for a tiny base, as plain diffusers saves it, and return `path`."""
    import torch
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
    from diffusers.training_utils import _collate_lora_metadata
    from peft import LoraConfig, get_peft_model_state_dict
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    is_xl = (base_folder / "text_encoder_2").is_dir()
    targets: dict[str, Any] = {"unet": (UNet2DConditionModel, ["to_k", "to_q", "to_v", "to_out.0"])}
    if text_encoder:
        targets["text_encoder"] = (CLIPTextModel, ["q_proj", "k_proj", "v_proj", "out_proj"])
        if is_xl:
            targets["text_encoder_2"] = (CLIPTextModelWithProjection, targets["text_encoder"][1])
    models: dict[str, Any] = {}
    layers: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, (model_class, target_modules) in targets.items():
            models[name] = model = model_class.from_pretrained(base_folder, subfolder=name)
            model.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=target_modules))
            for parameter in (p for p in model.parameters() if p.requires_grad):
                torch.nn.init.normal_(parameter, std=0.1)  # peft starts with B = 0: no effect
            layers[f"{name}_lora_layers"] = get_peft_model_state_dict(model)
    pipeline: Any = StableDiffusionXLPipeline if is_xl else StableDiffusionPipeline
    pipeline.save_lora_weights(path.parent, weight_name=path.name, **layers, **_collate_lora_metadata(models))
    return path


def without_weights(folder: Path, copy: Path) -> Path:
    """Copy what a checkpoint in one file leaves out: configurations and tokenizers."""
    for file in (*folder.glob("*.json"), *folder.glob("*/*.json"), *folder.glob("tokenizer*/*")):
        (copy / file.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy / file.relative_to(folder))
    return copy


def as_checkpoint(folder: Path, path: Path, more: dict[str, Any] | None = None, **metadata: str) -> Path:
    """Write the weights of a tiny base as one checkpoint under the names that Civitai's files have, and return `path`.

    `more` tensors come along, and the `metadata`.
    """
    from safetensors.torch import load_file, save_file

    def weights(part: str) -> dict[str, Any]:
        (file,) = (folder / part).glob("*.safetensors")
        return load_file(file)

    unet_config = json.loads((folder / "unet" / "config.json").read_text())
    tensors: dict[str, Any] = {}
    for name, tensor in weights("unet").items():
        tensors[f"model.diffusion_model.{_ldm_unet_name(name, unet_config)}"] = tensor
    for name, tensor in weights("vae").items():
        ldm_name = _ldm_vae_name(name)
        is_projection = ".mid.attn_1." in ldm_name and tensor.ndim == 2
        tensors[f"first_stage_model.{ldm_name}"] = tensor[:, :, None, None] if is_projection else tensor
    is_xl = (folder / "text_encoder_2").is_dir()
    clip = "conditioner.embedders.0.transformer" if is_xl else "cond_stage_model.transformer"
    for name, tensor in weights("text_encoder").items():
        tensors[f"{clip}.text_model.{name.removeprefix('text_model.')}"] = tensor
    if is_xl:
        for name, tensor in _open_clip(weights("text_encoder_2")).items():
            tensors[f"conditioner.embedders.1.model.{name}"] = tensor
    save_file({name: tensor.contiguous() for name, tensor in (tensors | (more or {})).items()}, path, metadata or None)
    return path


_LDM_FIXED = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_LDM_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_LDM_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
}
_OPEN_CLIP_LAYER = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def _ldm_unet_name(name: str, config: dict[str, Any]) -> str:
    """Input blocks are numbered through, the first convolution and the downsamplers among them; so are output blocks,
    which have the upsampler as the last layer of their last one."""
    layer, _, kind = name.rpartition(".")
    if layer in _LDM_FIXED:
        return f"{_LDM_FIXED[layer]}.{kind}"
    place = re.fullmatch(r"(down|up|mid)_block(?:s\.(\d+))?\.(\w+?)s\.(\d+)\.(.+)\.(?:weight|bias)", name)
    assert place, name
    side, block, what, number = place[1], int(place[2] or 0), place[3], int(place[4])
    inner = _LDM_RESNET[place[5]] if what == "resnet" else place[5]
    per_block = config["layers_per_block"] + 1
    if what == "downsampler":
        return f"input_blocks.{(block + 1) * per_block}.0.op.{kind}"
    if what == "upsampler":
        place_in_block = 2 if "CrossAttn" in config["up_block_types"][block] else 1
        return f"output_blocks.{(block + 1) * per_block - 1}.{place_in_block}.conv.{kind}"
    second = int(what == "attention")
    if side == "mid":
        return f"middle_block.{2 * number + second}.{inner}.{kind}"
    if side == "down":
        return f"input_blocks.{1 + block * per_block + number}.{second}.{inner}.{kind}"
    return f"output_blocks.{block * per_block + number}.{second}.{inner}.{kind}"


def _ldm_vae_name(name: str) -> str:
    """Decoder blocks are numbered from the picture on."""
    last = len(VAE["block_out_channels"]) - 1
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample", name)
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{last - int(m[1])}.block", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    return re.sub(
        r"mid_block\.attentions\.0\.(.+)\.(weight|bias)", lambda m: f"mid.attn_1.{_LDM_ATTENTION[m[1]]}.{m[2]}", name
    )


def _open_clip(state: dict[str, Any]) -> dict[str, Any]:
    """open_clip keeps queries, keys and values in one matrix, and the projection transposed."""
    import torch

    tensors = {ldm_name: state[name] for name, ldm_name in _OPEN_CLIP.items()}
    tensors["text_projection"] = state["text_projection.weight"].T
    tensors["logit_scale"] = torch.tensor(4.6)
    for name, tensor in state.items():
        if match := re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name):
            layer, inner, kind = match.groups()
            block = f"transformer.resblocks.{layer}"
            if inner in _OPEN_CLIP_LAYER:
                tensors[f"{block}.{_OPEN_CLIP_LAYER[inner]}.{kind}"] = tensor
            elif inner == "self_attn.q_proj":
                parts = [state[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
                tensors[f"{block}.attn.in_proj_{kind}"] = torch.cat(parts)
    return tensors


def _clip_tokenizer(pad_token: str = "<|endoftext|>") -> Any:
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    characters = sorted(ByteLevel.alphabet())
    tokens = [*characters, *(f"{c}</w>" for c in characters), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=48, pad_token=pad_token)


def _text_encoder(tokenizer: Any, class_name: str, **sizes: Any) -> Any:
    import transformers

    return getattr(transformers, class_name)(
        transformers.CLIPTextConfig(
            **TRANSFORMER | sizes,
            vocab_size=len(tokenizer),
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _save_controlnet(folder: Path, unet: Any) -> None:
    import torch
    from diffusers import ControlNetModel

    controlnet: Any = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 8, 16))
    for zero_convolution in (
        *controlnet.controlnet_down_blocks,
        controlnet.controlnet_mid_block,
        controlnet.controlnet_cond_embedding.conv_out,
    ):
        torch.nn.init.normal_(zero_convolution.weight, std=0.2)  # as from_unet leaves it, it does nothing
    controlnet.save_pretrained(folder)


def _save_ip_adapter(folder: Path, unet: Any) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    embedding_dim, tokens, width = 24, 4, unet.config.cross_attention_dim
    image_encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(**TRANSFORMER, projection_dim=embedding_dim, image_size=32, patch_size=8)
    )
    image_encoder.save_pretrained(folder / "image_encoder")
    CLIPImageProcessor(size=32, crop_size=32).save_pretrained(folder / "image_encoder")

    state = {
        "image_proj.proj.weight": torch.randn(tokens * width, embedding_dim) * 0.2,
        "image_proj.proj.bias": torch.zeros(tokens * width),
        "image_proj.norm.weight": torch.ones(width),
        "image_proj.norm.bias": torch.zeros(width),
    }
    # The key and value projections of the text, by name in the order of `attn_processors`, odd numbers from 1
    cross_attentions = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    for number, name in zip(range(1, 2 * len(cross_attentions), 2), cross_attentions, strict=True):
        shape = unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape
        for projection in ("to_k_ip", "to_v_ip"):
            state[f"ip_adapter.{number}.{projection}.weight"] = torch.randn(shape) * 0.2
    save_file(state, folder / "ip-adapter.safetensors")


def _save_captioner(folder: Path) -> None:
    from transformers import BlipConfig, BlipForConditionalGeneration

    processor = _blip_processor()
    tokenizer = processor.tokenizer
    text = {
        **TRANSFORMER,
        "vocab_size": len(tokenizer),
        "encoder_hidden_size": TRANSFORMER["hidden_size"],
        "max_position_embeddings": 64,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**TRANSFORMER, "image_size": 32, "patch_size": 8}
    config = BlipConfig(text_config=text, vision_config=vision, projection_dim=32)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)


def _blip_processor() -> Any:
    from transformers import BertTokenizer, BlipImageProcessor, BlipProcessor

    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = ["a", "photo", "of", "the", "on", "and", "red", "green", "blue", "mug", "bear", "table", "beach", "sketch"]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *letters, *(f"##{c}" for c in letters), *words[1:]]
    tokenizer = BertTokenizer(vocab={token: i for i, token in enumerate(tokens)}, bos_token="[DEC]")
    return BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer)
