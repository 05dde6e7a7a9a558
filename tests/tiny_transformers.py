"""Small random models of the families with a transformer, in the formats of the real ones; see `tests.tiny`.

`make_tiny_flux` writes a base in diffusers' layout for 64 px pictures, with ControlNets and a style adapter beside it,
`make_tiny_transformer_lora` a LoRA that fits one, as plain diffusers saves it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.tiny import TRANSFORMER, VAE, _clip_tokenizer, _text_encoder

T5_WIDTH = 32
FLUX: dict[str, Any] = {
    "in_channels": 16,  # 2 x 2 cells of 4 channels
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": T5_WIDTH,
    "pooled_projection_dim": 24,
    "axes_dims_rope": (4, 4, 8),
}
SD3: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": T5_WIDTH,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 32,
    "pos_embed_max_size": 16,
    "qk_norm": "rms_norm",
}
QWEN3: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 2048,
}
Z_IMAGE: dict[str, Any] = {"dim": 32, "n_heads": 2, "n_kv_heads": 2, "n_refiner_layers": 1}
QWEN_IMAGE: dict[str, Any] = {
    "in_channels": 16,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": QWEN3["hidden_size"],
    "axes_dims_rope": (4, 4, 8),
}
FLUX2: dict[str, Any] = {
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 3 * QWEN3["hidden_size"],
    "axes_dims_rope": (4, 4, 4, 4),
    "guidance_embeds": False,
}
FLUX_SCHEDULER: dict[str, Any] = {
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}
FLUX_VAE: dict[str, Any] = VAE | {
    "latent_channels": 4,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


def make_tiny_flux(folder: Path, *, guidance_embeds: bool = True) -> Path:
    """Write a Flux.1 style base into `folder`, and return it. dev's is told the strength of guidance, schnell's not.

    Beside the base: `controlnet-canny` for that alone, `controlnet-depth` for several kinds, and `ip_adapter`.
    """
    import torch
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = _clip_tokenizer()
        transformer = FluxTransformer2DModel(**FLUX, guidance_embeds=guidance_embeds)
        base: dict[str, Any] = {
            "transformer": transformer,
            "vae": of(AutoencoderKL, FLUX_VAE),
            "text_encoder": _text_encoder(tokenizer, "CLIPTextModel", hidden_size=24),
            "tokenizer": tokenizer,
            "text_encoder_2": t5_encoder(),
            "tokenizer_2": t5_tokenizer(),
            "scheduler": FlowMatchEulerDiscreteScheduler(**FLUX_SCHEDULER),
        }
        FluxPipeline(**base).save_pretrained(folder)
        for kind, modes in (("canny", None), ("depth", 5)):
            save_flux_controlnet(folder / f"controlnet-{kind}", guidance_embeds, modes)
        save_flux_ip_adapter(folder / "ip_adapter", transformer)
    return folder


def make_tiny_sd3(folder: Path, latent_channels: int = 4) -> Path:
    """Write a Stable Diffusion 3.5 style base into `folder`, and return it.

    Beside the base: `controlnet-canny` in InstantX's manner, `controlnet-depth` in Stability's, and `ip_adapter`.
    """
    import torch
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer, tokenizer_2 = _clip_tokenizer(), _clip_tokenizer(pad_token="!")
        channels = {"in_channels": latent_channels, "out_channels": latent_channels}
        clips = [{"hidden_size": 16, "projection_dim": 16}, {"hidden_size": 16, "projection_dim": 16}]
        base: dict[str, Any] = {
            "transformer": of(SD3Transformer2DModel, SD3 | channels),
            "vae": of(AutoencoderKL, FLUX_VAE | {"latent_channels": latent_channels}),
            "text_encoder": _text_encoder(tokenizer, "CLIPTextModelWithProjection", **clips[0]),
            "tokenizer": tokenizer,
            "text_encoder_2": _text_encoder(tokenizer_2, "CLIPTextModelWithProjection", **clips[1], hidden_act="gelu"),
            "tokenizer_2": tokenizer_2,
            "text_encoder_3": t5_encoder(),
            "tokenizer_3": t5_tokenizer(),
            "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
        }
        StableDiffusion3Pipeline(**base).save_pretrained(folder)
        for kind, of_instantx in (("canny", True), ("depth", False)):
            save_sd3_controlnet(folder / f"controlnet-{kind}", of_instantx)
        save_sd3_ip_adapter(folder / "ip_adapter")
    return folder


def save_sd3_controlnet(folder: Path, of_instantx: bool) -> None:
    import torch
    from diffusers import SD3ControlNetModel

    sizes = SD3 | {"num_layers": 1}
    controlnet = of(SD3ControlNetModel, sizes | {"force_zeros_for_pooled_projection": of_instantx})
    for zeros in (*controlnet.controlnet_blocks, controlnet.pos_embed_input.proj):
        torch.nn.init.normal_(zeros.weight, std=0.3)  # as it is made, it does nothing
    controlnet.save_pretrained(folder)


def save_sd3_ip_adapter(folder: Path) -> None:
    """With SigLIP in place of CLIP, and what resamples its patches at every noise level."""
    import torch
    from diffusers.models.attention_processor import SD3IPAdapterJointAttnProcessor2_0
    from diffusers.models.embeddings import IPAdapterTimeImageProjection
    from safetensors.torch import save_file
    from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(**TRANSFORMER, image_size=32, patch_size=8)
    SiglipVisionModel(config).save_pretrained(folder / "image_encoder")
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / "image_encoder")
    width = SD3["attention_head_dim"] * SD3["num_attention_heads"]
    projection: Any = IPAdapterTimeImageProjection(
        embed_dim=32, output_dim=width, hidden_dim=64, depth=4, heads=1, num_queries=4, timestep_in_dim=32
    )
    state = {f"image_proj.{name}": tensor for name, tensor in projection.state_dict().items()}
    for number in range(SD3["num_layers"]):
        processor = SD3IPAdapterJointAttnProcessor2_0(
            hidden_size=width,
            ip_hidden_states_dim=width,
            head_dim=SD3["attention_head_dim"],
            timesteps_emb_dim=64,
        )
        state |= {f"ip_adapter.{number}.{name}": tensor for name, tensor in processor.state_dict().items()}
    for tensor in state.values():
        if tensor.ndim == 2:
            torch.nn.init.normal_(tensor, std=0.2)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "ip-adapter.safetensors")


def make_tiny_z_image(folder: Path) -> Path:
    """Write a Z-Image style base into `folder`, and return it; beside it `controlnet-canny`."""
    import torch
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        ZImageControlNetModel,
        ZImagePipeline,
        ZImageTransformer2DModel,
    )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = qwen_tokenizer()
        transformer: Any = ZImageTransformer2DModel(
            **Z_IMAGE, in_channels=4, n_layers=2, cap_feat_dim=QWEN3["hidden_size"], axes_dims=[8, 4, 4]
        )
        for pad_token in (transformer.x_pad_token, transformer.cap_pad_token):
            torch.nn.init.normal_(pad_token)
        base: dict[str, Any] = {
            "transformer": transformer,
            "vae": of(AutoencoderKL, FLUX_VAE),
            "text_encoder": qwen3("Qwen3Model", tokenizer, layers=2),
            "tokenizer": tokenizer,
            "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
        }
        ZImagePipeline(**base).save_pretrained(folder)
        controlnet: Any = ZImageControlNetModel(
            **Z_IMAGE, control_layers_places=[0], control_refiner_layers_places=[0], control_in_dim=6
        )
        for name, tensor in controlnet.named_parameters():
            if tensor.ndim == 2 and ("before_proj" in name or "after_proj" in name):
                torch.nn.init.normal_(tensor, std=0.3)  # as it is made, it does nothing
        controlnet.save_pretrained(folder / "controlnet-canny")
    return folder


def make_tiny_qwen_image(folder: Path) -> Path:
    """Write a Qwen-Image style base into `folder`, and return it; beside it `controlnet-canny`."""
    import torch
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImageControlNetModel,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
    )
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = qwen_tokenizer()
        text = {**QWEN3, "num_hidden_layers": 2, "vocab_size": len(tokenizer)}
        text["rope_parameters"] = {"type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1_000_000.0}
        vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
        encoder: Any = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))
        base: dict[str, Any] = {
            "transformer": QwenImageTransformer2DModel(**QWEN_IMAGE),
            "vae": AutoencoderKLQwenImage(
                base_dim=16,
                z_dim=4,
                dim_mult=[1, 1, 1, 1],
                num_res_blocks=1,
                temperal_downsample=[False, True, True],
                latents_mean=[-0.7, 0.2, 0.1, -0.3],
                latents_std=[2.8, 1.4, 2.3, 1.9],
            ),
            "text_encoder": encoder.eval(),
            "tokenizer": tokenizer,
            "scheduler": FlowMatchEulerDiscreteScheduler(**FLUX_SCHEDULER),
        }
        QwenImagePipeline(**base).save_pretrained(folder)
        controlnet = of(QwenImageControlNetModel, QWEN_IMAGE | {"num_layers": 1})
        for zeros in (*controlnet.controlnet_blocks, controlnet.controlnet_x_embedder):
            torch.nn.init.normal_(zeros.weight, std=0.3)  # as it is made, it does nothing
        controlnet.save_pretrained(folder / "controlnet-canny")
    return folder


def make_tiny_flux2(folder: Path, *, is_distilled: bool = False) -> Path:
    """Write a FLUX.2 klein style base into `folder`, and return it."""
    import torch
    from diffusers import (
        AutoencoderKLFlux2,
        FlowMatchEulerDiscreteScheduler,
        Flux2KleinPipeline,
        Flux2Transformer2DModel,
    )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = qwen_tokenizer()
        vae: Any = AutoencoderKLFlux2(
            **{name: VAE[name] for name in ("block_out_channels", "down_block_types", "up_block_types", "sample_size")},
            norm_num_groups=4,
            latent_channels=4,
        )
        vae.bn.running_mean.normal_()
        vae.bn.running_var.uniform_(0.5, 2.0)
        base: dict[str, Any] = {
            "transformer": Flux2Transformer2DModel(**FLUX2),
            "vae": vae,
            "text_encoder": qwen3("Qwen3ForCausalLM", tokenizer, layers=28),  # of which the pipeline takes 9, 18 and 27
            "tokenizer": tokenizer,
            "scheduler": FlowMatchEulerDiscreteScheduler(**FLUX_SCHEDULER),
        }
        Flux2KleinPipeline(**base, is_distilled=is_distilled).save_pretrained(folder)
    return folder


def qwen_tokenizer() -> Any:
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    tokens = [*sorted(ByteLevel.alphabet()), "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Qwen2Tokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[])
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer


def qwen3(class_name: str, tokenizer: Any, layers: int) -> Any:
    import transformers

    config = transformers.Qwen3Config(**QWEN3, num_hidden_layers=layers, vocab_size=len(tokenizer))
    return getattr(transformers, class_name)(config).eval()


def of(model_class: Any, sizes: dict[str, Any]) -> Any:
    return model_class(**sizes)


def make_tiny_transformer_lora(base_folder: Path, path: Path, *, rank: int = 4, alpha: int = 2, seed: int = 1) -> Path:
    """Write a random LoRA beside the layers that the family of the base trains, and return `path`."""
    import json

    import diffusers
    import torch
    from diffusers.training_utils import _collate_lora_metadata
    from peft import LoraConfig, get_peft_model_state_dict

    from engine import families

    pipeline_name = json.loads((base_folder / "model_index.json").read_text())["_class_name"]
    model_name = json.loads((base_folder / "transformer" / "config.json").read_text())["_class_name"]
    (spec,) = (family.spec for family in families.FAMILIES.values() if family.spec.pipeline == pipeline_name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(diffusers, model_name).from_pretrained(base_folder, subfolder="transformer")
        model.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(spec.lora_targets)))
        for parameter in (p for p in model.parameters() if p.requires_grad):
            torch.nn.init.normal_(parameter, std=0.1)  # peft starts with B = 0: no effect
        getattr(diffusers, pipeline_name).save_lora_weights(
            path.parent,
            weight_name=path.name,
            transformer_lora_layers=get_peft_model_state_dict(model),
            **_collate_lora_metadata({"transformer": model}),
        )
    return path


def t5_tokenizer() -> Any:
    from transformers import T5Tokenizer

    letters = [(chr(code), -3.0) for code in range(33, 127)]
    return T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *letters], extra_ids=0)


def t5_encoder() -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=98, d_model=T5_WIDTH, d_ff=64, d_kv=16, num_layers=2, num_heads=2)
    return T5EncoderModel(config).eval()


def save_flux_controlnet(folder: Path, guidance_embeds: bool, modes: int | None) -> None:
    import torch
    from diffusers import FluxControlNetModel

    sizes = FLUX | {"num_layers": 1, "num_single_layers": 1}
    controlnet = of(FluxControlNetModel, sizes | {"guidance_embeds": guidance_embeds, "num_mode": modes})
    for zeros in (
        *controlnet.controlnet_blocks,
        *controlnet.controlnet_single_blocks,
        controlnet.controlnet_x_embedder,
    ):
        torch.nn.init.normal_(zeros.weight, std=0.3)  # as it is made, it does nothing
    controlnet.save_pretrained(folder)


def save_flux_ip_adapter(folder: Path, transformer: Any) -> None:
    import torch
    from safetensors.torch import save_file

    width, tokens, embedding_dim = FLUX["joint_attention_dim"], 4, save_image_encoder(folder)
    state = {
        "image_proj.proj.weight": torch.randn(tokens * width, embedding_dim) * 0.2,
        "image_proj.proj.bias": torch.zeros(tokens * width),
        "image_proj.norm.weight": torch.ones(width),
        "image_proj.norm.bias": torch.zeros(width),
    }
    for number in range(FLUX["num_layers"]):
        for projection in ("to_k_ip", "to_v_ip"):
            state[f"ip_adapter.{number}.{projection}.weight"] = torch.randn(transformer.inner_dim, width) * 0.2
            state[f"ip_adapter.{number}.{projection}.bias"] = torch.randn(transformer.inner_dim) * 0.2
    save_file(state, folder / "ip-adapter.safetensors")


def save_image_encoder(folder: Path) -> int:
    """CLIP's, for pictures of 32 px; how wide its embeddings are."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(**TRANSFORMER, projection_dim=24, image_size=32, patch_size=8)
    CLIPVisionModelWithProjection(config).save_pretrained(folder / "image_encoder")
    CLIPImageProcessor(size=32, crop_size=32).save_pretrained(folder / "image_encoder")
    return config.projection_dim


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How a family's tiny base is made, and how plain diffusers is asked for the same picture.

    `inputs` are arguments of the pipeline, from settings, as is `negative` where a pipeline takes no negative prompt;
    `guided` changes settings so that the negative prompt counts. `controlnet` is the class of the pipeline with a
    ControlNet, and that of a ControlNet, if there is any.
    """

    make: Callable[[Path], Path]
    inputs: Callable[[Any], dict[str, Any]]
    guided: dict[str, Any]
    controlnet: tuple[str, str] | None = None
    control_argument: str = "control_image"
    load_ip_adapter: Callable[[Any, Path], None] | None = None
    negative: Callable[[Any, Any], dict[str, Any]] = lambda pipeline, settings: {}


def _load_flux_ip_adapter(pipeline: Any, folder: Path) -> None:
    pipeline.load_ip_adapter(
        str(folder),
        subfolder="ip_adapter",
        weight_name="ip-adapter.safetensors",
        image_encoder_pretrained_model_name_or_path=str(folder / "ip_adapter" / "image_encoder"),
        image_encoder_dtype=pipeline.transformer.dtype,
    )


def _load_sd3_ip_adapter(pipeline: Any, folder: Path) -> None:
    pipeline.load_ip_adapter(
        str(folder), subfolder="ip_adapter", image_encoder_folder=str(folder / "ip_adapter" / "image_encoder")
    )


KINDS = {
    "flux": Kind(
        make=make_tiny_flux,
        inputs=lambda settings: {
            "negative_prompt": settings.negative_prompt,
            "guidance_scale": settings.guidance_scale,
            "true_cfg_scale": settings.true_cfg_scale,
        },
        guided={"true_cfg_scale": 3.0},
        controlnet=("FluxControlNetPipeline", "FluxControlNetModel"),
        load_ip_adapter=_load_flux_ip_adapter,
    ),
    "sd3": Kind(
        make=make_tiny_sd3,
        inputs=lambda settings: {
            "negative_prompt": settings.negative_prompt,
            "guidance_scale": settings.guidance_scale,
        },
        guided={},
        controlnet=("StableDiffusion3ControlNetPipeline", "SD3ControlNetModel"),
        load_ip_adapter=_load_sd3_ip_adapter,
    ),
    "z_image": Kind(
        make=make_tiny_z_image,
        inputs=lambda settings: {
            "negative_prompt": settings.negative_prompt,
            "guidance_scale": settings.guidance_scale - 1,
        },
        guided={},
        controlnet=("ZImageControlNetPipeline", "ZImageControlNetModel"),
    ),
    "qwen_image": Kind(
        make=make_tiny_qwen_image,
        inputs=lambda settings: {
            "negative_prompt": settings.negative_prompt,
            "true_cfg_scale": settings.guidance_scale,
        },
        guided={},
        controlnet=("QwenImageControlNetPipeline", "QwenImageControlNetModel"),
    ),
    "flux2": Kind(
        make=make_tiny_flux2,
        inputs=lambda settings: {"guidance_scale": settings.guidance_scale},
        guided={},
        negative=lambda pipeline, settings: {
            "negative_prompt_embeds": pipeline.encode_prompt(settings.negative_prompt)[0]
        },
    ),
}
