"""Systems: assembled generators, and the recipes that train them. Wiring only."""

from reverie.systems.shipped import open_model as open_model
from reverie.systems.system import Sampling as Sampling
from reverie.systems.system import System as System
from reverie.systems.weights import load as load
from reverie.systems.weights import save as save
