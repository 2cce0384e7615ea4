"""What is sent: raw bytes, and what an application may see of them.

`HOST` stands for the tenant's host, `BARE` for the server's own, `ME` and `OTHER` for the names of the tenant and of its
neighbour, `/N` begins with the number of the case. A case is a name, bytes, and what the tenant's application sees: (method,
target, body) for each request; nothing, if the request must be refused; `None`, if it may be refused or served, but once at
most; a tuple of such a list, if the neighbour's application sees it, because it is the one who is meant. Each is sent twice,
once for each tenant, with another request directly behind it, which is served unless the connection has ended.
"""



class Refusable(list):
    """What an application sees, unless it refuses such a request by itself, as nginx does some."""


GET = b"GET /N HTTP/1.1\r\nHost: HOST\r\n\r\n"
SMUGGLED = b"GET /N-smuggled HTTP/1.1\r\nHost: HOST\r\n\r\n"
SEEN = ("GET", "/N", b"")


def post(fields, body=b"", target=b"/N", version=b"HTTP/1.1"):
    return b"POST " + target + b" " + version + b"\r\nHost: HOST\r\n" + fields + b"\r\n" + body


def get(fields, target=b"/N", host=b"Host: HOST\r\n"):
    return b"GET " + target + b" HTTP/1.1\r\n" + host + fields + b"\r\n"


def chunked(body, coding=b"chunked"):
    return post(b"Transfer-Encoding: " + coding + b"\r\n", body)


HELLO = ("POST", "/N", b"hello")
FIVE = b"5\r\nhello\r\n0\r\n\r\n"

