"""The picture that a chat shows of a shared merge: its name, its parents, how it does. Public merges only.

Everything that it says was asked of the Hub as nobody in particular, so that a picture tells no more than the Hub tells
anybody. Pictures are kept for some minutes, and only so many new ones are made in a while: whoever asks for more names
than that gets the picture of the service itself, which is then kept nowhere under the name that was asked for.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from hub.merged import MergedModel
from merging.errors import InputError
from merging.recipe import valid_repo_id
from ui.charts import figure, metric_name
from ui.desk import Recent

SIZE = (1200, 630)  # pixels, as chats expect
KEEP = 600.0  # seconds
MOST = 128  # pictures that are kept, of some 30 kB
NEW, WHILE = 60, 300.0  # pictures made of the Hub's answers in so many seconds
INK, SOFT, PAPER, BRAND = "#1f2937", "#64748b", "#ffffff", "#4f46e5"
COLOURS = {"average": "#0072b2", "merge": "#d55e00"}  # as in `style.css`
TITLE = "Merge My Models"


class Busy(Exception):
    """Too many pictures are asked for: that of the service stands in for this one."""


class PreviewPictures:
    """`/preview.png?id=owner/name` by the name of the repo."""

    def __init__(self, merged: Callable[[str], MergedModel]) -> None:
        """`merged` reads a published merge as anybody may see it; it raises as `hub.merged.read_merged` does."""
        self._merged = merged
        self._kept = Recent(KEEP, MOST)
        self._made: deque[float] = deque()
        self._lock = threading.Lock()
        self._drawing = threading.Semaphore(2)

    def of(self, repo_id: str) -> bytes | None:
        """PNG bytes, the service's own picture for no name at all; None for a name of no public merge.

        Raises HubUnavailable, and Busy while too many are asked for: nobody waits for others here.
        """
        if not repo_id:
            return self._kept.get("", brand)
        return self._kept.get(repo_id, lambda: self._new(repo_id)) if valid_repo_id(repo_id) else None

    def _new(self, repo_id: str) -> bytes | None:
        if not self._drawing.acquire(blocking=False):
            raise Busy
        try:
            if not self._allowed(time.monotonic()):
                raise Busy
            merged = self._merged(repo_id)
            return None if merged.private else picture(merged)
        except InputError:
            return None
        finally:
            self._drawing.release()

    def _allowed(self, now: float) -> bool:
        with self._lock:
            while self._made and now - self._made[0] > WHILE:
                self._made.popleft()
            if len(self._made) == NEW:
                return False
            self._made.append(now)
            return True


def picture(merged: MergedModel) -> bytes:
    """The picture of one merge."""
    recipe = merged.recipe
    canvas = _Canvas()
    canvas.line(merged.repo_id, 60, INK)
    canvas.line(f"{recipe.method.title} of {len(recipe.models)} models", 38, SOFT)
    sets = _domains(merged.report or {})
    if sets:
        canvas.bars(sets)
    else:
        canvas.gap(20)
        names = [entry.repo_id for entry in recipe.models]
        for name in names[:5]:
            canvas.line(f"+  {name}", 36, INK)
        if len(names) > 5:
            canvas.line(f"and {len(names) - 5} more", 36, SOFT)
    return canvas.png()


def brand() -> bytes:
    """The picture of the service."""
    canvas = _Canvas()
    canvas.line("One model out of several", 60, INK)
    canvas.line("Pick fine-tuned models of the Hugging Face Hub,", 36, SOFT)
    canvas.line("choose a method, and publish the merge there.", 36, SOFT)
    return canvas.png()


def _domains(report: dict[str, Any]) -> Sequence[tuple[str, float | None, float]]:
    """(words, average's share, merge's share) of the first sets whose scores are shares."""
    found = []
    for one in (report.get("evaluation") or {}).get("sets") or []:
        metric = one["metric"]
        scores = {score["who"]: score["metrics"].get(metric) for score in one["scores"]}
        if metric != "perplexity" and isinstance(scores.get("merge"), int | float):
            words = f"{one['name']}: {figure(scores['merge'], metric)} {metric_name(metric)}"
            found.append((words, scores.get("average"), scores["merge"]))
    return found[:3]


class _Canvas:
    """Lines from the top to the bottom of a picture."""

    def __init__(self) -> None:
        self._image = Image.new("RGB", SIZE, PAPER)
        self._draw = ImageDraw.Draw(self._image)
        self._draw.rectangle((0, 0, SIZE[0], 14), BRAND)
        self._draw.text((70, SIZE[1] - 76), TITLE, BRAND, _font(34))
        self._y = 70

    def line(self, words: str, size: int, colour: str) -> None:
        """A line of text, made smaller until it fits, then cut."""
        while size > 26 and self._draw.textlength(words, _font(size)) > SIZE[0] - 140:
            size -= 2
        while self._draw.textlength(words, _font(size)) > SIZE[0] - 140:
            words = words[:-2] + "…"
        self._draw.text((70, self._y), words, colour, _font(size))
        self._y += round(size * 1.45)

    def gap(self, height: int) -> None:
        """Leave room."""
        self._y += height

    def bars(self, sets: Sequence[tuple[str, float | None, float]]) -> None:
        """A bar for each set: the merge's share, and a mark where the plain average stands."""
        width = SIZE[0] - 140
        self.gap(10)
        for words, average, merge in sets:
            self.line(words, 30, INK)
            box = (70, self._y - 4, 70 + width, self._y + 20)
            self._draw.rounded_rectangle(box, 6, "#f1f5f9")
            self._draw.rounded_rectangle((*box[:2], 70 + max(8, round(width * merge)), box[3]), 6, COLOURS["merge"])
            if isinstance(average, int | float):
                at = 70 + round(width * average)
                self._draw.rectangle((at - 2, box[1] - 6, at + 2, box[3] + 6), COLOURS["average"])
            self.gap(48)
        self.legend()

    def legend(self) -> None:
        """What the mark is, in the last line."""
        words, font = "plain average", _font(28)
        left = SIZE[0] - 70 - self._draw.textlength(words, font)
        self._draw.rectangle((left - 18, SIZE[1] - 74, left - 14, SIZE[1] - 40), COLOURS["average"])
        self._draw.text((left, SIZE[1] - 72), words, SOFT, font)

    def png(self) -> bytes:
        """The finished picture."""
        out = BytesIO()
        self._image.quantize(64).save(out, "PNG", optimize=True)
        return out.getvalue()


def _font(size: int) -> Any:
    return ImageFont.load_default(size)
