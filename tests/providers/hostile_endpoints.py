"""Endpoints that nobody should post to, by what they try."""

from __future__ import annotations

_LOOPBACK = (
    "localhost", "LOCALHOST", "localhost.", "localhost.localdomain", "a.localhost", "127.0.0.1", "127.0.0.1.",
    "127.1", "127.0.1", "127.00.00.01", "127.000.000.001", "0177.0.0.1", "0177.0000.0000.0001", "017700000001",
    "0x7f.0.0.1", "0x7f000001", "0x7F.0x0.0x0.0x1", "0x7f.1", "2130706433", "4294967295", "0", "0.0.0.0", "00", "0x0",
    "127.127.127.127", "127.0.0.1.nip.io.localhost", "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[0000::1]",
    "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[::127.0.0.1]", "[64:ff9b::127.0.0.1]",
    "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[fe80::1%25eth0]", "[fe80::1%eth0]", "[::1%25lo]",
)  # fmt: skip

_INSIDE = (
    "10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.254", "192.168.0.1", "192.168.1.254", "100.64.0.1",
    "100.100.100.200", "169.254.169.254", "169.254.170.2", "0251.0376.0251.0376", "0xa9.0xfe.0xa9.0xfe", "0xa9fea9fe",
    "2852039166", "169.254.43518", "169.16689662", "425.510.425.510", "192.0.0.192", "198.18.0.1", "224.0.0.1",
    "239.255.255.250", "255.255.255.255", "[fd00::1]", "[fd00:ec2::254]", "[fec0::1]", "[ff02::1]",
    "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "[64:ff9b::169.254.169.254]", "[2002:a9fe:a9fe::]",
    "168.63.129.16", "metadata", "metadata.google.internal", "METADATA.GOOGLE.INTERNAL", "metadata.google.internal.",
    "instance-data", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "router.local",
    "printer.LOCAL", "db.internal", "vault.internal", "intranet", "redis", "host.docker.internal",
    "gateway.docker.internal", "nas.home.arpa", "1.0.0.127.in-addr.arpa", "x.test", "x.invalid", "x.example",
    "x.onion", "x.alt", "8.8.8.8", "1.1.1.1", "134744072", "[2606:4700::1111]", "[2001:4860:4860::8888]",
)  # fmt: skip

_NO_NAMES = (
    "", ".", "..", "com", "a..com", ".push.apple.com", "push.apple.com..", "-a.push.apple.com", "a-.push.apple.com",
    "a" * 64 + ".push.apple.com", "a." * 127 + "com", "push.apple.com:", "push.apple.com:0", "push.apple.com:80",
    "push.apple.com:22", "push.apple.com:8443", "push.apple.com:65536", "push.apple.com:99999999999",
    "push.apple.com:443:443", "push.apple.com:0443", "push.apple.com:+443", "push.apple.com:-443",
    "push.apple.com: 443", "push.apple.com:4 43", "push.apple.com:４４３", "push.apple.com:443a",
    "push.apple.com:443@evil.com", "user@push.apple.com", "user:pass@push.apple.com", "@push.apple.com",
    ":@push.apple.com", "push.apple.com@evil.com", "push.apple.com:443@evil.com:443", "push.apple.com%40evil.com",
    "evil.com%00.push.apple.com", "push%2eapple%2ecom", "%70ush.apple.com", "push.apple.com%20",
    "push.apple.com%2f@evil.com", "push.apple.com\\", "push.apple.com\\.evil.com", "push.apple.com\\@evil.com",
    "evil.com\\@push.apple.com", "evil.com;push.apple.com", "evil.com,push.apple.com", "evil.com push.apple.com",
    "evil.com\tpush.apple.com", "evil.com\npush.apple.com", "evil.com\r\nhost: push.apple.com",
    "push.apple.com\x00.evil.com", "evil.com\x00push.apple.com", "push.apple.com\x7f", "evil.com#push.apple.com",
    "evil.com?push.apple.com", "evil.com&push.apple.com", "(push.apple.com)", "push.apple.com!", "*.push.apple.com",
    "{push.apple.com}", "[push.apple.com]", "[push.apple.com", "push.apple.com]", "'push.apple.com'",
    "push\u3002apple\u3002com", "push\uff0eapple\uff0ecom", "ｐush.apple.com", "pu\u00adsh.apple.com",
    "push\u200b.apple.com", "push.apple.c\u043em", "рush.apple.com", "push.apple.com\u2044evil.com",
    "push.apple.com\u2215evil.com", "push.apple.com\uff0fevil.com", "push.apple.com\uff20evil.com",
    "push.apple.com\u202e", "①②⑦.⓪.⓪.①", "⑯⑨。②⑤④。⑯⑨｡②⑤④", "127｡0｡0｡1", "ⓛocalhost", "ßpush.apple.com",
    "\ufeffpush.apple.com", "push.apple.com\u00a0",
)  # fmt: skip

