"""Groups of items and of users, and what a language model says of each: one question per group, and a new item or user
has the vector of the nearest group without any (the collective knowledge of REKI, our reading).

Items are grouped by their own texts, users by the mean of the texts of what they liked. Groups are made once, of what
the training period has, and then stay; questions about them tell what stands in the file of the groups, so they stay as
well. No group is of few users, and a question about users tells only items that several of them liked. A user has a
version after the first like, and again whenever the number of likes has doubled.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from models.contract.arrays import Array, BoolArray, FloatArray, IntArray
from models.contract.schema import KnowledgeSpec, fingerprint
from offline.data.files import read_arrays, write_arrays
from offline.knowledge.config import GroupsConfig
from offline.knowledge.errors import TooFewError
from offline.knowledge.inputs import (
    ProducerInputs,
    Wide,
    frozen_projections,
    projection_components,
    projection_path,
    space,
)
from offline.knowledge.knowledge_texts import Domain
from offline.knowledge.prompts import PartitionFacts, group_prompt, group_text, plain_text
from offline.knowledge.shipped import read_shipped_file
from offline.knowledge.vectors import ItemVectors, Produced, UserVectors
from offline.llm.protocol import Prompt

OwnerSide = Literal["item", "user"]
OWNER_SIDES: tuple[OwnerSide, ...] = ("item", "user")

LEAST_MEMBERS = 2
"""Items per group, on average: with fewer there are no groups yet."""
_FITTED_ON = 50_000  # owners at most of whom groups are made
_AT_ONCE = 4096  # owners whose vectors are in memory together


@dataclass(frozen=True, slots=True)
class Groups:
    """Groups of one side, frozen: ``centroids`` [groups, width] of unit length, among what lies around the ``centre``
    [width]. ``members`` are ids of the items by which each group is described; none if nothing may be told of it."""

    centre: FloatArray
    centroids: FloatArray
    members: tuple[tuple[str, ...], ...]

    @property
    def digest(self) -> str:
        return fingerprint([self.centre.tolist(), self.centroids.tolist(), self.members])

    @property
    def arrays(self) -> dict[str, Array]:
        """All of it, as a file has it: no text, so it may be shipped (shipped.py)."""
        document = json.dumps(self.members, ensure_ascii=False).encode()
        members = np.frombuffer(document, np.uint8)
        return {"centre": self.centre, "centroids": self.centroids, "members": members}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Array]) -> Groups:
        """Inverse of ``arrays``."""
        members = json.loads(arrays["members"].tobytes())
        return cls(arrays["centre"], arrays["centroids"], tuple(tuple(ids) for ids in members))

    @classmethod
    def load(cls, path: Path) -> Groups:
        return cls.of_arrays(read_arrays(path))

    def facts(self, domain: Domain) -> list[PartitionFacts]:
        """Names and topics of the items by which each group is described, as far as the catalogue has names."""
        return [_facts(domain, ids) for ids in self.members]

    def prompts(self, domain: Domain, side: OwnerSide) -> dict[int, Prompt]:
        """The question about each group of which something may be told, by its number."""
        vocabulary, tokens = domain.vocabulary, domain.config.groups.tokens
        named = ((at, facts) for at, facts in enumerate(self.facts(domain)) if facts.names)
        return {at: group_prompt(vocabulary, facts, tokens, side) for at, facts in named}

    def nearest(self, vectors: FloatArray, allowed: BoolArray | None = None) -> IntArray:
        """The nearest to each of ``vectors`` [n, width], of all groups or of those that are ``allowed`` [groups]."""
        numbers = np.arange(len(self.centroids)) if allowed is None else np.flatnonzero(allowed)
        return np.asarray(numbers[np.argmax(_directions(vectors - self.centre) @ self.centroids[numbers].T, axis=1)])


@dataclass(frozen=True, slots=True)
class Likes:
    """Who liked what: ``items`` [n] and log ``rows`` [n] by user, oldest first; those of user u are ``start[u] ..
    start[u + 1] - 1``."""

    items: IntArray
    rows: IntArray
    start: IntArray

    @classmethod
    def of(cls, domain: Domain, known: BoolArray, until: int | None = None) -> Likes:
        """Likes of ``known`` [items] in log rows before ``until``, by default in all."""
        log = domain.log
        rows = log.observed if until is None else log.observed[log.observed < until]
        rows = rows[(log.value[rows] > domain.schema.liked_above) & known[log.item[rows]]]
        rows = rows[np.argsort(log.user[rows], kind="stable")]
        counts = np.bincount(log.user[rows], minlength=len(log.user_ids))
        return cls(log.item[rows].astype(np.int64), rows, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))

    @property
    def users(self) -> IntArray:
        """Users who liked anything."""
        return np.flatnonzero(np.diff(self.start))

    def of_user(self, user: int) -> IntArray:
        """The items that a user liked, oldest first."""
        return self.items[self.start[user] : self.start[user + 1]]

    def versions(self) -> IntArray:
        """Places of the likes with which a user's first, second, fourth, eighth like and so on are there, by user."""
        place = np.arange(1, len(self.items) + 1) - np.repeat(self.start[:-1], np.diff(self.start))
        return np.flatnonzero((place & (place - 1)) == 0)

    def means(self, places: IntArray, vectors: FloatArray) -> FloatArray:
        """The mean of ``vectors`` [items, width] over what a user liked up to each of these places: [n, width]."""
        means = np.empty((len(places), vectors.shape[1]), np.float32)
        user = np.searchsorted(self.start, places, side="right") - 1
        bounds = [*np.flatnonzero(np.diff(user, prepend=-1)).tolist(), len(places)]
        for first, end in pairwise(bounds):
            begin, last = int(self.start[user[first]]), int(places[end - 1])
            likes = places[first:end] - begin
            sums = np.cumsum(vectors[self.items[begin : last + 1]], axis=0, dtype=np.float64)
            means[first:end] = sums[likes] / (likes[:, None] + 1)
        return means


