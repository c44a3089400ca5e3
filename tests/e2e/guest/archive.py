"""Writes a layer to its output: `archive.py everything`, or `base`, `middle` and `top`, which belong together."""

import io
import os
import sys
import tarfile

XATTR = "SCHILY.xattr."
ACL = bytes.fromhex("02000000" "01000700ffffffff" "02000500e8030000" "04000500ffffffff" "10000500ffffffff" "20000000ffffffff")
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")

out = tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.PAX_FORMAT, errors="surrogateescape")


def add(name, kind=tarfile.REGTYPE, content=b"", mode=0o644, uid=0, gid=0, mtime="1700000000", xattrs={}, **fields):
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.uid, member.gid = kind, mode, uid, gid
    member.size = len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    member.pax_headers = {"mtime": mtime}
    for key, value in xattrs.items():
        member.pax_headers[XATTR + key] = value.decode("utf-8", "surrogateescape")
    out.addfile(member, io.BytesIO(content))


def noise(length):
    return bytes((i * i >> 7) & 255 for i in range(length))



def everything():
    add(".", tarfile.DIRTYPE, mode=0o751, uid=1, gid=2, mtime="1600000000.000000001")
    for size in (0, 1, 4095, 4096, 4097, 65536, 1234567):
        add("sizes/%d" % size, content=noise(size), mtime="1700000000.%09d" % size)
    add("sizes", tarfile.DIRTYPE, mode=0o755)
    add("zeros", content=bytes(3 << 20))
    add("su", content=b"su", mode=0o4755)
    add("sg", content=b"sg", mode=0o2755)
    add("sticky", tarfile.DIRTYPE, mode=0o1777)
    add("owner", content=b"x", uid=4000000000, gid=70000, mtime="4000000000.5")
    add("ancient", content=b"x", mtime="-5.25")
    add("char", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666)
    add("block", tarfile.BLKTYPE, devmajor=4095, devminor=1048575, mode=0o600)
    add("fifo", tarfile.FIFOTYPE, mode=0o600)
    for length in (1, 60, 3900, 4095):
        add("link-%d" % length, tarfile.SYMTYPE, linkname="t" * length, mode=0o777)
    add("hard-1", tarfile.LNKTYPE, linkname="su")
    add("hard-2", tarfile.LNKTYPE, linkname="./hard-1")
    for length in (100, 200, 255):
        add("n" * length, content=b"long")
    add("d" * 255, tarfile.DIRTYPE, mode=0o755)
    add("d" * 255 + "/" + "e" * 255, content=b"deep")
    add(os.fsdecode(b"not \xff UTF-8 \x01"), content=b"odd")
    add("xattrs", content=b"x", xattrs={"user.a": b"1", "trusted.b": noise(2000) + b"1", "security.capability": CAPABILITY})
    add("large", content=b"x", xattrs={"user.large-%d" % i: b"%d" % i * 1500 for i in range(1, 6)})
    add("acl", content=b"x", mode=0o750, xattrs={"system.posix_acl_access": ACL})
    add("acl-default", tarfile.DIRTYPE, mode=0o755, xattrs={"system.posix_acl_default": ACL})
    for index in range(20):
        add("label-%d" % index, content=b"x", xattrs={"security.shared": b"s" * 300, "user.own": b"%d" % index})
    add("many", tarfile.DIRTYPE, mode=0o755)
    for index in range(3000):
        add("many/file with a name %05d" % (index * 7919 % 100003), content=b"%d" % index if index % 9 == 0 else b"")


def directory(name, mode=0o755, **fields):
    add(name, tarfile.DIRTYPE, mode=mode, **fields)


def base():
    directory(".", 0o751, uid=7)
    for name in ("etc", "var", "var/cache", "var/cache/old", "opt", "opt/tree", "tmp", "both", "both/deep"):
        directory(name, xattrs={"user.of": b"base"})
    add("etc/passwd", content=noise(10000))
    add("etc/shadow", content=b"secret")
    add("var/cache/old/file", content=b"old")
    add("opt/tree/file", content=b"hidden")
    add("both/lower", content=b"lower")
    add("both/deep/lower", content=b"lower", xattrs={"user.of": b"base"})
    add("was-file", content=b"file")
    directory("was-directory")
    add("was-directory/file", content=b"file")
    add("one", content=b"one and two")
    add("two", tarfile.LNKTYPE, linkname="one")
    add("link", tarfile.SYMTYPE, linkname="etc/passwd", mode=0o777)
    for index in range(500):
        add("tmp/%d" % index, content=b"%d" % index)


def middle():
    directory("etc", 0o750, uid=5, mtime="1700000001.5")
    add("etc/.wh.shadow")
    add("etc/passwd", content=noise(20000), mode=0o600)
    directory("var")
    directory("var/cache", 0o700)
    add("var/cache/.wh..wh..opq")
    add("var/cache/new", content=b"new")
    add(".wh.opt")
    directory("both", xattrs={"user.of": b"middle"})
    add("both/upper", content=b"upper")
    directory("was-file")
    add("was-file/file", content=b"in it")
    add("was-directory", content=b"a file")
    directory("tmp", 0o1777)
    for index in range(0, 500, 2):
        add("tmp/.wh.%d" % index)


def top():
    directory(".", 0o751, uid=7)
    directory("opt")
    add("opt/again", content=b"again")
    directory("both")
    directory("both/deep", 0o711)
    add("both/deep/.wh.lower")
    add("both/deep/upper", content=b"upper")
    add("fifo", tarfile.FIFOTYPE)


{"everything": everything, "base": base, "middle": middle, "top": top}[sys.argv[1]]()
out.close()
