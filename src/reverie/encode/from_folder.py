"""Published text encoders from folders of transformers' layout; nothing is downloaded, unpickled or run that a folder holds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from reverie.encode.clip import Clip
from reverie.encode.t5 import T5
from reverie.errors import UserError


def clip(net: Path, tokenizer: Path, *, projected: bool = False, **options: Any) -> Clip:
    """A `Clip`; projected: its pooled vector goes through a projection. options: as of `Clip`."""
    kind = "CLIPTextModelWithProjection" if projected else "CLIPTextModel"
    return Clip(encoder(kind, net), words("CLIPTokenizer", tokenizer), **options)


def t5(net: Path, tokenizer: Path, **options: Any) -> T5:
    """A `T5`; options: as of `T5`."""
    return T5(encoder("T5EncoderModel", net), words("AutoTokenizer", tokenizer), **options)


def encoder(kind: str, folder: Path) -> Any:
    """transformers' model of this class with the weights of the folder, as they lie in its files."""
    made = _open(kind, folder, local_files_only=True, use_safetensors=True, dtype="auto")
    for name, value in made.named_parameters():
        if not bool(value.isfinite().all()):
            raise UserError(f"{folder}: {name} holds NaN or infinity: the file is damaged, get it again")
    return made.eval().requires_grad_(False)


def words(kind: str, folder: Path) -> Any:
    """transformers' tokenizer of this class."""
    return _open(kind, folder, local_files_only=True, trust_remote_code=False)


def _open(kind: str, folder: Path, **options: Any) -> Any:
    if not folder.is_dir():
        raise UserError(f"{folder} is not there: the download of the model is not complete")
    try:
        return _class(kind)(str(folder), **options)
    except ImportError as error:
        raise UserError(f"prompts of this model are read by transformers: pip install 'reverie[text]' ({error})") from None
    except Exception as error:  # whatever transformers says of a folder, it is damaged or of another kind
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{folder} cannot be opened as {kind} ({said}): get it again") from None


def _class(kind: str) -> Callable[..., Any]:
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    made: Callable[..., Any] = getattr(transformers, kind).from_pretrained
    return made


def write(read: Any, folder: Path, name: str = "") -> dict[str, list[str]]:
    """An encoder and its tokenizer as the parts text_encoder and tokenizer of a folder; the lines of its model_index.json."""
    parts = {f"text_encoder{name}": read.net, f"tokenizer{name}": read.tokenizer}
    for part, made in parts.items():
        made.save_pretrained(str(folder / part))
    return {part: ["transformers", type(made).__name__] for part, made in parts.items()}
