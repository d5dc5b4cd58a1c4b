"""Opening models of others: memory, types, pickles, and files that are damaged or made to harm."""

import json
import os
import pickle
import re
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from published import sd1
from safetensors.torch import load_file, save_file
from torch.utils._pytree import tree_leaves, tree_map_only

import reverie
from reverie.cli import main
from reverie.errors import UserError
from reverie.systems import memory
from reverie.systems.foreign import open_folder
from reverie.systems.opening import Opening
from reverie.systems.placing import compiled, placed
from reverie.systems.shipped import open_model
from reverie.tasks.generate import generate, run
from reverie.tasks.settings import settle

UNET = Path("unet/diffusion_pytorch_model.safetensors")
PLAIN = {"precision": "float32"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("sd1")
    sd1().save_pretrained(place)
    return place


@pytest.fixture
def copy(folder, tmp_path):
    """A folder of its own: links, of which a test may replace some."""
    for file in folder.glob("**/*"):
        if file.is_file():
            (tmp_path / file.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            os.link(file, tmp_path / file.relative_to(folder))
    return tmp_path


def drawn(folder, **opening):
    settings = {"seed": 1, "steps": 2, "height": 32, "width": 48}
    return np.asarray(generate(open_model(str(folder), Opening(**opening)), "a red fox", **settings)[0], np.int16)


@pytest.mark.parametrize("offload", ["parts", "blocks"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_weights_that_come_and_go_change_no_bit(folder, offload, precision, monkeypatch):
    monkeypatch.setattr("reverie.systems.placing.SMALL", 100)
    assert (drawn(folder, precision=precision) == drawn(folder, precision=precision, offload=offload)).all()


@pytest.mark.parametrize(("offload", "left"), [("parts", {"codec"}), ("blocks", {"codec"})])
def test_only_what_is_used_is_present(folder, offload, left, monkeypatch):
    """Weights rest in bfloat16 in the file; those in use are float32."""
    monkeypatch.setattr("reverie.systems.placing.SMALL", 100)
    system = open_folder(folder)
    system.denoiser.to(torch.bfloat16)
    system.codec.to(torch.bfloat16)
    system = placed(system, Opening(offload=offload, **PLAIN))
    most = 0
    for _ in run(system, settle(system, "a fox", {"steps": 2, "height": 32, "width": 32})):
        present = {part: wide(getattr(system, part)) for part in ("denoiser", "codec")}
        most = max(most, sum(present.values()))
    assert {part for part, share in present.items() if share > 0.5} == left
    assert offload == "parts" or most < 1.2


@pytest.mark.parametrize("offload", ["parts", "blocks"])
def test_all_that_a_resting_module_is_given_is_brought_where_it_computes(folder, offload, monkeypatch):
    """Also what is given by name, as transformers' modules give everything."""
    brought = []

    def bring(kind, function, given):
        return tree_map_only(kind, lambda v: brought.append(function(v).clone()) or brought[-1], given)

    def check(module, given, by_name):
        found = [v for v in tree_leaves((given, by_name)) if isinstance(v, torch.Tensor)]
        asked.append(len(by_name))
        assert all(any(v is b for b in brought) for v in found), type(module).__name__

    asked = []
    monkeypatch.setattr("reverie.systems.placing.SMALL", 100)
    monkeypatch.setattr("reverie.systems.placing.tree_map_only", bring)
    system = open_model(str(folder), Opening(offload=offload, **PLAIN))
    for part in (system.denoiser, system.codec, *system.encoders.values()):
        for module in [m for m in part.modules() if m._forward_pre_hooks]:
            module.register_forward_pre_hook(check, with_kwargs=True)
    generate(system, "a fox", steps=1, height=32, width=32)
    assert sum(asked)  # there are such modules


def test_a_refiner_rests_while_the_base_is_used(folder, monkeypatch):
    monkeypatch.setattr("reverie.systems.placing.SMALL", 100)
    base, refiner = open_folder(folder), open_folder(folder)
    for system in (base, refiner):
        system.denoiser.to(torch.bfloat16)
    whole = placed(replace(base, refiner=refiner), Opening(offload="parts", **PLAIN))
    shares = []
    for _ in run(whole, settle(whole, "a fox", {"steps": 4, "height": 32, "width": 32, "handover": 0.5})):
        shares.append((wide(base.denoiser) > 0.5, wide(refiner.denoiser) > 0.5))
    assert shares[0] == (True, False) and (False, True) in shares and (True, True) not in shares
    assert shares[-1] == (False, False)  # the codec is in use


def test_what_overflows_in_float16_is_computed_in_bfloat16(folder):
    system = open_model(str(folder), Opening(precision="float16"))
    assert (system.denoiser.autocast, system.codec.autocast) == (torch.float16, torch.bfloat16)


def wide(part):
    """The share of a part's numbers that are in float32."""
    every = [p for p in part.parameters()]
    return sum(p.numel() for p in every if p.dtype == torch.float32) / sum(p.numel() for p in every)


def test_half_precision_is_near_and_tiles_too(folder):
    image = drawn(folder, **PLAIN)
    assert 0 < np.abs(image - drawn(folder, precision="bfloat16")).mean() < 8
    assert 0 < np.abs(image - drawn(folder, tile=32, **PLAIN)).mean() < 8
    with pytest.raises(UserError, match="cannot be used here"):
        drawn(folder, device="tpu:7")


def test_a_model_that_does_not_fit_is_named_before_it_is_loaded(folder, monkeypatch):
    assert memory.available(torch.device("cpu")) > 1e8
    monkeypatch.setattr(memory, "available", lambda place: 100_000)
    monkeypatch.setattr("reverie.systems.shipped.open_folder", lambda *_: pytest.fail("loaded"))
    with pytest.raises(
        UserError, match=r"needs about 0\.0 GB of memory.*try --precision bfloat16 or --offload parts or --offload blocks"
    ):
        open_model(str(folder), Opening(**PLAIN))


def test_the_estimate_counts_the_picture(folder, monkeypatch):
    system = open_folder(folder)
    monkeypatch.setattr(memory, "available", lambda place: 1e8)
    large = replace(system, defaults=replace(system.defaults, size=(200, 100)))
    with pytest.raises(UserError, match=r"needs about 0\.1 GB of memory"):
        memory.check({}, Opening(**PLAIN), "model", memory.drawing(large))
    memory.check({}, Opening(**PLAIN), "model", memory.drawing(large, tile=64))


@pytest.mark.parametrize(("precision", "size"), [("float32", 4), ("bfloat16", 2)])
def test_the_estimate_counts_what_is_there_at_once(folder, precision, size, monkeypatch):
    """Every part in the type it is held in; where parts rest the largest of them, where blocks do a tenth of that."""
    parts, monkey = memory.counted(folder, Opening()), monkeypatch.setattr
    numbers = {p.parent.name: sum(v.numel() for v in load_file(p).values()) for p in folder.glob("*/*.safetensors")}
    assert parts == numbers
    bytes_of = {part: (4 if part == "text_encoder" else size) * count for part, count in parts.items()}
    for offload, present in (("none", sum), ("parts", max), ("blocks", lambda sizes: 0.1 * max(sizes))):
        need = present([*bytes_of.values()])
        monkey(memory, "available", lambda place, free=need: 1.16 * free)
        memory.check(parts, Opening(precision=precision, offload=offload), "model")
        monkey(memory, "available", lambda place, free=need: 1.14 * free)
        with pytest.raises(UserError, match="model needs about"):
            memory.check(parts, Opening(precision=precision, offload=offload), "model")


def test_the_estimate_counts_what_is_loaded(folder, copy, tmp_path):
    """Of shards all, of a checker that nobody asks nothing, of a pickle what its size tells."""
    whole = memory.counted(folder, Opening())
    (copy / "safety_checker").mkdir()
    save_file({"a": torch.zeros(100)}, copy / "safety_checker" / "model.safetensors")
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").unlink()
    (copy / "model_index.json").write_text(json.dumps(index | {"safety_checker": ["x", "y"]}))
    weights = load_file(copy / "unet" / "diffusion_pytorch_model.safetensors")
    torch.save(weights, copy / "unet" / "diffusion_pytorch_model.bin")
    (copy / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    found = memory.counted(copy, Opening(allow_pickle=True))
    assert found.keys() == whole.keys() and found["vae"] == whole["vae"]
    assert whole["unet"] <= found["unet"] < 2 * whole["unet"]


def test_the_estimate_of_a_single_file_knows_its_parts_and_those_beside_it(folder, tmp_path):
    """T5 beside a large file of Stable Diffusion 3, and nothing twice."""
    sizes = {"model.diffusion_model.a": 7, "first_stage_model.b": 5, "text_encoders.clip_l.c": 3, "text_encoders.clip_g.c": 4}
    path = tmp_path / "model.safetensors"
    save_file({k: torch.zeros(n) for k, n in (sizes | {"model_ema.a": 7}).items()}, path)
    inside = {"net": 7, "vae first_stage_model": 5, "text_encoder text_encoders.clip_l": 3, "text_encoder text_encoders.clip_g": 4}
    assert memory.counted(path, Opening()) == memory.counted(path, Opening(parts=str(folder))) == inside
    save_file({"double_blocks.0.a": torch.zeros(7)}, path)
    near = memory.counted(folder, Opening())
    assert memory.counted(path, Opening(parts=str(folder))) == {"net": 7} | {k: near[k] for k in ("vae", "text_encoder")}


@pytest.mark.parametrize(
    ("count", "inside", "size"), [(10**9, torch.bfloat16, 2), (10**9 - 1, torch.bfloat16, 4), (10**10, None, 4)]
)
def test_encoders_are_counted_in_the_type_they_are_held_in(count, inside, size):
    assert memory.width(count, inside, hears=True) == size


def test_memory_that_runs_out_names_what_helps(folder):
    system = open_model(str(folder))
    system.denoiser.net.forward = lambda *_, **__: torch.empty(1 << 60)
    with pytest.raises(UserError, match=r"memory ran out while drawing 32x32: try --batch 2, --tile 512, --offload blocks"):
        generate(system, "a fox", count=4, height=32, width=32)


def test_pickles_are_refused_and_read_apart_where_they_are_allowed(copy):
    tensors = load_file(copy / UNET)
    image = drawn(copy, **PLAIN)
    (copy / UNET).unlink()
    torch.save({"state_dict": tensors}, copy / "unet/diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match=r"is a pickle, which may run anything .*--allow-pickle"):
        drawn(copy)
    assert (drawn(copy, allow_pickle=True, **PLAIN) == image).all()


class Harm:
    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.system, (f"touch {self.place}",)


@pytest.mark.parametrize("how", ["torch", "plain"])
def test_a_pickle_that_runs_something_does_not(copy, how, tmp_path):
    (copy / UNET).unlink()
    bad, mark = copy / "unet/diffusion_pytorch_model.bin", tmp_path / "harmed"
    held = {"conv_in.weight": torch.zeros(2), "harm": Harm(mark)}
    torch.save(held, bad) if how == "torch" else bad.write_bytes(pickle.dumps(held))
    with pytest.raises(
        UserError,
        match=r"model.bin is refused: (it asks for posix.system, which is no tensor|Unsupported op)",
    ):
        drawn(copy, allow_pickle=True)
    assert not mark.exists()


class Removal(Harm):
    """What no watch forbids: so it must not even be called."""

    def __reduce__(self):
        return os.remove, (str(self.place),)


def test_a_pickle_is_opened_for_its_tensors_alone(copy):
    (copy / UNET).unlink()
    (copy / "kept").touch()
    torch.save({"conv_in.weight": torch.zeros(2), "harm": Removal(copy / "kept")}, copy / "unet/diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match="is refused"):
        drawn(copy, allow_pickle=True)
    assert (copy / "kept").exists()


def _changed(path, change):
    tensors = load_file(path)
    change(tensors)
    path.unlink()
    save_file(tensors, path)


def _cut(path):
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[:-1])


def _header(path, header, body=b""):
    said = json.dumps(header).encode() if isinstance(header, dict) else header
    path.unlink()
    path.write_bytes(struct.pack("<Q", len(said)) + said + body)


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HOSTILE = {
    "a byte short": (_cut, "is not a whole safetensors file"),
    "tensors that overlap": (lambda p: _header(p, {"a": ONE, "b": ONE}, b"\0" * 8), "is not a whole safetensors file"),
    "a header without end": (lambda p: _header(p, b"{" * 1000), "is not a whole safetensors file"),
    "a header of terabytes": (lambda p: (p.unlink(), p.write_bytes(struct.pack("<Q", 1 << 42) + b"{}")), "is not a whole"),
    "a size that lies": (lambda p: _header(p, {"a": ONE | {"shape": [1 << 40]}}, b"\0" * 8), "is not a whole safetensors file"),
    "names of python": (
        lambda p: _changed(p, lambda t: t.update({"time_embed.__class__.__base__.__getattribute__": torch.zeros(1)})),
        r"unknown: time_embed.__class__",
    ),
    "names of folders": (
        lambda p: _changed(p, lambda t: t.update({"../../etc/passwd": torch.zeros(1)})),
        r"unknown: \.\./\.\./etc",
    ),
    "not a number": (lambda p: _changed(p, lambda t: t["conv_in.bias"].fill_(torch.nan)), "conv_in.bias holds NaN or infinity"),
    "infinity": (lambda p: _changed(p, lambda t: t["conv_in.bias"].fill_(torch.inf)), "conv_in.bias holds NaN or infinity"),
    "whole numbers": (lambda p: _changed(p, lambda t: t.update({"conv_in.bias": torch.zeros(32, dtype=torch.int8)})), "int8"),
    "another shape": (
        lambda p: _changed(p, lambda t: t.update({"conv_in.bias": torch.zeros(7)})),
        "of another shape: conv_in.bias",
    ),
    "a tensor less": (lambda p: _changed(p, lambda t: t.pop("conv_in.bias")), "207 of 208 tensors applied; missing: conv_in.bias"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_damaged_and_hostile_weights(copy, name):
    harm, said = HOSTILE[name]
    harm(copy / UNET)
    with pytest.raises(UserError, match=said):
        open_folder(copy)


@pytest.mark.parametrize("part", ["vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"])
def test_no_part_may_hold_what_is_no_number(copy, part):
    _changed(copy / part, lambda t: next(iter(t.values())).view(-1)[:1].fill_(torch.nan))
    with pytest.raises(UserError, match="holds NaN or infinity: the file is damaged"):
        open_folder(copy)


def test_a_million_tensors_take_no_more_than_their_names(tmp_path):
    """In a process of its own, whose memory is bounded."""
    entries = {f"t{k}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for k in range(1_000_000)}
    (tmp_path / "many.safetensors").touch()
    _header(tmp_path / "many.safetensors", entries)
    code = (
        "import resource, sys; from reverie.cli import main; import reverie.systems.shipped; "
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; "
        "import atexit; atexit.register(lambda: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)); "
        f"main(['generate', '--model', {str(tmp_path / 'many.safetensors')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "1000000 tensors, which no model has" in done.stderr, done.stderr[-500:]
    assert int(done.stdout.split()[-1]) < 1_500_000  # kilobytes


CONFIGS = {
    "unet/config.json": [
        ("[]", "holds no object"),
        ("{", "cannot be read as JSON"),
        ("{}", "describes no such net"),
        (None, "is not there"),
    ],
    "model_index.json": [('{"_class_name": "StableDifusionPipeline"}', "Did you mean 'StableDiffusionPipeline'")],
    "scheduler/scheduler_config.json": [
        ('{"beta_schedule": "mine"}', "beta_schedule is 'mine'"),
        ('{"prediction_type": 3}', "is '3'"),
    ],
    "vae/config.json": [('{"in_channels": "three"}', "describes no such net")],
}


@pytest.mark.parametrize(("name", "k"), [(name, k) for name in CONFIGS for k in range(len(CONFIGS[name]))])
def test_configurations_that_cannot_be(copy, name, k):
    text, said = CONFIGS[name][k]
    (copy / name).unlink()
    if text is not None:
        (copy / name).write_text(text)
    with pytest.raises(UserError, match=said):
        open_folder(copy)


def test_shards_are_read_and_those_that_lead_elsewhere_refused(copy):
    tensors, image = load_file(copy / UNET), drawn(copy, **PLAIN)
    (copy / UNET).unlink()
    names = sorted(tensors)
    places = {name: f"diffusion_pytorch_model-0000{1 + (i % 2)}-of-00002.safetensors" for i, name in enumerate(names)}
    for shard in set(places.values()):
        save_file({n: tensors[n] for n in names if places[n] == shard}, copy / "unet" / shard)
    index = copy / "unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    assert (drawn(copy, **PLAIN) == image).all()
    (copy / "unet" / places[names[0]]).unlink()
    with pytest.raises(UserError, match=r"is not there: .*download of the model is not complete"):
        open_folder(copy)
    index.write_text(json.dumps({"weight_map": {names[0]: "../../other.safetensors"}}))
    with pytest.raises(UserError, match="no safetensors file beside it"):
        open_folder(copy)


def test_what_fits_is_used_where_that_is_wanted(copy, capsys):
    _changed(copy / UNET, lambda t: (t.pop("conv_in.bias"), t.update(extra=torch.zeros(1))))
    main(
        [
            "generate",
            "--model",
            str(copy),
            "--out",
            str(copy / "out"),
            "--partial",
            "--steps",
            "1",
            "--height",
            "32",
            "--width",
            "32",
        ]
    )
    said = capsys.readouterr().err
    assert "unet: 207 of 208 tensors applied; missing: conv_in.bias; unknown: extra" in said and "vae: 124 of 124 tensors" in said
    stem = open_folder(copy, Opening(partial=True)).denoiser.net.stem
    assert not stem.bias.any() and stem.weight.any()


def test_convert_writes_safetensors_that_give_the_same_picture(folder, tmp_path, capsys):
    main(["convert", str(folder), str(tmp_path / "again")])
    assert not list((tmp_path / "again").glob("**/*.bin"))
    assert (drawn(folder, **PLAIN) == drawn(tmp_path / "again", **PLAIN)).all()
    with pytest.raises(SystemExit):
        main(["convert", str(folder), str(tmp_path / "again")])
    assert "is there already" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["convert", "reverie-avatars", str(tmp_path / "other")])
    assert "reverie-avatars cannot be written for diffusers" in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_blocks_that_are_compiled_draw_the_same(folder):
    """Traced for real, by the backend that needs no compiler of C."""
    image, system = drawn(folder, **PLAIN), open_model(str(folder), Opening(**PLAIN))
    compiled(system.denoiser, backend="eager")
    before = torch._dynamo.utils.counters["frames"]["ok"]
    again = np.asarray(generate(system, "a red fox", seed=1, steps=2, height=32, width=48)[0], np.int16)
    assert np.abs(image - again).max() <= 1 and torch._dynamo.utils.counters["frames"]["ok"] > before
    assert not Opening().compiles or torch.cuda.is_available()


def test_what_is_compiled_and_computed_in_what(folder, monkeypatch):
    asked = []
    monkeypatch.setattr("reverie.systems.placing.compiled", asked.append)
    for choice in ("auto", "no", "yes"):
        system = open_model(str(folder), Opening(compile=choice, device="cpu", **PLAIN))
    assert asked == [system.denoiser]
    assert [Opening(precision=p).inside for p in ("float32", "bfloat16", "float16")] == [None, torch.bfloat16, torch.float16]
    monkeypatch.setattr(Opening, "place", torch.device("cuda"))
    found = [Opening(compile=c, offload=o).compiles for c in ("auto", "no", "yes") for o in ("none", "parts", "blocks")]
    assert found == [True, False, False, False, False, False, True, True, True]


def test_a_model_is_loaded_as_it_is_asked(folder):
    system = reverie.load(str(folder), precision="float32", offload="blocks")
    image = system.generate("a red fox", seed=1, steps=2, height=32, width=48)[0]
    assert (np.asarray(image, np.int16) == drawn(folder, **PLAIN)).all()
    with pytest.raises(UserError, match=r"load has no setting 'ofload'\. Did you mean 'offload'"):
        reverie.load(str(folder), ofload="blocks")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"offload": "block"}, "offload is 'block'. Did you mean 'blocks'?"),
        ({"precision": "half"}, "precision is 'half'. Known: auto, float32"),
        ({"precision": None}, "precision is 'None' (NoneType); it must be text"),
        ({"tile": -1}, "tile is -1; it is the side"),
        ({"tile": "a"}, "tile is 'a' (str); it must be a whole number"),
        ({"parts": "nowhere"}, "parts is 'nowhere', which is no folder"),
        ({"device": "toaster"}, "no such kind of device): take one of auto, cpu"),
    ],
)
def test_how_a_model_cannot_be_opened_is_said_before_it_is(monkeypatch, given, said):
    monkeypatch.setattr("reverie.systems.shipped.load", lambda *_: pytest.fail("loaded"))
    with pytest.raises(UserError, match=re.escape(said)):
        reverie.load("reverie-avatars", **given)


def test_a_name_that_is_no_text_is_said():
    with pytest.raises(UserError, match="a model is None"):
        reverie.load(None)
