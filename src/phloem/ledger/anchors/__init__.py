"""Anchors: that a checkpoint existed by a time, shown to somebody who trusts neither the log nor its witnesses.

`proof` reads and checks them all. Of the kind `evm` (`evm`, `headers`, `contract`; `chain` talks to a node) a contract
keeps one log's newest checkpoint and refuses to go back; of the kind `rfc3161` (`timestamp`) a time-stamping authority
signs the checkpoint's digest with the time. Checking needs no network.
"""
