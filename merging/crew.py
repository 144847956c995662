"""Threads that work off a list of tasks."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

T = TypeVar("T")


class Stopped(Exception):
    """Raised inside a task whose crew has stopped."""


class Crew(Generic[T]):
    """`threads` threads that call `work` on every task. A task may leave others behind: they go first."""

    def __init__(self, threads: int, work: Callable[[T], Iterable[T]]) -> None:
        self._threads, self._work = threads, work
        self._tasks: deque[T] = deque()
        self._busy = 0
        self._changed = threading.Condition()
        self._stopped = threading.Event()

    def run(self, tasks: Iterable[T]) -> Iterator[None]:
        """Work off the tasks, in about their order; yields twice a second.

        Raises what a task raised, when the other threads have stopped. Closing the iterator stops them.
        """
        self._tasks = deque(tasks)
        with ThreadPoolExecutor(self._threads, thread_name_prefix="merge") as pool:
            waiting = {pool.submit(self._thread) for _ in range(self._threads)}
            try:
                while waiting:
                    finished, waiting = wait(waiting, timeout=0.5, return_when=FIRST_EXCEPTION)
                    for future in finished:
                        future.result()
                    yield
            except BaseException:
                self._stop()
                raise

    def check(self) -> None:
        """Long work calls this between two blocks. Raises Stopped."""
        if self._stopped.is_set():
            raise Stopped

    def _stop(self) -> None:
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()

    def _thread(self) -> None:
        while (task := self._take()) is not None:
            left: list[T] = []
            try:
                left = list(self._work(task[0]))
            except Stopped:
                return
            except BaseException:
                self._stop()
                raise
            finally:
                with self._changed:
                    self._tasks.extendleft(reversed(left))
                    self._busy -= 1
                    self._changed.notify_all()

    def _take(self) -> tuple[T] | None:
        """The next task; None when there is none left and no thread that could leave one."""
        with self._changed:
            while not self._stopped.is_set():
                if self._tasks:
                    self._busy += 1
                    return (self._tasks.popleft(),)
                if not self._busy:
                    return None
                self._changed.wait()
        return None
