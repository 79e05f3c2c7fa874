"""Manifests: of a CTR model (inside its ONNX file) and of a release (in Redis, behind the live pointer); and
the note of a model that was refused.

A release is complete when its manifest exists: the manifest is written last.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from models.contract.knowledge import Space
from models.contract.schema import FeatureSchema, FrozenConfig

FORMAT: Literal[3] = 3
"""Format 1 had one space per side; in format 2 every history was padded to the longest."""

METADATA_KEY = "lorank.manifest"
"""Name of the ONNX metadata property that holds the JSON of the artifact manifest."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


REMEDY = "`python -m offline publish` writes it again"
"""What to do about a file of the live release that is damaged or missing."""


class ArtifactError(ValueError):
    """An artifact or a release that this program must not use."""


class ShortageError(OSError):
    """This process cannot read a file just now, whatever is in it. The message says what it lacks, and the remedy."""


def unreadable(name: str, error: Exception, remedy: str = REMEDY) -> ArtifactError:
    """The error of a file, called ``name``, that could not be read. ShortageError instead, if it is not the file's
    fault."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        raise ShortageError(f"{name} cannot be read now: {error}; allow more descriptors (`ulimit -n`)") from error
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        raise ShortageError(f"{name} cannot be read now: {error or 'no memory is left'}; allow more memory") from error
    return ArtifactError(f"{name} cannot be read: {error}; {remedy}")


def verify_file(path: Path, sha256: str, name: str) -> None:
    """ArtifactError, which calls the file ``name``, unless it is the published one; ShortageError."""
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(name, error) from error
    if actual != sha256:
        raise ArtifactError(f"{name} has sha256 {actual}, not {sha256}; {REMEDY}")


class ModelName(BaseModel):
    """The name by which a response calls the model that scored it."""

    model_config = FrozenConfig

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class ArtifactManifest(BaseModel):
    """A CTR model's inputs, spaces and origin. ``metrics`` were measured offline, on the named splits."""

    model_config = FrozenConfig

    format: Literal[3] = FORMAT
    model: ModelName
    architecture: str
    feature_schema: FeatureSchema
    spaces: tuple[Space, ...] = ()
    inputs: tuple[str, ...]
    item_rows: Annotated[int, Field(ge=1)]
    trained_until_ms: int
    metrics: Mapping[str, float] = {}

    @model_validator(mode="after")
    def _spaces_fill_the_schema(self) -> ArtifactManifest:
        read = {(spec.key, spec.rows, spec.dim) for spec in self.feature_schema.knowledge}
        given = {(space.key, space.rows, space.dim) for space in self.spaces}
        if read != given or len(given) != len(self.spaces):
            raise ValueError(f"the schema reads {sorted(read)}, the spaces are {sorted(given)}")
        return self

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> ArtifactManifest:
        """The manifest inside an ONNX file's metadata; ArtifactError if it is absent or not understood."""
        if METADATA_KEY not in metadata:
            raise ArtifactError(f"model carries no {METADATA_KEY} metadata")
        try:
            return cls.model_validate_json(metadata[METADATA_KEY])
        except ValidationError as error:
            raise ArtifactError(f"model manifest is not understood: {error}") from error


FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,200}$")]

Role = Literal["matching", "neighbours"]
"""The purpose of an index of items. ``matching``: items whose vectors have the largest inner products with a
user's vector of the same name. ``neighbours``: items like those that a user liked."""


class ItemIndex(BaseModel):
    """An index of item vectors, a FAISS file inside the artifact store.

    ``space`` is "item/autograph" or the like; ids in the file are the items' hashes (``events.item_hash``) as signed
    numbers. ``effort`` is how much of it a search looks at: lists of an IVF index, or candidates of an HNSW graph; 0
    for a flat one. ``recall`` was measured with it: which share of the ``top`` nearest items of sampled queries it
    finds.
    """

    model_config = FrozenConfig

    space: str
    file: FileName
    sha256: Digest
    kind: Literal["flat", "ivf", "hnsw"]
    effort: Annotated[int, Field(ge=0)]
    items: Annotated[int, Field(ge=1)]
    top: Annotated[int, Field(ge=1)]
    recall: Annotated[float, Field(ge=0, le=1)]


