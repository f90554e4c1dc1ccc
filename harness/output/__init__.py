"""The one way to write: what a user named is checked first, and a file or folder appears when it is whole.

`place` says what may be written where, before any work is done; `atomic` writes. Every message names the option that the user
typed. Nothing here knows of torch, records or reports.
"""
