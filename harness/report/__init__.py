"""From a folder of records to a report. No torch: a report can be written anywhere.

`intake` chooses the records that can be trusted, `harness.claims` compares them. `titles` names
what is compared, and `accuracy` looks up what a recipe costs. `sections` has the tables, `plots`
the pictures, `contents` their order. `markdown` and `html` write them, and `__main__` is the
command.
"""

import logging

# matplotlib warns if the home folder cannot be written, and then finds a cache by itself.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
