"""Harm scores without influence."""
