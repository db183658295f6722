"""How much memory there is to share out."""

from __future__ import annotations

import psutil
import torch


def total_memory_bytes(device: torch.device) -> int:
    """Return the memory of the device in bytes: of the GPU, or of the machine for a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total)
