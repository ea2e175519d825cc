#!/usr/bin/env bash
# From a bare machine to a trained, evaluated and exported small model, on two CPU cores.
set -euo pipefail

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

usage() {
    cat <<'END'
Usage: bash scripts/quickstart.sh [--fresh] [--no-install]

Prepares the environment (requirements.txt), makes the synthetic data set RefShapes, and trains
configs/refshapes_tiny.yaml for some five minutes, on attribute expressions only, which so short a training can learn.
Then it evaluates the model on every split and family, exports MindIR, and segments a few expressions.

Finished steps are skipped, and an interrupted training is resumed. --fresh trains again from the start.
--no-install installs nothing and names what is missing. Results: runs/quickstart
END
}

handle_help "$@"
fresh=no
for argument in "$@"; do
    [[ $argument == --fresh ]] || fail "unexpected argument $argument (--help)"
    fresh=yes
done
prepare_environment requirements.txt

config=configs/refshapes_tiny.yaml
data=data/refshapes
run=runs/quickstart
checkpoint=$run/best.ckpt

echo "== Data: RefShapes (synthetic) in $data"
python prepare_data.py --config "$config" --output "$data"

echo "== Training in $run"
[[ $fresh == no ]] || rm -rf "$run"
if [[ ! -f $run/trained ]]; then
    # After so short a training few probabilities exceed one half, so the threshold is lower.
    python train.py --config "$config" --data_dir "$data" --output_dir "$run" --resume auto \
        --train_families attribute --epochs 4 --decay_epochs 4 --eval_limit 500 --threshold 0.2
    touch "$run/trained"
else
    echo "$checkpoint is trained already"
fi

echo "== Evaluation on every split, with baselines"
if [[ ! -f $run/eval/tables.txt ]]; then
    mkdir -p "$run/eval"
    python eval.py --checkpoint "$checkpoint" --eval_limit 0 | tee "$run/eval/unfinished.txt"
    mv "$run/eval/unfinished.txt" "$run/eval/tables.txt"
else
    cat "$run/eval/tables.txt"
fi

echo "== Export to MindIR, compared with the model"
python export.py --checkpoint "$checkpoint" --file_name "$run/coupalign.mindir"

echo "== Prediction"
python predict.py --checkpoint "$checkpoint" --output "$run/predictions" \
    --image "$data/source/images/val_000002.png" \
    --expression "purple star" --expression "blue star" --expression "the rightmost purple thing"

cat <<END

Done. The data are synthetic: these figures say nothing about photographs.
  tables               $run/eval/tables.txt; JSON and CSV beside it
  training curve       $run/curve.csv, $run/steps.csv
  model                $checkpoint
  MindIR               $run/coupalign.mindir
  images               $run/predictions
Next: README.md, for your own images and for RefCOCO.
END
