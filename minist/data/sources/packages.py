"""What each of Debian's packages is for, in one line and at length: {"title": "Real-time strategy game of ancient ..",
"body": "0 A.D. is .."}. Both are of one hand, tell the same in other words, and thousands of people wrote them.
And how packages are fetched, since other collections are the files of some."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minist.data.sources.split import Row, hold_out, write_split
from minist.data.texts import words

MIN_TITLE_WORDS, MIN_BODY_WORDS, MAX_BODY_WORDS = 3, 12, 150
ADVICE = "use Debian or Ubuntu with a network, or a folder with the files: python -m minist.data.sources NAME FOLDER"
FETCH = """  # without root: but for the list of mirrors apt-get reads and writes here alone; all mirrors must answer
apt() {
    apt-get -oDir::State::Lists="$PWD" -oDir::Cache="$PWD" -oAPT::Sandbox::User=root \
        -oAcquire::Languages=en -oAcquire::GzipIndexes=false -oAcquire::Retries=0 -oAPT::Update::Error-Mode=any "$@"
}
apt update
for package; do apt download "$package"; dpkg-deb -x "$package"_*.deb .; done
"""


def make(folder: Path, given: Path | None) -> None:
    """Of the *_Translation-en below `given`, else of fetched ones."""
    with package_files(given, "") as lists:
        texts = [file.read_text("utf-8") for file in sorted(lists.rglob("*Translation-en"))]
    write_split(folder, *hold_out(row for text in texts for row in descriptions(text)))


def descriptions(text: str) -> Iterator[Row]:
    """Records with an empty line between them. "Description-en: " has the title; the lines below it are the body, each
    after a space, and " ." alone is an empty one."""
    for record in text.split("\n\n"):
        title, _, body = record.partition("Description-en: ")[2].partition("\n")
        lines = ["" if line == " ." else line for line in body.split("\n")]
        body = " ".join(" ".join(lines).split()[:MAX_BODY_WORDS])
        if len(words(title)) >= MIN_TITLE_WORDS and len(words(body)) >= MIN_BODY_WORDS:
            yield {"title": title.strip(), "body": body}


@contextmanager
def package_files(given: Path | None, inside: str, *packages: str) -> Iterator[Path]:
    """Yields `given`, else a temporary folder: `inside` what `packages` unpack to, beside the descriptions of all there
    are (*_Translation-en). ValueError where they cannot be fetched."""
    if given:
        yield given
        return
    print("fetching Debian's packages", flush=True)
    with tempfile.TemporaryDirectory(prefix="minist_") as folder:
        fetch = subprocess.run(["sh", "-ec", FETCH, "sh", *packages], cwd=folder, capture_output=True, text=True)
        if fetch.returncode:
            raise ValueError(f"{(fetch.stderr.strip().splitlines() or ['fetching fails'])[-1]}: {ADVICE}")
        yield Path(folder) / inside
