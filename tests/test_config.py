from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from coupalign.config import ConfigError, config_keys, load_config
from coupalign.files import REPOSITORY
from tests.conftest import read_csv

DEFAULTS = yaml.safe_load((REPOSITORY / "default_config.yaml").read_text(encoding="utf-8"))


def refused(path=None, overrides=None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    return message


def test_the_list_of_keys_is_frozen():
    """Files and command lines of users depend on it: change config_keys.csv together with UPGRADING.md."""
    table = {row["key"]: row for row in read_csv(Path(__file__).with_name("config_keys.csv"))}
    for key in config_keys().values():
        row = table.pop(key.name)
        assert (row["section"], row["expected"], row["default"]) == (key.section, key.expected, str(DEFAULTS[key.name]))
        assert row["may_change"] == ("yes" if key.may_change else "")
    assert not table


def test_defaults_are_the_papers_and_every_key_is_explained():
    config = load_config()
    assert config.as_dict() == DEFAULTS and list(config.as_dict()) == list(DEFAULTS)
    # Section 4.1 of the paper, typed in by hand.
    training, model = config.training, config.model
    assert (model.image_size, model.max_tokens, model.num_queries, model.swin_depths) == (448, 30, 100, (2, 2, 18, 2))
    assert (training.batch_size, training.epochs, training.learning_rate) == (16, 50, 3e-5)
    assert (training.end_learning_rate, training.decay_epochs, training.weight_decay) == (1.5e-5, 25, 0.01)
    assert config.losses.aux_loss_weight == 0.1
    for key in config_keys().values():
        assert len(key.help) > 5 and key.title, key
        assert key.parse(DEFAULTS[key.name]) == key.default
        assert type(key.parse(DEFAULTS[key.name])) is type(key.default), key


def test_a_file_overrides_the_defaults_and_overrides_override_both(tmp_path, monkeypatch):
    path = tmp_path / "c.yaml"
    path.write_text("epochs: 30\nseed: 1\nlearning_rate: 3e-4\ndecay_power: 1\n")
    config = load_config(path, {"seed": 2, "eval_splits": ("val",)})
    assert (config.training.epochs, config.run.seed, config.training.batch_size) == (30, 2, 16)
    assert config.training.learning_rate == 3e-4 and type(config.training.decay_power) is float
    assert config.evaluation.eval_splits == ("val",)
    monkeypatch.chdir(tmp_path)
    assert load_config("c.yaml").run.seed == 1
    assert load_config("configs/refshapes_tiny.yaml").model.image_size == 96


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("learning_rate", "3e-5", 3e-5),
        ("epochs", "50", 50),
        ("sma", "false", False),
        ("swin_depths", "[1, 2,3 ,4]", (1, 2, 3, 4)),
        ("eval_splits", "[val, 'testA']", ("val", "testA")),
        ("eval_splits", "1,null", ("1", "null")),
        ("frozen", "*.bias,swin[0-9]*", ("*.bias", "swin[0-9]*")),
        ("frozen", "", ()),
        ("wpa_stages", "3", (3,)),
        ("dataset", "123", "123"),
        ("dataset", "${x}: - {", "${x}: - {"),
        ("init_checkpoint", "", ""),
        ("output_dir", "~/runs", os.path.expanduser("~/runs")),
    ],
)
def test_text_of_a_command_line(key, text, value):
    config = load_config(overrides={key: text})
    read = getattr(getattr(config, config_keys()[key].section), key)
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("learning_rat: 1", ["'learning_rat'", "learning_rate"]),
        ("1: 2", ["unknown key"]),
        ("batch_size: true", ["batch_size", "an integer", "True"]),
        ("batch_size:", ["batch_size", "an integer", "None"]),
        ("batch_size: 99999999999", ["batch_size", "an integer"]),
        ("sma: 1", ["sma", "true or false"]),
        ("learning_rate: 1e999", ["learning_rate", "a number"]),
        ("learning_rate: fast", ["learning_rate", "'fast'"]),
        ("dataset: 3", ["dataset", "a string"]),
        ("swin_depths: 2", ["swin_depths", "a list of 4"]),
        ("eval_splits: [1]", ["eval_splits", "a string"]),
        ("seed: 1\nseed: 2", ["'seed'", "twice"]),
        ("seed: [1", ["line 1", "not a YAML configuration"]),
        ("", ["not a YAML configuration"]),
        ("seed: !!python/object/apply:os.getcwd []", ["not a YAML configuration"]),
        ("seed: 2020-13-45", ["not a YAML configuration"]),
        (b"dataset: \xff\xfe", ["not a YAML configuration"]),
        ("[" * 1200, ["not a YAML configuration"]),
        ("seed: 1\n---\nseed: 2", ["not a YAML configuration"]),
    ],
)
def test_a_refused_file_is_named_with_its_key(tmp_path, content, parts):
    path = tmp_path / "c.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refused(path)
    for part in [str(path), *parts]:
        assert part in message


