"""Unlearning, on a tiny random model: the loss by hand, what it does to losses of forgotten and other samples, and the
job that writes the result beside the reranker it comes from."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.contract.arrays import FloatArray
from models.contract.prompts import Rated
from models.contract.reranker import FILE, ITEMS_FILE, RerankerManifest
from offline.data.catalogue import DataError
from offline.data.files import write_json
from offline.jobs.runs import Run
from offline.reranking import teachers
from offline.reranking import tune as tuning
from offline.reranking.calibrate import fit_mix, probability_of
from offline.reranking.framing import label_ids, tokens_of
from offline.reranking.prepared import Prepared
from offline.reranking.run import VALIDATION, ctr_of
from offline.reranking.teachers import divergences, forget_teacher, unlearn
from offline.reranking.tune import ADAPTER, DONE, MODEL, cross_entropy, descend, save_tuned, tune
from offline.reranking.unlearn import REPORT, losses_of, read_users, unlearn_reranker, unseen_samples
from tests.offline.reranking.conftest import Tuned
from tests.offline.reranking.fakes import PROMPT, TUNING, labeller, model

FILMS = 24
FORGOTTEN = np.arange(FILMS) % 3 == 0
"""Every third film [FILMS]."""


def test_the_forget_teacher_loses_what_more_tuning_raises() -> None:
    original, augmented = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.5, 1.0, 3.0]])
    assert forget_teacher(original, augmented).tolist() == [[0.0, 2.0, 3.0]]


def test_divergences_are_from_the_teacher_to_the_scores() -> None:
    teacher = torch.log(torch.tensor([[0.5, 0.25, 0.25]])) + 7.0
    scores = torch.log(torch.tensor([[0.25, 0.25, 0.5]])) - 3.0
    assert divergences(teacher, scores).tolist() == pytest.approx([0.5 * math.log(2) - 0.25 * math.log(2)])
    assert divergences(teacher, teacher + 1.0).tolist() == pytest.approx([0.0], abs=1e-6)


CONFIG = TUNING.model_copy(update={"epochs": 40, "rank": 4, "dropout": 0.0})


class Memory:
    """A tuned model that knows by heart which films are liked: chance decided it."""

    def __init__(self, folder: Path) -> None:
        self.base, self.folder = model(folder / "base"), folder / "tuned"
        untuned = labeller(self.base)
        self.labels = label_ids(untuned.tokenizer, PROMPT)
        self.prompts = [PROMPT.parts({}, [Rated("Film 1", 3.0)], f"Film {at}") for at in range(2 * FILMS)]
        self.liked = np.random.default_rng(3).random(2 * FILMS) < 0.5
        self.tokens = tokens_of(untuned.tokenizer, self.prompts)[:FILMS]
        self.answers = np.where(self.liked, *self.labels).astype(np.int64)[:FILMS]
        tune(untuned, self.tokens, self.answers, CONFIG, 1, self.folder)

    def losses(self, folder: Path) -> FloatArray:
        """Of all films [2 FILMS]; the second half was never told to the model."""
        odds = np.zeros(len(self.prompts))
        for rows, scores in labeller(folder).log_odds(self.prompts, self.labels):
            odds[rows] = scores
        return np.logaddexp(0.0, np.where(self.liked, -odds, odds))

    def unlearned(self, target: Path | None) -> list[float]:
        base = labeller(self.base)
        forgot, divergence = unlearn(base, self.folder / ADAPTER, self.tokens, self.answers, FORGOTTEN, CONFIG, 1)
        if target is not None:
            save_tuned(base, forgot, target)
        return divergence


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Memory:
    return Memory(tmp_path_factory.mktemp("memory"))


def test_forgotten_samples_come_nearer_to_unseen_ones_and_the_others_stay(memory: Memory, tmp_path: Path) -> None:
    divergence = memory.unlearned(tmp_path)
    before, after = memory.losses(memory.folder / MODEL), memory.losses(tmp_path / MODEL)
    forgotten, retained = before[:FILMS][FORGOTTEN].mean(), before[:FILMS][~FORGOTTEN].mean()
    unseen = before[FILMS:].mean()
    assert unseen > forgotten + 0.2  # else there was nothing to forget
    assert after[:FILMS][FORGOTTEN].mean() > (forgotten + unseen) / 2
    raised = after[:FILMS] - before[:FILMS]
    assert raised[~FORGOTTEN].mean() < 0.5 * raised[FORGOTTEN].mean()
    assert after[:FILMS][~FORGOTTEN].mean() < math.log(2)  # worse than before, and still better than not to know
    assert len(divergence) == teachers.FORGET_PASSES + teachers.MIXED_PASSES
    assert retained < math.log(2)


def test_only_the_updates_change(memory: Memory, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    memory.unlearned(tmp_path)
    old, new = (load_file(folder / MODEL / "model.safetensors") for folder in (memory.folder, tmp_path))
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed
    assert all("q_proj" in name or "v_proj" in name for name in changed)
    old, new = (load_file(folder / ADAPTER / "adapter_model.safetensors") for folder in (memory.folder, tmp_path))
    assert {name: weight.shape for name, weight in old.items()} == {name: weight.shape for name, weight in new.items()}


def test_the_first_pass_forgets_alone_and_then_both_losses_are_weighted(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights: list[float] = []
    real = tuning.add_gradient

    def noted(labeller: Any, model: Any, tokens: Any, losses: Any, weight: float = 1.0) -> float:
        weights.append(weight)
        return real(labeller, model, tokens, losses, weight)

    monkeypatch.setattr(teachers, "add_gradient", noted)
    memory.unlearned(None)
    assert CONFIG.batch_size == FORGOTTEN.sum()  # a step is a pass
    assert weights == [1.0, 1.0, 0.4, 0.4, 0.6, 0.4, 0.6]


def test_samples_that_stay_lose_their_cross_entropy_while_nothing_has_changed(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The divergence from the tuned model is 0 then."""
    real, remembered = tuning.add_gradient, []

    def noted(labeller: Any, model: Any, tokens: Any, losses: Any, weight: float = 1.0) -> float:
        loss = real(labeller, model, tokens, losses, weight)
        if weight == teachers.REMEMBER_WEIGHT:
            expected = real(labeller, model, tokens, entropies_of(tokens), 0.0)
            remembered.append((loss, expected))
        return loss

    def stands_still(model: Any, config: Any, optimizer: Any) -> None:
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        descend(model, config, optimizer)

    def entropies_of(tokens: Any) -> Any:
        rows = [memory.tokens.index(part) for part in tokens]
        return lambda scores, places: cross_entropy(scores, memory.answers[[rows[at] for at in places]])

    monkeypatch.setattr(teachers, "add_gradient", noted)
    monkeypatch.setattr(teachers, "descend", stands_still)
    memory.unlearned(None)
    assert len(remembered) == teachers.MIXED_PASSES
    for loss, expected in remembered:
        assert loss == pytest.approx(expected, rel=1e-4)


