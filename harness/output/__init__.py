"""Write files and folders: the place is checked first, and a file or folder appears there once it is whole.

`place` checks where the harness may write, before any work is done; `atomic` writes. Every message names the option that the
user typed. This package knows neither torch nor records nor reports.
"""
