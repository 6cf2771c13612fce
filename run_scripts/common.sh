# shellcheck shell=bash
# What the one-click scripts share. A script sets its defaults and calls `train` or `infer`.
#
# From env.sh: PYTORCH_TRAIN_DATASET, PYTORCH_TRAIN_CHECKPOINT, PYTORCH_INFER_CHECKPOINT.
# From the script, or from whoever calls it: DEVICE NPROC PRECISION, for training EPOCHS BATCH_SIZE.
# Optional: OUT RUNS FOLD WORKERS CLIPS MAX_RESTARTS NNODES RDZV_ENDPOINT RDZV_ID P3D, and what
# PyTorch reads itself: OMP_NUM_THREADS MLU_VISIBLE_DEVICES TORCH_ELASTIC_SHUTDOWN_TIMEOUT.
# docs/training.md has them in a table.

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

# A mistake of the caller's: one line, and the exit code that p3d has for it.
die() {
    printf '%s: error: %s\n' "${0##*/}" "$1" >&2
    exit 2
}

# The command p3d: $P3D, else the project's own environment, else PATH.
find_p3d() {
    local path=${P3D:-}
    if [[ -n $path ]]; then
        path=$(command -v -- "$path") || die "P3D is '$P3D', which is no command; name the p3d to run, or unset P3D"
    elif [[ -x $ROOT/.venv/bin/p3d ]]; then
        path=$ROOT/.venv/bin/p3d
    else
        path=$(command -v p3d) || die "p3d is neither in $ROOT/.venv/bin nor on PATH; install it with \`pip install -e '$ROOT'\`"
    fi
    printf '%s\n' "$path"
}

