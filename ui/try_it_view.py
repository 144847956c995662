"""Answers of a merge and its parents as people read them, and what somebody waits for. HTML of escaped text."""

from collections.abc import Mapping, Sequence
from typing import Any

from jobs.try_it import Question
from merging.progress import Progress
from ui.render import notice, plural, problems, text

ABOUT = {
    "labels": "Write a line: the merge and the models it was made of tell what they make of it.",
    "text": "Write the beginning of a text: the merge and the models it was made of go on with it.",
    "similarity": "Write two lines: the merge and the models it was made of tell how alike they are.",
}
KINDS = {
    "text-classification": "labels",
    "token-classification": "labels",
    "text-generation": "text",
    "text2text-generation": "text",
    "sentence-similarity": "similarity",
    "feature-extraction": "similarity",
}  # the Hub's name of a model's task -> what is asked of it
Told = Mapping[str, Any]


def section(kind: str) -> str:
    """The head of the section."""
    small = "It runs on this service, on one processor, with public models alone; nothing of what you write is kept."
    return f'<section class="mm-card"><h3>Try it</h3><p>{ABOUT[kind]}</p><p class="mm-quiet">{small}</p></section>'


def waiting(question: Question, ahead: int) -> str:
    """What a question waits for."""
    if question.state == "waiting":
        words = f"Waiting: {plural(ahead, 'question')} before yours" if ahead else "Waiting for the models' process"
    else:
        words = _progress(question.progress)
    return f'<p class="mm-quiet" role="status">{text(words)} …</p>'


def _progress(progress: Progress | None) -> str:
    if progress is None:
        return "Starting the process that runs models"
    words = progress.message[:1].upper() + progress.message[1:]
    return f"{words} ({progress.words})" if progress.words else words


def ended(question: Question) -> str:
    """The answers, or why there are none."""
    if question.problem is not None:
        return problems([question.problem])
    told: Sequence[Told] = question.result["answers"]
    heads = dict.fromkeys(one["head"] for one in told)
    parts = [_head(head, [one for one in told if one["head"] == head]) for head in heads]
    notes = "".join(notice(note, "warning") for note in question.result["notes"])
    return f'<section class="mm-card mm-tried" aria-label="Answers">{"".join(parts)}{notes}</section>'


def _head(head: str, told: Sequence[Told]) -> str:
    """Who answers for one task."""
    title, level = (f"<h4>{text(head)}</h4>", "h5") if head else ("", "h4")
    return title + "".join(
        f'<div class="mm-answer"><{level}>{text(one["title"], 120)}</{level}>{_answer(one)}</div>' for one in told
    )


def _answer(one: Told) -> str:
    who = "merge" if one["who"] == "merge" else "parent"
    if "error" in one:
        return notice(one["error"], "warning")
    if one["kind"] == "text":
        return f"<blockquote>{text(one['text'], 2000) or '(nothing)'}</blockquote>"
    if one["kind"] == "words":
        marked = " ".join(
            f'<span class="mm-chip" title="{share:.0%}">{text(word, 40)} <b>{text(label, 60)}</b></span>'
            for word, label, share in one["words"]
        )
        return f'<div class="mm-chips">{marked}</div>'
    if one["kind"] == "similarity":
        said = f'<p class="mm-quiet">By {text(one["note"])}.</p>' if one.get("note") else ""
        return _bars(who, [("alike", one["value"], f"{one['value']:.3f}")]) + said
    if "value" in one:
        return f"<p>{one['value']:.4g}</p>"
    return _bars(who, [(label, share, f"{share:.1%}") for label, share in one["labels"]])


def _breakable(name: str) -> str:
    """A label that a phone breaks between its words."""
    return text(name, 60).replace("_", "_<wbr>")


def _bars(who: str, rows: Sequence[tuple[str, float, str]]) -> str:
    """A bar for each name, its value in words beside it."""
    bars = "".join(
        f'<div class="mm-bar mm-of-{who}"><span class="mm-who">{_breakable(name)}</span>'
        '<svg viewBox="0 0 100 16" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="mm-fill" y="3" width="{100 * min(max(value, 0.0), 1.0):.2f}" height="10"/></svg>'
        f'<span class="mm-value">{words}</span></div>'
        for name, value, words in rows
    )
    return f'<div class="mm-bars">{bars}</div>'
