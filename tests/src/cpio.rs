//! Archives that the kernel unpacks as its first root file system: the "newc" format of cpio, see
//! Documentation/driver-api/early-userspace/buffer-format.rst of Linux.

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const SYMLINK: u32 = 0o120_777;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An archive in the making.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a directory.
    #[must_use]
    pub fn directory(self, name: &str) -> Archive {
        self.entry(name, DIRECTORY, (0, 0), b"")
    }

    /// Adds a program.
    #[must_use]
    pub fn program(self, name: &str, contents: &[u8]) -> Archive {
        self.entry(name, PROGRAM, (0, 0), contents)
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(self, name: &str, target: &str) -> Archive {
        self.entry(name, SYMLINK, (0, 0), target.as_bytes())
    }

    /// Adds a character device.
    #[must_use]
    pub fn device(self, name: &str, major: u32, minor: u32) -> Archive {
        self.entry(name, CHARACTER_DEVICE, (major, minor), b"")
    }

    /// The finished archive.
    pub fn finish(self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), b"").bytes
    }

    fn entry(mut self, name: &str, mode: u32, device: (u32, u32), contents: &[u8]) -> Archive {
        self.entries += 1;
        let size = u32::try_from(contents.len()).unwrap();
        let name_size = u32::try_from(name.len() + 1).unwrap();
        // inode, mode, uid, gid, links, mtime, size, device, device of a node, size of the name, check
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            size,
            0,
            0,
            device.0,
            device.1,
            name_size,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
        self
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
