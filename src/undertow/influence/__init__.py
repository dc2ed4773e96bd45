"""Estimators and the influence tensor."""
