"""What a crash of the operating system may leave of a store that was recorded while it was written.

For every moment of the run two things are checked. *The argument*: no write that is not known to be flushed
changes a page that a checkpoint, which may be found after a crash, can reach; so whichever of them reach the
disk, whole or torn, its pages are intact. *Images*: such subsets of the writes are built. Each must be exactly
what the checkpoint found with it says, and the log must lead from there to what it led to before.

LMDB gets to see of an image its meta pages, as the real recovery leaves them, and what those can reach. Images
that agree in these, in the checkpoint and in how far the log goes have one future, and the first of them is
opened for real. That LMDB needs nothing else is not taken for granted: one more is opened at each moment with
noise in half of the pages that it should not need.
"""

import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.shim import pages
from tests.shim.pages import PAGE
from tests.shim.powercut import SECTOR, Always, Directory, File, write
from zrep.options import Options
from zrep.records import Record, Tip
from zrep.storage import checkpoint
from zrep.storage.store import Store

ALL_SUBSETS = 10
"""Up to so many unflushed writes every subset is built, if that many images are wanted."""
SAMPLES = 256
"""Whoever wants so many images of a moment wants every subset."""
_BLANK = bytes(PAGE)


class Ruined(AssertionError):
    """A crash may leave a store that is not what its checkpoint says."""


