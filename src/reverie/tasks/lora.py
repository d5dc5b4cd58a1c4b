"""LoRAs that hold on a part of the way alone: their changes of the net stand in its weights while they act."""

from collections.abc import Sequence
from dataclasses import dataclass

from reverie.adapt.lora import Lora
from reverie.adapt.timed import Timed
from reverie.adapt.when import When
from reverie.errors import UserError
from reverie.systems.lora import timed_loras
from reverie.systems.lora.places import weights
from reverie.systems.opening import Opening
from reverie.systems.system import System
from reverie.tasks.start import Start


@dataclass(frozen=True)
class Passing:
    """The task of putting them in and taking them out. That of the picture says them with the other LoRAs of its model."""

    loras: Sequence[tuple[Lora, When]]

    def __call__(self, start: Start) -> Start:
        own = weights(start.system)
        return start.adapt(lambda model: Timed(model, own, self.loras))


def passing(texts: Sequence[str], system: System, opening: Opening) -> list[Passing]:
    """The task for those of these LoRAs that do not act all the way; none where all do."""
    found = timed_loras(system, texts, opening.partial)
    if found and opening.offload != "none":
        raise UserError(f"{found[0][0].name} acts on a part of the way, for which the weights must stay: leave out --offload")
    return [Passing(found)] if found else []
