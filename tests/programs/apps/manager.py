"""A service manager in small, as systemd is with a socket unit: it opens the ports before the server runs, keeps them, and starts
the server again whenever it ends (sd_listen_fds(3)).

    manager.py PROGRAM CONFIG

Prints the process id of each start. The server ends with it (Linux).
"""

import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys

PR_SET_PDEATHSIG = 1

program, config = sys.argv[1:]
listeners = [socket.create_server(("127.0.0.1", 0), backlog=4096) for _ in range(2)]
tunnel, http = (listener.getsockname()[1] for listener in listeners)
# First out of the way, should one of them have a number that the other is to get.
apart = [fcntl.fcntl(listener.fileno(), fcntl.F_DUPFD, 10) for listener in listeners]
passed = [os.dup2(descriptor, number, inheritable=True) for number, descriptor in enumerate(apart, 3)]
ends_too = lambda: ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

# LISTEN_PID is the server's own, which only its process knows before it runs.
script = 'LISTEN_PID=$$ LISTEN_FDS=2 exec "$@"'
settings = [f"--set=tunnel.listen=127.0.0.1:{tunnel}", f"--set=public.http=127.0.0.1:{http}"]
command = ["sh", "-c", script, "sh", program, "server", "--config", config, *settings]
while True:
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=passed, preexec_fn=ends_too)
    print("started", child.pid, flush=True)
    child.wait()
