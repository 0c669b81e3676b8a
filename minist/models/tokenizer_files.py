"""tokenizer.json, read."""

from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import normalizers

from minist.data.tokenizer import NO_LIMIT, Tokenizer


def load_tokenizer(file: Path, max_length: int, lower_case: bool) -> Tokenizer:
    """Read a tokenizer.json; ValueError if it is none. `lower_case` lowers text that its own normalizer would not."""
    backend = _read_backend(file)
    if lower_case:
        steps = [normalizers.Lowercase()] + ([backend.normalizer] if backend.normalizer else [])
        backend.normalizer = normalizers.Sequence(steps)
    return Tokenizer(backend, max_length)


def load_static_tokenizer(file: Path) -> Tokenizer:
    """Read the tokenizer.json of a StaticEmbedding: no special tokens, and only the maximum length that it holds."""
    backend = _read_backend(file)
    limit = backend.truncation["max_length"] if backend.truncation else NO_LIMIT
    return Tokenizer(backend, limit, special_tokens=False)


def _read_backend(file: Path) -> Backend:
    if not file.exists():
        raise ValueError(f"{file.parent} has no tokenizer.json: save the model once with a fast tokenizer")
    try:
        return Backend.from_file(str(file))
    except Exception as e:  # the library raises bare Exception
        raise ValueError(f"{file} is not a tokenizer.json: {e}") from None
