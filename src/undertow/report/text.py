"""How values are written in a report: numbers, shares, times, and text that users brought."""

import math
import re
from datetime import datetime, timedelta

import pandas as pd

MISSING = "–"
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# Control characters and lone surrogates are not allowed in XML, and the latter cannot be written as UTF-8.
_NOT_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def clean(text: str) -> str:
    """The text with every character that no page may hold replaced by U+FFFD."""
    return _NOT_TEXT.sub("\ufffd", text)


def clip(text: str, limit: int) -> str:
    """The text, cut at a word where it is longer than ``limit`` characters, on one line."""
    text = text.strip()
    line = " ".join(text[: 4 * limit].split())
    if len(line) <= limit and len(text) <= 4 * limit:
        return line
    head = line[: limit - 1]
    word_end = head.rfind(" ")
    return f"{head[:word_end] if word_end > limit // 2 else head}…"


def missing(value: object) -> bool:
    """Whether a value from a table is absent: None, NaN, or pandas' NA."""
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def label(value: object, limit: int = 60) -> str:
    """A label or another short value; a dash where there is none."""
    return MISSING if missing(value) else clip(str(value), limit)


def count(value: int) -> str:
    """A whole number with thousands separated."""
    return f"{value:,}"


def number(value: float) -> str:
    """Three significant digits, or a dash where the value is not finite."""
    if not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if not -4 <= exponent <= 5:
        mantissa, power = f"{value:.2e}".split("e")
        return f"{mantissa}e{int(power)}".replace("-", "−")
    return f"{value:,.{max(0, 2 - exponent)}f}".replace("-", "−")


def fixed(value: float, digits: int = 3) -> str:
    """A number with this many digits after the point, for columns that are compared."""
    return f"{value:,.{digits}f}".replace("-", "−") if math.isfinite(value) else MISSING


def percent(share: float, digits: int = 1) -> str:
    """A share from 0 to 1 as a percentage; one that would round to nothing is said to be below a bound."""
    if 0 < share < 0.005 / 10**digits:
        return f"<{10**-digits:g}%"
    return f"{fixed(100 * share, digits)}%" if math.isfinite(share) else MISSING


def points(difference: float) -> str:
    """A difference of two shares in percentage points, with its sign."""
    if not math.isfinite(difference):
        return MISSING
    # The last bits of a subtraction would round a half up, where the same difference read from a file goes down.
    text = fixed(abs(round(100 * difference, 9)), 1)
    return text if float(text) == 0 else f"{'+' if difference > 0 else '−'}{text}"


def duration(seconds: float) -> str:
    """Seconds as a person would say them."""
    if not math.isfinite(seconds):
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def memory(megabytes: float) -> str:
    """Megabytes, or gigabytes from 1,000 MB on."""
    if not math.isfinite(megabytes):
        return MISSING
    return f"{megabytes / 1000:.2f} GB" if megabytes >= 1000 else f"{megabytes:.0f} MB"


def date(iso: str) -> str:
    """An ISO date and time for people; unchanged where it is not one."""
    try:
        moment = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    offset = moment.utcoffset()
    zone = "" if offset is None else " UTC" if offset == timedelta(0) else f" UTC{moment:%z}"
    return f"{moment.day} {MONTHS[moment.month - 1]} {moment.year}, {moment:%H:%M}{zone}"
