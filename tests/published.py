"""Tiny random pipelines of published systems, as diffusers and transformers make and write them."""

import string

import torch
import transformers
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"


def blocks(*down):
    up = [kind.replace("Down", "Up") for kind in reversed(down)]
    return {"down_block_types": down, "up_block_types": tuple(up)}


def awake(net):
    """Nothing in it starts at zero, so that every weight counts."""
    for part in net.parameters():
        if not part.any():
            torch.nn.init.normal_(part, std=0.1)
    return net.eval()


def clip_words():
    signs = [*string.ascii_lowercase, ",", *"0123456789"]
    vocabulary = {s: i for i, s in enumerate([*signs, *(f"{s}</w>" for s in signs), "<|startoftext|>", "<|endoftext|>"])}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def clip(width=24, projected=False):
    words = clip_words()
    config = transformers.CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=32,
        projection_dim=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
    )
    return (transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel)(config).eval()


def kl(channels=4, **options):
    return awake(
        AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(16, 32),
            layers_per_block=1,
            latent_channels=channels,
            norm_num_groups=8,
            **options,
        )
    )


def table(**options):
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        timestep_spacing="trailing",
        steps_offset=1,
        **options,
    )


SMALL = {"block_out_channels": (32, 64), "norm_num_groups": 8, "sample_size": 16, "layers_per_block": 1}
TOLD = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
NOTHING = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def sd1():
    net = UNet2DConditionModel(**SMALL, **blocks(CROSS, PLAIN), cross_attention_dim=24, attention_head_dim=4)
    return StableDiffusionPipeline(kl(), clip(), clip_words(), awake(net), table(), **NOTHING)


def sd2():
    options = {"attention_head_dim": [2, 4], "use_linear_projection": True}
    net = UNet2DConditionModel(**SMALL, **blocks(CROSS, CROSS), cross_attention_dim=24, **options)
    return StableDiffusionPipeline(kl(), clip(), clip_words(), awake(net), table(prediction_type="v_prediction"), **NOTHING)


def xl_net(width, numbers, **options):
    return awake(
        UNet2DConditionModel(
            **SMALL,
            **TOLD,
            **blocks(PLAIN, CROSS),
            cross_attention_dim=width,
            attention_head_dim=[2, 4],
            use_linear_projection=True,
            projection_class_embeddings_input_dim=16 + 8 * numbers,
            **options,
        )
    )


def sdxl():
    net = xl_net(56, 6, transformer_layers_per_block=[1, 2])
    parts = (kl(), clip(24), clip(32, projected=True), clip_words(), clip_words(), net, table())
    return StableDiffusionXLPipeline(*parts, add_watermarker=False)


def refiner():
    net = xl_net(32, 5, transformer_layers_per_block=2)
    parts = (kl(), None, clip(32, projected=True), None, clip_words(), net, table())
    return StableDiffusionXLImg2ImgPipeline(*parts, requires_aesthetics_score=True, force_zeros_for_empty_prompt=False)


PIPELINES = {"sd1": sd1, "sd2": sd2, "sdxl": sdxl}
