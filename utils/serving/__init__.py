"""Serving: a small HTTP server for a trained run, and the page for browsers."""
