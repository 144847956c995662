"""Proves that a written model works: loads it as its user would and runs it on one input.

    python -m merging.check FOLDER... --parameters N... [--files NAMES...] [--memory BYTES]

A text, a picture or both, as the model reads; a few tokens where it writes; and an embedding by sentence-transformers
where the folder is one of its models and that library is installed.

Run in a process of its own, for what it loads is as large as the model. Prints one JSON object a folder; exit 1
with a sentence on stderr when a model is not what the plan promised. A model that does not fit into the memory is
checked tensor by tensor alone, and its object says so.
"""

import argparse
import importlib.util
import inspect
import json
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from merging.architecture import architecture_of
from merging.checkpoint import TOKENIZER_FILES, Checkpoint
from merging.errors import MergeError
from merging.loading import reads_of
from merging.modules import MODULES_FILE, PICTURE_FILES, SENTENCE_FILES

BLOCK = 1 << 22
TEXT = "One sentence to try the merged model."
WRITTEN = 4  # tokens that a model which writes is asked for
LIBRARY = "sentence-transformers"
OUT_OF_MEMORY = "allocate memory"  # in torch's own words for it
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def check_folder(folder: Path, parameters: int, files: Sequence[str] = ()) -> dict[str, Any]:
    """Load the model in `folder` and run it once. `files` are those that must stand beside its weights.

    Returns {"folder", "class", "parameters", "output": shape, "tokenizer": bool, "processor": bool}, "written" (a
    number of tokens) for a model that writes, "embedding" (a shape) for one of sentence-transformers, and "note"
    where something could not be tried. Raises MergeError.
    """
    stored = Checkpoint(folder)
    count = sum(spec.numel for spec in stored.specs.values())
    if count != parameters:
        raise MergeError(f"{folder.name} has {count:,} parameters", f"the plan promised {parameters:,}")
    lost = [name for name in files if not (folder / name).is_file()]
    if lost:
        raise MergeError(f"{folder.name} lacks {lost[0]}", "it should have been carried from a parent")
    _finite(stored)
    found, notes = _run(folder)
    if (folder / MODULES_FILE).is_file():
        if importlib.util.find_spec(LIBRARY.replace("-", "_")):
            found["embedding"] = _embedding(folder)
        else:
            notes.append(f"{LIBRARY} is not installed, so the transformer alone was tried, with plain transformers")
    return {"folder": folder.name, "parameters": count, **found} | ({"note": "; ".join(notes)} if notes else {})


def _run(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """What plain transformers makes of it, and notes on what was not tried."""
    from transformers import AutoConfig

    reads = reads_of(folder)
    config = AutoConfig.from_pretrained(folder, **LOCAL)
    model, missing, unknown = _load(folder, config)
    if missing:
        raise MergeError(f"{folder.name} lacks {missing[0]}", f"transformers made up {len(missing)} tensors by itself")
    if unknown:
        raise MergeError(f"{folder.name} holds {unknown[0]}", f"transformers has no place for {len(unknown)} tensors")
    tokenizer, notes = (None, []) if reads == "images" else _tokenizer(folder)
    processor = _processor(folder) if reads.startswith("images") else None
    inputs: dict[str, Tensor] = {}
    if reads != "images":
        inputs |= _text(model, tokenizer)
    if reads.startswith("images"):
        inputs |= _picture(model, processor)
    found: dict[str, Any] = {
        "class": type(model).__name__,
        "tokenizer": tokenizer is not None,
        "processor": processor is not None,
    }
    more = {"decoder_input_ids": torch.tensor([[_start(model)]])} if reads == "pairs" else {}
    try:
        with torch.inference_mode():
            outputs = [value for value in model(**inputs, **more).values() if isinstance(value, Tensor)]
            written = _written(model, inputs) if model.can_generate() else None
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        if OUT_OF_MEMORY in str(error):
            raise
        raise MergeError(f"{folder.name} loads and does not run", _first_line(error)) from None
    if not all(bool(torch.isfinite(output).all()) for output in outputs):
        raise MergeError(f"{folder.name} answers NaN", "its weights are finite but do not compute")
    found["output"] = list(outputs[0].shape)
    return found | ({} if written is None else {"written": written}), notes


def _tokenizer(folder: Path) -> tuple[Any, list[str]]:
    """The tokenizer, None where there is none or where a library that it needs is not installed."""
    from transformers import AutoTokenizer

    files = [name for name in (*TOKENIZER_FILES, "tokenizer_config.json") if (folder / name).is_file()]
    if not files:
        return None, []
    try:
        return AutoTokenizer.from_pretrained(folder, **LOCAL), []
    except (ValueError, OSError, KeyError, TypeError, AttributeError, ImportError) as error:
        pieces = any(name.endswith((".model", ".spm")) for name in files)
        if pieces and "tokenizer.json" not in files and not importlib.util.find_spec("sentencepiece"):
            return None, ["its tokenizer was not tried, for sentencepiece is not installed"]
        raise MergeError(f"The tokenizer of {folder.name} does not load", _first_line(error)) from None


def _processor(folder: Path) -> Any:
    """What makes a picture ready, None where no file says it."""
    from transformers import AutoImageProcessor

    if not any((folder / name).is_file() for name in PICTURE_FILES):
        return None
    try:
        loader: Any = AutoImageProcessor
        return loader.from_pretrained(folder, backend="pil", **LOCAL)
    except (ValueError, OSError, KeyError, TypeError, ImportError) as error:
        raise MergeError(f"The image processor of {folder.name} does not load", _first_line(error)) from None


def _text(model: Any, tokenizer: Any) -> dict[str, Tensor]:
    """One sentence as the inputs that the model takes."""
    if tokenizer is None:
        end = getattr(model.config, "eos_token_id", None)
        inputs = {"input_ids": torch.tensor([[0, 1, 2, end if isinstance(end, int) else 3]])}
    else:
        inputs = dict(tokenizer(TEXT, return_tensors="pt"))
    if type(model).__name__.endswith("MultipleChoice"):
        inputs = {name: value.unsqueeze(1).expand(-1, 2, -1) for name, value in inputs.items()}  # (1, choices, length)
    return {name: value for name, value in inputs.items() if name in inspect.signature(model.forward).parameters}


def _picture(model: Any, processor: Any) -> dict[str, Tensor]:
    """A grey picture, through the model's own processor where it has one."""
    from PIL import Image

    if processor is not None:
        return dict(processor([Image.new("RGB", (48, 40), (127, 127, 127))], return_tensors="pt"))
    config = getattr(model.config, "vision_config", model.config)
    return {
        "pixel_values": torch.full((1, getattr(config, "num_channels", 3), config.image_size, config.image_size), 0.5)
    }


def _start(model: Any) -> int:
    """The token that a decoder begins with."""
    names = ("decoder_start_token_id", "bos_token_id", "pad_token_id")
    return next((value for name in names if isinstance(value := getattr(model.config, name, None), int)), 0)


def _written(model: Any, inputs: Mapping[str, Tensor]) -> int:
    """Number of tokens that the model writes when it is asked for a few."""
    known = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
    answer = model.generate(**known, max_new_tokens=WRITTEN, do_sample=False, num_beams=1)
    read = 1 if model.config.is_encoder_decoder else known["input_ids"].shape[1]
    return int(answer.shape[1]) - read


def _embedding(folder: Path) -> list[int]:
    """Shape of what sentence-transformers makes of one sentence."""
    import sentence_transformers

    try:
        kind = str(json.loads((folder / SENTENCE_FILES[1]).read_text()).get("model_type") or "SentenceTransformer")
    except OSError:
        kind = "SentenceTransformer"
    known = ("SentenceTransformer", "SparseEncoder", "MultiVectorEncoder", "CrossEncoder")
    if kind not in known:
        raise MergeError(f"{folder.name} is a {kind[:60]}", f"{LIBRARY} has {', '.join(known)}")
    try:
        model = getattr(sentence_transformers, kind)(str(folder), device="cpu", **LOCAL)
        answer = model.predict([(TEXT, TEXT)]) if kind == "CrossEncoder" else model.encode([TEXT])
    except (ValueError, OSError, KeyError, TypeError, AttributeError, ImportError, RuntimeError) as error:
        if OUT_OF_MEMORY in str(error):
            raise
        raise MergeError(f"{folder.name} does not load with {LIBRARY}", _first_line(error)) from None
    values = torch.as_tensor(answer[0] if isinstance(answer, list) else answer)
    values = values.to_dense() if values.is_sparse else values
    if not bool(torch.isfinite(values).all()):
        raise MergeError(f"{folder.name} embeds to NaN", "its weights are finite but do not compute")
    return list(values.shape)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300].rstrip(": ")