def test_the_language_head_must_not_be_tuned(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tuning.adapted

    def with_head(*arguments: Any) -> Any:
        model = real(*arguments)
        model.get_base_model().get_output_embeddings().weight.requires_grad_(True)
        return model

    monkeypatch.setattr(teachers, "adapted", with_head)
    with pytest.raises(DataError, match="language head"):
        memory.unlearned(None)


@pytest.fixture
def ready(tuned: Tuned, cheap: None) -> Prepared:
    return tuned.ready()


def tuned_users(ready: Prepared, count: int) -> list[str]:
    """Ids of the first users that have tuning samples."""
    return [ready.log.user_ids[user] for user in np.unique(ready.user(ready.rows("train")))[:count]]


def digests(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_job_writes_a_reranker_beside_the_old_one(
    tuned: Tuned, ready: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leaving = np.intersect1d(ready.user(ready.rows("train")), ready.user(ready.rows(VALIDATION)))[:3]
    users = [ready.log.user_ids[user] for user in leaving]
    out, before = tmp_path / "new", digests(ready.folder)
    run = Run(tuned.job, "unlearn-reranker")
    with run.working():
        report = unlearn_reranker(run, [*users, "nobody we know"], out)
    assert report is not None
    assert digests(ready.folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    written = {path.name for path in out.iterdir()}
    assert written == {MODEL, ADAPTER, FILE, ITEMS_FILE, REPORT, "scores"}
    assert {path.name for path in (out / ADAPTER).iterdir()} == {
        path.name for path in (ready.folder / ADAPTER).iterdir()
    }
    rows = ready.rows("train")
    forgotten = np.isin(ready.user(rows), leaving)
    assert (report.users, report.unknown, report.tuned_on) == (4, 1, 3)
    assert (report.forgotten, report.retained) == (forgotten.sum(), (~forgotten).sum())
    assert "1 of them are not in the log" in capsys.readouterr().out
    document = json.loads((out / REPORT).read_text())
    assert document["forgotten"] == report.forgotten
    assert not any(f'"{user}"' in (out / REPORT).read_text() for user in users)

    manifest = RerankerManifest.from_json((out / FILE).read_bytes())
    model_after = ready.beside(out).tuned()
    assert manifest.model == report.unlearned == model_after.id != tuned.manifest.model
    assert report.tuned == tuned.manifest.model
    judged = ready.rows(VALIDATION)
    judged = judged[~np.isin(ready.user(judged), leaving)]
    assert len(judged) < len(ready.rows(VALIDATION))
    raw = ready.beside(out).log_odds(model_after, ready.prompt.selection, judged, "again")
    scores = ctr_of(tuned.job, ready).of(judged)
    mix = fit_mix("platt", raw, scores, ready.label(judged), ready.user(judged), ready.events(judged))
    assert (manifest.calibration, manifest.weight, manifest.band) == (mix.calibration, mix.weight, mix.band)

    asked = []
    for canary in manifest.canaries:
        odds = dict.fromkeys(range(2), 0.0)
        for places, scores in model_after.log_odds(canary.prompts, manifest.label_ids):
            odds.update(zip(places, scores.tolist(), strict=True))
        asked.append(probability_of(np.array([odds[0], odds[1]])).tolist())
    assert asked
    assert manifest.broken(asked) == ""


def test_membership_is_judged_beside_users_that_tuning_did_not_see(ready: Prepared) -> None:
    rows, leaving = ready.rows("train"), np.array([3], np.int64)
    unseen = unseen_samples(ready, rows, leaving, 5)
    assert not set(ready.user(unseen)) & ({3} | set(ready.user(rows)))
    assert unseen.max() <= ready.splits.rows[VALIDATION].max()


def test_losses_are_of_the_right_answer(ready: Prepared) -> None:
    rows = ready.rows("train")[:6]
    tuned_model = ready.tuned()
    odds = ready.log_odds(tuned_model, ready.prompt.selection, rows, "again").astype(np.float64)
    chance = 1 / (1 + np.exp(-odds))
    expected = -np.log(np.where(ready.label(rows) > 0.5, chance, 1 - chance))
    np.testing.assert_allclose(losses_of(ready, tuned_model, rows), expected, rtol=1e-4)


def refused(tuned: Tuned, users: list[str], out: Path, words: str) -> None:
    run = Run(tuned.job, "unlearn-reranker")
    with run.working(), pytest.raises(DataError, match=words):
        unlearn_reranker(run, users, out)


def test_nothing_is_unlearned_in_place(tuned: Tuned, ready: Prepared, tmp_path: Path) -> None:
    for folder in (ready.folder, tmp_path):
        refused(tuned, tuned_users(ready, 1), folder, "is there already")


def test_who_was_not_tuned_on_is_nothing_to_unlearn(
    tuned: Tuned, ready: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tuned.job, "unlearn-reranker")
    with run.working():
        assert unlearn_reranker(run, ["nobody we know"], tmp_path / "new") is None
    assert run.record.exit_code == 0
    assert "nothing to unlearn" in capsys.readouterr().out
    assert not (tmp_path / "new").exists()


def test_all_users_are_no_reranker(tuned: Tuned, ready: Prepared, tmp_path: Path) -> None:
    refused(tuned, tuned_users(ready, 1000), tmp_path / "new", "nothing would stay")


def test_samples_must_be_those_that_it_was_tuned_on(tuned: Tuned, ready: Prepared, tmp_path: Path) -> None:
    done = ready.folder / DONE
    document = done.read_bytes()
    try:
        write_json(done, json.loads(document) | {"circumstances": "others"})
        refused(tuned, tuned_users(ready, 1), tmp_path / "new", "tune it again")
        done.unlink()
        refused(tuned, tuned_users(ready, 1), tmp_path / "new", "nothing is tuned")
    finally:
        done.write_bytes(document)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "names no user"), (b"\n \n", "names no user"), (b"a\n\xff\n", "no UTF-8"), (b"a\nb\x01\n", "line 2")],
)
def test_a_file_that_names_nobody_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "users.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_users(path)


def test_users_are_read_from_lines(tmp_path: Path) -> None:
    path = tmp_path / "users.txt"
    path.write_bytes("\ufeff12\r\n\nüser 7\n".encode())
    assert read_users(path) == ["12", "üser 7"]
