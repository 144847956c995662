"""What a model answers to a line or two of text: probabilities, entities, a continuation, or how alike two lines are.

For people who try a merge beside its parents: small inputs, one at a time, on the CPU. The model may be a stranger's;
no code of its repo is run (see `merging.loading`), and whatever goes wrong is an InputError in one sentence.
"""

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from merging.errors import InputError
from merging.loading import Loaded, encode, load
from merging.modules import MODULES_FILE, SENTENCE_FILES, modules_of, parse_side
from merging.side_files import code_key

TOKENS = 256  # that are read of a text
WRITTEN = 32  # tokens that a language model writes
LABELS = 5  # that are told, the likeliest first
WORDS = 30  # of a text that are told with their labels
LETTERS = 400  # of what it writes, that are told
LIBRARY = "sentence-transformers"
Answer = dict[str, Any]


def answer(folder: Path, text: str, other: str = "", *, name: str = "") -> Answer:
    """What the model in `folder` answers, by its kind; `name` is what people call it.

    {"kind": "labels", "labels": [[label, probability], ...]}, or with "value" for a regression
    {"kind": "words", "words": [[word, label, probability], ...]}
    {"kind": "text", "text": what it writes}
    {"kind": "similarity", "value": cosine of the two lines, "note": how it was pooled where that is a guess}
    Raises InputError.
    """
    name = name or folder.name
    try:
        if (folder / MODULES_FILE).is_file():
            return _embedded(folder, text, other, name)
        loaded = load(folder, max_length=TOKENS, device="cpu", name=name)
        with torch.inference_mode():
            return _kind(loaded, name)(loaded, text, other)
    except (
        ArithmeticError,
        AttributeError,
        ImportError,
        LookupError,
        MemoryError,
        OSError,
        TypeError,
        ValueError,
    ) as e:
        raise _does_not_run(name, e) from None
    except RuntimeError as error:
        raise _does_not_run(name, error) from None


def _does_not_run(name: str, error: Exception) -> InputError:
    words = (str(error).strip().splitlines() or [""])[0][:200]
    if isinstance(error, MemoryError) or "allocate memory" in words:
        return InputError(f"{name} does not fit into the memory for trying", "", "Load it on a machine of your own")
    return InputError(f"{name} does not run here", words or type(error).__name__, "Load it on a machine of your own")


def _kind(loaded: Loaded, name: str) -> Callable[[Loaded, str, str], Answer]:
    """How a model is asked, by its class. Raises InputError for one that takes no text, or gives no such answer."""
    named = type(loaded.model).__name__
    if loaded.reads in ("text", "pairs"):
        for ending, ask in ASK.items():
            if named.endswith(ending):
                return ask
    why = "only classifiers of text, language models and embedding models can be tried here"
    raise InputError(f"{name} is a {named}", why, "Load it on a machine of your own")


def _labels(loaded: Loaded, text: str, other: str) -> Answer:
    """Probabilities of a classifier; each label by itself where several may hold; the number of a regression."""
    logits = loaded.model(**encode(loaded, [text])).logits[0].double()
    config = loaded.model.config
    if len(logits) == 1 or config.problem_type == "regression":
        return {"kind": "labels", "labels": [], "value": float(logits[0])}
    several = config.problem_type == "multi_label_classification"
    shares = logits.sigmoid() if several else logits.softmax(-1)
    return {"kind": "labels", "labels": [[_label(config, i), float(shares[i])] for i in _likeliest(shares)]}


def _likeliest(shares: torch.Tensor) -> list[int]:
    found: list[int] = shares.argsort(descending=True, stable=True)[:LABELS].tolist()
    return found


def _label(config: Any, index: int) -> str:
    return str((config.id2label or {}).get(index, index))[:60]


