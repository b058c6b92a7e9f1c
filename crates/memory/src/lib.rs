//! Guest RAM: regions, dirty bitmap, the alias every device uses.
