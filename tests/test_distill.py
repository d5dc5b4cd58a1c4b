"""Distilling a model: every method teaches, goes on where it stopped, and makes a model like any other."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from small import small_system

from reverie.cli import main
from reverie.cli.distill import Distill
from reverie.denoiser import Cond, Denoiser, timestep
from reverie.distill import Teacher, ect, fast, student_of
from reverie.distill.tangent import derivative
from reverie.errors import UserError
from reverie.nets.clocks import hears, tell
from reverie.nets.dit import DiT, DiTConfig
from reverie.nets.mlp import MLP, MLPConfig
from reverie.nets.mmdit import MMDiT, MMDiTConfig
from reverie.nets.pixart import PixArt, PixArtConfig
from reverie.nets.sana import Sana, SanaConfig
from reverie.nets.unet import UNet, UNetConfig
from reverie.process import rules, schedules
from reverie.systems import save
from reverie.systems.distilled import KINDS, Distillation
from reverie.systems.lora import given_loras
from reverie.systems.weights import load
from reverie.tasks import Edit, generate
from reverie.tasks.train import Session, restored, stored

WIDE = {"in_channels": 4, "width": 32, "context_dim": 12}
NETS = {
    "unet": lambda: UNet(UNetConfig(in_channels=4, out_channels=4, channels=16, mult=(1, 2), blocks=1, groups=8)),
    "dit": lambda: DiT(DiTConfig(in_channels=4, width=32, size=8, depth=1, heads=2, learn_sigma=False)),
    "pixart": lambda: PixArt(PixArtConfig(**WIDE, depth=1, heads=2, learn_sigma=False)),
    "sana": lambda: Sana(SanaConfig(**WIDE, depth=1, heads=2, cross_heads=2)),
    "mmdit": lambda: MMDiT(MMDiTConfig(**WIDE, heads=2, depth=1, size=4, table=4)),
    "mlp": lambda: MLP(MLPConfig(dim=4, width=32, depth=1)),
}


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_a_net_that_is_told_more_is_at_first_itself(name):
    torch.manual_seed(0)
    net = NETS[name]().eval()
    for part in net.parameters():
        if not part.any():
            torch.nn.init.normal_(part, std=0.1)
    x = torch.randn(2, 4) if name == "mlp" else torch.randn(2, 4, 8, 8)
    c = net.config
    vector = torch.randn(2, c.width) if name == "dit" else None
    tokens = torch.randn(2, 5, 12) if getattr(c, "context_dim", None) else None
    cond = Cond(vector=vector, tokens=tokens)
    t = torch.tensor([0.3, 0.8], dtype=torch.float64)
    plain = Denoiser(net, schedules.flow(), rules.velocity())(x, t, cond)
    told = Denoiser(tell(tell(net, ["target"]), ["guidance", "target"]), schedules.flow(), rules.velocity())
    assert told.hears == hears(net) == ("target", "guidance") and told.guided
    aimed = replace(cond, target=t / 2, guidance=torch.tensor([3.0, 5.0]))
    assert torch.equal(told(x, t, cond), plain) and torch.equal(told(x, t, aimed), plain)
    for layer in net.get_submodule("adapt.time" if name in ("pixart", "sana") else "time").more.values():
        torch.nn.init.normal_(layer.weight, std=0.1)
    for other in (replace(aimed, target=t / 3), replace(aimed, guidance=torch.tensor([2.0, 5.0]))):
        assert (told(x, t, other) - told(x, t, aimed)).abs().max() > 1e-6
    nowhere = replace(aimed, target=None)
    assert torch.equal(told(x, t, nowhere), told(x, t, replace(aimed, target=t))), "without a target it is the denoiser"


@pytest.mark.parametrize("name", NETS)
def test_the_derivative_along_a_trajectory_is_that_of_finite_differences(name):
    torch.manual_seed(1)
    net = tell(NETS[name](), ["target"]).double().eval()
    for part in net.parameters():
        if not part.any():
            torch.nn.init.normal_(part, std=0.1)
    student = Denoiser(net, schedules.flow(), rules.velocity(), timestep(10.0))  # slow enough for sinusoids in float32
    shape = (2, 4) if name == "mlp" else (2, 4, 8, 8)
    x, v = (torch.randn(shape, dtype=torch.float64) for _ in range(2))
    c, t = net.config, torch.tensor([0.4, 0.7], dtype=torch.float64)
    vector = torch.randn(2, c.width, dtype=torch.float64) if name == "dit" else None
    tokens = torch.randn(2, 5, 12, dtype=torch.float64) if getattr(c, "context_dim", None) else None
    cond = Cond(vector=vector, tokens=tokens, target=t / 2)
    f, moved = derivative(student, x, t, v, cond)
    step = 1e-3
    with torch.no_grad():
        ahead, behind = (student(x + h * v, t + h, cond) for h in (step, -step))
        torch.testing.assert_close(f, student(x, t, cond), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(moved, (ahead - behind) / (2 * step), atol=2e-3, rtol=2e-3)
    assert (moved - v).abs().max() > 0.05, "the net itself moves, too"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A teacher of 16 px and a folder of pictures."""
    folder = tmp_path_factory.mktemp("distil")
    system = small_system()
    save(
        replace(system, about={"name": "small", "recipe": {"source": "folder", "data": str(folder / "pictures")}}),
        folder / "teacher.safetensors",
    )
    (folder / "pictures").mkdir()
    made = np.random.default_rng(0)
    for k in range(24):
        Image.fromarray(made.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / "pictures" / f"{k}.png")
        (folder / "pictures" / f"{k}.txt").write_text("a man with red hair")
    return folder


