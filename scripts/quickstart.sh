#!/usr/bin/env bash
# From a bare machine to a trained, evaluated and exported small model, on two CPU cores.
set -euo pipefail

usage() {
    cat <<'END'
Usage: bash scripts/quickstart.sh [--fresh]

Makes .venv and installs requirements.txt, makes the synthetic data set RefShapes and its MindRecord files, trains
configs/refshapes_tiny.yaml for some five minutes, on expressions of the attribute family alone since that is what so
short a training can learn, evaluates it on every split and family, exports MindIR and checks it, and segments a
few expressions. What is done already is not done again; --fresh trains anew.

Results: runs/quickstart
END
}

fresh=no
case ${1:-} in
    "") ;;
    --fresh) fresh=yes ;;
    -h | --help) usage; exit 0 ;;
    *) echo "error: unexpected argument $1" >&2; usage >&2; exit 2 ;;
esac

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment requirements.txt

config=configs/refshapes_tiny.yaml
data=data/refshapes
run=runs/quickstart
checkpoint=$run/best.ckpt

echo "== Data: RefShapes (synthetic) in $data"
python prepare_data.py --config "$config" --output "$data"

echo "== Training in $run"
if [[ $fresh == yes || ! -f $run/trained ]]; then
    rm -rf "$run"
    # After so short a training a model is seldom surer of a pixel than one half, so the threshold is lower.
    python train.py --config "$config" --data_dir "$data" --output_dir "$run" \
        --train_families attribute --epochs 4 --decay_epochs 4 --eval_limit 500 --threshold 0.2
    touch "$run/trained"
else
    echo "$checkpoint: trained already"
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
  tables               $run/eval/tables.txt; as JSON and CSV beside it
  curve of training    $run/curve.csv, $run/steps.csv
  model                $checkpoint
  MindIR               $run/coupalign.mindir
  pictures             $run/predictions
Next: README.md, for your own pictures and for RefCOCO.
END
