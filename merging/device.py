"""Where the arithmetic runs."""

import torch

from merging.errors import InputError


def pick_device(device: str, called: str = "device") -> torch.device:
    """`auto` is CUDA where there is one. Raises InputError for a CUDA that is not there, and for any other word.

    `called` is what the person who chose it calls it.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device {device}", "there is auto, cpu and cuda", "Pick one of them", "device")
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise InputError(f"{called} cuda", "this machine has none that torch can use", "Use cpu or auto", "device")
    return torch.device("cuda" if device == "cuda" or (device == "auto" and available) else "cpu")


def device_name(device: torch.device) -> str:
    """`cpu`, or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
