"""Python text that this package writes, compiled once for all processes.

In: text, and the file name that tracebacks show. Out: its code.
Must not know: what the text is for.
"""

from __future__ import annotations

import hashlib
import marshal
import sys
from types import CodeType

from tracejit.runtime.cache import CODE, STORE

_LONG = 4096
"""Characters from which reading a file takes less time than Python's compiler, 0.4 ms for each thousand."""


def compile_text(text: str, name: str) -> CodeType:
    """The code of a text: long ones are kept on disk.

    Cost: 0.2 ms if it is on disk.

    >>> scope = {}
    >>> exec(compile_text("x = 6 * 7", "<answer>"), scope)
    >>> scope["x"]
    42
    """
    if len(text) < _LONG:
        return compile(text, name, "exec")
    digest = hashlib.sha256(f"{sys.version}\n{name}\n{text}".encode()).hexdigest()
    found = STORE.get(digest, CODE)
    if found is not None:
        code: CodeType = marshal.loads(found)
        return code
    code = compile(text, name, "exec")
    STORE.put(digest, name, "", marshal.dumps(code), CODE)
    return code
