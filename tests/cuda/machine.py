"""A machine that runs PTX: every thread of a grid at once, each register an array over them, in NumPy's arithmetic.

It does what the PTX manual says of the instructions that kernels have, and is stricter than a GPU: an access outside
of a buffer, a misaligned one, a read of what nobody wrote, a race between threads, a barrier or a shuffle that not all
threads come to, and an instruction that it does not know are all errors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.cuda.instructions import UnknownInstruction, compute, raw_type, written
from tracejit.kernels.cuda.threads import WARP

GAP = 256
ALIGNMENT = 512
"""Of the first buffer's address, up to a gap."""
PARAMETERS = 1 << 40
_NOBODY, _SEVERAL = -1, -2
_ANYTHING = 0xC0DE_5A5A_4321_BEE7


class Fault(Exception):
    """What a kernel must not do."""


@dataclass(slots=True)
class _Instruction:
    text: str
    name: str
    operands: list[Any]
    guard: str = ""
    wanted: bool = True


@dataclass(slots=True)
class Module:
    """A parsed PTX module with one entry."""

    entry: str
    parameters: dict[str, tuple[int, int]]
    threads: int
    shared: dict[str, int]
    shared_bytes: int
    code: list[_Instruction]
    labels: dict[str, int]
    leaders: set[int] = field(default_factory=set)


_PARAMETER = re.compile(r"\.param (?:\.align (\d+) )?\.([a-z]\d+) (?:\.ptr \.\w+ \.align \d+ )?(\w+)(?:\[(\d+)\])?")
_SHARED = re.compile(r"\.shared \.align (\d+) \.b8 (\w+)\[(\d+)\];")
_OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s{}\[\]]+(?:\|[^,\s]+)?")


def _operand(text: str) -> Any:
    if text[0] == "{":
        return [part.strip() for part in text[1:-1].split(",")]
    if text[0] == "[":
        base, _, offset = text[1:-1].partition("+")
        return (base, int(offset or 0))
    return text


def parse(text: str) -> Module:
    """Reads a PTX module.

    Raises: Fault if there is no entry, or local memory.
    """
    head = re.search(r"\.visible \.entry (\w+)\((.*?)\)", text, re.DOTALL)
    if head is None:
        raise Fault("no entry")
    if ".local" in text:
        raise Fault("local memory")
    parameters: dict[str, tuple[int, int]] = {}
    at = 0
    for _, kind, name, count in _PARAMETER.findall(head.group(2)):
        size = int(count) if count else int(kind[1:]) // 8
        parameters[name] = (at, size)
        at += size + -size % 8
    shared, total = {}, 0
    for align, name, count in _SHARED.findall(text):
        total += -total % int(align)
        shared[name] = total
        total += int(count)
    threads = re.search(r"\.maxntid (\d+)", text)
    assert threads is not None
    module = Module(head.group(1), parameters, int(threads.group(1)), shared, total, [], {})
    body = text[head.end() :]
    for line in body[body.index("{") + 1 : body.rindex("}")].splitlines():
        line = line.partition("//")[0].strip()
        if not line or line.startswith("."):
            continue
        if line.endswith(":"):
            module.labels[line[:-1]] = len(module.code)
            module.leaders.add(len(module.code))
            continue
        module.code.append(_instruction(line.rstrip(";")))
    return module


def _instruction(line: str) -> _Instruction:
    guard, wanted, rest = "", True, line
    if line.startswith("@"):
        guard, rest = line[1:].split(None, 1)
        wanted, guard = not guard.startswith("!"), guard.lstrip("!")
    name, operands = (rest.split(None, 1) + [""])[:2]
    return _Instruction(line, name, [_operand(o) for o in _OPERAND.findall(operands)], guard, wanted)


