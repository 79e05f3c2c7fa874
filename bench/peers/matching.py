"""AutoGraph's matching quality beside a peer's, on a job's data, all judged by one evaluator. See docs/autograph.md.

    python bench/peers/matching.py split --config configs/ml-1m.toml --split split.npz
    python bench/peers/matching.py run --config configs/ml-1m.toml --split split.npz --out ours-1.npz [--texts own]
        [--seed 2] [network.history=50 ...]
    python bench/peers/matching.py judge --split split.npz LightGCN=peer-1.npz,peer-2.npz AutoGraph=ours-1.npz [--test]

``run`` reads what the job's language model has said; it asks nothing, and refuses if a text is still to come. ``--texts
own`` is the control: an item's text is its own (title, year, genres), and a user version is the mean of the liked items
of its partition, so that the versions are the same ones and no language model speaks. The epoch is chosen on the
validation item, as in the peer's run.
``judge`` gives the mean over a method's files, one per seed, and the paired difference to the first method with 95 %
over resampled users. Without ``--test`` only the validation item is looked at.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from offline.cli.call import job_of
from offline.jobs.llm_requests import data_of, inputs_of
from offline.knowledge.autograph.assign import AutoGraph
from offline.knowledge.autograph.graph import Evidence, Versions
from offline.knowledge.autograph.produce import evidence_of
from offline.knowledge.autograph.train import fit_frozen
from offline.knowledge.config import FrozenPartsConfig
from offline.knowledge.inputs import ProducerInputs
from offline.knowledge.prompts import plain_text
from research.autograph.leave_one_out import LeaveOneOut, leave_one_out, training_part
from research.autograph.matching import (
    Lists,
    Matching,
    autograph_lists,
    matching_quality,
    mean_quality,
    paired_difference,
)


def main() -> None:
    arguments = parsed()
    if arguments.job == "judge":
        evaluate_lists(arguments)
        return
    job = job_of(arguments.config, Path("var"))
    catalogue, log = data_of(job)
    if arguments.job == "split":
        liked = (log.value > job.config.feature_schema.liked_above) & ~log.sampled
        split = leave_one_out(log.user, log.item, liked)
        split.save(arguments.split)
        print(f"{len(split.train_user)} positives to train on, {len(split.catalogue)} items, {len(split.user)} users")
        return
    with inputs_of(job, catalogue, log, "autograph") as inputs:
        inputs.need(np.concatenate([inputs.texts.items.absent, inputs.texts.summaries.absent]))
        evidence = evidence_of(inputs)
        if arguments.texts == "own":
            evidence = without_language_model(inputs, evidence)
    run(arguments, evidence, configured(job.config.knowledge.autograph.frozen_parts, arguments))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(dest="job", required=True)
    for name in ("split", "run", "judge"):
        job = jobs.add_parser(name)
        job.add_argument("--split", type=Path, required=True)
        if name != "judge":
            job.add_argument("--config", type=Path, required=True)
        if name == "run":
            job.add_argument("--out", type=Path, required=True)
            job.add_argument("--texts", choices=("llm", "own"), default="llm")
            job.add_argument("--seed", type=int, default=1)
            job.add_argument("settings", nargs="*", help="part.name=value, as in FrozenPartsConfig")
        if name == "judge":
            job.add_argument("methods", nargs="+", help="NAME=LISTS.npz[,LISTS.npz ...]")
            job.add_argument("--test", action="store_true")
    return parser.parse_args()


def run(arguments: argparse.Namespace, whole: Evidence, config: FrozenPartsConfig) -> None:
    split = LeaveOneOut.load(arguments.split)
    evidence = training_part(split, whole)
    print(f"{len(evidence.items)} items, {len(evidence.versions)} versions, {len(evidence.user)} rows", flush=True)
    started, busy = time.monotonic(), time.process_time()
    epochs: list[dict[str, float]] = []

    def on_validation_item(autograph: AutoGraph) -> float:
        lists = autograph_lists(split, autograph.assign(evidence), autograph.from_row)
        quality = matching_quality(lists.validation, split.validation)
        epochs.append({"score": quality.ndcg, "recall": quality.recall, "busy_s": time.process_time() - busy})
        print(json.dumps(epochs[-1]), flush=True)
        return quality.ndcg

    autograph = fit_frozen(evidence, len(evidence.user), config, on_validation_item)
    spent = {"seconds": time.monotonic() - started, "busy_s": time.process_time() - busy}
    autograph_lists(split, autograph.assign(evidence), autograph.from_row).save(arguments.out)
    autograph.save(arguments.out.with_suffix(".autograph.npz"))
    settings = {name: str(value) for name, value in vars(arguments).items()}
    document = {"settings": settings, "epochs": epochs, **spent, "notes": autograph.notes}
    arguments.out.with_suffix(".json").write_text(json.dumps(document, indent=1))
    print(f"fitted in {spent['seconds']:.0f} s, {spent['busy_s']:.0f} s of processor time", *autograph.notes)


def without_language_model(inputs: ProducerInputs, evidence: Evidence) -> Evidence:
    """Items as their own texts say, and the same versions as means of what was liked in their partitions."""
    features = [inputs.catalogue.items.get(item, {}) for item in inputs.log.item_ids]
    items, known = np.zeros_like(evidence.items), evidence.known_items
    items[known] = inputs.encode([plain_text(inputs.vocabulary, features[at]) for at in np.flatnonzero(known)])
    users = np.zeros_like(evidence.versions.vectors)
    for at, partition in enumerate(inputs.texts.versions.partitions.tolist()):
        rows = inputs.texts.partitions.rows_of(partition) if partition >= 0 else np.zeros(0, np.int64)
        users[at] = items[inputs.log.item[rows[evidence.liked[rows]]]].sum(axis=0)
    length = np.linalg.norm(users, axis=1, keepdims=True)
    versions = Versions(
        users / np.maximum(length, 1e-12), evidence.versions.start, evidence.versions.closed_at, length[:, 0] > 0
    )
    return replace(evidence, items=items, versions=versions)


def evaluate_lists(arguments: argparse.Namespace) -> None:
    split, target = LeaveOneOut.load(arguments.split), "test" if arguments.test else "validation"
    left_out, qualities = getattr(split, target), dict[str, Matching]()
    trainings = {name: files.split(",") for name, files in (method.split("=", 1) for method in arguments.methods)}
    for name, files in trainings.items():
        lists = [getattr(Lists.load(Path(file)), target) for file in files]
        qualities[name] = mean_quality([matching_quality(lists_of, left_out) for lists_of in lists])
    first = next(iter(qualities))
    print(f"| method | seeds | Recall@50 | against {first} [95 %] | NDCG@50 | against {first} [95 %] |")
    print("|---|---|---|---|---|---|")
    for name, quality in qualities.items():
        against = {"recall": "", "ndcg": ""}
        if name != first:
            difference = paired_difference(quality, qualities[first])
            against = {key: f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]" for key, (mean, low, high) in difference.items()}
        print(
            f"| {name} | {len(trainings[name])} | {quality.recall:.4f} | {against['recall']} "
            f"| {quality.ndcg:.4f} | {against['ndcg']} |"
        )


def configured(frozen_parts: FrozenPartsConfig, arguments: argparse.Namespace) -> FrozenPartsConfig:
    document = {**frozen_parts.model_dump(), "seed": arguments.seed}
    for setting in arguments.settings:
        name, value = setting.split("=")
        *parts, last = name.split(".")
        table = document
        for part in parts:
            table = table[part]
        table[last] = value
    return FrozenPartsConfig.model_validate(document)


if __name__ == "__main__":
    main()
