"""Solvers: pure steps from t to s < t, and `trace`, the one sampling loop."""

from reverie.solve.adams import Adams as Adams
from reverie.solve.adams import gradient_estimation as gradient_estimation
from reverie.solve.adams import ipndm as ipndm
from reverie.solve.adams import lms as lms
from reverie.solve.ancestral import DDIM as DDIM
from reverie.solve.ancestral import Ancestral as Ancestral
from reverie.solve.ancestral import Learned as Learned
from reverie.solve.ancestral import Renoise as Renoise
from reverie.solve.churn import Churn as Churn
from reverie.solve.exponential import Exponential as Exponential
from reverie.solve.loop import Solver as Solver
from reverie.solve.loop import Step as Step
from reverie.solve.loop import sample as sample
from reverie.solve.loop import trace as trace
from reverie.solve.names import SOLVERS as SOLVERS
from reverie.solve.names import called as called
from reverie.solve.names import facts as facts
from reverie.solve.names import find as find
from reverie.solve.names import named as named
from reverie.solve.runge_kutta import RungeKutta as RungeKutta
from reverie.solve.runge_kutta import euler as euler
from reverie.solve.runge_kutta import heun as heun
from reverie.solve.runge_kutta import midpoint as midpoint
from reverie.solve.runge_kutta import rk4 as rk4
from reverie.solve.single import Single as Single
from reverie.solve.unipc import UniPC as UniPC
