"""Do the parents' side files agree: modules and pooling, prompts, pictures, generation, chat templates.

From the small files that were read beside the headers. What changes the arithmetic of an embedding is an error;
what the result simply takes from the first parent is a warning that says so.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from merging.architecture import architecture_of
from merging.errors import Problem, errors_of
from merging.heads import HeadRule
from merging.modules import ACTIVATION, CHAT_FILES, PICTURE_FILES, SENTENCE_FILES, Module
from merging.parent import Parent
from merging.roles import NEVER

POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}  # how older files name the modes, in the order in which several are joined
HARMLESS = ("Normalize", "Dropout")  # leave the direction of an embedding as it is
WRITERS = ("transformers_version", "_from_model_config", "_name_or_path")  # who wrote a file, not what it says
CLASSES = ("image_processor_type", "feature_extractor_type", "processor_class", "auto_map")
Check = Callable[[Parent, Parent], Iterator[Problem]]


def side_problems(tasks: Sequence[str], parents: Sequence[Parent], rule: HeadRule) -> list[Problem]:
    """Every side file of a parent that cannot be carried, and every difference between those of one result.

    Models whose heads stay apart keep their own files: there is nothing to compare.
    """
    problems = [problem for index, parent in enumerate(parents) for problem in _own(parent, f"models.{index}.model")]
    problems += _folders(tasks, parents)
    if errors_of(problems) or rule == "apart" or len({parent.model_type for parent in parents}) > 1:
        return problems
    first = parents[0]
    for index, parent in enumerate(parents[1:], 1):
        found = [problem for check in _CHECKS for problem in check(first, parent)]
        problems += [Problem(p.what, p.why, p.fix, f"models.{index}.model", p.severity) for p in found]
    return problems


def _own(parent: Parent, where: str) -> Iterator[Problem]:
    """What is wrong with one parent, whatever the others are."""
    for module in parent.modules:
        name = str(_config(parent, module).get("activation_function") or "")
        if "." in name and not ACTIVATION.fullmatch(name):
            yield Problem(
                f"The module {module.path} of {parent.model} names code to run",
                f"its activation is {name[:100]}, and only those of torch are carried",
                "Leave this model out",
                where,
            )
        if module.kind == "Pooling" and module.config not in parent.side:
            yield Problem(
                f"{parent.model} has no {module.config}", "it says how tokens become an embedding", "Add it", where
            )
    architecture = architecture_of(parent.config)
    if architecture and architecture.vision != NEVER and parent.files and not _pictures(parent):
        yield Problem(
            f"{parent.model} has no {PICTURE_FILES[0]}",
            "nothing says how a picture is made ready for it",
            "Add the file of the model that it was trained from",
            where,
            "warning",
        )


def _folders(tasks: Sequence[str], parents: Sequence[Parent]) -> Iterator[Problem]:
    """A task's folder must not be one of the modules'."""
    taken = {module.path.lower() for parent in parents for module in parent.modules}
    for index, task in enumerate(tasks):
        if task.lower() in taken:
            yield Problem(
                f"The task {task} is named like a module", "both become a folder", "Rename it", f"models.{index}.task"
            )


def _modules(first: Parent, other: Parent) -> Iterator[Problem]:
    """The same steps from tokens to an embedding."""
    ours, theirs = ([module for module in parent.modules if module.kind not in HARMLESS] for parent in (first, other))
    names = [[module.kind for module in modules] for modules in (ours, theirs)]
    if bool(ours) != bool(theirs) and not any(module.weights for module in (*ours, *theirs)):
        plain = other if ours else first
        result = "an embedding model" if ours else "a plain transformer"
        yield _taken(f"{plain.model} is no sentence-transformers model", f"the result is {result}, as {first.model} is")
        return
    if names[0] != names[1]:
        yield Problem(
            f"{other.model} is built from {', '.join(names[1]) or 'a transformer alone'}",
            f"{first.model} from {', '.join(names[0]) or 'a transformer alone'}",
            "Merge models with the same modules",
        )
        return
    for mine, its in zip(ours, theirs, strict=True):
        yield from _module(first, other, mine, its)
    scaled = [any(module.kind == "Normalize" for module in parent.modules) for parent in (first, other)]
    if scaled[0] != scaled[1]:
        what = f"{other.model} {'scales' if scaled[1] else 'does not scale'} its embeddings to length 1"
        yield _taken(what, f"{first.model} {'does, and so does' if scaled[0] else 'does not, nor does'} the result")


def _module(first: Parent, other: Parent, mine: Module, its: Module) -> Iterator[Problem]:
    ours, theirs = (_meaning(module.kind, _config(parent, module)) for parent, module in ((first, mine), (other, its)))
    for key in sorted(ours.keys() & theirs.keys()):
        if ours[key] != theirs[key]:
            yield Problem(
                f"{key} of the module {its.path} is {_short(theirs[key])} in {other.model}",
                f"it is {_short(ours[key])} in {first.model}",
                "Merge models that embed in the same way",
            )
            return


def _config(parent: Parent, module: Module) -> Mapping[str, Any]:
    data: Mapping[str, Any] = parent.side.get(module.config, {})
    return data


def _meaning(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a module's config says, whatever version wrote it; sizes show in the tensors."""
    if kind == "Pooling":
        old = [mode for key, mode in POOLING.items() if config.get(key)] or ["mean"]
        modes = config.get("pooling_mode") or old
        joined = modes if isinstance(modes, str) else "+".join(map(str, modes)) if isinstance(modes, list) else "?"
        return {"pooling_mode": joined, "include_prompt": config.get("include_prompt", True)}
    if kind == "Dense":
        activation = str(config.get("activation_function") or "Tanh").rpartition(".")[2]
        source = config.get("module_input_name") or "sentence_embedding"
        return {
            "activation_function": activation,
            "use_residual": bool(config.get("use_residual")),
            "module_input_name": source,
            "module_output_name": config.get("module_output_name") or source,
        }
    return dict(config)