@dataclass(frozen=True)
class _Owners:
    """Items with encoded texts ``wide`` [items, width], zeros where they have none, ``known`` [items]."""

    inputs: ProducerInputs
    wide: FloatArray
    known: BoolArray

    @classmethod
    def of(cls, inputs: ProducerInputs) -> _Owners:
        vocabulary = inputs.vocabulary
        features = [inputs.catalogue.items.get(item, {}) for item in inputs.log.item_ids]
        known = np.array([vocabulary.describes(item) for item in features], np.bool_)
        texts = inputs.encode([plain_text(vocabulary, features[at]) for at in np.flatnonzero(known)])
        wide = np.zeros((len(features), texts.shape[1]), np.float32)
        wide[known] = texts
        return cls(inputs, wide, known)

    @cached_property
    def centre(self) -> FloatArray:
        return np.asarray(self.wide[self.known].mean(axis=0), np.float32)

    def grouped(self, side: OwnerSide) -> Groups:
        """The groups of a side, made by these items and the training period. TooFewError if there is too little."""
        config, draw = self.inputs.config.groups, np.random.default_rng(self.inputs.config.groups.seed)
        likes = Likes.of(self.inputs, self.known, self.inputs.trained_rows)
        owners = _some(np.flatnonzero(self.known) if side == "item" else likes.users, draw)
        if needs := unmet(config, side, len(owners)):
            raise TooFewError(needs)
        vectors = self.wide[owners] if side == "item" else likes.means(likes.start[owners + 1] - 1, self.wide)
        groups = Groups(self.centre, _centroids(_directions(vectors - self.centre), config, side), ())
        choose = self._nearest_items if side == "item" else self._telling_items
        chosen = choose(owners, vectors, groups)
        return replace(groups, members=tuple(self._named(items) for items in chosen))

    def _nearest_items(self, owners: IntArray, vectors: FloatArray, groups: Groups) -> Iterator[IntArray]:
        """The items of each group, those nearest to its middle first."""
        group, likeness = groups.nearest(vectors), _directions(vectors - groups.centre)
        for at, centroid in enumerate(groups.centroids):
            members = np.flatnonzero(group == at)
            order = np.argsort(-(likeness[members] @ centroid), kind="stable")
            yield owners[members[order]]

    def _telling_items(self, owners: IntArray, vectors: FloatArray, groups: Groups) -> Iterator[IntArray]:
        """The items that most distinguish each group: of those that enough of its users liked, by their share of the
        group's users, times how much that exceeds everybody's share on a logarithmic scale."""
        config, group = self.inputs.config.groups, groups.nearest(vectors)
        likes = Likes.of(self.inputs, self.known, self.inputs.trained_rows)
        liked = [np.unique(likes.of_user(user)) for user in owners.tolist()]
        whole = np.bincount(np.concatenate(liked), minlength=len(self.known)) / len(owners)
        for at in range(len(groups.centroids)):
            members = np.flatnonzero(group == at)
            counts = np.bincount(
                np.concatenate([np.zeros(0, np.int64), *(liked[member] for member in members.tolist())]),
                minlength=len(self.known),
            )
            items = np.flatnonzero(counts >= config.least_users)
            share = counts[items] / max(1, len(members))
            order = np.argsort(-share * np.log(share / whole[items]), kind="stable")
            yield items[order]

    def _named(self, items: IntArray) -> tuple[str, ...]:
        """Ids of the first of these items that have names, each name once."""
        inputs, ids = self.inputs, dict[str, str]()
        for item in items.tolist():
            item_id = inputs.log.item_ids[item]
            name = inputs.vocabulary.item_name(inputs.catalogue.items.get(item_id, {}))
            if name and len(ids) < inputs.config.groups.members:
                ids.setdefault(name, item_id)
        return tuple(ids.values())


