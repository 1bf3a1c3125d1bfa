"""The world as an abstract run sees it: a look becomes a guard or a load, and every change stays in an overlay."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tracejit.tensor.tensor import Tensor
from tracejit.trace.passing import passing
from tracejit.trace.replay.guards import ABSENT, READERS, Guard
from tracejit.trace.replay.symbols import Later, Listing, Sym, Unproven

Place = tuple[int, str, Any]
"""The id of a container, the kind of place, and the key."""

Hint = tuple[str, str, str]
"""What tells a place in another process: its kind, its key, and the class of its container."""

COUNTERS: frozenset[Hint] = frozenset({("item", "step", "dict")})
"""Where optimizers count updates: a proof that finds out by itself that such a number changes has to begin anew."""

PLAIN = (type(None), bool, str, bytes, type(...), complex)
TABLES = (list, tuple, dict)


def nowhere() -> str:
    """The line of a run that is over."""
    return "?"


class World:
    """What an abstract run reads and would change.

    An object is *fresh* if the run made it, *found* if the text of the listing finds it anew in each call (arguments,
    places that change), and otherwise constant: it was read from a guarded place, and the next call reads the same.
    `line` says where the run stands.
    """

    def __init__(self, listing: Listing, changing: dict[Place, Any], hints: frozenset[Hint] = frozenset()) -> None:
        self.listing = listing
        self.changing = changing
        self.hints = hints
        self.line: Callable[[], str] = nowhere
        self.kept: list[Any] = []
        self.fresh: set[int] = set()
        self.found: dict[int, str] = {}
        self.guards: dict[Place, Guard] = {}
        self.overlay: dict[Place, Any] = {}
        self.owners: dict[int, Any] = {}
        self.read_before_written: dict[Place, Any] = {}
        self.tensors: dict[int, Tensor] = {}
        self.appended: list[tuple[Any, Any]] = []
        self._grown: set[int] = set()

    # --- objects ------------------------------------------------------------------------------------------------------

    def keep(self, x: Any) -> Any:
        """Keep an object alive, so that its id stays its own."""
        self.kept.append(x)
        return x

    def make_fresh(self, x: Any) -> Any:
        """Note that the run made an object."""
        self.fresh.add(id(x))
        return self.keep(x)

    def is_fresh(self, x: Any) -> bool:
        """Whether the run made the object."""
        return id(x) in self.fresh

    def is_found(self, x: Any) -> bool:
        """Whether each call may find another object here."""
        return id(x) in self.found

    def pin(self, x: Any) -> None:
        """The object must be the very one: it is used in a way that depends on which it is."""
        text = self.found.get(id(x))
        if text is not None:
            self.listing.require(f"{text} is {self.listing.constant(x)}")

    def enter(self, value: Any, text: str, passes: bool = False) -> Any:
        """Take in a value that each call finds by the text: a number is symbolic, a structure is guarded.

        One that `passes` is known only as long as somebody else keeps it.
        """
        kind = type(value)
        listing = self.listing
        if kind is int or kind is float:
            listing.require(f"type({text}) is {kind.__name__}")
            return listing.symbol(value, text)
        if isinstance(value, PLAIN):
            if value is None or kind is bool or value is ...:
                listing.require(f"{text} is {value!r}")
            else:
                listing.require(f"type({text}) is {kind.__name__} and {text} == {listing.constant(value)}")
            return value
        if not passes:
            self.keep(value)
        elif id(value) not in self.found:
            self.kept.append(passing(value, self.found))
        known = self.found.get(id(value))
        if known is not None:
            if known != text:
                listing.require(f"{text} is {known}")
            return value
        if isinstance(value, Tensor):
            _plain_tensor(value)
            if id(value) in self.tensors:
                listing.require(f"{text} is {listing.constant(value)}")
                return value
            listing.require(f"type({text}) is {listing.constant(kind)}")
            self.found[id(value)] = text
            return value
        if kind in TABLES or (isinstance(value, tuple) and hasattr(kind, "_fields")):
            listing.require(f"type({text}) is {listing.constant(kind)} and len({text}) == {len(value)}")
            if kind is dict:
                names = listing.constant(self.keep(list(value)))
                listing.require(f"list({text}) == {names}")
                if not all(type(k) is str for k in value):
                    raise Unproven("a dict with keys that are not strings comes as an argument", "use strings as keys")
            self.found[id(value)] = text
            return value
        if hasattr(kind, "__dataclass_fields__") or kind is np.ndarray:
            listing.require(f"type({text}) is {listing.constant(kind)}")
            self.found[id(value)] = text
            return value
        listing.require(f"{text} is {listing.constant(value)}")
        return value

    def constant(self, value: Any) -> Any:
        """Take in a value that was read from a guarded place."""
        if self.is_fresh(value):
            return value
        if isinstance(value, Tensor):
            _plain_tensor(value)
            self.pin(value)
            self.tensors[id(value)] = value
        elif id(value) in self.found:
            self.pin(value)
        return self.keep(value)

    # --- places -------------------------------------------------------------------------------------------------------

    def guard(self, kind: str, container: Any, key: Any, expected: Any) -> None:
        """Note what a place held."""
        place = (id(container), kind, key if _hashable(key) else id(key))
        if place not in self.guards:
            self.keep(container)
            self.guards[place] = Guard(kind, container, key, expected, self.line())

    def read(self, kind: str, container: Any, key: Any) -> Any:
        """What a place holds, or `ABSENT`."""
        place = (id(container), kind, key)
        if place in self.overlay:
            return self.overlay[place]
        if self.is_fresh(container):
            return READERS[kind](container, key)
        known = self.guards.get(place)
        if known is not None:
            return known.expected if known.expected is ABSENT else self.constant(known.expected)
        value = READERS[kind](container, key)
        self.keep(container)
        self.owners[id(container)] = container
        self.read_before_written.setdefault(place, value)
        if self.hints and type(value) in (int, float) and hint(kind, container, key) in self.hints:
            self.changing.setdefault(place, container)
        if place in self.changing and value is not ABSENT:
            return self.enter(value, self._load(kind, container, key))
        self.guard(kind, container, key, value)
        return value if value is ABSENT else self.constant(value)

    def _load(self, kind: str, container: Any, key: Any) -> str:
        name = self.listing.constant(container)
        if kind == "item":
            return self.listing.let(f"{name}.get({self._key(key)}, MISS)")
        if kind == "cell":
            return self.listing.let(f"{name}.cell_contents")
        return self.listing.let(f"getattr({name}, {key!r}, MISS)")

    def _key(self, key: Any) -> str:
        return repr(key) if type(key) is str else self.listing.constant(key)

    def write(self, kind: str, container: Any, key: Any, value: Any) -> None:
        """Change a place, in the overlay; `ABSENT` deletes it."""
        if self.is_fresh(container):
            self._write_fresh(kind, container, key, value)
            return
        if self.is_found(container) and key != "_grad":
            raise Unproven(
                f"an argument ({type(container).__name__}) is changed", "return the new value instead of storing it"
            )
        place = (id(container), kind, key)
        if value is ABSENT and self.read(kind, container, key) is not ABSENT and place not in self.overlay:
            raise Unproven(f"an entry of a {type(container).__name__} is deleted", "keep it and change its value")
        self.owners[id(container)] = self.keep(container)
        if kind == "item" and isinstance(container, dict) and (value is ABSENT) is (key in container):
            self._grown.add(id(container))
        self.overlay[place] = self.keep(value)

    def _write_fresh(self, kind: str, container: Any, key: Any, value: Any) -> None:
        if kind == "item":
            if value is ABSENT:
                del container[key]
            else:
                container[key] = value
        elif kind == "cell":
            if value is ABSENT:
                del container.cell_contents
            else:
                container.cell_contents = value
        elif value is ABSENT:
            object.__delattr__(container, key)
        else:
            object.__setattr__(container, key, value)

    # --- containers ---------------------------------------------------------------------------------------------------

    def append(self, x: Any, value: Any) -> None:
        """Add to the end of a list or a deque from outside."""
        if self.is_found(x):
            raise Unproven("a list that is an argument is changed", "return the value instead of collecting it")
        self.appended.append((self.keep(x), self.keep(value)))
        self._grown.add(id(x))

    def unchanged(self, x: Any) -> None:
        """See that a list or dict is not one that the run added to: its content would not be that of now."""
        if id(x) in self._grown:
            raise Unproven(f"a {type(x).__name__} is looked at after something was added to it", "look at it outside")

    def elements(self, x: Any) -> list[Any]:
        """The elements of a list, tuple or set."""
        self.unchanged(x)
        if self.is_fresh(x):
            return list(x)
        if self.is_found(x):
            text = self.found[id(x)]
            return [self.enter(e, self.listing.let(f"{text}[{i}]")) for i, e in enumerate(x)]
        if isinstance(x, (list, set)):
            self.guard("set" if isinstance(x, set) else "list", x, None, tuple(x))
        return [self.constant(e) for e in x]

    def element(self, x: Any, index: int) -> Any:
        """One element of a list or tuple.

        Raises: IndexError.
        """
        self.unchanged(x)
        if self.is_fresh(x):
            return x[index]
        if self.is_found(x):
            value = x[index]
            return self.enter(value, self.listing.let(f"{self.found[id(x)]}[{index}]"))
        if isinstance(x, list):
            self.guard("list", x, None, tuple(x))
        return self.constant(x[index])

    def pairs(self, d: Any) -> list[tuple[Any, Any]]:
        """Keys and values of a dict, in order."""
        if self.is_fresh(d):
            return list(d.items())
        if self.is_found(d):
            text = self.found[id(d)]
            return [(k, self.enter(v, self.listing.let(f"{text}[{k!r}]"))) for k, v in d.items()]
        self.unchanged(d)
        self.guard("keys", d, None, tuple(d))
        return [(self.constant(k), self.read("item", d, k)) for k in d]

    def item(self, d: Any, key: Any) -> Any:
        """What a dict holds for a key, or `ABSENT`."""
        if type(key) is Sym:
            self.listing.require_number(key.text, key.value)
            key = key.value
        self.pin(key)
        if self.is_fresh(d):
            return d.get(key, ABSENT)
        if self.is_found(d):
            if key not in d:
                return ABSENT
            return self.enter(d[key], self.listing.let(f"{self.found[id(d)]}[{key!r}]"))
        return self.read("item", d, key)

    def fix(self, x: Any) -> Any:
        """A number as part of the structure: its value, guarded."""
        if type(x) is Sym:
            self.listing.require_number(x.text, x.value)
            return x.value
        if type(x) is Later:
            raise Unproven(Later.complaint, Later.fix)
        if type(x) is slice:
            return slice(self.fix(x.start), self.fix(x.stop), self.fix(x.step))
        return x

    def guard_deep(self, x: Any, depth: int = 0) -> None:
        """Guard all that a function may see in a constant value that is given to it."""
        if depth > 8:
            raise Unproven("a deeply nested container is given to a function")
        kind = type(x)
        if kind in (list, tuple, set, frozenset) or isinstance(x, tuple):
            for e in self.elements(x):
                self.guard_deep(e, depth + 1)
        elif isinstance(x, dict):
            for _, v in self.pairs(x):
                self.guard_deep(v, depth + 1)

    def touch(self, t: Tensor) -> None:
        """Note that a tensor from outside was looked at: what it is like must be the same next time."""
        if id(t) not in self.tensors and not self.is_fresh(t):
            self.tensors[id(t)] = self.keep(t)

    def grad_of(self, t: Tensor) -> Any:
        """The `.grad` of a tensor: whether there is one is structure, which one is found anew."""
        place = (id(t), "slot", "_grad")
        if place in self.overlay:
            return self.overlay[place]
        if self.is_fresh(t):
            return t._grad
        self.touch(t)
        text = self.listing.let(f"{self.text_of(t)}._grad")
        grad = t._grad
        if grad is None:
            self.listing.require(f"{text} is None")
            return None
        # The call will drop it, so that its memory serves for the next one.
        return self.enter(grad, text, passes=True)

    def text_of(self, t: Any) -> str:
        """The text that finds an object."""
        return self.found.get(id(t)) or self.listing.constant(t)

    def changes(self) -> Iterable[tuple[str, Any, Any, Any]]:
        """What the run would have changed: kind, container, key and last value of each place."""
        for (owner, kind, key), value in self.overlay.items():
            container = self.owners[owner]
            before = READERS[kind](container, key)
            if value is ABSENT and before is ABSENT:
                continue
            yield kind, container, key, value

    def read_and_written(self) -> dict[Place, Any]:
        """Places that were read and then changed, with their containers: numbers in them change from call to call."""
        return {
            place: self.owners[place[0]]
            for place, value in self.overlay.items()
            if place in self.read_before_written and self.read_before_written[place] is not ABSENT
        }


def hint(kind: str, container: Any, key: Any) -> Hint | None:
    """What tells a place in another process; None if nothing does."""
    return (kind, key, type(container).__qualname__) if type(key) is str else None


def _plain_tensor(t: Tensor) -> None:
    if not type(t).__module__.startswith("tracejit."):
        raise Unproven(f"{type(t).__name__} is a tensor class of its own", "use plain tensors")


def _hashable(key: Any) -> bool:
    return type(key).__hash__ is not None
