"""Recipes for devices that the tests do not have: configurations, and the lines that start them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from coupalign.commands import train
from coupalign.config import load_config
from coupalign.data.prepared import FORMAT, META_FILE
from coupalign.data.published import PUBLISHED
from coupalign.data.tokenizer import Tokenizer
from coupalign.files import REPOSITORY
from tests.documents import fences
from tests.script_tree import environment, make_tree, write_program

RECIPES = {"refcoco_1_card": 1, "refcoco_8_cards": 8, "refcoco_4x8_cards": 32}
# Stand-ins for Slurm on four machines: srun runs its command once per machine, scontrol lists the machines.
SRUN = """#!/bin/sh
for node in 0 1 2 3; do SLURM_NNODES=4 SLURM_NODEID=$node SLURM_JOB_NODELIST='n[1-4]' "$@"; done
"""
SCONTROL = """#!/bin/sh
[ "$*" = "show hostnames n[1-4]" ] && printf 'n1\\nn2\\nn3\\nn4\\n'
"""
SSH = """#!/bin/sh
host=$2; shift 2; echo "on $host:"; cd "$HOME" && exec sh -c "$*"
"""
TRAINING = '#!/bin/sh\necho "called with $*"\n'


def recipe(name: str) -> Path:
    return REPOSITORY / f"configs/{name}.yaml"


@pytest.fixture
def refcoco(tmp_path) -> Path:
    """The description of a prepared RefCOCO with the published counts, and no files."""
    config = load_config()
    counts = {
        split: dict(zip(("images", "referents", "expressions"), row))
        for split, row in PUBLISHED["refcoco", "unc"].items()
    }
    vocabulary = Tokenizer(config.data.vocab_file, config.model.max_tokens).vocabulary_sha256
    meta = {"format": FORMAT, "dataset": "refcoco", "max_tokens": 30, "vocabulary_sha256": vocabulary}
    (tmp_path / META_FILE).write_text(json.dumps({**meta, "splits": counts, "files": {}}))
    return tmp_path


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_passes_all_checks_that_need_no_device(name, refcoco, capfd):
    arguments = ["--config", str(recipe(name)), "--data_dir", str(refcoco), "--check"]
    assert train.main([*arguments, str(RECIPES[name])]) == 0
    assert train.main([*arguments, "3"]) == 2
    assert "does not divide among 3 devices" in capfd.readouterr().err


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_holds_only_what_differs_and_scales_the_learning_rate_with_the_root_of_the_batch(name):
    differing, paper = yaml.safe_load(recipe(name).read_text()), load_config().as_dict()
    assert all(paper[key] != value for key, value in differing.items())
    found = {**paper, **differing}
    scale = math.sqrt(found["batch_size"] / paper["batch_size"])
    for key in ("learning_rate", "end_learning_rate"):
        assert found[key] == pytest.approx(paper[key] * scale)


@pytest.fixture
def cluster(tmp_path):
    """A repository with stand-ins for a cluster's programs and run_distribute_train.sh, as the home directory."""
    tree = make_tree(tmp_path / "coupalign", {"srun": SRUN, "scontrol": SCONTROL, "ssh": SSH})
    write_program(tree / "scripts/run_distribute_train.sh", TRAINING)
    return tree


@pytest.mark.parametrize("program", ["srun", "ssh"])
def test_the_documented_start_lines_number_the_machines(cluster, program):
    (text,) = [each for each in fences(REPOSITORY / "docs/clusters.md", "sh") if f"{program} " in each]
    done = subprocess.run(
        ["bash", "-c", text],
        cwd=cluster,
        env=environment(cluster, HOME=str(cluster.parent), PATH=f"{cluster}/env/bin:{os.environ['PATH']}"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    called = sorted(line for line in done.stdout.splitlines() if line.startswith("called"))
    first = {"srun": "n1", "ssh": "host0"}[program]
    assert len(called) == 4
    for number, line in enumerate(called):
        assert line.startswith("called with Ascend 8 configs/refcoco_4x8_cards.yaml data/refcoco ")
        assert f"--nodes 4 --node_rank {number} --master {first}" in line


def boot(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """Runs the boot file as ModelArts does: from another directory, without an installed package."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, REPOSITORY / "scripts/modelarts.py", *arguments],
        cwd="/",
        env={**kept, **variables},
        capture_output=True,
        text=True,
    )


def test_modelarts_names_become_ours(refcoco, tmp_path):
    config, output = f"--config={recipe('refcoco_8_cards')}", tmp_path / "out"
    done = boot(f"--data_url={refcoco}", "--train_url", str(output), config, "--check=8")
    assert (done.returncode, done.stderr) == (0, "")
    output.write_text("a file")
    done = boot("--data_url", str(refcoco), f"--train_url={output}", config, "--check=8")
    assert done.returncode == 2 and f"{output} cannot be a directory" in done.stderr
    done = boot("--data_url=/nowhere", config)
    assert done.returncode == 2 and "/nowhere/meta.json" in done.stderr


def test_modelarts_settings_that_would_train_wrongly_are_refused(refcoco):
    done = boot("--data_url=obs://bucket/refcoco")
    assert (
        done.returncode == 2 and "obs://bucket/refcoco" in done.stderr and "input or output of the job" in done.stderr
    )
    done = boot(f"--data_url={refcoco}", RANK_SIZE="8", RANK_TABLE_FILE="/rank_table.json")
    assert done.returncode == 2 and "MA_RUN_METHOD=msrun" in done.stderr
