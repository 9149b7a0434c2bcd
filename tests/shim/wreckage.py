"""What a crash of the operating system may leave of a store that was recorded while it was written.

For every moment of the run two things are checked. *All subsets*: no write that is not known to be flushed
changes a page that a checkpoint, which may be found after a crash, can reach; so whichever of them reach the
disk, whole or torn, its pages are intact. *Images*: some of those subsets are built and opened for real, must be
exactly what the checkpoint says, and the log must lead from there to what it led to before.
"""

import random
import shutil
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from tests.shim import pages
from tests.shim.pages import PAGE
from tests.shim.powercut import Always, Change, Directory, File, write
from zrep.options import Options
from zrep.records import Record, Tip
from zrep.storage import checkpoint
from zrep.storage.store import Store

ALL_SUBSETS = 10
"""Up to so many unflushed writes every subset is built, if that many images are wanted."""
SAMPLES = 256
"""Whoever wants so many images of a moment wants every subset."""


class Ruined(AssertionError):
    """A crash may leave a store that is not what its checkpoint says."""


class Entry(NamedTuple):
    op: str
    at: int
    name: str
    data: bytes


class Claim(NamedTuple):
    """A checkpoint that a crash may leave, and the pages it needs."""

    lsn: int
    pages: dict[int, bytes]


class Never(random.Random):
    """Chance that lets nothing happen."""

    def random(self) -> float:
        return 1.0


