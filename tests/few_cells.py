"""ENAS networks of four cells instead of 17, for tests of what is done with a network and not of the network itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pgnas_zoo import enas_net


@contextmanager
def few_cells() -> Iterator[None]:
    """Inside, an ENAS network has a normal, a reduction and two more normal cells, with the auxiliary head at the end.

    What is stored inside can only be loaded inside.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(enas_net, "NORMAL_CELLS", 3)
        patch.setattr(enas_net, "REDUCTIONS", (1,))
        patch.setattr(enas_net, "AUXILIARY", 3)
        yield
