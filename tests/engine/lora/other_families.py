"""The layers that LoRAs of other families train, by the names that their trainers give them, with (in, out) sizes."""

import torch
from torch import Tensor

Layers = dict[str, tuple[int, int]]


def flux_kohya() -> Layers:
    double = {
        **{f"{side}_attn_qkv": (3072, 9216) for side in ("img", "txt")},
        **{f"{side}_attn_proj": (3072, 3072) for side in ("img", "txt")},
        **{f"{side}_mlp_0": (3072, 12288) for side in ("img", "txt")},
        **{f"{side}_mlp_2": (12288, 3072) for side in ("img", "txt")},
        **{f"{side}_mod_lin": (3072, 18432) for side in ("img", "txt")},
    }
    single = {"linear1": (3072, 21504), "linear2": (15360, 3072), "modulation_lin": (3072, 9216)}
    return {
        **numbered("lora_unet_double_blocks_{}_{}", 19, double),
        **numbered("lora_unet_single_blocks_{}_{}", 38, single),
        **numbered("lora_te1_text_model_encoder_layers_{}_{}", 12, CLIP_L),
    }


def flux_comfyui() -> Layers:
    return numbered("diffusion_model.double_blocks.{}.{}", 19, {"img_attn.qkv": (3072, 9216)})


def flux_diffusers() -> Layers:
    return {**flux_diffusers_double(), **numbered("transformer.single_transformer_blocks.{}.attn.{}", 38, qkv(3072))}


def flux_diffusers_double() -> Layers:
    return numbered("transformer.transformer_blocks.{}.attn.{}", 19, {**qkv(3072), **added_qkv(3072)})


def flux2_comfyui() -> Layers:
    """Of klein 4B, which is as wide as Flux; so does ai-toolkit name them."""
    double = {
        "img_attn.qkv": (3072, 9216),
        "img_attn.proj": (3072, 3072),
        "img_mlp.0": (3072, 18432),
        "img_mlp.2": (9216, 3072),
    }
    return {
        **numbered("diffusion_model.double_blocks.{}.{}", 5, double),
        **numbered("diffusion_model.single_blocks.{}.{}", 20, {"linear1": (3072, 27648), "linear2": (12288, 3072)}),
    }


def flux2_kohya() -> Layers:
    names = {layer: layer.replace("diffusion_model.", "lora_unet_").replace(".", "_") for layer in flux2_comfyui()}
    return {names[layer]: size for layer, size in flux2_comfyui().items()}


def sd3_kohya() -> Layers:
    blocks = {
        "x_block_attn_qkv": (1536, 4608),
        "context_block_attn_qkv": (1536, 4608),
        "x_block_attn_proj": (1536, 1536),
        "x_block_mlp_fc1": (1536, 6144),
    }
    return {
        **numbered("lora_unet_joint_blocks_{}_{}", 24, blocks),
        **numbered("lora_te1_text_model_encoder_layers_{}_{}", 12, CLIP_L),
        **numbered("lora_te2_text_model_encoder_layers_{}_{}", 32, CLIP_G),
    }


def sd3_diffusers() -> Layers:
    return numbered("transformer.transformer_blocks.{}.attn.{}", 24, {**qkv(1536), **added_qkv(1536)})


def sd35_large_diffusers() -> Layers:
    return numbered("transformer.transformer_blocks.{}.attn.{}", 38, {**qkv(2432), **added_qkv(2432)})


