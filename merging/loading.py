"""A model and its tokenizer from a local folder, and texts as batches: for statistics and evaluation only.

The merge path never loads a model this way. Nothing is fetched, no code of the repo is run, no pickle is opened.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import Tensor

from merging.device import pick_device
from merging.errors import InputError

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Loaded:
    """A transformers model in float32 and eval mode on `device`, with its tokenizer and config.json."""

    model: Any
    tokenizer: Any
    config: dict[str, Any]
    device: torch.device
    max_length: int  # tokens that the model can take, and not more than were asked for


def load(folder: Path, *, max_length: int, device: str = "auto", attention: str = "sdpa", name: str = "") -> Loaded:
    """Load the class that config.json names (a bare body where it names none). Raises InputError.

    `name` is what the user calls the model, for errors; by default the folder's.
    """
    name = name or folder.name
    config = _config(folder, name)
    chosen = str((config.get("architectures") or ["AutoModel"])[0])
    kind = getattr(transformers, chosen, None)
    if kind is None or not hasattr(kind, "from_pretrained"):
        raise InputError(
            f"{name} is a {chosen[:100]}", "transformers has no such class", "Use a model that it can load"
        )
    place = pick_device(device)
    log = transformers.utils.logging
    quiet = log.get_verbosity()
    log.set_verbosity(logging.ERROR)
    try:
        model = kind.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation=attention,
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        words = reason[0].replace(str(folder), name)[:300]
        raise InputError(f"{name} does not load", words, "Check its files") from None
    finally:
        log.set_verbosity(quiet)
    _give_padding(model, tokenizer, name)
    return Loaded(model.to(place).eval(), tokenizer, config, place, _length(model, tokenizer, max_length))


def batches(loaded: Loaded, texts: Sequence[str], size: int) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """(indices of the texts, model inputs) of `size` texts at a time, longest first, so that little is padding.

    Padding stands on the right: positions of real tokens are then the same with and without it.
    """
    lengths = [len(ids) for ids in encode(loaded, texts)["input_ids"]]
    order = sorted(range(len(texts)), key=lambda index: (-lengths[index], index))
    for begin in range(0, len(order), size):
        chosen = order[begin : begin + size]
        inputs = encode(loaded, [texts[index] for index in chosen], padding=True, return_tensors="pt")
        yield chosen, {name: tensor.to(loaded.device) for name, tensor in inputs.items()}


def encode(loaded: Loaded, texts: Sequence[str], **options: Any) -> Any:
    """The texts as token ids, cut to the model's length."""
    return loaded.tokenizer(
        list(texts), truncation=True, max_length=loaded.max_length, return_attention_mask=True, **options
    )


def _config(folder: Path, name: str) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        raise InputError(f"{name} has no readable config.json", "nothing says what it is", "Add it") from None
    return dict(config)


def _give_padding(model: Any, tokenizer: Any, name: str) -> None:
    """Right padding; where no pad token is known, the end of the text stands in (and is masked)."""
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise InputError(f"{name} cannot pad", "its tokenizer has no pad and no end token", "Add a pad token")
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = tokenizer.pad_token_id


def _length(model: Any, tokenizer: Any, wish: int) -> int:
    positions = getattr(model.config, "max_position_embeddings", None) or wish
    if model.config.model_type in ("roberta", "xlm-roberta"):
        positions -= model.config.pad_token_id + 1  # positions begin behind the pad token's
    return int(min(wish, positions, tokenizer.model_max_length))
