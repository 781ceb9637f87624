"""`local-docs`: real English text that every machine with the trainer already has.

Python's documentation topics, and the docstrings of the standard library and of the installed torch and
transformers, read from source files with `ast` (nothing is imported), gathered once into parquet with
FineWeb-Edu's columns in the user's cache. Deterministic: the same files give the same bytes. Documents come
in the order of a hash, so that a stream that shuffles shards only still mixes them.

Not here: the split into train and held-out, which is the same for every source (nsa.data.stream).
"""

from __future__ import annotations

import ast
import gc
import hashlib
import importlib.metadata
import importlib.util
import inspect
import platform
import re
import sysconfig
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nsa import cache
from nsa.errors import DataSourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# Raise when the same versions would give other text: it names the cache's folder.
FORMAT = 1
SHARDS = 8
PACKAGES = ("torch", "transformers")
# Shorter texts are labels ("See base class."), not prose.
MINIMUM_DOCSTRING_CHARACTERS = 60
MINIMUM_DOCUMENT_CHARACTERS = 200
# A file's docstrings make documents of up to about this size.
DOCUMENT_CHARACTERS = 6000
# Files with less text than this share of their bytes are not worth parsing.
MINIMUM_TEXT_SHARE = 0.2
_TRIPLE_QUOTED = re.compile(rb'("""|\'\'\')(.*?)\1', re.DOTALL)
_GENERATED = b"automatically generated from"
_SKIPPED_FOLDERS = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})
_WORDS = re.compile(r"[A-Za-z]+")
# Among the commonest words of English; prose has them, tables, code and other languages do not.
_COMMON = frozenset(
    [
        "the",
        "a",
        "an",
        "of",
        "to",
        "in",
        "is",
        "for",
        "and",
        "or",
        "if",
        "that",
        "this",
        "be",
        "with",
        "as",
        "by",
        "it",
        "on",
        "are",
        "from",
        "not",
        "can",
    ]
)
_EXAMPLE = re.compile(r"^\s*(>>>|\.\.\. )")


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One document, and where it came from."""

    origin: str  # python-topics, python, torch, transformers
    path: str  # below the origin, with a running number
    text: str


def versions() -> dict[str, str]:
    """What the text is made of; the cache's key."""
    installed = {d.name.lower(): d.version for d in importlib.metadata.distributions() if d.name in PACKAGES}
    return {"python": platform.python_version(), **{name: installed.get(name, "none") for name in PACKAGES}}


def gathered(cache_dir: str | None = None, progress: Callable[[str], None] | None = None) -> Path:
    """The folder with the parquet files, gathered first if this is the first use (seconds)."""
    made_of = versions()
    name = "-".join([f"v{FORMAT}", *(f"{package}{version}" for package, version in made_of.items())])
    place = cache.cache_root(cache_dir) / "local-docs" / re.sub(r"[^A-Za-z0-9.+-]", "_", name)

    def waiting() -> None:
        if progress is not None:
            progress("waiting for another process that gathers local-docs")

    def build(folder: Path) -> None:
        documents = select(collect(progress))
        if not documents:
            raise DataSourceError(
                "local-docs found no text: Python's documentation topics and source files are missing here. "
                "Set data.source to files and name some in data.paths"
            )
        write(documents, folder)

    return cache.publish(place, build, waiting=waiting)


def collect(progress: Callable[[str], None] | None = None) -> Iterator[Document]:
    """All documents, in the order of the files' names, each docstring once, not selected yet."""
    yield from _topics()
    seen: set[str] = set()
    for origin, root in _roots():
        files = sorted(_files(root))
        for number, path in enumerate(files):
            if progress is not None and number % 50 == 0:
                progress(f"gathering local-docs: {origin} {number}/{len(files)} files")
            relative = path.relative_to(root).as_posix()
            try:
                source = path.read_bytes()
            except OSError:
                continue
            for index, text in enumerate(_documents(docstrings(source), seen)):
                yield Document(origin=origin, path=f"{relative}#{index}", text=text)


def select(documents: Iterable[Document]) -> list[Document]:
    """English, long enough, each text once; in the order of a hash of the text."""
    chosen: dict[str, Document] = {}
    for document in documents:
        if len(document.text) >= MINIMUM_DOCUMENT_CHARACTERS and englishness(document.text) > 0:
            chosen.setdefault(_digest(document.text), document)
    return [chosen[digest] for digest in sorted(chosen)]


