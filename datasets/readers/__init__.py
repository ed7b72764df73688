"""Readers of the datasets, a file each, and their common parts."""
