"""The study of faithfulness: stored answers alone, by kind of text, and nothing is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from offline.jobs.llm_requests import ask_of
from offline.jobs.steps import Job
from offline.knowledge.knowledge_texts import KnowledgeTexts
from offline.llm.protocol import Prompt
from offline.llm.session import open_session
from research.studies.faithfulness import stored_faithfulness
from tests.offline.llm.fakes import FakeBackend
from tests.offline.pipeline import answer_to
from tests.synthetic import synthetic


def test_stored_answers_are_counted_by_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = synthetic(tmp_path / "synthetic", users=6, items=9, events=12)

    def reply(prompt: Prompt) -> str:
        text = prompt.messages[-1][1]
        invents = "Describe the" in text and '0"' in text
        return answer_to(text) + (" It was made by Joel Coen in 1873." if invents else "")

    backend = FakeBackend(reply=reply)
    monkeypatch.setattr("offline.llm.session.open_backend", lambda config, workdir, precision: backend)
    job = Job(data.config.model_copy(update={"workdir": tmp_path}), tmp_path)
    with open_session(job.config.llm, job.llm) as session:
        texts = KnowledgeTexts(job.domain(data.catalogue, data.log), ask_of(job, session))
        assert texts.items
        assert texts.summaries
    calls = backend.calls
    result = stored_faithfulness(job, data.catalogue, data.log)
    assert backend.calls == calls
    counts = {kind: of.document() for kind, of in result.counts.items()}
    invented = sum('0"' in f'{features["title"]}"' for features in data.catalogue.items.values())
    assert counts["items"] == {"answers": 9, "unfaithful": invented, "year": invented, "title": 0, "name": invented}
    assert counts["interest summaries"]["unfaithful"] == 0
    assert "interest shifts" not in counts, "nobody asked for them"
    page = result.markdown(shown=1)
    assert page.count("\n- items, ") == 1
    assert f"| {backend.model_id} | items | 9 |" in page
