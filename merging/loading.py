"""A model from a local folder, and examples as batches for it: for statistics and evaluation only.

An example is a text; for an encoder-decoder a text, or (text, target); for a vision model an image; for CLIP
(image, text). The merge path never loads a model this way. Nothing is fetched, no code of the repo is run, no pickle
is opened.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
import transformers
from torch import Tensor

from merging.architecture import GENERIC, architecture_of
from merging.checkpoint import Checkpoint
from merging.device import pick_device
from merging.errors import InputError
from merging.offload import placement
from merging.roles import Reads

Device = Literal["auto", "cpu", "cuda"]
Example = Any  # str | (str, str) | PIL.Image.Image | (PIL.Image.Image, str)
ANSWER = 32  # tokens that a model writes itself where an example has no target


@dataclass(frozen=True)
class Loaded:
    """A transformers model in float32 and eval mode on `device`, with what turns examples into inputs."""

    model: Any
    tokenizer: Any  # None for a model that reads images alone
    processor: Any  # of images; None for a model that reads text alone
    config: dict[str, Any]
    reads: Reads
    device: torch.device
    max_length: int  # tokens that the model can take, and not more than were asked for
    room: int  # bytes of memory that are left beside the model
    offloaded: TemporaryDirectory[str] | None = None  # what of the model did not fit into memory


def load(
    folder: Path,
    *,
    max_length: int,
    device: str = "auto",
    attention: str | None = None,
    name: str = "",
    memory: int = 0,
) -> Loaded:
    """Load the class that config.json names (a bare body where it names none). Raises InputError.

    `attention` is transformers' name of an implementation; the fastest that the class has when it is None.
    `name` is what the user calls the model, for errors; by default the folder's. `memory` (bytes) bounds the model and
    what is collected beside it, 0 is what is free; a model that does not fit is brought in from disk layer by layer.
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
    reads = (architecture_of(config) or GENERIC).reads(config)
    log = transformers.utils.logging
    quiet = log.get_verbosity()
    log.set_verbosity(logging.ERROR)
    options = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = processor = None
    offloaded = TemporaryDirectory(prefix="merge-offload-")
    spread, room = placement(4 * _values(folder), place, memory, Path(offloaded.name))
    try:
        model = kind.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, attn_implementation=attention, **options, **spread
        )
        if reads != "images":
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
        if reads.startswith("images"):
            processors: Any = transformers.AutoImageProcessor
            processor = processors.from_pretrained(folder, backend="pil", **options)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{name} does not load", reason[0][:300], "Check its files") from None
    finally:
        log.set_verbosity(quiet)
    if tokenizer is not None:
        _give_padding(model, tokenizer, name)
    length = _length(model, tokenizer, max_length) if tokenizer is not None else max_length
    if not spread:
        model = model.to(place)
    kept = offloaded if spread else None
    return Loaded(model.eval(), tokenizer, processor, config, reads, place, length, room, kept)


def _values(folder: Path) -> int:
    """Number of values in the weight files of a folder; 0 where they cannot be read (transformers says why)."""
    try:
        checkpoint = Checkpoint(folder)
    except (InputError, OSError):
        return 0
    checkpoint.close()
    return sum(spec.numel for spec in checkpoint.specs.values())


def batches(loaded: Loaded, examples: Sequence[Example], size: int) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """(indices of the examples, model inputs) of `size` examples at a time, longest first: little is padding.

    Padding stands on the right: positions of real tokens are then the same with and without it.
    """
    order, lengths = list(range(len(examples))), [0] * len(examples)
    if loaded.reads in ("text", "pairs"):
        texts = [example if isinstance(example, str) else example[0] for example in examples]
        lengths = [len(ids) for ids in _tokens(loaded, texts)["input_ids"]]
        order.sort(key=lambda index: (-lengths[index], index))
    architecture = architecture_of(loaded.config) or GENERIC
    while order:
        chosen = order[:size]
        if architecture.length_matters:
            chosen = [index for index in chosen if lengths[index] == lengths[chosen[0]]]
        order = order[len(chosen) :]
        yield chosen, encode(loaded, [examples[index] for index in chosen])


def encode(loaded: Loaded, examples: Sequence[Example]) -> dict[str, Tensor]:
    """A batch of examples as the model's inputs, on its device; texts are cut to its length."""
    if loaded.reads == "text":
        inputs = _tokens(loaded, examples, padding=True, return_tensors="pt")
    elif loaded.reads == "pairs":
        return _pairs(loaded, examples)
    elif loaded.reads == "images":
        inputs = loaded.processor(list(examples), return_tensors="pt")
    else:
        inputs = _tokens(loaded, [text for _, text in examples], padding=True, return_tensors="pt")
        inputs |= loaded.processor([image for image, _ in examples], return_tensors="pt")
    return {name: tensor.to(loaded.device) for name, tensor in inputs.items()}


def _pairs(loaded: Loaded, examples: Sequence[Example]) -> dict[str, Tensor]:
    """Texts and targets, shifted as in training (teacher forcing); the model's own answer where there is no target."""
    texts = [example if isinstance(example, str) else example[0] for example in examples]
    inputs = {
        name: tensor.to(loaded.device)
        for name, tensor in _tokens(loaded, texts, padding=True, return_tensors="pt").items()
        if name in ("input_ids", "attention_mask")
    }
    if all(not isinstance(example, str) for example in examples):
        targets = _tokens(loaded, [target for _, target in examples], padding=True, return_tensors="pt")
        labels, mask = targets["input_ids"].to(loaded.device), targets["attention_mask"].to(loaded.device)
    else:
        labels = loaded.model.generate(**inputs, max_new_tokens=ANSWER, do_sample=False, num_beams=1)[:, 1:]
        ends = (labels == loaded.model.generation_config.eos_token_id).cumsum(1)
        mask = ((ends == 0) | ((ends == 1) & (labels == loaded.model.generation_config.eos_token_id))).long()
    shifted = loaded.model.prepare_decoder_input_ids_from_labels(labels=labels)
    return inputs | {"decoder_input_ids": shifted, "decoder_attention_mask": mask}


def _tokens(loaded: Loaded, texts: Sequence[str], **options: Any) -> dict[str, Any]:
    return dict(
        loaded.tokenizer(
            list(texts), truncation=True, max_length=loaded.max_length, return_attention_mask=True, **options
        )
    )


def reads_of(folder: Path) -> Reads:
    """What the model in a folder is fed with, from its config. Raises InputError where there is none."""
    config = _config(folder, folder.name)
    return (architecture_of(config) or GENERIC).reads(config)


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
