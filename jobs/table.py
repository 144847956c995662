"""Every stage by its name, for the child process: what it does depends on what the job is for."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jobs import settle, stages, statistics_stages, verify_stages
from jobs.job import Purpose
from jobs.outline import outline_of
from jobs.stage import Stage
from jobs.stages import Steps

RUN: Mapping[Purpose, Callable[[str, Path, Mapping[str, Any]], Steps]] = {
    "merge": stages.run_stage,
    "statistics": statistics_stages.run_stage,
    "verify": verify_stages.run_stage,
}


def _stage(name: str) -> Stage:
    def run(path: Path, request: Mapping[str, Any]) -> Steps:
        run_stage = RUN[outline_of(request["recipe_yaml"]).purpose]
        return (yield from run_stage(name, path, request))

    return run


TABLE: Mapping[str, Stage] = {
    **{name: _stage(name) for name in (*stages.STAGES, *statistics_stages.STAGES, *verify_stages.STAGES)},
    "settle": settle.settle,
}
