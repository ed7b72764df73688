"""Inference: labels of images by a trained run."""