def docstrings(source: bytes) -> Iterator[str]:
    """The docstrings of a module, its classes and functions, in their order; nothing for a broken file."""
    if source.count(b'"""') + source.count(b"'''") < 2 or _GENERATED in source[:2000]:
        return
    share = sum(len(found.group(2)) for found in _TRIPLE_QUOTED.finditer(source)) / len(source)
    if share < MINIMUM_TEXT_SHARE:
        return
    # ast makes hundreds of thousands of objects without cycles: the collector would walk them all, often.
    collecting = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's files
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    finally:
        if collecting:
            gc.enable()
    yield from _walk(tree.body)


def _walk(body: list[ast.stmt]) -> Iterator[str]:
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        value = body[0].value.value
        if isinstance(value, str):
            yield inspect.cleandoc(value)
    for statement in body:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _walk(statement.body)


def englishness(text: str) -> float:
    """Share of common words among the words of prose lines; 0 where the text is not English prose."""
    prose = "\n".join(line for line in text.splitlines() if not _EXAMPLE.match(line))
    words = _WORDS.findall(prose)
    if len(words) < 20 or sum(map(len, words)) < 0.5 * len(text):
        return 0.0
    share = sum(word.lower() in _COMMON for word in words) / len(words)
    return share if share >= 0.12 else 0.0


def _documents(texts: Iterable[str], seen: set[str]) -> Iterator[str]:
    """Neighbouring docstrings of one file together, up to DOCUMENT_CHARACTERS: they are about one thing."""
    held: list[str] = []
    size = 0
    for text in texts:
        clean = "\n".join(line.rstrip() for line in text.strip().splitlines())
        if len(clean) < MINIMUM_DOCSTRING_CHARACTERS or clean in seen:
            continue
        seen.add(clean)
        if held and size + len(clean) > DOCUMENT_CHARACTERS:
            yield "\n\n".join(held)
            held, size = [], 0
        held.append(clean)
        size += len(clean)
    if held:
        yield "\n\n".join(held)


def _topics() -> Iterator[Document]:
    try:
        from pydoc_data import topics
    except ImportError:
        return
    for name in sorted(topics.topics):
        text = "\n".join(line.rstrip() for line in topics.topics[name].strip().splitlines())
        yield Document(origin="python-topics", path=name, text=text)


def _roots() -> Iterator[tuple[str, Path]]:
    yield "python", Path(sysconfig.get_path("stdlib"))
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.submodule_search_locations:
            yield package, Path(next(iter(spec.submodule_search_locations)))


def _files(root: Path) -> Iterator[Path]:
    for path in root.rglob("*.py"):
        if not _SKIPPED_FOLDERS.intersection(path.relative_to(root).parts):
            yield path


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def write(documents: list[Document], folder: Path) -> None:
    """`documents` as SHARDS parquet files with FineWeb-Edu's columns and types."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("text", pa.string()),
            ("id", pa.string()),
            ("dump", pa.string()),
            ("url", pa.string()),
            ("file_path", pa.string()),
            ("language", pa.string()),
            ("language_score", pa.float64()),
            ("token_count", pa.int64()),
            ("score", pa.float64()),
            ("int_score", pa.int64()),
        ]
    )
    made_of = versions()
    dump = f"local-docs-{FORMAT}"
    for shard in range(SHARDS):
        rows = []
        for document in documents[shard * len(documents) // SHARDS : (shard + 1) * len(documents) // SHARDS]:
            text = document.text.encode("utf-8", "replace").decode()
            version = made_of.get(document.origin, made_of["python"])
            rows.append(
                {
                    "text": text,
                    "id": f"<urn:nsa:{dump}:{_digest(text)}>",
                    "dump": dump,
                    "url": f"file:{document.origin}-{version}/{document.path}",
                    "file_path": document.path,
                    "language": "en",
                    "language_score": round(englishness(text), 4),
                    # FineWeb-Edu counts GPT-2's tokens; without that tokenizer, words come nearest.
                    "token_count": len(text.split()),
                    # Its classifier's score: nothing here was classified.
                    "score": None,
                    "int_score": None,
                }
            )
        # Nothing of the moment in the file: the same rows give the same bytes.
        pq.write_table(
            pa.Table.from_pylist(rows, schema=schema),
            folder / f"docs-{shard:05d}-of-{SHARDS:05d}.parquet",
            row_group_size=500,
            compression="zstd",
        )
