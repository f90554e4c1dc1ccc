"""Records in, tables out. No torch: a report can be written anywhere."""
