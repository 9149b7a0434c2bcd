"""The `zrep` command; installed as the package `zrep_cli`.

main        the commands and the one way out: errors become a sentence and an exit code
node        `zrep node`: a site in the foreground
access      `zrep get put delete scan`
status      `zrep status`
quote       `zrep quote`: the stock-quote prompt
cluster     `zrep cluster …`: a local group of detached nodes
demo        `zrep demo`: the story of two fail-overs, and the proof that nothing was lost
bench       `zrep bench` and `zrep bench compare`
bench_…     samples: timing and percentiles; loads: the workloads; site: the process that is measured;
            process: a child that obeys; group: the sites; recovery: fail-over and catch-up; report, plot: what is told
processes   starting, finding and signalling `zrep node` processes
target      which group a command talks to: `-C` and `-H`
group       a group of nodes on this machine: founding, starting, stopping it
output      tables for people, lines for pipes, JSON for programs
"""
