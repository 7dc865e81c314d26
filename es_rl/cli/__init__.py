"""The `es-rl` command line: one small module for each subcommand."""
