"""Writes src/coupalign/device_check/references.npz, the float64 references of ``coupalign check-device``.

    python -m tests.device_references

Values come from tests/equations.py, Hugging Face's Swin and BERT, and PyTorch. Gradients are PyTorch's or, for NumPy's
equations, central differences. Nothing of coupalign computes them; its Cells only give names and shapes of weights.

    python -m tests.device_references --samples data/refshapes

writes src/coupalign/device_check/quickstart_samples.csv instead, from the data set of the quick start.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

from coupalign.config import load_config
from coupalign.device_check.modules import DROPOUT_RATE, DROPOUT_SHAPE, DROPOUT_STEPS, MODULES, REFERENCES
from coupalign.device_check.quickstart import CONFIG, SAMPLES
from coupalign.device_check.updates import MAX_GRAD_NORM, SETTINGS, STEPS_PER_EPOCH, Quadratic
from tests import backbones, equations
from tests.test_losses import eq_14_to_16
from tests.test_training import rate

Arrays = dict[str, np.ndarray]
TOKEN_MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]], np.int32)
STEP = 1e-5  # of central differences; the truncation error is near 1e-10


def write_references() -> None:
    arrays = {f"{module}/{name}": each for module, make in CASES.items() for name, each in make().items()}
    np.savez_compressed(REFERENCES, **arrays)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(list(shape)).standard_normal(shape).astype(np.float32)


def binary(*shape: int) -> np.ndarray:
    return (np.random.default_rng(list(shape)).random(shape) > 0.7).astype(np.float32)


def random_weights(module: str) -> Arrays:
    """Random weights of a module; scales and variances are positive."""
    random, weights = np.random.default_rng(1), {}
    for parameter in MODULES[module]().get_parameters():
        value = random.standard_normal(parameter.shape)
        if parameter.name.endswith(("gamma", "moving_variance")):
            value = 0.5 + random.random(parameter.shape)
        elif len(parameter.shape) > 1:
            value /= np.sqrt(np.prod(parameter.shape[1:]))
        weights[parameter.name] = value.astype(np.float32)
    return weights


def case(inputs: Iterable[np.ndarray], weights: Arrays, outputs: Iterable[np.ndarray]) -> Arrays:
    """Inputs, weights, outputs, and random gradients of the outputs."""
    arrays = {f"input.{i}": array for i, array in enumerate(inputs)}
    arrays |= {f"weight.{name}": array for name, array in weights.items()}
    for i, output in enumerate(outputs):
        arrays |= {f"output.{i}": np.asarray(output), f"d_output.{i}": normal(*np.shape(output))}
    return arrays


def numeric(module: str, inputs: list, function: Callable[..., Iterable[np.ndarray]]) -> Arrays:
    """A case whose gradients are central differences. Inputs are shapes, or integer arrays, which have no gradient."""
    weights = random_weights(module)
    inputs = [each if isinstance(each, np.ndarray) else normal(*each) for each in inputs]
    exact = [each.astype(np.float64) if each.dtype == np.float32 else each for each in inputs]
    variables = {name: each.astype(np.float64) for name, each in weights.items()}
    arrays = case(inputs, weights, function(*exact, variables))
    by_outputs = [arrays[f"d_output.{i}"] for i in range(sum(name.startswith("output.") for name in arrays))]

    def difference(place: np.ndarray) -> np.ndarray:
        gradient = np.empty_like(place)
        for index in np.ndindex(place.shape):
            value, totals = place[index], []
            for place[index] in (value + STEP, value - STEP):
                totals.append(sum((y * d).sum() for y, d in zip(function(*exact, variables), by_outputs, strict=True)))
            place[index] = value
            gradient[index] = (totals[0] - totals[1]) / (2 * STEP)
        return gradient

    arrays |= {f"d_input.{i}": difference(each) for i, each in enumerate(exact) if each.dtype == np.float64}
    trained = {name: each for name, each in variables.items() if ".moving_" not in name}
    return arrays | {f"d_weight.{name}": difference(each) for name, each in trained.items()}


def by_torch(inputs: list[np.ndarray], function: Callable, weights: Arrays, constants: Iterable = ()) -> Arrays:
    """A case with the gradients of PyTorch. `function` takes inputs, `constants` and weights by name; gives outputs."""
    given = [torch.from_numpy(each).double().requires_grad_() for each in inputs]
    trained = {
        name: torch.from_numpy(each).double().requires_grad_(".moving_" not in name) for name, each in weights.items()
    }
    outputs = function(*given, *constants, trained)
    arrays = case([*inputs, *constants], weights, [each.detach().numpy() for each in outputs])
    sum((each * torch.from_numpy(arrays[f"d_output.{i}"])).sum() for i, each in enumerate(outputs)).backward()
    arrays |= {f"d_input.{i}": each.grad.numpy() for i, each in enumerate(given)}
    return arrays | {f"d_weight.{name}": each.grad.numpy() for name, each in trained.items() if each.requires_grad}


def sma(queries: np.ndarray, pixels: np.ndarray, sentence: np.ndarray, w: Arrays):
    mask, weights, _ = equations.sentence_mask_alignment(queries, pixels, sentence, 0.1, w)
    return mask, weights, equations.linear(queries, w, "query_proj")


def segmentation(logits, mask, _):
    return [torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(mask).double())]


def contrastive(features, mask, _):
    return [eq_14_to_16(features, mask > 0.5)]


def batch_norm() -> Arrays:
    """Two convolutions with batch statistics, and the moving statistics afterwards."""
    weights, statistics = random_weights("batch_norm"), {}

    def double_conv(y, w):
        for k in (1, 2):
            moving = [w[f"bn{k}.{each}"].clone() for each in ("moving_mean", "moving_variance")]
            y = torch.nn.functional.conv2d(y, w[f"conv{k}.weight"], w[f"conv{k}.bias"], padding=1).relu()
            y = torch.nn.functional.batch_norm(y, *moving, w[f"bn{k}.gamma"], w[f"bn{k}.beta"], True, 0.1)
            statistics.update(zip((f"new.bn{k}.moving_mean", f"new.bn{k}.moving_variance"), moving))
        return [y]

    arrays = by_torch([normal(2, 6, 5, 5)], double_conv, weights)
    return arrays | {name: each.numpy() for name, each in statistics.items()}


def by_hugging_face(inputs: list, model: torch.nn.Module, names: Callable, prefix: str, function: Callable) -> Arrays:
    """A case with the weights of a model of tests/backbones.py whose names start with `prefix`."""
    weights = {name: each.astype(np.float32) for name, each in equations.under(names(model), prefix).items()}
    model.zero_grad()
    arrays = by_torch(inputs, lambda *given: [function(*given[:-1])], {})
    arrays |= {f"weight.{name}": each for name, each in weights.items()}
    with torch.no_grad():
        values = {name: each.clone() for name, each in model.named_parameters()}
        for each in model.parameters():
            each.copy_(torch.zeros_like(each) if each.grad is None else each.grad)
        arrays |= {f"d_weight.{name}": each.copy() for name, each in equations.under(names(model), prefix).items()}
        for name, each in model.named_parameters():
            each.copy_(values[name])
    return arrays


def random_swin(image_size: int) -> torch.nn.Module:
    return backbones.random_swin(image_size=image_size, window=4, embed_dim=8, depths=[2, 1], heads=[2, 2])


def patch_embed() -> Arrays:
    model = random_swin(16)
    image = [normal(2, 3, 16, 16)]
    return by_hugging_face(image, model, backbones.swin_weights, "patch_embed", lambda x: model.embeddings(x)[0])


def swin_stage() -> Arrays:
    """Blocks with plain and shifted windows on a map that is padded, before patch merging."""
    model = random_swin(40)
    stage = model.encoder.layers[0]

    def names(each: torch.nn.Module) -> Arrays:
        weights = backbones.swin_weights(each)
        return {name: value for name, value in weights.items() if name.startswith("layers.0.blocks")}

    return by_hugging_face([normal(2, 100, 8)], model, names, "layers.0", lambda x: stage(x, (10, 10))[1])


def patch_merging() -> Arrays:
    model = random_swin(24)
    merge, prefix = model.encoder.layers[0].downsample, "layers.0.downsample"
    return by_hugging_face([normal(2, 36, 8)], model, backbones.swin_weights, prefix, lambda x: merge(x, (6, 6)))


def bert() -> Arrays:
    model = backbones.random_bert(vocab_size=10, dim=24, layers=4, heads=3, max_positions=8)
    layer = model.encoder.layer[0]
    bias = ((1 - TOKEN_MASK) * -1e9).astype(np.float32)[:, None]  # (B, 1, T)
    masked = torch.from_numpy(bias).double()[:, None]
    arrays = by_hugging_face(
        [normal(3, 5, 24)], model, backbones.bert_weights, "encoder.layer.0", lambda x: layer(x, masked)[0]
    )
    return arrays | {"input.1": bias}


def dropout() -> np.ndarray:
    """Elements that dropout keeps, for the second of two layers; written with integers of 64 bits."""
    elements = int(np.prod(DROPOUT_SHAPE[1:]))
    fixed = np.random.default_rng(0).integers(2**31, size=(1, elements), dtype=np.int32).astype(np.int64)
    kept = []
    for step in DROPOUT_STEPS:
        draws = np.random.default_rng([7, step]).integers(2**31, size=(DROPOUT_SHAPE[0], 2), dtype=np.int32)
        bits = draws[:, 1:].astype(np.int64) ^ fixed
        bits = (bits % 2**16) * 0x7ED5 + bits // 2**16
        bits ^= bits // 2**11
        bits = (bits % 2**16) * 0x6B01 + bits // 2**16
        kept.append(bits // 2**8 % 2**16 >= round(DROPOUT_RATE * 2**16))
    return np.stack(kept)


def adamw() -> Arrays:
    """Weights after each update, with clipping and the schedule of 4.1."""
    objective = Quadratic()
    weight, bias = (
        torch.nn.Parameter(torch.tensor(each.asnumpy().astype(np.float64)))
        for each in (objective.weight, objective.bias)
    )
    optimizer = torch.optim.AdamW([{"params": [weight], "weight_decay": 0.3}, {"params": [bias], "weight_decay": 0.0}])
    config = load_config(overrides=SETTINGS)
    x, y, weights, biases = normal(8, 3, 4), normal(8, 4), [], []
    for number in range(8):
        optimizer.zero_grad()
        ((weight**2 * torch.tensor(x[number])).sum() + (bias**2 * torch.tensor(y[number])).sum()).backward()
        torch.nn.utils.clip_grad_norm_([weight, bias], MAX_GRAD_NORM)
        for group in optimizer.param_groups:
            group["lr"] = rate(number, config, STEPS_PER_EPOCH)
        optimizer.step()
        weights.append(weight.detach().numpy().copy())
        biases.append(bias.detach().numpy().copy())
    return {"x": x, "y": y, "weight": np.stack(weights), "bias": np.stack(biases)}


def write_samples(data: Path) -> None:
    """Lists the first 20 batches of the quick start's training."""
    from coupalign.data.dataset import Split
    from coupalign.training.order import epoch_order

    config = load_config(CONFIG, {"data_dir": str(data), "train_families": "attribute"})
    split, instances = Split(config, "train"), json.loads((data / "source/instances.json").read_text())
    files = {image["id"]: image["file_name"] for image in instances["images"]}
    first: dict[int, int] = {}
    for annotation in instances["annotations"]:
        first.setdefault(annotation["image_id"], annotation["id"])
    with open(SAMPLES, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("scene", "thing", "expression"))
        for row in epoch_order(config.training, config.run.seed, split, 0)[: 20 * config.training.batch_size]:
            image, annotation = (int(split.records[name][row]) for name in ("image_id", "ann_id"))
            scene = int(files[image].removeprefix("train_").removesuffix(".png"))
            table.writerow((scene, annotation - first[image], split.records["expression"][row]))


