"""What the shell offers at the TAB key, from static lists: no network is built and torch is not imported."""

from __future__ import annotations

import contextlib
import io


def complete_architecture(incomplete: str) -> list[tuple[str, str]]:
    """Names of listed architectures that begin with `incomplete`, each with its summary."""
    from pgnas_cli import registry

    with contextlib.redirect_stderr(io.StringIO()):  # what plugins print would land in the line being typed
        found = registry.architectures()
    return [(info.name, info.summary) for _, info in found if info.name.startswith(incomplete)]


def complete_recipe(incomplete: str) -> list[str]:
    """Names of recipes that begin with `incomplete`; where there is none, the shell offers files."""
    from pgnas_cli.recipe_file import recipe_names

    return [name for name in recipe_names() if name.startswith(incomplete)]
