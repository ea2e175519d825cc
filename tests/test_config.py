from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from coupalign.config import Config, ConfigError, config_keys, load_config
from coupalign.errors import UserError
from coupalign.files import REPOSITORY

DEFAULTS = yaml.safe_load((REPOSITORY / "default_config.yaml").read_text(encoding="utf-8"))


def refused(path="default_config.yaml", **overrides) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    return message


def file(tmp_path, text: str | bytes):
    path = tmp_path / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_the_papers_values_are_the_defaults():
    config = load_config()
    assert config.as_dict() == DEFAULTS
    # Section 4.1 of the paper, typed in by hand.
    assert (
        config.model.image_size,
        config.model.max_tokens,
        config.model.num_queries,
        config.training.batch_size,
        config.training.epochs,
    ) == (448, 30, 100, 16, 50)
    assert (
        config.training.learning_rate,
        config.training.end_learning_rate,
        config.training.decay_epochs,
        config.training.weight_decay,
    ) == (3e-5, 1.5e-5, 25, 0.01)
    assert config.losses.aux_loss_weight == 0.1
    assert config.model.swin_depths == (2, 2, 18, 2)


def test_every_key_is_explained_and_in_a_section():
    for key in config_keys().values():
        assert len(key.help) > 5, key
        assert key.section, key
    assert config_keys()["threshold"].help == "probability above which a pixel is in the mask"
    assert list(config_keys()) == list(DEFAULTS)


def test_a_file_lies_over_the_defaults_and_overrides_over_both(tmp_path):
    path = file(tmp_path, "epochs: 30\nseed: 1\nlearning_rate: 3e-4\ndecay_power: 1\n")
    config = load_config(path, {"seed": 2, "eval_splits": ("val",)})
    assert (config.training.epochs, config.run.seed, config.training.learning_rate, config.training.batch_size) == (
        30,
        2,
        3e-4,
        16,
    )
    assert config.training.decay_power == 1.0 and isinstance(config.training.decay_power, float)
    assert config.evaluation.eval_splits == ("val",)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("learning_rate", "3e-5", 3e-5),
        ("learning_rate", "1", 1.0),
        ("epochs", "50", 50),
        ("sma", "false", False),
        ("sma", "True", True),
        ("swin_depths", "[1, 2,3 ,4]", (1, 2, 3, 4)),
        ("swin_depths", "1,2,3,4", (1, 2, 3, 4)),
        ("eval_splits", "[val, 'testA']", ("val", "testA")),
        ("eval_splits", "val", ("val",)),
        ("wpa_stages", "3", (3,)),
        ("dataset", "123", "123"),
        ("init_checkpoint", "", ""),
        ("dataset", "true", "true"),
    ],
)
def test_overrides_given_as_text(key, text, value):
    read = getattr(load_config(overrides={key: text}), key)
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("learning_rat: 1", ["unknown key 'learning_rat'", "learning_rate"]),
        ("Batch_Size: 1", ["unknown key 'Batch_Size'", "batch_size"]),
        ("1: 2", ["unknown key"]),
        ("batch_size: true", ["batch_size must be an integer", "True"]),
        ("batch_size: 2.0", ["batch_size must be an integer", "2.0"]),
        ("batch_size: '2'", ["batch_size must be an integer", "'2'"]),
        ("batch_size:", ["batch_size must be an integer", "None"]),
        ("batch_size: 99999999999", ["batch_size must be an integer"]),
        ("sma: 1", ["sma must be true or false", "1"]),
        ("learning_rate: true", ["learning_rate must be a number", "True"]),
        ("learning_rate: .nan", ["learning_rate must be a number", "nan"]),
        ("learning_rate: .inf", ["learning_rate must be a number", "inf"]),
        ("learning_rate: 1e999", ["learning_rate must be a number"]),
        ("learning_rate: fast", ["learning_rate must be a number", "'fast'"]),
        ("dataset: 3", ["dataset must be a string", "3"]),
        ("swin_depths: 2", ["swin_depths must be a list of integers", "2"]),
        ("swin_depths: [2, 2, true, 2]", ["swin_depths must be a list of integers"]),
        ("eval_splits: val", ["eval_splits must be a list of strings", "'val'"]),
        ("eval_splits: [1]", ["eval_splits must be a list of strings"]),
        ("seed: 1\nseed: 2", ["'seed' is there twice"]),
        ("seed: 1\nSeed", ["not a YAML configuration"]),
        ("seed: [1", ["line 1", "not a YAML configuration"]),
        ("- seed", ["not a YAML configuration"]),
        ("", ["not a YAML configuration"]),
        ("seed: !!python/object/apply:os.getcwd []", ["not a YAML configuration"]),
        ("seed: 2020-13-45", ["not a YAML configuration"]),
        (b"dataset: \xff\xfe", ["not a YAML configuration"]),
        ("[" * 5000, ["not a YAML configuration"]),
        ("seed: 1\n---\nseed: 2", ["not a YAML configuration"]),
    ],
)
def test_files_that_are_refused_name_the_file_and_the_key(tmp_path, line, parts):
    path = file(tmp_path, line)
    message = refused(path)
    assert str(path) in message
    for part in parts:
        assert part in message