@dataclass(frozen=True, slots=True)
class _Described:
    """Groups with what was said of them: ``known`` [groups] have ``vectors`` [groups, dim] of a space with these
    ``components``."""

    groups: Groups
    known: BoolArray
    vectors: FloatArray
    components: dict[str, str]

    def of(self, wide: FloatArray) -> FloatArray:
        """The vectors [n, dim] of owners by their own ``wide`` [n, width]; zeros if nothing was said of any group."""
        vectors = np.zeros((len(wide), self.vectors.shape[1]), np.float32)
        for at in range(0, len(wide) if self.known.any() else 0, _AT_ONCE):
            vectors[at : at + _AT_ONCE] = self.vectors[self.groups.nearest(wide[at : at + _AT_ONCE], self.known)]
        return vectors


def produce(inputs: ProducerInputs) -> Produced:
    """Vectors of the spaces "item/groups" and "user/groups", or of one of them: each owner has its group's."""
    owners = _Owners.of(inputs)
    of_side = {side: (spec, _groups_of(inputs, owners, side)) for side, spec in _listed(inputs)}
    prompts = {side: groups.prompts(inputs, side) for side, (_, groups) in of_side.items()}
    said = iter(inputs.texts.ask_groups([prompt for asked in prompts.values() for prompt in asked.values()]))
    answers = {side: {at: next(said) for at in asked} for side, asked in prompts.items()}
    described = {
        side: _described(inputs, spec, groups, side, answers[side]) for side, (spec, groups) in of_side.items()
    }
    items = users = None
    if (spec := inputs.spec("groups", "item")) is not None:
        of_items, vectors = described["item"], np.zeros((len(owners.known), spec.dim), np.float32)
        vectors[owners.known] = of_items.of(owners.wide[owners.known])
        known = owners.known & of_items.known.any()
        named = space(spec, inputs.config.groups.dtype, of_items.components)
        items = ItemVectors.of_texts(named, vectors, np.asarray(known, np.bool_))
    if (spec := inputs.spec("groups", "user")) is not None:
        users = _of_users(owners, spec, described["user"])
    return Produced(users=users, items=items)


