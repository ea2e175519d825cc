"""The existence output and its loss against NumPy in float64, and trainings that add it."""

from __future__ import annotations

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from coupalign.checkpoints.loading import load_checkpoint, read_checkpoint, save_weights, start_from
from coupalign.config import load_config
from coupalign.data.tokenizer import Tokenizer
from coupalign.errors import UserError
from coupalign.loss import ExistenceLoss, PixelContrastiveLoss, SegmentationLoss
from coupalign.model import Outputs, build_model
from coupalign.model.build import compute_in
from coupalign.model.existence import Existence
from coupalign.refshapes.writer import RefShapesSettings, prepare_refshapes
from coupalign.training import train
from coupalign.training.step import ADDED_LOSSES, LOSSES, Objective
from tests.conftest import SMALLEST, assert_close, read_csv, refshapes_config
from tests.equations import layer_norm, linear, softmax
from tests.test_run_logs import read_events


def reference(mask, pixels, sentence, w):
    places = softmax(mask.reshape(len(mask), -1))
    v = layer_norm((pixels.reshape(*pixels.shape[:2], -1) * places[:, None]).sum(-1), w, "pixel_norm")
    s = layer_norm(linear(sentence, w, "sentence_proj"), w, "sentence_norm")
    m = (places * mask.reshape(len(mask), -1)).sum(-1, keepdims=True)
    hidden = np.maximum(linear(np.concatenate([s, v, s * v, m], -1), w, "fc1"), 0)
    return linear(hidden, w, "fc2")[:, 0]


@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_logit(random_cell, scale):
    """With masks whose exponentials are beyond float32, too."""
    shapes = [(3, 1, 4, 4), (3, 6, 4, 4), (3, 8)]
    cell, weights, (mask, pixels, sentence) = random_cell(Existence(pixel_dim=6, text_dim=8), inputs=shapes)
    mask *= scale
    assert_close(cell(mask, pixels, sentence), reference(mask, pixels, sentence, weights), relative=1e-5)


def test_half_precision_around_it_changes_nothing(random_cell):
    shapes = [(2, 1, 4, 4), (2, 6, 4, 4), (2, 8)]
    cell, weights, inputs = random_cell(
        compute_in(Existence(pixel_dim=6, text_dim=8), mindspore.float16), inputs=shapes
    )
    half = [each.astype(np.float16) for each in inputs]
    found = cell.cell(*map(Tensor, half))
    assert found.dtype == mindspore.float32
    assert_close(found, reference(*(each.astype(np.float64) for each in half), weights), relative=1e-5)


def test_the_mask_learns_nothing_from_the_logit(random_cell):
    shapes = [(2, 1, 4, 4), (2, 6, 4, 4), (2, 8)]
    cell, _, inputs = random_cell(Existence(pixel_dim=6, text_dim=8), inputs=shapes)
    gradients = ops.grad(cell.cell, (0, 1, 2))(*(Tensor(each.astype(np.float32)) for each in inputs))
    largest = [np.abs(each.asnumpy()).max() for each in gradients]
    assert largest[0] == 0 and min(largest[1:]) > 1e-4


def test_loss():
    logit = np.array([2.0, -3.0, 0.5, -50.0])
    mask = np.zeros((4, 5, 5))
    mask[0, 4, 4] = mask[3, 1:3, 2] = 1
    expected = np.mean(np.logaddexp(0, [-2.0, -3.0, 0.5, 50.0]))
    found = ExistenceLoss()(Tensor(logit.astype(np.float32)), Tensor(mask.astype(np.float32)))
    assert_close(found, expected, relative=5e-6)


class Predicted(nn.Cell):
    """A model whose outputs are its parameters."""

    def __init__(self, logits: np.ndarray, pixels: np.ndarray, existence: np.ndarray):
        super().__init__()
        self.outputs = [Tensor(each.astype(np.float32)) for each in (logits, pixels, existence)]

    def training_outputs(self, image: Tensor, token_ids: Tensor, token_mask: Tensor):
        return tuple(self.outputs)


def test_the_objective_adds_the_weighted_loss_for_empty_single_and_union_masks():
    random = np.random.default_rng(0)
    logits, pixels, existence = (random.standard_normal(shape) for shape in ((3, 8, 8), (3, 4, 2, 2), (3,)))
    mask = np.zeros((3, 8, 8))
    mask[1, :4, :4] = mask[2, :4] = mask[2, 4:, 4:] = 1
    tensors = [Tensor(each.astype(np.float32)) for each in (logits, pixels, mask)]
    segmentation = np.mean(np.logaddexp(0, logits) - logits * mask)
    auxiliary = PixelContrastiveLoss()(*tensors[1:]).asnumpy()
    of_targets = PixelContrastiveLoss()(*(each[1:] for each in tensors[1:])).asnumpy()
    np.testing.assert_allclose(auxiliary, of_targets * 2 / 3, rtol=1e-5)  # an empty mask contributes 0
    assert_close(SegmentationLoss()(tensors[0], tensors[2]), segmentation, relative=5e-6)
    binary = np.mean(np.logaddexp(0, existence) - existence * [0, 1, 1])
    objective = Objective(Predicted(logits, pixels, existence), PixelContrastiveLoss(), 0.1, existence_loss_weight=0.3)
    losses = objective(tensors[0], tensors[0], tensors[0], tensors[2])
    expected = (segmentation + 0.1 * auxiliary + 0.3 * binary, segmentation, auxiliary, binary)
    assert objective.loss_names == ("loss", "segmentation_loss", "auxiliary_loss", "existence_loss")
    np.testing.assert_allclose([float(each.asnumpy()) for each in losses], expected, rtol=1e-5)


