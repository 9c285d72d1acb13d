"""Export: what leaves the run.

`pgnas_cli.export` is this package, and also what the public API calls to export a run: the package can be called.
"""

from __future__ import annotations

import sys
import types
from typing import Any


class _CallablePackage(types.ModuleType):
    """A package that passes a call on to `export.export`."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        from pgnas_cli.export.export import export

        return export(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
