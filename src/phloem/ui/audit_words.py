"""What an audit's page says in words: verdicts, checks, and what each finding can mean for its reader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from phloem.ledger.findings import Verdict

VERDICTS: Mapping[Verdict, str] = {
    Verdict.VALID: "Everything that was checked holds. Below stand what was checked, by whose trust, and what no "
    "audit of a log can show.",
    Verdict.UNDECIDED: "Nothing contradicts the log, but something that it takes to judge is missing or is disputed. "
    "Clear up what is named under “What was found”, then audit again.",
    Verdict.INVALID: "The log contradicts itself, its signatures, what was stored with it, or what somebody else "
    "holds of it. Do not rely on it, nor on a model made under it, before all that stands under “What was found” is "
    "explained.",
}


@dataclass(frozen=True)
class Check:
    """A question that an audit answers, how, and the findings that answer it with no."""

    question: str
    how: str
    names: tuple[str, ...]


CHECKS = (
    Check(
        "Nothing was changed, removed or slipped in afterwards",
        "The tree of all entries was made anew and compared with every checkpoint at hand, and with what each "
        "sender had seen of the log when it signed.",
        ("damaged-entry", "rewritten-history", "truncated-history", "forked-history"),
    ),
    Check(
        "The log and enough witnesses vouch for it",
        "The signatures under every checkpoint were checked by the policy.",
        ("unsigned-checkpoint", "no-quorum"),
    ),
    Check(
        "Every entry is from whom it says, and lawful",
        "Every signature was checked with the key that its sender had at that point.",
        ("forged-sender", "retired-key", "unlawful"),
    ),
    Check(
        "Nothing is missing, out of order or from another time",
        "Every member numbers its entries; numbers and times were followed through the log.",
        ("out-of-order", "missing-entry", "back-dated"),
    ),
    Check(
        "All sites of a round started from one model",
        "Every round starts from what the one before led to, and every update names the model that it was made from.",
        ("wrong-base", "two-models"),
    ),
    Check(
        "Every update was answered, and counted at most once",
        "Each is merged, or left out with a reason.",
        ("replayed-update", "dropped-update"),
    ),
    Check(
        "Every merge is made of the updates that it names",
        "Its inputs were sent for this round, taken, and from sites that were asked.",
        ("wrong-aggregate",),
    ),
    Check(
        "What was stored is what was sent",
        "Stored frames were compared with the commitments in the log.",
        ("swapped-payload", "missing-payload"),
    ),
    Check(
        "The model given out is the one that was trained",
        "It was compared with the newest merge before it.",
        ("wrong-release",),
    ),
    Check(
        "What was anchored elsewhere is this history",
        "The tree that each anchor is of was compared. Whether the other system has it: phloem anchor verify.",
        ("rolled-back-anchor",),
    ),
    Check("No member complains", "Complaints are entries like any other.", ("complaint",)),
)

MEANS: Mapping[str, tuple[str, str]] = {
    "damaged-entry": (
        "An entry cannot be read",
        "The copy of the log was damaged, or somebody edited it. Compare with another copy.",
    ),
    "rewritten-history": (
        "History was rewritten",
        "Whoever holds the log's key signed one history and shows another. The kept checkpoint is the evidence: "
        "keep it, and ask whoever runs the log.",
    ),
    "truncated-history": (
        "Entries were cut off",
        "This copy is older than a checkpoint that was signed, or entries were deleted. Ask for a whole copy.",
    ),
    "forked-history": (
        "Two histories were shown",
        "Somebody was shown another log than this one. `phloem ledger evidence` makes a file of it that convinces "
        "others.",
    ),
    "unsigned-checkpoint": (
        "A checkpoint is not the log's",
        "It is forged, damaged, or of another log; or the policy names another key than the log's.",
    ),
    "no-quorum": (
        "Too few witnesses vouch",
        "Fewer independent witnesses confirmed the log than the policy demands. They may have been out of reach: "
        "have the log cosigned (`phloem ledger checkpoint`), then audit again.",
    ),
    "forged-sender": (
        "A signature is not the sender's",
        "Somebody wrote in another's name, or with a key that neither the log nor you know. Ask the member.",
    ),
    "retired-key": (
        "A retired key was used",
        "The key had been replaced or withdrawn before; it may be in wrong hands. Ask its owner.",
    ),
    "out-of-order": (
        "Entries are out of order",
        "A member's own numbers run backwards: an entry was moved, or written twice.",
    ),
    "missing-entry": (
        "An entry is missing",
        "A member's own numbers leave a gap: what it signed is not here. It was lost or left out; ask the member for "
        "its copy.",
    ),
    "back-dated": (
        "A time cannot be right",
        "A clock was wrong by minutes, or the entry was made at another time than it says.",
    ),
    "wrong-base": (
        "Another model was started from",
        "A site trained on another model than was given out, or a round was opened out of turn.",
    ),
    "two-models": (
        "Two models in one round",
        "Sites were given different models, or a round came out different the second time. This is how single sites "
        "could be spied on: ask the coordinator.",
    ),
    "replayed-update": (
        "An update counts twice",
        "An old or used update was put in again, which gives its sender more weight than it may have.",
    ),
    "dropped-update": (
        "An update disappeared",
        "A site sent it, or was asked for it, and the merge neither uses it nor says why not. Ask the coordinator.",
    ),
    "wrong-aggregate": (
        "A merge is not what it should be",
        "It uses what it may not, or the updates that it names give another model than it says.",
    ),
    "swapped-payload": (
        "Stored data are not what was sent",
        "The stored frame was damaged or exchanged after it was logged.",
    ),
    "missing-payload": (
        "Stored data are missing",
        "They were lost, or deleted without an entry that says so. What hangs on them could not be checked.",
    ),
    "wrong-release": (
        "The model given out is another one",
        "It is not what the run's newest merge led to. Do not use it.",
    ),
    "rolled-back-anchor": (
        "An anchor is of another history",
        "What was written down elsewhere does not fit this log: one of both was changed.",
    ),
    "unlawful": (
        "An entry that its sender may not make",
        "Only the coordinator opens rounds, answers updates, merges and gives models out; and where the run asks for "
        "receipts, a site trains only with one. Ask the sender.",
    ),
    "complaint": (
        "A member complains",
        "The log records it and does not judge. Hear both sides; the evidence is a file whose digest the entry has.",
    ),
    "note": ("Worth knowing", "Nothing is wrong with these."),
}

KINDS: Mapping[str, str] = {
    "genesis": "the run begins: its coordinator, its plan, its rules",
    "member": "somebody is let in, changes key, or is put out",
    "round-open": "a round begins: from which model, and who is asked to train",
    "broadcast": "the model is sent to the sites",
    "update": "a site sends what it learned",
    "received": "the coordinator answers an update: taken, or why not",
    "aggregate": "updates are merged into the next model",
    "eval": "what the model was measured to do, as a sealed commitment",
    "complaint": "a member says what another did wrong",
    "erasure": "stored data have been destroyed on purpose",
    "anchor": "a checkpoint has been written down elsewhere",
    "model-release": "a model has been given out",
}

LIMITS = (
    "That a site trained honestly, on the data that it says, or at all: the log has what was sent, not how it was "
    "made.",
    "That the data were good, complete or lawful, or that the model is any good.",
    "That no update was poisoned: a harmful update can be signed, answered and merged by all the rules.",
    "What never reached the log: an update that was refused before it was written down. Its sender can complain, with "
    "its own copy as evidence.",
    "A second history, if the coordinator and as many witnesses as the policy demands make it together and show it "
    "only to somebody who kept nothing. Checkpoints and receipts that others kept, and anchors, are what is left then.",
    "Who is behind a name: a key is as good as the way by which you learned it.",
    "The exact time: times are claims of the senders. Where witnesses cosign, an entry lies between the checkpoints "
    "around it.",
    "How many examples stand behind an update: the coordinator takes a site's number at its word.",
)

RULES: Mapping[str, str] = {
    "strict": "a site trains only on a model for which it holds this very round's receipt",
    "audit-only": "sites ask for no receipts: only an audit finds out",
}