class Wreckage:
    """Replays a trace on a model of the disk, and looks at what a crash may leave as it goes."""

    def __init__(self, path: Path, log: Sequence[Record], options: Options, rng: random.Random, *, argue: bool) -> None:
        """`argue=False`: only images are looked at."""
        self.path, self.log, self.options, self.rng, self.argue = path, log, options, rng, argue
        self.counts = {"moments": 0, "images": 0, "checkpoints": 0, "went back": 0}
        self.files = Directory()
        self.data = bytearray((path / "before" / "data.mdb").read_bytes())
        """The data file as the system shows it: with all writes."""
        self.unflushed: list[Entry] = []
        """The writes to it that a crash may leave, lose or tear."""
        for name in ("data.mdb", "checkpoint"):
            file = File()
            file.flushed = bytearray((path / "before" / name).read_bytes())
            self.files.flushed[name] = file
        self.pinned: dict[int, Claim] = {}
        self.claims: list[Claim] = []
        first = checkpoint.load(path / "before" / "checkpoint")
        assert first is not None
        self._note_pin(first.tip.lsn, first.page)
        self._claim(bytes(self._file("checkpoint").flushed))
        self.digests: dict[int, str] = {}
        self.end = 0

    def report(self) -> dict[str, Any]:
        return dict(self.counts)

    def examine(self, points: int, images: int) -> None:
        """Check every moment for all subsets, and at about `points` of them `images` real ones, or all if few."""
        entries = list(read_trace(self.path / "trace"))
        self.digests = {int(words[1]): words[2] for entry in entries if (words := _marked(entry, "applied"))}
        chance = points / max(sum(entry.op != "M" for entry in entries), 1)
        for entry in entries:
            self._perform(entry)
            if entry.op != "M":
                self.counts["moments"] += 1
                if self.rng.random() < chance:
                    self._open_images(images)

    def _file(self, name: str) -> File:
        file = self.files.names[name]
        assert isinstance(file, File)
        return file

    # The trace, on the model.

    def _perform(self, entry: Entry) -> None:
        name = entry.name.removeprefix("data/")
        if entry.op == "M":
            if words := _marked(entry, "applied"):
                self.end = int(words[1])
            elif words := _marked(entry, "pin"):
                self._note_pin(int(words[1]), pages.newest_meta(self.data))
        elif name in ("", "data"):
            self.files.flush()
            self.claims = self.claims[-1:]
        elif name.startswith("lock.mdb"):
            return
        elif entry.op == "W":
            if name not in self.files.names:
                self.files.since.append({name: File()})
            self._file(name).since.append(write(entry.data, entry.at))
            if name == "data.mdb":
                self._written(entry)
        elif entry.op == "F":
            self._file(name).flush()
            if name == "data.mdb":
                self.unflushed = []
        elif entry.op == "R":
            moved = self._file(name)
            self.files.since.append({name: None, entry.data.decode(): moved})
            self._claim(moved.image(Always()))
        else:
            raise NotImplementedError(entry)

    def _note_pin(self, lsn: int, meta: bytes) -> None:
        """Remember what the snapshot of this meta page reaches, as it is now."""
        numbers = pages.reachable(self.data, meta)
        contents = {number: bytes(self.data[number * PAGE : (number + 1) * PAGE]) for number in numbers}
        self.pinned[pages.txnid(meta)] = Claim(lsn, contents)

    def _claim(self, saved: bytes) -> None:
        """A checkpoint has its name: a crash may leave it from now on, so its pages must be on the disk."""
        self.counts["checkpoints"] += 1
        place = self.path / "saved"
        place.write_bytes(saved)
        snapshot = checkpoint.load(place)
        assert snapshot is not None
        if not self.argue:
            self.claims.append(Claim(snapshot.tip.lsn, {}))
            return
        claim = self.pinned.get(pages.txnid(snapshot.page))
        if claim is None or claim.lsn != snapshot.tip.lsn:
            raise Ruined(f"the checkpoint of LSN {snapshot.tip.lsn} has the meta page of another snapshot")
        if snapshot.clean:  # the file is used as it is, meta pages and all
            metas = {slot: bytes(self.data[slot * PAGE : (slot + 1) * PAGE]) for slot in (0, 1)}
            claim = Claim(claim.lsn, {**claim.pages, **metas})
        flushed = self._file("data.mdb").flushed
        for number, content in claim.pages.items():
            if flushed[number * PAGE : (number + 1) * PAGE] != content:
                raise Ruined(f"page {number} of the checkpoint of LSN {claim.lsn} is not flushed when it is saved")
        for entry in self.unflushed:
            _spares(entry, claim)
        self.claims.append(claim)

    def _written(self, entry: Entry) -> None:
        stop = entry.at + len(entry.data)
        self.data.extend(bytes(max(stop - len(self.data), 0)))
        self.data[entry.at : stop] = entry.data
        self.unflushed.append(entry)
        for claim in self.claims:
            _spares(entry, claim)

    # Images.

    def _open_images(self, images: int) -> None:
        for image in self._subsets(images):
            shutil.rmtree(self.path / "image", ignore_errors=True)
            (self.path / "image" / "data").mkdir(parents=True)
            (self.path / "image" / "data" / "data.mdb").write_bytes(image)
            (self.path / "image" / "data" / "lock.mdb").write_bytes(self.rng.randbytes(8192))
            names = self.files.after(self.rng.randint(0, len(self.files.since)))
            for name, file in names.items():
                if name != "data.mdb":
                    assert isinstance(file, File)
                    (self.path / "image" / name).write_bytes(file.image(self.rng))
            self.counts["images"] += 1
            self._open(self.path / "image" / "data")

    def _subsets(self, images: int) -> Iterator[bytes]:
        """Yield the data file with subsets of its unflushed writes: every one, or some, and some torn."""
        file = self._file("data.mdb")
        if len(file.since) <= ALL_SUBSETS and (1 << len(file.since) <= images or images >= SAMPLES):
            yield from (_image(file, kept) for kept in product((False, True), repeat=len(file.since)))
        else:
            for _ in range(images):
                yield _image(file, [self.rng.random() < 0.5 for _ in file.since])
        yield from (file.image(self.rng) for _ in range(-(-images // 4)))

    def _open(self, path: Path) -> None:
        """Open an image: it must be a checkpoint that may be found now, exactly, and the log must go on from it."""
        store = Store(path, self.options)
        lsn = store.applied.tip.lsn
        if lsn not in {claim.lsn for claim in self.claims}:
            raise Ruined(f"the store stands at LSN {lsn}, its checkpoints are of {[c.lsn for c in self.claims]}")
        self._compare(store, lsn)
        self.counts["went back"] += lsn < self.end
        store.apply(self.log[lsn : self.end])
        self._compare(store, self.end)
        store.close()

    def _compare(self, store: Store, lsn: int) -> None:
        last = self.log[lsn - 1] if lsn else None
        if store.applied.tip != (Tip(last.gen, lsn, last.chain) if last else Tip()):
            raise Ruined(f"the store stands at {store.applied.tip} and not at LSN {lsn}")
        if store.digest() != self.digests[lsn]:
            raise Ruined(f"the store is not what it was at LSN {lsn}")


def _spares(entry: Entry, claim: Claim) -> None:
    """Check that a write, whole or torn, changes nothing that the checkpoint needs."""
    stop = entry.at + len(entry.data)
    for number in range(entry.at // PAGE, -(-stop // PAGE)):
        content = claim.pages.get(number)
        if content is not None:
            first, last = max(entry.at, number * PAGE), min(stop, (number + 1) * PAGE)
            if entry.data[first - entry.at : last - entry.at] != content[first - number * PAGE : last - number * PAGE]:
                raise Ruined(f"page {number} of the checkpoint of LSN {claim.lsn} is written over")


def _image(file: File, kept: Sequence[bool]) -> bytes:
    data = bytearray(file.flushed)
    changes: Iterator[tuple[Change, bool]] = zip(file.since, kept, strict=True)
    for change, happens in changes:
        change(data, Always() if happens else Never())
    return bytes(data)


def _marked(entry: Entry, word: str) -> list[str]:
    words = entry.data.decode().split() if entry.op == "M" else []
    return words if words[:1] == [word] else []


def read_trace(path: Path) -> Iterator[Entry]:
    with path.open("rb") as file:
        while line := file.readline():
            op, at, size, name = line[:-1].split(b" ", 3)
            yield Entry(op.decode(), int(at), name.decode(), file.read(int(size)))