def test_missing_files_and_directories_are_refused(tmp_path):
    assert str(tmp_path / "none.yaml") in refused(tmp_path / "none.yaml")
    assert str(tmp_path) in refused(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"swin_depths": [2, 2, 2]}, ["swin_depths", "4"]),
        ({"swin_num_heads": [4, 8, 15, 32]}, ["swin_num_heads", "15", "512", "swin_embed_dim"]),
        ({"swin_depths": [2, 0, 2, 2]}, ["swin_depths", "from 1"]),
        ({"bert_num_layers": 6}, ["bert_num_layers", "multiple of 4"]),
        ({"cross_attention_heads": 7}, ["cross_attention_heads", "bert_hidden_size"]),
        ({"image_size": 450}, ["image_size", "multiple of 32"]),
        ({"wpa_stages": [1, 5]}, ["wpa_stages", "1 to 4"]),
        ({"wpa_stages": [1, 1]}, ["wpa_stages", "once"]),
        ({"wpa_stages": []}, ["wpa_stages", "wpa_direction"]),
        ({"wpa_direction": "both"}, ["wpa_direction", "bi, uni or none"]),
        ({"device_target": "TPU"}, ["device_target", "CPU, GPU or Ascend"]),
        ({"precision": "bf16"}, ["precision", "device_target CPU", "fp32 or fp16"]),
        ({"precision": "bf16", "device_target": "GPU"}, ["precision", "device_target GPU", "fp32 or fp16"]),
        ({"max_tokens": 2}, ["max_tokens", "at least 3"]),
        ({"max_tokens": 513}, ["max_tokens", "bert_max_positions"]),
        ({"decay_epochs": 51}, ["decay_epochs", "epochs 50"]),
        ({"learning_rate": 1e-6}, ["end_learning_rate", "learning_rate"]),
        ({"learning_rate": 0.0}, ["learning_rate", "above 0"]),
        ({"learning_rate_scales": ["fc=0"]}, ["learning_rate_scales", "'fc=0'", "above 0"]),
        ({"weight_decays": ["*=0.1", "fc=nan"]}, ["weight_decays", "'fc=nan'"]),
        ({"threshold": 1.0}, ["threshold", "below 1"]),
        ({"resume": "a.ckpt", "init_checkpoint": "a.ckpt"}, ["resume", "init_checkpoint"]),
        ({"eval_splits": []}, ["eval_splits"]),
        ({"eval_splits": ["val", "val"]}, ["eval_splits", "once"]),
        ({"output_dir": ""}, ["output_dir", "empty"]),
        ({"dataset": "two\nlines"}, ["dataset", "one line"]),
    ],
)
def test_impossible_values_name_the_key(overrides, parts):
    message = refused(overrides=overrides)
    for part in parts:
        assert part in message


def test_all_problems_are_named_at_once():
    overrides = {"epochs": 2, "learning_rate": 1e-6, "warmup_steps": 500, "image_size": 450, "precision": "bf16"}
    message = refused(overrides=overrides)
    for part in ("decay_epochs to 2", "warmup_steps 500", "end_learning_rate", "image_size", "precision bf16"):
        assert part in message


def test_edges_that_are_allowed():
    load_config(overrides={"wpa_stages": [], "wpa_direction": "none"})
    load_config(overrides={"max_tokens": 3, "decay_epochs": 50, "end_learning_rate": 2.9e-5, "threshold": 0.0})
    load_config(overrides={"weight_decays": "fc=1e-3,a=.5,b=0,[a=b]*=2.e2"})
    load_config(overrides={"swin_window_size": 12, "image_size": 32, "swin_drop_path_rate": 0})


def test_a_configuration_is_an_immutable_value(tmp_path):
    config = load_config(overrides={"dataset": "ünïcode: #1", "learning_rate": 1 / 3, "eval_splits": ["val"]})
    for twin in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config)):
        assert twin == config and hash(twin) == hash(config)
    assert config != load_config() and config != config.as_dict()
    config.save(tmp_path / "deep" / "c.yaml")
    assert load_config(tmp_path / "deep" / "c.yaml") == config
    with pytest.raises(AttributeError):
        config.run.seed = 3
    with pytest.raises(AttributeError, match="image_sise"):
        _ = config.model.image_sise
    config.as_dict()["eval_splits"].append("x")
    assert config.evaluation.eval_splits == ("val",)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(sorted(DEFAULTS)) | st.text(max_size=12)


def loads_or_explains(load) -> None:
    """What loads has the declared types and survives saving; everything else is one line."""
    try:
        config = load()
    except ConfigError as error:
        assert str(error) and "\n" not in str(error)
        return
    text = yaml.safe_dump(config.as_dict(), allow_unicode=True)
    assert load_config(overrides=yaml.safe_load(text)) == config
    for name, default in DEFAULTS.items():
        assert type(config.as_dict()[name]) is type(default), name


@settings(max_examples=300)
@given(st.dictionaries(NAMES, JSON, max_size=3))
def test_any_overrides_load_or_are_refused_in_one_line(overrides):
    loads_or_explains(lambda: load_config(overrides=overrides))


@settings(max_examples=150)
@given(
    text=st.dictionaries(NAMES, JSON, max_size=3).map(lambda values: yaml.dump(values).encode())
    | st.binary(max_size=60)
    | st.text(alphabet="ab:-[]{}&*!|>'\"\n #%@,?1", max_size=40).map(str.encode)
)
def test_any_file_loads_or_is_refused_in_one_line(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(text)
    loads_or_explains(lambda: load_config(path))
