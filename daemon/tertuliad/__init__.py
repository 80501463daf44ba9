"""The daemon: many conversations with language models in one process."""
