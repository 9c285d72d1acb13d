"""Data only: recipes and templates. Imported as pgnas_cli.templates."""
