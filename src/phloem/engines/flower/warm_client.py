"""What a node finds under the name `flwr-clientapp`: asks `warm` for the process, and ends as that one does.

    python -I -S warm_client.py FOLDER PROGRAM ARGUMENTS…

PROGRAM is Flower's own, which is run in this one's place where nothing answers at the socket FOLDER/ask, or where the
app is to have packages of its own installed. Small modules only are imported: this starts for every message.
"""

import json
import os
import socket
import sys

OWN_PACKAGES = "--allow-runtime-dependency-installation"


def main() -> None:
    """Hands arguments, folder, environment and the three standard files over, and waits for the exit code."""
    folder, program, arguments = sys.argv[1], sys.argv[2], sys.argv[3:]
    here, environment = os.getcwd(), dict(os.environ)  # noqa: TID251 - handed on
    line = socket.socket(socket.AF_UNIX)
    try:
        if OWN_PACKAGES in arguments:
            raise OSError("what is imported already may be of another version than the app asks for")
        os.chdir(folder)  # a socket's path may have a hundred letters, a folder's more
        line.connect("ask")
        asked = {"arguments": [program, *arguments], "folder": here, "environment": environment}
        request = json.dumps(asked).encode()
        socket.send_fds(line, [len(request).to_bytes(4, "big")], [0, 1, 2])
        line.sendall(request)
    except OSError:
        os.chdir(here)
        os.execv(program, [program, *arguments])
    answer = line.makefile("rb").read()
    os._exit(int(answer or b"1"))


if __name__ == "__main__":
    main()
