"""The text of modules: LLVM reads from it what it reads from llvmlite's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import llvmlite.ir as ir
import pytest

from tests.runtime.test_lowering import RandomText
from tracejit.kernels import attention_kernels, conv_kernels, gemm_kernels, looks, threads
from tracejit.runtime import frontend, lowering
from tracejit.runtime.build import function_of
from tracejit.runtime.printing import module_text

WORD = ir.IntType(64)


def read(text: str) -> str:
    """What LLVM reads, in its own words; in a context of its own, in which no type has a name yet."""
    return str(llvm.parse_assembly(text, llvm.create_context()))


def assert_same(module: ir.Module) -> None:
    # llvmlite's own text names the module in a comment.
    name = f'; ModuleID = "{module.name}"\n'
    own, found = frontend.name_loops(str(module)), frontend.name_loops(module_text(module))
    assert read(found) == read(own.removeprefix(name))


def lowered(kernels: dict[Any, str]) -> ir.Module:
    return lowering.lower(kernels, "kernels", frontend._call_intrinsic)


@pytest.mark.parametrize(
    "function",
    [
        gemm_kernels.gemm_panel_f32,
        gemm_kernels.gemm_dots_f64,
        conv_kernels.conv_channels_f32,
        attention_kernels.attention_grad_masked_f32,
        looks.look_at_tensors,
    ],
    ids=lambda function: function.__name__,
)
def test_kernels_of_the_library(function: Callable[..., Any]) -> None:
    assert_same(lowered({function: inspect.getsource(function)}))


def test_kernels_that_share_functions_and_wait_for_each_other() -> None:
    assert_same(lowered({function: inspect.getsource(function) for function in threads.KERNELS}))


@pytest.mark.parametrize("seed", range(20))
def test_random_texts(seed: int) -> None:
    drawn = RandomText(seed)
    assert_same(lowered({function_of(drawn.text, drawn.name): drawn.text}))


def test_whatever_a_builder_makes() -> None:
    """Flags, attributes, ways of calling, structures, branches with weights: what few kernels or none have."""
    module = ir.Module("odd", context=ir.Context())
    number, pair = ir.DoubleType(), ir.LiteralStructType([WORD, ir.DoubleType()])
    context = module.context.get_identified_type("a pair")
    context.set_body(WORD, WORD)
    outside = ir.Function(module, ir.FunctionType(WORD, [WORD], var_arg=True), "outside")
    fast = ir.Function(module, ir.FunctionType(number, [number]), "fast")
    fast.calling_convention = "fastcc"
    table = ir.GlobalVariable(module, ir.ArrayType(WORD, 2), 'a "quoted" table')
    table.initializer = ir.Constant(ir.ArrayType(WORD, 2), [3, 4])
    function = ir.Function(module, ir.FunctionType(number, [WORD, number, context.as_pointer()]), "function")
    function.attributes.add("nounwind")
    function.args[2].add_attribute("noalias")
    builder = ir.IRBuilder(function.append_basic_block("a block"))
    word, given, place = function.args
    counted = builder.call(outside, [word, given], tail=True)
    once = builder.call(fast, [given], fastmath=["fast"], attrs=["readnone"])
    total = builder.fadd(builder.fneg(once), given, flags=["nnan", "nsz"], name="the sum")
    less = builder.fcmp_ordered("<", total, given, flags=["fast"])
    chosen = builder.select(less, total, ir.Constant(number, -0.0), flags=["nnan"])
    loaded = builder.load(builder.gep(table, [WORD(0), WORD(1)], inbounds=True), align=16)
    stored = builder.store(
        builder.add(loaded, counted, flags=["nuw", "nsw"]), builder.gep(place, [WORD(0), ir.IntType(32)(1)])
    )
    stored.set_metadata("nontemporal", module.add_metadata([ir.IntType(32)(1)]))
    both = builder.insert_value(builder.insert_value(ir.Constant(pair, ir.Undefined), word, 0), chosen, 1)
    builder.fence("seq_cst")
    yes, no = function.append_basic_block(), function.append_basic_block("no")
    builder.cbranch(builder.icmp_unsigned("<", builder.extract_value(both, 0), WORD(9)), yes, no).set_weights([9, 1])
    builder.position_at_end(yes)
    builder.switch(word, no).add_case(3, no)
    builder.position_at_end(no)
    result = builder.phi(number)
    result.add_incoming(given, function.blocks[0])
    # A switch leads here twice, as the default and from one of its cases.
    result.add_incoming(ir.Constant(number, 1.5), yes)
    result.add_incoming(ir.Constant(number, 1.5), yes)
    builder.ret(result)
    assert_same(module)
