"""Places in order along rows: all of them, or the first few.

Elements are compared as whole numbers, keys, that sort like the elements, NaN above all. Sorting goes by the digits of
the keys, the last first, each of which keeps the order that it finds; a digit that all keys share is left out.
"""

from __future__ import annotations

from tracejit.kernels.launch import Launch, Operand, Ptr, Scratch
from tracejit.kernels.template import instantiate, lanes, launched, require_contiguous, short_name

_SHORT = 48
"""Elements of a row up to which each is inserted among those before it."""
_DIGITS = 256
_WIDE = ("f64", "i64")
"""Types whose keys leave no room for a place in 64 bits."""

_KEYS = {
    **dict.fromkeys(("f16", "bf16", "f32"), ("float32(load_$t(x, $i) + float32(0.0))", "f32_bits(v)", 31)),
    "f64": ("load_f64(x, $i) + 0.0", "f64_bits(v)", 63),
}
"""How elements of floating point are read, -0.0 as 0.0, what their bits are, and which of them is the sign."""

_INSERT_WORD = """
                moves = 1
                while moves == 1:
                    moves = 0
                    if at > 0:
                        before = load_i64(words, at - 1)
                        if before > word:
                            store_i64(words, at, before)
                            at -= 1
                            moves = 1
                store_i64(words, at, word)
""".strip()
"""Puts a word where it belongs among those before place `at`, which are in order."""

_INSERT_KEY = """
                moves = 1
                while moves == 1:
                    moves = 0
                    if at > 0:
                        before = load_i64(keys, at - 1)
                        if before > key:
                            store_i64(keys, at, before)
                            store_i64(places, at, load_i64(places, at - 1))
                            at -= 1
                            moves = 1
                store_i64(keys, at, key)
                store_i64(places, at, k)
""".strip()
"""The same for a key and, beside it, the place k of its element."""

_BEGINS = f"""
                    begin = 0
                    for c in range({_DIGITS}):
                        many = load_i64(counts, c ^ sign)
                        store_i64(counts, c ^ sign, begin)
                        begin += many
""".strip()
"""Turns the counts of a digit into where what has it begins."""

_NARROW_ROWS = """
def $name(p, lo, hi):
    # Slots: x, out, scratch, size. A word is a key and, below, the place of its element.
    x = load_arg(p, 0)
    out = load_arg(p, 1)
    scratch = load_arg(p, 2)
    size = load_arg(p, 3)
    for u in range(lo, hi):
        words = out + 8 * size * u
        for k in range(size):
            v = $element
            key = $key
            store_i64(words, k, (key << 32) | k)
        source = words
        if size <= $short:
            for k in range(1, size):
                word = load_i64(words, k)
                at = k
                $insert
        else:
            target = scratch + 8 * (size + 4 * $digits) * u
            counts = target + 8 * size
            for c in range(4 * $digits):
                store_i64(counts, c, 0)
            for k in range(size):
                word = load_i64(words, k)
                for digit in range(4):
                    at = digit * $digits + ((word >> (32 + 8 * digit)) & 255)
                    store_i64(counts, at, load_i64(counts, at) + 1)
            for digit in range(4):
                shift = 32 + 8 * digit
                if load_i64(counts, (load_i64(source, 0) >> shift) & 255) < size:
                    # The highest bit of a key is its sign.
                    sign = 128 if digit == 3 else 0
                    $begins
                    for k in range(size):
                        word = load_i64(source, k)
                        c = (word >> shift) & 255
                        at = load_i64(counts, c)
                        store_i64(counts, c, at + 1)
                        store_i64(target, at, word)
                    before = source
                    source = target
                    target = before
                counts += 8 * $digits
        for k in range(size):
            store_i64(words, k, load_i64(source, k) & 0xFFFFFFFF)
    return 0
"""

_WIDE_ROWS = """
def $name(p, lo, hi):
    # Slots: x, out, scratch, size. Keys go beside the places of their elements.
    x = load_arg(p, 0)
    out = load_arg(p, 1)
    scratch = load_arg(p, 2)
    size = load_arg(p, 3)
    for u in range(lo, hi):
        row = out + 8 * size * u
        places = row
        keys = scratch + 8 * $wide * u
        for k in range(size):
            v = $element
            key = $key
            store_i64(keys, k, key)
            store_i64(places, k, k)
        if size <= $short:
            for k in range(1, size):
                key = load_i64(keys, k)
                at = k
                $insert
        else:
            other_keys = keys + 8 * size
            other_places = other_keys + 8 * size
            counts = other_places + 8 * size
            for c in range(8 * $digits):
                store_i64(counts, c, 0)
            for k in range(size):
                key = load_i64(keys, k)
                for digit in range(8):
                    at = digit * $digits + ((key >> (8 * digit)) & 255)
                    store_i64(counts, at, load_i64(counts, at) + 1)
            for digit in range(8):
                shift = 8 * digit
                if load_i64(counts, (load_i64(keys, 0) >> shift) & 255) < size:
                    sign = 128 if digit == 7 else 0
                    $begins
                    for k in range(size):
                        key = load_i64(keys, k)
                        c = (key >> shift) & 255
                        at = load_i64(counts, c)
                        store_i64(counts, c, at + 1)
                        store_i64(other_keys, at, key)
                        store_i64(other_places, at, load_i64(places, k))
                    before = keys
                    keys = other_keys
                    other_keys = before
                    before = places
                    places = other_places
                    other_places = before
                counts += 8 * $digits
            if places != row:
                for k in range(size):
                    store_i64(row, k, load_i64(places, k))
    return 0
"""

