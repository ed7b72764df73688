"""Training: settings and run, initial weights, the step and its losses, hooks, summaries."""
