"""What a repository takes on the disk, and what of: read from its files, by kind of object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from phloem.branches import packs
from phloem.branches.repository import Repository

RECORDS = {packs.COMMIT: "commits", packs.STATE: "states", packs.ENCODING: "encodings"}
OTHERS = ("frames", "key-frames", "sites' frames", "files", "indexes of packs")
#: What a history needs, without what makes restoring it fast or replaying it possible.
BARE = ("commits", "states", "encodings", "frames")


def sizes(repo: Repository) -> dict[str, Any]:
    """Stored bytes by kind, each object once; `total` is what all files have but the catalog, which is derived."""
    catalog, root = repo.objects.catalog, repo.folder.root
    encodings = [one for _, one in catalog.all_encodings()]
    keys = {one.frame for one in encodings if one.base is None}
    steps = {one.frame for one in encodings if one.base is not None}
    found = dict.fromkeys((*RECORDS.values(), *OTHERS), 0)
    blobs = dict(repo.folder.frames())
    for row in {row.digest: row for pack in catalog.pack_names() for row in catalog.rows_of(pack)}.values():
        if row.kind == packs.FRAME:
            blobs[row.digest] = row.stored
        else:
            found[RECORDS.get(row.kind, "files")] += row.stored
    for digest, size in blobs.items():
        found["key-frames" if digest in keys else "frames" if digest in steps else "sites' frames"] += size
    total = folder_bytes(root) - folder_bytes(root, "catalog.*")
    found["indexes of packs"] = total - sum(found.values())
    return {
        **found,
        "total": total,
        "catalog": folder_bytes(root, "catalog.*"),
        "key-frames, number": len(keys),
        "packs, number": len(catalog.pack_names()),
    }


def folder_bytes(root: Path, pattern: str = "*") -> int:
    """The bytes of all files below a folder whose names are like this."""
    return sum(path.stat().st_size for path in root.rglob(pattern) if path.is_file())
