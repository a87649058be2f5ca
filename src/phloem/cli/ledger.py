"""`phloem ledger`: a log of exchanges, kept, proved about, verified and audited."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from phloem.cli.options import DebugOption, as_called
from phloem.errors import ConfigError

_GROUP_HELP = """The tamper-evident log of a run: who sent what, from which model, and what was merged.

A recipe with a section [ledger] keeps one. WHERE is such a run, a ledger's folder, or a directory or URL that a
ledger was exported to.

\b
  phloem build examples/hospitals.toml --out RUN
  phloem ledger audit RUN --replay          everything checked, every merge computed again
  phloem ledger show RUN --from aachen      its entries, and their places
  phloem ledger export RUN public/          files for any web server
  phloem ledger prove RUN 17 -o 17.flproof  entry 17 with all that verifies it offline
  phloem ledger verify 17.flproof --policy policy.txt

\b
Exit codes: 0 valid, 1 invalid, 2 cannot decide (something is missing or out of reach), 3 the call is wrong.
"""
_INIT_HELP = """Make a ledger's folder: an empty log, its key, the coordinator's key, and a policy for its readers.

A run keeps a ledger of its own unless its recipe names such a folder (`[ledger] folder`). With one that is made
before, everybody can be told the log's key beforehand.

\b
  phloem ledger init consortium --origin fl.example.org/consortium \\
      --witness "north north.example+b2c3…+BA… http://north.example:8420" --witness … --quorum 2
"""
_APPEND_HELP = """Append an entry that is made by hand, signed with a member's key.

\b
  phloem ledger append RUN complaint --key aachen.key --set against=coordinator \\
      --set about="our update of round 3 is not in the log" --evidence record.bin
  phloem ledger append RUN anchor --proof anchor.json --checkpoint checkpoint.txt

A complaint is signed by the member who makes it; anything else by the coordinator.
"""
_SHOW_HELP = """Show entries: their places, what they say, who signed them.

\b
  phloem ledger show RUN --kind update --from aachen --round 3
  phloem ledger show RUN 17 --json
"""
_PROVE_HELP = """Prove that the log has an entry: a receipt, or a bundle that anybody can verify offline.

\b
  phloem ledger prove RUN 17 -o 17.tlog-proof     the receipt alone (c2sp.org/tlog-proof)
  phloem ledger prove RUN 17 18 -o proof.flproof  entries, receipts, policy, in one file
  phloem ledger prove RUN 17 -o proof.flproof --payload
      with the frame that was sent and its salt: shows it to whoever gets the file
"""
_VERIFY_HELP = """Verify a bundle, a receipt with its entry, or a checkpoint, under your own policy, with no network.

\b
  phloem ledger verify proof.flproof --policy policy.txt
  phloem ledger verify 17.tlog-proof entry.json --policy policy.txt
  phloem ledger verify checkpoint.txt --policy policy.txt
"""
_CONSISTENCY_HELP = """Whether a log has only grown since a checkpoint that you kept.

\b
  phloem ledger consistency kept.txt RUN --policy policy.txt
"""
_EVIDENCE_HELP = """Two checkpoints of one log that cannot both be true, as a file that convinces anybody.

FIRST and SECOND are checkpoints of the same size, or ledgers (WHERE) with two histories.

\b
  phloem ledger evidence kept.txt shown-to-others.txt -o evidence.txt
  phloem ledger evidence evidence.txt --policy policy.txt     verifies such a file
"""
_AUDIT_HELP = """Read a whole log again and say what is wrong with it, by name.

The tree is made anew from the entries; every signature, number, base and merge is checked. With --replay every
merge of RUN is computed again from the frames, and must come out as the log says, bit for bit.

\b
  phloem ledger audit RUN --replay --html audit.html
  phloem ledger audit https://logs.example.org/clinic --policy policy.txt --seen kept.txt

Without --policy the log's own is taken, which only shows that the log agrees with itself.