_FIRST = """
def $name(p, lo, hi):
    # Slots: x, out, scratch, size, k. The keys of the first so far are in order, and beside them their places.
    x = load_arg(p, 0)
    out = load_arg(p, 1)
    scratch = load_arg(p, 2)
    size = load_arg(p, 3)
    wanted = load_arg(p, 4)
    for u in range(lo, hi):
        places = out + 8 * wanted * u
        keys = scratch + 8 * wanted * u
        found = 0
        for k in range(size):
            v = $element
            key = $key
            at = -1
            if found < wanted:
                at = found
                found += 1
            elif key < load_i64(keys, wanted - 1):
                at = wanted - 1
            if at >= 0:
                $insert
    return 0
"""


def _key(short: str, descending: bool) -> dict[str, str]:
    """How an element `v` is read and its key is computed, as texts."""
    flip = "~" if descending else ""
    if short in _KEYS:
        element, bits, sign = _KEYS[short]
        greatest = (1 << sign) - 1
        # A float's bits sort like the float once those below the sign are flipped for negative numbers.
        key = f"{flip}{greatest} if v != v else {flip}({bits} ^ (({bits} >> {sign}) & {greatest}))"
    else:
        element, key = "load_$t(x, $i)", f"{flip}(v + 0)"
    return {"element": element.replace("$t", short).replace("$i", "size * u + k"), "key": key}


def plan_argsort(x: Operand, out: Operand, descending: bool) -> tuple[Launch, ...]:
    """The launch for the places of the elements of rows in order. Operands: x, out.

    Shape: out has x's shape; rows lie along the last dimension.
    DType: any; out int64.
    Edge: equal elements keep their order, -0.0 equals 0.0; NaN is greatest, whichever it is.
    Raises: ValueError for rows of 2^32 elements or more.
    Cost: a row is read once for each byte of its type; scratch memory like out, three times that for types of 8 bytes.
    """
    units, size = _rows("argsort", x, out)
    if out.shape != x.shape:
        raise ValueError(f"argsort: expected out of shape {list(x.shape)}, got {list(out.shape)}")
    short = short_name(x)
    order = "down" if descending else "up"
    is_short, is_wide = size <= _SHORT, short in _WIDE
    blanks = {**_key(short, descending), "short": str(_SHORT), "digits": str(_DIGITS), "begins": _BEGINS}
    blanks["insert"] = _INSERT_KEY if is_wide else _INSERT_WORD
    digits = 8 if is_wide else 4
    if is_wide:
        room = size if is_short else 3 * size + digits * _DIGITS
        blanks["wide"] = f"(size if size <= {_SHORT} else 3 * size + {digits * _DIGITS})"
    else:
        room = 0 if is_short else size + digits * _DIGITS
    function = instantiate(_WIDE_ROWS if is_wide else _NARROW_ROWS, f"argsort_{order}_{short}", **blanks)
    cost = size * (0.3 * size if is_short else 2.0 * digits) + (0.0 if is_short else 300.0 * digits)
    scratch = Scratch(8 * room * units) if room else 0
    return launched(Launch(function, (Ptr(0), Ptr(1), scratch, size), units, 5.0 + cost))


def plan_topk(x: Operand, out: Operand, k: int, largest: bool) -> tuple[Launch, ...]:
    """The launch for the places of the k largest (or smallest) elements of rows in order. Operands: x, out.

    Shape: out has x's shape, but k places along the last dimension.
    DType: any; out int64.
    Edge: of equal elements the first come first, -0.0 equals 0.0; NaN is greatest, whichever it is.
    Raises: ValueError if there are fewer than k.
    Cost: a row is read once; each element that is among the first k so far moves up to k others.
    """
    units, size = _rows("topk", x, out)
    if out.shape != (*x.shape[:-1], k) or not 0 <= k <= size:
        raise ValueError(f"topk: expected {k} of {size} places, got out of shape {list(out.shape)}")
    short = short_name(x)
    name = f"topk_{'down' if largest else 'up'}_{short}"
    function = instantiate(_FIRST, name, **_key(short, largest), insert=_INSERT_KEY)
    slots = (Ptr(0), Ptr(1), Scratch(8 * k * units), size, k)
    return launched(Launch(function, slots, units if k else 0, 5.0 + 1.5 * size + 5.0 * k * k))


def _rows(what: str, x: Operand, out: Operand) -> tuple[int, int]:
    """How many rows there are, none if they are empty, and how long they are."""
    require_contiguous(what, x, out)
    if out.dtype != "int64" or not x.shape:
        raise ValueError(f"{what}: expected rows and int64 of out, got {list(x.shape)} and {out.dtype}")
    outer, size, _ = lanes(what, x.shape, -1)
    if size >= 1 << 32:
        raise ValueError(f"{what}: rows of {size} elements are too long")
    return outer if size else 0, size
