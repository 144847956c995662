"""Every setting of the product, read once by the entrances (`app.py`, `cli.py`) and handed down as plain values."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


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
    public_url: str | None = Field(default=None, description="Address of this service in links and on cards")
    keep_days: int = Field(default=7, ge=1, description="Days after which ended jobs and their results are deleted")
    job_slots: int = Field(default=1, ge=1, description="Jobs that one worker runs at a time")
    jobs_per_user: int = Field(default=5, ge=1, description="Jobs that one user may have waiting or running")
