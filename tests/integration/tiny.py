"""Tiny models, tokenizers and data, all made up: what the tests of the whole command run on."""

import json
import random
from pathlib import Path

import pandas as pd
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2Model,
    GPTNeoXConfig,
    GPTNeoXModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
)

# The words that decide the class; three classes of them.
TELLING = {
    "praise": ("superb", "lovely", "brilliant"),
    "blame": ("awful", "dreadful", "boring"),
    "shrug": ("okay", "average", "middling"),
}
FILLING = ("the", "soup", "tea", "boat", "lamp", "garden", "train", "song", "was", "and", "very", "a", "bit", "today")
WORDS = (*(w for words in TELLING.values() for w in words), *FILLING)


def tokenizer(*, kind: str = "bert") -> PreTrainedTokenizerFast:
    """One token per known word. Of kind "bert" with [CLS], [SEP] and a pad token; "llama" with none of them."""
    names = ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if kind == "bert" else ("<unk>", "<s>", "</s>")
    made = Tokenizer(WordLevel({w: i for i, w in enumerate((*names, *WORDS))}, unk_token=names[kind == "bert"]))
    made.pre_tokenizer = Whitespace()
    if kind != "bert":
        made.post_processor = TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
        return PreTrainedTokenizerFast(
            tokenizer_object=made,
            unk_token="<unk>",
            bos_token="<s>",
            eos_token="</s>",
            model_max_length=64,
            model_input_names=["input_ids", "attention_mask"],
        )
    made.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
        model_input_names=["input_ids", "attention_mask", "token_type_ids"],
    )


def bert_config(**more: object) -> BertConfig:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return BertConfig(**{"vocab_size": len(WORDS) + 4, "max_position_embeddings": 64, **sizes, **more})


def save_bert(folder: Path, classes: tuple[str, ...] = (), *, seed: int = 0) -> Path:
    """A BERT-type model: an encoder without a head, or with ``classes`` a whole classifier."""
    torch.manual_seed(seed)
    if classes:
        names = dict(enumerate(classes))
        model = BertForSequenceClassification(
            bert_config(num_labels=len(classes), id2label=names, label2id={c: i for i, c in names.items()})
        )
    else:
        model = BertModel(bert_config())
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def save_llama(folder: Path) -> Path:
    """A Llama-type decoder whose tokenizer has no pad token."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS) + 3,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaModel(config).save_pretrained(folder)
    tokenizer(kind="llama").save_pretrained(folder)
    return folder


def save_gpt2(folder: Path) -> Path:
    """A decoder whose linear maps are Conv1D, with query, key and value in one."""
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
    config = GPT2Config(vocab_size=len(WORDS) + 3, bos_token_id=1, eos_token_id=2, **sizes)
    GPT2Model(config).save_pretrained(folder)
    tokenizer(kind="llama").save_pretrained(folder)
    return folder


def save_neox(folder: Path) -> Path:
    """A decoder of an architecture that undertow does not know."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = GPTNeoXConfig(vocab_size=len(WORDS) + 3, max_position_embeddings=64, **sizes)
    GPTNeoXModel(config).save_pretrained(folder)
    tokenizer(kind="llama").save_pretrained(folder)
    return folder


def rows(
    count: int,
    *,
    seed: int,
    classes: tuple[str, ...] = tuple(TELLING),
    pairs: bool = False,
    words: tuple[int, int] = (3, 7),
) -> pd.DataFrame:
    """Invented sentences; a telling word decides the label. ``id`` and ``note`` are the user's own columns.

    ``words`` says how many others there are, at least and at most; 160 rows of (20, 40) are several batches.
    """
    draw = random.Random(seed)
    table = []
    for i in range(count):
        label = classes[i % len(classes)]
        text = [*draw.choices(FILLING, k=draw.randint(*words)), draw.choice(TELLING[label])]
        draw.shuffle(text)
        row: dict[str, object] = {"id": 100 + i, "text": " ".join(text), "label": label, "note": f"n{seed}-{i}"}
        if pairs:
            other = " ".join(draw.choices(FILLING, k=4))
            row = {"id": 100 + i, "premise": row["text"], "hypothesis": other, "label": label}
        table.append(row)
    return pd.DataFrame(table)


def write(table: pd.DataFrame, path: Path) -> Path:
    """Write rows in the format that the extension names."""
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(r) + "\n" for r in table.to_dict("records")))
    else:
        table.to_parquet(path, index=False)
    return path


def read_jsonl(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
