"""Settings of the language model of a job, and the place where a back end is built from them."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.contract.leaving import FieldName, Outlet
from offline.llm.arithmetic import Precision
from offline.llm.budget import Prices
from offline.llm.local import LocalBackend
from offline.llm.openai import OpenAIBackend
from offline.llm.protocol import Backend

_LOCAL_CALLS = 2  # one generates, one waits with the next batch; more would only queue
_REMOTE_CALLS = 16


class LLMConfig(BaseModel):
    """The model that answers and the way it is asked. A setting the chosen back end would ignore is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: Literal["local", "openai"] = "local"
    # local: a checkpoint folder or GGUF file (none: the packaged SmolLM2); openai: the served model's name
    model: str | None = None
    base_url: str | None = Field(default=None, pattern=r"^https?://[^/]")  # openai only
    api_key_env: str | None = None  # openai only; the NAME of the variable that holds the key
    # openai only; fields that prompts may carry to the server (docs/security.md). None: all of them to one on this
    # machine, none to another. A list holds on this machine, too, where a gateway may send prompts on
    may_leave: tuple[FieldName, ...] | None = None
    concurrency: int | None = Field(default=None, ge=1, le=4096)  # calls in flight; see calls_in_flight
    batch_size: int | None = Field(default=None, ge=1, le=4096)  # local only; prompts generated together
    max_attempts: int = Field(default=6, ge=1, le=100)
    timeout_seconds: float = Field(default=120.0, gt=0)  # openai only; for one whole call
    price_prompt_per_million: float = Field(default=0.0, ge=0)
    price_completion_per_million: float = Field(default=0.0, ge=0)

    @property
    def calls_in_flight(self) -> int:
        """The configured concurrency, or what suits the back end."""
        return self.concurrency or (_REMOTE_CALLS if self.backend == "openai" else _LOCAL_CALLS)

    @property
    def prices(self) -> Prices:
        return Prices(self.price_prompt_per_million, self.price_completion_per_million)

    @property
    def outlet(self) -> Outlet | None:
        """The way of prompts to a server; None for a model in this process."""
        return None if self.base_url is None else Outlet.to(self.base_url, self.may_leave)

    @model_validator(mode="after")
    def _settings_fit_the_backend(self) -> Self:
        if self.backend == "openai":
            if not self.base_url or not self.model:
                raise ValueError("backend 'openai' needs base_url and model")
            ignored = {"batch_size"} & self.model_fields_set
        else:
            ignored = {"base_url", "api_key_env", "timeout_seconds", "may_leave"} & self.model_fields_set
        if ignored:
            raise ValueError(f"backend {self.backend!r} does not use {sorted(ignored)}")
        return self


def open_backend(config: LLMConfig, workdir: Path, precision: Precision = "auto") -> Backend:
    """Build the configured back end; `workdir` takes prepared weights; a model in this process
    computes in `precision`. Nothing is loaded or connected yet."""
    if config.backend == "openai" and config.base_url and config.model:
        return OpenAIBackend(config.base_url, config.model, config.api_key_env, config.timeout_seconds)
    model = Path(config.model) if config.model else None
    return LocalBackend(workdir, model, config.batch_size or 64, precision)
