"""Restoring: what is found fits what was seen, on pixels and in latents; JPEG files; the command; what can be asked wrongly."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from small import small_system
from test_editing import box, far, photo
from test_generate import command, pixels

from reverie.codec import Latent, Pixels, Shrunk
from reverie.denoiser import Denoiser, log_snr
from reverie.errors import UserError
from reverie.guide.jpeg import jpeg
from reverie.guide.kept import Beside
from reverie.guide.operators import LEVEL, blur, downsample
from reverie.guide.posterior import Posterior, Tangent, mmps
from reverie.nets.autoencoder import AutoencoderConfig
from reverie.nets.upsampler import UpsamplerConfig
from reverie.process import rules, schedules
from reverie.process.grids import karras
from reverie.rng import Rng
from reverie.solve import named, sample
from reverie.systems import Sampling, System
from reverie.tasks import Restore, generate, metadata, restore
from reverie.tasks.source import fitted, picture
from reverie.train.jobs import to_signal

SYSTEM = small_system()


class Plain(torch.nn.Module):
    """A net that knows its data to be N(0, 0.25), each number for itself, and a little of its neighbours."""

    def forward(self, x, t, **told):
        near = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
        return 0.05 * near


def calm(codec=None, size=(16, 16)):
    """A system whose estimates are those of Gaussian data, nearly: what is restored with it is determined."""
    path = schedules.edm()
    made = Denoiser(Plain(), path, rules.edm(0.5), log_snr(), sigma_data=0.5)
    defaults = Sampling(steps=12, guidance=1.0, size=size)
    return System(denoiser=made, codec=codec or Pixels(3), defaults=defaults, about={"name": "calm"})


CALM = calm()


def smooth(size=(16, 16), seed=0):
    """A picture that a blur and a JPEG leave something of."""
    small = np.random.default_rng(seed).integers(40, 216, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def saved(image, **how):
    file = io.BytesIO()
    image.save(file, "JPEG", **how)
    return Image.open(file)


def signal(image):
    return fitted(image, image.size[::-1], 3)


def seen_as(operator, image):
    """The picture that is given to be restored."""
    y = operator(signal(image))
    return Image.fromarray(((y[0].permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).byte().numpy())


GIVEN = {
    "blur(sigma=1.0)": (seen_as(blur(1.0), smooth()), None),
    "downsample(factor=2)": (seen_as(downsample(2), smooth()), None),
    "grey()": (smooth().convert("L"), None),
    "mask()": (smooth(), box()),
    "jpeg(quality=20)": (saved(smooth(), quality=20), None),
    "identity()": (smooth(), None),
}


def gap(operator, image, given, mask=None, noise=None):
    """rms of what was seen less what would be seen of this, in levels; or in deviations, where this noise is said."""
    task = Restore(given, operator, mask=mask)
    told = task.told(3)
    y = told.read(signal(given.convert("RGB")))
    unit = LEVEL if noise is None else told.variance(y, noise).sqrt()
    return float(((y - told(signal(image))) / unit).square().mean().sqrt())


@pytest.mark.parametrize("method", ["mmps(steps=6)", "pigdm()", "dps(scale=20.0)"])
@pytest.mark.parametrize("operator", GIVEN)
def test_what_is_found_fits_what_was_seen(operator, method):
    """Before it is made to agree: with a little noise said, it is not."""
    given, mask = GIVEN[operator]
    made = restore(CALM, given, operator=operator, noise=0.01, method=method, mask=mask, seed=1)[0]
    plain = generate(CALM, seed=1)[0]
    assert made.size == (16, 16)
    found, without = gap(operator, made, given, mask, 0.01), gap(operator, plain, given, mask, 0.01)
    share = 0.75 if (method, operator) == ("dps(scale=20.0)", "jpeg(quality=20)") else 0.25  # one length of step for all numbers
    assert found < share * without, (found, without)
    if method.startswith("mmps"):
        assert found < 6, "of the order of the noise and the rounding, in 12 steps"


@pytest.mark.parametrize("operator", [k for k in GIVEN if not k.startswith("blur")])
def test_without_noise_it_agrees_to_the_rounding(operator):
    """Even of a net that knows nothing: each number within a level, or within the step of its file."""
    given, mask = GIVEN[operator]
    made = restore(SYSTEM, given, "a man", operator=operator, mask=mask, steps=2, seed=1)[0]
    if operator in ("mask()", "identity()"):
        black = np.asarray(box()) == 0 if mask else slice(None)
        assert (np.asarray(made)[black] == np.asarray(given)[black]).all()
    else:
        assert bool(np.isin(np.asarray(made), (0, 255)).any()), "where colours end, too"
        kind = Restore(given, operator).told(3)
        off = (kind(signal(made)) - kind.read(signal(given.convert("RGB")))).abs()
        step = kind.steps / 2 if operator.startswith("jpeg") else 0
        assert float((off < step + LEVEL).double().mean()) > (0.99 if operator.startswith("jpeg") else 0.9999)


def test_pictures_of_a_count_differ_and_strict_ones_are_the_same_alone():
    given = GIVEN["downsample(factor=2)"][0]
    options = {"operator": "downsample(factor=2)", "noise": 0.05, "steps": 3, "strict": True, "guidance": 1.5}
    together = restore(SYSTEM, given, "a man", seed=5, count=3, batch=2, **options)
    alone = restore(SYSTEM, given, "a man", seed=7, **options)
    assert (pixels(together)[2] == pixels(alone)[0]).all() and far(*together[:2]) > 1


def test_it_goes_around_guidance_and_leaves_the_weights_alone():
    given = GIVEN["blur(sigma=1.0)"][0]
    options = {"operator": "blur(sigma=1.0)", "noise": 0.02, "steps": 3, "seed": 2}
    one, two = (restore(SYSTEM, given, "a man", guidance=w, **options)[0] for w in (1.0, 4.0))
    assert far(one, two) > 0.5
    assert all(p.grad is None and not p.requires_grad for p in SYSTEM.denoiser.parameters())
    unlike = restore(SYSTEM, given, "bald", guidance=1.0, **options)[0]
    assert far(one, unlike) > 0.1, "the prompt is heard"


CODECS = {
    "shrunk": lambda: Shrunk(UpsamplerConfig(channels=8, blocks=1, factor=2, groups=4)),
    "latent": lambda: Latent(AutoencoderConfig(in_channels=3, channels=8, mult=(1, 2), blocks=1, latent=4, groups=4)),
}


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", CODECS)
def test_behind_a_decoder_the_operator_is_of_the_picture(kind, dtype):
    """The derivative and its adjoint fit each other, and a measurement of the picture is met through the decoder."""
    torch.manual_seed(0)
    codec = CODECS[kind]().eval().requires_grad_(False)
    for part in codec.parameters():
        if not part.any():
            torch.nn.init.normal_(part, std=0.05)
    codec.autocast = dtype
    shape = codec.shape(16, 16)
    z, u = torch.randn(2, 2, *shape).unbind()
    tangent = Tangent(lambda z: downsample(2)(codec.decode(z)), z)
    w = torch.randn_like(tangent.value)
    moved = tangent.derivative(u)
    one, two = float((moved * w).sum()), float((u * tangent.adjoint(w)).sum())
    assert abs(one - two) < (1e-5 if dtype is None else 0.02) * float(moved.norm() * w.norm())
    if dtype is None:
        step = (codec.decode(z + 1e-3 * u) - codec.decode(z - 1e-3 * u)) / 2e-3
        torch.testing.assert_close(tangent.derivative(u), downsample(2)(step), rtol=1e-2, atol=1e-2)
    else:
        return  # half precision is for the derivatives; the way is the same
    system = calm(codec)
    with torch.no_grad():
        y = downsample(2)(codec.decode(0.5 * torch.randn(2, *shape, generator=torch.Generator().manual_seed(5))))
    model = Posterior(system.denoiser, lambda z: downsample(2)(codec.decode(z)), mmps(20))
    cond = Beside(None, (y, torch.full((2, 1, 1, 1), 1e-4)))
    path = system.denoiser.path
    grid = karras(smallest=0.02)(path, 30)
    x = path.prior((2, *shape), grid[0], rng=Rng.of(0, 2), spread=0.5)
    with torch.no_grad():
        made, plain = (
            codec.decode(sample(m, x, grid, named("dpmpp-2m")[0], cond=c)) for m, c in ((model, cond), (system.denoiser, None))
        )
    assert (downsample(2)(made) - y).norm() < 0.35 * (downsample(2)(plain) - y).norm()


@pytest.mark.parametrize("turn", range(1, 9))
def test_the_tables_of_a_jpeg_turn_with_its_picture(turn):
    """Those of a camera that was held upright: a step for each cosine, another along the rows than along the columns."""
    image, exif = smooth((32, 16)), Image.Exif()
    exif[0x0112] = turn
    tables = [[16 + (k % 8) * 9 + (k // 8) for k in range(64)]] * 2
    file = saved(image, qtables=tables, subsampling=2, exif=exif)
    shown = picture(file)
    told = jpeg().told((3, shown.height, shown.width), image=file)
    y, exact = told.read(signal(shown)), told(signal(picture(saved(image, quality=100, subsampling=0, exif=exif))).double())
    assert shown.size == ((16, 32) if turn > 4 else (32, 16))
    assert ((exact / told.steps - y / told.steps).abs() < 0.6).double().mean() > 0.97


@pytest.mark.parametrize("quality", [10, 50, 90])
@pytest.mark.parametrize("chroma", [1, 2])
def test_what_is_read_of_a_jpeg_is_what_its_file_holds(quality, chroma):
    """Nearly every number that we compute of the picture, rounded by the file's own table, is the number in the file."""
    image = smooth((72, 40))
    file = saved(image, quality=quality, subsampling=0 if chroma == 1 else 2)
    told = jpeg().told((3, 40, 72), image=file)
    assert (told.tables, told.chroma) == (jpeg(quality=quality).tables, chroma)
    y, exact = told.read(signal(file.convert("RGB"))), told(signal(image).double())
    off = (exact / told.steps - y / told.steps).abs()
    assert (off < 0.5 + 0.6 * LEVEL / told.steps).double().mean() > 0.97
    if chroma == 1:
        assert far(file.convert("RGB"), (told.back(y)[0].permute(1, 2, 0) + 1).mul(127.5).clamp(0, 255)) < 0.8
    agreed = told.agree(torch.zeros(1, 3, 40, 72), y)
    within = ((told(agreed) - y).abs() <= told.steps / 2 + 1e-4).double().mean()
    assert within > (0.99 if chroma == 1 else 0.96), "all but what lies beyond the edge: 72x40 is no multiple of 16"


