"""Hypothesis chooses what happens next; a failure shrinks to the lines of a scenario.

Seeds explore delays; this explores interleavings: any message in flight may be the next to arrive, to be
lost or to arrive twice, and a crash may come between any two of them. The checkers watch every step. What
a failure prints can be pasted into `scenarios/`.
"""

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.sim.script import Script

SITES = st.sampled_from("abc")
NTH = st.integers(1, 12)


class Interleavings(RuleBasedStateMachine):
    """Three sites on a stage, and everything that can be done to them."""

    def __init__(self) -> None:
        super().__init__()
        self.script = Script()
        self.lines: list[str] = []
        self.submitted = 0

    def do(self, line: str) -> None:
        self.lines.append(line)
        try:
            self.script.run(line)
        except Exception as error:
            error.add_note("\n".join(["As a scenario:", "", *self.lines]))
            raise

    def up(self, site: str) -> bool:
        return self.script.is_up(site)

    @initialize(reign=st.sampled_from(["", "a", "c"]))
    def form(self, reign: str) -> None:
        self.do("group a b c quorum_timeout_ms=3000")
        if reign:
            self.do(f"elect {reign}")
            self.do("run 20ms")

    @rule(number=NTH)
    def deliver(self, number: int) -> None:
        self.do(f"deliver {number}")

    @rule(site=SITES)
    def deliver_to(self, site: str) -> None:
        self.do(f"deliver >{site}")

    @rule(number=NTH)
    def drop(self, number: int) -> None:
        self.do(f"drop {number}")

    @rule(number=NTH)
    def copy(self, number: int) -> None:
        self.do(f"copy {number}")

    @rule(site=SITES)
    def elect(self, site: str) -> None:
        if self.up(site):
            self.do(f"elect {site}")

    @rule(site=SITES)
    def submit(self, site: str) -> None:
        if self.up(site):
            self.submitted += 1
            self.do(f"submit {site} w{self.submitted}")

    @rule(site=SITES, torn=st.sampled_from(["", " torn"]))
    def crash(self, site: str, torn: str) -> None:
        if self.up(site):
            self.do(f"crash {site}{torn}")

    @rule(site=SITES)
    def restart(self, site: str) -> None:
        if not self.up(site):
            self.do(f"restart {site}")

    @rule(site=SITES)
    def hold(self, site: str) -> None:
        self.do(f"hold {site}")

    @rule(site=SITES)
    def flush(self, site: str) -> None:
        self.do(f"flush {site}")

    @rule(pair=st.sampled_from(["a b", "a c", "b c"]), change=st.sampled_from(["break", "connect"]))
    def link(self, pair: str, change: str) -> None:
        self.do(f"{change} {pair}")

    @rule(duration=st.sampled_from([1, 3, 20, 600, 1100]))
    def run_for(self, duration: int) -> None:
        self.do(f"run {duration}ms")

    def teardown(self) -> None:
        if self.lines:
            self.script.stage.checkers.sweep()


Interleavings.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
TestInterleavings = Interleavings.TestCase
