"""Generators: where random operations get their seed and their place in the stream from."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from tracejit import devices
from tracejit.tensor.dispatch import wrap
from tracejit.tensor.host import host
from tracejit.tensor.state import state
from tracejit.tensor.tensor import Tensor

_WORD = 0xFFFF_FFFF_FFFF_FFFF
FIRST_SEED = 67280421310721


class Generator:
    """A stream of random numbers: a seed, and how many random operations were drawn from it.

    Edge: the numbers of a stream are the same in eager and compiled code, and differ from PyTorch's.
    Raises: RuntimeError for a device other than the CPU.

    >>> a, b = Generator().manual_seed(7), Generator().manual_seed(7)
    >>> a.initial_seed() == b.initial_seed()
    True
    """

    __slots__ = ("__weakref__", "offset", "seed_")

    def __init__(self, device: Any = None) -> None:
        devices.require(device)
        self.seed_ = FIRST_SEED
        self.offset = 0

    @property
    def device(self) -> devices.device:
        """Where the numbers are drawn: on the CPU."""
        return devices.CPU

    def manual_seed(self, seed: int) -> Generator:
        """Start the stream of a seed.

        Raises: ValueError for a seed that 64 bits do not hold.
        """
        seed = seed.__index__()
        if not -(2**63) <= seed < 2**64:
            raise ValueError(f"Overflow when unpacking long long: a seed is in [-2**63, 2**64), got {seed}")
        _restart(self, seed & _WORD, 0)
        return self

    def seed(self) -> int:
        """Start the stream of a seed that the clock gives, and return the seed."""
        chosen = time.time_ns() & _WORD
        _restart(self, chosen, 0)
        return chosen

    def initial_seed(self) -> int:
        """The seed of the stream."""
        return _position(self)[0]

    def get_state(self) -> Tensor:
        """The place in the stream, as 16 bytes."""
        return wrap(np.array(_position(self), "<u8").view(np.uint8).copy())

    def set_state(self, new_state: Tensor) -> Generator:
        """Go to a place in a stream that `get_state` gave.

        Raises: TypeError if it is no tensor of bytes, RuntimeError for another length.
        """
        if not isinstance(new_state, Tensor) or new_state._data().dtype != np.uint8:
            raise TypeError("expected a torch.ByteTensor")
        if new_state._shape != (16,):
            raise RuntimeError(f"RNG state is wrong size: expected 16 bytes, got {new_state.numel()}")
        seed, offset = (int(v) for v in new_state._data().view("<u8"))
        _restart(self, seed, offset)
        return self

    def advance(self, count: int) -> tuple[int, int]:
        """Seed and offset for `count` random operations, which are drawn with that."""
        offset = self.offset
        self.offset = offset + count
        return self.seed_, offset

    def clone_state(self) -> Generator:
        """Another generator at the same place."""
        return Generator().set_state(self.get_state())

    def __repr__(self) -> str:
        return f"<tracejit.Generator seed={self.seed_} offset={self.offset}>"

    def __reduce__(self) -> Any:
        return _rebuilt, (*_position(self),)


@host
def _restart(generator: Generator, seed: int, offset: int) -> None:
    generator.seed_, generator.offset = seed, offset


@host
def _position(generator: Generator) -> tuple[int, int]:
    return generator.seed_, generator.offset


def _rebuilt(seed: int, offset: int) -> Generator:
    made = Generator()
    made.seed_, made.offset = seed, offset
    return made


default_generator = Generator()


def draw(generator: Generator | None, count: int = 1) -> tuple[Any, Any]:
    """Seed and offset for a random operation; in a compiled region they are numbers of its run time."""
    source = default_generator if generator is None else generator
    if not isinstance(source, Generator):
        raise TypeError(f"expected a Generator, but got {type(source).__name__}")
    session = state.session
    if session is not None:
        return session.draw(source, count)
    return source.advance(count)


def manual_seed(seed: int) -> Generator:
    """Start the default generator's stream of a seed."""
    return default_generator.manual_seed(int(seed))


def seed() -> int:
    """Start the default generator's stream of a seed that the clock gives, and return the seed."""
    return default_generator.seed()


def initial_seed() -> int:
    """The seed of the default generator."""
    return default_generator.initial_seed()


def get_rng_state() -> Tensor:
    """The place of the default generator in its stream."""
    return default_generator.get_state()


def set_rng_state(new_state: Tensor) -> None:
    """Set the place of the default generator in its stream."""
    default_generator.set_state(new_state)
