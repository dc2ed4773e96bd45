"""Reads, checks, splits, tokenizes and writes labelled texts."""

from undertow.data.checks import (
    check_enough_rows,
    check_same_inputs,
    count_leaks,
    duplicate_conflicts,
    fingerprint,
)
from undertow.data.columns import detect_columns
from undertow.data.export import plain_rows, row_hashes, write_jsonl, write_rows
from undertow.data.load import has_class_positions, load_samples
from undertow.data.planting import Planted, plant_noise
from undertow.data.samples import Columns, Samples, joined_samples
from undertow.data.sources import read_table
from undertow.data.splits import ValidationParts, split_validation, stratified_subset
from undertow.data.tokenize import Encoded, encode, pad_batch, token_budget_batches

__all__ = [
    "Columns",
    "Encoded",
    "Planted",
    "Samples",
    "ValidationParts",
    "check_enough_rows",
    "check_same_inputs",
    "count_leaks",
    "detect_columns",
    "duplicate_conflicts",
    "encode",
    "fingerprint",
    "has_class_positions",
    "joined_samples",
    "load_samples",
    "pad_batch",
    "plain_rows",
    "plant_noise",
    "read_table",
    "row_hashes",
    "split_validation",
    "stratified_subset",
    "token_budget_batches",
    "write_jsonl",
    "write_rows",
]
