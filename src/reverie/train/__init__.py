"""Training: objectives, time laws, averages of weights, and the loop."""

from reverie.train.bound import bits_per_dim as bits_per_dim
from reverie.train.bound import hybrid as hybrid
from reverie.train.ema import PowerEma as PowerEma
from reverie.train.ema import combine as combine
from reverie.train.loop import Job as Job
from reverie.train.loop import Key as Key
from reverie.train.loop import Progress as Progress
from reverie.train.loop import Run as Run
from reverie.train.loop import fit as fit
from reverie.train.objective import denoising as denoising
from reverie.train.objective import draw_times as draw_times
from reverie.train.training import Training as Training
