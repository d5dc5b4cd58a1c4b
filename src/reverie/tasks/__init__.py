"""Tasks: what a person asks for, on any system."""

from reverie.tasks.edit import Edit as Edit
from reverie.tasks.edit import edit as edit
from reverie.tasks.edit import inpaint as inpaint
from reverie.tasks.generate import Picture as Picture
from reverie.tasks.generate import generate as generate
from reverie.tasks.generate import steps as steps
from reverie.tasks.invert import Invert as Invert
from reverie.tasks.outpaint import outpaint as outpaint
from reverie.tasks.ready import Ready as Ready
from reverie.tasks.ready import load as load
from reverie.tasks.restore import Restore as Restore
from reverie.tasks.restore import restore as restore
from reverie.tasks.start import Start as Start
from reverie.tasks.start import Task as Task
from reverie.tasks.upscale import upscale as upscale
from reverie.tasks.vary import Vary as Vary
