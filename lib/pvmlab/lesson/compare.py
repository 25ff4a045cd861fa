# SPDX-License-Identifier: MIT
"""The same story on several kernels, side by side.

Adds: compare(), a table of probes, one column for each kernel.
Leaves out: what happens in the story.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from html import escape

from .markup import frame, inline, plain


@dataclass(frozen=True)
class Comparison:
    """rows: {what: {kernel: value}}."""

    rows: Mapping[str, Mapping[str, object]]

    @property
    def differs(self) -> tuple[str, ...]:
        """What is not the same on all kernels."""
        return tuple(what for what, of in self.rows.items() if len({str(value) for value in of.values()}) > 1)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        kernels = list(next(iter(self.rows.values()), {}))
        head = "".join(f"<th scope=col>{escape(kernel)}</th>" for kernel in kernels)
        rows = "".join(self._row(what, of.values()) for what, of in self.rows.items())
        text = [f"{plain(what)}: " + ", ".join(f"{kernel} {value}" for kernel, value in of.items())
                + (" (differs)" if what in self.differs else "") for what, of in self.rows.items()]
        table = f"<table><tr><td></td>{head}<td></td></tr>{rows}</table>"
        return {"text/html": frame("compare", " and ".join(kernels) + " side by side", table),
                "text/plain": "\n".join(text)}

    def _row(self, what: str, values: Iterable[object]) -> str:
        cells = "".join(f"<td>{escape(str(value))}</td>" for value in values)
        same = "≠ differs" if what in self.differs else "= same"
        return f"<tr><th scope=row>{inline(what)}</th>{cells}<td>{same}</td></tr>"


def compare(seen: Mapping[str, object], probes: Mapping[str, Callable[[object], object]]) -> Comparison:
    """Ask the same of each kernel.

    seen: {kernel: what its story returned}; probes: {what: a function of that}.
    """
    return Comparison({what: {kernel: probe(of) for kernel, of in seen.items()} for what, probe in probes.items()})
