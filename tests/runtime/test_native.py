"""Machine code out of LLVM modules."""

from __future__ import annotations

import inspect

import pytest

from tracejit.kernels.gemm_kernels import gemm_panel_f32
from tracejit.kernels.threads import spin
from tracejit.runtime import frontend, native
from tracejit.runtime.build import build


def test_other_users_of_llvm_find_its_options_unchanged() -> None:
    text = build(gemm_panel_f32).llvm_text()

    def as_others_do() -> str:
        return str(native._machine().emit_assembly(native.parse(text)))

    before = as_others_do()
    ours = native.assembly(text)
    assert len(ours) < len(before)
    assert as_others_do() == before


DOUBLED = "define i64 @doubled(i64 %x) {\n  %sum = add i64 %x, %x\n  ret i64 %sum\n}\n"


@pytest.mark.parametrize(("combined", "left"), [(False, "shl i64"), (True, "add i64")])
def test_instructions_are_combined_unless_that_gains_nothing(combined: bool, left: str) -> None:
    module = native.parse(DOUBLED)
    native.optimise(module, ("doubled",), by_hand=True, combined=combined)
    assert left in str(module)


def test_kernels_that_are_written_instruction_by_instruction_are_not_combined() -> None:
    assert frontend.lower(gemm_panel_f32, inspect.getsource(gemm_panel_f32)).combined
    assert not frontend.lower_together({spin: inspect.getsource(spin)}, "spinning").combined
