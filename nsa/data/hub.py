"""The files of a dataset's subset on the hub, at one commit.

Two requests: the dataset's card names the subset's files, the tree lists them. Reading then names the commit
in each address, so that a push to the dataset in the middle of a run changes nothing. `load_dataset(name)` is
not used to find them: without a network it silently takes whatever of that name an old cache holds.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from typing import TYPE_CHECKING, Any

from nsa.data import files, hubclient, sources
from nsa.errors import ConfigError, DataSourceError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nsa.config import DataConfig
    from nsa.data.meter import Meter
    from nsa.data.sources import Source

_RETRIES = 2
_WILD = frozenset("*?")


def resolve(data: DataConfig, *, meter: Meter, revision: str | None = None) -> Source:
    """The train files of `data.subset`, at `revision` or at the newest commit."""
    label = sources.label(data)
    hubclient.guard(meter)
    # Nothing has been lost yet: without a network, say so soon.
    attempts = sources.Attempts(min(data.retries, _RETRIES), meter)
    while True:
        with attempts.next(f"data source {label} is out of reach", sources.OFFLINE):
            return _resolve(data, label, meter, revision)


def _resolve(data: DataConfig, label: str, meter: Meter, revision: str | None) -> Source:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi()
    info = api.dataset_info(data.dataset, revision=revision)
    commit = info.sha
    if commit is None:
        raise DataSourceError(f"data source {label}: the hub named no commit. {sources.OFFLINE}")
    meter.moved()
    patterns = train_patterns(info.card_data, data.subset)
    found: dict[str, RepoFile] = {}
    for pattern in patterns:
        folder = _fixed_folder(pattern)
        for entry in api.list_repo_tree(
            data.dataset, folder or None, recursive=True, revision=commit, repo_type="dataset"
        ):
            if isinstance(entry, RepoFile) and _matches(entry.path, pattern):
                found[entry.path] = entry
        meter.moved()
    shards = []
    digest = hashlib.blake2b(f"{data.dataset}\0".encode(), digest_size=16)
    for path in sorted(found):
        suffix = posixpath.splitext(path)[1]
        if suffix not in files.FORMATS:
            continue
        entry = found[path]
        digest.update(f"{path}\0{entry.size}\0{entry.blob_id}\0".encode())
        url = f"hf://datasets/{data.dataset}@{commit}/{path}"
        shards.append(sources.Shard(name=path, url=url, format=files.FORMATS[suffix]))
    if not shards:
        raise ConfigError(
            f"data.subset: {data.subset!r} of {data.dataset} has no parquet or jsonl files (patterns: "
            f"{', '.join(patterns)}). Name another subset"
        )
    return sources.Source(
        label=label,
        identity=digest.hexdigest(),
        revision=commit,
        shards=tuple(shards),
        text_column=data.text_column,
        remedy=sources.OFFLINE,
        retries=data.retries,
    )


def train_patterns(card: Any, subset: str) -> list[str]:
    """A card's patterns for the train files of a subset; ConfigError if it has none of that name."""
    configs = (card or {}).get("configs") or []
    names = []
    for config in configs:
        names.append(str(config.get("config_name")))
        if config.get("config_name") == subset:
            return list(_patterns(config.get("data_files"), config.get("data_dir")))
    if not configs and subset == "default":
        return ["**"]
    known = (
        f"it has {', '.join(names[:8])}{' …' if len(names) > 8 else ''}" if names else "its card lists none"
    )
    raise ConfigError(f"data.subset: {subset!r} is no subset of the dataset: {known}. Name one of them")


def _patterns(entry: Any, folder: str | None) -> Iterable[str]:
    if entry is None:
        yield posixpath.join(folder or "", "**")
    elif isinstance(entry, str):
        yield entry
    elif isinstance(entry, dict):
        yield from _patterns(entry.get("path"), folder)
    else:
        for item in entry:
            if isinstance(item, str) or item.get("split", "train") == "train":
                yield from _patterns(item, folder)


def _fixed_folder(pattern: str) -> str:
    """The folder above the first wildcard."""
    parts = []
    for part in pattern.split("/")[:-1]:
        if _WILD.intersection(part):
            break
        parts.append(part)
    return "/".join(parts)


def _matches(path: str, pattern: str) -> bool:
    """As the hub's cards mean it: `*` stays in a folder, `**` does not."""
    translated = "".join(
        {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part))
        for part in re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    )
    return re.fullmatch(translated, path) is not None