class _Memory:
    """Bytes, which of them were ever written, and which threads came by since threads met last."""

    def __init__(self, size: int) -> None:
        self._bytes = np.zeros(size, np.uint8)
        self._known = np.zeros(size, bool)
        self._writer = np.full(size, _NOBODY, np.int32)
        self._reader = np.full(size, _NOBODY, np.int32)

    def _read(self, places: np.ndarray, threads: np.ndarray) -> np.ndarray:
        if not self._known[places].all():
            raise Fault("a read of what was never written")
        mine = threads[:, None]
        writer, reader = self._writer[places], self._reader[places]
        if ((writer != _NOBODY) & (writer != mine)).any():
            raise Fault("a read of what another thread wrote, without a meeting between")
        self._reader[places] = np.where((reader == _NOBODY) | (reader == mine), mine, _SEVERAL)
        # Of threads that read one place at the same time only one is noted now.
        self._reader[places[self._reader[places] != mine]] = _SEVERAL
        found: np.ndarray = self._bytes[places]
        return found

    def _write(self, places: np.ndarray, rows: np.ndarray, threads: np.ndarray) -> None:
        mine = threads[:, None]
        for seen in (self._writer[places], self._reader[places]):
            if ((seen != _NOBODY) & (seen != mine)).any():
                raise Fault("a write to what another thread reads or writes, without a meeting between")
        self._writer[places] = mine
        if (self._writer[places] != mine).any():
            raise Fault("two threads write to one place")
        self._bytes[places] = rows
        self._known[places] = True


class Device(_Memory):
    """Global memory, in which each buffer stands alone. Addresses are those that the memory has on this machine."""

    def __init__(self, size: int) -> None:
        super().__init__(size + ALIGNMENT)
        self._bytes = self._bytes[-self._bytes.ctypes.data % ALIGNMENT :]
        self.base = self._bytes.ctypes.data
        self._valid = np.zeros(size, bool)
        self._end = 0
        # Where threads came by since a launch began.
        self._visited: list[np.ndarray] = []

    def room(self, nbytes: int, misaligned: int = 0) -> int:
        """The address of a new buffer whose content is unknown."""
        start = self._end + GAP + misaligned
        self._end = start + nbytes
        self._end += -self._end % GAP
        if self._end > self._bytes.size:
            raise MemoryError("the machine's memory is too small")
        self._valid[start : start + nbytes] = True
        return self.base + start

    def put(self, address: int, data: bytes) -> None:
        """Copies to memory."""
        at = address - self.base
        self._bytes[at : at + len(data)] = np.frombuffer(data, np.uint8)
        self._known[at : at + len(data)] = True

    def get(self, address: int, nbytes: int) -> bytes:
        """Copies from memory, all of which must have been written."""
        at = address - self.base
        if not self._known[at : at + nbytes].all():
            raise Fault("a result that was not written")
        return self._bytes[at : at + nbytes].tobytes()

    def begin(self) -> None:
        """Forgets which threads came by: a launch begins."""
        for places in self._visited:
            self._writer[places] = self._reader[places] = _NOBODY
        self._visited.clear()

    def _places(self, addresses: np.ndarray, size: int, access: int) -> np.ndarray:
        if (addresses % access).any():
            raise Fault(f"an access of {access} bytes at an address that is no multiple of it")
        first = addresses.astype(np.int64) - self.base
        if ((first < 0) | (first > self._bytes.size - size)).any():
            raise Fault("an access outside of memory")
        places: np.ndarray = first[:, None] + np.arange(size)
        if not self._valid[places].all():
            raise Fault("an access outside of a buffer")
        return places

    def load(self, addresses: np.ndarray, size: int, access: int, threads: np.ndarray) -> np.ndarray:
        """Rows of `size` bytes."""
        places = self._places(addresses, size, access)
        self._visited.append(places)
        return self._read(places, threads)

    def load_atomic(self, addresses: np.ndarray, size: int) -> np.ndarray:
        """Rows of `size` bytes that other threads may be changing."""
        found: np.ndarray = self._bytes[self._places(addresses, size, size)]
        return found

    def raise_to(self, address: int, number: int) -> None:
        """Sets the int64 at an address to a number if that is greater."""
        (places,) = self._places(np.array([address], np.uint64), 8, 8)
        word = self._bytes[places].view(np.uint64)
        self._bytes[places] = np.maximum(word, np.uint64(number)).view(np.uint8)

    def store(self, addresses: np.ndarray, rows: np.ndarray, access: int, threads: np.ndarray) -> None:
        """Writes rows of bytes."""
        places = self._places(addresses, rows.shape[1], access)
        self._visited.append(places)
        self._write(places, rows, threads)


