"""Callers of a service whose users are all known, so that each answer can be checked: a score of another user's data,
or of data that nobody stored, is wrong, however well the service hides it."""

from __future__ import annotations

import http.client
import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from tests.chaos.rows import Outcome
from tests.service.tiny import ITEMS, TinyItem, score_of

Verdict = Literal["well", "degraded", "unsaid", "refused", "failed", "wrong"]

CALLERS = 4
PAUSE_SECONDS = 0.02
"""Between two requests of a caller."""

FRESH_CONNECTION = 10
"""Each so many-th request of a caller comes over a new connection."""

ANSWER_SECONDS = 30.0
"""A request that is not answered by then has failed."""

PRIOR = "prior_order"
LESS = frozenset({"no_knowledge", "no_features"})
"""Words of answers that were made of less than what is stored."""

_TOLERANCE = 1e-5
_CLEAN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class User:
    """A user with a history of one value and a vector of knowledge that no other user has."""

    id: str
    value: float
    partition: float

    def scores(self, item: TinyItem) -> dict[tuple[bool, bool], float]:
        """By whether history and knowledge are read."""
        return {
            (history, knowledge): score_of(
                item, [self.value] if history else [], self.partition if knowledge else 0.0
            )
            for history, knowledge in itertools.product((True, False), repeat=2)
        }  # fmt: skip


def users(count: int) -> list[User]:
    """So many different users, always the same ones. Their vectors are numbers that half precision holds exactly."""
    return [User(f"user-{at}", 1.0 + 4.0 * at / count, 0.25 * (at + 1)) for at in range(count)]


@dataclass(frozen=True, slots=True)
class Answered:
    """A request: when it was sent, on the monotonic clock, seconds until it was answered, and what came."""

    at: float
    seconds: float
    verdict: Verdict
    words: tuple[str, ...] = ()
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """A look at /healthz: when it began, on the monotonic clock, how many seconds it took, answered or not."""

    at: float
    seconds: float
    answered: bool


