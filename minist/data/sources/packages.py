"""What each of Debian's packages is for, in one line and at length: {"title": "Real-time strategy game of ancient ..",
"body": "0 A.D. is .."}. Both are of one hand, tell the same in other words, and thousands of people wrote them."""

from collections.abc import Iterator
from pathlib import Path

from minist.data.sources.debian import package_lists
from minist.data.sources.split import Row, without_repeats, write_split
from minist.data.texts import words

MIN_TITLE_WORDS, MIN_BODY_WORDS = 3, 12
MAX_BODY_WORDS = 150


def make(folder: Path, given: Path | None) -> None:
    """Of the *_Translation-en below `given`, else of fetched ones."""
    if given:
        return write(folder, given)
    with package_lists() as lists:
        write(folder, lists)


def write(folder: Path, lists: Path) -> None:
    files = sorted(lists.rglob("*Translation-en"))
    if not files:
        raise ValueError(f"{lists} has no file that ends in Translation-en: is there no mirror, or no network?")
    write_split(folder, without_repeats(row for file in files for row in descriptions(file.read_text("utf-8"))))


def descriptions(text: str) -> Iterator[Row]:
    """Records with an empty line between them. "Description-en: " has the title; the lines below it are the body, each
    after a space, and " ." alone is an empty one:

    Package: 0ad
    Description-en: Real-time strategy game of ancient warfare
     0 A.D. (pronounced "zero ey-dee") is a free, open-source ..
    """
    for record in text.split("\n\n"):
        title, _, body = record.partition("Description-en: ")[2].partition("\n")
        lines = ["" if line == " ." else line for line in body.split("\n")]
        body = " ".join(" ".join(lines).split()[:MAX_BODY_WORDS])
        if len(words(title)) >= MIN_TITLE_WORDS and len(words(body)) >= MIN_BODY_WORDS:
            yield {"title": title.strip(), "body": body}
