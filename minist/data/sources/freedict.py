"""Words and short sentences in two languages, from FreeDict's dictionaries (https://freedict.org), English with German,
French and Spanish: {"english": "quince", "translation": "coing"}. Each language has two dictionaries, one in each
direction, as programs of the dict protocol (RFC 2229) read them:
    freedict-fra-eng.index    coing<TAB>BBnX<TAB>h      where the article is: its first byte and its length
    freedict-fra-eng.dict.dz  coing /kwɛ̃/ <n, masc>\\nquince\\n      gzip, all articles one after the other"""

import gzip
import re
import string
from collections.abc import Iterator
from pathlib import Path

from minist.data.sources.packages import package_files
from minist.data.sources.split import hold_out, write_split

LANGUAGES = ("deu", "fra", "spa")
DIGITS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
REMARKS = re.compile(r"<[^>]*>|\[[^]]*\]|\([^)]*\)|^\s*\d+\. ")  # grammar, field of knowledge, number of the meaning
SENTENCES = re.compile(r'^ +"(.+)" +- (.+)$', re.MULTILINE)  # an example, and what it means


def make(folder: Path, given: Path | None) -> None:
    """Of the dictionaries in `given`, else of the packages dict-freedict-*. One folder for each language."""
    packages = [f"dict-freedict-{name}" for language in LANGUAGES for name in (f"{language}-eng", f"eng-{language}")]
    with package_files(given, "usr/share/dictd", *packages) as files:
        for language in LANGUAGES:
            foreign = [{"english": b, "translation": a} for a, b in pairs(files / f"freedict-{language}-eng")]
            english = [{"english": a, "translation": b} for a, b in pairs(files / f"freedict-eng-{language}")]
            write_split(folder / language, *hold_out(foreign + english))


def pairs(path: Path) -> Iterator[tuple[str, str]]:
    """Of each article the headword and its first translation, then its example sentences with theirs."""
    text = gzip.decompress(Path(f"{path}.dict.dz").read_bytes())
    for line in Path(f"{path}.index").read_text("utf-8").splitlines():
        word, start, length = line.split("\t")
        if word.startswith("00database"):  # about the dictionary
            continue
        article = text[number(start) : number(start) + number(length)].decode()
        head, _, rest = article.partition("\n")
        pair = plain(head.partition(" /")[0]), plain(rest.partition("\n")[0]).partition(",")[0].strip()
        if all(pair):
            yield pair
        yield from SENTENCES.findall(article)


def number(digits: str) -> int:
    """Written in base 64."""
    return sum(DIGITS.index(digit) * 64**place for place, digit in enumerate(reversed(digits)))


def plain(text: str) -> str:
    return " ".join(REMARKS.sub("", text).split())
