"""How time is measured: a device `clock`, `rounds` that alternate, `warm_up` until steady, and what a `distribution` of times says.

`request` times prefill and decode of one batch; `matmul_types` sees which types a model multiplies; `roofline` relates a speed to
the peaks in `harness.machine`.
"""
