"""Every setting of the product, read once by the entrances (`app.py`, `cli.py`) and handed down as plain values."""

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from merging.errors import InputError, Problem


class Settings(BaseSettings):
    """Environment variables with the prefix `MERGE_`. The Hub's own (`HF_ENDPOINT`, `HF_HOME`) keep theirs."""

    model_config = SettingsConfigDict(env_prefix="MERGE_", frozen=True, extra="ignore")

    home: Path = Field(
        default=Path("~/.local/share/merge-my-models"),
        description="Folder of the job store, the results and the logs",
    )
    database_url: str | None = Field(default=None, description="Postgres instead of SQLite in the home folder")
    secret_key: SecretStr | None = Field(
        default=None,
        description="Encrypts the tokens of waiting jobs; required on a Space, made once in the home folder otherwise",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="Where the arithmetic runs")
    threads: int = Field(default=0, ge=0, description="Threads of a merge; 0 is one per core")
    memory: str = Field(default="2GB", description="Memory budget of a merge")
    host: str = Field(default="127.0.0.1", description="Address that the page listens on")
    port: int = Field(default=7860, ge=0, le=65535, description="Port of the page")
    proxies: int = Field(
        default=1,
        ge=1,
        description="Proxies in front of the page, one behind another, of which each appends to X-Forwarded-For",
    )
    public_url: str | None = Field(default=None, description="Address of this service in links and on cards")
    examples: Path | None = Field(default=None, description="A YAML list of merges that an empty form offers")
    keep_days: int = Field(default=7, ge=1, description="Days after which ended jobs and their results are deleted")
    job_slots: int = Field(default=1, ge=1, description="Jobs that one worker runs at a time")
    jobs_per_user: int = Field(default=5, ge=1, description="Jobs that one user may have waiting or running")
    jobs_at_most: int = Field(default=200, ge=1, description="Jobs of all users that may be waiting or running")
    job_disk: str | None = Field(default=None, description="Disk that one job may take; not set: what is free")
    bytes_per_day: str | None = Field(
        default=None, description="Bytes that one user's jobs may fetch and write in 24 hours; not set: no limit"
    )
    disk_reserve: str = Field(
        default="1GB", description="Free disk that no job may touch: below it, the running job is ended"
    )
    uploads: str = Field(default="500MB", description="Disk that uploaded files may take altogether")
    upload_hours: int = Field(default=1, ge=1, description="Hours after which an upload that nobody used is deleted")
    try_limit: str = Field(
        default="500MB",
        description="Weights of a merge, and of its parents together, up to which its page tries them; `off`: never",
    )
    log: Literal["text", "json"] = Field(default="text", description="How log lines are written; json: one object each")

    def __init__(self, **values: Any) -> None:
        """Raises InputError that names every variable at fault, never its value: it may be a secret."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InputError.of(_problem(detail) for detail in error.errors(include_url=False)) from None

    @field_validator("memory", "job_disk", "bytes_per_day", "disk_reserve", "uploads")
    @classmethod
    def _is_a_size(cls, value: str | None) -> str | None:
        try:
            if value is not None:
                parse_size(value)
        except InputError as error:
            raise ValueError(error.problem.why) from None
        return value

    @field_validator("try_limit")
    @classmethod
    def _is_off_or_a_size(cls, value: str) -> str:
        return value if value == "off" else str(cls._is_a_size(value))

    @field_validator("database_url")
    @classmethod
    def _database_is_known(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("postgres://", "postgresql://", "postgresql+", "sqlite:///")):
            raise ValueError("it begins with postgresql:// or sqlite:///")
        return value


def _problem(detail: Any) -> Problem:
    """One pydantic complaint in our words."""
    name = f"MERGE_{str(detail['loc'][0]).upper()}"
    reason = (detail.get("ctx") or {}).get("error") or detail["msg"]
    return Problem(f"{name} cannot be used", str(reason)[:1].lower() + str(reason)[1:], "Mend it or leave it out")


def parse_size(text: str) -> int:
    """Bytes in `4GB`, `512 MB` or `1000`. Raises InputError."""
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B?)\s*", text.upper())
    if match is None or match[2] not in units or float(match[1]) <= 0:
        raise InputError(f"{text} is not a size", "a size is a number and a unit", "Write 4GB or 512MB", "memory")
    return int(float(match[1]) * units[match[2]])
