"""gRPC: an application made with tonic, asked by tonic and by grpcio."""

from matrix import row
from stack import ROOT, free_port, run

GROUP = "gRPC"
NAME = "grpc"
PROGRAM = ROOT / "target/fidelity/grpc/debug/fidelity-grpc"


def start(stack):
    port = free_port()
    stack.grpc = stack.start("the gRPC application", [PROGRAM, "serve", port], port)
    stack.offer(NAME, f"h2c://127.0.0.1:{port}")
    stack.offer("nogrpc", f"h2c://127.0.0.1:{free_port()}")


@row(GROUP, "tonic: unary and all kinds of streams, metadata, statuses, 4 MB, a deadline, 100 turns")
def _(way):
    lines = run([PROGRAM, "ask", way.host(NAME), way.port(NAME)]).decode().splitlines()
    return {"short": f"{len(lines)} exchanges", **dict(enumerate(lines))}


def channel(way, name=NAME, tls=False):
    """With `tls`, through the HTTPS port; the application itself speaks none."""
    import grpc

    if tls and way.title == "tunnelled":
        trust = grpc.ssl_channel_credentials(way.stack.ca.read_bytes())
        options = [("grpc.ssl_target_name_override", way.host(name)), ("grpc.default_authority", way.host(name))]
        return grpc.secure_channel(f"127.0.0.1:{way.stack.https}", trust, options)
    return grpc.insecure_channel(f"127.0.0.1:{way.port(name)}", options=[("grpc.default_authority", way.host(name))])


def outcome(call):
    import grpc

    try:
        return call()
    except grpc.RpcError as error:
        trailers = [(key, value) for key, value in error.trailing_metadata() or () if key.startswith("x-detail")]
        return [error.code().name, error.details(), trailers]


@row(GROUP, "grpcio: unary")
def _(way):
    with channel(way) as open_channel:
        call = open_channel.unary_unary("/fidelity.Echo/Unary")
        answer, made = call.with_call(b"hello", metadata=[("x-mine", "1")], timeout=20)
        return [answer, dict(made.initial_metadata()).get("x-mine"), made.code().name]


@row(GROUP, "grpcio: a stream from the application")
def _(way):
    with channel(way) as open_channel:
        return f"{len(list(open_channel.unary_stream('/fidelity.Echo/ServerStream')(b'1000', timeout=20)))} messages"


@row(GROUP, "grpcio: a stream to the application")
def _(way):
    with channel(way) as open_channel:
        return open_channel.stream_unary("/fidelity.Echo/ClientStream")(iter([b"a" * 100_000] * 20), timeout=20)


@row(GROUP, "grpcio: both ways, turn by turn")
def _(way):
    with channel(way) as open_channel:
        return list(open_channel.stream_stream("/fidelity.Echo/Bidi")(iter([b"a", b"b", b"c"]), timeout=20))


@row(GROUP, "grpcio, through TLS to the server: unary, all kinds of streams, a status")
def _(way):
    with channel(way, tls=True) as open_channel:
        call, made = open_channel.unary_unary("/fidelity.Echo/Unary").with_call(b"hello", metadata=[("x-mine", "1")], timeout=20)
        return [
            call,
            dict(made.initial_metadata()).get("x-mine"),
            len(list(open_channel.unary_stream("/fidelity.Echo/ServerStream")(b"1000", timeout=20))),
            open_channel.stream_unary("/fidelity.Echo/ClientStream")(iter([b"a" * 100_000] * 20), timeout=20),
            list(open_channel.stream_stream("/fidelity.Echo/Bidi")(iter([b"a", b"b", b"c"]), timeout=20)),
            outcome(lambda: open_channel.unary_unary("/fidelity.Echo/Fails")(b"", timeout=20)),
        ]


@row(GROUP, "grpcio: a status with a message and details")
def _(way):
    with channel(way) as open_channel:
        return outcome(lambda: open_channel.unary_unary("/fidelity.Echo/Fails")(b"", timeout=20))


@row(GROUP, "grpcio: a status after some messages")
def _(way):
    with channel(way) as open_channel:
        return outcome(lambda: list(open_channel.unary_stream("/fidelity.Echo/FailsLate")(b"", timeout=20)))


@row(GROUP, "grpcio: a deadline")
def _(way):
    with channel(way) as open_channel:
        code = outcome(lambda: open_channel.unary_unary("/fidelity.Echo/Sleeps")(b"", timeout=0.3))[0]
    # Both sides count the same deadline, and either may be the first to say so.
    return "ended by it" if code in ("DEADLINE_EXCEEDED", "CANCELLED") else code


@row(GROUP, "grpcio: cancelled half-way")
def _(way):
    with channel(way) as open_channel:
        call = open_channel.unary_stream("/fidelity.Echo/ServerStream")(b"100000", timeout=20)
        first = next(call)
        call.cancel()
        return [first, call.code().name]


@row(GROUP, "grpcio: no application", (lambda seen: seen[0], "the server says in its own words that the application cannot be reached"))
def _(way):
    with channel(way, "nogrpc") as open_channel:
        return outcome(lambda: open_channel.unary_unary("/fidelity.Echo/Unary")(b"", timeout=20))


@row(GROUP, "grpcio: no such name", (lambda seen: "", "only a tunnel has names"))
def _(way):
    if way.title == "direct":
        return "none"
    import grpc

    options = [("grpc.default_authority", way.host("nobody"))]
    with grpc.insecure_channel(f"127.0.0.1:{way.stack.http}", options=options) as open_channel:
        seen = outcome(lambda: open_channel.unary_unary("/fidelity.Echo/Unary")(b"", timeout=20))
    assert seen[0] == "UNIMPLEMENTED", seen
    return seen[0]
