"""What happens during training: the step, its losses, hooks and summaries."""
