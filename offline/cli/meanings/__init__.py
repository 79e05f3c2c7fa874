"""The meaning of every key of a configuration, in one sentence each: what ``config --defaults`` prints.

A field that describes itself (``Field(description=...)``) needs no entry. Entries are by the class that a table is, so
that tables of one class are described once; a class has those of the classes it derives from.

data       where data are, and what a sample and the schema are
knowledge  the language model and the producers of knowledge
training   training, publication, retrieval, reranking and studies
"""

from __future__ import annotations

from pydantic import BaseModel

from offline.cli.meanings.data import DATA
from offline.cli.meanings.knowledge import KNOWLEDGE
from offline.cli.meanings.training import TRAINING

MEANINGS = {**DATA, **KNOWLEDGE, **TRAINING}


def meaning(model: type[BaseModel], key: str) -> str:
    """The meaning of a key of a table; "" if nothing says it."""
    described = model.model_fields[key].description
    entries = (MEANINGS.get(of.__name__, {}).get(key) for of in model.__mro__)
    return described or next((entry for entry in entries if entry), "")
