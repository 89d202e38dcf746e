"""What a disk may hold after the power was cut at any moment of a recorded run.

A file's content is safe once the file was synced, a name once its folder was. Everything else may have reached the disk
or not, in any order: names without contents, contents without names, halves of contents.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tests.faults.recorded_disk import TRACE


@dataclass(eq=False)
class File:
    """Contents by the name under which the recorder kept them; "" is an empty one."""

    content: str = ""
    safe: str = ""


@dataclass(eq=False)
class Change:
    """One entry of a folder that is new, gone, or both (a rename)."""

    removed: str | None = None
    added: tuple[str, File | Folder] | None = None


@dataclass(eq=False)
class Folder:
    """Entries now, entries that are safe, and the changes between them, oldest first."""

    entries: dict[str, File | Folder] = field(default_factory=dict)
    safe: dict[str, File | Folder] = field(default_factory=dict)
    waiting: list[Change] = field(default_factory=list)

    def change(self, removed: str | None = None, added: tuple[str, File | Folder] | None = None) -> None:
        change = Change(removed, added)
        self.waiting.append(change)
        _apply(self.entries, change)

    def sync(self) -> None:
        self.safe = dict(self.entries)
        self.waiting.clear()


Keeps = Callable[[Change], bool]
Contents = Callable[[File], str]


@dataclass(frozen=True, slots=True)
class Moment:
    """The disk after one operation of the run."""

    number: int
    operation: str
    saved: str | None  # the newest checkpoint that the run was told to be on the disk
    root: Folder


class Cut:
    """Recorded contents, and those that only a power cut can make."""

    def __init__(self, trace: Path) -> None:
        self.folder = trace

    def moments(self) -> Iterator[Moment]:
        """The folder of the run as it was after each operation; the same objects change from one to the next."""
        root, saved = Folder(), None
        for number, line in enumerate((self.folder / TRACE).read_text().splitlines()):
            told = json.loads(line)
            if told["op"] == "saved":
                saved = told["name"]
            else:
                _replay(root, told)
            yield Moment(number, f"{told['op']} {told['path']}", saved, root)

    def images(self, moment: Moment, dice: random.Random) -> Iterator[tuple[str, dict[str, str | None]]]:
        """What may be on the disk then: content by path, None for a folder; each with a word for it."""
        root = moment.root
        waiting = [change for folder in _folders(root) for change in folder.waiting]
        yield "everything", _image(root, lambda change: True, lambda file: file.content)
        yield "nothing unsynced", _image(root, lambda change: False, lambda file: file.safe)
        yield "names only", _image(root, lambda change: True, lambda file: file.safe)
        yield "contents only", _image(root, lambda change: False, lambda file: file.content)
        yield "halves", _image(root, lambda change: True, self._half)
        yield "zeros", _image(root, lambda change: True, self._zeros)
        for chosen in waiting:
            yield "all but one name", _image(root, lambda change, c=chosen: change is not c, lambda file: file.content)
            yield "one name", _image(root, lambda change, c=chosen: change is c, lambda file: file.safe)
        for _ in range(3):
            kept = {id(change) for change in waiting if dice.random() < 0.5}
            yield "some", _image(root, lambda change, kept=kept: id(change) in kept, self._any(dice))

    def write(self, image: dict[str, str | None], target: Path) -> None:
        """Lay an image out; contents are links to the recorded ones, so nobody may write into them."""
        target.mkdir(parents=True)
        for path in sorted(image):
            content = image[path]
            if content is None:
                (target / path).mkdir(exist_ok=True)
            elif content:
                os.link(self.folder / content, target / path)
            else:
                (target / path).touch()

    def _half(self, file: File) -> str:
        return self._made(file, lambda unsafe: unsafe[: len(unsafe) // 2])

    def _zeros(self, file: File) -> str:
        return self._made(file, lambda unsafe: bytes(len(unsafe)))

    def _any(self, dice: random.Random) -> Contents:
        ways: list[Contents] = [lambda file: file.content, lambda file: file.safe, self._half, self._zeros]
        return lambda file: dice.choice(ways)(file)

    def _made(self, file: File, change: Callable[[bytes], bytes]) -> str:
        """The file with its unsafe part changed: what was appended to the safe one, else all of it."""
        if file.content == file.safe:
            return file.content
        whole, safe = self._bytes(file.content), self._bytes(file.safe)
        kept = len(safe) if whole.startswith(safe) else 0
        content = whole[:kept] + change(whole[kept:])
        if not content:
            return ""
        name = hashlib.sha256(content).hexdigest()
        path = self.folder / name
        if not path.exists():
            path.write_bytes(content)
        return name

    def _bytes(self, name: str) -> bytes:
        return (self.folder / name).read_bytes() if name else b""


def _replay(root: Folder, told: dict[str, str]) -> None:
    parts = PurePosixPath(told["path"]).parts
    if not parts:
        if told["op"] == "sync folder":
            root.sync()
        return
    folder = _folder(root, parts[:-1])
    name = parts[-1]
    node = folder.entries.get(name)
    match told["op"]:
        case "mkdir":
            folder.change(added=(name, Folder()))
        case "create":
            folder.change(added=(name, File()))
        case "remove":
            folder.change(removed=name)
        case "rename":
            target = PurePosixPath(told["to"])
            assert node is not None and target.parts[:-1] == parts[:-1], told
            folder.change(removed=name, added=(target.name, node))
        case "write":
            assert isinstance(node, File), told
            node.content = told["content"]
        case "sync file":
            assert isinstance(node, File), told
            node.safe = node.content
        case "sync folder":
            assert isinstance(node, Folder), told
            node.sync()
        case other:
            raise AssertionError(f"unknown operation {other!r}")


def _folder(root: Folder, parts: tuple[str, ...]) -> Folder:
    for part in parts:
        inner = root.entries[part]
        assert isinstance(inner, Folder)
        root = inner
    return root


def _folders(root: Folder) -> Iterator[Folder]:
    """Those that exist or are safe, each once."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        if id(folder) in seen:
            continue
        seen.add(id(folder))
        yield folder
        nodes = [*folder.entries.values(), *folder.safe.values()]
        waiting.extend(node for node in nodes if isinstance(node, Folder))


def _apply(entries: dict[str, File | Folder], change: Change) -> None:
    if change.removed is not None:
        entries.pop(change.removed, None)
    if change.added is not None:
        entries[change.added[0]] = change.added[1]


def _image(root: Folder, keeps: Keeps, contents: Contents, prefix: str = "") -> dict[str, str | None]:
    entries = dict(root.safe)
    for change in root.waiting:
        if keeps(change):
            _apply(entries, change)
    image: dict[str, str | None] = {}
    for name, node in entries.items():
        path = f"{prefix}{name}"
        if isinstance(node, File):
            image[path] = contents(node)
        else:
            image[path] = None
            image |= _image(node, keeps, contents, f"{path}/")
    return image
