"""How right labels are."""
