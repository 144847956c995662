"""Verifications as people read them: the badge, what was found, a job of this kind. HTML of escaped text."""

from urllib.parse import urlencode

from jobs.job import Job
from jobs.verify_result import Verification
from ui import job_words, render

MARKS = {"identical": ("mm-good", "✓"), "within": ("mm-good", "≈"), "different": ("mm-bad", "✕")}
ABOUT = (
    "Merges it again from the revisions and statistics that its recipe records, on this service, and compares every "
    "tensor with what is published. Nothing is changed."
)
SIGN_IN = "Sign in to verify it."


def badge(found: Verification | None) -> str:
    """What was found for this commit, in a few words; "" where nobody has looked."""
    if found is None:
        return ""
    css, mark = MARKS[found.verdict]
    title = render.text(found.title)
    return f'<p class="mm-chips"><span class="mm-chip {css}"><span aria-hidden="true">{mark}</span> {title}</span></p>'


def result(found: Verification) -> str:
    """What was found, all of it."""
    return badge(found) + "".join(f"<p>{render.text(sentence, 900)}</p>" for sentence in found.sentences)


def section(found: Verification | None, *, signed_in: bool) -> str:
    """The section of a model's page, above its button."""
    told = result(found) if found else f'<p class="mm-quiet">{ABOUT}</p>'
    asked = "" if signed_in else f'<p class="mm-quiet">{SIGN_IN}</p>'
    return f'<section class="mm-card"><h3>Is it what its recipe makes?</h3>{told}{asked}</section>'


def job(one: Job, *, base_url: str = "") -> str:
    """A verification as it goes on; at its end what it has found."""
    if one.verification is None:
        return job_words.job(one, base_url=base_url)
    return job_words.job(one, base_url=base_url, end=result(Verification.from_dict(one.verification)))


def job_links(one: Job) -> str:
    """What can be done with a verification: look at the model."""
    page = render.link(f"/model?{urlencode({'id': one.repo_id})}", "Its page here", css="mm-button", here=True)
    return f'<p class="mm-actions">{page}</p>'