def _finite(stored: Checkpoint) -> None:
    """Every value as it was written, shard by shard."""
    for name, spec in stored.specs.items():
        if not spec.dtype.is_floating_point:
            continue
        for start in range(0, spec.numel, BLOCK):
            if not bool(torch.isfinite(stored.read(name, start, start + BLOCK)).all()):
                raise MergeError(f"{name} holds NaN or infinity", "it was written so")


def _load(folder: Path, config: Any) -> tuple[Any, list[str], list[str]]:
    """The model in the class that its config names, the tensors that it did not find, and those it did not want."""
    import transformers

    name = (config.architectures or ["AutoModel"])[0]
    loader = getattr(transformers, name, transformers.AutoModel)
    model, info = loader.from_pretrained(
        folder, config=config, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    architecture = architecture_of(config.to_dict())
    unknown = [
        name for name in info["unexpected_keys"] if not architecture or architecture.role(name, ()).kind != "buffer"
    ]
    return model.eval(), sorted(set(info["missing_keys"]) - tied), sorted(unknown)


def _within_memory(folder: Path, parameters: int, files: Sequence[str]) -> dict[str, Any]:
    """`check_folder`; torch has words of its own for memory that cannot be had."""
    try:
        return check_folder(folder, parameters, files)
    except RuntimeError as error:
        if OUT_OF_MEMORY in str(error):
            raise MemoryError from None
        raise


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--parameters", type=int, nargs="+", required=True, help="of each folder")
    parser.add_argument("--files", nargs="+", help="of each folder: what must stand beside its weights, with commas")
    parser.add_argument("--memory", type=int, default=0, help="limit of this process's data in bytes")
    parser.add_argument("--seconds", type=int, default=1800, help="limit of this process's CPU time")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    resource.setrlimit(resource.RLIMIT_CPU, (options.seconds, options.seconds))
    if options.memory:
        resource.setrlimit(resource.RLIMIT_DATA, (options.memory, options.memory))
    files = options.files or [""] * len(options.folders)
    for folder, parameters, names in zip(options.folders, options.parameters, files, strict=True):
        try:
            print(
                json.dumps(_within_memory(folder, parameters, [name for name in names.split(",") if name])), flush=True
            )
        except MergeError as error:
            print(error, file=sys.stderr)
            return 1
        except MemoryError:
            note = f"not loaded: it does not fit into {options.memory:,} bytes of memory; every tensor is finite"
            print(json.dumps({"folder": folder.name, "parameters": parameters, "note": note}), flush=True)
        except Exception as error:  # whatever transformers says of a model that it cannot load or run
            print(f"{folder.name} does not work with transformers: {_first_line(error)}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
