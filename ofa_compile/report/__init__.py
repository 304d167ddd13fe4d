"""One HTML page about a search and what is known of it, and the same figures as files."""
