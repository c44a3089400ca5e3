//! Serving whole trees.

use std::io::{Read, Write};
use std::path::Path;

use files::{TreePolicy, TreeSink, TreeWriter};
use protocol::{FileReply, FileRequest, FrameError, FrameReader, FrameWriter, MAX_DATA, TreeNode};

use super::{Service, Trouble, failure};

/// A guest's root may have everything in its own files.
const POLICY: TreePolicy = TreePolicy {
    owners: true,
    special: true,
};

/// Sends a tree as replies.
struct Replies<'w, W>(&'w mut FrameWriter<W>);

impl<W: Write> TreeSink for Replies<'_, W> {
    type Error = Trouble;

    fn node(&mut self, node: TreeNode) -> Result<(), Trouble> {
        Ok(self.0.write(&FileReply::Node(node))?)
    }

    fn data(&mut self, data: &[u8]) -> Result<(), Trouble> {
        Ok(self.0.write(&FileReply::Data(data))?)
    }

    fn hole(&mut self, length: u64) -> Result<(), Trouble> {
        Ok(self.0.write(&FileReply::Hole(length))?)
    }
}

impl Service<'_> {
    pub(super) fn read_tree(&mut self, path: &Path) -> Result<(), Trouble> {
        let mut replies = Replies(&mut self.writer);
        self.files.read_tree(path, &mut replies)
    }

    /// Answers as soon as the outcome is known: a client that sends much hears at once that it is in vain. What it has
    /// still under way is dropped.
    pub(super) fn write_tree(&mut self, path: &Path) -> Result<(), Trouble> {
        let mut is_over = false;
        let reply = match self.take_tree(path, &mut is_over) {
            Ok(()) => FileReply::Done,
            Err(Trouble::Files(error)) => FileReply::Failed(failure(error)),
            Err(trouble) => return Err(trouble),
        };
        self.writer.write(&reply)?;
        while !is_over {
            is_over = matches!(next(&mut self.reader)?, FileRequest::End);
        }
        Ok(())
    }

    fn take_tree(&mut self, path: &Path, is_over: &mut bool) -> Result<(), Trouble> {
        let mut writer = TreeWriter::new(self.files, path, POLICY)?;
        loop {
            match next(&mut self.reader)? {
                FileRequest::Node(node) => writer.node(node)?,
                FileRequest::Data(data) => writer.data(data)?,
                FileRequest::Hole(length) => writer.hole(length)?,
                _ => break,
            }
        }
        *is_over = true;
        writer.finish()?;
        Ok(())
    }
}

/// The next part of a tree, or its end.
fn next<R: Read>(reader: &mut FrameReader<R>) -> Result<FileRequest<'_>, Trouble> {
    match reader.read()? {
        Some(FileRequest::Data(data)) if data.len() > MAX_DATA => {
            Err(Trouble::Rule("a part of a file is too long"))
        }
        Some(
            part @ (FileRequest::Node(_)
            | FileRequest::Data(_)
            | FileRequest::Hole(_)
            | FileRequest::End),
        ) => Ok(part),
        Some(_) => Err(Trouble::Rule("a tree is Node, Data, Hole and End")),
        None => Err(FrameError::Truncated.into()),
    }
}
