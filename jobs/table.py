"""Every stage by its name, for the child process: what it does depends on what the job is for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs import stages, statistics_stages
from jobs.outline import outline_of
from jobs.stage import Stage
from jobs.stages import Steps


def _stage(name: str) -> Stage:
    def run(path: Path, request: Mapping[str, Any]) -> Steps:
        statistics = outline_of(request["recipe_yaml"]).purpose == "statistics"
        run_stage = statistics_stages.run_stage if statistics else stages.run_stage
        return (yield from run_stage(name, path, request))

    return run


TABLE: Mapping[str, Stage] = {name: _stage(name) for name in (*stages.STAGES, *statistics_stages.STAGES)}