class Entry(NamedTuple):
    op: str
    at: int
    name: str
    data: bytes

    @property
    def pages(self) -> range:
        return range(self.at // PAGE, -(-(self.at + len(self.data)) // PAGE))

    def over(self, page: bytes, number: int) -> bytes:
        """Return what this write makes of a page."""
        at = self.at - number * PAGE
        return page[: max(at, 0)] + self.data[max(-at, 0) : PAGE - at] + page[at + len(self.data) :]

    def sectors(self) -> Iterator["Entry"]:
        at, end = self.at, self.at + len(self.data)
        for start in range(at - at % SECTOR, end, SECTOR):
            first, last = max(start, at), min(start + SECTOR, end)
            yield self._replace(at=first, data=self.data[first - at : last - at])


class Claim(NamedTuple):
    """A checkpoint that a crash may leave, and the pages it needs."""

    lsn: int
    pages: dict[int, bytes]


class Subsets:
    """A data file with any of some writes: bit n of `kept` says whether the nth reached the disk."""

    def __init__(self, disk: Sequence[bytes], writes: Sequence[Entry]) -> None:
        self.count = len(writes)
        self._disk = list(disk)
        self._changes: dict[int, list[tuple[int, Entry]]] = {}
        """Which writes change a page, by their bits."""
        for index, entry in enumerate(writes):
            for number in entry.pages:
                self._changes.setdefault(number, []).append((1 << index, entry))
        self._masks = [(number, sum(bit for bit, _ in self._changes[number])) for number in sorted(self._changes)]
        self._made: dict[tuple[int, int], bytes] = {}

    def image(self, kept: int) -> list[bytes]:
        image = self._disk.copy()
        for number, mask in self._masks:
            if mask & kept:
                if number >= len(image):
                    image += [_BLANK] * (number + 1 - len(image))
                image[number] = self._made.get((number, mask & kept)) or self._make(number, mask & kept)
        return image

    def _make(self, number: int, kept: int) -> bytes:
        page = self._disk[number] if number < len(self._disk) else _BLANK
        for bit, entry in self._changes[number]:
            if bit & kept:
                page = entry.over(page, number)
        return self._made.setdefault((number, kept), page)


class Wreckage:
    """Replays a trace on a model of the disk, and looks at what a crash may leave as it goes."""

    def __init__(self, path: Path, log: Sequence[Record], options: Options, rng: random.Random, *, argue: bool) -> None:
        """`argue=False`: only images are looked at."""
        self.path, self.log, self.options, self.rng, self.argue = path, log, options, rng, argue
        self.counts = dict.fromkeys(("moments", "checkpoints", "all", "sampled", "images", "opened", "went back"), 0)
        self.disk = pages.split((path / "before" / "data.mdb").read_bytes())
        """The data file as it was flushed."""
        self.data = list(self.disk)
        """The data file as the system shows it: with all writes."""
        self.unflushed: list[Entry] = []
        """The writes to it that a crash may leave, lose or tear."""
        self.files = Directory()
        """All others."""
        self.files.flushed["checkpoint"] = file = File()
        file.flushed = bytearray((path / "before" / "checkpoint").read_bytes())
        self.pinned: dict[int, Claim] = {}
        self.claims: list[Claim] = []
        first = checkpoint.load(path / "before" / "checkpoint")
        assert first is not None
        self._note_pin(first.tip.lsn, first.page)
        self._claim(bytes(file.flushed))
        self.digests: dict[int, str] = {}
        self.end = 0
        self._opened: set[tuple[Any, ...]] = set()
        self._recovered: dict[tuple[Any, ...], list[bytes]] = {}

    def report(self) -> dict[str, Any]:
        return {**self.counts, "distinct": len(self._opened)}

    def examine(self, points: int, images: int) -> None:
        """Check every moment by the argument, and at about `points` of them so many images, or all if few."""
        entries = list(read_trace(self.path / "trace"))
        self.digests = {int(words[1]): words[2] for entry in entries if (words := _marked(entry, "applied"))}
        chance = points / max(sum(entry.op != "M" for entry in entries), 1)
        for entry in entries:
            self._perform(entry)
            if entry.op != "M":
                self.counts["moments"] += 1
                if self.rng.random() < chance:
                    self._look(images)

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
        elif name == "data.mdb" and entry.op == "W":
            self._written(entry)
        elif name == "data.mdb" and entry.op == "F":
            self.disk, self.unflushed = self.data.copy(), []
        elif entry.op == "W":
            if name not in self.files.names:
                self.files.since.append({name: File()})
            self._file(name).since.append(write(entry.data, entry.at))
        elif entry.op == "F":
            self._file(name).flush()
        elif entry.op == "R":
            moved = self._file(name)
            self.files.since.append({name: None, entry.data.decode(): moved})
            self._claim(moved.image(Always()))
        else:
            raise NotImplementedError(entry)

    def _note_pin(self, lsn: int, meta: bytes) -> None:
        """Remember what the snapshot of this meta page reaches, as it is now."""
        contents = {number: self.data[number] for number in pages.reachable(self.data, meta)}
        self.pinned[pages.txnid(meta)] = Claim(lsn, contents)

    def _claim(self, saved: bytes) -> None:
        """A checkpoint has its name: a crash may leave it from now on, so its pages must be on the disk."""
        self.counts["checkpoints"] += 1
        if not self.argue:
            return
        place = self.path / "saved"
        place.write_bytes(saved)
        snapshot = checkpoint.load(place)
        assert snapshot is not None
        claim = self.pinned.get(pages.txnid(snapshot.page))
        if claim is None or claim.lsn != snapshot.tip.lsn:
            raise Ruined(f"the checkpoint of LSN {snapshot.tip.lsn} has the meta page of another snapshot")
        if snapshot.clean:  # the file is used as it is, meta pages and all
            claim = Claim(claim.lsn, {**claim.pages, 0: self.data[0], 1: self.data[1]})
        for number, content in claim.pages.items():
            if self.disk[number : number + 1] != [content]:
                raise Ruined(f"page {number} of the checkpoint of LSN {claim.lsn} is not flushed when it is saved")
        for entry in self.unflushed:
            _spares(entry, claim)
        self.claims.append(claim)

    def _written(self, entry: Entry) -> None:
        self.data += [_BLANK] * (entry.pages.stop - len(self.data))
        for number in entry.pages:
            self.data[number] = entry.over(self.data[number], number)
        self.unflushed.append(entry)
        for claim in self.claims:
            _spares(entry, claim)

    # Images.

    def _look(self, images: int) -> None:
        """Look at images of this moment, with each checkpoint that may be found: some of the writes, and torn ones."""
        some = Subsets(self.disk, self.unflushed)
        torn = Subsets(self.disk, [sector for entry in self.unflushed for sector in entry.sectors()])
        every = some.count <= ALL_SUBSETS and (1 << some.count <= images or images >= SAMPLES)
        self.counts["all" if every else "sampled"] += 1
        found = list(self._checkpoints())
        for saved in found:
            for kept in range(1 << some.count) if every else self._chosen(some, images):
                self._check(some.image(kept), saved)
            for kept in self._chosen(torn, -(-images // 4)):
                self._check(torn.image(kept), saved)
        (kept,) = self._chosen(some, 1)
        self._check(some.image(kept), self.rng.choice(found), noise=True)

    def _chosen(self, subsets: Subsets, count: int) -> Iterator[int]:
        return (self.rng.getrandbits(subsets.count) for _ in range(count))

    def _checkpoints(self) -> Iterator[bytes]:
        """Yield each file `checkpoint` that a crash may leave."""
        found: set[File] = set()
        for count in range(len(self.files.since) + 1):
            file = self.files.after(count)["checkpoint"]
            assert isinstance(file, File)
            if file not in found:
                found.add(file)
                yield file.image(self.rng)

    def _check(self, image: list[bytes], saved: bytes, *, noise: bool = False) -> None:
        self.counts["images"] += 1
        metas = self._recover(image, saved)
        try:
            needed = pages.reachable(image, pages.newest_meta(metas))
        except pages.Broken:
            needed = list(range(len(image)))
        seen = (self.end, saved, *metas, *[image[number] for number in needed])
        if noise:
            for number in {*range(2, len(image))}.difference(needed):
                if self.rng.random() < 0.5:
                    image[number] = self.rng.randbytes(PAGE)
        elif seen in self._opened:
            return
        self._opened.add(seen)
        self._open(image, saved)

    def _recover(self, image: list[bytes], saved: bytes) -> list[bytes]:
        """Return the meta pages after the recovery, which has nothing but them and the file's size."""
        facts = (saved, *image[:2], len(image))
        if facts not in self._recovered:
            path = self._lay_out(image[:2] + [_BLANK] * (len(image) - 2), saved)
            checkpoint.recover(path)
            self._recovered[facts] = pages.split((path / "data.mdb").read_bytes()[: 2 * PAGE])
        return self._recovered[facts]

    def _lay_out(self, image: Sequence[bytes], saved: bytes) -> Path:
        path = self.path / "image" / "data"
        shutil.rmtree(path.parent, ignore_errors=True)
        path.mkdir(parents=True)
        (path / "data.mdb").write_bytes(b"".join(image))
        for stray in (path / "lock.mdb", path.with_name("checkpoint.tmp")):
            stray.write_bytes(self.rng.randbytes(8192))
        checkpoint.path_of(path).write_bytes(saved)
        return path

    def _open(self, image: Sequence[bytes], saved: bytes) -> None:
        """Open an image: it must be the checkpoint that is found, exactly, and the log must go on from it."""
        path = self._lay_out(image, saved)
        snapshot = checkpoint.load(checkpoint.path_of(path))
        assert snapshot is not None
        lsn = snapshot.tip.lsn
        store = Store(path, self.options)
        self._compare(store, lsn)
        self.counts["opened"] += 1
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
    for number in entry.pages:
        content = claim.pages.get(number)
        if content is not None and entry.over(content, number) != content:
            raise Ruined(f"page {number} of the checkpoint of LSN {claim.lsn} is written over")


def _marked(entry: Entry, word: str) -> list[str]:
    words = entry.data.decode().split() if entry.op == "M" else []
    return words if words[:1] == [word] else []


def read_trace(path: Path) -> Iterator[Entry]:
    with path.open("rb") as file:
        while line := file.readline():
            op, at, size, name = line[:-1].split(b" ", 3)
            yield Entry(op.decode(), int(at), name.decode(), file.read(int(size)))
