"""Starts a program as a service manager would that has opened its public port already (sd_listen_fds(3)).

    activate.py PROGRAM CONFIG

Prints the port and becomes the program.
"""

import os
import socket
import sys

program, config = sys.argv[1:]
listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]
print("port", port, flush=True)
os.dup2(listener.fileno(), 3)
# If it was the third already, nothing has changed by that.
os.set_inheritable(3, True)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(program, [program, "server", "--config", config, "--set", f"public.http=127.0.0.1:{port}"])
