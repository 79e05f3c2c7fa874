"""The sections that follow the data: samples, the schema of a model, knowledge, training, publication."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from offline.config import ChoiceConfig
from offline.data.languages.english import ENGLISH
from offline.knowledge.config import MULTILINGUAL_ENCODER
from offline.proposal.features import Column
from offline.proposal.settings import Amounts, Coverage, Labels
from offline.proposal.texts import Texts
from offline.proposal.toml import commented, decimal_of, field_of, quoted


def samples_lines(amounts: Amounts) -> Iterator[str]:
    """The section [samples]."""
    yield ""
    yield "[samples]"
    used = amounts.used(amounts.min_history)
    yield commented(f"min_history = {amounts.min_history}", f"{used:.0%} of the interactions have as many earlier ones")


def schema_lines(
    name: str,
    labels: Labels,
    amounts: Amounts,
    types: Sequence[str],
    columns: Mapping[str, Sequence[Column]],
    texts: Texts,
) -> Iterator[str]:
    """The section [feature_schema]. ``types`` of events, if there are several; ``columns`` that a model reads, by
    side."""
    yield ""
    yield "[feature_schema]"
    yield f"name = {quoted(name)}"
    most = "" if labels.kind != "implicit" else f", at most training.choice.window = {ChoiceConfig().window}"
    yield commented(
        f"history_length = {amounts.history_length}", f"of a user's interactions, so many of the newest are read{most}"
    )
    events = types or [{"threshold": "rating", "binary": "label"}.get(labels.kind, "interaction")]
    remark = "types of feedback that enter a user's history" + ("; after keep, those it names" if types else "")
    yield commented(f"history_types = [{', '.join(map(quoted, events))}]", remark)
    values = (
        ("min", labels.low, "the scale of values begins here,"),
        ("max", labels.high, "and ends here"),
        ("center", (labels.low + labels.high) / 2, "a model reads (value - center) / scale"),
        ("scale", (labels.high - labels.low) / 2, "half of the scale"),
    )
    for key, value, remark in values:
        yield commented(f"value_{key} = {decimal_of(value)}", remark)
    share = "every interaction lies" if labels.kind == "implicit" else f"{labels.share:.1%} of the interactions lie"
    yield commented(f"liked_above = {decimal_of(labels.liked_above)}", f"{share} above it")
    for side, fields in columns.items():
        yield f"{side}_fields = [" + ("" if fields else "]")
        yield from (field_of(column) for column in fields)
        yield from ["]"] if fields else []
    yield "knowledge = [                    # which producers run, and what a model reads of each"
    if texts.columns:
        yield f'    {{ name = "text", side = "item", dim = {amounts.text_dim} }},'
    else:
        yield "    # no text, since no column tells anything of an item"
    if amounts.liber is not None:
        line = f'{{ name = "liber", side = "user", rows = 8, dim = {amounts.liber.dim} }},'
        if texts.language == ENGLISH.code:
            yield f"    {line}"
        else:
            yield "    # liber asks a language model; once [llm] names one that writes the language of the texts:"
            yield f"    # {line}"
    yield "]"
    yield ""
    yield commented(
        "[feature_schema.running]", "counts of a user's meetings with an item and what it shares with others"
    )
    if lives := amounts.half_lives_days:
        yield commented(f"half_lives_days = [{', '.join(map(str, lives))}]", "of counts that forget by the clock")


def note_on_users(amounts: Amounts, language: str) -> str:
    """Why nothing is written of users, for a person; "" if it is."""
    if amounts.liber is None:
        return (
            "users have no knowledge beyond their histories: too few have five interactions in time to train the "
            "producer liber; once they have, `init` writes it"
        )
    if language != ENGLISH.code:
        return (
            "users have no knowledge beyond their histories: the producer liber stands in a comment, because the "
            "packaged language model writes English alone. Name another one in [llm], and take the # before liber away"
        )
    return ""


def knowledge_lines(amounts: Amounts, language: str) -> Iterator[str]:
    """The sections [llm], [knowledge] where something is to be said of it, and [knowledge.liber]."""
    yield ""
    yield "[llm]"
    yield commented(
        'backend = "local"', 'a small model inside a package; "openai" for any server, see configs/TEMPLATE.toml'
    )
    if language != ENGLISH.code:
        yield "# the packaged model writes English, whatever it is asked for: name another one by model"
        yield ""
        yield "[knowledge]"
        yield commented(
            f"# encoder = {quoted(MULTILINGUAL_ENCODER)}",
            "the packaged one reads English; this one 16 languages, docs/knowledge.md",
        )
    yield ""
    liber = amounts.liber
    if liber is None:
        yield "# No knowledge of users (producer liber): too few have five interactions in time to train."
        return
    size = liber.partition_size
    covered, asked = amounts.covered(size), amounts.partitions(size)
    yield "[knowledge.liber]"
    yield commented(
        f"partition_size = {size}", f"{covered:.0%} of the users have one or more; {asked:,} summaries to ask for"
    )
    if not liber.shift:
        yield commented("shift = false", "too few users have two partitions to learn changes of taste")


def training_lines(coverage: Coverage) -> Iterator[str]:
    """The sections [training] and [publish]."""
    yield ""
    yield "[training]"
    yield commented('served = "auto"', "the first refresh compares models and serves the simplest of the best")
    yield ""
    yield "[publish]"
    share = f"; {coverage.share:.1%} have something to tell" if coverage.is_low else ""
    yield commented(
        f"min_item_coverage = {coverage.least:g}", f"share of items with knowledge that a release needs{share}"
    )
