"""`python -m tests.sim SEED`: run one seed, or SEED to SEED + N - 1, and say what happened."""

import argparse
import cProfile
import pstats
import sys
from collections import Counter
from time import perf_counter

from tests.sim.swarm import Failed, Outcome, run_seed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, from SEED on")
    parser.add_argument("--sites", type=int, help="size of the group; drawn from the seed otherwise")
    parser.add_argument("--events", type=int, default=2000, help="events before healing")
    parser.add_argument("--trace", action="store_true", help="print the tail of the trace of a failure")
    parser.add_argument("--check-codec", action="store_true", default=None, help="pass every message through bytes")
    parser.add_argument("--profile", action="store_true", help="where the time goes")
    args = parser.parse_args()

    profile = cProfile.Profile() if args.profile else None
    outcomes: list[Outcome] = []
    failures = 0
    start = perf_counter()
    for seed in range(args.seed, args.seed + args.seeds):
        try:
            if profile is not None:
                outcomes.append(profile.runcall(run_seed, seed, args.sites, args.events, args.check_codec))
            else:
                outcomes.append(run_seed(seed, args.sites, args.events, args.check_codec))
        except Failed as failure:
            failures += 1
            print(failure if args.trace else "\n".join(str(failure).splitlines()[:2]))
    elapsed = perf_counter() - start
    report(outcomes, elapsed)
    if profile is not None:
        pstats.Stats(profile).sort_stats("tottime").print_stats(30)
    return 1 if failures else 0


def report(outcomes: list[Outcome], elapsed: float) -> None:
    """Print the sums of some seeds, and the hash of a single one."""
    steps = sum(outcome.steps for outcome in outcomes)
    simulated = sum(outcome.simulated_ns for outcome in outcomes) / 1e9
    rate = steps / elapsed
    print(f"{len(outcomes)} seeds, {steps} events, {simulated:.1f} s simulated in {elapsed:.1f} s: {rate:.0f}/s")
    if len(outcomes) == 1:
        print(f"trace {outcomes[0].digest}")
    counts = sum((outcome.counts for outcome in outcomes), Counter[str]())
    print("  ".join(f"{name}: {count}" for name, count in sorted(counts.items())))


if __name__ == "__main__":
    sys.exit(main())
