#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Fill a directory with varied, reproducible content, or describe one as JSON.

  tree.py populate DIR [--bulk N] [--big MB] [--jdata]   write the tree (as root, xattrs and ACLs included)
  tree.py dirty DIR STEP                                 the steps of make-dirty-image (1: durable, 2: after)
  tree.py manifest DIR [KEY=TEXT...] > manifest.json     describe a tree
  tree.py check DIR manifest.json                        compare a tree with a manifest (exit 1 on differences)
"""
import ctypes, fcntl, hashlib, json, os, re, stat, struct, sys, time

GETFLAGS, SETFLAGS, JDATA = 0x80086601, 0x40086602, 0x4000
FLAGS = {0x10: "immutable", 0x20: "append", 0x80: "noatime", 0x8: "sync", 0x4000: "jdata", 0x1000: "index"}
BULK = 1000


def block(name, i, n=4096):
    """One 4 KiB piece of a generated file: says whose it is, compresses well."""
    head = ("%s #%d %s\n" % (name, i, hashlib.sha256(("%s/%d" % (name, i)).encode()).hexdigest())).encode()
    return (head + bytes([33 + i % 90]) * n)[:n]


def content(name, size):
    return b"".join(block(name, i) for i in range((size + 4095) // 4096))[:size]


def put(path, size, name=None, mode=0o644, fsync=False):
    with open(path, "wb") as f:
        f.write(content(name or os.path.basename(path), size))
        f.flush()
        os.fchmod(f.fileno(), mode)
        if fsync:
            os.fsync(f.fileno())


def acl(entries):
    """system.posix_acl_* value from [(tag, perm, id)]"""
    v = struct.pack("<I", 2)
    for tag, perm, i in sorted(entries, key=lambda e: (e[0], e[2])):
        v += struct.pack("<HHI", tag, perm, i)
    return v


UO, U, GO, G, M, O, NOID = 1, 2, 4, 8, 16, 32, 0xFFFFFFFF


def set_jdata(path):
    fd = os.open(path, os.O_RDONLY)
    b = bytearray(8)
    fcntl.ioctl(fd, GETFLAGS, b)
    v = struct.unpack("<Q", b)[0] | JDATA
    fcntl.ioctl(fd, SETFLAGS, struct.pack("<Q", v))
    os.close(fd)


def populate(d, bulk=3000, big=8, jdata=False):
    j = lambda *a: os.path.join(d, *a)
    os.mkdir(j("files"))
    for n in (0, 1, 100, 790, 791, 792, 3000, 3863, 3864, 3865, 4095, 4096, 4097, 100000, 1 << 20, (2 << 20) + 17):
        put(j("files", "size-%d" % n), n)
    put(j("files", "height2-%dM" % big), big << 20)
    # multi-height by holes alone
    for name, offs, size in (("sparse-200M", (0, 1 << 20, 150 << 20), 200 << 20), ("sparse-6G", (12345, 5 << 30), 6 << 30), ("hole-only", (), 10 << 20), ("sparse-end", ((64 << 20) - 4096,), 64 << 20)):
        with open(j("files", name), "wb") as f:
            for i, o in enumerate(offs):
                f.seek(o)
                f.write(block(name, i))
            f.truncate(size)
    with open(j("files", "fallocated"), "wb") as f:
        try:
            os.posix_fallocate(f.fileno(), 0, 3 << 20)
        except OSError:
            f.truncate(3 << 20)
        f.seek(1 << 20)
        f.write(block("fallocated", 0))
    put(j("files", "unstuffed-then-truncated"), 100000)
    os.truncate(j("files", "unstuffed-then-truncated"), 10)
    put(j("files", "punched"), 64 * 4096)
    with open(j("files", "punched"), "r+b") as f:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
        libc.fallocate(f.fileno(), 3, 8 * 4096, 16 * 4096)
    os.mkdir(j("names"))
    for n in (1, 100, 254, 255):
        put(j("names", "n" * n), 10, "n%d" % n)
    for s in ("space in name", "tab\tname", "new\nline", "ümläut-\u65e5\u672c\u8a9e", "-dash", "back\\slash", "quote'\"", ".hidden"):
        put(j("names", s), 20)
    put(os.path.join(os.fsencode(d), b"names", b"not-utf8-\xff\xfe"), 20, "not-utf8")
    os.mkdir(j("links"))
    put(j("links", "target"), 5000)
    for i in range(5):
        os.link(j("links", "target"), j("links", "hard-%d" % i))
    os.link(j("links", "target"), j("names", "hard-elsewhere"))
    os.symlink("target", j("links", "sym"))
    os.symlink("../no/such/thing", j("links", "dangling"))
    if os.statvfs(d).f_bsize >= 4096:  # targets live in the dinode block
        os.symlink("l/" * 1000 + "end", j("links", "sym-2003"))
        os.symlink("x" * 3000, j("links", "sym-3000"))
    os.symlink("y" * 600, j("links", "sym-600"))
    os.mkdir(j("special"))
    os.mkfifo(j("special", "fifo"), 0o640)
    os.mknod(j("special", "chr-1-3"), 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(j("special", "chr-300-70000"), 0o600 | stat.S_IFCHR, os.makedev(300, 70000))
    os.mknod(j("special", "blk-7-200"), 0o660 | stat.S_IFBLK, os.makedev(7, 200))
    os.mknod(j("special", "sock"), 0o755 | stat.S_IFSOCK)
    os.mkdir(j("modes"))
    for m in (0, 0o400, 0o644, 0o755, 0o4755, 0o2755, 0o1777, 0o7777):
        put(j("modes", "%04o" % m), 8)
        os.chown(j("modes", "%04o" % m), 1000, 1001)
        os.chmod(j("modes", "%04o" % m), m)
    os.mkdir(j("modes", "setgid-dir"))
    os.chown(j("modes", "setgid-dir"), 1000, 50)
    os.chmod(j("modes", "setgid-dir"), 0o2775)
    put(j("modes", "setgid-dir", "inherits-group"), 1)
    put(j("modes", "big-ids"), 1)
    os.chown(j("modes", "big-ids"), 4000000000, 3000000000)
    os.mkdir(j("xattrs"))
    for name, attrs in (("small", {"user.a": b"1", "trusted.t": b"two", "user.empty": b"", "security.test": b"\0\1\2"}),
                        ("many", {"user.attr-%03d" % i: b"v" * (i % 90) for i in range(150)}),
                        ("unstuffed", {"user.big": content("ea", 60000)}), ("limit", {"user.max": content("max", 65536)}),
                        ("mixed", {"user.s": b"small", "user.m": content("m", 3000), "user.l": content("l", 20000), "user." + "n" * 240: b"long name"}),
                        ("removed", {"user.k%d" % i: b"x" * 200 for i in range(30)}), ("replaced", {"user.r": content("r", 9000)})):
        put(j("xattrs", name), 100)
        for k, v in attrs.items():
            os.setxattr(j("xattrs", name), k, v)
    for i in range(0, 30, 2):
        os.removexattr(j("xattrs", "removed"), "user.k%d" % i)
    os.setxattr(j("xattrs", "replaced"), "user.r", b"short now")
    os.mkdir(j("xattrs", "dir"))
    os.setxattr(j("xattrs", "dir"), "user.on-dir", b"d")
    os.mkdir(j("acls"))
    put(j("acls", "file"), 10)
    os.setxattr(j("acls", "file"), "system.posix_acl_access", acl([(UO, 6, NOID), (U, 4, 1000), (U, 6, 1001), (GO, 4, NOID), (G, 7, 50), (M, 7, NOID), (O, 0, NOID)]))
    os.mkdir(j("acls", "dir"))
    os.setxattr(j("acls", "dir"), "system.posix_acl_default", acl([(UO, 7, NOID), (U, 5, 1000), (GO, 5, NOID), (M, 7, NOID), (O, 0, NOID)]))
    put(j("acls", "dir", "inherits"), 10)
    os.mkdir(j("acls", "dir", "inherits-too"))
    put(j("acls", "large"), 10)
    os.setxattr(j("acls", "large"), "system.posix_acl_access", acl([(UO, 6, NOID), (GO, 4, NOID), (M, 7, NOID), (O, 4, NOID)] + [(U, i % 8, 2000 + i) for i in range(60 if os.statvfs(d).f_bsize < 4096 else 290)]))
    # directories: stuffed, just past stuffed, extendible hash
    for n in (3, 40, 150, bulk):
        os.mkdir(j("dir-%d" % n))
        for i in range(n):
            p = j("dir-%d" % n, "entry-%06d%s" % (i, "-" + "p" * (i % 50) if n == bulk else ""))
            with open(p, "wb") if i % 10 == 0 else open(p, "wb") as f:
                if i % 10 == 0:
                    f.write(os.path.basename(p).encode())
    # an exhash directory emptied again, and one with holes in its hash chain
    os.mkdir(j("dir-shrunk"))
    for i in range(800):
        os.symlink("v", j("dir-shrunk", "gone-%d" % i))
    for i in range(797):
        os.unlink(j("dir-shrunk", "gone-%d" % i))
    p = j("deep")
    os.mkdir(p)
    for i in range(60):
        p = os.path.join(p, "level-%d" % i)
        os.mkdir(p)
    put(os.path.join(p, "bottom"), 77)
    os.mkdir(j("owned"))
    for u in (1000, 1001):
        put(j("owned", "by-%d" % u), 300000 * (u - 999))
        os.chown(j("owned", "by-%d" % u), u, u)
    if jdata:
        os.mkdir(j("jdata"))
        for n in (10, 5000, 300000):
            p = j("jdata", "j-%d" % n)
            open(p, "wb").close()
            set_jdata(p)
            put2(p, n)
        os.mkdir(j("jdata", "inherit"))
        set_jdata(j("jdata", "inherit"))
        put(j("jdata", "inherit", "file"), 20000)
        # blocks that look like GFS2 metadata must be escaped in the journal
        p = j("jdata", "looks-like-metadata")
        open(p, "wb").close()
        set_jdata(p)
        with open(p, "r+b") as f:
            for i in range(8):
                f.write(struct.pack(">II", 0x01161970, i + 1) + b"E" * 4088)
    t = 1600000000
    for base, dirs, files in os.walk(d, topdown=False):
        for n in sorted(files):
            t += 1
            os.utime(os.path.join(base, n), ns=(t * 10**9 + 123456789, t * 10**9 + 987654321), follow_symlinks=False)


def put2(p, n):
    with open(p, "r+b") as f:
        f.write(content(os.path.basename(p), n))


def dirty(d, step):
    j = lambda *a: os.path.join(d, *a)
    node = os.environ.get("NODE", "1")
    if step == "1":
        os.mkdir(j("durable-" + node))
        b = j("durable-" + node)
        for i in range(200):
            put(os.path.join(b, "f-%03d" % i), 500 * i, "durable %s %d" % (node, i), fsync=i % 20 == 0)
        time.sleep(2)  # the log daemon commits (mount with commit=1)
        for i in range(0, 200, 4):
            os.unlink(os.path.join(b, "f-%03d" % i))  # revokes and freed blocks
        for i in range(0, 40):
            put(os.path.join(b, "g-%03d" % i), 7000, "reuse %s %d" % (node, i))
        for i in range(6):
            put(os.path.join(b, "tall-%d" % i), (3 << 20) + i, "tall %s %d" % (node, i))  # with indirect blocks
        os.mkdir(os.path.join(b, "was-hashed"))
        for i in range(600):
            os.symlink("to-%d" % i, os.path.join(b, "was-hashed", "s-%04d" % i))
        time.sleep(2)
        for i in range(3):  # freed metadata that was committed: revokes
            os.unlink(os.path.join(b, "tall-%d" % i))
        os.truncate(os.path.join(b, "tall-3"), 5000)
        for i in range(600):
            os.unlink(os.path.join(b, "was-hashed", "s-%04d" % i))
        os.rmdir(os.path.join(b, "was-hashed"))
        time.sleep(2)
        if os.environ.get("MIDSYNC"):
            os.sync()  # writes metadata in place, so that the journal gets revokes
        for i in range(1, 200, 4):
            os.setxattr(os.path.join(b, "f-%03d" % i), "user.n", content("xattr%d" % i, 10 * i))
        for i in range(2, 200, 4):
            os.rename(os.path.join(b, "f-%03d" % i), os.path.join(b, "renamed-%03d" % i))
        os.mkdir(os.path.join(b, "many"))
        for i in range(400):
            os.symlink("to-%d" % i, os.path.join(b, "many", "s-%04d" % i))
        p = os.path.join(b, "jdata")
        open(p, "wb").close()
        set_jdata(p)
        with open(p, "r+b") as f:
            for i in range(12):
                f.write((struct.pack(">II", 0x01161970, 1 + i % 9) if i % 3 == 0 else b"ordinary") + block("jdata", i, 4088))
        time.sleep(3)
    else:
        b = j("after-" + node)
        os.mkdir(b)
        for i in range(50):
            put(os.path.join(b, "late-%d" % i), 1000 * i)
        for i in range(1, 20, 4):
            os.unlink(j("durable-" + node, "f-%03d" % i))


def acl_text(v):
    names = {1: "user:", 2: "user:%d", 4: "group:", 8: "group:%d", 16: "mask:", 32: "other:"}
    out = []
    for o in range(4, len(v), 8):
        tag, perm, i = struct.unpack_from("<HHI", v, o)
        n = names[tag]
        out.append((n % i if "%" in n else n) + ":" + "".join(c if perm & b else "-" for c, b in zip("rwx", (4, 2, 1))))
    return out


def name_of(raw):
    """JSON-safe path: percent-encoded where it is not plain text"""
    try:
        s = raw.decode()
        if s.isprintable() and "%" not in s:
            return s
    except UnicodeDecodeError:
        pass
    return "".join(chr(c) if 32 <= c < 127 and c != 37 else "%%%02X" % c for c in raw)


def sha_and_map(p, size):
    h = hashlib.sha256()
    fd = os.open(p, os.O_RDONLY)
    zeros = bytes(1 << 20)
    pos, data = 0, []
    while pos < size:
        try:
            a = os.lseek(fd, pos, os.SEEK_DATA)
            e = os.lseek(fd, a, os.SEEK_HOLE)
        except OSError:
            a = e = size
        while pos < a:
            n = min(a - pos, 1 << 20)
            h.update(zeros[:n])
            pos += n
        if e > a:
            data.append([a, e])
        while pos < e:
            b = os.pread(fd, min(e - pos, 1 << 20), pos)
            if not b:
                raise OSError("short read of %r at %d" % (p, pos))
            h.update(b)
            pos += len(b)
    flags = []
    try:
        b = bytearray(8)
        fcntl.ioctl(fd, GETFLAGS, b)
        v = struct.unpack("<Q", b)[0]
        flags = [n for f, n in sorted(FLAGS.items()) if v & f and n != "index"]
    except OSError:
        pass
    os.close(fd)
    return h.hexdigest(), data, flags


def entry(p, rel):
    st = os.lstat(p)
    kind = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket", stat.S_IFCHR: "char", stat.S_IFBLK: "block"}[stat.S_IFMT(st.st_mode)]
    e = {"path": name_of(rel), "type": kind, "ino": st.st_ino, "mode": "%04o" % stat.S_IMODE(st.st_mode), "uid": st.st_uid, "gid": st.st_gid, "nlink": st.st_nlink, "size": st.st_size, "blocks": st.st_blocks, "mtime_ns": st.st_mtime_ns}
    if kind == "file":
        e["sha256"], data, fl = sha_and_map(p, st.st_size)
        if data != ([[0, st.st_size]] if st.st_size else []):
            e["data"] = data
        if fl:
            e["flags"] = fl
    if kind == "symlink":
        e["target"] = name_of(os.readlink(p))
    if kind in ("char", "block"):
        e["rdev"] = [os.major(st.st_rdev), os.minor(st.st_rdev)]
        # Linux 6.1 stores di_major/di_minor but reports 0:0 once the inode is looked up afresh;
        # the names of the generated nodes tell what is on the disk.
        m = re.search(rb"(?:chr|blk)-(\d+)-(\d+)$", rel)
        if st.st_rdev == 0 and m:
            e["rdev"], e["rdev_by_kernel"] = [int(m[1]), int(m[2])], [0, 0]
    try:
        names = sorted(os.listxattr(p, follow_symlinks=False))
    except OSError:
        names = []
    for n in names:
        v = os.getxattr(p, n, follow_symlinks=False)
        if n == "system.posix_acl_access":
            e["acl"] = acl_text(v)
        elif n == "system.posix_acl_default":
            e["default_acl"] = acl_text(v)
        else:
            e.setdefault("xattrs", {})[name_of(os.fsencode(n))] = {"hex": v.hex()} if len(v) <= 32 else {"size": len(v), "sha256": hashlib.sha256(v).hexdigest()}
    return e


def manifest(d, extra):
    d = os.fsencode(d).rstrip(b"/")
    out = []

    def walk(p, rel):
        e = entry(p, rel)
        out.append(e)
        if e["type"] != "dir":
            return
        names = sorted(os.listdir(p))
        e["entries"] = len(names)
        if len(names) > BULK:
            h, c = hashlib.sha256(), hashlib.sha256()
            for n in names:
                h.update(n + b"\n")
                with open(os.path.join(p, n), "rb") as f:
                    c.update(n + b"\0" + hashlib.sha256(f.read()).hexdigest().encode() + b"\n")
            e["bulk"] = {"first": name_of(names[0]), "last": name_of(names[-1]), "names_sha256": h.hexdigest(), "content_sha256": c.hexdigest()}
            return
        for n in names:
            walk(os.path.join(p, n), rel + b"/" + n if rel != b"/" else b"/" + n)

    walk(d, b"/")
    sv = os.statvfs(d)
    head = {"statfs": {"bsize": sv.f_bsize, "blocks": sv.f_blocks, "bfree": sv.f_bfree, "files": sv.f_files, "ffree": sv.f_ffree}}
    for kv in extra:
        k, v = kv.split("=", 1)
        head[k] = v
    return head, out


def dump(head, out):
    print("{")
    for k, v in head.items():
        print(" %s: %s," % (json.dumps(k), json.dumps(v)))
    print(' "entries": [')
    print(",\n".join("  " + json.dumps(e) for e in out))
    print(" ]\n}")


def main():
    cmd, d, rest = sys.argv[1], sys.argv[2], sys.argv[3:]
    if cmd == "populate":
        kw = {"jdata": "--jdata" in rest}
        for k in ("bulk", "big"):
            if "--" + k in rest:
                kw[k] = int(rest[rest.index("--" + k) + 1])
        populate(d, **kw)
    elif cmd == "dirty":
        dirty(d, rest[0])
    elif cmd == "manifest":
        dump(*manifest(d, rest))
    elif cmd == "check":
        want = json.load(open(rest[0]))["entries"]
        have = {e["path"]: e for e in manifest(d, [])[1]}
        skip = set(rest[1:]) | {"blocks", "data", "rdev_by_kernel"}
        bad = 0
        for w in want:
            h = have.pop(w["path"], None)
            diff = ["missing"] if h is None else ["%s: want %r, have %r" % (k, w.get(k), h.get(k)) for k in sorted(set(w) | set(h)) if k not in skip and w.get(k) != h.get(k) and not (w["path"] == "/" and k == "mtime_ns")]
            for x in diff:
                bad += 1
                print("%s: %s" % (w["path"], x))
        for p in have:
            bad += 1
            print("%s: not in the manifest" % p)
        print("%d entries compared, %d differences" % (len(want), bad))
        sys.exit(bad > 0)


if __name__ == "__main__":
    main()