def distilled(place, out, *words):
    fresh = [] if "--resume" in words else ["--teacher", str(place / "teacher.safetensors"), "--batch", "4"]
    main(["distill", *words, *fresh, "--threads", "1", "--out", str(out)])
    return load(out / "model.safetensors")


@pytest.mark.parametrize("name", KINDS)
def test_every_method_teaches(name, place, tmp_path, capsys):
    call = f"{name}(rounds=2)" if name == "ect" else f"{name}(steps=6)" if name in ("consistency", "trajectory") else name
    call = "progressive(begin=4)" if name == "progressive" else call
    scales = ["--scales", "1", "4"] if name in ("guidance", "consistency", "meanflow") else []
    made = distilled(place, tmp_path / "run", call, "--updates", "3", "--pairs", "6", *scales)
    teacher = load(place / "teacher.safetensors")
    own, theirs = ({k: v for k, v in s.denoiser.state_dict().items()} for s in (made, teacher))
    assert any(not torch.equal(own[k], v) for k, v in theirs.items()), "it has learnt"
    assert made.denoiser.guided == bool(scales) and made.defaults.guidance == (2.0 if scales else 1.0)
    assert made.defaults.steps == 2 and made.about["distilled"]["teacher"] == "small" and made.name == f"small-{name}-2"
    assert made.about["distilled"]["method"].startswith(name)
    picture = np.asarray(generate(made, "a bald man", seed=3)[0])
    assert picture.shape == (16, 16, 3)
    edited = generate(made, "a man", tasks=[Edit(Image.fromarray(picture), 0.5)], seed=1)
    assert len(edited) == 1, "a student is a model like any other"


def test_a_student_may_be_a_lora(place, tmp_path, capsys):
    folder = tmp_path / "run"
    made = distilled(place, folder, "progressive(begin=4)", "--updates", "3", "--as-lora", "4")
    teacher = load(place / "teacher.safetensors")
    own, theirs = (each.denoiser.net.state_dict() for each in (made, teacher))
    linear = {f"{k}.weight" for k, v in teacher.denoiser.net.named_modules() if isinstance(v, torch.nn.Linear)}
    assert {k for k, v in theirs.items() if not torch.equal(own[k], v)} <= linear
    changed = given_loras(teacher, [str(folder / "lora.safetensors")])
    assert changed.defaults == made.defaults and changed.defaults.steps == 2
    one, two = (np.asarray(generate(each, "a bald man", seed=3)[0]).astype(int) for each in (made, changed))
    assert abs(one - two).max() <= 1 and changed.about["loras"][0]["given"] == str(folder / "lora.safetensors")
    assert (folder / "lora.safetensors").stat().st_size < 0.7 * (folder / "model.safetensors").stat().st_size
    assert distilled(place, folder, "--resume", "--updates", "4").about["distilled"] == made.about["distilled"]


