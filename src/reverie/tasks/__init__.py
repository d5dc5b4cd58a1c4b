"""Tasks: what a person asks for, on any system."""

from reverie.tasks.generate import Picture as Picture
from reverie.tasks.generate import generate as generate
from reverie.tasks.generate import steps as steps
from reverie.tasks.ready import Ready as Ready
from reverie.tasks.ready import load as load
