"""How a published model is loaded: the right class, the pipeline where there is one, or its own library.

One snippet of Python for each model of a repo, each of which can be pasted and run by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from merging.architecture import architecture_of
from merging.modules import SENTENCE_FILES
from merging.parent import Parent
from merging.roles import NEVER

TASKS = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMultipleChoice": "multiple-choice",
    "ForImageClassification": "image-classification",
    "ForMaskedLM": "fill-mask",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForConditionalGeneration": "text2text-generation",
    "CLIPModel": "zero-shot-image-classification",
    "ViTModel": "image-feature-extraction",
    "Model": "feature-extraction",
}  # ending of a class -> the Hub's name of its task; the first that fits
CLASSES = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "multiple-choice": "AutoModelForMultipleChoice",
    "image-classification": "AutoModelForImageClassification",
    "fill-mask": "AutoModelForMaskedLM",
    "text-generation": "AutoModelForCausalLM",
    "text2text-generation": "AutoModelForSeq2SeqLM",
}
PIPELINES = (
    "text-classification",
    "token-classification",
    "image-classification",
    "fill-mask",
    "text-generation",
    "feature-extraction",
    "image-feature-extraction",
    "zero-shot-image-classification",
)  # tasks that transformers 5 has a pipeline for
READS_TEXT = ("text-classification", "token-classification", "text-generation")  # pipelines that take plain text
SENTENCE_TASKS = {
    "SentenceTransformer": "sentence-similarity",
    "SparseEncoder": "feature-extraction",
    "MultiVectorEncoder": "sentence-similarity",
    "CrossEncoder": "text-ranking",
}  # class of sentence-transformers -> the Hub's name of its task


@dataclass(frozen=True)
class Loadable:
    """One model of a repo."""

    folder: str  # "" is the root
    tag: str  # the Hub's name of its task, "" when it has none here
    sentence_class: str = ""  # of sentence-transformers, "" for a plain transformer
    reads: str = "text"  # "text", "images" or "images and text"


def pipeline_tag(architecture: str) -> str:
    """The Hub's name of the task of a transformers class, "" when it has none here."""
    return next((tag for ending, tag in TASKS.items() if architecture.endswith(ending)), "")


def loadable(parent: Parent, folder: str = "") -> Loadable:
    """How the model with the head and the side files of that parent is loaded."""
    named = parent.side.get(SENTENCE_FILES[1]) if parent.modules else None
    return loadable_from(parent.config, folder, embeds=bool(parent.modules), sentence_config=named)


def loadable_from(
    config: Mapping[str, Any], folder: str = "", *, embeds: bool = False, sentence_config: Any = None
) -> Loadable:
    """How a model with that config.json is loaded.

    `embeds` when it has modules of sentence-transformers, whose own config, if any, is `sentence_config`.
    """
    kind = ""
    if embeds:
        named = str(sentence_config.get("model_type")) if isinstance(sentence_config, dict) else ""
        kind = named if named in SENTENCE_TASKS else "SentenceTransformer"
    classes = config.get("architectures")
    architecture = str(classes[0]) if isinstance(classes, list) and classes else ""
    tag = SENTENCE_TASKS[kind] if kind else pipeline_tag(architecture)
    vision = getattr(architecture_of(config), "vision", NEVER)
    reads = "text" if vision == NEVER else "images and text" if vision else "images"
    return Loadable(folder, tag, kind, reads)


def how_to_load(repo_id: str, models: Sequence[Loadable]) -> str:
    """The section of a card: Python for every model, and what not to write."""
    parts = ["## How to load it"]
    for model in models:
        parts += [f"### {model.folder}"] if model.folder else []
        parts.append(f"```python\n{snippet(repo_id, model)}\n```")
    parts += ["The body is the same file in every folder: it is downloaded once."] if len(models) > 1 else []
    parts += [warning] if (warning := trap(models)) else []
    return "\n\n".join(parts)


def trap(models: Sequence[Loadable]) -> str:
    """What not to write, in Markdown; "" where nothing is wrong with it."""
    if not any(model.folder and model.tag in PIPELINES and not model.sentence_class for model in models):
        return ""
    return (
        "Do not write `pipeline(..., subfolder=...)`: transformers ignores it without a word and takes the model\n"
        "at the root of this repo, which is one of the tasks."
    )


def snippet(repo_id: str, model: Loadable) -> str:
    """The lines of Python that load one model and use it."""
    return _sentence_snippet(repo_id, model) if model.sentence_class else _snippet(repo_id, model)


def _snippet(repo_id: str, model: Loadable) -> str:
    """Plain transformers: the model with what makes its inputs, then as a pipeline or asked to write."""
    auto = CLASSES.get(model.tag, "AutoModel")
    place = f'"{repo_id}", subfolder="{model.folder}"' if model.folder else f'"{repo_id}"'
    inputs = _inputs(model)
    names = {auto, *inputs.values()}
    lines = [f"model = {auto}.from_pretrained({place})"]
    lines += [f"{variable} = {name}.from_pretrained({place})" for variable, name in inputs.items()]
    if model.tag in PIPELINES:
        names.add("pipeline")
        given = "".join(f", {variable}={variable}" for variable in inputs)
        lines.append(f'pipe = pipeline("{model.tag}", model=model{given})')
        lines += ['print(pipe("some text"))'] if model.tag in READS_TEXT else []
    elif model.tag == "text2text-generation":
        lines.append('answer = model.generate(**tokenizer("some text", return_tensors="pt"), max_new_tokens=64)')
        lines.append("print(tokenizer.decode(answer[0], skip_special_tokens=True))")
    imports = ", ".join(sorted(names, key=lambda name: (name.islower(), name)))
    return "\n".join([f"from transformers import {imports}", "", *lines])


def _inputs(model: Loadable) -> dict[str, str]:
    """Variable -> class of what turns a text or a picture into inputs, called as a pipeline calls them."""
    text, picture = {"tokenizer": "AutoTokenizer"}, {"image_processor": "AutoImageProcessor"}
    return {"images": picture, "images and text": text | picture}.get(model.reads, text)


def _sentence_snippet(repo_id: str, model: Loadable) -> str:
    """Its own library, which takes a folder of this machine for a model that is not at the root."""
    lines, place = [f"from sentence_transformers import {model.sentence_class}", ""], f'"{repo_id}"'
    if model.folder:
        lines.insert(0, "from huggingface_hub import snapshot_download")
        lines.append(f'folder = snapshot_download("{repo_id}", allow_patterns="{model.folder}/*") + "/{model.folder}"')
        place = "folder"
    lines.append(f"model = {model.sentence_class}({place})")
    if model.sentence_class == "CrossEncoder":
        lines.append('scores = model.predict([("a question", "an answer")])')
    else:
        lines.append('embeddings = model.encode(["One sentence.", "Another one."])')
    return "\n".join(lines)