def test_fast_draws_with_the_variant_of_few_steps_beside_the_file(tmp_path, capsys):
    system, words = (
        small_system(),
        ["generate", "a bald man", "--model", str(tmp_path / "mine.safetensors"), "--out", str(tmp_path / "out")],
    )
    save(system, tmp_path / "mine.safetensors")
    with pytest.raises(SystemExit):
        main([*words, "--fast"])
    said = capsys.readouterr().err
    assert "no variant of a few steps" in said and "reverie distill --teacher" in said and "mine-fast.safetensors" in said
    save(replace(system, defaults=replace(system.defaults, steps=2, guidance=1.0)), tmp_path / "mine-fast.safetensors")
    main([*words, "--fast", "--json"])
    made = json.loads(capsys.readouterr().out)
    assert made["nfe"] == 2
    again = ["generate", "--from", made["file"], "--out", str(tmp_path / "again"), "--json"]
    main(again)
    one, two = (Image.open(file) for file in (made["file"], json.loads(capsys.readouterr().out)["file"]))
    assert np.array_equal(one, two), "which the picture remembers"


def test_what_was_stopped_goes_on_bit_for_bit(place, tmp_path):
    whole = distilled(place, tmp_path / "whole", "progressive(begin=8)", "--updates", "8")
    folder = tmp_path / "broken"
    recipe = restored(Distillation(name=whole.name, source="folder", teacher="", method=""), stored(tmp_path / "whole"))
    session = Session.open(recipe, folder, False)
    for now in session:
        session.run.stop = now.step == 5  # in the middle of a round
    again = distilled(place, folder, "--resume")
    for k, v in whole.denoiser.state_dict().items():
        assert torch.equal(again.denoiser.state_dict()[k], v), k


def test_a_student_that_goes_astray_is_stopped_and_what_was_good_is_kept(place, tmp_path):
    base = Distill(method="denoising_gan", teacher=str(place / "teacher.safetensors"), updates=9, batch=4).recipe()
    recipe = replace(base, training=replace(base.training, save_minutes=0.0, holdout=8))
    session = Session.open(recipe, tmp_path, False)
    job = session.run.job
    assert job.astray() == ""
    with pytest.raises(UserError, match=r"diverged: step 6 draws pictures .* times further from .*not saved, nor .*begin again"):
        for now in session:
            if now.step == 4:
                kept = (tmp_path / "checkpoint.safetensors").read_bytes()
                with torch.no_grad():
                    for part in job.denoiser.net.parameters():
                        part.mul_(3.0)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == kept
    again = Session.open(recipe, tmp_path, True)
    assert again.run.step == 4 and again.run.job.astray() == ""
    again.run.job.drawn = lambda count: job.held[:1].expand(count, -1, -1, -1)
    assert "pictures that are all but one" in again.run.job.astray()


def test_a_student_may_begin_as_another_model_of_the_same_space(place, tmp_path, capsys):
    flowed = distilled(place, tmp_path / "flowed", "reflow", "--updates", "2", "--pairs", "4")
    begun = distilled(
        place,
        tmp_path / "one",
        "one_step",
        "--updates",
        "1",
        "--pairs",
        "4",
        "--begin",
        str(tmp_path / "flowed"),
        "--rate",
        "1e-12",
    )
    for k, v in flowed.denoiser.state_dict().items():
        torch.testing.assert_close(begun.denoiser.state_dict()[k], v, atol=1e-6, rtol=1e-6)
    system = small_system()
    system.denoiser.path = schedules.flow()
    save(system, tmp_path / "other.safetensors")
    with pytest.raises(SystemExit):
        distilled(place, tmp_path / "two", "fast", "--updates", "1", "--begin", str(tmp_path / "other.safetensors"))
    assert "cannot begin as a student of small: it has other process" in capsys.readouterr().err


