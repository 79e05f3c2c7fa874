"""What every data source must do. Inherit, and provide two fixtures.

``source``  a source whose data can be had without a network
``absent``  the same kind of source over data that are not there
"""

from __future__ import annotations

import math
from collections import Counter

import pytest

from models.contract.profile import UserProfile
from models.contract.schema import FeatureSchema
from offline.data.catalogue import DataError
from offline.data.dataset import Dataset
from offline.data.log import InteractionLog

EMPTY_SCHEMA = FeatureSchema(name="suite", user_fields=(), item_fields=(), history_length=1)
"""A schema of no fields: it judges values of 1 to 5 and nothing else."""


class DataSourceSuite:
    """The conformance tests."""

    def test_what_is_here_is_not_fetched_again(self, source: Dataset) -> None:
        source.fetch()
        assert source.fetch() is False

    def test_the_catalogue_describes_users_and_items_by_id(self, source: Dataset) -> None:
        catalogue = source.catalogue()
        assert catalogue.users
        assert catalogue.items
        for described in (catalogue.users, catalogue.items):
            for name, features in described.items():
                assert 1 <= len(name.encode()) <= 256
                for value in features.values():
                    listed = value if isinstance(value, list) else [value]
                    assert all(value is None or type(value) in (str, int, float) for value in listed)

    def test_users_fit_into_the_record_that_the_service_reads(self, source: Dataset) -> None:
        for user, features in source.catalogue().users.items():
            assert UserProfile.unpack(UserProfile(owner=user, features=features).pack(), user).features == features

    def test_every_item_has_the_same_features(self, source: Dataset) -> None:
        assert len({tuple(features) for features in source.catalogue().items.values()}) == 1

    def test_interactions_are_typed_rows_in_range(self, source: Dataset) -> None:
        rows = list(source.interactions())
        assert rows
        for user, item, value, time_ms in rows:
            assert (type(user), type(item), type(value), type(time_ms)) == (str, str, float, int)
            assert math.isfinite(value)
            assert 0 <= time_ms < 2**53

    def test_reading_twice_gives_the_same(self, source: Dataset) -> None:
        assert list(source.interactions()) == list(source.interactions())
        again = source.catalogue()
        assert (again.users, again.items) == (source.catalogue().users, source.catalogue().items)
        assert list(again.items) == list(source.catalogue().items)

    def test_the_check_finds_nothing_wrong_and_counts_right(self, source: Dataset) -> None:
        findings = source.check(EMPTY_SCHEMA)
        assert findings.errors == []
        rows = list(source.interactions())
        users, items = Counter(row[0] for row in rows), Counter(row[1] for row in rows)
        assert f"{len(rows):,} interactions of {len(users):,} users with {len(items):,} items" in findings.facts

    def test_the_check_names_place_and_value_of_what_the_schema_refuses(self, source: Dataset) -> None:
        narrow = EMPTY_SCHEMA.model_copy(update={"value_min": 50.0, "value_max": 60.0, "liked_above": 50.0})
        (error,) = source.check(narrow).errors
        assert error.startswith(f"value_range: {len(list(source.interactions())):,} break the rule that ")
        assert ", row 1: " in error

    def test_the_rows_make_a_log(self, source: Dataset) -> None:
        catalogue = source.catalogue()
        log = InteractionLog.sorted_by_time(source.interactions(), list(catalogue.users), list(catalogue.items))
        assert len(log) == len(set(source.interactions()))
        assert (log.time_ms[1:] >= log.time_ms[:-1]).all()

    def test_the_fingerprint_is_stable(self, source: Dataset) -> None:
        assert source.fingerprint == source.fingerprint
        assert len(source.fingerprint) == 16

    def test_data_that_are_not_there_are_named(self, absent: Dataset) -> None:
        with pytest.raises(DataError, match=r"\.(inter|item|user|csv|dat|parquet)"):
            absent.catalogue()
        with pytest.raises(DataError, match=r"\.(inter|item|user|csv|dat|parquet)"):
            next(absent.interactions())
