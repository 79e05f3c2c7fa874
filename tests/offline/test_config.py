"""The jobs' configuration: what is not understood is refused, by name."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given

from offline.cli.call import DEFAULT_DATA_DIR, DEMO_CONFIG, DEMO_DATA_DIR
from offline.config import ConfigError, JobConfig, load_config
from tests.conftest import ROOT
from tests.damage import FEW, damaged, unless

SHIPPED = Path(__file__).parents[2] / "configs" / "ml-100k.toml"

MINIMAL = """
name = "tiny"
workdir = "var/tiny"

[data]
source = "movielens-100k"

[feature_schema]
name = "tiny"
user_fields = [{ name = "age", edges = [18] }]
item_fields = [{ name = "genres", vocab = ["Drama"] }]
history_length = 5
knowledge = [{ name = "liber", side = "user", rows = 2, dim = 4 }]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Configurations name files relative to the folder the job is started in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(folder: Path, text: str) -> JobConfig:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path)


@FEW
@given(damaged((ROOT / "configs/ml-100k.toml").read_bytes(), MINIMAL.encode(), b'extends = "config.toml"'))
def test_whatever_a_file_holds_is_a_configuration_or_refused(folder: Path, raw: bytes) -> None:
    (folder / "config.toml").write_bytes(raw)
    unless(ConfigError, load_config, folder / "config.toml")


@pytest.mark.parametrize("raw", [b"a = " + b"[" * 100_000, b'extends = "a\\u0000b"', b"extends = 1", b'extends = "."'])
def test_what_cannot_be_read_is_refused(folder: Path, raw: bytes) -> None:
    (folder / "config.toml").write_bytes(raw)
    with pytest.raises(ConfigError):
        load_config(folder / "config.toml")


def test_a_minimal_configuration_has_defaults(folder: Path) -> None:
    config = load(folder, MINIMAL)
    assert config.workdir == Path("var/tiny")
    assert config.samples.split == (0.8, 0.1, 0.1)
    assert config.training.served == "din"
    assert config.publish.keep_releases >= 2


@pytest.mark.parametrize(
    ("addition", "named"),
    [
        ("[training]\nlearning_rat = 0.1\n", "training.learning_rat: .*did you mean training.learning_rate"),
        ("[knowledge]\npartition_sise = 3\n", "knowledge.partition_sise: .*mean knowledge.liber.partition_size"),
        ("[samples]\nminhistory = 3\n", "samples.minhistory: .*did you mean samples.min_history"),
        ("[publish]\nkeep = 3\n", "publish.keep: .*did you mean publish.keep_releases"),
        ("[llm]\nmodle = 'x'\n", "llm.modle: .*did you mean llm.model"),
        ("[trainning]\nepochs = 3\n", "trainning: .*did you mean training"),
        ("[data.text]\nnoun = 'shoe'\n", "data.text: .*did you mean data.texts"),
        ("[samples]\nsplit = [0.8, 0.1, 0.2]\n", "samples: .*split must add up to 1"),
        ("[samples]\nsplit = [1.2, -0.1, -0.1]\n", "samples.split.0: "),
        ("[samples]\nsplit = [0.8, 0.2]\n", "samples.split"),
        ("[samples]\nmin_history = -1\n", "samples.min_history: "),
        ("[training]\nserved = 'transformer'\n", "training.served: "),
        ("[training]\nseeds = []\n", "training.seeds: "),
        ("[training]\nepochs = 0\n", "training.epochs: "),
        ("[knowledge.liber]\npartition_size = 1\n", "knowledge.liber.partition_size: "),
        ("[knowledge]\nttl_days = 0\n", "knowledge.ttl_days: "),
        ("[knowledge.marc]\ndtype = 'float32'\n", "knowledge.marc.dtype: "),
        ("[knowledge]\nshipped_responses = 'nowhere.gz'\n", "knowledge.shipped_responses: no file nowhere.gz"),
        ("[knowledge]\nshipped_vectors = 'nowhere.npz'\n", "knowledge.shipped_vectors: no file nowhere.npz"),
        ("[llm]\ndtype = 'float32'\n", "llm.dtype: is `arithmetic` at the top"),
        ("[reranking]\ndtype = 'float32'\n", "reranking.dtype: is `arithmetic` at the top"),
        ("[publish]\nkeep_releases = 1\n", "publish.keep_releases: "),
        ("[publish]\nmin_item_coverage = 2\n", "publish.min_item_coverage: "),
    ],
)
def test_what_is_not_understood_is_named(folder: Path, addition: str, named: str) -> None:
    with pytest.raises(ConfigError, match=rf"config.toml is not understood:\n(?s:.*){named}"):
        load(folder, MINIMAL + addition)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('name = "tiny"\nworkdir', "workdir", "name: "),
        ('name = "tiny"\nworkdir', 'name = "a b"\nworkdir', "name: "),
        ('"movielens-100k"', '"movielens-10m"', "data.source: "),
        ("history_length = 5", "history_length = 0", "feature_schema.history_length: "),
        ("history_length = 5", "history_lenght = 5", "feature_schema.history_lenght: "),
        ("edges = [18]", "edges = [18, 18]", "feature_schema.user_fields.0: .*'age' needs strictly rising edges"),
        ('vocab = ["Drama"]', "slots = 2", "feature_schema.item_fields.0: .*'genres' needs either vocab or edges"),
    ],
)
def test_what_is_missing_or_impossible_is_named(folder: Path, old: str, new: str, named: str) -> None:
    assert old in MINIMAL
    with pytest.raises(ConfigError, match=named):
        load(folder, MINIMAL.replace(old, new, 1))


