#!/usr/bin/env bash
# The whole way on the samples: rollouts to pairs to a trained policy, and what it gained on held-out prompts.
# Usage: demo.sh FOLDER_OF_DPO_AND_PYTHON OUTPUT_FOLDER   (make demo calls it)
set -euo pipefail
bin=$1 out=$2
samples=$(dirname "$0")
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # the policy is so small that a second thread only waits

say() { printf '\n== %s\n' "$1"; }
run() { # shows the command as one would type it, then runs it
    local name=${1##*/}
    shift
    printf '$ %s\n' "$name $*"
    "$bin/$name" "$@"
}

rm -rf "${out:?}/run" "$out"/{dpo_train,before,after}.jsonl

say "1. Pairs from rollouts: 8 sampled answers to each prompt, scored by a verifier"
run dpo collect-pairs "$samples/rollouts.jsonl" -o "$out/dpo_train.jsonl"

say "2. The data gate: each row against its schema"
run dpo validate "$samples/rollouts.jsonl" "$out/dpo_train.jsonl" --max-findings 1

say "3. DPO training of the policy that gave the answers (with OMP_NUM_THREADS=$OMP_NUM_THREADS)"
run dpo train "$out/dpo_train.jsonl" --model "$samples/policy" -o "$out/run" \
    --beta 0.1 --epochs 2 --batch-size 32 --lr 6e-5 policy.train_micro_batch_size=32

say "4. Before and after on held-out prompts, sampled with the same seeds"
run python "$samples/collect.py" "$samples/policy" "$out/run/policy" \
    -o "$out/before.jsonl" "$out/after.jsonl" --num-repeats 4
run dpo compare "$out/before.jsonl" "$out/after.jsonl" -o "$out/compare.html" --fail-if-worse

printf '\nPages to open in a browser:\n  the training      %s\n  before and after  %s\n' \
    "$out/run/report.html" "$out/compare.html"
