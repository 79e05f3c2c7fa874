#!/usr/bin/env bash
# docs/autograph.md's matching tables, one training after the other; finished ones are skipped. Hours on one thread.
# PEER is an environment with recbole==1.2.1 (see lightgcn.py). usage: bench/peers/run.sh FOLDER PEER/bin/python
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$1 peer=$2 ours=.venv/bin/python
export OMP_WAIT_POLICY=PASSIVE
mkdir -p "$out"

split() {
    test -f "$out/$1.npz" || "$ours" bench/peers/matching.py split --config "configs/$1.toml" --split "$out/$1.npz"
}
autograph() { # data seed texts
    local name=$out/$1-$3-$2
    test -f "$name.npz" || "$ours" bench/peers/matching.py run --config "configs/$1.toml" --split "$out/$1.npz" \
        --out "$name.npz" --texts "$3" --seed "$2" > "$name.log" 2>&1
}
lightgcn() { # data seed layers rate regularisation [options of lightgcn.py]
    local name=$out/$1-lightgcn-$3-$4-$5-$2
    test -f "$name.npz" || "$peer" bench/peers/lightgcn.py --split "$out/$1.npz" --out "$name.npz" \
        --layers "$3" --learning-rate "$4" --regularisation "$5" --seed "$2" "${@:6}" > "$name.log" 2>&1
}

for data in ml-100k ml-1m; do split "$data"; done
for layers in 2 3; do for rate in 1e-3 2e-3; do lightgcn ml-100k 1 "$layers" "$rate" 1e-4; done; done
lightgcn ml-100k 1 3 2e-3 1e-2
for seed in 1 2 3; do for texts in llm own; do autograph ml-100k "$seed" "$texts"; done; done
for texts in llm own; do autograph ml-1m 1 "$texts"; done
lightgcn ml-1m 1 3 5e-3 1e-4 --batch 16384 --threads 1 --patience 4
