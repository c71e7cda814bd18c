"""A link checker: an example of what the Waterspout packages do together."""
