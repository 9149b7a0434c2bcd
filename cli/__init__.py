"""The `zrep` command; installed as the package `zrep_cli`.

main        the commands and the one way out: errors become a sentence and an exit code
node        `zrep node`: a site in the foreground
access      `zrep get put delete scan`
status      `zrep status`
quote       `zrep quote`: the stock-quote prompt
cluster     `zrep cluster …`: a local group of detached nodes
demo        `zrep demo`: the story of two fail-overs, and the proof that nothing was lost
processes   starting, finding and signalling `zrep node` processes
target      which group a command talks to: `-C` and `-H`
output      tables for people, lines for pipes, JSON for programs
"""
