"""The table of names: every name of every tool finds its solver and its grid, and the way back."""

import json
import subprocess
import sys

import pytest
import torch
from paths import mixture

from reverie.card import parse, rebuild
from reverie.cli import main
from reverie.errors import UserError
from reverie.process import schedules
from reverie.process.grids import GRIDS, karras
from reverie.rng import Rng
from reverie.solve import DDIM, SOLVERS, Churn, Exponential, Renoise, Single, called, facts, find, heun, lms, named, sample, unipc
from reverie.solve.names import KNOWN, LABELS, ambiguity, grid_called, grid_of
from reverie.solve.table import ABSENT, ROWS, SCHEDULES, TOOLS, listed

# the lists of samplers of A1111 1.10, ComfyUI 0.27 and InvokeAI 6.14
LISTS = {
    "a1111": (
        "DPM++ 2M; DPM++ SDE; DPM++ 2M SDE; DPM++ 2M SDE Heun; DPM++ 2S a; DPM++ 3M SDE; Euler a; Euler; LMS; Heun; DPM2; DPM2 a; "
        "DPM fast; DPM adaptive; Restart; DDIM; DDIM CFG++; PLMS; UniPC; LCM"
    ),
    "comfyui": (
        "euler; euler_cfg_pp; euler_ancestral; euler_ancestral_cfg_pp; heun; heunpp2; exp_heun_2_x0; exp_heun_2_x0_sde; dpm_2; "
        "dpm_2_ancestral; lms; dpm_fast; dpm_adaptive; dpmpp_2s_ancestral; dpmpp_2s_ancestral_cfg_pp; dpmpp_sde; dpmpp_sde_gpu; "
        "dpmpp_2m; dpmpp_2m_cfg_pp; dpmpp_2m_sde; dpmpp_2m_sde_gpu; dpmpp_2m_sde_heun; dpmpp_2m_sde_heun_gpu; dpmpp_3m_sde; "
        "dpmpp_3m_sde_gpu; ddpm; lcm; ipndm; ipndm_v; deis; res_multistep; res_multistep_cfg_pp; res_multistep_ancestral; "
        "res_multistep_ancestral_cfg_pp; gradient_estimation; gradient_estimation_cfg_pp; er_sde; seeds_2; seeds_3; sa_solver; "
        "sa_solver_pece; ddim; uni_pc; uni_pc_bh2"
    ),
    "invokeai": (
        "ddim; ddpm; deis; deis_k; lms; lms_k; pndm; heun; heun_k; euler; euler_k; euler_a; kdpm_2; kdpm_2_k; kdpm_2_a; "
        "kdpm_2_a_k; dpmpp_2s; dpmpp_2s_k; dpmpp_2m; dpmpp_2m_k; dpmpp_2m_sde; dpmpp_2m_sde_k; dpmpp_3m; dpmpp_3m_k; dpmpp_sde; "
        "dpmpp_sde_k; er_sde; unipc; unipc_k; lcm; tcd"
    ),
}
GRID_LISTS = {
    "a1111": "Uniform; Karras; Exponential; Polyexponential; SGM Uniform; KL Optimal; Align Your Steps; Simple; Normal; DDIM; Beta",
    "comfyui": "simple; sgm_uniform; karras; exponential; ddim_uniform; beta; normal; linear_quadratic; kl_optimal",
}


@pytest.mark.parametrize(("tool", "name"), [(tool, name) for tool, names in LISTS.items() for name in listed(names)])
def test_every_sampler_that_a_tool_lists_is_here_or_has_a_reason(tool, name):
    try:
        assert find(f"{tool}:{name}").row.name in SOLVERS
    except UserError as error:
        assert ABSENT[name.casefold()] in str(error)


def test_every_grid_that_a_tool_lists_is_here():
    for tool, names in GRID_LISTS.items():
        for name in listed(names):
            assert rebuild(parse(LABELS[tool][name.casefold()]), GRIDS)(schedules.vp(), 3).shape == (4,)


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_name_finds_its_solver_and_the_way_back(row, tool):
    for name in row.names(tool):
        for said in (f"{tool}:{name}", f" {tool.upper()}: {name.upper() if tool != 'diffusers' else name} "):
            assert find(said) == (row, None)
        # where two tools share a name without a prefix, the first tool's is meant
        first = next(KNOWN[t][name.casefold()] for t in TOOLS if name.casefold() in KNOWN[t])
        assert find(name).row is SOLVERS.get(name.casefold(), first)
    if row.names(tool):
        assert find(f"{tool}:{called(row.name, tool)}") == (row, None)


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.grid)
def test_a_grid_in_a_name_is_found_and_said(schedule, tool):
    labels = listed(getattr(schedule, tool))
    for row in ROWS:
        name = called(row.name, tool, schedule.grid)
        assert (name is not None) == bool(labels and row.names(tool))
        if name is not None:
            assert find(f"{tool}:{name}") == (row, schedule.grid)
    for label in labels:
        assert grid_of(label, tool) == schedule.grid
    if labels:
        assert grid_called(schedule.grid, tool) == labels[0]


