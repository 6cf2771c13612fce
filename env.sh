# shellcheck shell=sh
# Paths of the data and the weights for the one-click scripts in run_scripts/.
#
# Write your paths between `:-` and `}` (use $HOME, not ~), then run in bash or zsh:
#     source env.sh
# A variable that is already set keeps its value: `unset` it first, or open a new shell.

# The folder that contains ucf101/, or ucf101/ itself: the folder (or a link to it) with
# ucfTrainTestlist/ and the videos. `p3d prepare ucf101` creates it.
export PYTORCH_TRAIN_DATASET="${PYTORCH_TRAIN_DATASET:-}"

# Weights to start training from: P3D-199 pretrained on Kinetics, in any format that p3d reads, or the
# folder that contains p3d_rgb_199.checkpoint.pth.tar.
export PYTORCH_TRAIN_CHECKPOINT="${PYTORCH_TRAIN_CHECKPOINT:-}"

# Weights for evaluation and prediction: a file, or a run folder that contains best.safetensors, such
# as runs/P3D_AMP_60E_8MLUs.
export PYTORCH_INFER_CHECKPOINT="${PYTORCH_INFER_CHECKPOINT:-}"
