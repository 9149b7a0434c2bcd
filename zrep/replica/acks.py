"""Who holds what in this reign, and what is therefore permanent.

Every reign starts with an empty table (R15). Permanence is a majority of the *site ids* that the newest
configuration lists as voters (R4, R10), counted on records of the reign's own gen (R16). Ack policies
only decide how long a commit waits; they are counted here too, and change nothing that is safe.
"""

from collections.abc import Collection

from zrep.ids import Lsn, Nanoseconds, SiteId, majority
from zrep.options import AckPolicy
from zrep.records import Config


class Acks:
    """What each site acknowledged to this master in this reign."""

    __slots__ = ("match", "stamp")

    def __init__(self) -> None:
        self.match: dict[SiteId, Lsn] = {}
        self.stamp: dict[SiteId, Nanoseconds] = {}
        """The newest of this master's clock readings that the site has echoed."""

    def ack(self, site: SiteId, match: Lsn, stamp: Nanoseconds) -> None:
        """Note an acknowledgement; an overtaken one lowers nothing."""
        self.match[site] = max(match, self.match.get(site, 0))
        self.stamp[site] = max(stamp, self.stamp.get(site, 0))

    def held_by_majority(self, config: Config, own: SiteId, durable: Lsn) -> Lsn:
        """Return the highest LSN that a majority of the voters hold durably.

        A master that the configuration omits does not count itself (R20).
        """
        match = self.match
        held = sorted([durable if site == own else match.get(site, 0) for site in config.voters])
        return held[len(held) - majority(len(held))] if held else 0

    def echoed_by_majority(self, config: Config, own: SiteId, now: Nanoseconds) -> Nanoseconds:
        """Return the newest stamp that a majority of the voters have echoed; the own clock is `now`."""
        stamp = self.stamp
        echoed = sorted([now if site == own else stamp.get(site, 0) for site in config.voters])
        return echoed[len(echoed) - majority(len(echoed))] if echoed else 0

    def holders(self, lsn: Lsn, own: SiteId, durable: Lsn) -> tuple[SiteId, ...]:
        """Return the sites that are known to hold the record at `lsn` durably."""
        others = tuple([site for site, match in self.match.items() if match >= lsn and site != own])
        return (own, *others) if durable >= lsn else others


def satisfied(
    policy: AckPolicy, permanent: bool, holders: Collection[SiteId], own: SiteId, config: Config, up: Collection[SiteId]
) -> bool:
    """Tell whether a commit under `policy` may return now. Berkeley DB: the counting of DB_REPMGR_ACKS_*.

    A *peer* is a voter with priority > 0.
    """
    if policy is AckPolicy.NONE:
        return True
    if policy is AckPolicy.QUORUM:
        return permanent
    others = [member for member in config.members if member.site != own]
    peers = [member.site for member in others if member.site in config.voters and member.priority > 0]
    if policy is AckPolicy.ONE:
        return permanent or any(site != own for site in holders)
    if policy is AckPolicy.ONE_PEER:
        return (permanent and not peers) or any(site in holders for site in peers)
    if policy is AckPolicy.ALL_PEERS:
        waited_for = peers
    elif policy is AckPolicy.ALL_AVAILABLE:
        waited_for = [member.site for member in others if member.site in up]
    else:
        waited_for = [member.site for member in others]
    return permanent and all(site in holders for site in waited_for)