# Bodies and where they end.
FRAMING = [
    ("plain", GET, [SEEN]),
    ("length", post(b"Content-Length: 5\r\n", b"hello"), [HELLO]),
    ("chunks", chunked(FIVE), [HELLO]),
    ("CL.TE", post(b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\nG" + SMUGGLED), None),
    ("TE.CL", post(b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", b"5c\r\n" + SMUGGLED + b"0\r\n\r\n"), None),
    ("CL.TE, as it should be", post(b"Content-Length: 15\r\nTransfer-Encoding: chunked\r\n", FIVE), None),
    ("two lengths", post(b"Content-Length: 5\r\nContent-Length: 6\r\n", b"hello!"), []),
    ("two equal lengths", post(b"Content-Length: 5\r\nContent-Length: 5\r\n", b"hello"), None),
    ("a list of lengths", post(b"Content-Length: 5, 5\r\n", b"hello"), None),
    ("a list of different lengths", post(b"Content-Length: 5, 50\r\n", b"hello" + SMUGGLED), []),
    ("a length with a sign", post(b"Content-Length: +5\r\n", b"hello"), []),
    ("a negative length", post(b"Content-Length: -1\r\n", SMUGGLED), []),
    ("a length in hexadecimal", post(b"Content-Length: 0x5\r\n", b"hello"), []),
    ("a length with a space", post(b"Content-Length: 5 5\r\n", b"hello"), []),
    ("a length that is none", post(b"Content-Length: \r\n", SMUGGLED), []),
    ("a length beyond 64 bits", post(b"Content-Length: 18446744073709551621\r\n", b"hello" + SMUGGLED), []),
    ("a space before the colon", post(b"Content-Length : 5\r\n", b"hello"), []),
    ("coding, space before the colon", post(b"Transfer-Encoding : chunked\r\n", FIVE), []),
    ("coding, vertical tab", chunked(FIVE, b"\x0bchunked"), []),
    ("coding, quoted", chunked(FIVE, b'"chunked"'), []),
    ("coding, misspelt", chunked(FIVE, b"xchunked"), []),
    ("coding, twice", chunked(FIVE, b"chunked, chunked"), []),
    ("coding, identity at the end", chunked(FIVE, b"chunked, identity"), []),
    ("coding, in two fields", post(b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", FIVE), []),
    ("coding, gzip and chunked", chunked(FIVE, b"gzip, chunked"), []),
    ("coding, upper case", chunked(FIVE, b"CHUNKED"), [HELLO]),
    ("coding, folded", post(b"Transfer-Encoding:\r\n chunked\r\n", FIVE), []),
    ("coding, folded and hidden", post(b"Content-Length: 5\r\nX: y\r\n Transfer-Encoding: chunked\r\n", b"hello"), []),
    ("coding, behind a bare CR", post(b"X: y\rTransfer-Encoding: chunked\r\nContent-Length: 5\r\n", b"hello"), []),
    ("coding, behind a bare LF", post(b"X: y\nTransfer-Encoding: chunked\r\n", FIVE), None),
    ("coding in HTTP/1.0", post(b"Transfer-Encoding: chunked\r\n", FIVE, version=b"HTTP/1.0"), []),
    ("coding with an underscore", post(b"Content-Length: 5\r\nTransfer_Encoding: chunked\r\n", b"hello"), [HELLO]),
    ("length with an underscore", post(b"Content-Length: 5\r\nContent_Length: 50\r\n", b"hello"), [HELLO]),
    ("a body of a GET", get(b"Content-Length: 5\r\n") + b"hello", [("GET", "/N", b"hello")]),
    ("a request in a body", post(b"Content-Length: 41\r\n", b"GET /N-smuggled HTTP/1.1\r\nHost: x.test\r\n\r\n"[:41]), None),
]

# Chunks.
CHUNKS = [
    ("trailers, a bare LF", chunked(b"0\r\nX: y\n\r\n" + SMUGGLED + b"DELETE /N-kept#x HTTP/1.1\r\nHost: HOST\r\n\r\n"), None),
    ("an extension", chunked(b"5;a=b\r\nhello\r\n0\r\n\r\n"), [HELLO]),
    ("an extension with a line end", chunked(b"5;a=\"\r\n\"\r\nhello\r\n0\r\n\r\n"), []),
    ("an extension with a bare LF", chunked(b"5;a\nhello\r\n0\r\n\r\n"), []),
    ("a long extension", chunked(b"5;" + b"a" * 20_000 + b"\r\nhello\r\n0\r\n\r\n"), []),
    ("a size with 0x", chunked(b"0x5\r\nhello\r\n0\r\n\r\n"), []),
    ("a size with a sign", chunked(b"+5\r\nhello\r\n0\r\n\r\n"), []),
    ("a negative size", chunked(b"-5\r\nhello\r\n0\r\n\r\n"), []),
    ("a size with zeros ahead", chunked(b"0005\r\nhello\r\n0\r\n\r\n"), [HELLO]),
    ("a size beyond 64 bits", chunked(b"10000000000000005\r\nhello\r\n0\r\n\r\n"), []),
    ("no size", chunked(b"\r\nhello\r\n0\r\n\r\n"), []),
    ("a chunk that is longer than it says", chunked(b"4\r\nhello\r\n0\r\n\r\n"), []),
    ("a chunk that is shorter than it says", chunked(b"6\r\nhello\r\n0\r\n\r\n"), []),
    ("line ends of LF alone", chunked(b"5\nhello\n0\n\n"), []),
    ("trailers", chunked(b"5\r\nhello\r\n0\r\nX-Late: 1\r\n\r\n"), [HELLO]),
    ("trailers that say a length", chunked(b"5\r\nhello\r\n0\r\nContent-Length: 50\r\n\r\n"), [HELLO]),
    ("trailers that are none", chunked(b"5\r\nhello\r\n0\r\n\x00\r\n\r\n"), []),
]

# Lines of a head.
HEADS = [
    ("a folded field", get(b"X-A: b\r\n c\r\n"), []),
    ("NUL in a value", get(b"X-A: b\x00c\r\n"), []),
    ("NUL in a name", get(b"X\x00A: b\r\n"), []),
    ("a bare CR in a value", get(b"X-A: b\rc\r\n"), []),
    ("a bare CR that ends the head", b"GET /N HTTP/1.1\r\nHost: HOST\r\n\rX: y\r\n\r\n", []),
    ("line ends of LF alone", b"GET /N HTTP/1.1\nHost: HOST\n\n", [SEEN]),
    ("a line without a colon", get(b"X-A\r\n"), []),
    ("a field without a name", get(b": b\r\n"), []),
    ("a name with a space", get(b"X A: b\r\n"), []),
    ("a space before the first field", b"GET /N HTTP/1.1\r\n Host: HOST\r\n\r\n", []),
    ("bytes beyond ASCII", get(b"X-A: \xc3\xa4\xff\r\n"), [SEEN]),
    ("a tab in a value", get(b"X-A: b\tc\r\n"), [SEEN]),
    ("two spaces in the first line", b"GET  /N HTTP/1.1\r\nHost: HOST\r\n\r\n", []),
    ("a tab in the first line", b"GET\t/N\tHTTP/1.1\r\nHost: HOST\r\n\r\n", []),
    ("more words in the first line", b"GET /N x HTTP/1.1\r\nHost: HOST\r\n\r\n", []),
    ("no version", b"GET /N\r\nHost: HOST\r\n\r\n", []),
    ("an unknown version", b"GET /N HTTP/1.9\r\nHost: HOST\r\n\r\n", []),
    ("HTTP/2 in words", b"GET /N HTTP/2.0\r\nHost: HOST\r\n\r\n", []),
    ("an empty line ahead", b"\r\n" + GET, [SEEN]),
    ("a method with odd bytes", b"G\xc3T /N HTTP/1.1\r\nHost: HOST\r\n\r\n", []),
    ("a method in lower case", b"get /N HTTP/1.1\r\nHost: HOST\r\n\r\n", None),
    ("too many fields", get(b"".join(b"X-%d: y\r\n" % at for at in range(500))), []),
    ("an upgrade to h2c", get(b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"), [SEEN]),
    ("a connection field that names Host", get(b"Connection: Host\r\n"), [SEEN]),
    ("a connection field that names the length", post(b"Connection: Content-Length\r\nContent-Length: 5\r\n", b"hello"), [HELLO]),
    ("Expect that is none", post(b"Expect: 200-ok\r\nContent-Length: 5\r\n", b"hello"), None),
]

# Who is meant.
HOSTS = [
    ("no Host", b"GET /N HTTP/1.1\r\n\r\n", []),
    ("two Hosts", get(b"Host: OTHER.tunnel.test\r\n"), []),
    ("two equal Hosts", get(b"Host: HOST\r\n"), []),
    ("two Hosts in one", get(b"", host=b"Host: HOST, OTHER.tunnel.test\r\n"), []),
    ("a Host with a user", get(b"", host=b"Host: OTHER.tunnel.test@HOST\r\n"), []),
    ("a Host with a path", get(b"", host=b"Host: HOST/OTHER\r\n"), []),
    ("a Host with a space", get(b"", host=b"Host: HOST OTHER.tunnel.test\r\n"), []),
    ("a Host with NUL", get(b"", host=b"Host: HOST\x00.OTHER.tunnel.test\r\n"), []),
    ("a Host with two ports", get(b"", host=b"Host: HOST:1:2\r\n"), []),
    ("a Host with a port that is none", get(b"", host=b"Host: HOST:OTHER\r\n"), []),
    ("a Host with a percent sign", get(b"", host=b"Host: %61HOST\r\n"), []),
    ("a Host with a backslash", get(b"", host=b"Host: HOST\\OTHER.tunnel.test\r\n"), []),
    ("a Host in upper case", get(b"", host=b"Host: UPPER\r\n"), [SEEN]),
    ("a Host with a final dot", get(b"", host=b"Host: HOST.\r\n"), [SEEN]),
    ("a Host with a port", get(b"", host=b"Host: HOST:80\r\n"), [SEEN]),
    ("a Host that is folded", get(b"", host=b"Host:\r\n HOST\r\n"), []),
    ("a Host with a space before the colon", get(b"", host=b"Host : HOST\r\n"), []),
    ("another host in the target", get(b"", target=b"http://OTHER.tunnel.test/N"), ([SEEN],)),
    ("the same host in the target", get(b"", target=b"http://HOST/N"), [SEEN]),
    ("characters that no URI has", get(b"", target=b'/N<`>"?q="<>"`'), [("GET", '/N%3C%60%3E"?q=%22%3C%3E%22`', b"")]),
    ("bytes that are no UTF-8 in a target", get(b"", target=b"/N\xe9?\xff"), [("GET", "/N%E9?%FF", b"")]),
    ("a space in a target", get(b"", target=b"/N OTHER"), []),
    ("a target of another scheme", get(b"", target=b"ftp://HOST/N"), None),
    ("a target with a user", get(b"", target=b"http://OTHER.tunnel.test@HOST/N"), [SEEN]),
    ("a tunnel id for somebody else", get(b"X-Tunnel-ID: OTHER\r\n"), [SEEN]),
    ("a forwarded host", get(b"X-Forwarded-Host: OTHER.tunnel.test\r\nForwarded: host=OTHER.tunnel.test\r\n"), [SEEN]),
    ("an original URL", get(b"X-Original-URL: /OTHER\r\nX-Rewrite-URL: /OTHER\r\n"), [SEEN]),
]

# Paths on the server's own host, where the first segment is a name. `None` for the sender's own name means that whatever
# is answered, neither application sees anything but what begins with its own name.
BARE_HOST = b"Host: BARE\r\n"
PATHS = [
    ("a path", get(b"", target=b"/ME/N", host=BARE_HOST), [SEEN]),
    ("an escaped name", get(b"", target=b"/%OTHERHEX/N", host=BARE_HOST), []),
    ("two slashes ahead", get(b"", target=b"//ME/N", host=BARE_HOST), []),
    ("dots", get(b"", target=b"/ME/../OTHER/N", host=BARE_HOST), Refusable([("GET", "/../OTHER/N", b"")])),
    ("dots ahead", get(b"", target=b"/../ME/N", host=BARE_HOST), []),
    ("escaped dots", get(b"", target=b"/ME%2f..%2fOTHER/N", host=BARE_HOST), []),
    ("escaped dots behind", get(b"", target=b"/ME/%2e%2e/OTHER/N", host=BARE_HOST), Refusable([("GET", "/%2e%2e/OTHER/N", b"")])),
    ("a parameter", get(b"", target=b"/ME;/OTHER/N", host=BARE_HOST), []),
    ("a backslash", get(b"", target=b"/ME\\OTHER/N", host=BARE_HOST), []),
    ("a fragment", get(b"", target=b"/ME/N#/OTHER", host=BARE_HOST), []),
    ("a query", get(b"", target=b"/ME/N?/../OTHER", host=BARE_HOST), [("GET", "/N?/../OTHER", b"")]),
    ("upper case", get(b"", target=b"/UPNAME/N", host=BARE_HOST), None),
    ("a tunnel id", get(b"X-Tunnel-ID: ME\r\n", host=BARE_HOST), [SEEN]),
    ("two tunnel ids", get(b"X-Tunnel-ID: ME\r\nX-Tunnel-ID: OTHER\r\n", host=BARE_HOST), []),
    ("two tunnel ids in one", get(b"X-Tunnel-ID: ME, OTHER\r\n", host=BARE_HOST), []),
    ("a tunnel id with an underscore", get(b"X_Tunnel_ID: OTHER\r\n", target=b"/ME/N", host=BARE_HOST), [SEEN]),
]

CASES = [(f"{group}: {name}", raw, seen)
         for group, cases in (("framing", FRAMING), ("chunks", CHUNKS), ("heads", HEADS), ("hosts", HOSTS), ("paths", PATHS))
         for name, raw, seen in cases]
