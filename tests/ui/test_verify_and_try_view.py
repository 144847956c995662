"""What a page says of verifications and answers: plain words, and nothing of a stranger's as HTML."""

import gradio as gr
import pytest
from fastapi import Request

from jobs.try_it import Question
from jobs.verify_result import Verdict, Verification
from merging.equality import Difference
from merging.errors import Problem
from merging.progress import Progress
from ui import try_it_view, verify_view
from ui.try_it import address_of

EVIL = "<img src=x onerror=alert(1)>"


@pytest.mark.parametrize(
    ("verdict", "title"),
    [
        ("identical", "Verified identical on 2026-11-21 (commit abcdef01)"),
        ("within", "Verified equal within tolerance on 2026-11-21 (commit abcdef01)"),
        ("different", "Found different from its recipe on 2026-11-21 (commit abcdef01)"),
    ],
)
def test_a_badge_says_what_when_and_of_which_commit(verdict: Verdict, title: str) -> None:
    """And what was found, with a stranger's tensor names as text."""
    one = Difference(EVIL, "float32", 0.5, 0.25, 1e-4)
    found = Verification(
        "ann/merged",
        "abcdef01" * 5,
        1_795_219_200.0,
        verdict,
        weight_files=2,
        same_files=1,
        tensors=40,
        differing=0 if verdict == "identical" else 3,
        reasons=(f"{EVIL} differs.",) if verdict == "different" else (),
        largest=None if verdict == "identical" else one,
    )
    assert title in verify_view.badge(found)
    told = verify_view.section(found, signed_in=False)
    assert "<img" not in told
    assert verify_view.SIGN_IN in told
    assert Verification.from_dict(found.as_dict()) == found
    if verdict != "identical":
        assert "3 of 40 tensors are not the same bit for bit. The largest difference: &lt;img" in told
        assert "by 0.5 (0.25 of its largest value), where 0.0001 is allowed for float32." in told


def test_nobody_has_looked() -> None:
    """No badge; what it would do, and no word of signing in to somebody who is."""
    assert verify_view.badge(None) == ""
    told = verify_view.section(None, signed_in=True)
    assert verify_view.ABOUT in told
    assert verify_view.SIGN_IN not in told


@pytest.mark.parametrize(
    ("headers", "proxies", "address"),
    [
        ([], 1, "10.0.0.1"),
        ([""], 1, "10.0.0.1"),
        (["192.0.2.7"], 1, "192.0.2.7"),
        (["1.1.1.1, 192.0.2.7"], 1, "192.0.2.7"),
        (["1.1.1.1,2.2.2.2", "192.0.2.7"], 1, "192.0.2.7"),
        (["1.1.1.1, 192.0.2.7, 10.9.9.9"], 2, "192.0.2.7"),
        (["1.1.1.1", "192.0.2.7", "10.9.9.9"], 2, "192.0.2.7"),
        (["192.0.2.7"], 2, "192.0.2.7"),
        ([], 2, "10.0.0.1"),
    ],
)
def test_nobody_chooses_an_address_of_their_own(headers: list[str], proxies: int, address: str) -> None:
    """What the first of our proxies appended counts, not what a client wrote before it; without a proxy the peer."""
    lines = [(b"x-forwarded-for", line.encode()) for line in headers]
    scope = {"type": "http", "headers": lines, "client": ("10.0.0.1", 1)}
    assert address_of(gr.Request(Request(scope)), proxies) == address


def question(**state: object) -> Question:
    """A question in some state."""
    asked = Question("ann/merged", "", "one", "", "ann")
    for name, value in state.items():
        setattr(asked, name, value)
    return asked


def test_every_wait_says_what_it_waits_for() -> None:
    """For others, for the process, for bytes, for a model."""
    assert "Waiting: 2 questions before yours …" in try_it_view.waiting(question(), 2)
    assert "Starting the process that runs models …" in try_it_view.waiting(question(state="running"), 0)
    fetching = Progress("try", 10**6, 4 * 10**6, message=f"fetching {EVIL}")
    told = try_it_view.waiting(question(state="running", progress=fetching), 0)
    assert "Fetching &lt;img" in told
    assert "(1.0 MB of 4.0 MB)" in told


def test_answers_are_bars_words_and_sentences() -> None:
    """Whatever a stranger's model is called, labels and writes."""
    told = [
        {"who": "merge", "title": "The merge", "head": EVIL, "kind": "labels", "labels": [[EVIL, 0.75], ["no", 0.25]]},
        {"who": "parent", "title": EVIL, "head": EVIL, "kind": "words", "words": [[EVIL, EVIL, 0.5]]},
        {"who": "parent", "title": EVIL, "head": "b", "kind": "text", "text": EVIL},
        {"who": "parent", "title": EVIL, "head": "b", "kind": "similarity", "value": -0.5, "note": EVIL},
        {"who": "parent", "title": EVIL, "head": "b", "kind": "labels", "labels": [], "value": 2.5},
        {"who": "parent", "title": EVIL, "head": "b", "error": EVIL},
    ]
    shown = try_it_view.ended(question(state="done", result={"answers": told, "notes": [EVIL]}))
    assert "<img" not in shown
    assert shown.count("<h4>") == 2
    assert 'width="75.00"' in shown
    assert "75.0%" in shown
    assert 'width="0.00"' in shown  # a cosine below 0 has no bar
    assert "-0.500" in shown
    failed = try_it_view.ended(question(state="failed", problem=Problem(EVIL, "why")))
    assert "<img" not in failed
