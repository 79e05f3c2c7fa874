"""A whole installation in small: files, a configuration, a real Valkey, a language model that counts and an encoder
that costs nothing. The jobs run in this process. Training is replaced."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest
import redis

from models.contract.artifact import METADATA_KEY, ArtifactManifest, ModelName
from models.contract.events import Interaction
from models.contract.keys import Keys
from models.contract.knowledge import KnowledgeRecord
from models.contract.prefixes import own_folder
from models.contract.schema import fingerprint
from offline.config import JobConfig
from offline.data.catalogue import Catalogue
from offline.data.config import DataConfig
from offline.data.files import write_bytes
from offline.data.log import InteractionLog
from offline.jobs.ledger import RunLedger
from offline.jobs.runs import Run
from offline.jobs.steps import Job
from offline.knowledge.run import log_digest
from offline.knowledge.vectors import Knowledge
from offline.llm.protocol import Completion, Prompt
from offline.refresh import all_stages
from offline.training.candidates import Choice
from offline.training.report import TrainingReport
from offline.training.samples import split_samples
from tests.offline.graphs import OPSET, by_popularity
from tests.offline.knowledge.fakes import HashEncoder, weighed
from tests.synthetic import PARTITION_SIZE, SCHEMA, Synthetic, job_config, synthetic

USERS, ITEMS, EVENTS = 24, 20, 12
START_MS = 1_600_000_000_000
LATER_MS, EARLIER_MS = START_MS + 100_000_000, START_MS - 100_000_000
"""Later, and earlier, than everything in the files."""


class CountingModel:
    """Writes down every prompt that it answers, in a file, so that several processes share the account.

    ``fails`` is raised instead of an answer, if it is set. Answers are good ones, unless ``bad`` is set.
    """

    model_id = "counting"
    batch_size = 1

    def __init__(self, paid: Path) -> None:
        self._paid = paid
        self.fails: Exception | None = None
        self.bad = False

    async def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
        answers = []
        for prompt in prompts:
            text = prompt.messages[-1][1]
            if self.fails is not None:
                raise self.fails
            with self._paid.open("a") as file:
                file.write(json.dumps(text) + "\n")
            answer = "I like it. " * 9 if self.bad else weighed(prompt) if prompt.choices else answer_to(text)
            answers.append(Completion(answer, prompt_tokens=len(text) // 4, completion_tokens=12))
        return answers

    async def close(self) -> None:
        return None

    def paid(self) -> list[str]:
        """Every prompt that was answered, in order."""
        return [json.loads(line) for line in self._paid.read_text().splitlines()] if self._paid.exists() else []


def answer_to(text: str) -> str:
    """A sentence that depends on the whole prompt, and that the quality rules accept."""
    digest = hashlib.sha256(text.encode()).digest()
    adjectives = ("quiet", "loud", "old", "new", "dark", "bright", "slow", "quick")
    nouns = ("stories", "heroes", "towns", "songs", "wars", "jokes", "families", "secrets")
    words = [f"{adjectives[byte % 8]} {nouns[byte // 8 % 8]}" for byte in digest[:4]]
    return f"They enjoy {words[0]} with {words[1]}, and would rather see {words[2]} than {words[3]}."


@dataclass
class Pipeline:
    """An installation in ``folder``. Everything that is published lies under ``prefix``."""

    folder: Path
    url: str
    prefix: str
    model: CountingModel
    data: Synthetic
    config: JobConfig

    @property
    def job(self) -> Job:
        return Job(self.config, self.folder / "data")

    @property
    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)

    def refresh(self, **options: Any) -> dict[str, Any]:
        """One run; its line in the ledger."""
        run = Run(replace(self.job, **options), "refresh")
        with run.working():
            all_stages(run)
        return run.record.document()

    def paid_by(self, **options: Any) -> tuple[dict[str, Any], list[str]]:
        """A run's line, and the prompts it paid."""
        before = len(self.model.paid())
        entry = self.refresh(**options)
        return entry, self.model.paid()[before:]

    def runs(self) -> list[dict[str, Any]]:
        return [run.document() for run in RunLedger(self.config.workdir).runs()]

    def stream(self, *events: tuple[str, str, float, int]) -> None:
        """Write to the stream as the service does when events (user, item, value, time) come in."""
        client = self.redis
        for user, item, value, time_ms in events:
            interaction = Interaction(user_id=user, item_id=item, type="rating", value=value, time_ms=time_ms)
            fields: Any = interaction.to_stream()
            client.xadd(Keys(self.prefix).interactions, fields)
        client.close()

    def published(self) -> dict[str, bytes]:
        """Every knowledge record, without its times; every other key of a release, by name only."""
        client = self.redis
        blobs: dict[str, bytes] = {}
        keys: Any = client.keys(f"{self.prefix}:*:k:*")
        for key in sorted(keys):
            blob: Any = client.get(key)
            name = key.decode().removeprefix(self.prefix)
            owner, space = name.partition(":{")[2].partition("}:k:")[::2]
            record = KnowledgeRecord.unpack(blob, owner.partition(":")[2], space)
            blobs[name] = replace(record, written_at=0, expires_at=0).pack()
        client.close()
        return blobs

    def copy(self, folder: Path, prefix: str) -> Pipeline:
        """The same installation once more: work folder, artifacts, everything in Redis, and what was paid."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        client = self.redis
        keys: Any = client.keys(f"{self.prefix}:*")
        for key in keys:
            content: Any = client.dump(key)
            client.restore(prefix + key.decode().removeprefix(self.prefix), max(0, int(client.pttl(key))), content)
        client.close()
        mine, its = (own_folder(folder / "artifacts", name) for name in (self.prefix, prefix))
        if mine.is_dir():
            mine.rename(its)
        config = self.config.model_copy(update={"workdir": folder / "work"})
        return replace(self, folder=folder, prefix=prefix, model=CountingModel(folder / "paid.jsonl"), config=config)

    def copy_of_the_files(self) -> Pipeline:
        """The same, with the data set's files of its own folder: a copy reads those of its original."""
        return replace(
            self, config=self.config.model_copy(update={"data": DataConfig.model_validate(source_of(self.folder))})
        )

    def with_config(self, **tables: Any) -> Pipeline:
        """Some tables of the configuration changed."""
        document = self.config.model_dump(mode="json", exclude_unset=True)
        for name, changes in tables.items():
            document[name] = {**document[name], **changes}
        return replace(self, config=JobConfig.model_validate(document))

    def close_partition_of(self, user: str, time_ms: int = LATER_MS) -> int:
        """Stream as many events of a user as close the open partition; how many those are."""
        log = InteractionLog.load(self.job.log)
        mine = log.by_user().of_user(log.user_ids.index(user)) if user in log.user_ids else ()
        missing = PARTITION_SIZE - len(mine) % PARTITION_SIZE
        self.stream(*((user, f"i{at}", 5.0, time_ms + at) for at in range(missing)))
        return missing


