"""A Cambricon MLU without the card: a double of torch_mlu for tests.

With this folder's parent on PYTHONPATH, `import torch_mlu` gives PyTorch a device of type "mlu",
so that programs run the very lines they run on a card. Tensors of it are no tensors of the CPU: an
operand that was left on the other device is refused, as on a card. Autocast casts, the loss scaler
scales, every card has random numbers of its own, memory is counted, and `cncl` joins processes.
Its arithmetic is the CPU's, to the last bit.

It does not simulate streams, events or anything else asynchronous (each call returns when it is
done), limits of memory, the card's own rounding, or its speed; and it has no `torch.compile`.
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
# Where torch_mlu has its switches for TF32, as it sets them at first.
torch.backends.mlu = SimpleNamespace(
    matmul=SimpleNamespace(allow_tf32=False), custom=SimpleNamespace(allow_tf32=False)
)
torch.backends.cnnl = SimpleNamespace(allow_tf32=True)
