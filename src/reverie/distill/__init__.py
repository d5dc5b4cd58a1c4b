"""Few steps: objectives and schedules of training over the trainer that there is. Students are ordinary denoisers."""

from reverie.distill.consistency import consistency as consistency
from reverie.distill.consistency import ect as ect
from reverie.distill.consistency import ict as ict
from reverie.distill.consistency import trajectory as trajectory
from reverie.distill.coupling import coupled as coupled
from reverie.distill.distilling import Distilling as Distilling
from reverie.distill.distilling import student_of as student_of
from reverie.distill.matching import add as add
from reverie.distill.matching import dmd as dmd
from reverie.distill.matching import sid as sid
from reverie.distill.moments import moments as moments
from reverie.distill.pairs import Store as Store
from reverie.distill.pairs import one_step as one_step
from reverie.distill.pairs import reflow as reflow
from reverie.distill.pairs import straightness as straightness
from reverie.distill.shown import Method as Method
from reverie.distill.shown import Shown as Shown
from reverie.distill.shown import Teacher as Teacher
from reverie.distill.steps import fast as fast
from reverie.distill.steps import guidance as guidance
from reverie.distill.steps import progressive as progressive
from reverie.distill.steps import shortcut as shortcut
from reverie.distill.tangent import improved_meanflow as improved_meanflow
from reverie.distill.tangent import meanflow as meanflow
from reverie.distill.tangent import scm as scm