_WHOLE = (
    "", " ", "https", "https:", "https:/", "https://", "https:///", "https:///push.apple.com/x",
    "https:push.apple.com/x", "https:/push.apple.com/x", "//push.apple.com/x", "/push.apple.com/x",
    "push.apple.com/x", "http://push.apple.com/x", "HTTP://push.apple.com/x", "ftp://push.apple.com/x",
    "file:///etc/passwd", "file://push.apple.com/etc/passwd", "gopher://push.apple.com:443/_x",
    "dict://push.apple.com:443/x", "ldap://push.apple.com/x", "jar:https://push.apple.com/x!/", "data:text/plain,x",
    "javascript:alert(1)", "ws://push.apple.com/x", "wss://push.apple.com/x", "unix:/var/run/docker.sock",
    "https+unix://%2Fvar%2Frun%2Fdocker.sock/x", "httpss://push.apple.com/x", "https ://push.apple.com/x",
    "ｈttps://push.apple.com/x", "https：//push.apple.com/x", "https:\\\\push.apple.com\\x",
    "https:\\/push.apple.com/x", "https://\\push.apple.com/x", " https://push.apple.com/x",
    "\thttps://push.apple.com/x", "\nhttps://push.apple.com/x", "https://push.apple.com/x\n",
    "https://push.apple.com/x ", "https://push.apple.com/x\x00", "https://push.apple.com/x\r",
    "https://push.apple.com/x\r\nx-y: z", "https://push.apple.com/x HTTP/1.1\r\nHost: evil.com",
    "https://push.apple.com/ü", "https://push.apple.com/\u202ex",
    "https://push.apple.com/\ud800".encode("utf-8", "replace").decode() + "\u20ac", "https://push.apple.com/x#y",
    "https://push.apple.com/#", "https://push.apple.com#@evil.com/", "https://push.apple.com?x",
    "https://push.apple.com", "https://push.apple.com/\\evil.com", "https://push.apple.com/x\\",
    "https://push.apple.com/x\t", "https://push.apple.com/" + "x" * 4074, "url:https://push.apple.com/x",
    "<https://push.apple.com/x>", "view-source:https://push.apple.com/x", "https://push.apple.com/x\u0085",
    "https://push.apple.com/x\u2028", "https://push.apple.com /x", "https://https://push.apple.com/x",
)  # fmt: skip

_NOT_LISTED = (
    "evil.com", "evil.com.", "xpush.apple.com", "apple.com", "evilfcm.googleapis.com", "googleapis.com",
    "storage.googleapis.com", "push.apple.com.evil.com", "push-apple.com", "push.apple.com.evil.com.",
    "updates.push.services.mozilla.com.evil.com", "services.mozilla.com", "notify.windows.com.evil.com",
    "xnotify.windows.com", "windows.com", "xn--pple-43d.com", "fcm.googleapis.co", "fcm.googleapis.comx",
    "jmt17.google.com.evil.com", "google.com", "pushXapple.com",
)  # fmt: skip

NEVER = (
    *(f"https://{host}/x" for host in (*_LOOPBACK, *_INSIDE, *_NO_NAMES)),
    *_WHOLE,
)
"""Refused whatever hosts are allowed."""

NOT_LISTED = (
    *(f"https://{host}/x" for host in _NOT_LISTED),
    "https://evil.com/push.apple.com",
    "https://evil.com/https://push.apple.com/x",
    "https://evil.com/?https://push.apple.com/x",
    "https://evil.com/@push.apple.com/x",
    "https://evil.com//push.apple.com/x",
    "https://evil.com/.push.apple.com",
)
"""Of public hosts that are none of the browsers' services: refused unless any of them is allowed."""
