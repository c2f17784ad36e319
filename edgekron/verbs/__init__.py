"""Verbs: what the command line and the Python API do with models and artifacts."""
