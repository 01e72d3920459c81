"""One question, one file: each analysis emits finished parts of its answer while it runs."""