def _words(loaded: Loaded, text: str, other: str) -> Answer:
    """The label of each word's first token."""
    options = {"truncation": True, "max_length": loaded.max_length}
    encoding = loaded.tokenizer(text, return_tensors="pt", return_attention_mask=True, **options)
    shares = loaded.model(**dict(encoding)).logits[0].double().softmax(-1)
    told: list[list[Any]] = []
    before = None
    for place, word in enumerate(encoding.word_ids(0)):
        if word is not None and word != before and len(told) < WORDS:
            span = encoding.word_to_chars(0, word)
            best = int(shares[place].argmax())
            told.append(
                [text[span.start : span.end][:40], _label(loaded.model.config, best), float(shares[place, best])]
            )
        before = word
    return {"kind": "words", "words": told}


def _continued(loaded: Loaded, text: str, other: str) -> Answer:
    """What a language model writes next, the likeliest token each time."""
    inputs = {key: value for key, value in encode(loaded, [text]).items() if key in ("input_ids", "attention_mask")}
    return _written(loaded, inputs, inputs["input_ids"].shape[1])


def _replied(loaded: Loaded, text: str, other: str) -> Answer:
    """What an encoder-decoder answers."""
    options = {"truncation": True, "max_length": loaded.max_length, "return_tensors": "pt"}
    encoding = dict(loaded.tokenizer(text, return_attention_mask=True, **options))
    return _written(loaded, {key: encoding[key] for key in ("input_ids", "attention_mask")}, 1)


def _written(loaded: Loaded, inputs: Mapping[str, torch.Tensor], read: int) -> Answer:
    ids = loaded.model.generate(**inputs, max_new_tokens=WRITTEN, do_sample=False, num_beams=1)
    return {"kind": "text", "text": str(loaded.tokenizer.decode(ids[0, read:], skip_special_tokens=True))[:LETTERS]}


def _pooled(loaded: Loaded, text: str, other: str) -> Answer:
    """How alike a bare model's outputs are for two lines, each the mean over its tokens."""
    vectors = [loaded.model(**encode(loaded, [line])).last_hidden_state[0].double().mean(0) for line in (text, other)]
    value = torch.nn.functional.cosine_similarity(vectors[0], vectors[1], dim=0)
    return {"kind": "similarity", "value": float(value), "note": "the mean over the tokens of each line"}


def _embedded(folder: Path, text: str, other: str, name: str) -> Answer:
    """How alike two lines are to a model of sentence-transformers, by its own measure."""
    _refuse_code(folder, name)
    if importlib.util.find_spec(LIBRARY.replace("-", "_")) is None:
        raise InputError(f"{name} needs {LIBRARY}", "it is not installed on this service", "Load it on your machine")
    from sentence_transformers import SentenceTransformer

    named = folder / SENTENCE_FILES[1]
    kind = json.loads(named.read_text()).get("model_type") if named.is_file() else None
    if kind not in (None, "SentenceTransformer"):
        why = "only those that turn a text into one vector can be tried here"
        raise InputError(f"{name} is a {str(kind)[:60]}", why, "Load it on a machine of your own")
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, trust_remote_code=False)
    vectors = torch.as_tensor(model.encode([text, other])).double()
    return {"kind": "similarity", "value": float(torch.nn.functional.cosine_similarity(vectors[0], vectors[1], dim=0))}


def _refuse_code(folder: Path, name: str) -> None:
    """InputError for modules of a stranger, and for configs that name code."""
    path = folder / MODULES_FILE
    modules = modules_of(parse_side(MODULES_FILE, path.read_bytes(), name), name)
    for config in (SENTENCE_FILES[1], *(module.config for module in modules if module.config)):
        if (folder / config).is_file():
            found = code_key(parse_side(config, (folder / config).read_bytes(), name))
            if found:
                raise InputError(
                    f"{name} has a {config} that cannot be used", f"its {found} names code", "Save it anew"
                )


ASK: Mapping[str, Callable[[Loaded, str, str], Answer]] = {
    "ForSequenceClassification": _labels,
    "ForTokenClassification": _words,
    "ForCausalLM": _continued,
    "LMHeadModel": _continued,
    "ForConditionalGeneration": _replied,
    "Model": _pooled,
}  # ending of a class -> how it is asked; the first that fits
