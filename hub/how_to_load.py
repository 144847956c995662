"""How a published model is loaded: the right class, the pipeline where there is one, or its own library."""

from collections.abc import Sequence
from dataclasses import dataclass

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
    kind = ""
    if parent.modules:
        named = str(parent.side.get(SENTENCE_FILES[1], {}).get("model_type"))
        kind = named if named in SENTENCE_TASKS else "SentenceTransformer"
    tag = SENTENCE_TASKS[kind] if kind else pipeline_tag(parent.architecture)
    vision = getattr(architecture_of(parent.config), "vision", NEVER)
    reads = "text" if vision == NEVER else "images and text" if vision else "images"
    return Loadable(folder, tag, kind, reads)


def how_to_load(repo_id: str, models: Sequence[Loadable]) -> str:
    """The section of a card: Python for every model, and what not to write."""
    blocks = [_block(repo_id, [model for model in models if not model.sentence_class])]
    blocks += [_sentence_block(repo_id, model) for model in models if model.sentence_class]
    text = "\n\n".join(["## How to load it", *(block for block in blocks if block)])
    if len(models) < 2:
        return text
    text += "\n\nThe body is the same file in every folder: it is downloaded once."
    if any(model.tag in PIPELINES and not model.sentence_class for model in models):
        text += (
            "\n\nDo not write `pipeline(..., subfolder=...)`: transformers ignores it without a word and takes the "
            "model\nat the root of this repo, which is one of the tasks."
        )
    return text


def _block(repo_id: str, models: Sequence[Loadable]) -> str:
    """Plain transformers: each model with what makes its inputs, then as a pipeline or asked to write."""
    if not models:
        return ""
    names, lines, last = {_auto(model) for model in models}, [], []
    for model in models:
        place = f'"{repo_id}", subfolder="{model.folder}"' if model.folder else f'"{repo_id}"'
        lines.append(f"model = {_auto(model)}.from_pretrained({place})")
        for variable, name in _inputs(model):
            names.add(name)
            lines.append(f"{variable} = {name}.from_pretrained({place})")
        if model.tag in PIPELINES:
            names.add("pipeline")
            inside = f', model_kwargs={{"subfolder": "{model.folder}"}}' if model.folder else ""
            last.append(f'pipeline("{model.tag}", model="{repo_id}"{inside})')
        elif model.tag == "text2text-generation":
            lines.append('answer = model.generate(**tokenizer("some text", return_tensors="pt"), max_new_tokens=64)')
            lines.append("print(tokenizer.decode(answer[0], skip_special_tokens=True))")
    if last:
        note = "one task as a pipeline: the folder goes into model_kwargs" if models[0].folder else "or as a pipeline"
        last = ["", f"# {note}", *last]
    imports = ", ".join(sorted(names, key=lambda name: (name.islower(), name)))
    return "\n".join(["```python", f"from transformers import {imports}", "", *lines, *last, "```"])


def _auto(model: Loadable) -> str:
    return CLASSES.get(model.tag, "AutoModel")


def _inputs(model: Loadable) -> list[tuple[str, str]]:
    """(variable, class) of what turns a text or a picture into inputs."""
    text, picture = ("tokenizer", "AutoTokenizer"), ("processor", "AutoImageProcessor")
    return {"images": [picture], "images and text": [text, picture]}.get(model.reads, [text])


def _sentence_block(repo_id: str, model: Loadable) -> str:
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
    return "\n".join(["```python", *lines, "```"])
