"""An answer that is looked for once, however many ask at the same time, and kept for a moment."""

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedLook(Generic[T]):
    """Asked from the event loop: who waits holds no thread, the one look that is under way has one."""

    def __init__(self, look: Callable[[], T], seconds: float) -> None:
        """`look` runs in a thread; what it gives is good for so many seconds."""
        self._look, self._seconds = look, seconds
        self._task: asyncio.Task[T] | None = None
        self._answer: tuple[float, T] | None = None

    async def get(self) -> T:
        """The kept answer, that of the look under way, or a new one. Raises what `look` raises."""
        if self._answer is not None and time.monotonic() - self._answer[0] < self._seconds:
            return self._answer[1]
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._find())
        return await asyncio.shield(self._task)  # who leaves does not end it for the others

    async def _find(self) -> T:
        answer = await asyncio.to_thread(self._look)
        self._answer = (time.monotonic(), answer)
        return answer
