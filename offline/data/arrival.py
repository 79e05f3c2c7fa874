"""How interactions enter the log: the first load, the service's stream, and files that have grown since.

The only place where the kinds of labels differ: implicit feedback gets its drawn negatives as it arrives.
"""

from __future__ import annotations

from collections.abc import Sequence

from models.contract.events import Interaction
from models.contract.schema import FeatureSchema
from offline.data.catalogue import Catalogue
from offline.data.config import LabelsConfig
from offline.data.log import InteractionLog
from offline.data.negatives import with_negatives
from offline.data.source import Source


def first_log(source: Source, catalogue: Catalogue, labels: LabelsConfig, schema: FeatureSchema) -> InteractionLog:
    """The log of a data set. DataError names every rule that the data break."""
    source.check(schema).raise_if_broken()
    log = InteractionLog.sorted_by_time(source.interactions(), list(catalogue.users), list(catalogue.items))
    return _arrived(labels, schema, log, 0)


def read_again(
    log: InteractionLog, source: Source, catalogue: Catalogue, labels: LabelsConfig, schema: FeatureSchema
) -> tuple[InteractionLog, int]:
    """The log with what the source holds and the log does not, and how many interactions those are.

    Users and items that are new in the catalogue get their numbers even if nobody has interacted yet. What has
    vanished from the source stays in the log.
    """
    source.check(schema).raise_if_broken()
    grown, added = log.with_rows(source.interactions(), list(catalogue.users), list(catalogue.items))
    return _arrived(labels, schema, grown, len(log)), added


def streamed(
    log: InteractionLog, entries: Sequence[Interaction], mark: str, labels: LabelsConfig, schema: FeatureSchema
) -> tuple[InteractionLog, int, int]:
    """The log with the service's interactions up to the stream entry ``mark``; how many were new, how many refused
    because their value lies outside of what the schema accepts. Types that are no history are left out."""
    rated = [one for one in entries if one.type in schema.history_types]
    accepted = [one for one in rated if schema.accepts(one.value)]
    grown, added = log.extended(accepted, mark)
    return _arrived(labels, schema, grown, len(log)), added, len(rated) - len(accepted)


def _arrived(labels: LabelsConfig, schema: FeatureSchema, log: InteractionLog, from_row: int) -> InteractionLog:
    return with_negatives(labels, log, schema.liked_above, from_row) if labels.kind == "implicit" else log
