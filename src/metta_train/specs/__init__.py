"""The dictionary of the system: typed records and conventions that every room shares."""
