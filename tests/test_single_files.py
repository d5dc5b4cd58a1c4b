"""Single files by the publishers' names: known by their keys, the pictures of the folder, names that diffusers reads."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders import single_file_utils
from published import CROSS, KL_16, PLAIN, TOLD, awake, blocks, dit, table
from published import flux as flux_dev
from safetensors.torch import save_file

from reverie.encode.classes import Classes
from reverie.encode.from_tensors import clip_words
from reverie.errors import UserError
from reverie.nets.dit import DiT, DiTConfig
from reverie.systems.dit import transformer as names
from reverie.systems.flux import transformer as flux
from reverie.systems.foreign import open_file, open_folder
from reverie.systems.names import taken
from reverie.systems.opening import Opening
from reverie.systems.published import SYSTEMS
from reverie.systems.sd3 import transformer as sd3_names
from reverie.systems.stable_diffusion import original
from reverie.systems.stable_diffusion import single as sd
from reverie.systems.stable_diffusion.prompt import PromptXL
from reverie.tasks.generate import generate

SMALL = {"block_out_channels": (32, 64), "norm_num_groups": 32, "sample_size": 16, "layers_per_block": 1}


def kl(**options):
    """A file does not tell the groups of the norms: they are 32."""
    down, up = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2
    net = AutoencoderKL(down_block_types=down, up_block_types=up, block_out_channels=(32, 64), layers_per_block=1, **options)
    return awake(net)


def clip(layers=2, width=64, projected=False, act="quick_gelu", pad="<|endoftext|>"):
    config = transformers.CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=32,
        projection_dim=16 if projected else width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        hidden_act=act,
        bos_token_id=49406,
        eos_token_id=49407,
    )
    return (transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel)(config).eval()


def by_hand(net):
    """OpenCLIP's tensors of transformers' encoder, in whose matrix queries, keys and values follow one another."""
    theirs = {k.removeprefix("text_model."): v for k, v in net.state_dict().items()}
    made = {"logit_scale": torch.zeros(()), "positional_embedding": theirs["embeddings.position_embedding.weight"]}
    made["token_embedding.weight"] = theirs["embeddings.token_embedding.weight"]
    if "text_projection.weight" in theirs:
        made["text_projection"] = theirs["text_projection.weight"].T
    for end in ("weight", "bias"):
        made[f"ln_final.{end}"] = theirs[f"final_layer_norm.{end}"]
        for i in range(net.config.num_hidden_layers):
            here, block = f"encoder.layers.{i}", f"transformer.resblocks.{i}"
            made[f"{block}.attn.in_proj_{end}"] = torch.cat([theirs[f"{here}.self_attn.{x}_proj.{end}"] for x in "qkv"])
            names = {"attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2"}
            for name, own in (names | {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}).items():
                made[f"{block}.{name}.{end}"] = theirs[f"{here}.{own}.{end}"]
    return made


def saved(net):
    """As files have it: transformers' names with the prefix that it leaves out in memory."""
    return {k if k.startswith("text_") else f"text_model.{k}": v for k, v in net.state_dict().items()}


def with_words(tensors, prefix):
    return {prefix + k: v.contiguous() for k, v in tensors.items()}


def sd1():
    net = UNet2DConditionModel(**SMALL, **blocks(CROSS, PLAIN), cross_attention_dim=768, attention_head_dim=8)
    text = clip(width=768, layers=1)
    pipe = StableDiffusionPipeline(kl(), text, clip_words(), awake(net), table(), None, None, requires_safety_checker=False)
    return pipe, with_words(saved(text), "cond_stage_model.transformer.")


def sd2():
    """The file has one layer more than is read, and predicts v."""
    options = {"use_linear_projection": True, "cross_attention_dim": 64}
    small = {**SMALL, "block_out_channels": (64, 64)}
    net = UNet2DConditionModel(**small, **blocks(CROSS, CROSS), attention_head_dim=[1, 1], **options)
    text = clip(layers=23, act="gelu")
    pipe = StableDiffusionPipeline(
        kl(), text, clip_words("!"), awake(net), table(prediction_type="v_prediction"), None, None, requires_safety_checker=False
    )
    extra = {f"transformer.resblocks.23.ln_1.{k}": torch.randn(64) for k in ("weight", "bias")}
    return pipe, with_words(by_hand(text) | extra, "cond_stage_model.model.")


