# shellcheck shell=bash
# Functions shared by the one-click scripts. A script sets its defaults and calls `train` or `infer`.
#
# From env.sh: PYTORCH_TRAIN_DATASET, PYTORCH_TRAIN_CHECKPOINT, PYTORCH_INFER_CHECKPOINT.
# Set by the script or its caller: DEVICE NPROC PRECISION, and for training EPOCHS BATCH_SIZE.
# Optional: OUT RUNS FOLD WORKERS CLIPS MAX_RESTARTS NNODES RDZV_ENDPOINT RDZV_ID P3D, and the variables
# that PyTorch reads: OMP_NUM_THREADS MLU_VISIBLE_DEVICES TORCH_ELASTIC_SHUTDOWN_TIMEOUT.
# docs/training.md documents all of them.

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

# Print a user error in one line and exit with code 2, as p3d does.
die() {
    printf '%s: error: %s\n' "${0##*/}" "$1" >&2
    exit 2
}

# Print the path of p3d: $P3D, else the project's .venv, else PATH.
find_p3d() {
    local path=${P3D:-}
    if [[ -n $path ]]; then
        path=$(command -v -- "$path") || die "P3D is '$P3D', which is not a command; set it to the path of p3d, or unset it"
    elif [[ -x $ROOT/.venv/bin/p3d ]]; then
        path=$ROOT/.venv/bin/p3d
    else
        path=$(command -v p3d) || die "p3d is neither in $ROOT/.venv/bin nor on PATH; install it with \`pip install -e '$ROOT'\`"
    fi
    printf '%s\n' "$path"
}

