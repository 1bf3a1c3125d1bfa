"""Machine code out of LLVM modules."""

from __future__ import annotations

from tracejit.kernels.gemm_kernels import gemm_panel_f32
from tracejit.runtime import native
from tracejit.runtime.build import build


def test_other_users_of_llvm_find_its_options_unchanged() -> None:
    text = build(gemm_panel_f32).llvm_text()

    def as_others_do() -> str:
        return str(native._machine().emit_assembly(native.parse(text)))

    before = as_others_do()
    ours = native.assembly(text)
    assert len(ours) < len(before)
    assert as_others_do() == before
