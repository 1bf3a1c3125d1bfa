"""What a library operation's own GPU kernel needs to be launched."""

from __future__ import annotations

from dataclasses import dataclass

from tracejit.kernels.launch import Ptr


@dataclass(frozen=True, slots=True)
class GpuLaunch:
    """One kernel launch: its text, its argument block `slots`, its units, and its grid."""

    name: str
    text: str
    slots: tuple[int | float | Ptr, ...]
    units: int
    blocks: int
    threads: int
