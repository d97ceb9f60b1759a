"""Do the weights of a file fit a model? The one check of all loaders, and its message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from outmask.errors import OutmaskError

Shapes = Mapping[str, Sequence[int]]

SHOWN = 12  # names in a message; a file of another model would list hundreds


def require_same(expected: Shapes, given: Shapes, source: str) -> None:
    """Check that a file holds the expected weights and nothing else.

    Args:
        expected: shapes by name.
        given: the file's.
        source: the file, for the message.

    Raises:
        OutmaskError: naming what is missing, unexpected or of another shape.
    """
    refuse(
        source,
        missing=[name for name in expected if name not in given],
        unexpected=[name for name in given if name not in expected],
        misshaped=[
            f"{name} is {shape(given[name])}, expected {shape(sizes)}"
            for name, sizes in expected.items()
            if name in given and tuple(given[name]) != tuple(sizes)
        ],
    )


def refuse(source: str, missing: Sequence[str], unexpected: Sequence[str], misshaped: Sequence[str]) -> None:
    """Raise the :class:`OutmaskError` that lists these names; nothing where all three are empty."""
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", misshaped))
    problems = "; ".join(f"{kind}: {_listing(names)}" for kind, names in kinds if names)
    if problems:
        raise OutmaskError(f"{source}: the weights don't fit a Mask2Former as this project knows it; {problems}")


def _listing(names: Sequence[str]) -> str:
    more = f" ... and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def shape(sizes: Sequence[int]) -> str:
    """A shape as messages write it."""
    return "x".join(map(str, sizes)) or "a scalar"
