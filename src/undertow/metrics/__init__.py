"""Measures of harm scores and models; they alone may see the truth."""
