"""Small samples and a small tokenizer that several tests need."""

import numpy as np
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from undertow.data.samples import Columns, Samples

WORDS = ("soup", "tea", "bread", "rain", "boat", "lamp", "fern", "moss")


def make_samples(labels, texts=None, pairs=None, classes=None) -> Samples:
    """Samples with these class indices; texts are made up unless given."""
    labels = np.asarray(labels, dtype=np.int64)
    texts = texts or [f"the {WORDS[i % len(WORDS)]} number {i}" for i in range(len(labels))]
    columns = {"text": texts, "kind": labels.tolist()} | ({"second": pairs} if pairs else {})
    top = int(labels.max(initial=1)) + 1
    return Samples(
        table=Dataset.from_dict(columns),
        columns=Columns(text="text", label="kind", text_pair="second" if pairs else None),
        classes=classes or tuple(f"c{i}" for i in range(top)),
        labels=labels,
        rows=np.arange(len(labels), dtype=np.int64),
        source="made up",
    )


def tiny_tokenizer(special=True) -> PreTrainedTokenizerFast:
    """One token per known word; [CLS] first and [SEP] after each text where ``special``."""
    vocabulary = {name: i for i, name in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    if special:
        tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_max_length=6,
        model_input_names=["input_ids", "attention_mask", *(["token_type_ids"] if special else [])],
    )
