"""OpenCV's TV-L1 on an OpenCL device.

OpenCV chooses the device, or takes the one that the environment variable `OPENCV_OPENCL_DEVICE`
names. Its OpenCL code differs from its CPU code at the borders of frames, in how often it tests
whether to stop, and in the median filter: it filters a picture in place while other work-groups
still read it. So the flow differs a little from the CPU's, and from run to run.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p3d.errors import UserError

_REMEDY = "or use the method tvl1, and weights that learned from it"


class OpenCLTVL1:
    """Computes flow on an OpenCL device, never on the CPU in its place.

    It keeps buffers, which two threads must not share.

    Args:
        cv2: OpenCV with its optical flow module.

    Raises:
        UserError: OpenCV finds no device, or its code does not run on it.
    """

    def __init__(self, cv2: Any) -> None:
        self._cv2 = cv2
        self._turn_on()
        _check_device(cv2)
        self._method = _method(cv2)

    def __call__(self, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the motion from one gray frame to the next.

        Args:
            first: The frame, `(H, W)`.
            second: The next one.

        Returns:
            `(H, W, 2)`, in pixels.

        Raises:
            UserError: The device fails.
        """
        self._turn_on()
        return _compute(self._cv2, self._method, first, second)

    def _turn_on(self) -> None:
        """Let OpenCV use OpenCL in this thread; each has its own switch."""
        self._cv2.ocl.setUseOpenCL(True)
        if not self._cv2.ocl.useOpenCL():
            raise UserError(
                "the method tvl1-opencl needs an OpenCL device, and OpenCV finds none; install "
                "the driver of a GPU, or of the processor (pocl-opencl-icd, and set "
                f"OPENCV_OPENCL_DEVICE=:CPU:), {_REMEDY}"
            )


def _method(cv2: Any) -> Any:
    method = cv2.optflow.DualTVL1OpticalFlow_create()
    # Without an initial flow, OpenCV's OpenCL code begins with what is left in its buffers: the
    # flow of the pair before.
    method.setUseInitialFlow(True)
    return method


def _compute(
    cv2: Any, method: Any, first: NDArray[np.uint8], second: NDArray[np.uint8]
) -> NDArray[np.float32]:
    frames = first, second, np.zeros((*first.shape, 2), np.float32)
    try:
        flow: NDArray[np.float32] = method.calc(*map(cv2.UMat, frames)).get()
    except cv2.error as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"the method tvl1-opencl fails on this OpenCL device ({reason[:200]}); use another "
            f"device (OPENCV_OPENCL_DEVICE), {_REMEDY}"
        ) from error
    return flow


@cache
def _check_device(cv2: Any) -> None:
    """Check that the device computes: where it cannot, OpenCV uses the CPU and does not say so.

    The CPU's flow would be the same to the last bit.
    """
    first = np.random.default_rng(0).integers(0, 256, (24, 24), np.uint8)
    second = np.roll(first, 1, axis=1)
    on_cpu = cv2.optflow.DualTVL1OpticalFlow_create().calc(first, second, None)
    if np.array_equal(_compute(cv2, _method(cv2), first, second), on_cpu):
        name = cv2.ocl.Device_getDefault().name()
        raise UserError(
            f"the method tvl1-opencl does not run on the OpenCL device {name}; use another "
            f"device (OPENCV_OPENCL_DEVICE), {_REMEDY}"
        )