def test_missing_files_and_directories(tmp_path):
    assert str(tmp_path / "none.yaml") in refused(tmp_path / "none.yaml")
    assert str(tmp_path) in refused(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"swin_depths": [2, 2, 2]}, ["swin_depths", "4 numbers"]),
        ({"swin_num_heads": [1, 1, 1, 1, 1]}, ["swin_num_heads", "4 numbers"]),
        ({"swin_num_heads": [4, 8, 15, 32]}, ["swin_num_heads", "15", "512", "swin_embed_dim"]),
        ({"swin_depths": [2, 0, 2, 2]}, ["swin_depths", "at least 1"]),
        ({"bert_num_layers": 6}, ["bert_num_layers", "multiple of 4"]),
        ({"bert_num_heads": 5}, ["bert_num_heads", "bert_hidden_size"]),
        ({"cross_attention_heads": 7}, ["cross_attention_heads", "bert_hidden_size"]),
        ({"decoder_heads": 3}, ["decoder_heads", "decoder_dim"]),
        ({"image_size": 450}, ["image_size", "multiple of 32"]),
        ({"image_size": 0}, ["image_size", "at least 1"]),
        ({"wpa_stages": [1, 5]}, ["wpa_stages", "1 to 4"]),
        ({"wpa_stages": [1, 1]}, ["wpa_stages", "once"]),
        ({"wpa_stages": []}, ["wpa_stages", "wpa_direction"]),
        ({"wpa_direction": "both"}, ["wpa_direction", "bi, uni or none"]),
        ({"sentences": "last"}, ["sentences", "all, first or random"]),
        ({"train_sentences": "first"}, ["train_sentences", "all or random"]),
        ({"eval_resolution": "half"}, ["eval_resolution", "original or input"]),
        ({"device_target": "TPU"}, ["device_target", "CPU, GPU or Ascend"]),
        ({"max_tokens": 2}, ["max_tokens", "at least 3"]),
        ({"max_tokens": 513}, ["max_tokens", "bert_max_positions"]),
        ({"decay_epochs": 51}, ["decay_epochs", "epochs 50"]),
        ({"learning_rate": 1e-6}, ["end_learning_rate", "learning_rate"]),
        ({"learning_rate": 0.0}, ["learning_rate", "above 0"]),
        ({"weight_decay": -1.0}, ["weight_decay", "0 or more"]),
        ({"threshold": 1.0}, ["threshold", "below 1"]),
        ({"bert_dropout": -0.1}, ["bert_dropout"]),
        ({"eval_splits": []}, ["eval_splits", "empty"]),
        ({"eval_splits": ["val", "val"]}, ["eval_splits", "once"]),
        ({"output_dir": ""}, ["output_dir", "empty"]),
        ({"batch_sise": 1}, ["'batch_sise'", "batch_size"]),
        ({"dataset": "two\nlines"}, ["dataset", "string"]),
    ],
)
def test_values_that_do_not_go_together(overrides, parts):
    message = refused(**overrides)
    for part in parts:
        assert part in message


