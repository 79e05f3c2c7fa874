"""Whether the model server answers as the reranker's manifest says: canaries at the start and every so often.

Two failures in a row switch the stage off; the first success switches it on again. Requests that fail raise doubts, so
that a server that hangs is noticed before the next look is due.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from models.contract.reranker import RerankerManifest
from service.ranking.degraded import RerankError
from service.reranking.server import ModelServer

FAILURES = 2
DOUBTFUL = 3
"""Failures in a row: of canaries until the stage is off, and of requests until the canaries are asked out of turn."""

CHECK_SECONDS = 10.0
"""For all canaries together; who takes longer would be late for every request."""

_RETRY_SECONDS = 2.0

log = logging.getLogger(__name__)


class CanaryWatch:
    """``off`` is why the stage is off, "" while it is on."""

    def __init__(self, server: ModelServer, manifest: RerankerManifest, seconds: float) -> None:
        self._server = server
        self._manifest = manifest
        self._seconds = seconds
        self._failures = FAILURES  # nothing is trusted before it has answered once
        self._failed_requests = 0
        self._doubt = asyncio.Event()
        self.off = "the canaries were not asked yet"

    async def check(self) -> None:
        """Ask the canaries once."""
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                problem = await self._problem()
        except TimeoutError:
            problem = f"no answer to the canaries within {CHECK_SECONDS:g} s"
        except RerankError as error:
            problem = str(error)
        except Exception as error:  # whatever it is, the canaries were not answered
            log.exception("the canaries cannot be asked")
            problem = f"{type(error).__name__}: {error}"
        if not problem:
            if self.off:
                log.info("the reranker answers its canaries and is on")
            self._failures, self.off = 0, ""
            return
        self._failures += 1
        if self._failures >= FAILURES:
            if problem != self.off:
                log.error("the reranker is off: %s", problem)
            self.off = problem

    async def watch(self) -> None:
        """Look again and again, until cancelled; soon after a failure."""
        while True:
            await self.check()
            with suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_SECONDS if self._failures else self._seconds):
                    await self._doubt.wait()
            self._doubt.clear()

    def answered(self) -> None:
        """A request was answered."""
        self._failed_requests = 0

    def failed(self) -> None:
        """A request was not."""
        self._failed_requests += 1
        if self._failed_requests % DOUBTFUL == 0 and not self.off:
            self._doubt.set()

    async def _problem(self) -> str:
        prompt, labels = self._manifest.prompt, self._manifest.label_ids
        served = await self._server.label_ids(prompt.candidate_block("x"), prompt.yes, prompt.no)
        if served != labels:
            return f"the served tokenizer has the labels {served}, the reranker {labels}: another model is served"
        canaries = self._manifest.canaries
        answers = [await self._server.probabilities(canary.prompts, labels) for canary in canaries]
        return self._manifest.broken([answer.tolist() for answer in answers])
