"""Merges of folders and their plans, in few words, for tests of what stands beside the weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from merging.check import check_folder
from merging.checkpoint import open_parent
from merging.engine import merge, run_to_end
from merging.errors import InputError
from merging.plan import Plan, make_plan
from merging.recipe import recipe_from_dict


def planned(*folders: Path, method: str = "average", **more: Any) -> Plan:
    """The plan of folders."""
    entries = [{"model": str(folder)} for folder in folders]
    recipe = recipe_from_dict({"merge_method": method, "models": entries, **more})
    return make_plan(recipe, [open_parent(folder.name, folder) for folder in folders])


def merged(out: Path, *folders: Path, **more: Any) -> Path:
    """The folder of a merge that is checked."""
    plan = planned(*folders, **more)
    parents = [open_parent(folder.name, folder) for folder in folders]
    run_to_end(merge(plan, parents, out, threads=1))
    for output in plan.outputs:
        check_folder(out / output.folder, plan.parameters(output))
    return out


def change(path: Path, data: Mapping[str, Any] | list[Any]) -> None:
    """Keys of a JSON file with other values (None: without the key), or a list in its place."""
    old = json.loads(path.read_text()) if path.is_file() else {}
    new = data if isinstance(data, list) else {k: v for k, v in {**old, **data}.items() if v is not None}
    path.write_text(json.dumps(new))


def sentences(*folders: Path) -> list[str]:
    """What the plan of two folders says: every problem stands beside the second."""
    problems = planned(*folders).problems
    assert {problem.where for problem in problems} <= {"models.1.model"}
    return [f"{problem.severity}: {problem}" for problem in problems]


def refusal(folder: Path) -> str:
    """Why a folder is no parent."""
    with pytest.raises(InputError) as error:
        open_parent(folder.name, folder)
    return str(error.value)
