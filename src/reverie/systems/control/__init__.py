"""Controls and image prompts that others published, and ours: files and what they are told apart by."""

from reverie.systems.control.kept import save_control as save_control
from reverie.systems.control.opening import open_control as open_control
from reverie.systems.control.opening import open_image_prompt as open_image_prompt
