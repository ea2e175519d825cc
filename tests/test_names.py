"""Names and shapes of all parameters, which checkpoints depend on."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from mindspore import nn
from mindspore.nn.utils import no_init_parameters

from coupalign.config import load_config
from coupalign.files import REPOSITORY
from coupalign.model import build_model
from tests.conftest import TINY, read_csv


@pytest.mark.parametrize(
    ("overrides", "absent", "other"),
    [
        ({}, [], {}),
        ({"wpa_direction": "none"}, ["wpa.*"], {}),
        ({"wpa_stages": [2, 4], "wpa_direction": "uni"}, ["wpa.[02].*", "*.image_to_text.*", "*.text_gate.*"], {}),
        ({"sma": False}, ["mask_generator.*", "sma.*"], {"mask_proj.weight": "1x12x1x1", "mask_proj.bias": "1"}),
        ({"num_queries": 20}, [], {"mask_generator.queries": "20x8"}),
        (
            {"existence": True},
            [],
            {
                "existence.sentence_proj.weight": "12x16",
                "existence.sentence_proj.bias": "12",
                "existence.sentence_norm.gamma": "12",
                "existence.sentence_norm.beta": "12",
                "existence.pixel_norm.gamma": "12",
                "existence.pixel_norm.beta": "12",
                "existence.fc1.weight": "12x37",
                "existence.fc1.bias": "12",
                "existence.fc2.weight": "1x12",
                "existence.fc2.bias": "1",
            },
        ),
    ],
)
def test_the_list_of_parameters_is_frozen(overrides, absent, other):
    """Checkpoints of users depend on it: change parameters.csv together with UPGRADING.md."""
    frozen = {row["name"]: row["shape"] for row in read_csv(Path(__file__).with_name("parameters.csv"))}
    kept = {name: shape for name, shape in frozen.items() if not any(fnmatchcase(name, each) for each in absent)}
    with no_init_parameters():
        parameters = build_model(load_config(overrides={**TINY, **overrides})).parameters_dict()
    found = {name: "x".join(map(str, parameter.shape)) for name, parameter in parameters.items()}
    assert found == kept | other
    assert all(name == parameter.name for name, parameter in parameters.items())
    fixed = {name for name, parameter in parameters.items() if not parameter.requires_grad}
    assert fixed == {name for name in found if ".moving_" in name}


@pytest.mark.parametrize(
    ("model", "file"),
    [
        ("CoupAlign as in the paper", None),
        ("RefShapes, shipped", "assets/refshapes/config.yaml"),
        ("RefShapes, quick start", "configs/refshapes_tiny.yaml"),
    ],
)
def test_models_have_the_number_of_parameters_that_the_readme_states(model, file):
    with no_init_parameters():
        count = sum(parameter.size for parameter in build_model(load_config(file)).trainable_params())
    (row,) = [line for line in (REPOSITORY / "README.md").read_text().splitlines() if line.startswith(f"| {model}")]
    assert f"| {count / 1e6:.1f} M |" in row
    assert file or count == 229_499_192


def test_every_norm_has_its_epsilon():
    """Features of usual size do not distinguish 1e-12 from 1e-5, but rare small ones of pretrained encoders do."""
    with no_init_parameters():
        model = build_model(load_config(overrides=TINY))
    found = {}
    for name, cell in model.cells_and_names():
        if isinstance(cell, (nn.LayerNorm, nn.BatchNorm2d)):
            found.setdefault(name.split(".")[0], set()).add(getattr(cell, "epsilon", None) or cell.eps)
    assert found == {"image_encoder": {1e-5}, "text_encoder": {1e-12}, "mask_generator": {1e-5}, "seg_head": {1e-5}}
