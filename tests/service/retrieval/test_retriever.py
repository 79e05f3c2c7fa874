"""Where candidates come from, for users of whom much, little or nothing is known, and what filters leave of them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.contract.artifact import ItemPopularity, ModelName, ReleaseManifest, Role
from models.contract.events import EVENT_DTYPE, item_hash
from models.contract.items import ItemTable, item_statistics
from models.contract.knowledge import KnowledgeRecord, Space
from models.contract.popularity import pack_likes
from models.contract.schema import FeatureSchema, FieldSpec, KnowledgeSpec
from service.errors import InvalidRequest
from service.ranking.types import RetrievalRequest, UserState
from service.retrieval import filters
from service.retrieval import retriever as module
from service.retrieval.index import FaissIndex
from service.retrieval.retriever import ItemRetriever
from tests.service.retrieval.test_index import VECTORS, written

ITEMS = 300
SCHEMA = FeatureSchema(
    name="found",
    user_fields=(),
    item_fields=(
        FieldSpec(name="genre", vocab=("drama", "comedy", "war"), slots=2),
        FieldSpec(name="year", edges=(1950.0, 1990.0)),
    ),
    history_length=4,
    knowledge=(KnowledgeSpec(name="near", side="item", dim=4), KnowledgeSpec(name="near", side="user", dim=4)),
)
USERS = Space(name="near", side="user", rows=1, dim=4, components={})
LIKES = np.random.default_rng(2).permutation(ITEMS) + 1
POPULAR = np.argsort(-LIKES) + 1
QUERY = np.array([1.0, -0.5, 0.25, 0.0], np.float32)
BEST = np.argsort(-(VECTORS @ QUERY)) + 1
NOBODY = UserState()
KNOWN = UserState(knowledge={USERS.fingerprint: KnowledgeRecord("u", USERS.fingerprint, QUERY[None], 0, 2**40)})


def items(schema: FeatureSchema = SCHEMA) -> ItemTable:
    genres = [["drama", "war"] if at % 2 else ["comedy"] for at in range(ITEMS)]
    fields = [schema.encode_item_fields({"genre": genre, "year": 1960}) for genre in genres]
    numeric = item_statistics(schema, LIKES, 5.0 * LIKES, LIKES)
    ids = [f"i{at}" for at in range(ITEMS)]
    return ItemTable.build(schema, ids, np.zeros(ITEMS), fields, numeric, VECTORS, np.ones((ITEMS, 1)))


@pytest.fixture(params=["flat", "ivf", "hnsw"])
def retriever(tmp_path: Path, request: pytest.FixtureRequest) -> ItemRetriever:
    table = items()
    index = FaissIndex.open(tmp_path, written(tmp_path, request.param), table)
    indexes: dict[Role, FaissIndex] = {"matching": index, "neighbours": index}
    return ItemRetriever(table, SCHEMA, (USERS,), indexes)


def rows(ids: tuple[str, ...]) -> list[int]:
    return [int(item[1:]) + 1 for item in ids]


def having(*numbers: int, value: float = 5.0) -> UserState:
    """A user who gave these rows' items a value, the last one last."""
    events = [(item_hash(f"i{row - 1}"), at, 0, value) for at, row in enumerate(numbers)]
    return UserState(events=np.array(events, EVENT_DTYPE))


async def test_a_user_with_a_vector_gets_what_is_near_it_and_what_is_popular(retriever: ItemRetriever) -> None:
    retrieved = await retriever.retrieve(RetrievalRequest(20), KNOWN, knowledge=True)
    assert retrieved.complete
    assert rows(retrieved.ids)[:10] == BEST[:10].tolist()
    assert rows(retrieved.ids)[10:] == [row for row in POPULAR.tolist() if row not in BEST[:10]][:10]
    assert retrieved.sources == {"matching": 10, "neighbours": 0, "popular": 10}


async def test_a_cold_user_gets_what_is_like_the_liked_items(retriever: ItemRetriever) -> None:
    user = having(3, 8, 21)
    mean = VECTORS[[2, 7, 20]].mean(axis=0)
    near = [row for row in (np.argsort(-(VECTORS @ mean)) + 1).tolist() if row not in (3, 8, 21)]
    retrieved = await retriever.retrieve(RetrievalRequest(20), user, knowledge=True)
    assert rows(retrieved.ids)[:10] == near[:10]
    assert retrieved.sources == {"matching": 0, "neighbours": 10, "popular": 10}
    disliked = await retriever.retrieve(RetrievalRequest(20), having(3, 8, 21, value=1.0), knowledge=True)
    assert disliked.sources == {"matching": 0, "neighbours": 0, "popular": 20}


