//! Packs the VM's files as a "newc" cpio archive, the format that the kernel
//! unpacks as its first root (Documentation/driver-api/early-userspace/buffer-format.rst).

use anyhow::{Context as _, Result, bail};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;
const LINK: u32 = 0o120_777;
const FILE: u32 = 0o100_644;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An archive under construction.
pub(crate) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    pub(crate) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            inode: 0,
        }
    }

    pub(crate) fn directory(&mut self, path: &str) -> Result<()> {
        self.entry(path, DIRECTORY, (0, 0), &[])
    }

    pub(crate) fn character_device(&mut self, path: &str, number: (u32, u32)) -> Result<()> {
        self.entry(path, CHARACTER_DEVICE, number, &[])
    }

    pub(crate) fn symlink(&mut self, path: &str, to: &str) -> Result<()> {
        self.entry(path, LINK, (0, 0), to.as_bytes())
    }

    pub(crate) fn text(&mut self, path: &str, text: &str) -> Result<()> {
        self.entry(path, FILE, (0, 0), text.as_bytes())
    }

    pub(crate) fn program(&mut self, path: &str, from: &Path) -> Result<()> {
        let bytes =
            std::fs::read(from).with_context(|| format!("failed to read {}", from.display()))?;
        self.entry(path, EXECUTABLE, (0, 0), &bytes)
    }

    /// Adds a file with its permissions.
    pub(crate) fn file(&mut self, path: &str, from: &Path) -> Result<()> {
        let failed = || format!("failed to read {}", from.display());
        let bytes = std::fs::read(from).with_context(failed)?;
        let mode = std::fs::metadata(from).with_context(failed)?.mode();
        self.entry(path, FILE & !0o777 | mode & 0o777, (0, 0), &bytes)
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), data: &[u8]) -> Result<()> {
        let Ok(size) = u32::try_from(data.len()) else {
            bail!("{path} is too large for a cpio archive");
        };
        let name_size = u32::try_from(path.len() + 1).context("a path is too long")?;
        self.inode += 1;
        let fields = [
            self.inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0,
        ];
        self.bytes.write_all(b"070701")?;
        for field in fields {
            write!(self.bytes, "{field:08x}")?;
        }
        self.bytes.write_all(path.as_bytes())?;
        self.bytes.push(0);
        self.align();
        self.bytes.write_all(data)?;
        self.align();
        Ok(())
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub(crate) fn write_to(mut self, file: &Path) -> Result<()> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        std::fs::write(file, self.bytes)
            .with_context(|| format!("failed to write {}", file.display()))
    }
}
