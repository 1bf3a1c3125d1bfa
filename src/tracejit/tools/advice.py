"""What to write instead: one table from the kind and the reason of an event to a piece of advice."""

from __future__ import annotations

import re

_HISTORY = (
    "call backward() in the compiled function, before anything is read, or hand the value out with detach() or under "
    "no_grad()"
)

_TABLE: tuple[tuple[str, str, str], ...] = (
    # --- other sizes ---
    ("resize", r"", "nothing to do: other sizes need no compilation; many different ones cost some milliseconds each"),
    ("replan", r"", "nothing to do: a layout for other sizes or numbers is made once for each of them"),
    ("kept", r"", "nothing to do: the first call follows it; TRACEJIT_TREES=0 records anew in each process"),
    # --- side exits ---
    (
        "side exit",
        r"the first call, which is not recorded",
        "nothing, if the first call makes what later ones find; else make it before",
    ),
    ("side exit", r"gradients were", "compile one function for training and another one for evaluation"),
    ("side exit", r"\.grad of the leaf", "reset gradients in the same way in each call: zero_grad() at the start"),
    ("side exit", r"gradient hook", "register hooks before the first call"),
    ("side exit", r"required (no )?gradients", "call requires_grad_() before the first call and leave it so"),
    ("side exit", r"gradient history", "detach() the tensor before the call, or always pass one with a history"),
    (
        "side exit",
        r"was \w+\[[\d, ]*\], now \w+\[",
        "keep shapes and types equal from call to call: drop_last=True or padding for a ragged last batch, casts "
        "before the call",
    ),
    ("side exit", r"contiguous|strides", "pass x.contiguous() in each call"),
    ("side exit", r"read-only|writeable", "pass memory that can be written in each call: from_numpy(a.copy())"),
    ("side exit", r"which its type does not hold", "keep the number in the range of the tensor's type"),
    (
        "side exit",
        r"Python computed with it",
        "pass the number as a tensor, or compute with it before the call: each value is a branch of its own",
    ),
    ("side exit", r"was a (float|whole number|tensor).*, now a", "pass the same type in each call: 1.0, not 1"),
    ("side exit", r"default type", "set the default type once, before the first call"),
    ("side exit", r"an index of", "check the indices before the call: this one raises as it would eagerly"),
    (
        "side exit",
        r"another tensor|same tensor|shares memory|tensor from outside|result of",
        "use the same tensors for the same operands in each call; clone() one that is passed twice",
    ),
    (
        "side exit",
        r"(attribute|argument|keywords?|keys) .*(was|had)",
        "each value is a branch of its own: keep it fixed, or make it a tensor if it changes often",
    ),
    ("side exit", r"a value (is|was) read|looks at memory|here .* before", "read values in every call, or in none"),
    (
        "side exit",
        r"",
        "nothing, if there are few ways through the function: this one is compiled too; tj.where() in place of an `if` "
        "on a value makes it one way",
    ),
    # --- looks at memory ---
    (
        "cut",
        r"a value was read",
        "return the tensor and read it after the call, or read behind the last operation; tj.where() replaces an `if` "
        "on a value",
    ),
    ("cut", r"memory was changed in place through another", "take views and detached tensors in the function"),
    ("cut", r"that a NumPy array shows", "let go of the array, or copy it, before the tensor is changed"),
    ("cut", r"a view from outside is changed", "take the view in the function, behind its last look at memory"),
    ("cut", r"not contiguous is changed in place", "call contiguous() on the tensor before it is changed"),
    ("cut", r"has no kernel", "cast the operands to float32 or float64 first"),
    ("cut", r"gradient hook", "change gradients behind backward() in place of in a hook"),
    ("cut", r"gradient leads to steps made before", _HISTORY),
    ("cut", r"autograd.Function works", "write it with operations and detach(), where that says the same"),
    ("cut", r"setting .data works", "change the tensor in place: t.copy_(value) under no_grad()"),
    ("cut", r"detach_ works|retain_grad works", "use detach(), or read the gradient from autograd.grad()"),
    ("cut", r"a hook works", "change gradients behind backward() in place of in a hook"),
    ("cut", r"works on memory$", "move it in front of or behind the other operations, or out of the function"),
    ("cut", r"not among its arguments|inside a composite", "pass all tensors that the composite uses as arguments"),
    ("cut", r"", "move it in front of or behind the other operations"),
    # --- eager stretches ---
    (
        "eager",
        r"took new ways",
        "keep shapes and Python values equal from call to call, or compile smaller functions inside that are",
    ),
    ("eager", r"needs its gradient history", _HISTORY),
    ("eager", r"its program refused", "check indices before the call; pass copies of tensors that overlap in memory"),
    ("eager", r"verification", "report the error's text to tracejit; results are right, as this part runs eagerly"),
    ("eager", r"not among its arguments|inside a composite", "pass all tensors that the composite uses as arguments"),
    ("eager", r"looks at values|works on memory", "read values outside of the composite"),
    ("eager", r"has no kernel", "cast the operands to float32 or float64 first"),
    ("eager", r"follow the tree", "mend what stands between the function and replay; looks at memory cost most"),
    ("eager", r"sizes that were not met", "pad the data to fewer sizes, where that computes little in vain"),
    ("eager", r"", "move it out of the compiled function"),
    # --- what stands between a function and replay ---
    ("obstacle", r"runs eagerly", "mend what explain lists under 'runs eagerly' first"),
    ("obstacle", r"computes nothing", "nothing: there is no program to run"),
    ("obstacle", r"exception", "raise before the operations, or outside of the function"),
    ("obstacle", r"", "move it out of the compiled function, or leave it: calls are followed then"),
    # --- others ---
    (
        "promotion",
        r"",
        "nothing: the number may change freely from now on; a tensor in its place saves the one compilation",
    ),
    ("compile", r"a number changed", "nothing: it is done once for each number that changes; see promotions"),
    ("compile", r"keeps other values", "keep the same results in each call, those stored in lists and attributes too"),
    ("compile", r"", "nothing: it is done once, and kernels stay in the cache on disk"),
    ("background", r"the cache on disk, through", "switch it on: TRACEJIT_CACHE=1, TRACEJIT_CACHE_DIR with room in it"),
    ("background", r"promises a replay", "take the mode 'auto' if no call may wait"),
    ("background", r"call waited", "nothing: it is done once, and kernels stay in the cache on disk"),
    ("background", r"", "nothing: a later call runs the program"),
    ("verification", r"bit for bit", "nothing: leave verify= out to save the time"),
    ("verification", r"", "report the error's text to tracejit; results are right, as this part runs eagerly"),
)


def fix(kind: str, reason: str) -> str:
    """What to do about an event of a compiled function.

    >>> fix("cut", "a value was read")[:36]
    'return the tensor and read it after '
    >>> fix("something new", "unknown")
    'nothing'
    """
    return next((text for k, pattern, text in _TABLE if k == kind and re.search(pattern, reason)), "nothing")
