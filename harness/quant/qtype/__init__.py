"""QType descriptors: a whole tensor format in one word, such as `e2m1k8b32c`.

`descriptor` parses the word and has the two classes that hold one: `QType` for Python code,
`QTypeFormat` for YAML and the command line. `fields` has what a word says (`Descriptor`) and builds
the format of it. `block_maxima` is a rule for scales that only `nf4B<B>b<b>` uses.
"""

from harness.quant.qtype.block_maxima import BlockMaxima
from harness.quant.qtype.descriptor import QType, QTypeFormat, parse
from harness.quant.qtype.fields import Descriptor

__all__ = ["BlockMaxima", "Descriptor", "QType", "QTypeFormat", "parse"]