class ItemSnapshot(BaseModel):
    """A release's item table at one moment, in files of the artifact store; see ``snapshot``.

    ``columns`` maps names of columns to digests, which name their files: what two releases share lies there once. They
    are those of the item table, and those that the model's item graphs gave for its rows. ``items`` rows are used, the
    unknown item not counted; others are spare. ``changes`` is the entry of the stream of changes up to which it is
    current: later entries name items whose records are newer.
    """

    model_config = FrozenConfig

    format: Literal[1] = 1
    changes: Annotated[str, Field(pattern=r"^[0-9]+-[0-9]+$")]
    items: Annotated[int, Field(ge=1)]
    columns: Mapping[str, Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]]


class ItemPopularity(BaseModel):
    """Recent likes of items, a file of the artifact store (``popularity``): of the last ``days`` before the newest
    interaction, of ``items`` that have any."""

    model_config = FrozenConfig

    file: FileName
    sha256: Digest
    days: Annotated[float, Field(gt=0)]
    items: Annotated[int, Field(ge=0)]


class ReleaseManifest(BaseModel):
    """One release: a model artifact and the data it was published with.

    ``artifact`` is a file name inside the artifact store; ``parts`` are the files of the split model, in the folder
    beside it, with their digests (models/split_model.py), none of a model that runs as a whole; ``directory_blocks``
    counts the item directory's keys; ``spaces`` maps "user/liber" and the like to fingerprints; ``indexes`` find
    candidates for requests that bring none, and ``popularity`` says which are popular there, None that all likes count
    alike; ``snapshot`` is its item table as files, without which no service loads it; ``configuration`` is the name of
    the one that published it, which earlier versions did not write; ``nobody`` are the ids that stand for nobody,
    None for those of ``models.contract.ids``.
    """

    model_config = FrozenConfig

    format: Literal[3] = FORMAT
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    created_at: int
    artifact: FileName
    artifact_sha256: Digest
    model: ModelName
    schema_fingerprint: str
    spaces: Mapping[str, str]
    items: int
    directory_blocks: int
    metrics: Mapping[str, float] = {}
    indexes: Mapping[Role, ItemIndex] = {}
    parts: Mapping[FileName, Digest] = {}
    snapshot: ItemSnapshot | None = None
    popularity: ItemPopularity | None = None
    configuration: str | None = None
    nobody: tuple[str, ...] | None = None

    def to_json(self) -> str:
        """Without what is not there: earlier versions refuse what they do not know."""
        optional = ("indexes", "parts", "snapshot", "popularity", "configuration", "nobody")
        absent = {name for name in optional if getattr(self, name) in (None, {})}
        return self.model_dump_json(exclude=absent)

    def check(self, artifact: ArtifactManifest) -> None:
        """ArtifactError unless the artifact expects exactly the schema and the spaces of this release."""
        if artifact.feature_schema.fingerprint != self.schema_fingerprint:
            raise ArtifactError(
                f"release {self.id}: the model was trained on schema {artifact.feature_schema.fingerprint}, "
                f"the release holds {self.schema_fingerprint}"
            )
        expected = {space.key: space.fingerprint for space in artifact.spaces}
        if expected != dict(self.spaces):
            raise ArtifactError(
                f"release {self.id}: the model was trained on spaces {expected}, the release holds {dict(self.spaces)}"
            )


class RefusedModel(BaseModel):
    """A model that the gate kept from going live, in Redis until another one goes live or somebody accepts it.

    ``release`` is the id that it would have had, ``live`` the release that stayed; ``reasons`` are sentences, ``at`` is
    unix seconds, ``max_auc_drop`` the bound that was in force.
    """

    model_config = FrozenConfig

    release: str
    live: str
    reasons: tuple[str, ...]
    at: int
    max_auc_drop: float

    @classmethod
    def parse(cls, document: bytes | str | None) -> RefusedModel | None:
        """The model that a JSON document names; None without one, or for one of another version."""
        try:
            return None if document is None else cls.model_validate_json(document)
        except ValidationError:
            return None