@pytest.mark.parametrize("user", [NOBODY, having(999)])
async def test_nobody_gets_what_is_popular(retriever: ItemRetriever, user: UserState) -> None:
    retrieved = await retriever.retrieve(RetrievalRequest(20), user, knowledge=True)
    assert rows(retrieved.ids) == POPULAR[:20].tolist()
    assert retrieved.sources == {"matching": 0, "neighbours": 0, "popular": 20}


async def test_without_knowledge_no_vector_is_looked_at(retriever: ItemRetriever) -> None:
    retrieved = await retriever.retrieve(RetrievalRequest(20), replace(KNOWN, events=having(3).events), knowledge=False)
    assert retrieved.sources == {"matching": 0, "neighbours": 0, "popular": 20}
    assert retrieved.complete


async def test_what_was_seen_is_left_out_unless_it_is_wanted(retriever: ItemRetriever) -> None:
    user = replace(KNOWN, events=having(int(BEST[0]), int(POPULAR[0])).events)
    retrieved = await retriever.retrieve(RetrievalRequest(ITEMS), user, knowledge=True)
    assert len(set(retrieved.ids)) == ITEMS - len({BEST[0], POPULAR[0]})
    assert not {int(BEST[0]), int(POPULAR[0])} & set(rows(retrieved.ids))
    again = await retriever.retrieve(RetrievalRequest(20, exclude_seen=False), user, knowledge=True)
    assert rows(again.ids)[0] == BEST[0]


@pytest.mark.parametrize("exact_up_to", [0, 20_000])
async def test_filters(retriever: ItemRetriever, monkeypatch: pytest.MonkeyPatch, exact_up_to: int) -> None:
    monkeypatch.setattr(filters, "EXACT_UP_TO", exact_up_to)
    wars = [row for row in BEST.tolist() if row % 2 == 0]
    request = RetrievalRequest(20, where={"genre": ("war",)})
    retrieved = await retriever.retrieve(request, KNOWN, knowledge=True)
    assert rows(retrieved.ids)[:10] == wars[:10]
    assert all(row % 2 == 0 for row in rows(retrieved.ids))
    denied = await retriever.retrieve(replace(request, deny=(f"i{wars[0] - 1}", "unknown")), KNOWN, knowledge=True)
    assert rows(denied.ids)[:9] == wars[1:10]
    assert rows((await retriever.retrieve(request, KNOWN, knowledge=True)).ids) == rows(retrieved.ids)
    either = await retriever.retrieve(RetrievalRequest(20, where={"genre": ("war", "comedy")}), KNOWN, knowledge=True)
    assert rows(either.ids)[:10] == BEST[:10].tolist()


async def test_allowed_items_alone(retriever: ItemRetriever) -> None:
    allow = ("i3", "i4", "i5", "unknown", "i3")
    retrieved = await retriever.retrieve(RetrievalRequest(20, allow=allow), KNOWN, knowledge=True)
    assert sorted(retrieved.ids) == ["i3", "i4", "i5"]
    wars = await retriever.retrieve(RetrievalRequest(20, allow=allow, where={"genre": ("war",)}), KNOWN, knowledge=True)
    assert sorted(wars.ids) == ["i3", "i5"]
    seen = await retriever.retrieve(RetrievalRequest(20, allow=allow, deny=("i5",)), having(4), knowledge=True)
    assert seen.ids == ("i4",)
    assert (await retriever.retrieve(RetrievalRequest(20, allow=()), KNOWN, knowledge=True)).ids == ()


@pytest.mark.parametrize(("field", "says"), [("colour", "there are genre"), ("year", "cut into ranges")])
async def test_a_field_that_items_have_not_is_named(retriever: ItemRetriever, field: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        await retriever.retrieve(RetrievalRequest(20, where={field: (1960,)}), NOBODY, knowledge=True)
    assert caught.value.field == f"where.{field}"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("dram", "the nearest is 'drama'"),
        ("COMEDY", "the nearest is 'comedy'"),
        ("opera house", "'opera house' is no value of genre; there are 'drama', 'comedy', 'war'$"),
        (None, "null is no value of genre"),
        (7, "'7' is no value"),
        ("x" * 10_000, "'x{40}...' is no value"),
    ],
)
async def test_a_value_outside_of_the_vocabulary_is_told(retriever: ItemRetriever, value: object, says: str) -> None:
    for values in ((value,), ("war", value)):
        with pytest.raises(InvalidRequest, match=says) as caught:
            await retriever.retrieve(RetrievalRequest(20, where={"genre": values}), NOBODY, knowledge=True)
        assert caught.value.field == "where.genre"


