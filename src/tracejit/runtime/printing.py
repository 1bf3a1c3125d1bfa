"""The text of an LLVM module that llvmlite's builders made, written in half the time that `str(module)` takes.

In: a module of llvmlite's `ir`. Out: text that LLVM reads as the same module.
Must not know: what the module computes.

llvmlite formats each type and each name again wherever it stands. Here the text of a type or a value is looked up by
the object, of which there are few; what instructions are seldom seen is left to llvmlite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.ir as ir
from llvmlite.ir import instructions as kinds

_NAMED = (ir.Instruction, ir.Block, ir.Argument)


class _Texts:
    """What types and values are called. All objects that are asked about live as long as this does."""

    def __init__(self) -> None:
        self._types: dict[int, str] = {}
        self._values: dict[int, tuple[str, str]] = {}

    def type(self, kind: Any) -> str:
        """The text of a type."""
        found = self._types.get(id(kind))
        if found is None:
            found = self._types[id(kind)] = str(kind)
        return found

    def value(self, value: Any) -> tuple[str, str]:
        """A value's name or number, and the same behind its type."""
        found = self._values.get(id(value))
        if found is None:
            name = f'%"{value.name}"' if isinstance(value, _NAMED) else value.get_reference()
            found = self._values[id(value)] = name, f"{self.type(value.type)} {name}"
        return found


def _operation(texts: _Texts, i: Any) -> str:
    value = texts.value
    first, *others = i.operands
    names = "".join([f", {value(other)[0]}" for other in others])
    flags = f" {' '.join(i.flags)}" if i.flags else ""
    return f"{i.opname}{flags} {value(first)[1]}{names}"


def _typed(texts: _Texts, i: Any) -> str:
    return f"{i.opname} {', '.join([texts.value(operand)[1] for operand in i.operands])}"


def _call(texts: _Texts, i: Any) -> str | None:
    callee, *arguments = i.operands
    if i.cconv or i.tail or i.fastmath or i.attributes or i.arg_attributes or callee.function_type.var_arg:
        return None
    value = texts.value
    given = ", ".join([value(argument)[1] for argument in arguments])
    return f"call {texts.type(callee.function_type.return_type)} {value(callee)[0]}({given})"


def _return(texts: _Texts, i: Any) -> str:
    return f"ret {texts.value(i.operands[0])[1]}" if i.operands else "ret void"


def _select(texts: _Texts, i: Any) -> str:
    flags = f" {' '.join(i.flags)}" if i.flags else ""
    return f"select{flags} {', '.join([texts.value(operand)[1] for operand in i.operands])}"


def _compare(texts: _Texts, i: Any) -> str:
    left, right = i.operands
    flags = f" {' '.join(i.flags)}" if i.flags else ""
    return f"{i.opname}{flags} {i.op} {texts.value(left)[1]}, {texts.value(right)[0]}"


def _cast(texts: _Texts, i: Any) -> str:
    return f"{i.opname} {texts.value(i.operands[0])[1]} to {texts.type(i.type)}"


def _load(texts: _Texts, i: Any) -> str:
    align = "" if i.align is None else f", align {i.align}"
    return f"load {texts.type(i.type)}, {texts.value(i.operands[0])[1]}{align}"


def _store(texts: _Texts, i: Any) -> str:
    value, place = i.operands
    align = "" if i.align is None else f", align {i.align}"
    return f"store {texts.value(value)[1]}, {texts.value(place)[1]}{align}"


def _address(texts: _Texts, i: Any) -> str:
    inbounds = " inbounds" if i.inbounds else ""
    operands = ", ".join([texts.value(operand)[1] for operand in i.operands])
    return f"getelementptr{inbounds} {texts.type(i.source_etype)}, {operands}"


def _phi(texts: _Texts, i: Any) -> str:
    value = texts.value
    incoming = ", ".join([f"[{value(v)[0]}, {value(block)[0]}]" for v, block in i.incomings])
    flags = f" {' '.join(i.flags)}" if i.flags else ""
    return f"phi{flags} {texts.type(i.type)} {incoming}"


_WRITERS: dict[type, Callable[[_Texts, Any], str | None]] = {
    kinds.Instruction: _operation,
    kinds.CallInstr: _call,
    kinds.Branch: _typed,
    kinds.ConditionalBranch: _typed,
    kinds.Ret: _return,
    kinds.SelectInstr: _select,
    kinds.ICMPInstr: _compare,
    kinds.FCMPInstr: _compare,
    kinds.CastInstr: _cast,
    kinds.LoadInstr: _load,
    kinds.StoreInstr: _store,
    kinds.GEPInstr: _address,
    kinds.PhiInstr: _phi,
    kinds.ExtractElement: _typed,
    kinds.InsertElement: _typed,
    kinds.ShuffleVector: _typed,
}


def _line(texts: _Texts, i: Any) -> str:
    write = _WRITERS.get(type(i))
    text = None if write is None else write(texts, i)
    if text is None:
        return f"  {i}"
    result = "" if isinstance(i.type, ir.VoidType) else f"{texts.value(i)[0]} = "
    attached = "".join([f", !{name} {node.get_reference()}" for name, node in i.metadata.items()]) if i.metadata else ""
    return f"  {result}{text}{attached}"


def module_text(module: Any) -> str:
    """The text of a module.

    >>> module = ir.Module("example")
    >>> word = ir.IntType(64)
    >>> function = ir.Function(module, ir.FunctionType(word, [word]), "increment")
    >>> builder = ir.IRBuilder(function.append_basic_block("entry"))
    >>> _ = builder.ret(builder.add(function.args[0], word(1)))
    >>> print(module_text(module).partition("\\n\\n")[2])
    define i64 @"increment"(i64 %".1")
    {
    entry:
      %".3" = add i64 %".1", 1
      ret i64 %".3"
    }
    """
    texts = _Texts()
    lines = [f'target triple = "{module.triple}"', f'target datalayout = "{module.data_layout}"', ""]
    lines += [kind.get_declaration() for kind in module.get_identified_types().values()]
    for value in module.globals.values():
        if not isinstance(value, ir.Function) or not value.blocks:
            lines.append(str(value))
            continue
        head: list[str] = []
        value.descr_prototype(head)
        lines += [head[0].rstrip(), "{"]
        for block in value.blocks:
            lines.append(f"{block._format_name()}:")
            lines += [_line(texts, i) for i in block.instructions]
        lines.append("}")
    lines += module._get_metadata_lines()
    return "\n".join(lines)
