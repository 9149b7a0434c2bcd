"""The pure machine: everything that decides. No clock, no random source, no I/O, no thread in here.

In the order of reading:

replica     the inputs, and who handles what; `effects` is what comes out, in the order of its obligations
rules       which message is admitted, in which state, at which gen; what may leave
state       promise, gen, role, log, configuration, permanence; the only maker of messages
election    VOTE1, VOTE2: who should be master (R6–R11, R13)
following   a client under a master: common point, records, acknowledgements (R14, R17); over `inflow`, `sync`
reign       a master's duties: its records on the wire, heartbeats, stepping down (R12, R15, R16, R24)
acks        who holds what, and what is therefore permanent
membership  which configuration comes next (R4, R20)
serving     what other sites ask of our log
timers      deadlines by name
clock       the time that a record carries (R25)
"""