async def test_few_popular_items_are_kept_and_others_are_found_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "_MOST_POPULAR", 10)
    retriever = ItemRetriever(items(), SCHEMA, (USERS,), {})
    retrieved = await retriever.retrieve(RetrievalRequest(30, deny=(f"i{POPULAR[0] - 1}",)), NOBODY, knowledge=True)
    assert rows(retrieved.ids) == POPULAR[1:31].tolist()
    wars = await retriever.retrieve(RetrievalRequest(30, where={"genre": ("war",)}), NOBODY, knowledge=True)
    assert rows(wars.ids) == [row for row in POPULAR.tolist() if row % 2 == 0][:30]


async def test_an_empty_catalogue_has_nothing(tmp_path: Path) -> None:
    nothing = np.zeros((0, 0))
    table = ItemTable.build(SCHEMA, [], nothing, nothing, nothing, np.zeros((0, 4), np.float32), nothing)
    assert (
        await ItemRetriever(table, SCHEMA, (USERS,), {}).retrieve(RetrievalRequest(20), KNOWN, knowledge=True)
    ).ids == ()


async def test_a_large_catalogue_is_searched_in_a_thread(
    retriever: ItemRetriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = await retriever.retrieve(RetrievalRequest(20), KNOWN, knowledge=True)
    monkeypatch.setattr(module, "INLINE_ITEMS", 0)
    assert await retriever.retrieve(RetrievalRequest(20), KNOWN, knowledge=True) == here


async def test_an_index_that_fails_leaves_what_is_popular(
    retriever: ItemRetriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(FaissIndex, "nearest", fails)
    retrieved = await retriever.retrieve(RetrievalRequest(20), KNOWN, knowledge=True)
    assert retrieved.sources == {"matching": 0, "neighbours": 0, "popular": 20}
    assert not retrieved.complete


def bare_release() -> ReleaseManifest:
    """Without files."""
    return ReleaseManifest(
        id="r",
        created_at=0,
        artifact="r.onnx",
        artifact_sha256="0" * 64,
        model=ModelName(name="r", version="1"),
        schema_fingerprint=SCHEMA.fingerprint,
        spaces={},
        items=ITEMS,
        directory_blocks=1,
    )


async def test_an_index_that_cannot_be_opened_is_left_out_and_named(tmp_path: Path) -> None:
    described = written(tmp_path)
    absent = described.model_copy(update={"file": "absent.faiss"})
    manifest = bare_release().model_copy(update={"indexes": {"matching": described, "neighbours": absent}})
    opened = ItemRetriever.open(tmp_path, manifest, SCHEMA, (USERS,), items())
    assert opened.problem is not None
    assert "absent.faiss cannot be read" in opened.problem
    retrieved = await opened.retrieve(RetrievalRequest(20), KNOWN, knowledge=True)
    assert retrieved.sources == {"matching": 10, "neighbours": 0, "popular": 10}
    assert not retrieved.complete


def likes_of(folder: Path, **likes: float) -> ItemPopularity:
    """A file of recent likes as the jobs write it."""
    content = pack_likes(list(likes), np.array(list(likes.values()), np.float32))
    (folder / "popularity-1.npy").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return ItemPopularity(file="popularity-1.npy", sha256=digest, days=30.0, items=len(likes))


async def test_what_is_popular_now_comes_before_what_ever_was(tmp_path: Path) -> None:
    manifest = bare_release().model_copy(update={"popularity": likes_of(tmp_path, i7=1, i3=2, gone=9, i5=1)})
    opened = ItemRetriever.open(tmp_path, manifest, SCHEMA, (USERS,), items())
    assert opened.problem is None
    ordered = rows((await opened.retrieve(RetrievalRequest(20), NOBODY, knowledge=True)).ids)
    ties = sorted((8, 6), key=POPULAR.tolist().index)  # of as many recent likes: by all likes
    assert ordered[:3] == [4, *ties]
    assert ordered[3:] == [row for row in POPULAR.tolist() if row not in (4, 6, 8)][:17]


async def test_a_file_of_likes_that_cannot_be_used_leaves_all_likes(tmp_path: Path) -> None:
    described = likes_of(tmp_path, i7=1)
    (tmp_path / described.file).write_bytes(b"damaged")
    manifest = bare_release().model_copy(update={"popularity": described})
    opened = ItemRetriever.open(tmp_path, manifest, SCHEMA, (USERS,), items())
    assert opened.problem is not None
    assert "popularity-1.npy has sha256" in opened.problem
    assert rows((await opened.retrieve(RetrievalRequest(20), NOBODY, knowledge=True)).ids) == POPULAR[:20].tolist()