# What makes the arrays of each module.
CASES: dict[str, Callable[[], Arrays]] = {
    "gate": lambda: numeric("gate", [(2, 5, 20)], equations.gate),
    "wpa": lambda: numeric("wpa", [(3, 12, 12), (3, 5, 20), TOKEN_MASK], equations.word_pixel_alignment),
    "cross_attention": lambda: numeric(
        "cross_attention",
        [(3, 9, 24), (3, 5, 16), TOKEN_MASK],
        lambda pixels, words, mask, w: [equations.cross_attention(pixels, words, mask, 2, w)],
    ),
    "mask_generator": lambda: numeric(
        "mask_generator", [(2, 9, 24)], lambda pixels, w: [equations.mask_generator(pixels, 2, 2, w)]
    ),
    "sma": lambda: numeric("sma", [(2, 5, 12), (2, 10, 4, 3), (2, 16)], sma),
    "seg_head": lambda: numeric(
        "seg_head",
        [(2, 8, 2, 2), (2, 3, 16, 16), (2, 4, 8, 8), (2, 6, 4, 4), (2, 8, 2, 2)],
        lambda fused, *rest: [equations.seg_head(fused, list(rest[:-1]), rest[-1])],
    ),
    "batch_norm": batch_norm,
    "patch_embed": patch_embed,
    "swin_stage": swin_stage,
    "patch_merging": patch_merging,
    "bert_layer": bert,
    "segmentation_loss": lambda: by_torch([normal(2, 6, 5) * 3], segmentation, {}, [binary(2, 6, 5)]),
    "contrastive_loss": lambda: by_torch([normal(3, 6, 9, 16)], contrastive, {}, [binary(3, 36, 32)]),
    "dropout": lambda: {"kept": np.packbits(dropout())},
    "adamw": adamw,
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--samples"]:
        write_samples(Path(sys.argv[2]))
    else:
        write_references()
