"""The readers of the datasets, a file each, and what they share."""
