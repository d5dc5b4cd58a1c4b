"""Tiny random pipelines of published systems, as diffusers and transformers make and write them."""

import string

import torch
import transformers
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
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


def t5_words():
    signs = [(s, -2.0) for s in ("\u2581", *string.ascii_lowercase, ",", *"0123456789")]
    return transformers.T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *signs], extra_ids=0)


def t5():
    config = transformers.T5Config(
        vocab_size=len(t5_words()), d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
    )
    return transformers.T5EncoderModel(config).eval()


KL_16 = {"use_quant_conv": False, "use_post_quant_conv": False, "scaling_factor": 1.5305, "shift_factor": 0.0609}


def sd3(**options):
    net = SD3Transformer2DModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=16,
        joint_attention_dim=64,
        caption_projection_dim=32,
        pooled_projection_dim=32,
        pos_embed_max_size=24,
        **options,
    )
    reads = (clip(24, projected=True), clip_words(), clip(32, projected=True), clip_words())
    words = t5_words()
    far = transformers.T5EncoderModel(transformers.T5Config(**t5().config.to_dict() | {"d_model": 64})).eval()
    return StableDiffusion3Pipeline(awake(net), FlowMatchEulerDiscreteScheduler(), kl(**KL_16), *reads, far, words)


def sd35():
    return sd3(qk_norm="rms_norm", dual_attention_layers=(0,))


def flux(guided=True):
    net = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        pooled_projection_dim=24,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=guided,
    )
    reads = (clip(24), clip_words(), t5(), t5_words())
    return FluxPipeline(FlowMatchEulerDiscreteScheduler(), kl(**KL_16), *reads, awake(net))


def schnell():
    return flux(guided=False)


def pixart():
    net = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=48,
        caption_channels=24,
        sample_size=128,
        use_additional_conditions=True,
    )
    return PixArtAlphaPipeline(t5_words(), t5(), kl(), awake(net), table())


def dit():
    net = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=16,
        num_embeds_ada_norm=1000,
        norm_eps=1e-5,
    )
    for block in net.transformer_blocks[1:]:  # as in every file of theirs
        block.norm1.emb.load_state_dict(net.transformer_blocks[0].norm1.emb.state_dict())
    return DiTPipeline(awake(net), kl(), table(), id2label={k: f"kind {k}" for k in range(1000)})


def gemma():
    net = transformers.Gemma2Config(
        vocab_size=len(t5_words()),
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        pad_token_id=0,
    )
    return transformers.Gemma2Model(net).eval()


def sana(**options):
    net = SanaTransformer2DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=24,
        sample_size=16,
        **options,
    )
    codec = AutoencoderDC(
        latent_channels=8,
        attention_head_dim=8,
        encoder_block_types=["ResBlock", "EfficientViTBlock"],
        decoder_block_types=["ResBlock", "EfficientViTBlock"],
        encoder_block_out_channels=(16, 32),
        decoder_block_out_channels=(16, 32),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        upsample_block_type="interpolate",
        downsample_block_type="conv",
        scaling_factor=0.41407,
    )
    return SanaPipeline(t5_words(), gemma(), awake(codec), awake(net), FlowMatchEulerDiscreteScheduler())


PIPELINES = {
    "sana": sana,
    "pixart": pixart,
    "dit": dit,
    "sd1": sd1,
    "sd2": sd2,
    "sdxl": sdxl,
    "sd3": sd3,
    "sd35": sd35,
    "flux-dev": flux,
    "flux-schnell": schnell,
}