def test_edges_that_are_allowed():
    load_config(overrides={"wpa_stages": [], "wpa_direction": "none"})
    load_config(overrides={"max_tokens": 3, "decay_epochs": 50, "end_learning_rate": 2.9e-5, "threshold": 0.0})
    load_config(overrides={"swin_window_size": 12, "image_size": 32, "swin_drop_path_rate": 0})


def test_a_configuration_is_a_value(tmp_path):
    config = load_config(overrides={"dataset": "ünïcode: #1", "learning_rate": 1 / 3, "eval_splits": ["val"]})
    for twin in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config)):
        assert twin == config and hash(twin) == hash(config)
    assert config != load_config() and config != config.as_dict()
    config.save(tmp_path / "deep" / "c.yaml")
    assert load_config(tmp_path / "deep" / "c.yaml") == config
    with pytest.raises(AttributeError):
        config.run.seed = 3
    with pytest.raises(AttributeError):
        del config.run.seed
    with pytest.raises(AttributeError, match="image_sise"):
        _ = config.image_sise
    config.as_dict()["eval_splits"].append("x")
    assert config.evaluation.eval_splits == ("val",)


def test_the_working_directory_only_matters_for_relative_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config() == Config(load_config(REPOSITORY / "default_config.yaml")._values)
    (tmp_path / "mine.yaml").write_text("seed: 7")
    assert load_config("mine.yaml").run.seed == 7


def test_configuration_and_metric_need_no_mindspore():
    code = "import sys, coupalign.config, coupalign.cli, coupalign.errors, coupalign.evaluation; sys.exit('mindspore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(sorted(DEFAULTS)) | st.text(max_size=12)


def loads_or_explains(load) -> None:
    try:
        config = load()
    except UserError as error:
        assert isinstance(error, ConfigError)
        assert str(error) and "\n" not in str(error) and "Traceback" not in str(error)
        return
    for name, default in DEFAULTS.items():
        value = getattr(config, name)
        assert type(value) is (tuple if isinstance(default, list) else type(default)), name


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(NAMES, JSON, max_size=3))
def test_any_overrides_load_or_are_refused_in_one_line(overrides):
    loads_or_explains(lambda: load_config(overrides=overrides))


@settings(max_examples=150, deadline=None)
@given(
    text=st.dictionaries(NAMES, JSON, max_size=3).map(lambda values: yaml.dump(values).encode())
    | st.binary(max_size=60)
    | st.text(alphabet="ab:-[]{}&*!|>'\"\n #%@,?1", max_size=40).map(str.encode)
)
def test_any_file_loads_or_is_refused_in_one_line(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(text)
    loads_or_explains(lambda: load_config(path))


@settings(max_examples=100, deadline=None)
@given(
    epochs=st.integers(25, 10**6),
    rate=st.floats(1.6e-5, 1e6),
    name=st.text(min_size=1).filter(str.isprintable),
    splits=st.lists(st.text(min_size=1, max_size=5).filter(str.isprintable), min_size=1, unique=True),
    stages=st.lists(st.integers(1, 4), min_size=1, unique=True),
    flag=st.booleans(),
)
def test_what_is_saved_is_what_is_loaded(tmp_path_factory, epochs, rate, name, splits, stages, flag):
    path = tmp_path_factory.getbasetemp() / "saved.yaml"
    overrides = {"epochs": epochs, "learning_rate": rate, "eval_splits": splits, "wpa_stages": stages, "sma": flag}
    config = Config({**load_config(overrides=overrides)._values, "dataset": name})
    config.save(path)
    assert load_config(path) == config