def likely_prompts(domain: Domain, folder: Path, encoder: str) -> list[Prompt]:
    """Questions about the groups in the producer's ``folder``, and about drawn items in the place of groups that are
    still to be made by an ``encoder``, which are as long."""
    config, draw = domain.config.groups, np.random.default_rng(domain.config.groups.seed)
    names = [domain.vocabulary.item_name(domain.catalogue.items.get(item, {})) for item in domain.log.item_ids]
    named = [name for name in names if name]
    prompts: list[Prompt] = []
    for side, _ in _listed(domain):
        path = _path(domain, folder, encoder, side)
        if path.is_file():
            prompts += Groups.load(path).prompts(domain, side).values()
            continue
        for at in range(_count(config, side)):
            drawn = [named[place] for place in draw.integers(len(named), size=config.members).tolist()] if named else []
            facts = PartitionFacts([str(at), *drawn], [True] * (1 + len(drawn)), [()] * (1 + len(drawn)))
            prompts.append(group_prompt(domain.vocabulary, facts, config.tokens, side))
    return prompts


def unmet(config: GroupsConfig, side: OwnerSide, count: int) -> str:
    """What is missing for the groups of a side with so many items, or users with a like; "" if nothing is."""
    groups, least = _count(config, side), LEAST_MEMBERS if side == "item" else config.least_users
    what = "items with a text" if side == "item" else "users with a like in the training period"
    if count >= groups * least:
        return ""
    return f"{groups * least} {what} for {groups} groups, there are {count}: lower knowledge.groups.{side}s"


def version_counts(domain: Domain, described: BoolArray) -> IntArray:
    """How many versions each user has, of those who liked any of the ``described`` [items]."""
    likes = Likes.of(domain, described)
    user = np.searchsorted(likes.start, likes.versions(), side="right") - 1
    return np.bincount(user, minlength=len(domain.log.user_ids))


def _of_users(owners: _Owners, spec: KnowledgeSpec, described: _Described) -> UserVectors:
    """Versions of all users; none if nothing was said of any group."""
    inputs = owners.inputs
    likes = Likes.of(inputs, owners.known)
    places = likes.versions() if described.known.any() else np.zeros(0, np.int64)
    vectors = np.zeros((len(places), spec.dim), np.float32)
    user = np.searchsorted(likes.start, places, side="right") - 1
    start = np.searchsorted(user, np.arange(len(inputs.log.user_ids) + 1)).astype(np.int64)
    for first in range(0, len(start) - 1, _AT_ONCE):
        of_some = slice(start[first], start[min(first + _AT_ONCE, len(start) - 1)])
        vectors[of_some] = described.of(likes.means(places[of_some], owners.wide))
    named = space(spec, inputs.config.groups.dtype, described.components)
    return UserVectors(named, vectors, start, likes.rows[places].astype(np.int64))


def _facts(domain: Domain, ids: Iterable[str]) -> PartitionFacts:
    features = [domain.catalogue.items.get(item_id, {}) for item_id in ids]
    named = [(name, item) for item in features if (name := domain.vocabulary.item_name(item))]
    topics = [domain.vocabulary.topics_of(item) for _, item in named]
    return PartitionFacts([name for name, _ in named], [True] * len(named), topics)


def _listed(domain: Domain) -> Iterator[tuple[OwnerSide, KnowledgeSpec]]:
    """The sides that the schema lists."""
    specs = {spec.side: spec for spec in domain.schema.knowledge if spec.name == "groups"}
    return ((side, specs[side]) for side in OWNER_SIDES if side in specs)


def _count(config: GroupsConfig, side: OwnerSide) -> int:
    return config.items if side == "item" else config.users


def _path(domain: Domain, folder: Path, encoder: str, side: OwnerSide) -> Path:
    """The file of the groups that these settings name."""
    config = domain.config.groups
    made_of = {
        "words": fingerprint(domain.vocabulary.form),
        "encoder": encoder,
        "groups": config.model_dump(mode="json", include={"members", "seed", f"{side}s", *_OF_SIDE[side]}),
        "liked_above": domain.schema.liked_above if side == "user" else None,
    }
    return folder / f"groups-{side}-{fingerprint(made_of)}.npz"


