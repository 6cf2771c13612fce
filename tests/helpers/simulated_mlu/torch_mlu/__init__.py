"""A simulated Cambricon MLU: a stand-in for torch_mlu in tests.

With this folder's parent on PYTHONPATH, `import torch_mlu` adds the device type "mlu" to PyTorch,
so that programs run the same code as on a card. Operands on different devices are an error, as on
a card. Autocast, gradient scaling, a random number generator for each card, memory statistics and
the `cncl` process group work. Results equal the CPU's bit for bit.

Not simulated: streams, events and asynchronous execution (every call is synchronous), memory
limits, the card's rounding and its speed, and `torch.compile`.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed

from torch_mlu import mlu

__version__ = "0.0+simulated"


def _create_cncl(store: Any, rank: int, size: int, timeout: Any) -> Any:
    return mlu.make_cncl(torch.distributed.ProcessGroupGloo(store, rank, size, timeout))


torch.utils.rename_privateuse1_backend("mlu")
torch._register_device_module("mlu", mlu)
torch.utils.generate_methods_for_privateuse1_backend()
torch.distributed.Backend.register_backend("cncl", _create_cncl, devices=["mlu"])
# torch_mlu's switches for TF32, with their default values.
torch.backends.mlu = SimpleNamespace(
    matmul=SimpleNamespace(allow_tf32=False), custom=SimpleNamespace(allow_tf32=False)
)
torch.backends.cnnl = SimpleNamespace(allow_tf32=True)
