"""Errors of formats on the tensors of a file, and the list of formats: `python -m harness.tensor`.

The commands are in `commands`, their options in `__main__`.

- `error`: `files` reads tensors, `measure` quantizes each in every format, `error` sums the
  differences, `table` prints them.
- `formats`: `format_files` finds the formats of `conf/format`, `format_facts` describes each.
- `plot`: draws both, error against storage and the values of elements.
"""

import logging

# Without a writable home folder matplotlib finds another place for its cache, and logs so: no news.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
