"""Lists everything of a tree as lines that can be compared: `listing.py tree DIRECTORY` looks at files, `listing.py tar
ARCHIVE` at what an archive says of them."""

import hashlib
import os
import stat
import sys


def line(path, mode, uid, gid, mtime, links, detail, xattrs):
    xattrs = "".join(" %s=%s" % (name, value.hex()) for name, value in sorted(xattrs.items()))
    shown = path.encode("utf-8", "surrogateescape").hex() if not path.isascii() else path
    return "%s %o %d:%d %d.%09d %s %s%s" % (
        shown, mode, uid, gid, mtime // 10**9, mtime % 10**9, links, detail, xattrs)


def of_tree(root):
    for directory, directories, files in os.walk(root):
        for name in [""] * (directory == root) + directories + files:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            kind = stat.S_IFMT(status.st_mode)
            detail, links = "", status.st_nlink
            if kind == stat.S_IFREG:
                with open(path, "rb") as file:
                    detail = hashlib.sha256(file.read()).hexdigest()[:16]
            elif kind == stat.S_IFLNK:
                detail = os.readlink(path)
            elif kind in (stat.S_IFCHR, stat.S_IFBLK):
                detail = "%d:%d" % (os.major(status.st_rdev), os.minor(status.st_rdev))
            else:
                links = "-"
            xattrs = {name: os.getxattr(path, name, follow_symlinks=False)
                      for name in os.listxattr(path, follow_symlinks=False)}
            relative = os.path.relpath(path, root)
            yield line(relative, status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, links, detail, xattrs)


def of_tar(archive):
    import decimal
    import tarfile

    types = {tarfile.REGTYPE: stat.S_IFREG, tarfile.SYMTYPE: stat.S_IFLNK, tarfile.DIRTYPE: stat.S_IFDIR,
             tarfile.CHRTYPE: stat.S_IFCHR, tarfile.BLKTYPE: stat.S_IFBLK, tarfile.FIFOTYPE: stat.S_IFIFO}
    names, found = {}, {}
    with tarfile.open(archive, errors="surrogateescape") as tar:
        for member in tar:
            path = os.path.normpath(member.name)
            names[path] = os.path.normpath(member.linkname) if member.islnk() else path
            names[path] = names.get(names[path], names[path])
            if member.islnk():
                continue
            detail = ""
            if member.isreg():
                detail = hashlib.sha256(tar.extractfile(member).read()).hexdigest()[:16]
            elif member.issym():
                detail = member.linkname
            elif member.isdev() and not member.isfifo():
                detail = "%d:%d" % (member.devmajor, member.devminor)
            prefix = "SCHILY.xattr."
            xattrs = {name[len(prefix):]: value.encode("utf-8", "surrogateescape")
                      for name, value in member.pax_headers.items() if name.startswith(prefix)}
            time = member.pax_headers.get("mtime", str(int(member.mtime)))
            time = int(decimal.Decimal(time) * 10**9)
            kind = stat.S_IFREG if member.isreg() else types[member.type]
            found[path] = (kind | member.mode, member.uid, member.gid, time, detail, xattrs)
    for path, of in names.items():
        mode, uid, gid, time, detail, xattrs = found[of]
        links = sum(1 for other in names.values() if other == of)
        counted = stat.S_IFMT(mode) not in (stat.S_IFDIR, stat.S_IFIFO)
        yield line(path, mode, uid, gid, time, links if counted else "-", detail, xattrs)


if __name__ == "__main__":
    lines = of_tree(sys.argv[2]) if sys.argv[1] == "tree" else of_tar(sys.argv[2])
    print("\n".join(sorted(lines)))
