"""What training sees of a vector is what the service will read back."""

from __future__ import annotations

import numpy as np
import pytest

from models.contract.knowledge import KnowledgeRecord, Space
from offline.knowledge.build import as_published

VECTORS = np.random.default_rng(3).normal(size=(5, 4)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_each_row_equals_its_record(dtype: str) -> None:
    space = Space.model_validate({"name": "s", "side": "item", "rows": 1, "dim": 4, "dtype": dtype, "components": {}})
    published = as_published(VECTORS, space)
    assert published.dtype == np.float32
    assert not np.array_equal(published, VECTORS)
    for row, expected in zip(published, VECTORS, strict=True):
        packed = KnowledgeRecord("i", space.fingerprint, expected[None], 0, 0).pack(space.dtype)
        np.testing.assert_array_equal(row, KnowledgeRecord.unpack(packed, "i", space.fingerprint).vectors[0])