def test_the_student_begins_as_its_teacher():
    system = small_system()
    student = student_of(system.denoiser, fast())
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([0.2, 0.01], dtype=torch.float64)
    cond = system.prompt_encoder.prompts(["a man", ""])
    with torch.no_grad():
        assert torch.equal(student(x, t, cond), system.denoiser(x, t, cond))
    assert all(p.requires_grad for p in student.net.parameters()) and not any(p.requires_grad for p in system.denoiser.parameters())


def test_a_net_that_learnt_its_variance_keeps_it():
    net = UNet(UNetConfig(in_channels=3, out_channels=6, channels=16, mult=(1, 2), blocks=1, groups=8))
    model = Denoiser(net, schedules.vp(), rules.eps(), learned_variance=True)
    student, x, t = student_of(model, fast()), torch.randn(2, 3, 8, 8), torch.tensor([0.2, 0.9], dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(student.with_variance(x, t)[1], model.with_variance(x, t)[1]) and student(x, t).shape == x.shape


def test_a_teacher_hears_the_scale_that_is_told():
    system = small_system()
    encoder = system.prompt_encoder
    empty = lambda count: encoder.prompts([""] * count)  # noqa: E731
    x, t, cond = torch.randn(2, 3, 16, 16), torch.tensor([0.02, 0.01], dtype=torch.float64), encoder.prompts(["a man", "red hair"])
    told = Teacher(system.denoiser, 1.0, empty)(x, t, replace(cond, guidance=torch.tensor([1.0, 3.0])))
    one, three = (Teacher(system.denoiser, w, empty)(x, t, cond) for w in (1.0, 3.0))
    torch.testing.assert_close(told, torch.stack([one[0], three[1]]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fats"], "no method is called 'fats'. Did you mean 'fast'"),
        (["fast(stps=2)"], "stps"),
        (["fast", "--steps", "0"], "--steps is 0; a picture takes 1 step or more"),
        (["guidance", "--scales", "3"], "--scales takes two scales"),
        (["progressive(begin=6)"], "begin is 6 and end 2; begin is end times a power of 2"),
        (["consistency(steps=1)"], "consistency needs two points"),
        (["meanflow(apart=2)"], "apart is 2"),
        (["fast(fine=1)"], "fine 1"),
        (["guidance"], "say which, as --scales 1 6"),
        (["reflow", "--scales", "1", "4"], "reflow learns no scale of guidance"),
        (["ect", "--scales", "1", "4"], "ect learns no scale of guidance"),
        (["trajectory", "--as-lora", "4"], "trajectory tells the net a further time or scale (target), which is no LoRA"),
        (["fast", "--as-lora", "-1"], "the rank of a LoRA is -1"),
        (["fast", "--as-lora", "2", "--begin", "runs/x"], "leave out --begin, or --as-lora"),
        (["moments", "--batch", "1"], "one sample is no group to compare: use a larger --batch"),
        (["fast", "--teacher", "nowhere"], "no model is called 'nowhere'"),
    ],
)
def test_what_cannot_be_is_one_line(words, said, place, tmp_path, capsys):
    base = ["--teacher", str(place / "teacher.safetensors"), "--out", str(tmp_path / "run"), "--updates", "1", "--batch", "4"]
    with pytest.raises(SystemExit):
        main(["distill", words[0], *base, *words[1:]])
    assert said in capsys.readouterr().err


def test_nets_that_are_not_their_input_without_noise_are_refused():
    net = MLP(MLPConfig(dim=2, width=16, depth=1))
    with pytest.raises(UserError, match=r"'x0' is not: train the teacher with velocity\(\), v\(\) or edm\(\)"):
        student_of(Denoiser(net, schedules.edm(), rules.x0()), ect())
    with pytest.raises(UserError, match="says nothing about x0 at t = "):
        student_of(Denoiser(net, schedules.flow(), rules.eps()), ect())
