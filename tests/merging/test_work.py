"""Threads, memory and buffers of a merge."""

import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from merging.blocks import Grams
from merging.checkpoint import open_parent
from merging.crew import Crew
from merging.engine import merge, run_to_end
from merging.errors import InputError, MergeError
from merging.memory import Budget, Buffers
from merging.method import METHODS, merge_method
from merging.plan import make_plan, memory_problem
from merging.recipe import recipe_from_dict
from merging.tensors import TensorGroup
from tests.tiny_models import save_tiny


def test_a_crew_does_every_task_and_what_it_leaves() -> None:
    """Tasks that other tasks leave behind are done too, each once, on any number of threads."""
    for threads in (1, 3):
        done: list[int] = []

        def work(task: int, done: list[int] = done) -> Iterable[int]:
            done.append(task)
            return (task * 10, task * 10 + 1) if task < 10 else ()

        list(Crew(threads, work).run([1, 2, 3]))
        assert sorted(done) == [1, 2, 3, 10, 11, 20, 21, 30, 31]


def test_an_error_in_a_crew_is_raised_and_ends_it() -> None:
    """The first error comes out, not what the others say when they are told to stop."""
    started = threading.Event()

    def work(task: int) -> Iterable[int]:
        if task == 0:
            started.wait(10)
            raise ValueError("the reason")
        started.set()
        while True:
            crew.check()

    crew = Crew(2, work)
    with pytest.raises(ValueError, match="the reason"):
        list(crew.run([0, 1, 2, 3]))


def test_closing_a_crew_stops_its_threads() -> None:
    """A cancelled merge leaves no thread behind."""

    def work(task: int) -> Iterable[int]:
        while True:
            crew.check()

    crew = Crew(2, work)
    running = crew.run([1, 2])
    next(running)
    running.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("merge")]


