"""`zrep status`: how every site of a group is, asked of each of them."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from . import output, target

ASK_TIMEOUT_MS = 1000
"""How long one site may take to answer before it counts as unreachable."""

COLUMNS = ("SITE", "ADDRESS", "ROLE", "MEMBER", "GEN", "END", "PERM", "APPLIED", "LAG", "DURABILITY")


def status(
    connect: target.Connect = None,
    home: target.Home = None,
    json: output.Json = False,
    timeout_ms: target.Timeout = 5000,
) -> None:
    """Show every site of the group. Role, gen, log end, permanent and applied LSN, lag, durability."""
    with target.connect(connect, home, timeout_ms) as client:
        asked = client.status()
    sites = survey(asked)
    if json:
        output.show_json({"group": asked["group"], "master": asked["master"], "sites": sites})
        return
    output.show_table(COLUMNS, [_row(site, asked["end"]) for site in sites], alarms(sites))
    if asked["master"] is None:
        print("no master is known to the site that was asked: a majority of the sites must be up and connected")


def survey(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Ask every member named in one site's status; who does not answer has an "error"."""
    members = asked["members"]
    if not members:
        return [asked]
    with ThreadPoolExecutor(len(members)) as pool:
        answers = pool.map(ask, (member["address"] for member in members))
        return [member | answer | {"member": member["role"]} for member, answer in zip(members, answers, strict=True)]


def ask(address: str) -> dict[str, Any]:
    """Return a site's status, or {"error": why} if it does not answer."""
    import zrep

    try:
        with zrep.connect(address, timeout_ms=ASK_TIMEOUT_MS, roam=False) as client:
            return client.status()
    except zrep.Error as error:
        return {"error": str(error)}


def alarms(sites: Iterable[dict[str, Any]]) -> list[int]:
    """Return the numbers of the lines to worry about: unreachable, or without a master."""
    return [number for number, site in enumerate(sites) if "error" in site or site["master"] is None]


def _row(site: dict[str, Any], end: int) -> tuple[object, ...]:
    name, address, member = site["site"][:8], site["address"], site.get("member", "")
    if "error" in site:
        return (name, address, "unreachable", member, *"-----", "-")
    lag = max(0, end - site["applied"])
    facts = (site["gen"], site["end"], site["perm"], site["applied"], lag, site["durability"])
    return (name, address, site["role"], member, *facts)
