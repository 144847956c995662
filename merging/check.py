"""Proves that a written model works: loads it with plain transformers and runs it on one input.

    python -m merging.check FOLDER... --parameters N... [--memory BYTES]

Run in a process of its own, for what it loads is as large as the model. Prints one JSON object a folder; exit 1
with a sentence on stderr when a model is not what the plan promised. A model that does not fit into the memory is
checked tensor by tensor alone, and its object says so.
"""

import argparse
import json
import resource
import sys
from pathlib import Path
from typing import Any

import torch

from merging.architecture import architecture_of
from merging.checkpoint import Checkpoint
from merging.errors import MergeError

BLOCK = 1 << 22


def check_folder(folder: Path, parameters: int) -> dict[str, Any]:
    """Load the model in `folder` and run it once. Raises MergeError.

    Returns {"folder", "class", "parameters", "output": shape, "tokenizer": bool}.
    """
    from transformers import AutoConfig, AutoTokenizer

    stored = Checkpoint(folder)
    count = sum(spec.numel for spec in stored.specs.values())
    if count != parameters:
        raise MergeError(f"{folder.name} has {count:,} parameters", f"the plan promised {parameters:,}")
    _finite(stored)
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    model, missing, unknown = _load(folder, config)
    if missing:
        raise MergeError(f"{folder.name} lacks {missing[0]}", f"transformers made up {len(missing)} tensors by itself")
    if unknown:
        raise MergeError(f"{folder.name} holds {unknown[0]}", f"transformers has no place for {len(unknown)} tensors")
    tokenizer = None
    if any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt", "vocab.json")):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    inputs = (
        {"input_ids": torch.tensor([[0, 1, 2, 3]])}
        if tokenizer is None
        else dict(tokenizer("One sentence to try the merged model.", return_tensors="pt"))
    )
    if type(model).__name__.endswith("MultipleChoice"):
        inputs = {name: value.unsqueeze(1).expand(-1, 2, -1) for name, value in inputs.items()}  # (1, choices, length)
    with torch.inference_mode():
        output = next(value for value in model(**inputs).values() if isinstance(value, torch.Tensor))
    if not bool(torch.isfinite(output).all()):
        raise MergeError(f"{folder.name} answers NaN", "its weights are finite but do not compute")
    return {
        "folder": folder.name,
        "class": type(model).__name__,
        "parameters": count,
        "output": list(output.shape),
        "tokenizer": tokenizer is not None,
    }


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


def _within_memory(folder: Path, parameters: int) -> dict[str, Any]:
    """`check_folder`; torch has words of its own for memory that cannot be had."""
    try:
        return check_folder(folder, parameters)
    except RuntimeError as error:
        if "allocate memory" in str(error):
            raise MemoryError from None
        raise


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--parameters", type=int, nargs="+", required=True, help="of each folder")
    parser.add_argument("--memory", type=int, default=0, help="limit of this process's data in bytes")
    parser.add_argument("--seconds", type=int, default=1800, help="limit of this process's CPU time")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    resource.setrlimit(resource.RLIMIT_CPU, (options.seconds, options.seconds))
    if options.memory:
        resource.setrlimit(resource.RLIMIT_DATA, (options.memory, options.memory))
    for folder, parameters in zip(options.folders, options.parameters, strict=True):
        try:
            print(json.dumps(_within_memory(folder, parameters)), flush=True)
        except MergeError as error:
            print(error, file=sys.stderr)
            return 1
        except MemoryError:
            note = f"not loaded: it does not fit into {options.memory:,} bytes of memory; every tensor is finite"
            print(json.dumps({"folder": folder.name, "parameters": parameters, "note": note}), flush=True)
        except Exception as error:  # whatever transformers says of a model that it cannot load
            print(f"{folder.name} does not load with transformers: {str(error).splitlines()[0]}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
