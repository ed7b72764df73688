"""Evaluation: scores of predicted labels against true labels."""
