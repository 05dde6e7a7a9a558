"""Small random models in the formats of the real ones, so that tests run the real code in a moment.

`make_tiny_base` writes a base in the folder layout of `presets/starter`; `make_tiny_lora` a LoRA that fits it. The
weights are random (and the same every time): the pictures mean nothing, the arithmetic is the real one.
"""

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


def make_tiny_base(folder: Path) -> Path:
    """Write a Stable Diffusion 1.5 style base for 64 px pictures into `folder`, and return it.

    Beside the base: `controlnet-canny`, `controlnet-openpose`, `ip_adapter` with its image encoder, and `captioner`.
    Everything together has about 0.5 M parameters. It differs from Stable Diffusion 1.5 where the starter may too: 8
    latent channels, 48 tokens, v-prediction with zero terminal SNR and trailing timesteps.
    """
    import torch
    from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(**UNET)
        tokenizer = _clip_tokenizer()
        base: dict[str, Any] = {
            "unet": unet,
            "vae": AutoencoderKL(**VAE),
            "text_encoder": _text_encoder(tokenizer),
            "tokenizer": tokenizer,
            "scheduler": DDIMScheduler(**SCHEDULER),
            "safety_checker": None,
            "feature_extractor": None,
        }
        StableDiffusionPipeline(**base, requires_safety_checker=False).save_pretrained(folder)
        for kind in ("canny", "openpose"):
            controlnet: Any = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 8, 16))
            for zero_convolution in (
                *controlnet.controlnet_down_blocks,
                controlnet.controlnet_mid_block,
                controlnet.controlnet_cond_embedding.conv_out,
            ):
                torch.nn.init.normal_(zero_convolution.weight, std=0.2)  # as from_unet leaves it, it does nothing
            controlnet.save_pretrained(folder / f"controlnet-{kind}")
        _save_ip_adapter(folder / "ip_adapter", unet)
        _save_captioner(folder / "captioner")
    return folder


def make_tiny_lora(
    base_folder: Path, path: Path, *, rank: int = 4, alpha: int = 2, text_encoder: bool = False, seed: int = 1
) -> Path:
    """Write a random LoRA for the tiny base, as plain diffusers saves it, and return `path`."""
    import torch
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from diffusers.training_utils import _collate_lora_metadata
    from peft import LoraConfig, get_peft_model_state_dict
    from transformers import CLIPTextModel

    targets: dict[str, Any] = {"unet": (UNet2DConditionModel, ["to_k", "to_q", "to_v", "to_out.0"])}
    if text_encoder:
        targets["text_encoder"] = (CLIPTextModel, ["q_proj", "k_proj", "v_proj", "out_proj"])
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
    StableDiffusionPipeline.save_lora_weights(
        path.parent, weight_name=path.name, **layers, **_collate_lora_metadata(models)
    )
    return path


def _clip_tokenizer() -> Any:
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    characters = sorted(ByteLevel.alphabet())
    tokens = [*characters, *(f"{c}</w>" for c in characters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=48)


def _text_encoder(tokenizer: Any) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            **TRANSFORMER,
            vocab_size=len(tokenizer),
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _save_ip_adapter(folder: Path, unet: Any) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    embedding_dim, tokens = 24, 4
    image_encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(**TRANSFORMER, projection_dim=embedding_dim, image_size=32, patch_size=8)
    )
    image_encoder.save_pretrained(folder / "image_encoder")
    CLIPImageProcessor(size=32, crop_size=32).save_pretrained(folder / "image_encoder")

    state = {
        "image_proj.proj.weight": torch.randn(tokens * CROSS_ATTENTION_DIM, embedding_dim) * 0.2,
        "image_proj.proj.bias": torch.zeros(tokens * CROSS_ATTENTION_DIM),
        "image_proj.norm.weight": torch.ones(CROSS_ATTENTION_DIM),
        "image_proj.norm.bias": torch.zeros(CROSS_ATTENTION_DIM),
    }
    # The key and value projections of the text, by name in the order of `attn_processors`, odd numbers from 1
    cross_attentions = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    for number, name in zip(range(1, 2 * len(cross_attentions), 2), cross_attentions, strict=True):
        width = unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape
        for projection in ("to_k_ip", "to_v_ip"):
            state[f"ip_adapter.{number}.{projection}.weight"] = torch.randn(width) * 0.2
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
