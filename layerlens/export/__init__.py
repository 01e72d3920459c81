"""Results as files and bytes that need no kernel: packed snapshots, one-file HTML, images."""
