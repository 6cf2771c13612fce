#!/usr/bin/env bash
# Run p3d, or a one-click script, in a container:
#     docker/run_docker.sh cpu  predict --weights runs/mine/best.safetensors walk.avi
#     docker/run_docker.sh cuda P3D_AMP_60E_8GPUs_Train.sh
#     docker/run_docker.sh mlu  P3D_AMP_60E_8MLUs_Train.sh --seed 7
#
# Paths are the same inside and outside. RUNS (runs/ in the project by default) is mounted for writing.
# Mounted read-only are the current folder, the paths in PYTORCH_TRAIN_DATASET, PYTORCH_TRAIN_CHECKPOINT
# and PYTORCH_INFER_CHECKPOINT (env.sh), and the paths in MOUNTS (A:B:...), such as the target of links
# in the data set.
# Other variables: IMAGE (p3d:cpu, p3d:cuda, p3d:mlu), ENGINE (docker; or podman), SHM_SIZE (16g),
# MLU_DEVICES (a pattern; /dev/cambricon_*), and those of the one-click scripts: NPROC, EPOCHS and so on.
set -euo pipefail

# Print a user error in one line and exit with code 2.
die() {
    printf '%s: error: %s\n' "${0##*/}" "$1" >&2
    exit 2
}

# Add to `flags` the options that give the container access to devices of kind $1.
add_devices() {
    local device pattern=${MLU_DEVICES:-/dev/cambricon_*}
    case $1 in
        cpu) ;;
        cuda) flags+=(--gpus all) ;;
        mlu)
            for device in $pattern; do # unquoted: a pattern
                [[ -e $device ]] || die "no device matches $pattern; check that the Cambricon driver is loaded"
                flags+=(--device "$device")
            done
            ;;
        *) die "the device is '$1'; use cpu, cuda or mlu" ;;
    esac
}

# Mount path $1 at the same path, with the mount option $3 if given. $2 names its source in messages.
add_mount() {
    [[ -e $1 ]] || die "$2 is '$1', but there is no such file or folder"
    local path
    path=$(realpath -- "$1")
    [[ $path != *[,:]* ]] || die "$2 is '$path', but a path with a comma or a colon cannot be mounted; rename it"
    [[ $mounted != *:"$path":* ]] || return 0
    mounted+=$path:
    flags+=(--mount "type=bind,source=$path,target=$path${3:+,$3}")
}

# Mount the runs folder, the current folder, the data and the weights.
add_folders() {
    local name path mounted=:
    mkdir -p -- "$RUNS"
    add_mount "$RUNS" RUNS
    flags+=(--env "RUNS=$(realpath -- "$RUNS")")
    add_mount "$PWD" "the current folder" readonly
    flags+=(--workdir "$(realpath -- "$PWD")")
    for name in PYTORCH_TRAIN_DATASET PYTORCH_TRAIN_CHECKPOINT PYTORCH_INFER_CHECKPOINT; do
        path=${!name:-}
        [[ -n $path ]] || continue
        add_mount "$path" "$name" readonly
        flags+=(--env "$name=$(realpath -- "$path")")
    done
    while IFS= read -r -d : path; do
        [[ -z $path ]] || add_mount "$path" MOUNTS readonly
    done <<<"${MOUNTS:-}:"
}

# Pass on the variables of the one-click scripts that are set.
add_settings() {
    local name
    for name in DEVICE NPROC PRECISION EPOCHS BATCH_SIZE FOLD WORKERS CLIPS OUT MAX_RESTARTS \
        NNODES RDZV_ENDPOINT RDZV_ID OMP_NUM_THREADS MLU_VISIBLE_DEVICES CUDA_VISIBLE_DEVICES \
        TORCH_ELASTIC_SHUTDOWN_TIMEOUT; do
        [[ -z ${!name:-} ]] || flags+=(--env "$name=${!name}")
    done
}

[[ $# -ge 2 ]] || die "the device or the command is missing; use ${0##*/} cpu|cuda|mlu COMMAND..., where COMMAND is a p3d command or a script in run_scripts/"
kind=$1 command=$2
shift 2
ENGINE=${ENGINE:-docker}
command -v -- "$ENGINE" >/dev/null || die "there is no command '$ENGINE'; install Docker, or set ENGINE=podman"
PROJECT=$(dirname -- "${BASH_SOURCE[0]}")/..
RUNS=${RUNS:-$PROJECT/runs}

# Run as the caller, so that the caller owns the runs. P3D selects the image's p3d even if the mounted
# project has its own .venv.
flags=(--rm --init --user "$(id -u):$(id -g)" --env HOME=/tmp --env USER=p3d --env P3D=p3d)
# Worker processes pass clips through shared memory; Docker's default of 64 MiB is too little.
flags+=(--shm-size "${SHM_SIZE:-16g}")
# Let `docker stop` wait for a checkpoint as long as torchrun does.
flags+=(--stop-timeout "${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}")
[[ ${NNODES:-1} == 1 ]] || flags+=(--network host)
[[ ! -t 0 || ! -t 1 ]] || flags+=(--interactive --tty)
add_devices "$kind"
add_folders
add_settings
if [[ $command == *.sh ]]; then
    [[ -e $PROJECT/run_scripts/${command##*/} ]] || die "there is no script '$command' in run_scripts/"
    flags+=(--entrypoint "/opt/p3d/run_scripts/${command##*/}")
    exec "$ENGINE" run "${flags[@]}" "${IMAGE:-p3d:$kind}" "$@"
fi
exec "$ENGINE" run "${flags[@]}" "${IMAGE:-p3d:$kind}" "$command" "$@"