def sdxl():
    small = {**SMALL, "block_out_channels": (64, 128)}
    net = awake(
        UNet2DConditionModel(
            **small,
            **TOLD | {"addition_time_embed_dim": 256},
            **blocks(PLAIN, CROSS),
            cross_attention_dim=192,
            attention_head_dim=[1, 2],
            use_linear_projection=True,
            projection_class_embeddings_input_dim=16 + 6 * 256,
            transformer_layers_per_block=[1, 2],
        )
    )
    one, two = clip(), clip(width=128, projected=True, act="gelu")
    pipe = StableDiffusionXLPipeline(
        kl(scaling_factor=0.13025), one, two, clip_words(), clip_words("!"), net, table(), add_watermarker=False
    )
    words = with_words(saved(one), "conditioner.embedders.0.transformer.")
    return pipe, words | with_words(by_hand(two), "conditioner.embedders.1.model.")


def refiner():
    """It has the second encoder alone."""
    small = {**SMALL, "block_out_channels": (64, 128)}
    net = awake(
        UNet2DConditionModel(
            **small,
            **TOLD | {"addition_time_embed_dim": 256},
            **blocks(PLAIN, CROSS),
            cross_attention_dim=128,
            attention_head_dim=[1, 2],
            use_linear_projection=True,
            projection_class_embeddings_input_dim=16 + 5 * 256,
            transformer_layers_per_block=[1, 2],
        )
    )
    two, codec = clip(width=128, projected=True, act="gelu"), kl(scaling_factor=0.13025)
    told = {"requires_aesthetics_score": True, "force_zeros_for_empty_prompt": False, "add_watermarker": False}
    pipe = StableDiffusionXLImg2ImgPipeline(codec, None, two, None, clip_words("!"), net, table(), **told)
    return pipe, with_words(by_hand(two), "conditioner.embedders.0.model.")


def of_ldm(pipe, system, words):
    net, codec = system.denoiser.net, system.codec.net
    made = with_words(taken(net, original.unet(net.config)), "model.diffusion_model.")
    return made | with_words(taken(codec, original.vae(codec.config)), "first_stage_model.") | words


def read_back(pipe, file):
    """What diffusers makes of the file's names."""
    unet = single_file_utils.convert_ldm_unet_checkpoint(dict(file), dict(pipe.unet.config))
    vae = single_file_utils.convert_ldm_vae_checkpoint(dict(file), dict(pipe.vae.config))
    return (unet, pipe.unet), (vae, pipe.vae)


@pytest.fixture(scope="module", params=[sd1, sd2, sdxl, refiner])
def both(request, tmp_path_factory):
    torch.manual_seed(0)
    pipe, words = request.param()
    place = tmp_path_factory.mktemp(request.param.__name__)
    pipe.save_pretrained(place / "folder")
    system = open_folder(place / "folder")
    file = of_ldm(pipe, system, words)
    header = {"modelspec.prediction_type": "v"} if request.param is sd2 else {}
    save_file(file, place / "model.safetensors", header)
    return pipe, system, file, place / "model.safetensors"


def drawn(system, negative="rain"):
    settings = {"seed": 3, "steps": 2, "height": 32, "width": 32, "negative": negative, "guidance": 2.0, "grid": "uniform()"}
    return np.asarray(generate(system, "a red fox", **settings)[0], np.int16)


def test_the_file_gives_the_picture_of_the_folder(both):
    _, system, _, file = both
    image, again = drawn(system), drawn(open_file(file))
    assert image.std() > 5
    assert np.abs(image - again).max() <= 1
    assert np.abs(drawn(system, negative="") - drawn(open_file(file), negative="")).max() <= 1


