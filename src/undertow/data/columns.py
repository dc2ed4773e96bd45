"""Finds the text, second text and label columns of a table by name, type and content."""

from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from typing import Literal

from datasets import ClassLabel, Dataset, Value

from undertow.data.samples import Columns
from undertow.data.wording import first_values, quoted
from undertow.errors import DataError

Kind = Literal["text", "class", "integer", "boolean", "float", "empty", "other"]

KINDS: dict[str, Kind] = {
    **dict.fromkeys(("string", "large_string", "string_view"), "text"),
    "bool": "boolean",
    "null": "empty",
}
PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("question", "context"),
    ("question", "answer"),
    ("query", "document"),
    ("query", "passage"),
    ("claim", "evidence"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("text", "text_pair"),
    ("sentence_a", "sentence_b"),
)
TEXT_NAMES = (
    *("text", "sentence", "content", "review", "comment", "tweet", "document", "message", "body", "post"),
    *("utterance", "question", "query", "premise", "claim"),
    *("sentence1", "question1", "text1", "text_a", "sentence_a"),
)
LABEL_NAMES = (
    *("label", "labels", "target", "class", "category", "y"),
    *("sentiment", "intent", "emotion", "topic", "gold_label"),
)
# Columns that number or partition rows, and so are never labels.
BOOKKEEPING = ("", "id", "idx", "index", "uid", "guid", "unnamed: 0", "__index_level_0__", "split", "fold")

# Columns that name who or what labelled a row, where at least two values stand in so many rows.
SOURCE_NAMES = (
    *("annotator", "annotator_id", "worker", "worker_id", "workerid", "labeler", "labeller", "rater", "coder"),
    *("source", "labeled_by", "labelled_by", "label_source", "provenance"),
)
REPEATED = 5

SAMPLED_ROWS = 1000
LABEL_OPTION = "--label-column (label= in Python)"
TEXT_OPTION = "--text-column (and --text-pair-column for a second one; text=, text_pair= in Python)"
OPTIONS = "--text-column, --text-pair-column or --label-column (text=, text_pair=, label= in Python)"


def kind_of(table: Dataset, column: str) -> Kind:
    """What a column holds, from its feature."""
    feature = table.features[column]
    if isinstance(feature, ClassLabel):
        return "class"
    dtype = str(feature.dtype) if isinstance(feature, Value) else "other"
    if dtype.startswith(("int", "uint")):
        return "integer"
    if dtype.startswith("float"):
        return "float"
    return KINDS.get(dtype, "other")


def first_cells(table: Dataset, column: str) -> str:
    """The first cells of a column for a message, as they are stored: images and the like are not decoded."""
    return first_values(table.with_format("arrow")[:3][column].to_pylist())


def detect_columns(
    table: Dataset,
    *,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | None = None,
    source: str | None = None,
) -> Columns:
    """The columns to read: those given, the others detected.

    ``text_pair="none"`` keeps to one text, ``source="none"`` to no source of the labels.

    Raises:
        DataError: a column that is given is not there, or one cannot be told with certainty.
    """
    who, told = _find_source(table, source)
    if who is not None and who not in (text, text_pair, label):
        hidden = table.select_columns([name for name in table.column_names if name != who])
        found = detect_columns(hidden, text=text, text_pair=text_pair, label=label, source="none")
        return replace(found, source=who, notes=(*found.notes, told))
    no_pair = text_pair == "none" and "none" not in table.column_names
    pair = None if no_pair else text_pair
    _check_given(table, text, pair, label)
    taken = {name for name in (text, pair) if name}
    notes: list[str] = []
    if label:
        notes.append(f"label '{label}': as given")
    else:
        label = _label_by_name(table, taken, notes)
    if text is None:
        text, pair = _find_texts(table, label, pair, no_pair, notes)
    else:
        notes.append(f"text '{text}': as given")
        _note_pair(table, text, pair, no_pair, notes)
    if label is None:
        label = _label_by_values(table, {text, pair or text}, notes)
    return Columns(text=text, label=label, text_pair=pair, notes=tuple(notes))


def _find_source(table: Dataset, asked: str | None) -> tuple[str | None, str]:
    """The column that names who or what labelled a row, and how it was found."""
    if asked == "none":
        return None, ""
    if asked is not None:
        if asked not in table.column_names:
            raise DataError(f"There is no column '{asked}' for the source of the labels. {_columns_there(table)}")
        return asked, f"source '{asked}': as given"
    for name in table.column_names:
        if name.lower() in SOURCE_NAMES and kind_of(table, name) in ("text", "class", "integer"):
            counts = Counter(table[name][:])
            if sum(count >= REPEATED for count in counts.values()) >= 2 and len(counts) <= len(table) / 2:
                return name, f"source '{name}': by name"
    return None, ""


def _columns_there(table: Dataset) -> str:
    shown = [f"'{name}' ({_type(table, name)})" for name in table.column_names[:20]]
    more = f" and {table.num_columns - 20} more" if table.num_columns > 20 else ""
    return f"The columns are {', '.join(shown)}{more}."


def _type(table: Dataset, name: str) -> str:
    feature = table.features[name]
    if isinstance(feature, ClassLabel):
        return f"ClassLabel of {feature.num_classes}"
    return str(feature.dtype) if isinstance(feature, Value) else type(feature).__name__.lower()


def _check_given(table: Dataset, text: str | None, pair: str | None, label: str | None) -> None:
    given = [("text", text), ("second text", pair), ("label", label)]
    for role, name in given:
        if name is not None and name not in table.column_names:
            raise DataError(
                f"There is no column '{name}' to take the {role} from. {_columns_there(table)} Name one of "
                f"them with {OPTIONS}."
            )
    names = [name for _, name in given if name is not None]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"The column {quoted(twice)} is given for more than one of text, second text and label. "
            f"{_columns_there(table)} Name a different column for each with {OPTIONS}."
        )
    for name in (text, pair):
        if name is not None and kind_of(table, name) not in ("text", "empty"):
            raise not_text(table, name)


