"""What runs in the place of a float weight.

`base` has the protocol and `layer` what a backend is given: a rule and a weight as codes. `fake` installs rounded values;
`scaled_mm/`, `torchao/` and `bitsandbytes/` install codes and a kernel that multiplies them. `probe` measures how exactly each
kind of installed layer multiplies on this processor; `stored_layers` does so for layers that came quantized in a checkpoint.
"""