def test_encoders_of_words_have_every_weight_in_its_place(both):
    pipe, _, _, file = both
    read = open_file(file).prompt_encoder
    clips = list(read.clips) if isinstance(read, PromptXL) else [read]
    nets = [net for net in (pipe.text_encoder, getattr(pipe, "text_encoder_2", None)) if net is not None]
    for clip_of_ours, net in zip(clips, nets, strict=True):
        own, theirs = clip_of_ours.net.state_dict(), net.state_dict()
        assert own.keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in own.items())


def test_diffusers_reads_the_same_names(both):
    pipe, _, file, _ = both
    for read, net in read_back(pipe, file):
        theirs = net.state_dict()
        assert read.keys() == theirs.keys()
        assert all(torch.equal(v.reshape(theirs[k].shape), theirs[k]) for k, v in read.items())


def test_a_file_that_lacks_a_tensor_or_is_of_no_system_is_named(both, tmp_path):
    _, _, file, _ = both
    less = {k: v for k, v in file.items() if not k.endswith("out.2.bias")}
    save_file(less, tmp_path / "less.safetensors")
    with pytest.raises(UserError, match=r"model.diffusion_model: \d+ of \d+ tensors applied; missing: out.2.bias"):
        open_file(tmp_path / "less.safetensors")
    save_file({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="none of our systems by its 1 tensors"):
        open_file(tmp_path / "other.safetensors")


class Told:
    """What is looked at of a file of Stable Diffusion 2 to know what its net predicts."""

    def __init__(self, spread, words=sd.WORDS_2, **about):
        bias = torch.linspace(-1, 1, 320)
        self.tensors = {sd.TELLING: spread * bias / bias.std(), f"{words}transformer.resblocks.0.ln_1.bias": torch.zeros(1)}
        self.about = {f"modelspec.{k}": v for k, v in about.items()}


def test_what_a_net_predicts_is_said_or_told_by_a_bias():
    assert sd._predicts_v(Told(0.2)) and not sd._predicts_v(Told(0.03))
    assert not sd._predicts_v(Told(0.2, words=sd.WORDS_1))  # Stable Diffusion 1 never does
    assert not sd._predicts_v(Told(0.2, prediction_type="epsilon")) and sd._predicts_v(Told(0.03, prediction_type="v"))


def test_marks_of_v_and_of_no_light_at_the_end(both, tmp_path):
    _, _, file, _ = both
    save_file(file | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, tmp_path / "marked.safetensors")
    save_file(file, tmp_path / "plain.safetensors")
    found = [open_file(tmp_path / f"{name}.safetensors").denoiser for name in ("marked", "plain")]
    assert [(model.path.card["name"], model.rule.card["name"]) for model in found] == [
        ("zero_snr", "v"),
        ("scaled_linear_table", "eps"),
    ]


def sd3_small():
    """(diffusers' pipeline, the tensors of its encoders by the publisher's names)."""
    net = SD3Transformer2DModel(
        sample_size=128,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=64,
        joint_attention_dim=256,
        caption_projection_dim=128,
        pooled_projection_dim=32,
        pos_embed_max_size=96,
        qk_norm="rms_norm",
        dual_attention_layers=(0,),
    )
    one, two = clip(projected=True), clip(width=128, projected=True, act="gelu")
    words = (one, clip_words(), two, clip_words("!"))
    pipe = StableDiffusion3Pipeline(awake(net), FlowMatchEulerDiscreteScheduler(shift=3.0), kl(**KL_16), *words, None, None)
    tensors = with_words(saved(one), "text_encoders.clip_l.transformer.") | with_words(
        saved(two), "text_encoders.clip_g.transformer."
    )
    return pipe, tensors


def test_stable_diffusion_3_with_its_encoders_and_with_those_of_a_folder(tmp_path):
    torch.manual_seed(0)
    pipe, words = sd3_small()
    pipe.save_pretrained(tmp_path / "folder")
    system = open_folder(tmp_path / "folder")
    net, codec = system.denoiser.net, system.codec.net
    bare = with_words(taken(net, sd3_names.original), sd3_names.PREFIX)
    bare |= with_words(taken(codec, original.vae(codec.config)), "first_stage_model.")
    save_file(bare | words, tmp_path / "all.safetensors")
    save_file(bare, tmp_path / "bare.safetensors")
    image = drawn(system)
    usual = replace(system.defaults, size=(1024, 1024))  # the tiny folder's are smaller, and its scheduler has the usual shift
    assert open_file(tmp_path / "all.safetensors").defaults == usual
    assert np.abs(image - drawn(open_file(tmp_path / "all.safetensors"))).max() <= 1 and image.std() > 5
    assert np.abs(image - drawn(open_file(tmp_path / "bare.safetensors", Opening(parts=str(tmp_path / "folder"))))).max() <= 1
    with pytest.raises(UserError, match=r"bare.safetensors holds no encoder of words: name a folder .* with --parts"):
        open_file(tmp_path / "bare.safetensors")


@pytest.mark.parametrize("prefix", ["", flux.PREFIX])
def test_flux_with_the_other_parts_of_a_folder(tmp_path, prefix):
    torch.manual_seed(0)
    pipe = flux_dev()
    pipe.transformer = awake(
        FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=32,
            num_attention_heads=2,
            joint_attention_dim=24,
            pooled_projection_dim=24,
            axes_dims_rope=(4, 14, 14),
            guidance_embeds=True,
        )
    )
    pipe.save_pretrained(tmp_path / "folder")
    system = open_folder(tmp_path / "folder")
    save_file(with_words(taken(system.denoiser.net, flux.original), prefix), tmp_path / "flux.safetensors")
    again = open_file(tmp_path / "flux.safetensors", Opening(parts=str(tmp_path / "folder")))
    assert again.denoiser.net.config == system.denoiser.net.config
    assert np.abs(drawn(system) - drawn(again)).max() <= 1 and again.denoiser.guided
    assert (again.defaults.steps, again.defaults.guidance) == (system.defaults.steps, system.defaults.guidance) == (50, 3.5)
    with pytest.raises(UserError, match="holds no autoencoder and no encoder of words"):
        open_file(tmp_path / "flux.safetensors")


