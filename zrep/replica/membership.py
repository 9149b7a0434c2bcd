"""Which configuration comes next (R4, R20). Pure decisions; `reign` appends what they say.

One change at a time, as a log record, in force when appended, undone if cut. A joiner is a learner; it
is promoted when it has everything that is permanent and answers promptly. Removing and adding are one
record where a site replaces one that lost its disk (R4).
"""

from collections.abc import Collection
from typing import NamedTuple

from zrep.ids import SiteId
from zrep.messages import Join, Status
from zrep.records import Config, Member, MemberRole


class Refusal(NamedTuple):
    """Why the configuration stays as it is; with OK there is nothing to change."""

    status: Status
    text: str = ""


def founding(
    site: SiteId, endpoints: tuple[str, ...], publish: tuple[str, ...], priority: int, durability: str
) -> Config:
    """Return the configuration of a group of one."""
    return Config((Member(site, MemberRole.VOTER, priority, endpoints, publish),), durability)


def admit(config: Config, join: Join, present: Collection[SiteId]) -> Config | Refusal:
    """Return the configuration that admits or updates `join.site`, or how to answer without a change.

    Nobody takes the place of a site that is `present`: one that lost its disk is not there under its old id.
    """
    if join.site in config.removed:
        return Refusal(Status.REMOVED)
    known = config.member(join.site)
    if known is not None:
        same = (known.endpoints, known.publish, known.priority) == (join.endpoints, join.publish, join.priority)
        if same:
            return Refusal(Status.OK)
        return config.with_member(
            known._replace(endpoints=join.endpoints, publish=join.publish, priority=join.priority)
        )
    replaced = _replaced(config, join)
    if replaced in present:
        return Refusal(Status.BUSY, f"it would take the place of site {replaced}, which is connected")
    if replaced is not None:
        config = config.without(replaced)
    return config.with_member(
        Member(join.site, MemberRole.LEARNER, join.priority, join.endpoints, join.publish, join.role)
    )


def _replaced(config: Config, join: Join) -> SiteId | None:
    """Return the member that the joiner stands in for: the one it names, or the one at its address.

    An address cannot belong to two sites: whoever answers there now has a new home, and the old site id
    will never speak again.
    """
    if join.replaces and config.member(join.replaces) is not None:
        return join.replaces
    for member in config.members:
        if set(member.endpoints) & set(join.endpoints):
            return member.site
    return None


def promote(config: Config, ready: Collection[SiteId]) -> Config | None:
    """Return the configuration with the next learner promoted; None when there is nobody to promote.

    `ready` are the learners that hold what is permanent and answer promptly. From one voter to two the
    group becomes *less* available: if more learners want to vote, wait until two are ready, so that the
    third follows at once (R20).
    """
    learners = [
        member for member in config.members if member.role is MemberRole.LEARNER and member.wanted is MemberRole.VOTER
    ]
    candidates = [member for member in learners if member.site in ready]
    if not candidates or (len(config.voters) == 1 and len(learners) > 1 and len(candidates) == 1):
        return None
    return config.with_member(candidates[0]._replace(role=MemberRole.VOTER))
