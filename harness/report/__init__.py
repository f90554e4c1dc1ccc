"""Records in, tables out. No torch: a report can be written anywhere."""

import logging

# matplotlib finds a place for its cache by itself where the home cannot be written; that is no news to a user.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
