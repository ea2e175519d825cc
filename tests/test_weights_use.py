"""Conversions: reports, refusals, and programs that load the result."""

from __future__ import annotations

import os
import re

import mindspore
import numpy as np
import pytest
import torch
from mindspore import Tensor
from safetensors.torch import load_file, save_file

from convert_weights import main
from coupalign.checkpoints.convert import Report, convert
from coupalign.checkpoints.loading import load_checkpoint, save_weights, start_from
from coupalign.config import load_config
from coupalign.errors import UserError
from coupalign.model import build_model
from tests.backbones import random_bert, random_swin
from tests.conftest import SMALLEST, assert_close
from tests.weight_files import converted, hugging_face_classifier

BERT = {"vocab_size": 50, "dim": 16, "layers": 4, "heads": 2, "max_positions": 16}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Paths of a Swin (64 pixels, window 4) and a BERT (vocabulary of 50) that fit ``SMALLEST``."""
    directory = tmp_path_factory.mktemp("sources")
    theirs = random_swin(image_size=64, window=4, embed_dim=8, depths=[1, 1, 1, 1], heads=SMALLEST["swin_num_heads"])
    save_file(hugging_face_classifier(theirs), directory / "swin.safetensors")
    torch.save(random_bert(**BERT).float().state_dict(), directory / "bert.bin")
    return directory / "swin.safetensors", directory / "bert.bin"


def smallest(**overrides):
    return load_config(overrides={**SMALLEST, "bert_vocab_size": BERT["vocab_size"], **overrides})


def test_the_report_names_every_tensor_and_parameter_once(tmp_path, sources):
    report = convert(smallest(), tmp_path / "start.ckpt", swin=sources[0], bert=sources[1])
    used, random = report.file.read_text().split("parameters with random weights\n")
    tensors = {**load_file(sources[0]), **torch.load(sources[1])}
    assert sorted(line.split()[0] for line in used.splitlines() if line.startswith("  ")) == sorted(tensors)
    taken = set(re.findall("-> ([^,\n]+)", used))
    assert taken == set(converted(report.output)) - {"converted_encoders"}
    assert sorted([*taken, *random.split()]) == sorted(build_model(smallest()).parameters_dict())
    assert str(sources[0]) in report.summary() and "random weights in wpa" in report.summary()


def held(model) -> dict[str, np.ndarray]:
    return {name: parameter.asnumpy().copy() for name, parameter in model.parameters_dict().items()}


def test_a_training_may_start_without_some_parts_of_a_model(tmp_path):
    """``init_except``: parts of the file that the model lacks, and parts of the model that keep their weights."""
    source, model = build_model(smallest()), build_model(smallest(wpa_stages=[1, 2], num_queries=3))
    save_weights(tmp_path / "source.ckpt", source.parameters_dict())
    before, theirs = held(model), held(source)
    with pytest.raises(UserError, match="has unexpected wpa.2"):
        start_from(tmp_path / "source.ckpt", model, ["mask_generator.*"])
    line = start_from(tmp_path / "source.ckpt", model, ["mask_generator.*", "wpa.[23].*"])
    assert line.endswith("random weights in mask_generator")
    for name, value in held(model).items():
        np.testing.assert_array_equal(value, (before if name.startswith("mask_generator.") else theirs)[name])
    with pytest.raises(UserError, match="init_except: .*closest: mask_generator"):
        start_from(tmp_path / "source.ckpt", model, ["mask_generater.*"])


@pytest.mark.parametrize("kinds", [("swin",), ("bert",), ("swin", "bert")])
def test_a_training_starts_from_the_encoders_and_nothing_else_may(tmp_path, sources, kinds):
    output = tmp_path / "start.ckpt"
    convert(smallest(), output, **{kind: sources[kind == "bert"] for kind in kinds})
    weights = converted(output)
    rooms = {"swin": "image_encoder", "bert": "text_encoder"}
    model = build_model(smallest())
    before = held(model)
    with pytest.raises(UserError, match="not a trained model: .*--init_checkpoint"):
        load_checkpoint(output, model)
    for name, value in held(model).items():
        np.testing.assert_array_equal(value, before[name])
    line = start_from(output, model)
    for name, value in held(model).items():
        room = name.split(".")[0]
        np.testing.assert_array_equal(value, weights[name] if room in [rooms[kind] for kind in kinds] else before[name])
    others = ", ".join([room for kind, room in rooms.items() if kind not in kinds] + ["wpa", "cross_attention"])
    assert f"{len(weights) - 1} of {len(before)} parameters loaded, random weights in {others}" in line


def test_a_training_starts_from_a_whole_checkpoint(make_checkpoint):
    path = make_checkpoint(smallest())
    expected = converted(path)
    model = build_model(smallest())
    assert start_from(path, model) == f"starting from {path}: all {len(held(model))} parameters loaded"
    for name, value in held(model).items():
        np.testing.assert_array_equal(value, expected[name])


def test_half_an_encoder_and_encoders_of_another_configuration_are_no_start(tmp_path, sources):
    output = tmp_path / "start.ckpt"
    convert(smallest(), output, swin=sources[0])
    half = [{"name": name, "data": Tensor(value)} for name, value in converted(output).items() if "blocks" not in name]
    mindspore.save_checkpoint(half, str(tmp_path / "half.ckpt"))
    for path, config, message in [
        (tmp_path / "half.ckpt", smallest(), "lacks image_encoder.layers"),
        (output, smallest(swin_window_size=8), "another shape of image_encoder.layers"),
        (output, smallest(swin_depths=[1, 1, 2, 1]), "lacks image_encoder.layers.2.blocks.1"),
    ]:
        model = build_model(config)
        before = held(model)
        with pytest.raises(UserError, match=f"{message}.*run convert_weights.py with this one"):
            start_from(path, model)
        for name, value in held(model).items():
            np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize(("old", "new"), [((64, 4), (96, 4)), ((96, 7), (64, 7)), ((64, 4), (64, 2))])
def test_a_trained_model_at_another_size(tmp_path, make_checkpoint, capsys, old, new):
    checkpoint = make_checkpoint(smallest(image_size=old[0], swin_window_size=old[1]))
    output = tmp_path / "resized.ckpt"
    config = smallest(image_size=new[0], swin_window_size=new[1])
    sizes = ["--image_size", str(new[0]), "--swin_window_size", str(new[1])]
    assert main(["--checkpoint", str(checkpoint), *sizes, "--output", str(output)]) == 0
    assert "random weights" not in capsys.readouterr().out
    model = build_model(config)
    load_checkpoint(output, model)
    expected = converted(checkpoint)
    for name, value in held(model).items():
        if value.shape == expected[name].shape:
            np.testing.assert_array_equal(value, expected[name])
            continue
        table = name.endswith("bias_table")
        assert table or name == "cross_attention.position_embedding"
        before, after = (array if table else array[0] for array in (expected[name], value))
        sides = [round(len(rows) ** 0.5) for rows in (before, after)]
        grid = torch.from_numpy(before.T.reshape(1, -1, sides[0], sides[0])).double()
        resized = torch.nn.functional.interpolate(grid, (sides[1], sides[1]), mode="bicubic", align_corners=False)
        assert_close(after.T.reshape(resized.shape), resized.numpy(), relative=1e-6)
        expected.pop(name)
    assert len(expected) < len(held(model)), "something was resized"


def test_what_is_beside_a_trained_model_is_left_out(tmp_path, make_checkpoint):
    checkpoint = make_checkpoint(smallest())
    state = {**converted(checkpoint), "moment1.sma.weight": np.ones(3, np.float32), "step": np.ones(1, np.float32)}
    mindspore.save_checkpoint([{"name": n, "data": Tensor(v)} for n, v in state.items()], str(tmp_path / "state.ckpt"))
    report = convert(smallest(), tmp_path / "out.ckpt", checkpoint=tmp_path / "state.ckpt")
    assert report.taken[0].ignored.keys() == {"moment1.sma.weight", "step"}
    assert converted(tmp_path / "out.ckpt").keys() == converted(checkpoint).keys()


def test_float16_halves_the_weights_and_keeps_the_range_of_batch_norm_statistics(tmp_path, make_checkpoint, capsys):
    checkpoint = make_checkpoint(smallest())
    weights = converted(checkpoint)
    variance = next(name for name in weights if name.endswith(".moving_variance"))
    weights[variance][0] = 3.4e6
    save_weights(checkpoint, {name: Tensor(value) for name, value in weights.items()})
    for output in (tmp_path / "half.safetensors", tmp_path / "half.ckpt"):
        assert main(["--checkpoint", str(checkpoint), "--dtype", "float16", "--output", str(output)]) == 0
        model = build_model(smallest())
        load_checkpoint(output, model)
        assert start_from(output, model).endswith("parameters loaded, saved in float16")
        for name, value in held(model).items():
            assert value.dtype == np.float32
            rounded = weights[name] if ".moving_" in name else weights[name].astype(np.float16)
            np.testing.assert_array_equal(value, rounded, err_msg=name)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * sum(value.nbytes for value in weights.values())

    weights["mask_generator.queries"].flat[0] = -7e4
    save_weights(checkpoint, {name: Tensor(value) for name, value in weights.items()})
    output = tmp_path / "refused.safetensors"
    assert main(["--checkpoint", str(checkpoint), "--dtype", "float16", "--output", str(output)]) == 2
    assert re.search(r"mask_generator.queries.*7e\+04.*--dtype float32", capsys.readouterr().err)
    assert not output.exists()


def options(config) -> list[str]:
    """The keys of the model as command line options."""
    default = load_config().as_dict()
    return [
        f"--{key}={','.join(map(str, value)) if isinstance(value, (list, tuple)) else value}"
        for key, value in config.as_dict().items()
        if value != default[key] and hasattr(config.model, key)
    ]


def spoiled(sources, directory, kind: str, name: str, value) -> list[str]:
    """Options for a file in which one tensor is replaced, or missing if the value is None."""
    state = load_file(sources[0]) if kind == "swin" else torch.load(sources[1])
    state.pop(name, None)
    if value is not None:
        state[name] = value
    torch.save(state, directory / "weights.bin")
    return [f"--{kind}", str(directory / "weights.bin")]


_TABLE = "swin.encoder.layers.2.blocks.0.attention.self.relative_position_bias_table"
_BLOCK = "swin.encoder.layers.2.blocks.1.layernorm_before.weight"
_QUERY = "swin.encoder.layers.0.blocks.0.attention.self.query.weight"


@pytest.mark.parametrize(
    ("kind", "name", "value", "message"),
    [
        ("swin", _TABLE, torch.ones(100, 2), r"bias_table \(100, 2\), which does not fit \(49, 2\)"),
        ("swin", _TABLE, torch.ones(49, 4), r"does not fit .*swin_num_heads"),
        ("swin", _TABLE, torch.ones(0, 2), r"does not fit"),
        ("swin", _TABLE, torch.ones(98), r"does not fit"),
        ("swin", _QUERY, torch.ones(16, 8), r"query.weight \(16, 8\), which does not fit \(8, 8\).*swin_embed_dim"),
        ("swin", _QUERY, None, f"lacks {_QUERY}.*swin_depths"),
        ("swin", _BLOCK, torch.ones(32), "no parameter for.*swin_depths"),
        ("swin", "swin.logit_scale", torch.ones(2), "has swin.logit_scale, which the model has no parameter for"),
        ("swin", "swin.layernorm.bias", torch.full((64,), np.nan), "swin.layernorm.bias that are not finite"),
        ("swin", "swin.layernorm.bias", torch.ones(64, dtype=torch.int64), "not finite floats"),
        ("swin", "swin.embeddings.patch_embeddings.projection.weight", None, "has no known names of a Swin"),
        ("bert", "embeddings.word_embeddings.weight", torch.ones(60, 16), r"\(60, 16\).*bert_vocab_size"),
        ("bert", "embeddings.word_embeddings.weight", None, "has no known names of a BERT.*--bert"),
        ("bert", "embeddings.position_embeddings.weight", torch.ones(15, 16), r"\(15, 16\).*bert_max_positions"),
        ("bert", "encoder.layer.3.output.dense.bias", None, "lacks encoder.layer.3.output.dense.bias.*bert_num_layers"),
        ("bert", "encoder.emb.weight", torch.ones(2), "has encoder.emb.weight, which the model has no parameter for"),
    ],
)
def test_unexplained_tensors_are_refused(tmp_path, sources, capsys, kind, name, value, message):
    file = spoiled(sources, tmp_path, kind, name, value)
    assert main([*options(smallest()), *file, "--output", str(tmp_path / "start.ckpt")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and file[1] in error
    assert re.search(message, error)
    assert os.listdir(tmp_path) == ["weights.bin"]


def test_arguments_that_are_refused(tmp_path, sources, capsys, make_checkpoint):
    swin, bert = map(str, sources)
    start, out = str(tmp_path / "start.ckpt"), str(tmp_path / "out.ckpt")
    trained = make_checkpoint(smallest())
    own = trained.read_bytes()
    convert(smallest(), start, swin=swin)
    (tmp_path / "file").write_text("")
    before = sorted(os.listdir(tmp_path))
    for arguments, message in [
        (["--swin", bert, "--output", out], "no known names of a Swin"),
        (["--bert", swin, "--output", out], "no known names of a BERT"),
        (["--output", out], "nothing to convert: give --swin"),
        (["--swin", swin], "--output"),
        (["--swin", swin, "--output", str(tmp_path / "a.pth")], "must end in .ckpt"),
        (["--swin", swin, "--output", str(tmp_path / "file/a.ckpt")], "file is a file"),
        (["--swin", swin, "--checkpoint", str(trained), "--output", out], "give either"),
        (["--checkpoint", start, "--output", out], "holds encoders only"),
        (["--checkpoint", swin, "--output", out], "no parameters of CoupAlign"),
        (["--checkpoint", str(trained), "--output", str(trained)], "is the file to convert"),
        (["--checkpoint", str(trained), "--num_queries", "7", "--output", out], "mask_generator.queries"),
        (["--checkpoint", str(trained), "--wpa_direction", "uni", "--output", out], "has wpa.0.image_to_text"),
        (["--swin", str(tmp_path / "none.pth"), "--output", out], "none.pth"),
    ]:
        assert main([*options(smallest()), *arguments]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and message in error
    assert sorted(os.listdir(tmp_path)) == before and trained.read_bytes() == own


def test_nothing_is_half_written(tmp_path, sources, monkeypatch):
    convert(smallest(), tmp_path / "start.ckpt", swin=sources[0])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(Report, "text", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        convert(smallest(), tmp_path / "start.ckpt", bert=sources[1])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
