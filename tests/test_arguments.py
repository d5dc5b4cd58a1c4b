"""Schedules, noise laws, rules and solvers name the argument that cannot be."""

import math

import pytest

from reverie.errors import UserError
from reverie.process import rules, schedules
from reverie.process.noise import offset, student_t
from reverie.solve import Ancestral, Churn, Maruyama, heun

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