def test_names_that_two_tools_mean_differently():
    """Ours come first, then the tools in their order; a new clash is a decision, and is made here."""
    clashes = {
        name
        for i, first in enumerate(TOOLS)
        for second in TOOLS[i + 1 :]
        for name in KNOWN[first].keys() & KNOWN[second].keys()
        if KNOWN[first][name] is not KNOWN[second][name]
    }
    assert clashes == {"unipc", "deis"}
    assert [find(n).row.name for n in ("unipc", "invokeai:unipc", "deis", "invokeai:deis")] == [
        "unipc-3-bh1",
        "unipc-2",
        "deis-3",
        "deis-2",
    ]
    ours = {name for tool in TOOLS for name, row in KNOWN[tool].items() if name in SOLVERS and SOLVERS[name] is not row}
    assert not ours


@pytest.mark.parametrize(
    ("name", "solver", "grid"),
    [
        ("DPM++ 2M Karras", Exponential(2, published=True), "karras()"),
        ("DPM++ 2M", Exponential(2, published=True), None),
        ("k_dpmpp_2m_ka", Exponential(2, published=True), "karras()"),
        ("dpmpp_2m_karras", Exponential(2, published=True), "karras()"),
        ("dpmpp-2m align_your_steps", Exponential(2, published=True), "align_your_steps()"),
        ("DPM++ SDE Karras", Single(2, eta=1.0), "karras()"),
        ("DPM++ 2M SDE Exponential", Exponential(2, 1.0, published=True), "exponential()"),
        ("DPM2 a Karras", Renoise(Single(2, of="noise")), "karras()"),
        ("lms_k", lms(), "karras()"),
        ("Euler a SGM Uniform", Renoise(named("euler")[0]), "sgm_uniform()"),
        ("euler_ancestral sgm_uniform", Renoise(named("euler")[0]), "sgm_uniform()"),
        ("comfyui:heun beta", heun(), "beta()"),
        ("a1111:Heun Beta", heun(), "beta_ratios()"),
        ("DDIM", DDIM(), None),
        ("DDIM DDIM", DDIM(), "ddim_uniform()"),
        ("UniPCMultistepScheduler", unipc(2), None),
        ("UniPCMultistepScheduler(solver_type='bh2', solver_order=2)", unipc(2), None),
        ("unipcmultistepscheduler(solver_order=3)", unipc(3), None),
        ("DPMSolverMultistepScheduler(use_karras_sigmas=True, solver_order=3)", Exponential(3, published=True), "karras()"),
        ("diffusers:DDIMScheduler(timestep_spacing='trailing')", DDIM(), "trailing()"),
        (" Diffusers: DEISMultistepScheduler(solver_order=3, use_karras_sigmas=True)", Exponential(3, of="noise"), "karras()"),
        ("EulerDiscreteScheduler(use_karras_sigmas=False)", named("euler")[0], None),
    ],
)
def test_names_people_ask_for(name, solver, grid):
    found, its = named(name)
    assert found == solver
    assert (its and its.card) == (grid and rebuild(parse(grid), GRIDS).card)


