"""What the machine is, and what it does while a run measures.

`devices` chooses the device and locks it for timed runs; `nvml` asks NVIDIA's library about GPUs.
During a run, `memory` measures its peak, `load` the work of other processes, and `energy` reads the
counters of CPU and GPU. For the record, `settings` reads clocks and firmware, and `provenance`
collects versions, commit and hardware. `peaks` measures the bandwidth and the operations per second
that utilizations refer to.
"""