def sdxl_kohya() -> Layers:
    """The 722 layers that sd-scripts names when it starts, and the text encoders' 72 and 192."""
    layers: Layers = {}
    for block, width, depth in (
        *((f"input_blocks_{n}_1", 640, 2) for n in (4, 5)),
        *((f"input_blocks_{n}_1", 1280, 10) for n in (7, 8)),
        ("middle_block_1", 1280, 10),
        *((f"output_blocks_{n}_1", 1280, 10) for n in (0, 1, 2)),
        *((f"output_blocks_{n}_1", 640, 2) for n in (3, 4, 5)),
    ):
        inner = {
            **{f"attn1_to_{x}": (width, width) for x in ("q", "k", "v", "out_0")},
            **{f"attn2_to_{x}": (width, width) for x in ("q", "out_0")},
            **{f"attn2_to_{x}": (2048, width) for x in ("k", "v")},
            "ff_net_0_proj": (width, 8 * width),
            "ff_net_2": (4 * width, width),
        }
        layers |= numbered(f"lora_unet_{block}_transformer_blocks_{{}}_{{}}", depth, inner)
        layers |= {f"lora_unet_{block}_proj_{end}": (width, width) for end in ("in", "out")}
    return {
        **layers,
        **numbered("lora_te1_text_model_encoder_layers_{}_{}", 12, CLIP_L),
        **numbered("lora_te2_text_model_encoder_layers_{}_{}", 32, CLIP_G),
    }


def sdxl_unet_kohya() -> Layers:
    return {layer: size for layer, size in sdxl_kohya().items() if layer.startswith("lora_unet_")}


def sdxl_diffusers() -> Layers:
    to_kv = {f"attn2.to_{x}": (2048, 640) for x in "kv"}
    return numbered("unet.down_blocks.1.attentions.0.transformer_blocks.{}.{}", 2, to_kv)


def qwen_image_diffusers() -> Layers:
    return numbered("transformer.transformer_blocks.{}.attn.{}", 60, qkv(3072))


def qwen_image_kohya() -> Layers:
    inner = {"attn_to_q": (3072, 3072), "img_mlp_net_0_proj": (3072, 12288), "txt_mod_1": (3072, 18432)}
    return numbered("lora_unet_transformer_blocks_{}_{}", 60, inner)


def z_image_diffusers() -> Layers:
    return {
        **numbered("transformer.layers.{}.attention.{}", 30, qkv(3840)),
        **numbered("transformer.noise_refiner.{}.attention.{}", 2, qkv(3840)),
    }


def z_image_comfyui() -> Layers:
    return numbered(
        "diffusion_model.layers.{}.{}", 30, {"attention.qkv": (3840, 11520), "feed_forward.w1": (3840, 10240)}
    )


def numbered(pattern: str, count: int, inner: Layers) -> Layers:
    return {pattern.format(n, name): size for n in range(count) for name, size in inner.items()}


def qkv(width: int) -> Layers:
    return dict.fromkeys(("to_q", "to_k", "to_v", "to_out.0"), (width, width))


def added_qkv(width: int) -> Layers:
    return dict.fromkeys(("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"), (width, width))


def clip(width: int) -> Layers:
    attention = {f"self_attn_{x}_proj": (width, width) for x in ("q", "k", "v", "out")}
    return {**attention, "mlp_fc1": (width, 4 * width), "mlp_fc2": (4 * width, width)}


CLIP_L, CLIP_G = clip(768), clip(1280)

FAMILIES = {
    "Flux": (flux_kohya, flux_diffusers, flux_diffusers_double, flux_comfyui),
    "Flux.2": (flux2_comfyui, flux2_kohya),
    "Stable Diffusion 3": (sd3_kohya, sd3_diffusers, sd35_large_diffusers),
    "Stable Diffusion XL": (sdxl_kohya, sdxl_unet_kohya, sdxl_diffusers),
    "Qwen-Image": (qwen_image_diffusers, qwen_image_kohya),
    "Z-Image": (z_image_diffusers, z_image_comfyui),
}


def tensors(layers: Layers) -> dict[str, Tensor]:
    """A LoRA of rank 1 beside these layers: kohya's tensors if the names have no dots, else peft's."""
    state = {}
    for layer, (in_size, out_size) in layers.items():
        down, up = ("lora_A", "lora_B") if "." in layer else ("lora_down", "lora_up")
        state[f"{layer}.{down}.weight"] = torch.zeros(1, in_size, dtype=torch.float16)
        state[f"{layer}.{up}.weight"] = torch.zeros(out_size, 1, dtype=torch.float16)
    return state
