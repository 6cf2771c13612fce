# shellcheck shell=sh
# Where the data and the weights of the one-click scripts in run_scripts/ are.
#
# Write your paths between `:-` and `}` (with $HOME, not ~), then, in bash or zsh:
#     source env.sh
# A variable that is set already keeps its value: `unset` it first, or open a new shell.

# The folder with ucf101/ in it, or that folder itself: whichever holds ucfTrainTestlist/ and the
# videos, or a link to it. `p3d prepare ucf101` makes it.
export PYTORCH_TRAIN_DATASET="${PYTORCH_TRAIN_DATASET:-}"

# The weights that training starts from: P3D-199 pretrained on Kinetics, any format that p3d reads,
# or the folder with p3d_rgb_199.checkpoint.pth.tar in it.
export PYTORCH_TRAIN_CHECKPOINT="${PYTORCH_TRAIN_CHECKPOINT:-}"

# The weights to measure and to predict with: a file, or the folder of a run with best.safetensors
# in it, such as runs/P3D_AMP_60E_8MLUs.
export PYTORCH_INFER_CHECKPOINT="${PYTORCH_INFER_CHECKPOINT:-}"
