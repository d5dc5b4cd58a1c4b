"""Files of changes of weights, of everyone's formats."""

from reverie.systems.lora.files import given_loras as given_loras
from reverie.systems.lora.files import open_lora as open_lora
from reverie.systems.lora.files import save_lora as save_lora
from reverie.systems.lora.files import timed_loras as timed_loras
from reverie.systems.lora.files import with_loras as with_loras
from reverie.systems.lora.wished import wished as wished