def with_groups(installation: Pipeline) -> Pipeline:
    """An installation that asks about four groups of items and three of users, too."""
    schema = installation.config.feature_schema.model_dump(mode="json", exclude_unset=True)
    groups = [{"name": "groups", "side": side, "dim": 2} for side in ("item", "user")]
    return installation.with_config(
        feature_schema={"knowledge": [*schema["knowledge"], *groups]},
        knowledge={"groups": {"items": 4, "users": 3, "members": 4, "least_users": 3}},
    )


def pipeline(
    folder: Path, url: str, prefix: str, *, users: int = USERS, items: int = ITEMS, events: int = EVENTS
) -> Pipeline:
    """An installation whose schema reads the producers ``text`` and ``liber``. ``events`` are those of each user."""
    folder.mkdir(parents=True, exist_ok=True)
    data = synthetic(folder / "unused", users=users, items=items, events=events)
    log = data.log
    write_csv(
        folder / "interactions.csv",
        ("user", "item", "value", "time"),
        zip(
            [log.user_ids[user] for user in log.user],
            [log.item_ids[item] for item in log.item],
            log.value.tolist(),
            (START_MS + log.time_ms).tolist(),
            strict=True,
        ),
    )
    write_csv(
        folder / "users.csv",
        ("id", "age", "occupation"),
        ((name, profile["age"], profile["occupation"]) for name, profile in data.catalogue.users.items()),
    )
    write_csv(
        folder / "items.csv",
        ("id", "title", "year", "genres"),
        ((name, film["title"], film["year"], "|".join(film["genres"])) for name, film in data.catalogue.items.items()),
    )
    document = job_config(folder / "work").model_dump(mode="json")
    document |= {
        "name": "small",
        "data": source_of(folder),
        "feature_schema": SCHEMA.with_knowledge(("text", "liber")).model_dump(mode="json"),
        "llm": {"concurrency": 1},
    }
    document["publish"]["max_auc_drop"] = 1.0
    model = CountingModel(folder / "paid.jsonl")
    return Pipeline(folder, url, prefix, model, data, JobConfig.model_validate(document))


