"""The protocol without input or output: a coordinator and sites that take bytes and give bytes."""
