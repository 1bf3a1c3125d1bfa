"""The node: one operation on nodes, interned, so that equal nodes are the same object."""

from __future__ import annotations

import struct
import weakref
from typing import Any

from tracejit import dtypes
from tracejit.aval import Aval
from tracejit.ops.record import Op

# Leaves of a graph. They are kinds, not records: nothing computes them.
INPUT, SCALAR, CONST, ITEM = "input", "scalar", "const", "item"


class Node:
    """A value of the graph.

    `op` is a record, or one of the kinds of leaf: `input` (attrs: index, strides in elements or None for
    contiguous), `scalar` (a number given at run time; attrs: index, "f" or "i"), `const` (a Python number; attrs:
    value), and `item` (one result of an operation with several; attrs: which). Numbers have no element type of
    their own (`aval` is None): they take that of the operation they enter.
    """

    __slots__ = ("__weakref__", "args", "attrs", "aval", "family", "is_number", "op")

    op: Op | str
    args: tuple[Node, ...]
    attrs: tuple[Any, ...]
    aval: Aval | tuple[Aval, ...] | None
    family: str
    """The operation's family; of a leaf its kind."""
    is_number: bool
    """Whether the node is a number rather than a tensor."""

    @property
    def name(self) -> str:
        """The operation's name, or the kind of leaf."""
        return self.op if isinstance(self.op, str) else self.op.name

    @property
    def tensor(self) -> Aval:
        """Shape and type of a node that is a single tensor.

        Raises: TypeError for a number or a node with several results.
        """
        aval = self.aval
        if type(aval) is not Aval:
            raise TypeError(f"{self.name} is not a single tensor")
        return aval

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        # Asked for more often than anything else.
        aval = self.aval
        return aval.shape if type(aval) is Aval else self.tensor.shape

    @property
    def dtype(self) -> dtypes.dtype:
        """Element type of the tensor."""
        aval = self.aval
        return aval.dtype if type(aval) is Aval else self.tensor.dtype

    def __repr__(self) -> str:
        return f"{self.name}:{self.aval}"


class _Interned(weakref.ref[Node]):
    """A node under what it is made of: a dict of these is a WeakValueDictionary at a third of the cost."""

    __slots__ = ("identity",)
    identity: Any


_interned: dict[Any, _Interned] = {}


def _forget(gone: _Interned) -> None:
    # An equal node may have been made since.
    if _interned.get(gone.identity) is gone:
        del _interned[gone.identity]


def _intern(op: Op | str, args: tuple[Node, ...], attrs: tuple[Any, ...], key: Any, aval: Any) -> Node:
    identity = (op, args, key)
    known = _interned.get(identity)
    found = None if known is None else known()
    if found is not None:
        return found
    node = Node()
    node.op, node.args, node.attrs, node.aval = op, args, attrs, aval
    node.family = op if isinstance(op, str) else op.family
    node.is_number = op is CONST or op is SCALAR
    entry = _interned[identity] = _Interned(node, _forget)
    entry.identity = identity
    return node


def make(op: Op, args: tuple[Node, ...], attrs: tuple[Any, ...] = ()) -> Node:
    """The node of an operation, typed by its record: the only constructor of operations.

    Raises: what the record's typing rule raises.
    """
    op = op.plain or op
    known = [const_value(a) if a.op == CONST else _STAND_IN[a.attrs[1]] if a.op == SCALAR else a.aval for a in args]
    aval = op.infer(*known, *attrs)
    return _intern(op, args, attrs, attrs, aval)


def make_as(op: Op, args: tuple[Node, ...], attrs: tuple[Any, ...], aval: Any) -> Node:
    """As `make`, for an operation of which it is known what its record's typing rule says."""
    return _intern(op.plain or op, args, attrs, attrs, aval)


_STAND_IN = {"f": 0.0, "i": 0}


def remake(node: Node, args: tuple[Node, ...]) -> Node:
    """The operation of a node on other operands; typed anew only where an operand has another type.

    Raises: TypeError for a leaf, which has no operands; what the record's typing rule raises.
    """
    op = node.op
    if not isinstance(op, Op):
        if op == ITEM:
            return item(args[0], node.attrs[0])
        raise TypeError(f"a node of kind '{op}' has no operands")
    for old, new in zip(node.args, args, strict=True):
        if new is not old and (new.is_number or (new.aval is not old.aval and not _is_same(new.aval, old.aval))):
            return as_one(make(op, args, node.attrs), node)
    return _intern(op, args, node.attrs, node.attrs, node.aval)


def as_one(new: Node, old: Node) -> Node:
    """A node with the type of the one that it replaces as one object, if that is the same: so what reads it is not
    typed again.
    """
    if new.aval is not old.aval and _is_same(new.aval, old.aval):
        new.aval = old.aval
    return new


def _is_same(a: Any, b: Any) -> bool:
    """Whether two types are the same, without a comparison of sizes that are open."""
    if not isinstance(a, Aval) or not isinstance(b, Aval) or a.dtype is not b.dtype or len(a.shape) != len(b.shape):
        return False
    return all(s is t or (type(s) is int and type(t) is int and s == t) for s, t in zip(a.shape, b.shape, strict=True))


def input(index: int, aval: Aval, strides: tuple[int, ...] | None = None) -> Node:
    """A tensor given at run time."""
    attrs = (index, strides)
    return _intern(INPUT, (), attrs, (attrs, aval), aval)


def scalar(index: int, kind: str) -> Node:
    """A number given at run time: `kind` is "f" for a float, "i" for an integer."""
    return _intern(SCALAR, (), (index, kind), (index, kind), None)


def const(value: bool | int | float) -> Node:
    """A Python number, keyed by its type and bits: -0.0 is not 0.0, and NaN is itself."""
    bits = struct.pack("<d", value) if isinstance(value, float) else value
    return _intern(CONST, (), (value,), (type(value), bits), None)


def const_value(node: Node) -> Any:
    """The number of a `const` node."""
    return node.attrs[0]


def item(node: Node, which: int) -> Node:
    """One result of an operation with several."""
    if not isinstance(node.aval, tuple) or isinstance(node.aval, Aval):
        raise TypeError(f"{node.name} has one result")
    return _intern(ITEM, (node,), (which,), (which,), node.aval[which])


def apply(op: Op, *args: Node | bool | int | float, **attrs: Any) -> Node:
    """The node of an operation on nodes and Python numbers, its attributes by keyword.

    >>> from tracejit import dtypes
    >>> from tracejit.ops import ops
    >>> apply(ops.mul, input(0, Aval((2, 3), dtypes.float32)), 0.5)
    mul:f32[2,3]
    """
    return make(op, tuple(a if isinstance(a, Node) else const(a) for a in args), op.pack(attrs))
