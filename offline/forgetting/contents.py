"""What is stored by content: answers of the language model, encoded texts and hidden states of users.

Each has the mark of its owner beside it since 2026-11-30. What was stored before gets one here: everybody's prompts and
texts are made again from the log and the stored answers, as a refresh makes them, and nothing is asked or encoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from models.contract.requests import Records
from offline.data.catalogue import DataError
from offline.data.log import InteractionLog
from offline.jobs.llm_requests import ABOUT_NOBODY, ask_of, data_of, kinds_of_texts, knowledge_run
from offline.jobs.steps import Job
from offline.knowledge.pooling import EncoderError
from offline.knowledge.run import owned_records, producers_of, remove_owned
from offline.llm.account import CACHE_FILE
from offline.llm.cache import ResponseCache, former_keys
from offline.llm.protocol import Answers, PermanentError, Prompt
from offline.llm.session import LLMSession, open_session
from offline.publish.erasure import Removed
from offline.store import owner_mark

PromptsByMark = dict[str, dict[str, Prompt]]
"""Prompts about users, by the mark of the user and the key of the answer."""


def note_owners(job: Job, prompts: PromptsByMark | None = None) -> str:
    """Note whose the stored answers, vectors and states are that today's settings make of the log; "" or why some
    cannot be told. ``prompts`` gets those about the users whose marks it has, by the keys that answers have."""
    names = producers_of(job.config.feature_schema)
    kinds = kinds_of_texts(job, names)
    if not kinds or not InteractionLog.is_saved(job.log):
        return ""
    try:
        catalogue, log = data_of(job)
        with open_session(job.config.llm, job.llm, dry_run=True) as session:
            ask = ask_of(job, _NotingOwners(session, {} if prompts is None else prompts))
            run = knowledge_run(job, catalogue, log, ask, session.account.model_id)
            for kind in kinds:
                if kind not in ABOUT_NOBODY:
                    getattr(run.inputs_of(names[0]).texts, kind)
            run.note_owners(former=True, states="marc" in names)
    except (DataError, PermanentError, EncoderError, OSError) as error:
        return (
            "answers and vectors that an earlier version stored could not be told by owner "
            f"({type(error).__name__}): remove llm/{CACHE_FILE} and knowledge/ of the work folder to be rid of them"
        )
    return ""


def remove_contents(job: Job, _: InteractionLog, users: Iterable[str], removed: Removed) -> None:
    """Remove what these users alone own. CacheError and DataError for damaged stores."""
    names = {owner_mark(user): user for user in users}
    if (job.llm / CACHE_FILE).is_file():
        with ResponseCache(job.llm / CACHE_FILE) as cache:
            for mark, user in names.items():
                removed[user, "answers"] += cache.remove_owner(mark)
            cache.compact()
    for (mark, store), count in remove_owned(job.knowledge, names).items():
        removed[names[mark], store] += count


def content_records(job: Job, _: InteractionLog, user: str) -> Records:
    """Answers about a user, and addresses of encoded texts and hidden states."""
    mark, answers = owner_mark(user), list[Any]()
    if (job.llm / CACHE_FILE).is_file():
        with ResponseCache(job.llm / CACHE_FILE) as cache:
            answers = cache.owned(mark)
    return {"answers": answers, **owned_records(job.knowledge, mark)}


class _NotingOwners:
    """A session that asks nothing, and notes the owners of the stored answers, also of those with an earlier name."""

    def __init__(self, session: LLMSession, prompts: PromptsByMark) -> None:
        self._session, self._prompts = session, prompts

    def ask_all(self, prompts: Sequence[Prompt], progress_label: str) -> Answers:
        cache, model = self._session.cache, self._session.account.model_id
        for prompt in prompts:
            if prompt.owner in self._prompts:
                self._prompts[prompt.owner] |= dict.fromkeys(former_keys(model, prompt), prompt)
        keys = [(key, prompt.owner) for prompt in prompts if prompt.owner for key in former_keys(model, prompt)]
        stored = cache.get_many([key for key, _ in keys]).keys() | cache.refused([key for key, _ in keys], 1)
        cache.note_owners(pair for pair in keys if pair[0] in stored)
        return self._session.ask_all(prompts, progress_label)