def _sentences(first: Parent, other: Parent) -> Iterator[Problem]:
    """Length, case, prompts and similarity: settings of the first parent's library."""
    ours, theirs = (_sentence_settings(parent) for parent in (first, other))
    yield from _first_difference(first, other, ours, theirs)


def _sentence_settings(parent: Parent) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if not parent.modules:
        return found
    for name in SENTENCE_FILES[2:]:
        data = parent.side.get(name, {})
        found |= {key: data[key] for key in ("max_seq_length", "do_lower_case") if data.get(key) is not None}
    data = parent.side.get(SENTENCE_FILES[1], {})
    prompts = data.get("prompts")
    found["prompts"] = {key: text for key, text in prompts.items() if text} if isinstance(prompts, dict) else {}
    found["default_prompt_name"] = data.get("default_prompt_name")
    if data.get("similarity_fn_name"):
        found["similarity_fn_name"] = data["similarity_fn_name"]
    return found


def _pictures_alike(first: Parent, other: Parent) -> Iterator[Problem]:
    ours, theirs = (
        {key: _size(value) for key, value in _pictures(parent).items() if key not in (*WRITERS, *CLASSES)}
        for parent in (first, other)
    )
    yield from _first_difference(first, other, ours, theirs)


def _pictures(parent: Parent) -> Mapping[str, Any]:
    """How a parent makes pictures ready; transformers 5 may keep it inside the processor's file."""
    inside = parent.side.get(PICTURE_FILES[1], {}).get("image_processor")
    data: Mapping[str, Any] = parent.side.get(PICTURE_FILES[0]) or (inside if isinstance(inside, dict) else {})
    return data


def _size(value: Any) -> Any:
    """A size in one form: 224 is a square of 224 x 224."""
    if isinstance(value, dict) and value.keys() == {"height", "width"} and value["height"] == value["width"]:
        return value["height"]
    return value


def _generation(first: Parent, other: Parent) -> Iterator[Problem]:
    ours, theirs = (
        {key: value for key, value in parent.side.get("generation_config.json", {}).items() if key not in WRITERS}
        for parent in (first, other)
    )
    if ours and theirs:
        keys = ours.keys() | theirs.keys()
        yield from _first_difference(first, other, {**dict.fromkeys(keys), **ours}, {**dict.fromkeys(keys), **theirs})


def _chats(first: Parent, other: Parent) -> Iterator[Problem]:
    ours, theirs = (_chat(parent) for parent in (first, other))
    if ours != theirs:
        what = f"{other.model} has {'another' if ours and theirs else 'a' if theirs else 'no'} chat template"
        has = f"the result has that of {first.model}" if ours else f"{first.model} has none, nor has the result"
        yield _taken(what, has)


def _chat(parent: Parent) -> Any:
    """The chat template: a file of its own, or a key of an older one."""
    text = parent.side.get(CHAT_FILES[0])
    if text is None:
        text = parent.side.get(CHAT_FILES[1], {}).get("chat_template")
    text = parent.side.get("tokenizer_config.json", {}).get("chat_template") if text is None else text
    return text.strip() if isinstance(text, str) else text or None


def _first_difference(
    first: Parent, other: Parent, ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> Iterator[Problem]:
    """One warning for the first key that both have with different values."""
    different = [key for key in sorted(ours.keys() & theirs.keys()) if ours[key] != theirs[key]]
    if different:
        key, more = different[0][:60], f" (and {len(different) - 1} more)" if len(different) > 1 else ""
        what = f"{key} is {_short(theirs[different[0]])} in {other.model}{more}"
        yield _taken(what, f"it is {_short(ours[different[0]])} in {first.model}, and so in the result")


def _taken(what: str, why: str) -> Problem:
    """A difference that the first parent decides."""
    return Problem(what, why, "Put the model first whose setting you want", severity="warning")


def _short(value: Any) -> str:
    text = "not set" if value is None else value if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


_CHECKS: tuple[Check, ...] = (_modules, _sentences, _pictures_alike, _generation, _chats)
