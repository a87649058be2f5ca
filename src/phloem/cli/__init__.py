"""The command line: the only layer that prints, exits and reads the environment."""