# Print the path of the torchrun next to p3d at path $1, else of the one on PATH.
find_torchrun() {
    local path=${1%/*}/torchrun
    [[ -x $path ]] || path=$(command -v torchrun) ||
        die "torchrun is neither next to $1 nor on PATH; it is part of PyTorch: activate the environment with PyTorch"
    printf '%s\n' "$path"
}

# Print the UCF101 folder: PYTORCH_TRAIN_DATASET, or ucf101/ in it.
dataset_folder() {
    local base=${PYTORCH_TRAIN_DATASET:-}
    [[ -n $base ]] || die "PYTORCH_TRAIN_DATASET is not set; set it in $ROOT/env.sh to the folder that contains ucf101/, then run \`source '$ROOT/env.sh'\`"
    [[ -d $base ]] || die "PYTORCH_TRAIN_DATASET is '$base', but there is no such folder; set it to the folder that contains ucf101/"
    local folder
    for folder in "$base/ucf101" "$base"; do
        if [[ -d $folder/ucfTrainTestlist ]]; then
            printf '%s\n' "$folder"
            return
        fi
    done
    die "PYTORCH_TRAIN_DATASET is '$base', but neither it nor its subfolder ucf101/ contains ucfTrainTestlist/; create the lists with \`p3d prepare ucf101 --source UCF101.rar --out '$base/ucf101'\`"
}

# Print the weight file in the variable named $1. If it is a folder: its file $2, else its only weight
# file. $3 describes the file in error messages.
weight_file() {
    local name=$1 default=$2 what=$3 path=${!1:-} file
    [[ -n $path ]] || die "$name is not set; set it in $ROOT/env.sh to $what, then run \`source '$ROOT/env.sh'\`"
    [[ -e $path ]] || die "$name is '$path', but there is no such file or folder; set it to $what"
    if [[ -f $path ]]; then
        printf '%s\n' "$path"
        return
    fi
    local count=0 found=
    for file in "$path/$default" "$path"/*.pth.tar "$path"/*.pth "$path"/*.safetensors "$path"/*.caffemodel; do
        [[ -f $file ]] || continue
        found=$file
        count=$((count + 1))
        [[ $file != "$path/$default" ]] || break
    done
    [[ $count != 0 ]] || die "$name is '$path', a folder without weight files; set it to $what"
    [[ $count == 1 ]] || die "$name is '$path', a folder with $count weight files, none named $default; set it to one file"
    printf '%s\n' "$found"
}

# Require the variable named $1 to be a whole number of at least $2.
check_number() {
    local value=${!1}
    if ! [[ $value =~ ^(0|[1-9][0-9]{0,5})$ ]] || ((value < $2)); then
        die "$1 is '$value'; use a whole number, $2 or more"
    fi
}

# Print the number of cores for each process on this machine, at least 1.
cores_per_process() {
    local cores
    cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
    printf '%s\n' "$((cores > NPROC ? cores / NPROC : 1))"
}

# Set the defaults that all scripts share and check the values used here.
set_defaults() {
    NPROC=${NPROC:-1} NNODES=${NNODES:-1} MAX_RESTARTS=${MAX_RESTARTS:-} RUNS=${RUNS:-$ROOT/runs}
    check_number NPROC 1
    # On several machines, a failed machine ends the group: without restarts the run would end too.
    [[ -n $MAX_RESTARTS ]] || MAX_RESTARTS=$([[ $NNODES == 1 ]] && echo 0 || echo 3)
    check_number MAX_RESTARTS 0
    [[ $NNODES =~ ^[1-9][0-9]*(:[1-9][0-9]*)?$ ]] ||
        die "NNODES is '$NNODES'; use a number of machines or MIN:MAX, such as 4 or 1:4"
    [[ $NNODES == 1 || -n ${RDZV_ENDPOINT:-} ]] ||
        die "NNODES is $NNODES, but RDZV_ENDPOINT is not set; set it to HOST:PORT of one of the machines, the same on all of them"
    local cores
    cores=$(cores_per_process)
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$cores}
    WORKERS=${WORKERS:-$((cores > 8 ? 8 : cores))}
    if [[ $DEVICE == mlu ]]; then
        export MLU_VISIBLE_DEVICES=${MLU_VISIBLE_DEVICES:-$(seq -s, 0 "$((NPROC - 1))")}
    fi
}

# Replace this shell by the given command, in NPROC processes on NNODES machines. `exec` makes signals
# reach the process that must save a checkpoint.
launch() {
    if [[ $NPROC == 1 && $NNODES == 1 && $MAX_RESTARTS == 0 ]]; then
        unset RANK WORLD_SIZE LOCAL_RANK # p3d would trust values left over from another launcher
        exec "$@"
    fi
    local torchrun group=(--nproc-per-node "$NPROC" --max-restarts "$MAX_RESTARTS")
    torchrun=$(find_torchrun "$1")
    if [[ $NNODES == 1 ]]; then
        group+=(--standalone)
    else
        group+=(--nnodes "$NNODES" --rdzv-backend c10d --rdzv-endpoint "$RDZV_ENDPOINT" --rdzv-id "${RDZV_ID:-p3d}")
    fi
    # Use a new store after each restart. In a shared store torchrun keeps the addresses of processes
    # that have exited, and new processes that connect to them wait for half an hour.
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=${TORCH_DISABLE_SHARE_RDZV_TCP_STORE:-1}
    # Seconds that torchrun waits after SIGTERM before SIGKILL. Its default of 30 can be too short to
    # finish a step and write a checkpoint.
    export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}
    exec "$torchrun" "${group[@]}" --no-python "$@"
}

# Fine-tune P3D-199 with the model zoo's settings: `train NAME OPTIONS...`. The recipe sets lr 1e-3,
# dropout 0.9 and the cyclic schedule; the seed is p3d's default, 42. The same command resumes a run.
train() {
    local name=$1 p3d data weights
    shift
    set_defaults
    p3d=$(find_p3d)
    data=$(dataset_folder)
    weights=$(weight_file PYTORCH_TRAIN_CHECKPOINT p3d_rgb_199.checkpoint.pth.tar "the pretrained P3D-199, such as p3d_rgb_199.checkpoint.pth.tar")
    launch "$p3d" train --recipe ucf101 --data "$data" --fold "${FOLD:-1}" --weights "$weights" \
        --device "$DEVICE" --precision "$PRECISION" --epochs "$EPOCHS" --batch-size "$BATCH_SIZE" \
        --workers "$WORKERS" --out "${OUT:-$RUNS/$name}" --resume "$@"
}

# Evaluate on the test list (`infer OPTIONS...`) or classify videos (`infer VIDEO... OPTIONS...`).
infer() {
    local p3d data weights
    set_defaults
    p3d=$(find_p3d)
    weights=$(weight_file PYTORCH_INFER_CHECKPOINT best.safetensors "the trained weights, such as best.safetensors of a run")
    local options=(--weights "$weights" --device "$DEVICE" --precision "$PRECISION" --clips "${CLIPS:-20}")
    if [[ ${1:--} != -* ]]; then
        NPROC=1 NNODES=1 MAX_RESTARTS=0 # `p3d predict` uses one process
        launch "$p3d" predict "${options[@]}" "$@"
    fi
    data=$(dataset_folder)
    launch "$p3d" eval "${options[@]}" --data "$data" --fold "${FOLD:-1}" --split test \
        --workers "$WORKERS" --out "${OUT:-$RUNS/P3D_Infer_$PRECISION}" "$@"
}