UNKNOWN = {
    "dpmpp2m": "Did you mean 'dpmpp-2m'",
    "DPM++ 2N": r"Did you mean 'DPM\+\+ 2M'",
    "xyzzy": r"no solver is called 'xyzzy'. `reverie solvers` lists them",
    "": "no solver is called ''",
    "invokeai:DPM++ 2M": "no solver is called",
    "tool:euler": "no solver is called 'tool:euler'",
    "DPM fast": "'DPM fast' is not here: it chooses its own grid",
    "euler_cfg_pp": "is not here: CFG",
    "DPMSolverMultistepScheduler(solver_order=4)": "of this class there are DPMSolver",
    "DPMSolverScheduler(solver_order=4)": "`reverie solvers` lists",
    "UniPCMultistepScheduler(order=3)": "'order' chooses no solver. Did you mean 'solver_order'",
    "UniPCMultistepScheduler(3)": "said by name, as in UniPCMultistepScheduler",
    "UniPCMultistepScheduler(": "is not a constructor",
    "DDIMScheduler(timestep_spacing='x')": "grid: unknown name 'x'",
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_names_are_refused_with_the_nearest(name):
    with pytest.raises(UserError, match=UNKNOWN[name]):
        named(name)


def test_a_name_that_tools_mean_differently_is_told():
    assert (
        ambiguity("DEIS") == "'DEIS' is taken as deis-3, as comfyui means it; invokeai means deis-2: write 'invokeai:DEIS' for it"
    )
    for plain in ("comfyui:deis", "dpmpp-2m", "DPM++ 2M Karras", "heun", "tuned", "DDIMScheduler()", "no such name"):
        assert ambiguity(plain) == ""


MEASURED = {
    "ddim": (1, 1, False),
    "ddpm-learned": (1, 1, True),
    "rk4": (4, 4, False),
    "dpmpp-3s": (3, 3, False),
    "seeds-2": (2, 2, True),
    "dpmpp-3m": (3, 1, False),  # its first two steps take two
    "unipc-2": (3, 1, False),
    "dpm2-a": (1, 2, True),
}


def test_facts_are_measured():
    for name, told in MEASURED.items():
        assert facts(SOLVERS[name].make()) == told, name


def test_facts_of_a_solver_around_another():
    assert facts(Churn(heun(), amount=5, steps=10)) == (2, 2, True)


def test_rows_that_are_one_solver_are_meant_to_be():
    same = [(a.name, b.name) for i, a in enumerate(ROWS) for b in ROWS[i + 1 :] if a.make() == b.make()]
    assert same == [("dpmpp-sde", "seeds-2")]
    assert len(SOLVERS) == len(ROWS)


def command(capsys, *arguments):
    """Exit code, stdout and stderr of `reverie ...`."""
    try:
        main(arguments)
        code = 0
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def test_the_command_lists_every_solver(capsys):
    code, out, _ = command(capsys, "solvers")
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == ["name", *SOLVERS]
    code, out, _ = command(capsys, "solvers", "--json")
    found = json.loads(out)
    assert code == 0 and [r["name"] for r in found] == list(SOLVERS)
    assert list(found[0]) == ["name", "aliases", "family", "order", "evaluations_per_step", "stochastic", "note"]
    assert found[4]["aliases"]["a1111"] == ["Euler", "k_euler"]


def test_the_command_says_what_a_name_means(capsys):
    code, out, _ = command(capsys, "solvers", "DPM++ 3M SDE Exponential")
    assert code == 0 and "dpmpp-3m-sde-published" in out and "grid: exponential()" in out and "note: in diffusers" in out
    assert "grid: that of the model" in command(capsys, "solvers", "Euler")[1]
    code, out, _ = command(capsys, "solvers", "lms_k", "--json")
    assert [(r["name"], r["grid"]) for r in json.loads(out)] == [("lms", "karras()")]
    code, _, err = command(capsys, "solvers", "eulerr")
    assert code == 2 and "Did you mean 'euler'?" in err


def test_the_command_knows_the_tuned_solvers(capsys):
    code, out, _ = command(capsys, "solvers", "tuned")
    assert code == 0 and "reverie tune" in out
    assert json.loads(command(capsys, "solvers", "Tuned", "--json")[1])[0]["name"] == "tuned"


def test_its_help_does_not_import_torch():
    code = "import sys; from reverie.cli import main\ntry: main(['solvers', '--help'])\nfinally: print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert told.stdout.strip().endswith("False")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_solvers_of_the_table_sample(row):
    """On the flow path, where nothing of the data is left at t = 1; those that draw noise say so where there is none to draw."""
    path, solver = schedules.flow(), row.make()
    model, rng = Toy(mixture(path)), Rng.of(0, 3, dtype=torch.float64)
    start, grid = path.prior((3, 2), rng=rng), karras()(path, 20)
    x = sample(model, start, grid, solver, rng=rng)
    assert bool(x.isfinite().all()) and float(x.abs().max()) < 4
    if facts(solver).stochastic:
        with pytest.raises(ValueError, match="give rng"):
            sample(model, start, grid, solver)
    else:
        assert torch.equal(sample(model, start, grid, solver), x)


class Toy:
    """The mixture, with a learnt variance."""

    def __init__(self, exact):
        self.path, self.exact = exact.path, exact

    def __call__(self, x, t, cond=None):
        return self.exact(x, t)

    def with_variance(self, x, t, cond=None):
        return self.exact(x, t), torch.zeros_like(x)
