"""How time is measured.

A `clock` reads the time of one device. `request` times the prefill and decode of one batch with it.
`warm_up` repeats a request until its time is steady; then `rounds` alternate between candidates,
and `distribution` makes medians, ratios and intervals of the times. Two modules relate a time to
the machine: `matmul_types` observes in which types a model multiplies, `roofline` counts the bytes
and operations of a phase. Peaks and load of the machine itself are in `harness.machine`.
"""