def source_of(folder: Path) -> dict[str, Any]:
    """The ``[data]`` part."""
    return {
        "source": "files",
        "interactions": {
            "paths": [str(folder / "interactions.csv")],
            "user": "user",
            "item": "item",
            "value": "value",
            "time": "time",
            "time_unit": "ms",
        },
        "users": {
            "paths": [str(folder / "users.csv")],
            "id": "id",
            "columns": {"age": {"type": "int"}, "occupation": {}},
        },
        "items": {
            "paths": [str(folder / "items.csv")],
            "id": "id",
            "columns": {"title": {}, "year": {"type": "int"}, "genres": {"type": "list"}},
        },
    }


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def patched(patch: pytest.MonkeyPatch, installation: Pipeline) -> None:
    """Let the jobs of this process find the counting model, the cheap encoder, the installation's Redis, and what was
    trained before."""
    patch.setattr("offline.llm.session.open_backend", lambda config, workdir, precision: installation.model)
    timed = CountingModel(installation.folder.with_suffix(".timed"))
    patch.setattr("offline.jobs.rates.open_backend", lambda config, workdir, precision: timed)
    for module in ("offline.knowledge.run", "offline.jobs.work", "offline.jobs.rates"):
        patch.setattr(f"{module}.TextEncoder", lambda name, tokens, precision: HashEncoder())
    patch.setitem(sys.modules, "offline.training.run", Training())
    patch.setenv("LORANK_REDIS_URL", installation.url)
    patch.setenv("LORANK_KEY_PREFIX", installation.prefix)
    patch.setenv("LORANK_ARTIFACTS", str(installation.folder / "artifacts"))


class Training(ModuleType):
    """In place of offline.training.run, which needs minutes of a busy machine: a model that goes by popularity, whose
    file depends on what was trained on as the real one's does."""

    def __init__(self) -> None:
        super().__init__("offline.training.run")

    def train(
        self,
        config: JobConfig,
        catalogue: Catalogue,
        log: InteractionLog,
        knowledge: Knowledge,
        folder: Path,
        choice: Choice | None = None,
    ) -> TrainingReport:
        schema, splits = knowledge.schema(config.feature_schema), split_samples(config.samples, log)
        version = fingerprint(
            [schema.fingerprint, sorted(space.fingerprint for space in knowledge.spaces), log_digest(log)]
        )
        manifest = ArtifactManifest(
            model=ModelName(name="small-din", version=version),
            architecture="din",
            feature_schema=schema,
            spaces=knowledge.spaces,
            inputs=("item_numeric",),
            item_rows=len(log.item_ids) + 1,
            trained_until_ms=int(log.time_ms[splits.trained_rows - 1]),
            metrics={"validation_auc": 0.7},
        )
        model = onnx.helper.make_model(by_popularity(), opset_imports=[OPSET], ir_version=9)
        onnx.helper.set_model_props(model, {METADATA_KEY: manifest.model_dump_json()})
        content = bytes(model.SerializeToString())
        digest_ = hashlib.sha256(content).hexdigest()
        write_bytes(folder / f"small-{digest_[:12]}.onnx", content)
        report = TrainingReport(
            log_rows=len(log),
            trained_rows=splits.trained_rows,
            trained_until_ms=manifest.trained_until_ms,
            samples={name: len(rows) for name, rows in splits.rows.items()},
            artifact=f"small-{digest_[:12]}.onnx",
            sha256=digest_,
            model_version=version,
            parity=0.0,
            metrics=dict(manifest.metrics),
            table=[],
            architecture="din",
        )
        report.save(folder / "report.json")
        return report


def kinds(prompts: Iterable[str]) -> Counter[str]:
    """How many prompts of each kind: "summary", "shift", "item"."""
    kinds = {"Some time ago": "shift", "Describe the": "item"}
    return Counter(
        next((kind for start, kind in kinds.items() if prompt.startswith(start)), "summary") for prompt in prompts
    )