# The torchrun that belongs to the p3d at path $1.
find_torchrun() {
    local path=${1%/*}/torchrun
    [[ -x $path ]] || path=$(command -v torchrun) ||
        die "torchrun is neither beside $1 nor on PATH; it comes with PyTorch: activate the environment that has it"
    printf '%s\n' "$path"
}

# The folder that PYTORCH_TRAIN_DATASET means: the one with the lists in it.
dataset_folder() {
    local base=${PYTORCH_TRAIN_DATASET:-}
    [[ -n $base ]] || die "PYTORCH_TRAIN_DATASET is not set; it names the folder with ucf101/ in it: write it into $ROOT/env.sh, then \`source '$ROOT/env.sh'\`"
    [[ -d $base ]] || die "PYTORCH_TRAIN_DATASET is '$base', and there is no such folder; name the one with ucf101/ in it"
    local folder
    for folder in "$base/ucf101" "$base"; do
        if [[ -d $folder/ucfTrainTestlist ]]; then
            printf '%s\n' "$folder"
            return
        fi
    done
    die "PYTORCH_TRAIN_DATASET is '$base', and neither it nor ucf101/ in it has the lists ucfTrainTestlist/; make them with \`p3d prepare ucf101 --source UCF101.rar --out '$base/ucf101'\`"
}

# The weight file that the variable $1 names; of a folder, its file $2, or the only weight file.
weight_file() {
    local name=$1 usual=$2 what=$3 path=${!1:-} file
    [[ -n $path ]] || die "$name is not set; it names $what: write it into $ROOT/env.sh, then \`source '$ROOT/env.sh'\`"
    [[ -e $path ]] || die "$name is '$path', and there is no such file; name $what"
    if [[ -f $path ]]; then
        printf '%s\n' "$path"
        return
    fi
    local found=0 only=
    for file in "$path/$usual" "$path"/*.pth.tar "$path"/*.pth "$path"/*.safetensors "$path"/*.caffemodel; do
        [[ -f $file ]] || continue
        only=$file
        found=$((found + 1))
        [[ $file != "$path/$usual" ]] || break
    done
    [[ $found != 0 ]] || die "$name is '$path', and no weights are in that folder; name $what"
    [[ $found == 1 ]] || die "$name is '$path', and $found weight files are in that folder, none of them $usual; name the file"
    printf '%s\n' "$only"
}

# Refuse a variable that is no whole number of at least $2.
check_number() {
    local value=${!1}
    if ! [[ $value =~ ^(0|[1-9][0-9]{0,5})$ ]] || ((value < $2)); then
        die "$1 is '$value'; give a whole number, $2 or more"
    fi
}

# Cores for each of the processes of this machine, at least one.
cores_per_process() {
    local cores
    cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
    printf '%s\n' "$((cores > NPROC ? cores / NPROC : 1))"
}

# Defaults of what every script understands, and the checks of what is computed with here.
settle() {
    NPROC=${NPROC:-1} NNODES=${NNODES:-1} MAX_RESTARTS=${MAX_RESTARTS:-} RUNS=${RUNS:-$ROOT/runs}
    check_number NPROC 1
    # With several machines, one that fails ends the group: without restarts that would be the end.
    [[ -n $MAX_RESTARTS ]] || MAX_RESTARTS=$([[ $NNODES == 1 ]] && echo 0 || echo 3)
    check_number MAX_RESTARTS 0
    [[ $NNODES =~ ^[1-9][0-9]*(:[1-9][0-9]*)?$ ]] ||
        die "NNODES is '$NNODES'; give the number of machines, or the least and the most: 4, 1:4"
    [[ $NNODES == 1 || -n ${RDZV_ENDPOINT:-} ]] ||
        die "NNODES is $NNODES, and RDZV_ENDPOINT is not set; give HOST:PORT of one of the machines, the same on all of them"
    local cores
    cores=$(cores_per_process)
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$cores}
    WORKERS=${WORKERS:-$((cores > 8 ? 8 : cores))}
    if [[ $DEVICE == mlu ]]; then
        export MLU_VISIBLE_DEVICES=${MLU_VISIBLE_DEVICES:-$(seq -s, 0 "$((NPROC - 1))")}
    fi
}

# Become the command given, in NPROC processes on NNODES machines. `exec` leaves no shell between
# whoever sends a signal and the one that must save.
launch() {
    if [[ $NPROC == 1 && $NNODES == 1 && $MAX_RESTARTS == 0 ]]; then
        unset RANK WORLD_SIZE LOCAL_RANK # left over from another launcher, they would be believed
        exec "$@"
    fi
    local torchrun group=(--nproc-per-node "$NPROC" --max-restarts "$MAX_RESTARTS")
    torchrun=$(find_torchrun "$1")
    if [[ $NNODES == 1 ]]; then
        group+=(--standalone)
    else
        group+=(--nnodes "$NNODES" --rdzv-backend c10d --rdzv-endpoint "$RDZV_ENDPOINT" --rdzv-id "${RDZV_ID:-p3d}")
    fi
    # A new meeting point for each restart: in the old one torchrun leaves the addresses of processes
    # that are gone, and those that take them for their partners' wait for half an hour.
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=${TORCH_DISABLE_SHARE_RDZV_TCP_STORE:-1}
    # How long torchrun waits for a checkpoint after SIGTERM before it kills; its own 30 s are little.
    export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}
    exec "$torchrun" "${group[@]}" --no-python "$@"
}

# Fine-tune P3D-199 as the model zoo does: `train NAME FLAGS...`. The recipe has lr 1e-3, dropout
# 0.9 and the cyclic schedule, p3d has seed 42. The same command goes on with a run that was stopped.
train() {
    local name=$1 p3d data weights
    shift
    settle
    p3d=$(find_p3d)
    data=$(dataset_folder)
    weights=$(weight_file PYTORCH_TRAIN_CHECKPOINT p3d_rgb_199.checkpoint.pth.tar "the pretrained P3D-199, such as p3d_rgb_199.checkpoint.pth.tar")
    launch "$p3d" train --recipe ucf101 --data "$data" --fold "${FOLD:-1}" --weights "$weights" \
        --device "$DEVICE" --precision "$PRECISION" --epochs "$EPOCHS" --batch-size "$BATCH_SIZE" \
        --workers "$WORKERS" --out "${OUT:-$RUNS/$name}" --resume "$@"
}

# Measure on the test list, `infer FLAGS...`, or name the classes of videos, `infer VIDEO... FLAGS...`.
infer() {
    local p3d data weights
    settle
    p3d=$(find_p3d)
    weights=$(weight_file PYTORCH_INFER_CHECKPOINT best.safetensors "the trained weights, such as best.safetensors of a run")
    local with=(--weights "$weights" --device "$DEVICE" --precision "$PRECISION" --clips "${CLIPS:-20}")
    if [[ ${1:--} != -* ]]; then
        NPROC=1 NNODES=1 MAX_RESTARTS=0 # videos are named one after the other
        launch "$p3d" predict "${with[@]}" "$@"
    fi
    data=$(dataset_folder)
    launch "$p3d" eval "${with[@]}" --data "$data" --fold "${FOLD:-1}" --split test \
        --workers "$WORKERS" --out "${OUT:-$RUNS/P3D_Infer_$PRECISION}" "$@"
}
