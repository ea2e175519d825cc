#!/usr/bin/env bash
# Makes the small model for RefShapes, from seeds to a directory that can replace assets/refshapes.
set -euo pipefail

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

usage() {
    cat <<'END'
Usage: bash scripts/train_shipped_model.sh [--no-install] [--rehearse] [--key value …]

Makes the data sets, pretrains on scenes of RefShapes (synthetic), trains with the losses of the paper at 192 and 256
pixels, then proposals, then several objects or none. The last three models are evaluated on data that chose nothing.
assets/refshapes stays as it is: the end says how to replace it with one of them.

  --no-install  install nothing; name what is missing
  --rehearse    everything with a five-hundredth of the data, in runs/rehearsal, to see that it works on this machine
  --key value   for all trainings, evaluations and measurements, for instance --device_target GPU

Finished stages are skipped, and an interrupted training is resumed: repeat the command. An interrupted pretraining
repeats the part that it is in, one of five. Everything is in runs/shipped: figures of each stage in figures/, the
models in models/. docs/training.md says how long it takes.
END
}

handle_help "$@"
paper=configs/refshapes_best.yaml
proposals=configs/refshapes_proposals.yaml
run=runs/shipped
data=data
divisor=1  # of the numbers of expressions and scenes
keys=() schedule=()
for argument in "$@"; do
    if [[ $argument == --rehearse ]]; then
        run=runs/rehearsal data=runs/rehearsal/data divisor=500
        schedule=(--warmup_steps 1)  # there are few steps
    else
        keys+=("$argument")
    fi
done
prepare_environment requirements.txt
figures=$run/figures
scored=$data/refshapes_generalised  # val compares the stages
draw=$data/refshapes_draw  # no stage is trained on it or chosen by it

# Usage: prepare DIRECTORY EXPRESSIONS ARGUMENT…
prepare() {
    python prepare_data.py --config "$paper" --output "$1" --expressions $(($2 / divisor)) "${@:3}"
}

# Usage: pretrain OUTPUT SCENES ARGUMENT…; OUTPUT appears when the pretraining has finished.
pretrain() {
    local output=$1 scenes=$(($2 / divisor))
    if [[ -f $output ]]; then
        echo "$output is there already"
        return
    fi
    python pretrain.py --config "$paper" --output "$run/unfinished.ckpt" --scenes "$scenes" \
        --tracker none "${@:3}" "${schedule[@]}" "${keys[@]}"
    mv "$run/unfinished.ckpt" "$output"
}

# Usage: resize CHECKPOINT SIZE WINDOW OUTPUT
resize() {
    [[ -f $4 ]] || python convert_weights.py --config "$paper" --checkpoint "$1" --image_size "$2" \
        --swin_window_size "$3" --output "$4"
}

# Usage: train NAME CONFIG ARGUMENT…; trains in runs/shipped/NAME and evaluates the best weights.
train() {
    local name=$1 config=$2
    if [[ ! -f $run/$name/trained ]]; then
        python train.py --config "$config" --output_dir "$run/$name" --resume auto "${@:3}" "${schedule[@]}" "${keys[@]}"
        touch "$run/$name/trained"
    fi
    evaluate "$run/$name/best.ckpt" "$scored" "$figures/$name" val
}

