"""scripts/train_shipped_model.sh with a stand-in for Python: order of stages, resumption, and what each starts from."""

from __future__ import annotations

from collections import Counter

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
[ "$1" != prepare_data.py ] || exit 0
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


def test_every_stage_is_repeated_until_it_succeeds_and_never_again(tmp_path):
    tree = make_tree(tmp_path / "tree", {"python": STAGES})
    (tree / "tried").touch()
    codes = []
    while not codes or (codes[-1] == 2 and len(codes) < 40):
        codes.append(run(tree, "train_shipped_model.sh", "--device_target", "GPU").returncode)
    assert codes[-1] == 0, codes
    calls = (tree / "done").read_text().splitlines()
    assert len(calls) == len(set(calls)) == len(codes) - 1
    counts = Counter(call.split()[0] for call in calls)
    assert counts == {"pretrain.py": 6, "convert_weights.py": 2, "train.py": 5, "eval.py": 6, "proposals.py": 1}
    assert all(("--device_target GPU" in call) != call.startswith("convert") for call in calls)
    assert all("--resume auto" in call for call in calls if call.startswith("train.py"))
    assert sorted(path.name for path in (tree / "assets/refshapes").iterdir()) == ["best.ckpt", "config.yaml", "eval"]
    splits = ["alignment_val.json", "testA.json", "testB.json", "val.json"]
    assert sorted(path.name for path in (tree / "assets/refshapes/eval").iterdir()) == splits
    assert run(tree, "train_shipped_model.sh").returncode == 0
    assert (tree / "done").read_text().splitlines() == calls