class _Shared(_Memory):
    """The blocks' shared memories, side by side."""

    def __init__(self, blocks: int, size: int) -> None:
        self.size = max(size, 1)
        super().__init__(blocks * self.size)

    def _places(self, blocks: np.ndarray, offsets: np.ndarray, size: int) -> np.ndarray:
        offsets = offsets.astype(np.int64)
        if (offsets % size).any() or (offsets < 0).any() or (offsets + size > self.size).any():
            raise Fault("an access outside of shared memory, or a misaligned one")
        places: np.ndarray = (blocks * self.size + offsets)[:, None] + np.arange(size)
        return places

    def meet(self, blocks: np.ndarray) -> None:
        """A barrier of some blocks."""
        for seen in (self._writer, self._reader):
            seen.reshape(-1, self.size)[blocks] = _NOBODY

    def load(self, blocks: np.ndarray, offsets: np.ndarray, size: int, threads: np.ndarray) -> np.ndarray:
        """Rows of `size` bytes."""
        return self._read(self._places(blocks, offsets, size), threads)

    def store(self, blocks: np.ndarray, offsets: np.ndarray, rows: np.ndarray, threads: np.ndarray) -> None:
        """Writes rows of bytes."""
        self._write(self._places(blocks, offsets, rows.shape[1]), rows, threads)


