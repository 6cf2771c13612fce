#!/usr/bin/env bash
# Run p3d, or a one-click script, in a container:
#     docker/run_docker.sh cpu  predict --weights runs/mine/best.safetensors walk.avi
#     docker/run_docker.sh cuda P3D_AMP_60E_8GPUs_Train.sh
#     docker/run_docker.sh mlu  P3D_AMP_60E_8MLUs_Train.sh --seed 7
#
# Paths are the same inside as outside. Mounted are RUNS (runs/ beside this folder by default), where
# runs go, and read-only the current folder, the paths in PYTORCH_TRAIN_DATASET,
# PYTORCH_TRAIN_CHECKPOINT and PYTORCH_INFER_CHECKPOINT (env.sh), and those in MOUNTS (A:B:...): what
# links in the data set point to, for instance.
# More: IMAGE (p3d:cpu, p3d:cuda, p3d:mlu), ENGINE (docker; podman), SHM_SIZE (16g), MLU_DEVICES (a
# pattern; /dev/cambricon_*), and what the one-click scripts know: NPROC, EPOCHS and so on.
set -euo pipefail

# A mistake of the caller's: one line, exit code 2.
die() {
    printf '%s: error: %s\n' "${0##*/}" "$1" >&2
    exit 2
}

# Add to `flags` what lets the container see the accelerators of kind $1.
add_devices() {
    local device pattern=${MLU_DEVICES:-/dev/cambricon_*}
    case $1 in
        cpu) ;;
        cuda) flags+=(--gpus all) ;;
        mlu)
            for device in $pattern; do # unquoted: a pattern
                [[ -e $device ]] || die "no $pattern is here; is the Cambricon driver loaded?"
                flags+=(--device "$device")
            done
            ;;
        *) die "the device is '$1'; choose cpu, cuda or mlu" ;;
    esac
}

# Mount the path $1, which $2 names, at the same place; read-only if $3 says so.
add_mount() {
    [[ -e $1 ]] || die "$2 names '$1', and there is no such file or folder"
    local path
    path=$(realpath -- "$1")
    [[ $path != *[,:]* ]] || die "$2 names '$path', and a path with a comma or a colon cannot be mounted"
    [[ $mounted != *:"$path":* ]] || return 0
    mounted+=$path:
    flags+=(--mount "type=bind,source=$path,target=$path${3:+,$3}")
}

# Mount the folder of runs, the current one, the data and the weights.
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

# Hand on what the one-click scripts read, where it is set here.
add_settings() {
    local name
    for name in DEVICE NPROC PRECISION EPOCHS BATCH_SIZE FOLD WORKERS CLIPS OUT MAX_RESTARTS \
        NNODES RDZV_ENDPOINT RDZV_ID OMP_NUM_THREADS MLU_VISIBLE_DEVICES CUDA_VISIBLE_DEVICES \
        TORCH_ELASTIC_SHUTDOWN_TIMEOUT; do
        [[ -z ${!name:-} ]] || flags+=(--env "$name=${!name}")
    done
}

[[ $# -ge 2 ]] || die "say where and what: ${0##*/} cpu|cuda|mlu COMMAND..., where COMMAND is one of p3d's or a script of run_scripts/"
kind=$1 command=$2
shift 2
ENGINE=${ENGINE:-docker}
command -v -- "$ENGINE" >/dev/null || die "there is no command '$ENGINE'; install Docker, or set ENGINE=podman"
RUNS=${RUNS:-$(dirname -- "${BASH_SOURCE[0]}")/../runs}

# As the caller, so that runs belong to whoever started them; no home folder is needed. P3D: the
# image's p3d, even where a project with an environment of its own is mounted over it.
flags=(--rm --init --user "$(id -u):$(id -g)" --env HOME=/tmp --env USER=p3d --env P3D=p3d)
# Loading processes hand clips over in shared memory, of which containers have 64 MiB by default.
flags+=(--shm-size "${SHM_SIZE:-16g}")
# `docker stop` waits as long for a checkpoint as torchrun does.
flags+=(--stop-timeout "${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}")
[[ ${NNODES:-1} == 1 ]] || flags+=(--network host)
[[ ! -t 0 || ! -t 1 ]] || flags+=(--interactive --tty)
add_devices "$kind"
add_folders
add_settings
if [[ $command == *.sh ]]; then
    flags+=(--entrypoint "/opt/p3d/run_scripts/${command##*/}")
    exec "$ENGINE" run "${flags[@]}" "${IMAGE:-p3d:$kind}" "$@"
fi
exec "$ENGINE" run "${flags[@]}" "${IMAGE:-p3d:$kind}" "$command" "$@"
