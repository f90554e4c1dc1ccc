"""How time is measured.

A `clock` reads the time of one device. `warm_up` repeats a request until its time is steady; then
`rounds` alternate between candidates, and `distribution` makes medians, ratios and intervals of the
times. `roofline` counts the bytes and operations of a phase, which relate its time to the machine.
Peaks and load of the machine itself are in `harness.machine`. An engine takes the time stamps of a
request (`harness.engines.timed`).
"""