@dataclass
class Traffic:
    """Requests of all users from when the context is entered until it is left.

    ``offsets``: what releases that may be live add to the logit of every score; each answer is of one of them.
    ``candidates``: how many a request has; None: from two to all items.
    ``reranked``: ids in the order that the reranker gives them where ``body`` asks it to.
    ``until_refused``: who is refused a connection calls no more, and lost nothing.
    """

    port: int
    known: Sequence[User]
    items: Sequence[TinyItem] = ITEMS
    offsets: Sequence[float] = (0.0,)
    deadline_ms: float | None = None
    callers: int = CALLERS
    reranked: Sequence[str] = ()
    candidates: int | None = None
    body: Mapping[str, Any] = field(default_factory=dict)
    until_refused: bool = False
    answers: list[Answered] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    trouble_began: float | None = None
    trouble_ended: float | None = None
    never_settled: str = ""

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(seed,)) for seed in range(self.callers)]
        self._threads.append(threading.Thread(target=self._probe))
        self._scores = {
            (user.id, item.id): {
                which: [float(_sigmoid(_logit(score) + offset)) for offset in self.offsets]
                for which, score in user.scores(item).items()
            }
            for user in self.known
            for item in self.items
        }

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    @property
    def goes_on(self) -> bool:
        """Whether anybody still calls."""
        return any(thread.is_alive() for thread in self._threads)

    @contextmanager
    def trouble(self) -> Iterator[None]:
        """While it lasts, something is wrong on purpose."""
        self.trouble_began = time.monotonic()
        yield
        self.trouble_ended = time.monotonic()

    def settle(self, patience_seconds: float = 60.0) -> None:
        """Wait until answers have been well for a second. If they are not after ``patience_seconds``, that is part of
        the outcome."""
        until = time.monotonic() + patience_seconds
        began = time.monotonic()
        while time.monotonic() < until:
            time.sleep(0.1)
            since = max(began, time.monotonic() - _CLEAN_SECONDS)
            recent = [answer.verdict for answer in self.answers[-400:] if answer.at >= since]
            if time.monotonic() - began >= _CLEAN_SECONDS and set(recent) == {"well"}:
                return
        self.never_settled = f"not as before after {patience_seconds:g} s"

    def outcome(self, **more: Any) -> Outcome:
        """Of what came since the trouble began. ``more`` are fields of the outcome that callers do not see. Nobody
        calls any more: what is still under way is waited for, or it would be missing."""
        self._end()
        assert self.trouble_began is not None
        assert self.trouble_ended is not None
        calm = [each for each in self.answers if each.at < self.trouble_began]
        since = [each for each in self.answers if each.at >= self.trouble_began]
        during = [each for each in since if each.at < max(self.trouble_ended, self.trouble_began + 1.0)]
        counts = Counter(each.verdict for each in since)
        words = Counter(word for each in since for word in each.words)
        late = [each.at for each in since if each.verdict != "well" and each.at + each.seconds > self.trouble_ended]
        remarks = Counter(each.remark for each in since if each.remark)
        waits = [probe.seconds for probe in self.probes if probe.at + probe.seconds >= self.trouble_began]
        values: dict[str, Any] = {
            "requests": len(since),
            "refused": counts["refused"],
            "failed": counts["failed"],
            "wrong": counts["wrong"],
            "unsaid": counts["unsaid"],
            "degraded": tuple(word for word, _ in words.most_common()),
            "calm_p99_ms": _p99_ms(calm),
            "trouble_p99_ms": _p99_ms(during),
            "recovery_seconds": max(0.0, max(late, default=0.0) - self.trouble_ended),
            "probes_failed": sum(not probe.answered for probe in self.probes),
            "probe_seconds": max(waits, default=None),
            "remark": "; ".join(f"{text} ({count})" for text, count in remarks.most_common(3)),
        }
        missed = [self.never_settled, "" if since else "nobody was answered", *more.pop("missed", ())]
        values["missed"] = tuple(filter(None, missed))
        if more.get("remark") and values["remark"]:
            more["remark"] = f"{more['remark']}; {values['remark']}"
        return Outcome(**(values | more))

    def _call(self, seed: int) -> None:
        dice, client = random.Random(seed), None
        for number in itertools.count():
            if self._stop.wait(PAUSE_SECONDS):
                break
            user = dice.choice(self.known)
            chosen = dice.sample(self.items, self.candidates or dice.randint(2, len(self.items)))
            if client is None or number % FRESH_CONNECTION == 0:
                if client is not None:
                    client.close()
                client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)
            body: dict[str, Any] = {"user_id": user.id, "candidates": [{"id": item.id} for item in chosen], **self.body}
            if self.deadline_ms is not None:
                body["deadline_ms"] = self.deadline_ms
            began = time.monotonic()
            try:
                client.request("POST", "/v1/rank", json.dumps(body))
                response = client.getresponse()
                content, status = response.read(), response.status
            except (OSError, http.client.HTTPException) as error:
                client.close()
                client = None
                if self.until_refused and isinstance(error, ConnectionRefusedError):
                    return
                self.note(began, "failed", remark=type(error).__name__)
                continue
            self.judge(began, user, chosen, status, content)
        if client is not None:
            client.close()

    def judge(self, began: float, user: User, chosen: Sequence[TinyItem], status: int, content: bytes) -> None:
        """Note the answer to a request for a user's ``chosen`` items that was sent at ``began``."""
        try:
            document = json.loads(content)
            if status in (429, 503) and document["error"].get("retry_after_ms"):
                self.note(began, "refused")
            elif status != 200:
                self.note(began, "failed", remark=f"{status} {document['error']['code']}")
            else:
                words = tuple(document["degraded"])
                self.note(began, self._verdict(user, chosen, document, words), words)
        except (ValueError, LookupError, TypeError) as error:  # a caller goes on, whatever it is answered
            self.note(began, "wrong", remark=f"not understood: {error!r}")

    def _verdict(
        self, user: User, chosen: Sequence[TinyItem], document: dict[str, Any], words: Sequence[str]
    ) -> Verdict:
        scores = {each["id"]: each["score"] for each in document["items"]}
        if sorted(scores) != sorted(item.id for item in chosen) or len(document["items"]) != len(chosen):
            return "wrong"
        if PRIOR in words:
            return "degraded"
        order = [each["id"] for each in document["items"]]
        if self.reranked and "no_rerank" not in words:
            if order != [each for each in self.reranked if each in scores]:
                return "wrong"
        elif any(scores[first] < scores[second] for first, second in itertools.pairwise(order)):
            return "wrong"

        def fits(which: tuple[bool, bool]) -> bool:
            return any(  # one release for all of them
                all(abs(scores[item.id] - self._scores[user.id, item.id][which][at]) < _TOLERANCE for item in chosen)
                for at in range(len(self.offsets))
            )

        if fits((True, True)):
            return "degraded" if words else "well"
        if any(fits(which) for which in ((True, False), (False, True), (False, False))):
            return "degraded" if words else "unsaid"
        return "wrong"

    def note(self, began: float, verdict: Verdict, words: tuple[str, ...] = (), remark: str = "") -> None:
        """Note a request that was sent at ``began`` and is answered, or never will be."""
        self.answers.append(Answered(began, time.monotonic() - began, verdict, words, remark))

    def _probe(self) -> None:
        while not self._stop.wait(0.2):
            client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)
            began, answered = time.monotonic(), False
            try:
                client.request("GET", "/healthz")
                answered = client.getresponse().status == 200
            except (OSError, http.client.HTTPException) as error:
                if self.until_refused and isinstance(error, ConnectionRefusedError):
                    return
            finally:
                client.close()
            self.probes.append(Probe(began, time.monotonic() - began, answered))


@dataclass
class Teller:
    """Sends interactions of users of its own, one after the other, and remembers those that were accepted."""

    port: int
    pause_seconds: float = 0.02
    name: str = "teller"
    accepted: list[tuple[str, int]] = field(default_factory=list)
    refused: int = 0
    failed: int = 0

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tell)

    def __enter__(self) -> Teller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _tell(self) -> None:
        first_ms = 1_700_000_000_000
        for number in itertools.count():
            if self._stop.wait(self.pause_seconds):
                return
            user, time_ms = f"{self.name}-{number % 7}", first_ms + number
            event = {"user_id": user, "item_id": "a", "value": 5, "timestamp_ms": time_ms}
            client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)
            try:
                client.request("POST", "/v1/feedback", json.dumps(event))
                response = client.getresponse()
                response.read()
                if response.status < 300:
                    self.accepted.append((user, time_ms))
                elif response.status in (429, 503):
                    self.refused += 1
                else:
                    self.failed += 1
            except (OSError, http.client.HTTPException):
                self.failed += 1
            finally:
                client.close()


def _logit(score: float) -> float:
    return float(np.log(score / (1.0 - score)))


def _sigmoid(logit: float) -> float:
    return float(1.0 / (1.0 + np.exp(-logit)))


def _p99_ms(answers: Sequence[Answered]) -> float | None:
    seconds = [each.seconds for each in answers if each.verdict in ("well", "degraded", "unsaid")]
    return 1000.0 * float(np.percentile(seconds, 99)) if seconds else None