@pytest.mark.parametrize("name", ["DiT-B-2", "SiT-B-2"])
@torch.no_grad()
def test_dit_and_sit_with_the_autoencoder_of_a_folder(name, tmp_path):
    """One file under two names: the flow of the second runs the other way, from noise at 0 to data at 1."""
    torch.manual_seed(0)
    pipe = dit()
    pipe.save_pretrained(tmp_path / "folder")
    config = DiTConfig(width=384, heads=6, depth=1, size=16)
    parts = awake(names.parts(DiT(config), Classes([str(k) for k in range(1000)], 384)))
    tensors = taken(parts, names.original)
    save_file(tensors, tmp_path / f"{name}.safetensors")
    with pytest.raises(UserError, match=r"holds no autoencoder: name a folder"):
        open_file(tmp_path / f"{name}.safetensors")
    system = open_file(tmp_path / f"{name}.safetensors", Opening(parts=str(tmp_path / "folder")))
    flows, model = name.startswith("SiT"), system.denoiser
    assert model.net.config == config and model.learned_variance and system.defaults.size == (32, 32)
    listed = next(s.defaults for s in SYSTEMS if s.name == name[:3].lower())
    assert [getattr(system.defaults, k) for k in SAME] == [getattr(listed, k) for k in SAME]
    x, t = torch.randn(2, 4, 16, 16), torch.tensor([0.25, 0.75], dtype=torch.float64)
    rows = parts["classes"].table.weight[[7, 1000]]
    out = parts["net"](x, (1 - t if flows else 1000 * t - 1).float(), vector=rows)[:, :4]
    alpha, sigma = (v.float()[:, None, None, None] for v in model.path(t))
    wanted = x + sigma * out if flows else (x - sigma * out) / alpha
    found = model(x, t, system.encoders["class"].prompts(["7", ""]))
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert np.asarray(generate(system, 7, steps=2, guidance=2.0)[0]).std() > 5


SAME = ("solver", "steps", "guidance", "grid")