class _Run:
    """A launch."""

    def __init__(self, device: Device, module: Module, blocks: int, parameters: bytes) -> None:
        self.device, self.module = device, module
        count = blocks * module.threads
        self.threads = np.arange(count, dtype=np.int32)
        self.block = self.threads // module.threads
        self.within = self.threads % module.threads
        self.parameters = np.frombuffer(parameters, np.uint8)
        self.shared = _Shared(blocks, module.shared_bytes)
        self.registers: dict[str, np.ndarray] = {}
        self._constants: dict[tuple[str, str], np.ndarray] = {}
        self._everybody = np.ones(count, bool)
        self.pc = np.zeros(count, np.int64)
        self.alive = np.ones(count, bool)
        self.blocked = np.zeros(count, bool)

    # --- operands -----------------------------------------------------------------------------------------------------

    def value(self, operand: str, kind: str) -> np.ndarray:
        """An operand as an array of a type."""
        raw = raw_type(kind)
        if operand in ("%tid.x", "%ctaid.x"):
            return (self.within if operand == "%tid.x" else self.block).astype(raw)
        if operand[0] == "%":
            register = self._register(operand)
            if kind == "pred":
                return register
            same = np.dtype(raw).itemsize == register.itemsize
            return register.view(raw) if same else register.astype(f"u{np.dtype(raw).itemsize}").view(raw)
        key = (operand, kind)
        if key not in self._constants:
            self._constants[key] = self._constant(operand, kind)
        return self._constants[key]

    def _constant(self, operand: str, kind: str) -> np.ndarray:
        raw = np.dtype(raw_type(kind))
        if operand in self.module.parameters:
            return np.full(self.threads.size, PARAMETERS + self.module.parameters[operand][0], np.uint64)
        if operand in self.module.shared:
            return np.full(self.threads.size, self.module.shared[operand], np.uint64).astype(raw)
        if operand.startswith(("0f", "0d")):
            return np.full(self.threads.size, np.array(int(operand[2:], 16), f"u{raw.itemsize}").view(raw))
        number = int(operand.rstrip("U"), 0)
        if kind == "pred":
            return np.full(self.threads.size, bool(number))
        bits = number & (1 << 8 * raw.itemsize) - 1
        return np.full(self.threads.size, np.array(bits, f"u{raw.itemsize}").view(raw))

    def set(self, name: str, result: np.ndarray, mask: np.ndarray) -> None:
        """Writes a register of the threads in a mask. No array is ever changed: others may be the same."""
        result = written(name, result)
        if mask is not self._everybody:
            result = np.where(mask, result, self._register(name))
        self.registers[name] = result

    def _register(self, name: str) -> np.ndarray:
        """A register. One that was not written holds anything: LLVM may compute with it what nobody wants."""
        if name not in self.registers:
            self.registers[name] = written(name, np.full(self.threads.size, _ANYTHING, np.uint64))
        return self.registers[name]

    # --- control ------------------------------------------------------------------------------------------------------

    def go(self) -> None:
        """Runs all threads to their end; those that are behind go first."""
        code, leaders = self.module.code, self.module.leaders
        while self.alive.any():
            runnable = self.alive & ~self.blocked
            if not runnable.any():
                raise Fault("threads wait for others that never come")
            at = int(self.pc[runnable].min())
            mask = runnable & (self.pc == at)
            mask = self._everybody if mask.all() else mask
            while True:
                instruction = code[at]
                active = mask
                if instruction.guard:
                    active = mask & (self._register(instruction.guard) == instruction.wanted)
                name = instruction.name
                if name.startswith("bra"):
                    self.pc[mask] = at + 1
                    self.pc[active] = self.module.labels[instruction.operands[0]]
                    break
                if name in ("ret", "exit"):
                    self.pc[mask] = at + 1
                    self.alive &= ~active
                    break
                if name.startswith(("bar", "shfl", "vote")):
                    self._together(at, instruction, mask)
                    break
                if active.any():
                    self._step(instruction, active)
                at += 1
                if at in leaders:
                    self.pc[mask] = at
                    break

    def _together(self, at: int, instruction: _Instruction, mask: np.ndarray) -> None:
        size = self.module.threads if instruction.name.startswith("bar") else WARP
        self.pc[mask] = at
        arrived = mask | (self.blocked & (self.pc == at) & self.alive)
        complete = arrived.reshape(-1, size).all(axis=1).repeat(size)
        self.blocked |= arrived
        if not complete.any():
            return
        self.blocked &= ~complete
        self.pc[complete] = at + 1
        if size == WARP and instruction.name.startswith("shfl"):
            self._shuffle(instruction, complete)
        elif size == WARP and instruction.name.startswith("vote"):
            self._vote(instruction, complete)
        else:
            self.shared.meet(np.unique(self.block[complete]))

    def _shuffle(self, instruction: _Instruction, mask: np.ndarray) -> None:
        how = instruction.name.split(".")[2]
        target, value, number, clamp, _ = instruction.operands
        if clamp != "31":
            raise Fault(f"a shuffle of parts of a warp: {instruction.text}")
        lane = self.threads % WARP
        by = self.value(number, "s32")
        other = {"down": lane + by, "idx": by, "bfly": lane ^ by}[how]
        other = np.where(other >= WARP, lane, other)
        found = self.value(value, "b32")[self.threads - lane + other]
        self.set(target.partition("|")[0], found, mask)

    def _vote(self, instruction: _Instruction, mask: np.ndarray) -> None:
        if instruction.name != "vote.sync.ballot.b32" or instruction.operands[2] != "-1":
            raise UnknownInstruction(instruction.text)
        said = self.value(instruction.operands[1], "pred").reshape(-1, WARP).astype(np.uint32)
        bits = (said << np.arange(WARP, dtype=np.uint32)).sum(axis=1, dtype=np.uint32)
        self.set(instruction.operands[0], bits.repeat(WARP), mask)

    # --- instructions -------------------------------------------------------------------------------------------------

    def _step(self, instruction: _Instruction, mask: np.ndarray) -> None:
        parts = instruction.name.split(".")
        try:
            if parts[0] in ("atom", "red"):
                self._combine(parts, instruction.operands, mask)
            elif parts[0] in ("ld", "st"):
                self._access(parts, instruction.operands, mask)
            elif parts[0] == "mov" and any(isinstance(o, list) for o in instruction.operands):
                self._pack(parts[1], instruction.operands, mask)
            else:
                target, *operands = instruction.operands
                found = compute(parts, operands, self.value)
                for k, name in enumerate(target.split("|")):
                    self.set(name, found >> k & 1 if "|" in target else found, mask)
        except Fault as fault:
            raise Fault(f"{fault}: {instruction.text}") from None

    def _pack(self, kind: str, operands: list[Any], mask: np.ndarray) -> None:
        target, source = operands
        if isinstance(target, list):
            width = int(kind[1:]) // len(target)
            whole = self.value(source, kind)
            for k, name in enumerate(target):
                if name != "_":
                    self.set(name, (whole >> whole.dtype.type(k * width)).astype(f"u{width // 8}"), mask)
            return
        width = int(kind[1:]) // len(source)
        whole = np.zeros(self.threads.size, f"u{int(kind[1:]) // 8}")
        for k, name in enumerate(source):
            part = self.value(name, f"b{width}").astype(whole.dtype)
            whole |= part << whole.dtype.type(k * width)
        self.set(target, whole, mask)

    def _combine(self, parts: list[str], operands: list[Any], mask: np.ndarray) -> None:
        """An atomic maximum, whose old value no kernel looks at."""
        if "max" not in parts or parts[-1] != "u64":
            raise UnknownInstruction(".".join(parts))
        (base, offset), value = operands[-2:]
        addresses = self.value(base, "b64")[mask] + np.uint64(offset)
        for address, number in zip(addresses, self.value(value, "u64")[mask], strict=True):
            self.device.raise_to(int(address), int(number))

    def _access(self, parts: list[str], operands: list[Any], mask: np.ndarray) -> None:
        kind = parts[-1]
        lanes = next((int(p[1:]) for p in parts if p in ("v2", "v4")), 1)
        size = int(kind[1:]) // 8
        place = operands[1] if parts[0] == "ld" else operands[0]
        address = (self.value(place[0], "b64") + np.uint64(place[1] & (1 << 64) - 1))[mask]
        threads = self.threads[mask]
        names = operands[0] if parts[0] == "ld" else operands[1]
        names = names if isinstance(names, list) else [names]
        if parts[0] == "st":
            parts_of = [self.value(name, f"b{8 * size}")[mask] for name in names]
            rows = np.stack(parts_of, axis=1).view(np.uint8).reshape(len(threads), -1)
            if "shared" in parts:
                self.shared.store(self.block[mask], address, rows, threads)
            else:
                self.device.store(address, rows, size * lanes, threads)
            return
        if "param" in parts:
            offset = (address - np.uint64(PARAMETERS)).astype(np.int64)
            rows = self.parameters[offset[:, None] + np.arange(size * lanes)]
        elif "shared" in parts:
            rows = self.shared.load(self.block[mask], address, size * lanes, threads)
        elif "relaxed" in parts:
            rows = self.device.load_atomic(address, size)
        else:
            rows = self.device.load(address, size * lanes, size * lanes, threads)
        columns = np.ascontiguousarray(rows).view(raw_type(kind))
        for k, name in enumerate(names):
            whole = np.zeros(self.threads.size, columns.dtype)
            whole[mask] = columns[:, k]
            self.set(name, whole, mask)


def launch(device: Device, module: Module, blocks: int, parameters: bytes) -> None:
    """Runs a kernel: its grid, and its parameters one after another, each at a multiple of 8 bytes.

    Raises: Fault for what a kernel must not do.
    """
    wanted = max(at + size for at, size in module.parameters.values())
    if len(parameters) != wanted:
        raise Fault(f"{len(parameters)} bytes of parameters where {wanted} are wanted")
    device.begin()
    with np.errstate(all="ignore"):
        _Run(device, module, blocks, parameters).go()
