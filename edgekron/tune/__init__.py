"""Tune: plans chosen by measurement."""
