"""From a trained run and images to labels."""
