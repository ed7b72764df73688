"""Pictures: colors, charts, sheets."""
