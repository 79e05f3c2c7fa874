"""The texts about users and items, with the prompts that they answer, published for people to read: `[publish] texts`.

They are their users' data: nothing is published of who is forgotten, and what is published ends as knowledge does.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from models.contract.requests import TEXTS_SECONDS, OwnerText, OwnerTexts
from offline.data.catalogue import Catalogue
from offline.data.log import InteractionLog
from offline.jobs.llm_requests import ask_of, imported_texts, kinds_of_texts
from offline.jobs.steps import Job
from offline.knowledge.knowledge_texts import KnowledgeTexts
from offline.knowledge.prompts import item_prompt
from offline.knowledge.run import producers_of
from offline.llm.session import open_session
from offline.publish.bulk import Bulk
from offline.publish.connection import Store
from offline.publish.records import chunks
from offline.publish.tombstones import TombstoneWatch

Owned = tuple[str, OwnerText]
"""The id of a user or an item, and a text about it."""


def publish_texts(job: Job, store: Store, catalogue: Catalogue, log: InteractionLog) -> dict[str, int]:
    """Publish the texts that are stored; asks nothing. Numbers of owners by side."""
    kinds = kinds_of_texts(job, producers_of(job.config.feature_schema))
    if not kinds:
        return {}
    watch = TombstoneWatch(store, job.config.workdir)
    with open_session(job.config.llm, job.llm, dry_run=True) as session:
        model = session.account.model_id
        texts = KnowledgeTexts(job.domain(catalogue, log), ask_of(job, session), imported_texts(job))
        of_users = (entry for entry in _of_users(texts, kinds, log, model) if not watch.blocks(entry[0]))
        users = _write(store, store.keys.user_texts, of_users, watch)
        items = _write(store, store.keys.item_texts, _of_items(job, texts, catalogue, log, model), None)
        return {"users": users, "items": items}


def _of_users(texts: KnowledgeTexts, kinds: Iterable[str], log: InteractionLog, model: str) -> Iterator[Owned]:
    """Summaries and shifts, partition by partition."""
    prompts_of = {"summaries": ("summary", texts.summary_prompts)} if "summaries" in kinds else {}
    if "shifts" in kinds:
        assert texts.shifts
        prompts_of["shifts"] = ("shift", dict(texts.shift_prompts))
    for name, (kind, prompts) in prompts_of.items():
        for at, text in enumerate(getattr(texts, name).texts):
            if text:
                prompt = prompts[at].messages[-1][1] if at in prompts else ""
                owner = log.user_ids[texts.partitions.user[at]]
                yield owner, OwnerText(producer="liber", kind=kind, text=text, prompt=prompt, model=model)


def _of_items(
    job: Job, texts: KnowledgeTexts, catalogue: Catalogue, log: InteractionLog, model: str
) -> Iterator[Owned]:
    vocabulary, tokens = job.config.data.texts, job.config.knowledge.item_tokens
    if not {"items"} & set(kinds_of_texts(job, producers_of(job.config.feature_schema))):
        return
    for item, text in zip(log.item_ids, texts.items.texts, strict=True):
        if text:
            prompt = item_prompt(vocabulary, catalogue.items.get(item, {}), tokens).messages[-1][1]
            yield item, OwnerText(producer="items", kind="item", text=text, prompt=prompt, model=model)


def _write(store: Store, key: Callable[[str], str], owned: Iterable[Owned], watch: TombstoneWatch | None) -> int:
    """Write the texts of each owner; how many owners. Those of users who are forgotten meanwhile are deleted again."""
    of_owner: defaultdict[str, list[OwnerText]] = defaultdict(list)
    for owner, text in owned:
        of_owner[owner].append(text)
    now = time.time_ns() // 1_000_000
    with Bulk(store.redis) as bulk:
        for owners in chunks(of_owner):
            documents = [OwnerTexts(owner=owner, made_ms=now, texts=tuple(of_owner[owner])) for owner in owners]
            blobs = [document.model_dump_json().encode() for document in documents]
            bulk.set([key(owner) for owner in owners], blobs, now // 1000 + TEXTS_SECONDS)
            if watch is not None:
                bulk.delete([key(owners[at]) for at in watch.look(owners)])
    return len(of_owner)