# Usage: evaluate CHECKPOINT DATA OUTPUT SPLITS; evaluates all expressions. The figures of the last split are written last.
evaluate() {
    if [[ -f $3/${4##*,}.json ]]; then
        echo "$3 has the figures already"
        return
    fi
    python eval.py --checkpoint "$1" --data_dir "$2" --eval_splits "$4" --eval_limit 0 --output "$3" "${keys[@]}"
}

echo "== Data"
prepare "$scored" 33520 --generalised
prepare "$data/refshapes_120k" 120000 --seed 43
prepare "$data/refshapes_104k" 104000 --seed 51
prepare "$data/refshapes_112k" 112000 --seed 52
prepare "$data/refshapes_40k" 40000 --seed 61
prepare "$data/refshapes_16k_generalised" 16000 --generalised --seed 71
prepare "$draw" 20000 --generalised --seed 83

echo "== Pretraining at 128 and 192 pixels"
mkdir -p "$run"
rates=(2e-3 1.6e-3 1.2e-3 8e-4 4e-4 3e-5)
start=()
for part in 1 2 3 4 5; do
    pretrain "$run/pretrained_128_$part.ckpt" 94000 --image_size 128 --swin_window_size 8 \
        --seed $((100 + part)) --learning_rate "${rates[part - 1]}" --end_learning_rate "${rates[part]}" "${start[@]}"
    start=(--init_checkpoint "$run/pretrained_128_$part.ckpt")
done
resize "$run/pretrained_128_5.ckpt" 192 12 "$run/start_192.ckpt"
pretrain "$run/pretrained_192.ckpt" 48000 --image_size 192 --swin_window_size 12 --seed 44 \
    --learning_rate 1.2e-3 --end_learning_rate 3e-4 --init_checkpoint "$run/start_192.ckpt"

echo "== Training with the losses of the paper"
train all_192 "$paper" --image_size 192 --swin_window_size 12 --seed 44 --data_dir "$data/refshapes_120k" \
    --init_checkpoint "$run/pretrained_192.ckpt"
resize "$run/all_192/best.ckpt" 256 16 "$run/start_256.ckpt"
# The families that are found least often come first.
train hard_256 "$paper" --seed 51 --data_dir "$data/refshapes_104k" --train_sentences all \
    --train_families ordinal,relation,relation_ordinal --init_checkpoint "$run/start_256.ckpt" \
    --learning_rate 6e-4 --end_learning_rate 2e-4
train all_256 "$paper" --seed 52 --data_dir "$data/refshapes_112k" \
    --init_checkpoint "$run/hard_256/best.ckpt" --learning_rate 3e-4 --end_learning_rate 1e-5

echo "== Proposals on top of the frozen encoders, then several objects or none"
train proposals "$proposals" --seed 44 --data_dir "$data/refshapes_40k" --init_checkpoint "$run/all_256/best.ckpt"
train generalised "$proposals" --seed 45 --data_dir "$data/refshapes_16k_generalised" --existence true \
    --init_checkpoint "$run/proposals/best.ckpt" --init_except "existence.*" --frozen "" \
    --learning_rate 4e-4 --end_learning_rate 1e-5 \
    --learning_rate_scales "image_encoder.*=0.2,wpa.*=0.2,cross_attention.*=0.2,text_encoder.*=0.5,seg_head.*=0.5"

echo "== The last three models on a draw of data that chose nothing"
for name in all_256 proposals generalised; do
    model=$run/models/$name
    mkdir -p "$model"
    cp "$run/$name/config.yaml" "$model"
    [[ -f $model/model.safetensors ]] || python convert_weights.py --checkpoint "$run/$name/best.ckpt" --dtype float16 \
        --output "$model/model.safetensors"
    evaluate "$model/model.safetensors" "$draw" "$model/eval" val,testA,testB
    [[ -f $model/eval/alignment_val.json ]] ||
        python proposals.py --checkpoint "$model/model.safetensors" --data_dir "$draw" --output "$model/eval" "${keys[@]}"
done
echo "== The shipped model on the same data"
evaluate assets/refshapes/model.safetensors "$draw" "$figures/shipped" val,testA,testB

cat <<END

Done. The data are synthetic: these figures say nothing about photographs.
  models             $run/models/all_256, proposals and generalised; figures in eval/
  figures            $figures by stage; those of the shipped model in $figures/shipped
To ship one of the models, copy it and evaluate it again, so that its figures name it:
  cp $run/models/NAME/model.safetensors $run/models/NAME/config.yaml assets/refshapes/
  python eval.py --checkpoint assets/refshapes/model.safetensors --data_dir data/refshapes
END