def smallest(**overrides):
    return load_config(overrides={**SMALLEST, **overrides})


def inputs(config):
    size, words = config.model.image_size, np.ones((2, config.model.max_tokens), np.int32)
    image = np.random.default_rng(0).standard_normal((2, 3, size, size)).astype(np.float32)
    return [Tensor(each) for each in (image, words, words)]


@pytest.mark.parametrize("sma", [True, False])
def test_the_model_gives_the_same_masks_with_the_logit_beside_them(tmp_path, sma):
    """A training may add the output to a checkpoint without it, or leave it out, if ``init_except`` says so."""
    plain, judging = (smallest(existence=existence, sma=sma) for existence in (False, True))
    model = build_model(plain)
    save_weights(tmp_path / "plain.ckpt", model.parameters_dict())
    with_existence = build_model(judging)
    with pytest.raises(UserError, match="lacks existence"):
        load_checkpoint(tmp_path / "plain.ckpt", with_existence)
    with pytest.raises(UserError, match="lacks existence.*init_except"):
        start_from(tmp_path / "plain.ckpt", with_existence)
    line = start_from(tmp_path / "plain.ckpt", with_existence, ["existence.*"])
    loaded = len(model.parameters_dict())
    assert line.endswith(f"{loaded} of {loaded + 10} parameters loaded, random weights in existence")
    expected = model.set_train(False)(*inputs(plain))
    logits, existence = with_existence.set_train(False)(*inputs(judging))
    np.testing.assert_array_equal(logits.asnumpy(), expected.asnumpy())
    outputs = Outputs.from_tuple(with_existence.all_outputs(*inputs(judging)))
    np.testing.assert_allclose(outputs.existence.asnumpy(), existence.asnumpy(), rtol=1e-5)
    save_weights(tmp_path / "judging.ckpt", with_existence.parameters_dict())
    assert "all" in start_from(tmp_path / "judging.ckpt", build_model(judging))
    with pytest.raises(UserError, match="has unexpected existence.*init_except"):
        start_from(tmp_path / "judging.ckpt", model)
    assert "all" in start_from(tmp_path / "judging.ckpt", model, ["existence.*"])


def test_training_needs_expressions_that_name_nothing(tiny_data, tmp_path):
    config = refshapes_config(tiny_data, existence=True, output_dir=str(tmp_path / "run"))
    with pytest.raises(UserError, match="split train has none to train on: .*set existence to false"):
        train(config, progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_training_with_several_targets_and_none(tmp_path, caplog):
    """With set prediction: the loss has the added losses in it, all new weights learn, validation has its metrics."""
    keys = {"existence": True, "object_loss_weight": 1.0, "choice_loss_weight": 0.5, "max_objects": 8}
    keys |= {"query_anchors": True, "wpa_norm": True, "cross_attention_norm": True}
    keys |= {"epochs": 1, "decay_epochs": 1, "batch_size": 16, "eval_limit": 30, "learning_rate": 1e-3}
    config = refshapes_config(tmp_path / "data", output_dir=str(tmp_path / "run"), **keys)
    tokenizer = Tokenizer(config.data.vocab_file, config.model.max_tokens)
    prepare_refshapes(tmp_path / "data", RefShapesSettings(80, 5, generalised=True), tokenizer)
    start = {name: each.asnumpy().copy() for name, each in build_model(config).parameters_dict().items()}
    with caplog.at_level("INFO"):
        directory = train(config, progress=False)
    weights = read_checkpoint(directory / "last.ckpt")
    new = ["wpa.0.image_to_text_norm.gamma", "cross_attention.output_norm.gamma", "mask_generator.queries"]
    for name in [*new, *(name for name in start if name.startswith("existence."))]:
        assert np.abs(weights[name].asnumpy() - start[name]).max() > 1e-5, name
    shown, _ = read_events(directory / "tensorboard")
    for row in read_csv(directory / "steps.csv"):
        loss, segmentation, auxiliary = (float(row[name]) for name in LOSSES)
        added = [shown[f"train/{name}"][int(row["step"])].simple_value for name in ADDED_LOSSES]
        expected = segmentation + 0.1 * auxiliary + np.dot((1.0, 0.5, 0.1), added)
        assert min(added) > 0 and loss == pytest.approx(expected, rel=1e-5)
    assert any("N-acc" in record.message and "T-acc" in record.message for record in caplog.records)
