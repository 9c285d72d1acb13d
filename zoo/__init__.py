"""The model zoo that comes with pgnas: one flat module per family. Imported as pgnas_zoo, never as zoo."""

if __name__ != "pgnas_zoo":
    raise ImportError(f"this package is imported as pgnas_zoo, not as {__name__}: use `import pgnas_zoo`")
