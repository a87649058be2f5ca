"""Flower carries Phloem's messages: a client mod, a wrapper for strategies, and the engine of `phloem build`.

Everything here reaches Flower through its public modules (`flwr.app`, `flwr.clientapp`, `flwr.serverapp`) and its
programs. `phloem.flower` is the name under which users import it.
"""
