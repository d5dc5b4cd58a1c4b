"""Schedules, noise laws, rules and solvers name the argument that cannot be."""

import math

import numpy as np
import pytest
from PIL import Image
from small import small_system

from reverie.adapt.when import When
from reverie.errors import UserError
from reverie.process import rules, schedules
from reverie.process.noise import offset, student_t
from reverie.solve import Ancestral, Churn, Maruyama, heun
from reverie.tasks import Edit, Restore, Vary, edit, generate, outpaint, upscale
from reverie.tasks.control import Show, Steer
from reverie.tasks.follow import Follow
from reverie.tasks.instruct import Instruct
from reverie.tasks.invert import Invert
from reverie.tasks.regions import Region, Regions

NAN = float("nan")
IMPOSSIBLE = {
    "vp: beta_min is -1": lambda: schedules.vp(beta_min=-1),
    "vp: beta_max is -20": lambda: schedules.vp(beta_max=-20),
    "vp: beta_max is nan": lambda: schedules.vp(beta_max=NAN),
    "scaled_linear: beta_min is -1": lambda: schedules.scaled_linear(-1),
    "sub_vp: beta_max is 0": lambda: schedules.sub_vp(beta_max=0),
    "cosine: s is -1": lambda: schedules.cosine(-1),
    "sigmoid: tau is -1": lambda: schedules.sigmoid(tau=-1),
    "sigmoid: start is 3 and end is -3; start must be less": lambda: schedules.sigmoid(3, -3),
    "ve: sigma_min is 60 and sigma_max is 50.0; sigma_min must be less": lambda: schedules.ve(sigma_min=60),
    "ve: sigma_max is nan": lambda: schedules.ve(sigma_max=NAN),
    "edm: sigma_max is -1": lambda: schedules.edm(sigma_max=-1),
    "edm: sigma_max is inf": lambda: schedules.edm(sigma_max=math.inf),
    "flow: shift .* is nan": lambda: schedules.flow(NAN),
    "linear_table: steps is 0": lambda: schedules.linear_table(steps=0),
    "linear_table: steps is 10.5; it must be a whole number": lambda: schedules.linear_table(10.5),
    "linear_table: last is 2": lambda: schedules.linear_table(last=2),
    "scaled_linear_table: first is -1": lambda: schedules.scaled_linear_table(first=-1),
    "cosine_table: steps is -3": lambda: schedules.cosine_table(-3),
    "cosine_table: s is 7": lambda: schedules.cosine_table(s=7),
    "edm: sigma_data is 0": lambda: rules.edm(0),
    "offset: strength is -1": lambda: offset(-1),
    "student_t: dimensions is nan": lambda: student_t(NAN),
    "Churn: amount is 8 and steps 0": lambda: Churn(heun(), amount=8, steps=0),
    "Churn: amount is -5": lambda: Churn(heun(), amount=-5, steps=4),
    "Churn: amount is nan": lambda: Churn(heun(), amount=NAN, steps=4),
    "Churn: low is 3, high 1": lambda: Churn(heun(), 8, 4, low=3, high=1),
    "Maruyama: eta is -1": lambda: Maruyama(-1),
    "Maruyama: eta is nan": lambda: Maruyama(NAN),
    "Ancestral: eta is 7": lambda: Ancestral(eta=7),
    "Ancestral: eta is nan": lambda: Ancestral(eta=NAN),
}


@pytest.mark.parametrize("said", IMPOSSIBLE)
def test_impossible_arguments_are_named(said):
    with pytest.raises(UserError, match=said):
        IMPOSSIBLE[said]()


SYSTEM, SEEN = small_system(), Image.new("RGB", (16, 16), "red")
NO_NUMBERS = {
    "resample is '2'; it is a whole number": lambda: Edit(SEEN, mask=SEEN, resample="2"),
    "resample is 0.5; it is a whole number": lambda: Edit(SEEN, mask=SEEN, resample=0.5),
    "height is 'abc'; it is a whole number": lambda: edit(SYSTEM, SEEN, height="abc"),
    "height is nan; it is a whole number": lambda: edit(SYSTEM, SEEN, height=NAN),
    "width is 16.5; it is a whole number": lambda: edit(SYSTEM, SEEN, width=16.5),
    "strength is '1'; it is a number": lambda: Invert(SEEN, strength="1"),
    "seed of the variation is 'a'": lambda: Vary("a"),
    "seed of the variation is 1.5": lambda: Vary(1.5),
    "share of the other seed is 'x'": lambda: Vary(1, "x"),
    "left is 8.5": lambda: outpaint(SYSTEM, SEEN, left=8.5),
    "left is '8'": lambda: outpaint(SYSTEM, SEEN, left="8"),
    "factor is '2'": lambda: upscale(SYSTEM, SEEN, factor="2"),
    "keep is 'x'": lambda: Instruct(SEEN, keep="x"),
    "prompt in its regions is 'x'": lambda: Regions((Region(SEEN, "a"),), ratio="x"),
    "cross is 'x'": lambda: Follow(cross="x"),
    "stress of 'man' is 'x'": lambda: Follow(stress={"man": "x"}),
    "weight of an adapter is x": lambda: When(weight="x"),
    "start of an adapter is 'x'": lambda: When(start="x"),
    "operator is a int": lambda: Restore(SEEN, 5),
    "method is a NoneType": lambda: Restore(SEEN, "grey()", method=None),
    r"shape \(0, 16, 3\) .* is no picture": lambda: edit(SYSTEM, np.zeros((0, 16, 3), np.uint8)),
    r"shape \(16, 16, 5\) .* is no picture": lambda: edit(SYSTEM, np.zeros((16, 16, 5), np.uint8)),
    "picture of 0x0 has no pixels": lambda: edit(SYSTEM, Image.new("RGB", (0, 0))),
    "give one for each of 1 controls": lambda: Steer((None,), (SEEN,), ("edges()", "edges()")),
    "takes are 5": lambda: Steer((None,), (SEEN,), 5),
    "take is 5, which is no hint": lambda: Steer((None,), (SEEN,), (5,)),
    "pictures are given for 5: name the hints": lambda: Steer((None,), ({5: SEEN},)),
    "2 image prompts have 1 pictures": lambda: Show((None, None), (SEEN,)),
    "tasks is a Edit: give a list": lambda: generate(SYSTEM, tasks=Edit(SEEN)),
}


@pytest.mark.parametrize("said", NO_NUMBERS)
def test_tasks_refuse_what_is_of_another_kind(said):
    with pytest.raises(UserError, match=said):
        NO_NUMBERS[said]()