FILES = """
[data]
source = "files"
texts = { item = "{title}", topics_column = "" }
items = { paths = "items.csv", id = "id", columns = { title = "text" } }
"""
TIMELESS = 'interactions = { paths = "i.csv", user = "u", item = "i", value = "v" }\nsplit_by = "order"\n'
PARTED = 'interactions = { paths = "i.csv", user = "u", item = "i", value = "v", split_column = "part" }\n'


@pytest.mark.parametrize(
    ("data", "addition", "named"),
    [
        (PARTED, "[samples]\nsplit = [0.8, 0.1, 0.1]\n", "samples.split: takes no effect, .* by the column 'part'"),
        (TIMELESS, "[knowledge.liber]\npartition_days = 30\n", "partition_days: takes no effect, .* no times"),
    ],
)
def test_settings_that_the_data_leave_without_effect_are_refused(
    folder: Path, data: str, addition: str, named: str
) -> None:
    text = MINIMAL.replace('\n[data]\nsource = "movielens-100k"\n', FILES + data)
    assert load(folder, text).data.brings_parts is (data == PARTED)
    with pytest.raises(ConfigError, match=named):
        load(folder, text + addition)


def test_a_setting_without_effect_is_told_and_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load(folder, MINIMAL + "[data.texts]\nevent = '{item.name}'\n")
    assert config == load(folder, MINIMAL)
    assert "event never had an effect" in capsys.readouterr().err


def test_every_error_is_listed_at_once(folder: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        load(folder, MINIMAL + "[training]\nepoch = 3\nseed = 1\n[publish]\nkeep = 1\n")
    assert [line.split(":")[0].strip() for line in str(raised.value).splitlines()[1:]] == [
        "training.epoch", "training.seed", "publish.keep",
    ]  # fmt: skip


def test_a_missing_file_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read nowhere\.toml: No such file"):
        load_config(Path("nowhere.toml"))


def test_a_folder_is_no_configuration(folder: Path) -> None:
    with pytest.raises(ConfigError, match=f"cannot read {folder}"):
        load_config(folder)


def test_what_is_not_toml_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.toml is not TOML: "):
        load(folder, "name = \n")


def test_what_is_not_text_is_refused(folder: Path) -> None:
    path = folder / "binary.toml"
    path.write_bytes(b"name = '\xff'")
    with pytest.raises(ConfigError, match=r"binary\.toml is not TOML: "):
        load_config(path)


def test_the_shipped_configuration_is_understood_but_for_files_that_come_with_it() -> None:
    document = tomllib.loads(SHIPPED.read_text(encoding="utf-8"))
    document["knowledge"].pop("shipped_responses")
    config = JobConfig.model_validate(document)
    assert config.name == "ml-100k"
    assert config.feature_schema.user_slots == 3


def test_the_demo_meets_nobody() -> None:
    demo, others = load_config(ROOT / DEMO_CONFIG), [*(ROOT / "configs").glob("ml-*m*.toml")]
    configurations = [load_config(path) for path in others if "experiments" not in path.name]
    assert len(configurations) > 1
    assert demo.name not in {config.name for config in configurations}
    assert demo.workdir.parent == DEMO_DATA_DIR
    for folder in (DEFAULT_DATA_DIR / "valkey", DEFAULT_DATA_DIR / "artifacts", *(c.workdir for c in configurations)):
        assert not demo.workdir.is_relative_to(folder)


def test_what_is_deployed_serves_the_configuration_that_its_jobs_refresh() -> None:
    compose, image, cron = (
        (ROOT / file).read_text() for file in ("docker-compose.yml", "Dockerfile", "deploy/cron/lorank")
    )
    served = [
        *re.findall(r'LORANK_KEY_PREFIX: "lorank:\$\{CONFIGURATION:-(\S+)\}"', compose),
        *re.findall(r"ARG CONFIGURATION=(\S+)", image),
        *re.findall(r"LORANK_KEY_PREFIX=lorank:(\S+)\.", cron),
    ]
    refreshed = re.findall(r'"(configs/\S+\.toml)"', compose)[:1] + re.findall(r"--config (\S+)", cron)
    assert len(served) == len(refreshed) == 3
    assert {load_config(ROOT / path).name for path in refreshed} == set(served)


def test_a_configuration_extends_another(tmp_path: Path) -> None:
    base = load_config(ROOT / "configs" / "ml-100k.toml")
    served = load_config(ROOT / "configs" / "ml-100k-vllm.toml")
    assert served.feature_schema == base.feature_schema
    assert served.training == base.training
    assert (served.llm.backend, served.workdir) == ("openai", Path("var/ml-100k-vllm"))
    assert served.name != base.name, "they would publish under one prefix"
    (tmp_path / "orphan.toml").write_text('extends = "nowhere.toml"')
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        load_config(tmp_path / "orphan.toml")