\b
Exit codes: 0 valid, 1 invalid, 2 cannot decide, 3 the call is wrong.
"""

group = typer.Typer(name="ledger", help=_GROUP_HELP, no_args_is_help=True, rich_markup_mode=None)

WhereArgument = Annotated[
    str, typer.Argument(metavar="WHERE", help="A run, a ledger's folder, or an export.", show_default=False)
]
OutOption = Annotated[
    Path | None,
    typer.Option("-o", "--out", metavar="FILE", help="Where to write it; by default standard output."),
]
PolicyOption = Annotated[
    Path | None,
    typer.Option("--policy", metavar="FILE", help="Whom you trust (c2sp.org/tlog-policy)."),
]
MemberOption = Annotated[
    list[str] | None,
    typer.Option("--member", metavar="NAME=KEY", help="The key that this member must have; repeatable."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


@group.command("init", help=_INIT_HELP)
def init_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="New.", show_default=False)],
    origin: Annotated[
        str, typer.Option(metavar="NAME", help="The log's name, such as a URL without scheme.")
    ],
    witness: Annotated[
        list[str] | None,
        typer.Option(metavar="'NAME KEY URL'", help="Who cosigns its checkpoints; repeatable."),
    ] = None,
    quorum: Annotated[int, typer.Option(help="How many witnesses must sign; 0: more than half.")] = 0,
    debug: DebugOption = False,
) -> None:
    """Make a ledger's folder."""
    from phloem.ledger.folder import LedgerFolder
    from phloem.ledger.settings import LedgerSettings

    settings = LedgerSettings(witnesses=list(witness or []), quorum=quorum)
    with as_called():
        made = LedgerFolder.create(folder, origin, settings)
    _out(made.policy.pack(), None)
    print(f"made {folder}; its policy is above, and in {folder / 'policy.txt'}", file=sys.stderr)


@group.command("append", help=_APPEND_HELP)
def append_command(
    where: WhereArgument,
    kind: Annotated[str, typer.Argument(metavar="KIND", help="complaint or anchor.", show_default=False)],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=TEXT", help="A field of the entry; repeatable."),
    ] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="The member's private key.")] = None,
    evidence: Annotated[Path | None, typer.Option(metavar="FILE", help="What a complaint rests on.")] = None,
    proof: Annotated[Path | None, typer.Option(metavar="FILE", help="An anchor's proof.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(metavar="FILE", help="What was anchored.")] = None,
    debug: DebugOption = False,
) -> None:
    """Append an entry that is made by hand."""
    from phloem.cli.entries import append_anchor, append_complaint

    fields = dict(_pair(row) for row in set_ or [])
    if kind == "complaint":
        if key is None or evidence is None:
            raise ConfigError("a complaint needs the --key of who complains, and --evidence")
        index = append_complaint(where, key, fields, evidence)
    elif kind == "anchor":
        if proof is None or checkpoint is None:
            raise ConfigError("an anchor's entry needs --proof and --checkpoint")
        index = append_anchor(where, proof, checkpoint)
    else:
        raise ConfigError(f"no entry of kind '{kind:.40}' is made by hand", hint="complaint or anchor")
    typer.echo(index)


@group.command("checkpoint")
def checkpoint_command(
    where: WhereArgument,
    out: OutOption = None,
    debug: DebugOption = False,
) -> None:
    """Sign a checkpoint of now, have the witnesses cosign it, and print it."""
    from phloem.cli.entries import sign_checkpoint

    note, missing = sign_checkpoint(where)
    for words in missing:
        print(f"note: {words}", file=sys.stderr)
    _out(note, out)


@group.command("prove", help=_PROVE_HELP)
def prove_command(
    where: WhereArgument,
    indices: Annotated[
        list[int], typer.Argument(metavar="INDEX...", help="The places of entries.", show_default=False)
    ],
    out: OutOption = None,
    payload: Annotated[bool, typer.Option("--payload", help="Show what was sent, too.")] = False,
    anchor: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="An anchor's proof to go along; repeatable.")
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Prove that the log has an entry."""
    from phloem.cli.entries import bundle_of, receipt_of

    if out is not None and out.suffix == ".flproof":
        _out(bundle_of(where, indices, payload=payload, anchor_files=anchor or ()), out)
    elif len(indices) == 1 and not payload and not anchor:
        _out(receipt_of(where, indices[0]), out)
    else:
        raise ConfigError(
            "several entries, payloads and anchors go into a bundle", hint="name it -o FILE.flproof"
        )


@group.command("show", help=_SHOW_HELP)
def show_command(
    where: WhereArgument,
    indices: Annotated[
        list[int] | None,
        typer.Argument(
            metavar="[INDEX...]", help="The places of entries; by default all.", show_default=False
        ),
    ] = None,
    kind: Annotated[str | None, typer.Option(metavar="KIND", help="Only entries of this kind.")] = None,
    sender: Annotated[str | None, typer.Option("--from", metavar="NAME", help="Only this member's.")] = None,
    round_: Annotated[
        int | None, typer.Option("--round", metavar="N", help="Only those of this round.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Whole statements, one JSON object a line.")] = False,
    debug: DebugOption = False,
) -> None:
    """Show entries."""
    from phloem.cli.verify import shown_entries

    for line in shown_entries(where, indices or [], kind, sender, round_, as_json=json_):
        typer.echo(line)


@group.command("verify", help=_VERIFY_HELP)
def verify_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What to verify.", show_default=False)],
    entry: Annotated[
        Path | None, typer.Argument(metavar="[ENTRY]", help="The entry of a receipt.", show_default=False)
    ] = None,
    policy: PolicyOption = None,
    member: MemberOption = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Verify a bundle, a receipt or a checkpoint."""
    from phloem.cli.verify import verify_file

    _end(*verify_file(file, entry, policy, member, as_json=json_))


@group.command("consistency", help=_CONSISTENCY_HELP)
def consistency_command(
    old: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="The one you kept.", show_default=False)],
    where: WhereArgument,
    policy: PolicyOption = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Whether a log has only grown since then."""
    from phloem.cli.verify import check_consistent

    _end(*check_consistent(old, where, policy, as_json=json_))


@group.command("evidence", help=_EVIDENCE_HELP)
def evidence_command(
    first: Annotated[str, typer.Argument(metavar="FIRST", show_default=False)],
    second: Annotated[str | None, typer.Argument(metavar="[SECOND]", show_default=False)] = None,
    out: OutOption = None,
    policy: PolicyOption = None,
    debug: DebugOption = False,
) -> None:
    """Two checkpoints of one log that cannot both be true."""
    from phloem.cli.verify import check_evidence, make_evidence

    if second is None:
        _end(*check_evidence(Path(first), policy))
    else:
        _out(make_evidence(first, second, policy), out)


@group.command("audit", help=_AUDIT_HELP)
def audit_command(
    where: WhereArgument,
    replay: Annotated[
        bool, typer.Option("--replay", help="Compute every merge of the run again, from its frames.")
    ] = False,
    policy: PolicyOption = None,
    seen: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A checkpoint or receipt that somebody kept; repeatable."),
    ] = None,
    member: MemberOption = None,
    anchor: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="An anchor's proof, which must be of this history; repeatable."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also write a page to read and print.")
    ] = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Read a whole log again and say what is wrong with it."""
    from phloem.cli.audit import AuditCall, run_audit

    call = AuditCall(
        where, replay, policy, tuple(seen or ()), tuple(member or ()), html, json_, tuple(anchor or ())
    )
    _end(*run_audit(call))


