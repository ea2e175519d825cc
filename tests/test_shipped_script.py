"""scripts/train_shipped_model.sh with a stand-in for Python: order of stages, resumption, and what each starts from."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

from tests.script_tree import PYTHON, make_tree, run

# It writes what each program would, needs the checkpoints that a program starts from, and fails at the first call of
# each stage.
STAGES = (
    PYTHON
    + """
last=
for argument in "$@"; do
    case $last in
        --output|--output_dir) output=$argument ;;
        --eval_splits) splits=$argument ;;
        --init_checkpoint|--checkpoint) [ -f "$argument" ] || exit 9 ;;
    esac
    last=$argument
done
[ "$1" != prepare_data.py ] || { echo "$*" >> prepared; exit 0; }
grep -qxF -- "$*" tried || { echo "$*" >> tried; [ "$1" != pretrain.py ] || touch "$output"; exit 2; }
echo "$*" >> done
case $1 in
    train.py) mkdir -p "$output"; touch "$output/best.ckpt" "$output/config.yaml" ;;
    eval.py) mkdir -p "$output"; for split in $(echo "$splits" | tr , " "); do touch "$output/$split.json"; done ;;
    proposals.py) touch "$output/alignment_val.json" ;;
    *) touch "$output" ;;
esac
"""
)


def finished(root: Path, *arguments: str) -> tuple[Path, list[str]]:
    """A tree in which the script was repeated until it succeeded, and the calls that succeeded, each on its second try."""
    tree = make_tree(root, {"python": STAGES})
    (tree / "assets/refshapes").mkdir(parents=True)
    (tree / "assets/refshapes/model.safetensors").touch()
    (tree / "tried").touch()
    codes: list[int] = []
    while not codes or (codes[-1] == 2 and len(codes) < 40):
        codes.append(run(tree, "train_shipped_model.sh", *arguments).returncode)
    assert codes[-1] == 0, codes
    calls = (tree / "done").read_text().splitlines()
    assert len(calls) == len(set(calls)) == len(codes) - 1
    return tree, calls


def test_every_stage_is_repeated_until_it_succeeds_and_never_again(tmp_path):
    tree, calls = finished(tmp_path / "tree", "--device_target", "GPU")
    counts = Counter(call.split()[0] for call in calls)
    assert counts == {"pretrain.py": 6, "convert_weights.py": 5, "train.py": 5, "eval.py": 9, "proposals.py": 3}
    assert all(("--device_target GPU" in call) != call.startswith("convert") for call in calls)
    assert all("--resume auto" in call for call in calls if call.startswith("train.py"))
    for name in ("all_256", "proposals", "generalised"):
        model = tree / "runs/shipped/models" / name
        assert sorted(os.listdir(model)) == ["config.yaml", "eval", "model.safetensors"]
        assert sorted(os.listdir(model / "eval")) == ["alignment_val.json", "testA.json", "testB.json", "val.json"]
    assert os.listdir(tree / "assets/refshapes") == ["model.safetensors"]
    assert run(tree, "train_shipped_model.sh").returncode == 0
    assert (tree / "done").read_text().splitlines() == calls


def test_a_rehearsal_has_the_same_stages_with_little_data(tmp_path):
    trees = {kind: finished(tmp_path / kind, *options) for kind, options in (("all", []), ("few", ["--rehearse"]))}
    assert [call.split()[0] for call in trees["few"][1]] == [call.split()[0] for call in trees["all"][1]]
    sizes = {}
    for kind, (tree, calls) in trees.items():
        lines = [*dict.fromkeys((tree / "prepared").read_text().splitlines()), *calls]
        sizes[kind] = [int(size) for size in re.findall(r"--(?:expressions|scenes) (\d+)", "\n".join(lines))]
    assert len(sizes["all"]) == 7 + 6 and sizes["few"] == [size // 500 for size in sizes["all"]]
    assert {path.name for path in (trees["few"][0] / "runs").iterdir()} == {"rehearsal"}
    assert not re.search(r" data/|runs/shipped", "\n".join(trees["few"][1]))