_OF_SIDE: dict[OwnerSide, set[str]] = {"item": set(), "user": {"least_users"}}


def _groups_of(inputs: ProducerInputs, owners: _Owners, side: OwnerSide) -> Groups:
    """The groups of a side, made unless they were before."""
    path = _path(inputs, inputs.folder, inputs.encoder, side)
    if path.is_file():
        return Groups.load(path)
    if shipped := read_shipped_file(inputs.shipped, path.name):
        groups = Groups.of_arrays(shipped)
    else:
        groups = owners.grouped(side)
    write_arrays(path, **groups.arrays)
    named = sum(bool(facts.names) for facts in groups.facts(inputs))
    origin = ", shipped" if shipped else ""
    print(f"  {len(groups.members)} groups of {side}s{origin}, of which {named} can be described", flush=True)
    return groups


def _described(
    inputs: ProducerInputs, spec: KnowledgeSpec, groups: Groups, side: OwnerSide, answers: dict[int, str | None]
) -> _Described:
    """What was said of groups, encoded and projected. NotFittedError if answers are still to come that the projection
    is fitted on."""
    vocabulary, sample = inputs.vocabulary, PartitionFacts(["A"], [True], [["B"]])
    form = [vocabulary.form, repr(group_prompt(vocabulary, sample, inputs.config.groups.tokens, side))]
    form += [group_text(vocabulary, sample, "answer", side), *(["faithful"] if inputs.config.faithful else [])]
    components = {"llm": inputs.llm, "prompt": fingerprint(form), "encoder": inputs.encoder, "groups": groups.digest}
    if not projection_path(inputs.folder, components, spec.dim).is_file():
        inputs.need(inputs.texts.groups.absent)
    facts = groups.facts(inputs)
    known = np.array([bool(answers.get(at)) for at in range(len(facts))], np.bool_)
    texts = [group_text(vocabulary, facts[at], answers[at] or "", side) for at in np.flatnonzero(known).tolist()]
    wide = inputs.encode(texts)
    complete = not inputs.texts.groups.absent.any()
    what = f"encoded texts about groups of {side}s"
    (projection,) = frozen_projections(inputs.folder, [Wide(components, wide, spec.dim, what, complete)])
    vectors = np.zeros((len(known), spec.dim), np.float32)
    vectors[known] = projection.apply(wide)
    return _Described(groups, known, vectors, components | projection_components([projection]))


def _directions(vectors: FloatArray) -> FloatArray:
    """Vectors [n, width] at unit length; zeros stay zeros."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, 1e-12), np.float32)


def _centroids(vectors: FloatArray, config: GroupsConfig, side: OwnerSide) -> FloatArray:
    """Middles [groups, width] of groups of ``vectors`` [n, width], by k-means from the configuration's seed. Without
    those of few users: the middle of one would be that user's taste, also when the user is forgotten."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    different = np.sort(np.unique(vectors, axis=0, return_index=True)[1])
    count = min(_count(config, side), len(different))
    least = config.least_users if side == "user" else 1
    # begun with drawn owners: a draw by distances would turn the last bit of a vector into other groups
    begun = vectors[np.random.default_rng(config.seed).choice(different, count, replace=False)].astype(np.float64)
    with threadpool_limits(1):  # several threads add up in any order
        fitted = KMeans(count, init=begun, n_init=1, max_iter=config.iterations).fit(vectors.astype(np.float64))
    is_large = np.bincount(fitted.labels_, minlength=count) >= least
    if not is_large.any():
        raise TooFewError(f"{least} {side}s who are alike: lower knowledge.groups.{side}s")
    return _directions(fitted.cluster_centers_[is_large].astype(np.float32))


def _some(owners: IntArray, draw: np.random.Generator) -> IntArray:
    """All owners, or so many of them as groups are made of."""
    return owners if len(owners) <= _FITTED_ON else np.sort(draw.choice(owners, _FITTED_ON, replace=False))