def test_a_grey_jpeg_has_brightness_alone():
    told = jpeg(quality=30).told((1, 16, 24))
    x = torch.randn(2, 1, 16, 24, dtype=torch.float64)
    assert told(x).shape == (2, 16 * 24) == (2, len(told.steps))
    torch.testing.assert_close(told.back(told(x)), x)
    torch.testing.assert_close(told(x).norm(), x.norm())


def test_the_noise_of_a_jpeg_is_its_rounding():
    """The rms of what rounding takes away, over its deviation q / sqrt(12), is 1 where numbers are many steps large."""
    told = jpeg(quality=90, chroma=1).told((3, 64, 64))
    x = 0.6 * torch.randn(1, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = told(x)
    rounded = (y / told.steps).round() * told.steps
    ratio = (rounded - y).square().mean(0) / told.variance(y, 0.0)[0]
    assert float(ratio.mean().sqrt()) == pytest.approx(1, abs=0.03)


WRONG = {
    "say what was done to the picture": lambda: restore(SYSTEM, photo(), "a man"),
    "unknown name 'blurr'. Did you mean 'blur'": lambda: Restore(photo(), "blurr()"),
    "blur has no field 'sigm'": lambda: Restore(photo(), "blur(sigm=2)"),
    "blur: sigma is 0": lambda: Restore(photo(), "blur(sigma=0)"),
    "factor is 1;": lambda: Restore(photo(), "downsample(factor=1)"),
    "quality is 99": lambda: Restore(photo(), "jpeg(quality=99)"),
    "chroma is 3": lambda: Restore(photo(), "jpeg(quality=9, chroma=3)"),
    "this picture is no JPEG file": lambda: restore(SYSTEM, photo(), "a man", operator="jpeg()"),
    "noise is -0.1": lambda: Restore(photo(), "blur()", -0.1),
    "noise is nan": lambda: Restore(photo(), "blur()", float("nan")),
    "mmps: steps is 0": lambda: Restore(photo(), "blur()", method="mmps(steps=0)"),
    "method: unknown name 'mpps'. Did you mean 'mmps'": lambda: Restore(photo(), "blur()", method="mpps()"),
    "needs a mask": lambda: restore(SYSTEM, photo(), "a man", operator="mask()"),
    "blur looks at all of them": lambda: restore(SYSTEM, photo(), "a man", operator="blur()", mask=box()),
    "the mask is 8x8, the picture 16x16": lambda: restore(SYSTEM, photo(), "a man", mask=box((8, 8))),
    "the mask has no black place": lambda: restore(SYSTEM, photo(), "a man", mask=Image.new("L", (16, 16), 255)),
    "seen as 15x16 is restored as 15x16": lambda: restore(SYSTEM, photo((15, 16)), "a man", operator="blur()"),
    "seen as 5x5 is restored as 15x15": lambda: restore(SYSTEM, photo((5, 5)), "a man", operator="downsample(factor=3)"),
    "the restored picture is 16x16, not 32x16": lambda: restore(SYSTEM, photo(), "a man", operator="blur()", width=32),
    "no setting 'nois'": lambda: restore(SYSTEM, photo(), "a man", operator="blur()", nois=1),
    "none in colours": lambda: Restore(photo(), "grey()").told(1),
}


@pytest.mark.parametrize("said", WRONG)
def test_what_cannot_be_done_is_said(said):
    with pytest.raises(UserError, match=said):
        WRONG[said]()


@pytest.fixture
def places(tmp_path):
    given = GIVEN["downsample(factor=2)"][0]
    given.save(tmp_path / "small.png")
    smooth().save(tmp_path / "photo.png")
    smooth().save(tmp_path / "photo.jpg", quality=30)
    box().save(tmp_path / "mask.png")
    return tmp_path


def run(capsys, model, *arguments):
    code, out, err = command(capsys, *arguments, "--model", model, "--json", "--precision", "float32", "--steps", 2)
    assert code == 0, err
    return json.loads(out.splitlines()[0])["file"]


def test_the_command_draws_what_the_function_draws_and_remembers_it(capsys, model, places):
    out = ("--out", places / "out", "--seed", 3)
    small = places / "small.png"
    asked = ("restore", small, "a man", "--operator", "downsample(factor=2)", "--noise", 0.02, "--method", "mmps(steps=2)")
    first = run(capsys, model, *asked, *out)
    made = restore(SYSTEM, small, "a man", operator="downsample(factor=2)", noise=0.02, method="mmps(steps=2)", seed=3, steps=2)
    with Image.open(first) as one:
        assert abs(pixels([one]) - pixels(made)).max() <= 1
    task = metadata.read(first).tasks[0]
    assert task["operator"] == {"name": "downsample", "factor": 2} and task["method"] == {"name": "mmps", "steps": 2}
    assert (task["noise"], task["image"]["file"]) == (0.02, "small.png")
    again = run(capsys, model, "restore", small, "--from", first, "--out", places / "out")
    with Image.open(first) as one, Image.open(again) as two:
        assert (np.asarray(one) == np.asarray(two)).all(), "--from takes operator, noise and method"
    for more in (("photo.png", "--mask", places / "mask.png"), ("photo.jpg", "--operator", "jpeg()")):
        with Image.open(run(capsys, model, "restore", places / more[0], "a man", *more[1:], *out)) as image:
            assert image.size == (16, 16)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("photo.png", "a man"), "say what was done to the picture"),
        (("photo.png", "a man", "--operator", "blur(sigma=x)"), "operator.sigma is"),
        (("photo.png", "a man", "--operator", "mask()"), "mask() needs a mask"),
        (("photo.png", "a man", "--operator", "blur()", "--width", 32), "leave out --height and --width"),
        (("photo.png", "a man", "--operator", "downsample(factor=64)", "--noise", "much"), "--noise is 'much'"),
        ((), "name the picture: reverie restore IMAGE PROMPT"),
    ],
)
def test_a_wrong_command_is_one_line(capsys, model, places, monkeypatch, asked, said):
    monkeypatch.chdir(places)
    code, out, err = command(capsys, "restore", *asked, "--model", model, "--out", places / "out")
    assert code == 2 and not out and said in err and len(err.splitlines()) == 1


def test_signals_are_read_as_they_are():
    exact = to_signal(np.asarray(photo()).transpose(2, 0, 1)[None])
    assert torch.equal(Restore(photo(), "identity()").told(3).read(exact), exact)
