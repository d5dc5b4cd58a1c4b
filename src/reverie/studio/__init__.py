"""The studio: a page, three HTTP APIs and a queue, on one server. Thin: parse -> system -> task -> stream."""
