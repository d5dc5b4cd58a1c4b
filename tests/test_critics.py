"""Critics of few-step methods: what they learn, whom they teach, and what they cannot look at."""

from dataclasses import replace

import pytest
import torch
from small import small_system

from reverie.denoiser import Denoiser
from reverie.distill import Teacher, add, critics, denoising_gan, ladd
from reverie.distill.shown import Shown
from reverie.errors import UserError
from reverie.nets.mlp import MLP, MLPConfig
from reverie.process import rules, schedules
from reverie.train.loop import Key
from reverie.train.objective import log_normal

SYSTEM = small_system()
RAMP = torch.linspace(-1, 1, 16).expand(3, 16, 16)
CRITICS = {
    "patches": lambda shown: critics.Patches(3),
    "features": lambda shown: critics.features_of(SYSTEM.denoiser, shown, log_normal(-1.0, 0.5)),
}


def shown(count=8, step=0):
    made = torch.Generator().manual_seed(step)
    cond = SYSTEM.prompt_encoder.prompts(["a man"] * count)
    x0, n = (torch.randn(count, 3, 16, 16, generator=made) for _ in range(2))
    return Shown(x0=0.2 * x0 + RAMP, n=n, key=Key(3, step), cond=cond, teacher=Teacher(SYSTEM.denoiser))


@pytest.mark.parametrize("name", CRITICS)
def test_a_critic_learns_what_is_real_and_the_student_is_led_there(name):
    torch.manual_seed(0)
    critic = CRITICS[name](shown())
    optimiser = torch.optim.Adam(critic.parameters(), 3e-3)
    for step in range(60):
        seen = shown(step=step)
        optimiser.zero_grad()
        critics.learns(critic, seen.x0, seen.x0 - 2 * RAMP, seen, r1=0.1).mean().backward()
        optimiser.step()
    seen = shown(step=99)
    real, made = critic(seen.x0, seen, "real"), critic(seen.x0 - 2 * RAMP, seen, "made")
    assert (real > 0).all() and (made < 0).all()
    x = (seen.x0 - 2 * RAMP).requires_grad_()
    optimiser.zero_grad()
    critics.fools(critic, x, seen).sum().backward()
    assert (x.grad * RAMP).mean() < 0, "where real ones lie"
    assert all(p.grad is None for p in critic.parameters()), "it does not learn to be fooled"
    assert all(p.grad is None for p in SYSTEM.denoiser.parameters())


def test_what_makes_a_critic_flat_is_counted():
    critic, seen = CRITICS["patches"](shown()), shown()
    plain, flat = (critics.learns(critic, seen.x0, seen.x0 - 2 * RAMP, seen, r1) for r1 in (0.0, 5.0))
    assert (flat > plain).all()


def test_a_critic_of_steps_sees_both_ends_and_when():
    method, seen = denoising_gan(4, "quantiles()"), shown(16)
    student = replace_path(SYSTEM.denoiser)
    critic = method.beside(student, seen)
    looked = []
    critic.register_forward_pre_hook(lambda module, given: looked.append(given[0].detach()))
    loss = method(student, seen)
    assert loss.shape == (16,) and len(looked) == 4  # one to be fooled, two to learn from, one to be flat
    real, made = looked[1], looked[2]
    assert made.shape == (16, 7, 16, 16) and torch.equal(made[:, 3:], real[:, 3:]) and not torch.equal(made[:, :3], real[:, :3])
    times = real[:, 6, 0, 0]
    assert len(times.unique()) == 4, "every step of the grid"
    last = times == times.min()
    torch.testing.assert_close(real[last, :3], seen.x0[last], msg="the last step ends at the point itself")


def replace_path(model):
    return Denoiser(model.net, model.path, model.rule, model.clock, sigma_data=model.sigma_data)


def test_what_a_critic_cannot_look_at():
    points = replace(shown(), x0=torch.randn(8, 2), n=torch.randn(8, 2), cond=None)
    flat = Denoiser(MLP(MLPConfig(dim=2, width=16, depth=1)), schedules.flow(), rules.velocity())
    points = replace(points, teacher=Teacher(flat))
    for method in (add(), denoising_gan()):
        with pytest.raises(UserError, match=r"judges pictures, and these points are of shape \(2,\)"):
            method.beside(flat, points)
    with pytest.raises(UserError, match="this model has no attention"):
        ladd().beside(flat, points)
    with pytest.raises(UserError, match="r1 -1"):
        denoising_gan(r1=-1)