def not_text(table: Dataset, name: str) -> DataError:
    """The error for a text column that holds something else; names the first rows."""
    return DataError(
        f"The column '{name}' holds {_type(table, name)}, not text ({first_cells(table, name)}). Texts are "
        "strings; convert the column, or name another one with --text-column or --text-pair-column. "
        f"{_columns_there(table)}"
    )


def _unclear(table: Dataset, role: str, candidates: Collection[str], option: str) -> DataError:
    which = f"could be any of {quoted(candidates)}" if candidates else "cannot be told from names and contents"
    return DataError(f"The {role} column {which}. Name it with {option}. {_columns_there(table)}")


def _label_by_name(table: Dataset, taken: set[str], notes: list[str]) -> str | None:
    """The ClassLabel column, else the one with a known name; None where there is neither."""
    free: list[str] = [name for name in table.column_names if name not in taken]
    classes = [name for name in free if kind_of(table, name) == "class"]
    named = [name for name in free if name.lower() in LABEL_NAMES]
    candidates = classes or named
    # "label" beside "category" is the label; two other names side by side are for the user to decide.
    called = [name for name in named if name.lower() in ("label", "labels")]
    found = [name for name in candidates if name in called] or candidates
    if called and found[0] not in called:
        raise _unclear(table, "label", [*classes, *called], LABEL_OPTION)
    if len(candidates) > 1 and not called:
        raise _unclear(table, "label", candidates, LABEL_OPTION)
    if not found:
        return None
    notes.append(f"label '{found[0]}': {'a ClassLabel feature' if classes else 'by name'}")
    return found[0]


def _label_by_values(table: Dataset, taken: set[str], notes: list[str]) -> str:
    """The one column left that has at least two values and repeats them."""
    candidates: list[str] = []
    for name in table.column_names:
        if name in taken or name.lower() in BOOKKEEPING or kind_of(table, name) in ("other", "empty"):
            continue
        distinct = len(set(table.with_format(None)[name][:]))
        if 2 <= distinct <= min(1000, max(2, len(table) // 2)):
            candidates.append(name)
    if len(candidates) != 1:
        raise _unclear(table, "label", candidates, LABEL_OPTION)
    notes.append(f"label '{candidates[0]}': the only other column whose values repeat")
    return candidates[0]


def _find_texts(
    table: Dataset, label: str | None, pair: str | None, no_pair: bool, notes: list[str]
) -> tuple[str, str | None]:
    """The text and second text where the text was not given."""
    strings = [name for name in table.column_names if name != label and kind_of(table, name) == "text"]
    called = {name.lower(): name for name in strings}
    pairs = [(called[a], called[b]) for a, b in PAIRS if a in called and b in called]
    if pair is not None:
        partners = [a for a, b in pairs if b == pair]
        rest = [name for name in strings if name != pair]
        notes.append(f"second text '{pair}': as given")
        return _single_text(table, partners if len(partners) == 1 else rest, notes), pair
    known = [called[name] for name in TEXT_NAMES if name in called]
    in_pairs = {name for both in pairs for name in both}
    others = [name for name in known if name not in in_pairs]
    if len(pairs) > 1 or (pairs and others):
        candidates = [name for name in strings if name in in_pairs or name in others]
        raise _unclear(table, "text", candidates, TEXT_OPTION)
    if not pairs:
        return _single_text(table, strings, notes), None
    first, second = pairs[0]
    if no_pair:
        notes.append(f"text '{first}': by name ('{second}' is not read, as asked)")
        return first, None
    notes.append(f"text '{first}' and second text '{second}': a pair by name")
    return first, second


def _note_pair(table: Dataset, text: str, pair: str | None, no_pair: bool, notes: list[str]) -> None:
    """Says what became of the second text where the text was given."""
    lower = {name.lower(): name for name in table.column_names}
    partners = [lower[b] for a, b in PAIRS if a == text.lower() and b in lower]
    if pair:
        notes.append(f"second text '{pair}': as given")
    elif partners and not no_pair:
        notes.append(f"second text: none, as only the text was given (there is {quoted(partners)})")


def _single_text(table: Dataset, strings: list[str], notes: list[str]) -> str:
    """One text column among these: a known name, else the only string column, else the only free text."""
    known = [name for name in strings if name.lower() in TEXT_NAMES]
    plain = [name for name in known if name.lower() == "text"]
    free = [name for name in strings if _is_free_text(table, name)]
    # Another column is not taken in place of one that is called "text" but holds no strings.
    expected = ("text",) if strings else TEXT_NAMES
    for name in table.column_names:
        if name.lower() in expected and kind_of(table, name) != "text":
            raise not_text(table, name)
    by_name = [(plain, "by name"), (known, "by name")]
    by_content = [(strings, "the only strings"), (free, "by its texts")]
    for candidates, how in by_name if known else by_content:
        if len(candidates) == 1:
            notes.append(f"text '{candidates[0]}': {how}")
            return candidates[0]
    raise _unclear(table, "text", known or free or strings, TEXT_OPTION)


def _is_free_text(table: Dataset, name: str) -> bool:
    """Mostly different values of several words and at least 20 characters, judged on the first rows."""
    first = table.with_format(None).select(range(min(SAMPLED_ROWS, len(table))))
    values = [str(value or "") for value in first[name]]
    wordy = sum(" " in value.strip() for value in values)
    length = sum(map(len, values)) / len(values)
    return length >= 20 and 2 * wordy >= len(values) and 2 * len(set(values)) >= len(values)
