"""Whatever would keep a refresh from ending well, as far as it can be told before anything is asked or computed.

``of_settings`` looks at the configuration and this machine, ``of_log`` at the interactions too; a refresh heeds both.
``of_everything`` is what ``validate`` says, also of whose the work folder and the live release are (``of_places``). An
error ends a refresh before it costs anything; a warning says what it would do without.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from models.contract.arrays import BoolArray
from models.valkey.embedded import EmbeddedRedisError
from offline.data.catalogue import Catalogue, DataError, joined
from offline.data.dataset import Dataset, open_dataset
from offline.data.files import file_digest
from offline.data.log import InteractionLog
from offline.data.rules import Findings
from offline.jobs.events import look_for_events
from offline.jobs.llm_requests import TEXTS, carried_fields, imported_texts, language_lines, not_let_out
from offline.jobs.outlook import outlook
from offline.jobs.rates import line_of_training, measure
from offline.jobs.runs import check_owner
from offline.jobs.steps import Job, StepCache, Stopwatch
from offline.jobs.work import work_of
from offline.knowledge.encoder import TextEncoder
from offline.knowledge.needs import Supply, shape_fault
from offline.knowledge.pooling import EncoderError
from offline.knowledge.run import log_digest, producers_of
from offline.llm.openai import server_fault
from offline.llm.protocol import UnusableBackendError
from offline.llm.weights import PACKAGE, package_folder
from offline.publish.connection import StoreError, UnreachableError, store_if_there
from offline.publish.release import SwitchError, refuse_another
from offline.training.samples import one_label_warnings, split_samples


def check_settings(job: Job) -> None:
    """DataError for settings that no run can follow, and for what this machine lacks."""
    heed(of_settings(job))


def check_log(job: Job, source: Dataset, catalogue: Catalogue, log: InteractionLog) -> None:
    """DataError for interactions that leave too little to train or publish; looks again only if anything changed."""
    inputs = {
        "config": job.config.model_dump(mode="json"),
        "log": log_digest(log),
        "source": source.described,
        "imported": file_digest(job.imported),
    }
    if not StepCache(job).is_current("check", inputs):
        watch = Stopwatch()
        heed(of_log(job, catalogue, log))
        StepCache(job).finished("check", inputs, watch.seconds)


def heed(findings: Findings) -> None:
    """Print the warnings. DataError with the errors."""
    for warning in findings.warnings:
        print(f"  warning: {warning}", flush=True)
    if findings.errors:
        raise DataError(joined(findings.errors))


def of_everything(job: Job, *, measured: bool = False) -> Findings:
    """Findings on settings, this machine, the model server, the data and what they leave, and, if ``measured``, on how
    long their texts take here. Fetches the data set."""
    source, schema = open_dataset(job.config.data, job.raw), job.config.feature_schema
    source.fetch()
    of_data = source.check(schema)
    every = [of_settings(job), of_places(job), of_server(job), of_data]
    if not any(findings.errors for findings in every):
        every += _of_arrived(job, source, of_data, measured)
    return Findings(
        facts=[line for findings in every for line in findings.facts],
        warnings=[line for findings in every for line in findings.warnings],
        errors=[line for findings in every for line in findings.errors],
    )


def _of_arrived(job: Job, source: Dataset, of_data: Findings, measured: bool) -> Iterator[Findings]:
    """Findings on the log as a refresh would have it, but for what the service streamed."""
    try:
        catalogue = source.catalogue()
        arrived = look_for_events(job, source, catalogue, None, of_data)
    except DataError as error:
        yield Findings(errors=[str(error)])
        return
    if arrived.rebuilt is not None:
        yield Findings(warnings=[f"{arrived.rebuilt.summary}; the models are trained anew"])
    log = arrived.log
    yield (findings := of_log(job, catalogue, log))
    if measured and not findings.errors:
        names = producers_of(job.config.feature_schema)
        idle = waiting(job, catalogue, log, names)
        try:
            work = work_of(job, [name for name in names if name not in idle], catalogue, log)
        except UnusableBackendError as error:
            yield Findings(facts=[f"texts to encode and prompts to ask cannot be counted: {error}"])
        else:
            yield Findings(facts=[*measure(job, work).lines(work), line_of_training(job.config, catalogue, log)])


def of_places(job: Job) -> Findings:
    """Findings on whose the work folder and the live release are. Redis may be out of reach where somebody only checks
    a configuration, so that is a warning."""
    findings = Findings()
    try:
        check_owner(job)
    except DataError as error:
        findings.errors.append(str(error))
    try:
        with store_if_there(job.data_dir, job.config.name) as store:
            if store is not None:
                refuse_another(store, job.config.name)
    except (UnreachableError, EmbeddedRedisError) as error:
        findings.warnings.append(f"{error}; a refresh needs it")
    except (StoreError, SwitchError) as error:
        findings.errors.append(str(error))
    return findings


def of_server(job: Job) -> Findings:
    """Findings on the server of the language model, which is asked what it serves."""
    llm = job.config.llm
    if llm.backend != "openai" or llm.base_url is None or llm.model is None or not _asks(job):
        return Findings()
    fault = server_fault(llm.base_url, llm.model, llm.api_key_env)
    return Findings(warnings=[f"llm: {fault}, so no new prompt can be asked"] if fault else [])


def of_settings(job: Job) -> Findings:
    """Findings on the configuration and this machine. Connects to nothing, reads no data."""
    return Findings(warnings=list(_absences(job)), errors=[*_contradictions(job), *_unusable(job)])


def of_log(job: Job, catalogue: Catalogue, log: InteractionLog) -> Findings:
    """Findings on what the interactions leave for training and for the producers of knowledge."""
    try:
        splits = split_samples(job.config.samples, log)
    except DataError as error:
        return Findings(errors=[str(error)])
    supply = Supply(job.domain(catalogue, log), splits.trained_rows, described_items(job, catalogue, log))
    liked = (log.value > job.config.feature_schema.liked_above).astype(np.float32)
    findings = outlook(job.config, catalogue, log, splits)
    labels = one_label_warnings(splits, liked)
    findings.warnings += [*language_lines(job), *labels, *_idle_settings(job, catalogue, supply)]
    findings.errors += _ids_told(job, catalogue)
    coverage = _coverage(job, supply)
    if (job.models / "report.json").is_file():  # records of what is live go on without a new release
        findings.warnings += coverage
    else:
        findings.errors += coverage
    return findings


def waiting(job: Job, catalogue: Catalogue, log: InteractionLog, names: Collection[str]) -> dict[str, str]:
    """What producers lack for their frozen parts whatever the language model answers, in words by name."""
    if not names:
        return {}
    trained_rows = split_samples(job.config.samples, log).trained_rows
    supply = Supply(job.domain(catalogue, log), trained_rows, described_items(job, catalogue, log))
    return {name: f"{name} needs {needs}" for name in names if (needs := supply.unmet(name))}


def described_items(job: Job, catalogue: Catalogue, log: InteractionLog) -> BoolArray:
    """[items] whether there is a description or an imported text."""
    imported = imported_texts(job)
    texts = job.config.data.texts
    return np.array(
        [
            texts.describes(catalogue.items.get(item, {})) or (imported is not None and item in imported.items)
            for item in log.item_ids
        ],
        np.bool_,
    )


def _contradictions(job: Job) -> Iterator[str]:
    """Settings that no run can follow."""
    config, schema = job.config, job.config.feature_schema
    try:
        names = producers_of(schema)
    except DataError as error:
        yield f"feature_schema.knowledge: {error}"
        names = ()
    for name in names:
        if fault := shape_fault(name, config.knowledge, schema):
            yield f"feature_schema.knowledge: {name} {fault}"
    if refusal := not_let_out(job, names):
        yield refusal


def _unusable(job: Job) -> Iterator[str]:
    """Folders, packages and files that a run needs and cannot use."""
    for name, folder in (("workdir", job.config.workdir), ("--data-dir", job.data_dir)):
        place = folder.absolute()
        while not place.exists():
            place = place.parent
        if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
            yield f"{name} = {folder}: {place} is no folder that may be written to"
    for setting, model in (("llm.model", _local_model(job)), ("knowledge.marc.model", job.config.knowledge.marc.model)):
        if model is not None and not model.exists():
            yield f"{setting}: there is nothing at {model}"
    if job.config.feature_schema.knowledge:
        try:
            TextEncoder(job.config.knowledge.encoder, job.config.knowledge.encoder_tokens).check_weights()
        except EncoderError as error:
            yield f"knowledge.encoder: {error}"
    if job.engine == "ray" and importlib.util.find_spec("ray") is None:
        yield "--engine ray needs the extra: pip install 'lorank[ray]'"


def _absences(job: Job) -> Iterator[str]:
    """Parts without which no new prompt can be asked; a run whose answers are all stored does not need them."""
    llm = job.config.llm
    if not _asks(job):
        return
    if llm.api_key_env is not None and not os.environ.get(llm.api_key_env, "").strip():
        yield f"llm.api_key_env: the variable {llm.api_key_env} is not set, so no new prompt can be asked"
    if llm.backend == "local" and llm.model is None and package_folder(PACKAGE) is None:
        yield f"llm: the package {PACKAGE.replace('_', '-')} is not installed, so no new prompt can be asked"


def _asks(job: Job) -> bool:
    """Whether a producer of the schema asks the language model."""
    return any(TEXTS.get(spec.name) for spec in job.config.feature_schema.knowledge)


def _local_model(job: Job) -> Path | None:
    llm = job.config.llm
    return Path(llm.model) if llm.backend == "local" and llm.model is not None else None


def _idle_settings(job: Job, catalogue: Catalogue, supply: Supply) -> Iterator[str]:
    """Parts of the configuration that are as good as off on these data."""
    for name in producers_of(job.config.feature_schema):
        if needs := supply.unmet(name):
            yield f"{name} will wait and know nothing: it needs {needs}"
    column = job.config.data.texts.topics_column
    if column and catalogue.items and not any(features.get(column) for features in catalogue.items.values()):
        yield f'data.texts.topics_column: no item has a value in {column!r}; "" switches topics off'
    for column in job.config.knowledge.liber.profile:
        if not any(features.get(column) for features in catalogue.users.values()):
            yield f"knowledge.liber.profile: no user has a value in {column!r}, so questions do not tell it"


def _ids_told(job: Job, catalogue: Catalogue) -> Iterator[str]:
    """Columns of items' ids that prompts would carry to a server with a list of fields, in words."""
    outlet = job.config.llm.outlet
    if outlet is None or outlet.allowed is None:
        return
    of_sides = {"items": catalogue.items, "users": catalogue.users}
    for field in sorted(carried_fields(job, producers_of(job.config.feature_schema))):
        side, _, column = field.partition(".")
        if side not in of_sides:
            continue
        copies = [name == str(features[column]) for name, features in of_sides[side].items() if features.get(column)]
        if 2 * sum(copies) > len(copies):
            remedy = f"{{{column}}} out of [data.texts]" if side == "items" else "it out of knowledge.liber.profile"
            yield (
                f"{field} holds the ids of {sum(copies)} of {len(copies)} {side}, and ids never go to "
                f"{outlet.address} ({outlet.place}): take {remedy}"
            )


def _coverage(job: Job, supply: Supply) -> list[str]:
    """An objection of the gate to be expected: too few items of which anything can be known."""
    least, items, count = job.config.publish.min_item_coverage, len(supply.described), int(supply.described.sum())
    names = {spec.name for spec in job.config.feature_schema.item_knowledge}
    if not items or count / items >= least or all(map(supply.unmet, names)):  # no release reads what waits
        return []
    return [
        f"only {count} of {items} items can have knowledge, a new release needs {least:.0%} of them: describe "
        "them ([data.items], data.texts.item) or lower publish.min_item_coverage"
    ]