@group.command("export")
def export_command(
    where: WhereArgument,
    to: Annotated[
        str, typer.Argument(metavar="TO", help="A directory, or a URL of a bucket.", show_default=False)
    ],
    debug: DebugOption = False,
) -> None:
    """Write the log as static files (c2sp.org/tlog-tiles) that any web server can hand out and Go's tools read."""
    from phloem.cli.places import log_of, place_of
    from phloem.ledger.export import export, files_at

    with place_of(where) as place:
        newest = export(log_of(place, where)[0], files_at(to))
    print(f"{newest.size} entries of '{newest.origin}' are in {to}", file=sys.stderr)


def _pair(row: str) -> tuple[str, str]:
    name, equals, text = row.partition("=")
    if not equals:
        raise ConfigError(f"expected --set FIELD=TEXT, found '{row:.80}'")
    return name, text


def _out(content: bytes, out: Path | None) -> None:
    """The content, in a file or on standard output."""
    from phloem.cli.entries import write_out

    write_out(content, out)


def _end(code: int, lines: Sequence[str], data: Any) -> None:
    """Says what was found, and leaves with the code that says it in a number."""
    if data is not None:
        typer.echo(json.dumps(data, indent=2))
    for line in lines:
        typer.echo(line) if data is None else print(line, file=sys.stderr)
    if code:
        raise typer.Exit(code)


def add_to(app: typer.Typer) -> None:
    """Gives the app this group."""
    app.add_typer(group)