def test_a_budget_is_never_exceeded() -> None:
    """Threads that together need more than there is wait for each other; one that needs more than all gets all."""
    budget, held, most = Budget(100), [0], [0]
    lock = threading.Lock()

    def use(size: int) -> None:
        with budget.take(size):
            with lock:
                held[0] += min(size, 100)
                most[0] = max(most[0], held[0])
            threading.Event().wait(0.005)
            with lock:
                held[0] -= min(size, 100)

    threads = [threading.Thread(target=use, args=(size,)) for size in (60, 60, 30, 500, 10, 90)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert 60 <= most[0] <= 100
    assert held == [0]


def test_buffers_are_one_thread_s_own() -> None:
    """The same memory for the same use in one thread, other memory in another one and for another use."""
    buffers, cpu = Buffers(), torch.device("cpu")
    first = buffers.get("a", 10, torch.float32, cpu)
    assert buffers.get("a", 5, torch.float32, cpu).data_ptr() == first.data_ptr()
    assert buffers.get("b", 10, torch.float32, cpu).data_ptr() != first.data_ptr()
    others: list[int] = []
    thread = threading.Thread(target=lambda: others.append(buffers.get("a", 10, torch.float32, cpu).data_ptr()))
    thread.start()
    thread.join()
    assert others != [first.data_ptr()]


def test_gram_matrices_are_read_again_where_there_is_no_room() -> None:
    """One at a time is held, or all of them."""
    read: list[int] = []

    def one(index: int) -> torch.Tensor:
        read.append(index)
        return torch.full((1, 1), float(index))

    for keep, expected in ((True, [0, 1]), (False, [0, 1, 0, 1])):
        read.clear()
        grams = Grams([lambda: one(0), lambda: one(1)], keep)
        for _ in range(2):
            assert [float(gram) for gram in grams] == [0.0, 1.0]
        assert read == expected


@pytest.mark.slow
def test_blocks_and_spans_of_any_size_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor in many spans on many threads is the tensor in one, for every method that works value by value."""
    folders = [str(save_tiny(tmp_path / str(seed), "llama", seed=seed, labels=None)) for seed in range(3)]
    for name, method in METHODS.items():
        if method.splits != "elements" or "fisher" in method.needs:
            continue
        base = {"base_model": folders[0]} if "base" in method.needs else {}
        models = folders[1 : 1 + (method.maximum_models or 2)] if base else folders
        wish = recipe_from_dict({"merge_method": name, "models": models, **base})
        parents = [open_parent(folder, Path(folder)) for folder in models]
        root = open_parent(folders[0], Path(folders[0])) if base else None
        plan = make_plan(wish, parents, root).raise_if_impossible()
        digests = set()
        for block, span, threads in ((1 << 18, 1 << 23, 1), (1 << 12, 1 << 13, 3), (1000, 1500, 2)):
            monkeypatch.setattr("merging.work.BLOCK", block)
            monkeypatch.setattr("merging.work.SPAN", span)
            out = tmp_path / f"{name}-{block}"
            digests.add(tuple(run_to_end(merge(plan, parents, out, base=root, threads=threads)).files.values()))
        assert len(digests) == 1, name


def test_a_little_memory_gives_the_same_bytes(tmp_path: Path) -> None:
    """The budget changes how much is held at a time, not what comes out."""
    folders = [save_tiny(tmp_path / str(seed), seed=seed) for seed in range(2)]
    wish = recipe_from_dict({"merge_method": "average", "models": [str(folder) for folder in folders]})
    parents = [open_parent(str(folder), folder) for folder in folders]
    plan = make_plan(wish, parents)
    reports = [
        run_to_end(merge(plan, parents, tmp_path / f"out{memory}", threads=2, memory=memory))
        for memory in (1 << 26, 1 << 31)
    ]
    assert reports[0].files == reports[1].files
    with pytest.raises(InputError, match=r"10 kB are allowed, a merge needs 67 MB"):
        run_to_end(merge(plan, parents, tmp_path / "out", memory=10_000))


def test_a_layer_too_wide_for_the_budget_is_refused_with_what_it_needs(tmp_path: Path) -> None:
    """The widest layer and the memory that its solve needs are named before anything is read."""
    from merging.roles import Role

    folders = [save_tiny(tmp_path / str(seed), seed=seed) for seed in range(2)]
    wish = recipe_from_dict(
        {
            "merge_method": "regmean",
            "models": [{"model": str(folder), "calibration": {"data": "x"}} for folder in folders],
        }
    )
    plan = make_plan(wish, [open_parent(str(folder), folder, calibration=True) for folder in folders])
    assert memory_problem(plan, 1 << 31) is None
    step = next(step for step in plan.steps if step.action == "merge")
    wide = replace(step, spec=replace(step.spec, shape=(4, 14336)), role=Role("linear", False))
    plan = replace(plan, shards=(replace(plan.shards[0], steps=(wide, *plan.shards[0].steps)),))
    problem = memory_problem(plan, 2 << 30)
    assert str(problem) == (
        f"Not enough memory: {step.name} has 14,336 inputs: its solve needs 3.5 GB, 2.1 GB are allowed. "
        "Allow 4 GB (--memory, MERGE_MEMORY), or use average."
    )
    parents = [open_parent(str(folder), folder) for folder in folders]
    with pytest.raises(InputError, match="14,336 inputs"):
        run_to_end(merge(plan, parents, tmp_path / "out", memory=2 << 30))


def test_a_method_may_not_change_its_inputs_and_need_not_fill_a_buffer(tmp_path: Path) -> None:
    """Whatever a method returns is written: a new tensor, the buffer, or one of its inputs."""
    folders = [save_tiny(tmp_path / str(seed), seed=seed) for seed in range(2)]
    parents = [open_parent(str(folder), folder) for folder in folders]

    @merge_method(title="Second", paper="none", splits="elements")
    def second_of_two(group: TensorGroup) -> torch.Tensor:
        """The second model."""
        return group.tensors[1]

    try:
        wish = recipe_from_dict({"merge_method": "second_of_two", "models": [str(folder) for folder in folders]})
        run_to_end(merge(make_plan(wish, parents), parents, tmp_path / "out", threads=2))
    finally:
        del METHODS["second_of_two"]
    merged, second = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", folders[1]))
    assert all(torch.equal(merged[name], second[name]) for name in merged if "position_ids" not in name)


def test_an_error_inside_a_method_names_the_tensor(tmp_path: Path) -> None:
    """A method that fails on a tensor ends the merge with one sentence, and leaves no finished file."""
    folders = [save_tiny(tmp_path / str(seed), seed=seed) for seed in range(2)]
    parents = [open_parent(str(folder), folder) for folder in folders]

    @merge_method(title="Broken", paper="none", splits="elements")
    def broken(group: TensorGroup) -> torch.Tensor:
        """Fails."""
        raise ArithmeticError("division by nothing")

    try:
        wish = recipe_from_dict({"merge_method": "broken", "models": [str(folder) for folder in folders]})
        with pytest.raises(MergeError, match=r".* could not be merged by broken: division by nothing\."):
            run_to_end(merge(make_plan(wish, parents), parents, tmp_path / "out", threads=2))
    finally:
        del METHODS["broken"]
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_float16_and_float32_and_bfloat16_in_one_merge(tmp_path: Path) -> None:
    """Parents of three formats are summed in float32."""
    formats = (torch.float32, torch.float16, torch.bfloat16)
    folders = [save_tiny(tmp_path / str(i), seed=i, dtype=dtype) for i, dtype in enumerate(formats)]
    wish = recipe_from_dict({"merge_method": "average", "models": [str(folder) for folder in folders]})
    parents = [open_parent(str(folder), folder) for folder in folders]
    run_to_end(merge(make_plan(wish, parents), parents, tmp_path / "out"))
    parts = [load_file(folder / "model.safetensors") for folder in folders]
    for name, values in load_file(tmp_path / "out" / "model.safetensors").items():
        torch.testing.assert_close(values, sum(part[name].float() for part in parts) / 3, rtol=1e-6, atol=1e-7)


def test_infinite_sums_of_finite_values_pass(tmp_path: Path) -> None:
    """A block whose sum overflows float32 while every value is finite is no error."""
    folders = [save_tiny(tmp_path / str(seed), seed=seed) for seed in range(2)]
    for folder in folders:
        tensors = load_file(folder / "model.safetensors")
        tensors["bert.pooler.dense.weight"].fill_(3e38)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    wish = recipe_from_dict({"merge_method": "average", "models": [str(folder) for folder in folders]})
    parents = [open_parent(str(folder), folder) for folder in folders]
    run_to_end(merge(make_plan(wish, parents), parents, tmp_path / "out"))
    merged = load_file(tmp_path / "out" / "model.safetensors")
    assert float(merged["bert.pooler.dense.weight"].min()) > 2.9e38
